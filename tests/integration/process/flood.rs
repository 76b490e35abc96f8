//! More load than a cluster can carry costs its clients time. It costs the members neither their leader nor memory.

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan};
use super::{alone, report, until};

/// What request bodies may take at each node.
const REQUEST_MEMORY_MIB: u64 = 16;
/// What a node may take in all: up to 64 MiB each of what is not committed and not applied, 32 MiB that wait for the
/// core, 16 MiB for each peer, and several copies of what clients wrote. Without limits in bytes it is more than twice as
/// much.
const RESIDENT_MIB_MAX: u64 = 600;

fn resident_mib(node: &Node) -> u64 {
    let metrics =
        until("metrics are served", || Some(node.fetch("/metrics")).filter(|answer| answer.0 == 200)).1;
    let value = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    value.and_then(|value| value.parse::<u64>().ok()).expect("the metric is there") >> 20
}

#[test]
fn many_writers_of_large_values_change_neither_leader_nor_term() {
    let _alone = alone();
    let request_memory = format!("--request-memory={REQUEST_MEMORY_MIB}MiB");
    let cluster = Cluster::start_with(3, &[&request_memory, "--trailing-entries=50"]);
    let leader = cluster.leader();
    let term = || until("a status is served", || cluster.nodes[leader].status()).term;
    let before = term();
    let load = Load::start(&Plan { clients: 96, value_bytes: 256 << 10, ..Plan::new(&cluster) });
    load.progress(400);
    let history = load.stop();
    let resident: Vec<_> = cluster.nodes.iter().map(resident_mib).collect();
    report(format!("refused {:?}, resident {resident:?} MiB", history.failures));
    assert_eq!((cluster.leader(), term()), (leader, before));
    assert!(resident.iter().all(|mib| *mib < RESIDENT_MIB_MAX), "{resident:?}");
}
