//! Rounds of load, from begin to report.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant as Moment, sleep};

use super::keys::{RoundKeys, Speller};
use super::member_client::MemberClient;
use super::pulse::{Pulse, PulseResult};
use super::registers::{self, RegistersResult};
use super::sweep::{self, ReadBack};
use super::tally::Tally;
use super::{FinalReport, LoadSettings, Reach, RoundReport};
use crate::api::client::ClientError;
use crate::kv::Condition;
use crate::sim::checker::Call;
use crate::types::Instant;

/// Pause after a first write that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The settings make no sense.
    #[error("{0}")]
    Settings(&'static str),
    /// Nobody took the first write, for as long as the settings are patient.
    #[error("no member takes writes: {0}")]
    Unreachable(ClientError),
}

/// The clock of one load's histories.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(std::time::Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn now(self) -> Instant {
        Instant::default().after(self.0.elapsed())
    }
}

/// What all parts of a load use.
pub(super) struct Shared {
    pub(super) settings: LoadSettings,
    pub(super) clock: Clock,
    pub(super) speller: Speller,
    /// Keys that were read back or deleted, over all rounds.
    pub(super) swept: Arc<AtomicU64>,
    reach: Arc<dyn Reach>,
    service: Option<Arc<dyn Reach>>,
}

impl Shared {
    /// A client that knows all members, and begins with this one of them.
    pub(super) fn member_client(&self, place: usize) -> MemberClient {
        MemberClient::new(Arc::clone(&self.reach), self.settings.request_timeout, place)
    }
}

/// Load on a cluster, in rounds. There is none between rounds. It must be used on a Tokio runtime; dropping it ends its
/// clients and leaves its keys.
pub struct Load {
    shared: Arc<Shared>,
    state: Mutex<State>,
    reports: StdMutex<Vec<RoundReport>>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Of the rounds that are over.
    keys: Vec<RoundKeys>,
}

/// A round under way.
struct Running {
    number: u64,
    name: String,
    began_at: Instant,
    started_unix_ms: u64,
    end: watch::Sender<Option<Instant>>,
    /// Over all members, then through the Service, if there is one.
    pulses: Vec<JoinHandle<PulseResult>>,
    registers: JoinHandle<RegistersResult>,
}

impl Load {
    /// Waits until a member takes a write. The clients use `reach`; if there is a `service`, another pulse measures the
    /// write gap through that.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub async fn start(
        reach: Arc<dyn Reach>,
        service: Option<Arc<dyn Reach>>,
        settings: LoadSettings,
    ) -> Result<Self, ChaosError> {
        if let Some(fault) = settings.fault() {
            return Err(ChaosError::Settings(fault));
        }
        let speller = Speller::new(&settings.run);
        let clock = Clock::start();
        let shared = Arc::new(Shared { settings, clock, speller, swept: Arc::default(), reach, service });
        let deadline = Moment::now() + shared.settings.patience;
        let mut client = shared.member_client(0);
        let put = Call::Put { value: Bytes::from_static(b"1"), condition: Condition::Always };
        while let Err(error) = client.perform(&shared.speller.first(), &put).await {
            if Moment::now() >= deadline {
                return Err(ChaosError::Unreachable(error));
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(Self { shared, state: Mutex::default(), reports: StdMutex::default() })
    }

    /// Ends the round that runs, if any, and returns its report; then begins a round with keys of its own.
    pub async fn begin(&self, round: &str) -> Option<RoundReport> {
        let mut state = self.state.lock().await;
        let report = self.end_running(&mut state).await;
        let number = state.keys.len() as u64;
        state.running = Some(Running::begin(&self.shared, number, round));
        report
    }

    /// Ends the round that runs: stops its clients, reads its acknowledged keys back, judges what was seen. `None` if no
    /// round runs.
    pub async fn end(&self) -> Option<RoundReport> {
        let mut state = self.state.lock().await;
        self.end_running(&mut state).await
    }

    /// Reports of the rounds that are over.
    #[must_use]
    pub fn reports(&self) -> Vec<RoundReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many keys were read back or deleted so far, for showing progress while [`Load::finish`] is at it.
    #[must_use]
    pub fn swept(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.swept)
    }

    /// Ends the round that runs, if any, reads every acknowledged key of every round once more, and deletes all keys
    /// unless they are to be kept.
    pub async fn finish(self) -> FinalReport {
        self.end().await;
        let keys = self.state.into_inner().keys;
        let shared = self.shared;
        let rounds = self.reports.into_inner().unwrap_or_else(PoisonError::into_inner);
        let read = sweep::read_back(&shared, shared.speller.acknowledged(keys.clone())).await;
        let keys_left = if shared.settings.keep {
            None
        } else {
            Some(sweep::delete(&shared, shared.speller.all(keys, shared.settings.register_keys)).await)
        };
        FinalReport {
            run: shared.settings.run.clone(),
            acknowledged_writes: rounds.iter().map(|round| round.acknowledged_writes).sum(),
            rounds,
            found_writes: read.found,
            lost_writes: read.lost,
            lost_keys: read.lost_keys,
            unread_writes: read.unread,
            keys_left,
        }
    }

    async fn end_running(&self, state: &mut State) -> Option<RoundReport> {
        let running = state.running.take()?;
        let (report, keys) = running.end(&self.shared).await;
        state.keys.push(keys);
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report.clone());
        Some(report)
    }
}

impl Running {
    fn begin(shared: &Arc<Shared>, number: u64, name: &str) -> Self {
        let (end, ended) = watch::channel(None);
        let began_at = shared.clock.now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let pulse = |(place, reach): (usize, Arc<dyn Reach>)| {
            let pulse = Pulse {
                client: MemberClient::new(reach, shared.settings.request_timeout, place),
                speller: shared.speller.clone(),
                clock: shared.clock,
                interval: shared.settings.pulse_interval,
                round: number,
                number: place,
                begin: began_at,
            };
            tokio::spawn(pulse.run(ended.clone()))
        };
        let reaches = std::iter::once(Arc::clone(&shared.reach)).chain(shared.service.clone());
        Self {
            number,
            name: name.to_owned(),
            began_at,
            started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            pulses: reaches.enumerate().map(pulse).collect(),
            registers: tokio::spawn(registers::run(Arc::clone(shared), number, ended.clone())),
            end,
        }
    }

    async fn end(self, shared: &Arc<Shared>) -> (RoundReport, RoundKeys) {
        const JOINED: &str = "the load's tasks are never cancelled and do not panic";
        let ended_at = shared.clock.now();
        self.end.send_replace(Some(ended_at));
        let mut pulses = Vec::new();
        for pulse in self.pulses {
            pulses.push(pulse.await.expect(JOINED));
        }
        let keys = RoundKeys {
            round: self.number,
            chapters: 0,
            pulses: pulses.iter().map(|pulse| pulse.keys.clone()).collect(),
        };
        let read = sweep::read_back(shared, shared.speller.acknowledged(vec![keys.clone()])).await;
        let registers = self.registers.await.expect(JOINED);
        let keys = RoundKeys { chapters: registers.chapters, ..keys };
        let began = Began { name: self.name, at: self.began_at, unix_ms: self.started_unix_ms };
        (summarize(began, ended_at, pulses, registers, read), keys)
    }
}

/// How a round began.
struct Began {
    name: String,
    at: Instant,
    unix_ms: u64,
}

fn summarize(
    began: Began,
    ended_at: Instant,
    pulses: Vec<PulseResult>,
    registers: RegistersResult,
    read: ReadBack,
) -> RoundReport {
    let written: u64 = pulses.iter().map(|pulse| pulse.keys.acknowledged.count()).sum();
    let tried: u64 = pulses.iter().map(|pulse| pulse.keys.tried).sum();
    let contradiction = pulses.iter().find_map(|pulse| pulse.contradiction.clone());
    let mut pulses = pulses.into_iter();
    // There is one over all members, and it is the first.
    let (gap, mut tally) = pulses.next().map(|pulse| (pulse.gap, pulse.tally)).unwrap_or_default();
    tally.merge(registers.tally);
    let (by_service, service) = pulses.next().map(|pulse| (pulse.gap.length, pulse.tally)).unzip();
    RoundReport {
        round: began.name,
        started_unix_ms: began.unix_ms,
        duration: ended_at.since(began.at),
        operations: registers.operations + tried,
        unknown: tally.unknown.values().sum(),
        unknown_requests: tally.unknown,
        failed_requests: tally.failed,
        failed_requests_by_service: service.map(Tally::all).unwrap_or_default(),
        acknowledged_writes: registers.acknowledged + written,
        lost_writes: read.lost,
        lost_keys: read.lost_keys,
        unread_writes: read.unread,
        linearizable: registers.violation.or(contradiction).map_or(Ok(()), Err),
        longest_write_gap: gap.length,
        longest_write_gap_at: gap.from.since(began.at),
        longest_write_gap_by_service: by_service,
    }
}
