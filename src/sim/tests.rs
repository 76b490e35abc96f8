//! Fixed seeds, and that a seed says it all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cluster::Cluster;
use super::faults::FaultKind;
use super::lies::Wire;
use super::run::{Plan, run, run_as};
use super::setup::Setup;
use super::trace::Happening;
use crate::plant::Planted;
use crate::raft::Observation;
use crate::types::Instant;

fn plan(seed: u64) -> Plan {
    let nodes = if seed.is_multiple_of(4) { 5 } else { 3 };
    Plan {
        seed,
        nodes,
        time: Duration::from_secs(10),
        clients: None,
        mix: None,
        wire: Wire::default(),
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

/// A snapshot is refused or discarded for want of room, after a look at free space or by the disk itself. That stops no
/// node, and every rule holds.
#[test]
fn snapshots_that_find_no_room_are_refused_and_the_cluster_continues() {
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
            let kinds =
                ["has no room for a snapshot", "discards a snapshot: no room", "discards a snapshot: disk"];
            seen.extend(kinds.into_iter().filter(|kind| what.contains(kind)));
        }
        if seen.len() == 3 {
            return;
        }
    }
    panic!("only seen: {seen:?}");
}

/// A cluster with a leader, a few writes, and no faults.
fn written(seed: u64, nodes: usize) -> Cluster {
    let mut cluster = Cluster::new(Setup::calm(seed, nodes));
    assert!(cluster.run_until(Instant(5_000_000), Cluster::is_led), "seed {seed}");
    let leader = cluster.leader().unwrap();
    for key in ["a", "b", "c"] {
        cluster.put(leader, key, key);
    }
    assert!(cluster.run_until(Instant(10_000_000), Cluster::is_settled), "seed {seed}");
    cluster
}

#[test]
fn a_replica_whose_state_differs_from_a_majority_halts_and_the_others_continue() {
    for seed in 0..40 {
        let nodes = if seed % 2 == 0 { 3 } else { 5 };
        let mut cluster = written(seed, nodes);
        let leader = cluster.leader().unwrap();
        // The leader and followers in turn. Each write brings the digest up to date.
        let spoiled = (leader + usize::try_from(seed / 2 % 3).unwrap()) % nodes;
        cluster.spoil_state(spoiled);
        cluster.put(leader, "d", "d");
        let limit = Instant(cluster.now().0 + 5_000_000);
        assert!(cluster.run_until(limit, |cluster| !cluster.is_running(spoiled)), "seed {seed}");
        assert!((0..nodes).all(|node| node == spoiled || cluster.is_running(node)), "seed {seed}");
        assert!(cluster.run_until(Instant(limit.0 + 5_000_000), Cluster::is_led), "seed {seed}");
        let leader = cluster.leader().unwrap();
        cluster.put(leader, "e", "e");
        let has_it =
            |cluster: &Cluster| (0..nodes).all(|node| node == spoiled || cluster.value(node, b"e").is_some());
        assert!(cluster.run_until(Instant(limit.0 + 10_000_000), has_it), "seed {seed}");
        assert_eq!(cluster.violation(), None, "seed {seed}");
    }
}

#[test]
fn without_a_majority_replicas_that_differ_report_it_and_continue() {
    let mut cluster = written(1, 2);
    cluster.trace.keep();
    cluster.spoil_state(1);
    let leader = cluster.leader().unwrap();
    cluster.put(leader, "d", "d");
    cluster.run_to(Instant(cluster.now().0 + 5_000_000));
    assert!(cluster.is_running(0) && cluster.is_running(1));
    let mut reporters = BTreeSet::new();
    for (_, happening) in cluster.trace.take() {
        if let Happening::Observed { node, observation: Observation::StateDiffers { .. } } = happening {
            reporters.insert(node);
        }
    }
    assert_eq!(reporters, BTreeSet::from([0, 1]));
}
