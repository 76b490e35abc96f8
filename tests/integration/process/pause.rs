//! SIGSTOP: a leader that does not know that it is none, a follower that lags far behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use kuberaft::api::Consistency;
use kuberaft::sim::checker::Answer;

use super::cluster::{Cluster, Node};
use super::load::{History, Load, Plan, read_all};
use super::{alone, is_quick, report, until};

#[test]
fn a_paused_leader_is_replaced_and_answers_nothing_stale_when_it_continues() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&Plan::new(&cluster));
    // Short enough for requests to the paused node to be still waiting, or long enough for them to be abandoned.
    for writes in if is_quick() { vec![20, 400] } else { vec![1, 50, 20, 800, 5, 100, 10, 400] } {
        load.progress(50);
        let paused = cluster.leader();
        cluster.nodes[paused].pause();
        let leader = cluster.leader();
        assert_ne!(leader, paused);
        load.progress(writes);
        cluster.nodes[paused].go_on();
        cluster.ready();
    }
    load.progress(50);
    let mut history = load.stop();
    history.read_back(&cluster.nodes);
    history.check();
}

/// What a node holds of all keys of a history: value and revision.
fn content(node: &Node, history: &History) -> BTreeMap<Bytes, Answer> {
    let operations = read_all(node, &history.keys(), Consistency::Stale);
    operations
        .into_iter()
        .map(|operation| (operation.key, operation.returned.expect("it was read").answer))
        .collect()
}

/// More entries than the leader keeps in memory pass while a follower is `away`.
fn check_catching_up(away: impl Fn(&mut Node), back: impl Fn(&mut Node)) {
    // Beyond 16 MiB the leader has entries only on its disk.
    const VALUE_BYTES: usize = 32 << 10;
    const WRITES: u64 = 900;
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = cluster.other(leader);
    let others: Vec<_> = (0..3).filter(|at| *at != follower).collect();
    let addresses = others.iter().map(|at| cluster.nodes[*at].client.address()).collect();
    let load = Load::start(&Plan { addresses, clients: 8, value_bytes: VALUE_BYTES });
    load.progress(10);
    away(&mut cluster.nodes[follower]);
    load.progress(WRITES);
    back(&mut cluster.nodes[follower]);
    // Some of it while the writing continues.
    load.progress(50);
    let mut history = load.stop();
    let leader = cluster.leader();
    let goal = cluster.nodes[leader].status().unwrap().commit_index;
    until("the follower has caught up", || {
        cluster.nodes[follower].status().filter(|status| status.applied_index >= goal)
    });
    report(format!("caught up with entry {goal}"));
    history.read_back([&cluster.nodes[leader]]);
    history.check();
    let expected = content(&cluster.nodes[leader], &history);
    assert_eq!(content(&cluster.nodes[follower], &history), expected);
}

#[test]
fn a_follower_paused_for_longer_than_the_cache_holds_catches_up_from_the_leaders_disk() {
    let _alone = alone();
    check_catching_up(Node::pause, Node::go_on);
}

#[test]
fn a_follower_down_for_longer_than_the_cache_holds_catches_up_from_the_leaders_disk() {
    let _alone = alone();
    check_catching_up(Node::kill, Node::start);
}

#[test]
fn a_leader_reports_that_a_peer_is_lost_and_found_again() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = cluster.other(leader);
    cluster.nodes[follower].pause();
    let told = |cluster: &Cluster, what: &str| {
        until(what, || cluster.nodes[leader].log().contains(what).then_some(()));
    };
    told(&cluster, "peer does not answer");
    cluster.nodes[follower].go_on();
    told(&cluster, "peer answers again");
}
