//! A data directory that was emptied: its node is another one. It joins again, or stays out if it is told to.

use std::fs;

use kuberaft::api::client::ClientError;
use kuberaft::types::{ClusterId, NodeId};

use super::cluster::{Cluster, Node};
use super::load::{Load, Plan};
use super::{alone, until};

fn identity(node: &Node) -> (Option<ClusterId>, NodeId) {
    let status = node.status().unwrap();
    (status.cluster_id, status.node_id.unwrap())
}

/// Waits until the node says why it stays out, in both places.
fn stays_out(node: &Node) {
    until(format!("node {} says why it stays out", node.name), || {
        let status = node.status()?;
        assert_eq!(status.cluster_id, None);
        status.reasons.iter().any(|reason| reason.contains("was emptied")).then_some(())
    });
    let (status, reasons) = node.fetch("/readyz");
    assert_eq!(status, 503);
    assert!(reasons.contains("does not vote as the previous node"), "{reasons}");
    assert_eq!(node.fetch("/livez").0, 200);
    let (status, problem) = node.fetch("/set?key=a&value=b");
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("was emptied") && problem.contains("not_applied"), "{problem}");
}

fn check_emptied(emptied: usize) {
    let mut cluster = Cluster::start_with(3, &["--request-timeout=2s", "--join=wait"]);
    let (cluster_id, old_id) = identity(&cluster.nodes[emptied]);
    cluster.nodes[emptied].kill();
    fs::remove_dir_all(cluster.nodes[emptied].data()).unwrap();
    cluster.nodes[emptied].start();
    stays_out(&cluster.nodes[emptied]);
    assert_ne!(identity(&cluster.nodes[emptied]).1, old_id);

    // The other two continue.
    let leader = cluster.leader();
    let follower = (0..3).find(|at| *at != emptied && *at != leader).unwrap();
    for at in [leader, follower] {
        cluster.nodes[at].put("key", format!("at {at}")).unwrap();
    }

    // With one of them gone, the other has no majority: nobody votes in the place of the lost directory.
    cluster.nodes[leader].kill();
    for _ in 0..3 {
        let refusal = cluster.nodes[follower].put("key", "without a majority");
        let Err(ClientError::Problem(problem)) = refusal else { panic!("{refusal:?}") };
        assert_eq!(problem.status, 503, "{problem}");
    }
    stays_out(&cluster.nodes[emptied]);
    cluster.nodes[leader].start();
    for at in [leader, follower] {
        cluster.nodes[at].ready();
        cluster.nodes[at].put("key", format!("again at {at}")).unwrap();
        assert_eq!(identity(&cluster.nodes[at]).0, cluster_id);
    }

    // A restart changes nothing.
    cluster.nodes[emptied].kill();
    cluster.nodes[emptied].start();
    stays_out(&cluster.nodes[emptied]);
}

#[test]
fn an_emptied_follower_stays_out_says_why_and_the_others_continue() {
    let _alone = alone();
    check_emptied(2);
}

#[test]
fn an_emptied_first_node_stays_out_says_why_and_the_others_continue() {
    let _alone = alone();
    check_emptied(0);
}

#[test]
fn an_emptied_first_node_forms_no_second_cluster_while_the_others_are_down() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--join=wait"]);
    let (cluster_id, _) = identity(&cluster.nodes[1]);
    cluster.nodes[1].put("key", "kept").unwrap();
    cluster.nodes.iter_mut().for_each(Node::kill);
    fs::remove_dir_all(cluster.nodes[0].data()).unwrap();
    cluster.nodes[0].start();
    until("the first node waits for the others", || {
        let reasons = cluster.nodes[0].status()?.reasons;
        reasons.iter().any(|reason| reason.contains("waiting for 2, 3 to answer")).then_some(())
    });
    cluster.nodes[1].start();
    stays_out(&cluster.nodes[0]);
    cluster.nodes[2].start();
    for node in &mut cluster.nodes[1..] {
        node.ready();
        assert_eq!(identity(node).0, cluster_id);
        assert_eq!(node.fetch("/get?key=key"), (200, "kept".into()));
    }
    stays_out(&cluster.nodes[0]);
}

#[test]
fn each_of_three_is_emptied_in_turn_under_load_and_joins_again_without_a_lost_write() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--replace-after=3s"]);
    let (cluster_id, _) = identity(&cluster.nodes[0]);
    let load = Load::start(&Plan::new(&cluster));
    for emptied in 0..3 {
        load.progress(100);
        let (_, before) = identity(&cluster.nodes[emptied]);
        cluster.nodes[emptied].kill();
        fs::remove_dir_all(cluster.nodes[emptied].data()).unwrap();
        cluster.nodes[emptied].start();
        until("the emptied node is a voter again", || {
            let status = cluster.nodes[emptied].status()?;
            let id = status.node_id.filter(|id| *id != before)?;
            status.voters.iter().any(|voter| voter.node_id == id).then_some(())
        });
        cluster.settled(&["1", "2", "3"]);
        assert_eq!(identity(&cluster.nodes[emptied]).0, cluster_id);
    }
    load.progress(100);
    let mut history = load.stop();
    cluster.ready();
    for node in &cluster.nodes {
        assert_eq!(identity(node).0, cluster_id);
    }
    history.read_back(&cluster.nodes);
    history.check();
}

#[test]
fn two_voters_of_which_one_is_emptied_say_that_recovery_is_needed() {
    let _alone = alone();
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].put("key", "kept").unwrap();
    cluster.nodes[1].kill();
    fs::remove_dir_all(cluster.nodes[1].data()).unwrap();
    cluster.nodes[1].start();
    cluster.nodes[1].gives_reason("`kuberaft recover` is needed");
    assert!(cluster.nodes[1].is_running());
}
