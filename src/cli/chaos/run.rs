//! The rounds: wait for health, strike, heal, wait for health, judge.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::faults::{Fault, Plan};
use super::report::{Row, round_line};
use super::target::{Target, Trouble};
use crate::chaos::Load;

/// Load before the fault, and after full health is back.
const LEAD_IN: Duration = Duration::from_millis(500);
const TAIL: Duration = Duration::from_millis(500);
/// How often it is said what is waited for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What the rounds are like.
pub(super) struct Rounds<'a> {
    pub(super) count: usize,
    pub(super) plan: &'a Plan,
    /// How long a fault that lasts does.
    pub(super) hold: Duration,
    /// Longest wait for full health.
    pub(super) settle: Duration,
}

impl Rounds<'_> {
    /// Runs all rounds. Adds a row for each that got as far as being judged. May be dropped; the target is to be healed
    /// then.
    pub(super) async fn run<T: Target>(
        &self,
        target: &mut T,
        load: &Load,
        rows: &mut Vec<Row>,
    ) -> Result<(), Trouble> {
        let width = (0..self.count).map(|round| self.plan.fault(round).to_string().len()).max().unwrap_or(0);
        for number in 0..self.count {
            let fault = self.plan.fault(number);
            settled(target, self.settle, &mut Progress::new()).await?;
            load.begin(&format!("{}-{fault}", number + 1)).await;
            let (row, trouble) = self.round(target, load, number, fault).await?;
            note!("{}", round_line(&row, self.count, width));
            let is_broken = row.is_broken();
            rows.push(row);
            trouble.map_or(Ok(()), Err)?;
            if is_broken {
                return Err(Trouble("stopped, so that what was found can be looked at".to_owned()));
            }
        }
        Ok(())
    }

    /// One round under load, from the choice of victims to the judgement.
    async fn round<T: Target>(
        &self,
        target: &mut T,
        load: &Load,
        number: usize,
        fault: Fault,
    ) -> Result<(Row, Option<Trouble>), Trouble> {
        sleep(LEAD_IN).await;
        let (members, leader) = settled(target, self.settle, &mut Progress::new()).await?;
        let victims = self.plan.victims(number, &members, &leader);
        let mut progress = Progress::new();
        progress.show(&format!("round {}: {fault} strikes {}", number + 1, victims.join(", ")));
        let struck_at = Instant::now();
        let mut held = None;
        let ended = async {
            target.strike(&fault.kind, &victims).await?;
            if target.lasts(&fault.kind) {
                sleep(self.hold).await;
                target.heal().await?;
                held = Some(struck_at.elapsed());
            }
            settled(target, self.settle, &mut progress).await
        }
        .await;
        let healthy_after = struck_at.elapsed();
        progress.clear();
        if ended.is_ok() {
            sleep(TAIL).await;
        }
        let report = load.end().await;
        let healthy_after = ended.is_ok().then_some(healthy_after);
        let row = Row { number: number + 1, fault, victims, held, healthy_after, report };
        Ok((row, ended.err()))
    }
}

/// Waits for full health: names of the members and of the leader.
pub(super) async fn settled<T: Target>(
    target: &mut T,
    limit: Duration,
    progress: &mut Progress,
) -> Result<(Vec<String>, String), Trouble> {
    let deadline = Instant::now() + limit;
    loop {
        let health = target.look().await?;
        match health.leader {
            Ok(leader) => return Ok((health.members, leader)),
            Err(lacking) if Instant::now() >= deadline => {
                progress.clear();
                let seconds = limit.as_secs();
                return Err(Trouble(format!("no full health within {seconds} s: {lacking}")));
            }
            Err(lacking) => progress.waiting(&lacking),
        }
        sleep(target.look_interval()).await;
    }
}

/// Says on standard error what is going on: on a terminal all the time, else now and then.
pub(super) struct Progress {
    is_terminal: bool,
    since: Instant,
    said: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { is_terminal: std::io::stderr().is_terminal(), since: now, said: now }
    }

    /// Says it on a terminal, until something else is said.
    fn show(&mut self, what: &str) {
        if self.is_terminal {
            note_part!("\r\x1b[2K{what}");
        }
    }

    fn waiting(&mut self, lacking: &str) {
        let line = format!("waiting for full health, {} s: {lacking}", self.since.elapsed().as_secs());
        if self.is_terminal {
            self.show(&line);
        } else if self.said.elapsed() >= PROGRESS_INTERVAL {
            note!("{line}");
            self.said = Instant::now();
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            note_part!("\r\x1b[2K");
        }
    }
}
