//! Fixed seeds, and that a seed says it all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::faults::FaultKind;
use super::run::{Plan, run, run_as};
use super::setup::Setup;
use super::trace::Happening;
use crate::plant::Planted;

fn plan(seed: u64) -> Plan {
    let nodes = if seed.is_multiple_of(4) { 5 } else { 3 };
    Plan {
        seed,
        nodes,
        time: Duration::from_secs(10),
        clients: None,
        without: BTreeSet::new(),
        planted: Planted::NONE,
    }
}

#[test]
fn fixed_seeds_break_no_rule() {
    for seed in 0..200 {
        let outcome = run(&plan(seed), false);
        assert_eq!(outcome.failure, None, "seed {seed}");
    }
}

#[test]
fn a_seed_says_it_all() {
    for seed in [3, 4, 5] {
        let (once, again) = (run(&plan(seed), false), run(&plan(seed), true));
        assert_eq!((once.hash, once.events), (again.hash, again.events), "seed {seed}");
        assert_ne!(once.hash, run(&plan(seed + 10), false).hash);
    }
}

/// What `docs/guarantees.md` says of leases: with clocks further apart than the margin a read may be stale, and then
/// the checker finds it.
#[test]
fn leases_with_clocks_beyond_the_margin_give_stale_reads() {
    let is_stale = |seed| {
        let other = FaultKind::ALL.into_iter().map(|(kind, _)| kind).filter(|kind| *kind != FaultKind::Mute);
        let plan = Plan { without: other.collect(), ..plan(seed) };
        let mut setup = Setup::from_seed(seed, 3);
        (setup.raft.lease_reads, setup.raft.check_quorum, setup.wild_clocks) = (true, true, true);
        run_as(&plan, setup, false).failure.is_some_and(|failure| failure.rule == "linearizable")
    };
    assert!((0..500).any(is_stale));
}

/// A snapshot is refused or let go for want of room, by the look at free space as by the disk itself; that stops no node,
/// and what the cluster owes holds.
#[test]
fn snapshots_that_find_no_room_are_refused_and_the_cluster_goes_on() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let only = [FaultKind::DiskFull, FaultKind::Kill];
        let others = FaultKind::ALL.into_iter().map(|(kind, _)| kind).filter(|kind| !only.contains(kind));
        let plan = Plan { without: others.collect(), ..plan(seed) };
        let mut setup = Setup::from_seed(seed, 3);
        (setup.raft.trailing_entries, setup.raft.transfer_log_entries_max) = (0, 10);
        (setup.checkpoint_interval, setup.chunk_bytes) = (50_000, 1000);
        let outcome = run_as(&plan, setup, true);
        assert_eq!(outcome.failure, None, "seed {seed}");
        for (_, happening) in outcome.happenings {
            let Happening::Fault { what } = happening else { continue };
            let kinds = [
                "has no room for a snapshot",
                "lets go of a snapshot: no room",
                "lets go of a snapshot: disk",
            ];
            seen.extend(kinds.into_iter().filter(|kind| what.contains(kind)));
        }
        if seen.len() == 3 {
            return;
        }
    }
    panic!("only seen: {seen:?}");
}
