//! `kuberaft sim --plant all`: how many seeds it takes to catch each bug, and which check does.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::{CliError, Planted, Sim, command_options, file, print};
use crate::plant::Plant;
use crate::sim::hunt::{Hunt, hunt};
use crate::sim::run::{Failure, Plan};

/// A bug must be caught within so many seeds from any start.
const SEEDS_MOST: u64 = 2000;
/// Where the hunts start: the first seed of the range, and on from there in steps.
const STARTS: u64 = 5;
const STEP: u64 = 10_000;

/// Hunts for each bug, and for none.
pub(super) fn hunt_all(args: &Sim) -> Result<(), CliError> {
    // A bug may bring a node into a state that it asserts against: one more way to be caught.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut rows = String::new();
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        let plan = |seed| Plan { planted: Planted::new(plant), ..args.plan(seed) };
        let hunts: Vec<Hunt> = starts(args).map(|start| hunt(start, SEEDS_MOST, args.jobs(), plan)).collect();
        if hunts.iter().any(|hunt| hunt.failure.is_none()) {
            missed.push(plant.name());
        }
        let row = row(plant, &hunts);
        print::text(&format!("{:>6.0} s  {row}\n", started.elapsed().as_secs_f64()))?;
        let _ = writeln!(rows, "{row}");
    }
    let sound: Vec<Hunt> =
        starts(args).map(|start| hunt(start, SEEDS_MOST, args.jobs(), |seed| args.plan(seed))).collect();
    let verdict = none_planted(args, &sound);
    let printed = print::text(&format!("{:>6.0} s  {verdict}\n", started.elapsed().as_secs_f64()));
    if let Some(path) = &args.write {
        file::write(path, page(args, &rows, &verdict).as_bytes())?;
    }
    if let Some(failure) = sound.into_iter().find_map(|hunt| hunt.failure) {
        return Err(CliError::Failed(format!("{} broken with no bug planted", failure.rule)));
    }
    if missed.is_empty() {
        printed
    } else {
        Err(CliError::Failed(format!("not caught: {}", missed.join(", "))))
    }
}

fn starts(args: &Sim) -> impl Iterator<Item = u64> {
    let first = args.seeds.0;
    (0..STARTS).map(move |start| first + start * STEP)
}

fn row(plant: Plant, hunts: &[Hunt]) -> String {
    let mut rules = BTreeMap::<&str, usize>::new();
    for failure in hunts.iter().filter_map(|hunt| hunt.failure.as_ref()) {
        *rules.entry(&failure.rule).or_default() += 1;
    }
    let mut rules: Vec<(&str, usize)> = rules.into_iter().collect();
    rules.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let rules: Vec<String> = rules.iter().map(|(rule, times)| format!("{rule} ({times})")).collect();
    let mut seeds: Vec<u64> =
        hunts.iter().map(|hunt| if hunt.failure.is_some() { hunt.seeds } else { u64::MAX }).collect();
    seeds.sort_unstable();
    let told = |seeds: u64| if seeds == u64::MAX { "not caught".to_owned() } else { seeds.to_string() };
    let (median, most) = (told(seeds[seeds.len() / 2]), told(seeds[seeds.len() - 1]));
    let checks = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
    format!("| `{}` | {} | {checks} | {median} | {most} |", plant.name(), plant.describe())
}

fn none_planted(args: &Sim, sound: &[Hunt]) -> String {
    let mut verdict =
        format!("With none planted, {SEEDS_MOST} seeds from each of the {STARTS} starts report nothing.");
    for (start, hunt) in starts(args).zip(sound) {
        if let Some(Failure { rule, what, .. }) = &hunt.failure {
            verdict =
                format!("With none planted, seed {} reports: {rule} broken: {what}", start + hunt.seeds - 1);
        }
    }
    verdict
}

fn page(args: &Sim, rows: &str, verdict: &str) -> String {
    let nodes = args.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
    let options = format!("{nodes}{}", command_options(&args.plan(args.seeds.0)));
    let first = args.seeds.0;
    let starts: Vec<String> = starts(args).map(|start| start.to_string()).collect();
    let sound = format!("kuberaft sim --seeds {first}..{}{options}", first + SEEDS_MOST);
    format!(
        "# Planted bugs\n\n\
         A simulator that finds nothing proves nothing unless it finds what is there. Each of these bugs is a wrong answer \
         to one question that the code asks. The questions that safety depends on are in `src/raft/rules.rs` and, for the \
         log, in `src/storage/wal/rules.rs`. The cargo feature `planted-bugs`, which is off in a normal build, replaces \
         each of these two files by a `rules/planted.rs`; the code that asks is the one that production runs. A few bugs \
         are elsewhere (`src/plant.rs`). This page is written by\n\n\
         ```console\n\
         $ cargo build --release --features planted-bugs\n\
         $ target/release/kuberaft sim --plant all{options} --write docs/planted-bugs.md\n\
         ```\n\n\
         For each bug, seeds are run from {} on until one is caught, at most {SEEDS_MOST} from each start. \"Caught by\" \
         is the first rule that was broken, with how many of the {STARTS} starts ended so; the rules are those of \
         `src/sim/invariants.rs`, `linearizable` is the judgement of what clients saw, `liveness` what must happen once \
         faults stop, and `an impossible state` an assertion in a node. One caught seed is looked at with \
         `kuberaft sim --plant BUG`, which prints the command that replays it.\n\n\
         Not planted: that acknowledgements of an earlier membership count. It does no harm here. A node id is added once, \
         and removed permanently, so it has one session; only an addition that was never committed can be followed by \
         another of the same id, under a leader of a later term, who does not listen to answers of earlier terms. The \
         check of sessions is a second protection.\n\n\
         | bug | what it does | caught by | seeds, median | seeds, most |\n\
         | --- | --- | --- | ---: | ---: |\n\
         {rows}\n\
         {verdict} A normal build does the same from the first start with `{sound}`.\n",
        starts.join(", "),
    )
}
