//! A node that was away for so long that the log no longer holds what it lacks, and what the log takes of the disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kuberaft::api::StatusReport;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan, now};
use super::{alone, is_quick, report, until};

/// A log that is cut often and in small steps.
const SMALL_LOG: [&str; 4] = [
    "--trailing-entries=500",
    "--transfer-log-entries-max=5000",
    "--log-segment-bytes=256KiB",
    "--checkpoint-interval=100ms",
];

/// Writes while a node is away; more by this environment variable (docs/performance.md).
fn writes(by_default: u64) -> u64 {
    let wanted = std::env::var("KUBERAFT_TEST_SNAPSHOT_WRITES").ok();
    wanted.map_or(by_default, |text| text.parse().unwrap())
}

/// A counter or gauge of a node, zero if it has none of that name.
fn metric(node: &Node, name: &str) -> u64 {
    let (status, text) = node.fetch("/metrics");
    assert_eq!(status, 200);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

const RECEIVED: &str = "kuberaft_raft_snapshots_received_total";
const BYTES_RECEIVED: &str = "kuberaft_raft_snapshot_bytes_total{direction=\"received\"}";

/// Memory that a node's process holds now, in MiB.
fn resident_mib(node: &Node) -> u64 {
    memory_mib(node, "VmRSS:")
}

/// The most memory that a node's process has held, in MiB.
fn peak_mib(node: &Node) -> u64 {
    memory_mib(node, "VmHWM:")
}

fn memory_mib(node: &Node, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A node that takes a snapshot holds its old state and the new one for a moment, and pieces of it on their way: nothing
/// that grows with how long it was away.
fn memory_is_bounded(cluster: &Cluster, away: usize) {
    let others = (0..cluster.nodes.len()).filter(|node| *node != away);
    let most = others.map(|node| peak_mib(&cluster.nodes[node])).max().unwrap();
    let (peak, bound) = (peak_mib(&cluster.nodes[away]), 2 * most + 64);
    assert!(peak < bound, "{peak} MiB, while the others held {most} at most");
}

/// What all files below a directory take on disk, in bytes.
fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Files come and go meanwhile.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Waits until a node has applied what all had committed when this was called.
fn caught_up(cluster: &Cluster, node: usize) {
    let commits = cluster.nodes.iter().filter_map(|node| Some(node.status()?.commit_index));
    let goal = commits.max().unwrap();
    until(format!("node {node} has applied entry {goal}"), || {
        cluster.nodes[node].status().filter(|status| status.applied_index >= goal)
    });
}

/// Waits until all nodes hold the same state.
fn agree(cluster: &Cluster) -> StatusReport {
    until("all nodes hold the same state", || {
        let statuses: Vec<_> = cluster.nodes.iter().filter_map(Node::status).collect();
        let state = |status: &StatusReport| (status.revision, status.state_hash.clone());
        let same = statuses.windows(2).all(|pair| state(&pair[0]) == state(&pair[1]));
        (statuses.len() == cluster.nodes.len() && same).then(|| statuses[0].clone())
    })
}

/// Load on the nodes but `away`.
fn load_without(cluster: &Cluster, away: usize, clients: u64, value_bytes: usize) -> Load {
    let mut addresses = cluster.addresses();
    addresses.remove(away);
    Load::start(&Plan { addresses, clients, value_bytes })
}

#[test]
fn a_node_that_was_away_comes_back_by_a_snapshot_under_load() {
    let _alone = alone();
    let writes = writes(if is_quick() { 2_000 } else { 6_000 });
    let mut cluster = Cluster::start_with(3, &SMALL_LOG);
    let away = cluster.other(cluster.leader());
    let load = load_without(&cluster, away, 32, 64);
    load.progress(100);
    cluster.nodes[away].kill();
    load.progress(writes);
    let (moment, began) = (now(), Instant::now());
    cluster.nodes[away].start();
    cluster.nodes[away].ready();
    until("a snapshot was received", || Some(()).filter(|()| metric(&cluster.nodes[away], RECEIVED) > 0));
    caught_up(&cluster, away);
    let took = began.elapsed();
    load.progress(500);
    let mut history = load.stop();
    let state = agree(&cluster);
    let snapshot_index = cluster.nodes[away].status().unwrap().snapshot_index;
    assert!(snapshot_index.0 >= writes, "{snapshot_index} does not cover {writes} writes");
    assert!(history.failures.is_empty(), "no operation fails: {:?}", history.failures);
    report(format!(
        "{writes} writes while away; caught up {} ms after its start, {} KiB of snapshots; longest write gap {} ms; \
         revision {}, digest {}; resident {:?} MiB, the one that came back {} at most",
        took.as_millis(),
        metric(&cluster.nodes[away], BYTES_RECEIVED) >> 10,
        history.write_gaps(&[moment])[0].as_millis(),
        state.revision,
        state.state_hash,
        cluster.nodes.iter().map(resident_mib).collect::<Vec<_>>(),
        peak_mib(&cluster.nodes[away]),
    ));
    memory_is_bounded(&cluster, away);
    history.read_back(&cluster.nodes);
    history.check();

    // What came by the snapshot is there after a restart, too.
    cluster.nodes[away].kill();
    cluster.nodes[away].start();
    cluster.ready();
    assert_eq!(agree(&cluster).state_hash, state.state_hash);
}

#[test]
fn receivers_and_senders_of_a_snapshot_are_killed_and_it_arrives_all_the_same() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &SMALL_LOG);
    let away = cluster.other(cluster.leader());
    cluster.nodes[away].kill();
    // Large values, so that a transfer takes its time.
    let load = load_without(&cluster, away, 16, 32 << 10);
    load.progress(if is_quick() { 1_500 } else { 3_000 });
    let mut history = load.stop();

    let mut within = 0;
    let kills = if is_quick() { 3 } else { 6 };
    for kill in 0..kills {
        cluster.nodes[away].start();
        let node = &cluster.nodes[away];
        until("something of a snapshot was received", || {
            let bytes = node.status().map(|_| metric(node, BYTES_RECEIVED)).unwrap_or_default();
            Some(()).filter(|()| bytes > 0)
        });
        within += u64::from(metric(node, RECEIVED) == 0);
        if kill % 3 == 2 {
            // Its sender this time; the node continues with the next leader's.
            let leader = cluster.leader();
            if leader != away {
                cluster.nodes[leader].kill();
                cluster.nodes[leader].start();
            }
        }
        cluster.nodes[away].kill();
    }
    cluster.nodes[away].start();
    cluster.ready();
    caught_up(&cluster, away);
    let state = agree(&cluster);
    report(format!(
        "killed {kills} times at a snapshot, {within} of them before it was whole; revision {}, resident {:?} MiB",
        state.revision,
        cluster.nodes.iter().map(resident_mib).collect::<Vec<_>>(),
    ));
    let load = Load::start(&Plan { clients: 4, ..Plan::new(&cluster) });
    load.progress(100);
    history.append(load.stop());
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn overwriting_a_few_keys_forever_takes_a_bounded_part_of_the_disk() {
    const VALUE_BYTES: usize = 32 << 10;
    // The state is rewritten when 64 MiB of it are history, and sled takes twice what it holds. The ballast, which is
    // always there and always as large, is not in it.
    const BOUND_BYTES: u64 = 256 << 20;
    const LOG_BOUND_BYTES: u64 = 128 << 20;
    let _alone = alone();
    let writes = if is_quick() { 6_000 } else { 10_000 };
    let flags = ["--trailing-entries=100", "--log-segment-bytes=4MiB", "--checkpoint-interval=100ms"];
    let cluster = Cluster::start_with(1, &flags);
    let node = &cluster.nodes[0];
    let (mut most, mut most_log) = (0, 0);
    let value = vec![b'v'; VALUE_BYTES];
    let began = Instant::now();
    for number in 0..writes / 8 {
        std::thread::scope(|scope| {
            for key in 0..8 {
                let value = value.clone();
                scope.spawn(move || node.put(&format!("key-{key}"), value).unwrap());
            }
        });
        if number % 10 == 0 {
            most = most.max(disk_bytes(&node.data().join("data")));
            most_log = most_log.max(disk_bytes(&node.data().join("data/wal")));
        }
    }
    let written = writes * VALUE_BYTES as u64;
    report(format!(
        "{} MiB of writes in {:?}; log and state took {} MiB at most, the log {} MiB of it",
        written >> 20,
        Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap()),
        most >> 20,
        most_log >> 20,
    ));
    assert!(most < BOUND_BYTES && most_log < LOG_BOUND_BYTES, "{most} bytes on disk, {most_log} of log");
}
