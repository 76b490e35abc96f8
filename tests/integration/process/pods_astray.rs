//! Pods that are not what they seem: a volume to be recovered while its cluster lives, one of another cluster, one that
//! was left behind.

use std::fs;
use std::ops::ControlFlow;

use kuberaft::storage::wal::Options;
use kuberaft::storage::{DataDir, Place};
use rustix::process::Signal;

use super::cluster::Node;
use super::pods::{Pods, latch, stateful_set};
use super::{alone, until};
use crate::api_server::Fault;

#[test]
fn no_twin_is_made_of_a_cluster_that_lives() {
    let _alone = alone();
    let mut pods = Pods::start(3);
    pods.write_keys();
    let original = pods.latched();
    pods.cluster.nodes[2].kill();

    let (code, told) = pods.recover(2, "ns", &["--yes"]);
    assert!(code == Some(1) && told.contains("no recovery is needed"), "{told}");
    assert!(told.contains("members of the old cluster are running: kv-"), "{told}");
    let (code, told) = pods.recover_unasked(2, "ns", &["--yes"]);
    assert!(code == Some(1) && told.contains("kv-0, kv-1 cannot be asked"), "{told}");
    assert!(told.contains("--kube-service"), "{told}");
    // Neither the API server nor DNS says where they are.
    pods.server.set_away(true);
    let (code, told) = pods.recover(2, "ns", &["--yes"]);
    assert!(code == Some(1) && told.contains("kv-0, kv-1 cannot be asked"), "{told}");
    pods.server.set_away(false);
    // They are there, and say nothing.
    for at in [0, 1] {
        pods.cluster.nodes[at].signal(Signal::STOP);
    }
    let (code, told) = pods.recover(2, "ns", &["--yes"]);
    assert!(code == Some(1) && told.contains("kv-0, kv-1 cannot be asked"), "{told}");
    for at in [0, 1] {
        pods.cluster.nodes[at].signal(Signal::CONT);
    }

    assert_eq!(pods.latched(), original);
    pods.cluster.nodes[2].start();
    pods.cluster.ready();
    pods.assert_keys(2);
}

/// Volumes of three pods that were stopped, with an empty latch; and the cluster that they are of.
fn sleeping_volumes() -> (Pods, String) {
    let mut pods = Pods::start(3);
    let cluster_id = pods.latched();
    for at in 0..3 {
        pods.stop(at);
    }
    pods.server.put("configmaps", latch(""));
    (pods, cluster_id)
}

#[test]
fn a_volume_that_started_with_an_empty_latch_is_refused_once_that_names_another_cluster() {
    let _alone = alone();
    let (mut pods, foreign) = sleeping_volumes();
    pods.cluster.nodes[2].start();
    pods.cluster.nodes[2].gives_reason("no leader");
    pods.server.put("configmaps", latch("0000000000000008"));
    assert_eq!(pods.cluster.nodes[2].ended().code(), Some(5));
    let log = pods.cluster.nodes[2].log();
    assert!(log.contains(&foreign) && log.contains("says that cluster 0000000000000008 was formed"), "{log}");
    assert!(pods.is_announced("OtherCluster"));
}

#[test]
fn a_volume_that_started_while_the_latch_was_unknown_is_refused_next_to_a_majority_of_another_cluster() {
    let _alone = alone();
    let (mut pods, foreign) = sleeping_volumes();
    for at in [0, 1] {
        fs::remove_dir_all(pods.cluster.nodes[at].data()).unwrap();
    }
    pods.server.put("statefulsets", stateful_set(2));
    for at in 0..2 {
        pods.cluster.nodes[at].start();
    }
    pods.cluster.ready();
    assert_ne!(pods.latched(), foreign);
    pods.server.put("statefulsets", stateful_set(3));
    pods.server.fail("GET", "configmaps", Fault::Status(500), usize::MAX);
    pods.cluster.nodes[2].start();
    assert_eq!(pods.cluster.nodes[2].ended().code(), Some(5));
    let log = pods.cluster.nodes[2].log();
    let both = format!(
        "belongs to cluster {foreign}, but a majority of the expected members to cluster {}",
        pods.latched()
    );
    assert!(log.contains(&both), "{both} in {log}");
}

#[test]
fn a_learner_removed_before_it_had_received_anything_comes_back() {
    let _alone = alone();
    let mut pods = Pods::prepare(2);
    pods.server.put("statefulsets", stateful_set(1));
    pods.cluster.nodes[0].start();
    pods.cluster.ready();
    // As if it was killed right after the leader's first contact.
    let root = pods.cluster.nodes[1].data();
    let mut data = DataDir::open(&root, "kv-1", Options::default(), &mut |_| ControlFlow::Break(())).unwrap();
    data.settle_in(&Place { namespace: "ns".into(), stateful_set: "kv".into() }).unwrap();
    data.join(pods.cluster.nodes[0].status().unwrap().cluster_id.unwrap(), None).unwrap();
    let id = data.identity().node_id.to_string();
    drop(data);
    pods.cluster.insist(&["member", "add", "kv-1", "--id", &id], &["was removed for ever"]);
    // Only one replica is wanted.
    until("it is removed", || pods.is_announced("MembersRemoved").then_some(()));
    pods.cluster.settled(&["kv-0"]);

    pods.server.put("statefulsets", stateful_set(2));
    pods.cluster.nodes[1].start();
    pods.cluster.settled(&["kv-0", "kv-1"]);
    assert!(root.join("data.removed").is_dir());
}

#[test]
fn an_intent_of_which_nobody_was_told_is_started_again_with_those_expected_now() {
    let _alone = alone();
    let mut pods = Pods::prepare(3);
    pods.server.fail("PATCH", "configmaps", Fault::Status(403), usize::MAX);
    pods.cluster.nodes.iter_mut().for_each(Node::start);
    until("the latch is to be filled", || (pods.server.count("PATCH configmaps") > 0).then_some(()));
    pods.cluster.nodes.iter_mut().for_each(Node::kill);
    pods.server.put("statefulsets", stateful_set(1));
    pods.server.heal();
    pods.cluster.nodes[0].start();
    pods.cluster.ready();
    pods.cluster.settled(&["kv-0"]);
    pods.assert_latched(0);
}
