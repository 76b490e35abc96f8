//! Pods that are not what they seem: a volume to be recovered while its cluster lives, one of another cluster, one that
//! was left behind.

use rustix::process::Signal;

use super::alone;
use super::pods::{Pods, latch};

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

#[test]
fn a_volume_that_woke_beside_an_empty_latch_is_refused_once_that_names_another_cluster() {
    let _alone = alone();
    let mut pods = Pods::start(3);
    let foreign = pods.latched();
    for at in 0..3 {
        pods.stop(at);
    }
    pods.server.put("configmaps", latch(""));
    pods.cluster.nodes[2].start();
    pods.cluster.nodes[2].gives_reason("no leader");
    pods.server.put("configmaps", latch("0000000000000008"));
    assert_eq!(pods.cluster.nodes[2].ended().code(), Some(5));
    let log = pods.cluster.nodes[2].log();
    assert!(log.contains(&foreign) && log.contains("says that cluster 0000000000000008 was formed"), "{log}");
    assert!(pods.is_announced("OtherCluster"));
}
