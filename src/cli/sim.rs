//! `kuberaft sim`: runs seeds of the deterministic simulator, over all cores, until one breaks a rule.

mod planted;

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::list::{List, list};
use super::{CliError, file, plant, print};
use crate::config::Span;
use crate::plant::{Plant, Planted};
use crate::sim::faults::FaultKind;
use crate::sim::lies::Wire;
use crate::sim::mix::Mix;
use crate::sim::run::{Failure, Outcome, Plan, run, shrink};
use crate::transport;

/// Time between two lines of progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Arguments of `kuberaft sim`.
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Seeds to run, the last one not included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, conflicts_with = "replay", default_value = "0..1000")]
    seeds: (u64, u64),
    /// Run one seed and print everything that happens
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// Time of faults in each seed, in the simulation's time
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    time: Span,
    /// Nodes [default: 3, and 5 for every fourth seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: Option<u8>,
    /// Clients [default: as each seed says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: Option<u16>,
    /// Network: usual, link-30, link-100, link-300 (milliseconds a message takes), one-way, refused-push; or a member
    /// that lies: liar [default: as each seed says]
    #[arg(long, value_name = "MIX", value_parser = parse_mix)]
    mix: Option<Mix>,
    /// Kinds of faults that do not happen
    #[arg(long, value_name = "KIND,…", value_parser = list(parse_fault))]
    without: Vec<List<FaultKind>>,
    /// Plant a bug that must be found, or each in turn, up to 2000 seeds from each of five starts; needs a program
    /// built with `--features planted-bugs`
    #[arg(long, value_name = "BUG|all", value_parser = parse_planting)]
    plant: Option<Planting>,
    /// With `--plant all`: write what caught which bug to this file
    #[arg(long, value_name = "FILE", requires = "plant")]
    write: Option<PathBuf>,
    /// Seeds run at once [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Print a line for each seed
    #[arg(long)]
    verbose: bool,
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let expected = "two numbers are expected, as in 0..1000";
    let (first, end) = text.split_once("..").ok_or(expected)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| expected.to_owned());
    let (first, end) = (number(first)?, number(end)?);
    if first < end { Ok((first, end)) } else { Err("there is no seed in this range".to_owned()) }
}

fn parse_fault(text: &str) -> Result<FaultKind, String> {
    let found = FaultKind::ALL.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind);
    found.ok_or_else(|| {
        let names: Vec<&str> = FaultKind::ALL.iter().map(|(_, name)| *name).collect();
        format!("the kinds of faults are {}", names.join(", "))
    })
}

fn parse_mix(text: &str) -> Result<Mix, String> {
    let found = Mix::ALL.iter().find(|(_, name)| *name == text).map(|(mix, _)| *mix);
    found.ok_or_else(|| {
        let names: Vec<&str> = Mix::ALL.iter().map(|(_, name)| *name).collect();
        format!("the mixes are {}", names.join(", "))
    })
}

/// What `--plant` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planting {
    One(Plant),
    All,
}

fn parse_planting(text: &str) -> Result<Planting, String> {
    if Planted::POSSIBLE && text == "all" {
        return Ok(Planting::All);
    }
    plant::parse_plant(text)
        .map(Planting::One)
        .map_err(|error| error + if Planted::POSSIBLE { ", or all" } else { "" })
}

/// Runs the seeds, or replays one.
pub(super) fn sim(args: &Sim) -> Result<(), CliError> {
    if args.plant == Some(Planting::All) {
        if args.replay.is_some() {
            return Err(CliError::Failed("--replay needs one bug, not all".to_owned()));
        }
        return planted::hunt_all(args);
    }
    match args.replay {
        Some(seed) => replay(&args.plan(seed)),
        None => run_seeds(args),
    }
}

impl Sim {
    fn plan(&self, seed: u64) -> Plan {
        Plan {
            seed,
            nodes: self.nodes.map_or_else(|| Plan::nodes_of(seed), usize::from),
            time: self.time.0,
            clients: self.clients.map(usize::from),
            mix: self.mix,
            wire: Wire(transport::carried),
            without: self.without.iter().flat_map(|list| &list.0).copied().collect(),
            planted: match self.plant {
                Some(Planting::One(plant)) => Planted::new(plant),
                Some(Planting::All) | None => Planted::NONE,
            },
        }
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(cores, usize::from)
    }
}

fn replay(plan: &Plan) -> Result<(), CliError> {
    let outcome = run(plan, true);
    for (at, happening) in &outcome.happenings {
        print::text(&format!("{:>12.6}  {happening}\n", Duration::from_micros(at.0).as_secs_f64()))?;
    }
    let printed = print::text(&format!("{}\n", told(plan.seed, &outcome)));
    match &outcome.failure {
        None => printed,
        Some(failure) => Err(CliError::Failed(failure_text(plan.seed, failure))),
    }
}

fn failure_text(seed: u64, failure: &Failure) -> String {
    let at = Duration::from_micros(failure.at.0).as_secs_f64();
    format!("seed {seed}, {at:.6} s: {} broken: {}", failure.rule, failure.what)
}

fn told(seed: u64, outcome: &Outcome) -> String {
    let Outcome { hash, events, elections, committed, operations, faults, undecided, .. } = outcome;
    let mark = if *undecided { ", history undecided" } else { "" };
    format!(
        "seed {seed}: {:.1} s, {events} events, {faults} faults, {elections} elections, {committed} entries, \
         {operations} operations{mark}, trace {hash:016x}",
        outcome.simulated.as_secs_f64()
    )
}

/// What all seeds came to so far.
#[derive(Default)]
struct Tally {
    seeds: AtomicU64,
    events: AtomicU64,
    simulated_millis: AtomicU64,
    undecided: AtomicU64,
    operations: AtomicU64,
}

impl Tally {
    fn add(&self, outcome: &Outcome) {
        let millis = u64::try_from(outcome.simulated.as_millis()).unwrap_or(0);
        self.seeds.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(outcome.events, Ordering::Relaxed);
        self.simulated_millis.fetch_add(millis, Ordering::Relaxed);
        self.undecided.fetch_add(u64::from(outcome.undecided), Ordering::Relaxed);
        self.operations.fetch_add(outcome.operations as u64, Ordering::Relaxed);
    }

    #[allow(clippy::cast_precision_loss)] // for people to read
    fn told(&self, took: Duration) -> String {
        let took = took.as_secs_f64().max(0.001);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        format!(
            "{} seeds in {took:.1} s: {:.1} seeds/s, {:.0} events/s, {:.0} simulated seconds per second, {} operations, \
             {} histories undecided",
            self.seeds.load(Ordering::Relaxed),
            of(&self.seeds) / took,
            of(&self.events) / took,
            of(&self.simulated_millis) / 1000.0 / took,
            self.operations.load(Ordering::Relaxed),
            self.undecided.load(Ordering::Relaxed),
        )
    }
}

fn run_seeds(args: &Sim) -> Result<(), CliError> {
    let (first, end) = args.seeds;
    let jobs = args.jobs();
    let (next, tally) = (AtomicU64::new(first), Tally::default());
    let (found, is_over) = (Mutex::new(None::<(Plan, Failure)>), AtomicBool::new(false));
    let started = Instant::now();
    // What cannot be printed ends the search.
    let failed = Mutex::new(None::<CliError>);
    let print = |line: &str| {
        if let Err(error) = print::text(line) {
            is_over.store(true, Ordering::Relaxed);
            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let plan = args.plan(seed);
                        let outcome = run(&plan, false);
                        tally.add(&outcome);
                        if args.verbose {
                            print(&format!("{}\n", told(seed, &outcome)));
                        }
                        if let Some(failure) = outcome.failure {
                            is_over.store(true, Ordering::Relaxed);
                            keep_first(&found, plan, failure);
                        }
                    }
                })
            })
            .collect();
        let mut reported = started;
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if reported.elapsed() >= REPORT_INTERVAL {
                reported = Instant::now();
                print(&format!("{}\n", tally.told(started.elapsed())));
            }
        }
    });
    print(&format!("{}\n", tally.told(started.elapsed())));
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match found {
        None => failed.map_or(Ok(()), Err),
        Some((plan, failure)) => Err(CliError::Failed(explain(plan, failure))),
    }
}

/// Of several seeds that failed at once, the smallest is shown.
fn keep_first(found: &Mutex<Option<(Plan, Failure)>>, plan: Plan, failure: Failure) {
    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.as_ref().is_none_or(|(first, _)| plan.seed < first.seed) {
        *found = Some((plan, failure));
    }
}

/// The failure, and how to see it again with as few other events as was found.
fn explain(plan: Plan, failure: Failure) -> String {
    // The failure is told at the end, too, whatever became of this.
    let _ = print::text(&format!(
        "{}\nreplay: {}\nlooking for a smaller run that fails as well …\n",
        failure_text(plan.seed, &failure),
        command(&plan)
    ));
    let (plan, failure) = shrink(plan, failure);
    format!("{}\nreplay: {}", failure_text(plan.seed, &failure), command(&plan))
}

/// The command that replays a plan.
fn command(plan: &Plan) -> String {
    let Plan { seed, nodes, planted, .. } = plan;
    let mut command = format!("kuberaft sim --replay {seed} --nodes {nodes}{}", command_options(plan));
    if let Some(plant) = planted.get() {
        let _ = write!(command, " --plant {}", plant.name());
    }
    command
}

/// What may be the same for many seeds.
fn command_options(plan: &Plan) -> String {
    let Plan { time, clients, mix, without, .. } = plan;
    let mut options = format!(" --time {}", Span(*time));
    if let Some(clients) = clients {
        let _ = write!(options, " --clients {clients}");
    }
    if let Some(mix) = mix {
        let _ = write!(options, " --mix {}", mix.name());
    }
    if !without.is_empty() {
        let names: Vec<&str> = without.iter().map(|kind| kind.name()).collect();
        let _ = write!(options, " --without {}", names.join(","));
    }
    options
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_are_a_range() {
        assert_eq!(parse_seeds("3..5"), Ok((3, 5)));
        for text in ["3", "3..3", "5..3", "a..b", ".."] {
            assert!(parse_seeds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_bug_is_planted_or_all() {
        if Planted::POSSIBLE {
            assert_eq!(parse_planting("no-flush"), Ok(Planting::One(Plant::NoFlush)));
            assert_eq!(parse_planting("all"), Ok(Planting::All));
        }
        assert!(parse_planting("no-such-bug").is_err());
    }

    #[test]
    fn the_command_repeats_the_plan() {
        let plan = Plan {
            seed: 7,
            nodes: 3,
            time: Duration::from_millis(1500),
            clients: Some(2),
            mix: Some(Mix::SlowLinks(100)),
            wire: Wire::default(),
            without: BTreeSet::from([FaultKind::Kill, FaultKind::BitFlip]),
            planted: Planted::NONE,
        };
        assert_eq!(
            command(&plan),
            "kuberaft sim --replay 7 --nodes 3 --time 1500ms --clients 2 --mix link-100 --without kill,bit-flip"
        );
    }
}
