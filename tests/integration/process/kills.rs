//! `kill -9`: of the leader, of all, of one that writes.

use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan, median, now};
use super::{Random, alone, is_quick, report};

#[test]
fn the_leader_is_killed_twenty_times_in_a_row_under_load_and_no_acknowledged_write_is_lost() {
    let _alone = alone();
    let kills = if is_quick() { 5 } else { 20 };
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    let mut moments = Vec::new();
    for _ in 0..kills {
        load.progress(100);
        let leader = cluster.leader();
        moments.push(now());
        cluster.nodes[leader].kill();
        load.progress(50);
        cluster.nodes[leader].start();
        cluster.ready();
    }
    load.progress(100);
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    let gaps = history.write_gaps(&moments);
    let shown: Vec<_> = gaps.iter().map(Duration::as_millis).collect();
    report(format!(
        "longest write gap after each kill of the leader, in ms: {shown:?}; p50 {} ms",
        median(&gaps).as_millis()
    ));
    history.check();
}

#[test]
fn all_three_are_killed_at_once_under_load_and_no_acknowledged_write_is_lost() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    for _ in 0..if is_quick() { 3 } else { 8 } {
        load.progress(200);
        cluster.nodes.iter().for_each(|node| node.signal(Signal::KILL));
        cluster.nodes.iter_mut().for_each(Node::kill);
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.ready();
    }
    load.progress(100);
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn a_writing_node_is_killed_at_random_moments_and_opens_with_every_acknowledged_write() {
    let _alone = alone();
    let kills = if is_quick() { 40 } else { 200 };
    let mut cluster = Cluster::start_with(1, &["--checkpoint-interval=100ms"]);
    let mut random = Random(7);
    let load = Load::start(&Plan { clients: 4, ..Plan::new(&cluster) });
    for _ in 0..kills {
        load.progress(1 + random.below(40));
        // Somewhere within a write, a flush, a checkpoint: what is random is the moment, not the order.
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        cluster.ready();
    }
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    report(format!("killed {kills} times"));
    history.check();
}

#[test]
fn a_node_killed_while_its_log_continues_in_a_new_segment_keeps_every_acknowledged_write() {
    // A segment has 64 MiB, and the next one is made ready when a quarter of it is used.
    const VALUE_BYTES: usize = 128 << 10;
    let _alone = alone();
    let mut cluster = Cluster::start(1);
    let load = Load::start(&Plan { clients: 4, value_bytes: VALUE_BYTES, ..Plan::new(&cluster) });
    let segments = |cluster: &Cluster| {
        let wal = std::fs::read_dir(cluster.nodes[0].data().join("data/wal")).unwrap();
        wal.filter(|entry| entry.as_ref().unwrap().file_name().len() == 16).count()
    };
    let mut random = Random(11);
    while segments(&cluster) < 2 {
        load.progress(20 + random.below(20));
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        cluster.ready();
    }
    load.progress(20);
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.ready();
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}
