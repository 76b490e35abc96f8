//! Fixed seeds, and that a seed says it all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::faults::FaultKind;
use super::run::{Plan, run, run_as};
use super::setup::Setup;
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
