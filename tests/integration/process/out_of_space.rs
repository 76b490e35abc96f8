//! Disks that fill up: what is acknowledged stays, reads continue, and everything comes back with the space.

use kuberaft::api::Consistency;
use kuberaft::api::client::ClientError;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan, read_all};
use super::small_disk::SmallDisk;
use super::{alone, report, until};

const DISK_BYTES: u64 = 256 << 20;
const RESERVE_BYTES: u64 = 96 << 20;
const BALLAST_BYTES: u64 = RESERVE_BYTES / 2;
const FLAGS: [&str; 3] = ["--log-segment-bytes=4MiB", "--disk-reserve=96MiB", "--checkpoint-interval=200ms"];

/// Nodes on small disks of their own that are ready for them to fill up. `None` where there are no such disks.
fn on_small_disks(size: usize) -> Option<(Cluster, Vec<SmallDisk>)> {
    let mut cluster = Cluster::prepare(size, &FLAGS);
    let disks: Option<Vec<_>> =
        cluster.nodes.iter_mut().map(|node| SmallDisk::hold(node, DISK_BYTES)).collect();
    let disks = disks?;
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.ready();
    disks.iter().for_each(has_ballast);
    Some((cluster, disks))
}

fn refuses_writes(node: &Node) {
    until(format!("node {} takes no writes for lack of space", node.name), || match node.put("more", "x") {
        Err(ClientError::Problem(problem)) if problem.code == "no_space" => Some(()),
        _ => None,
    });
}

fn takes_writes(node: &Node) {
    until(format!("node {} takes writes again", node.name), || node.put("more", "x").ok());
}

fn serves_reads(node: &Node) {
    until(format!("node {} serves reads", node.name), || {
        node.get("shared/0", Consistency::Linearizable).ok()
    });
}

fn has_ballast(disk: &SmallDisk) {
    until("the ballast is there", || {
        std::fs::metadata(disk.path("ballast")).ok().filter(|found| found.len() == BALLAST_BYTES)
    });
}

#[test]
fn a_node_starts_on_a_full_disk_serves_reads_and_takes_writes_once_there_is_space() {
    let _alone = alone();
    let Some((mut cluster, disks)) = on_small_disks(1) else { return };
    let disk = &disks[0];
    let load = Load::start(&Plan { value_bytes: 1000, ..Plan::new(&cluster) });
    load.progress(1000);
    disk.fill_but(0);
    refuses_writes(&cluster.nodes[0]);
    let mut history = load.stop();
    let node = &mut cluster.nodes[0];
    serves_reads(node);

    for _ in 0..3 {
        node.kill();
        node.start();
        serves_reads(node);
        refuses_writes(node);
    }
    report(format!("{} bytes are left of the ballast after three starts on a full disk", disk.free_bytes()));
    assert!(!disk.path("ballast").exists());
    let keys = history.keys();
    history.operations.extend(read_all(node, &keys, Consistency::Linearizable));

    disk.free();
    takes_writes(node);
    has_ballast(disk);
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn a_start_that_finds_no_space_at_all_waits_for_some() {
    let _alone = alone();
    let Some((mut cluster, disks)) = on_small_disks(1) else { return };
    let disk = &disks[0];
    let load = Load::start(&Plan::new(&cluster));
    load.progress(300);
    let mut history = load.stop();
    let node = &mut cluster.nodes[0];
    node.kill();
    std::fs::remove_file(disk.path("ballast")).unwrap();
    disk.fill_but(0);

    node.start();
    let reason = node.gives_reason("waiting for disk space");
    assert!(reason.contains("0 bytes are free"), "{reason}");
    assert!(node.has_ended().is_none());
    disk.free();
    takes_writes(node);
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn a_leader_below_its_reserve_hands_over_and_takes_part_again_once_there_is_space() {
    let _alone = alone();
    let Some((mut cluster, disks)) = on_small_disks(3) else { return };
    let load = Load::start(&Plan::new(&cluster));
    load.progress(300);
    let full = cluster.leader();
    disks[full].fill_but(RESERVE_BYTES / 2);
    let next = until("another node leads", || Some(cluster.leader()).filter(|leader| *leader != full));
    load.progress(300);
    assert_ne!(cluster.leader(), full, "a node without space stays out of elections");

    // What it missed comes once there is space, also over a restart with none.
    disks[full].fill_but(0);
    cluster.nodes[full].kill();
    cluster.nodes[full].start();
    let node = &cluster.nodes[full];
    until("it serves what it has", || node.get("shared/0", Consistency::Stale).ok());
    load.progress(300);
    disks[full].free();
    let applied = cluster.nodes[next].status().unwrap().applied_index;
    until("it has caught up", || node.status().filter(|status| status.applied_index >= applied));
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}
