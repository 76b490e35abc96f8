//! Leadership that is handed over: by command, and by a leader that stops.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::Cluster;
use super::load::{History, Load, Plan, median, now};
use super::{alone, is_quick, report, until};

fn show(history: &History, moments: &[kuberaft::types::Instant], what: &str) {
    let gaps = history.write_gaps(moments);
    let shown: Vec<_> = gaps.iter().map(Duration::as_millis).collect();
    report(format!(
        "longest write gap after each {what}, in ms: {shown:?}; p50 {} ms",
        median(&gaps).as_millis()
    ));
}

#[test]
fn leadership_is_transferred_by_command_under_load() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    let mut moments = Vec::new();
    for _ in 0..if is_quick() { 3 } else { 8 } {
        load.progress(100);
        let leader = cluster.leader();
        let to = cluster.other(leader);
        let name = cluster.nodes[to].name.clone();
        moments.push(now());
        cluster.insist(&["transfer-leader", "--to", &name], &["is that already"]);
        until("the other leads", || (cluster.leader() == to).then_some(()));
    }
    load.progress(100);
    let mut history = load.stop();
    cluster.ready();
    history.read_back(&cluster.nodes);
    show(&history, &moments, "transfer of leadership");
    history.check();
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_first() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    let mut moments = Vec::new();
    for _ in 0..if is_quick() { 3 } else { 8 } {
        load.progress(100);
        let leader = cluster.leader();
        moments.push(now());
        cluster.nodes[leader].signal(Signal::TERM);
        assert_eq!(cluster.nodes[leader].ended().code(), Some(0));
        let log = cluster.nodes[leader].log();
        assert!(log.contains("another node leads now"), "{log}");
        load.progress(50);
        cluster.nodes[leader].start();
        cluster.ready();
    }
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    show(&history, &moments, "SIGTERM of the leader");
    history.check();
}

#[test]
fn a_stopping_node_that_is_made_the_leader_hands_over_again() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--shutdown-delay=10m"]);
    let first = cluster.leader();
    let [stopping, third] = [1, 2].map(|step| (first + step) % 3);
    let is_stopping = |cluster: &Cluster, at: usize| {
        cluster.nodes[at].signal(Signal::TERM);
        until("the node stops", || (cluster.nodes[at].fetch("/readyz").0 == 503).then_some(()));
    };
    let leads = |cluster: &Cluster, at: usize| {
        until("leadership moves there", || (cluster.nodes[at].status()?.role == "leader").then_some(()));
    };
    is_stopping(&cluster, stopping);
    let name = cluster.nodes[stopping].name.clone();
    cluster.insist(&["transfer-leader", "--to", &name], &["is that already"]);
    leads(&cluster, third);
    until("it says so", || cluster.nodes[stopping].log().contains("another node leads now").then_some(()));
    // Whichever of the two others it chooses, the one that continues leads in the end.
    is_stopping(&cluster, third);
    leads(&cluster, first);
    for at in [stopping, third] {
        cluster.nodes[at].signal(Signal::TERM);
        assert_eq!(cluster.nodes[at].ended().code(), Some(0));
    }
}

#[test]
fn a_node_that_stops_serves_on_for_the_delay_and_ends_at_once_if_told_again() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--shutdown-delay=10m"]);
    let leader = cluster.leader();
    let node = &cluster.nodes[leader];
    node.signal(Signal::TERM);
    until("the node is not ready", || (node.fetch("/readyz").0 == 503).then_some(()));
    until("another node leads", || (node.status()?.role != "leader").then_some(()));
    // Clients that have not heard yet are served.
    until("the node forwards", || node.put("key", "value").ok());
    assert_eq!(node.fetch("/get?key=key"), (200, "value".into()));
    let told = Instant::now();
    cluster.nodes[leader].signal(Signal::TERM);
    assert_eq!(cluster.nodes[leader].ended().code(), Some(0));
    report(format!("ended {} ms after the second signal", told.elapsed().as_millis()));
}
