//! Lists that differ: in their order, in their names, and nodes that were once started alone.

use std::collections::BTreeSet;

use super::cluster::{Cluster, Node, copy};
use super::{alone, until};

/// The members of a node's list, as given.
fn list(node: &Node) -> Vec<String> {
    let list = node.flags[3].strip_prefix("--raft_cluster=").unwrap();
    list.split(',').map(str::to_owned).collect()
}

fn set_list(node: &mut Node, members: &[String]) {
    node.flags[3] = format!("--raft_cluster={}", members.join(","));
}

#[test]
fn nodes_that_each_list_themselves_first_form_one_cluster() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3, &[]);
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        let mut members = list(node);
        members.rotate_left(at);
        set_list(node, &members);
    }
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.ready();
    let formed: BTreeSet<_> = cluster.nodes.iter().map(|node| node.status().unwrap().cluster_id).collect();
    assert_eq!(formed.len(), 1, "{formed:?}");
    cluster.settled(&["1", "2", "3"]);
}

#[test]
fn founding_members_with_different_lists_show_both() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3, &[]);
    let members = list(&cluster.nodes[0]);
    // The second one thinks that it is a cluster of two, and its founder.
    set_list(&mut cluster.nodes[1], &members[1..]);
    cluster.nodes.iter_mut().for_each(Node::start);
    let why = cluster.nodes[0].gives_reason("the lists of members differ");
    assert!(why.contains("this node has 1, 2, 3; 2 has 2, 3"), "{why}");
    assert!(why.contains("the same names in --initial-cluster"), "{why}");
    cluster.nodes[1].gives_reason("this node has 2, 3; 3 has 1, 2, 3");
    // Corrected, they form one.
    cluster.nodes[1].kill();
    set_list(&mut cluster.nodes[1], &members);
    cluster.nodes[1].start();
    cluster.ready();
    cluster.settled(&["1", "2", "3"]);
}

#[test]
fn nodes_that_were_started_alone_find_each_other_in_different_clusters() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3, &[]);
    let members = list(&cluster.nodes[0]);
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        set_list(node, &members[at..=at]);
        node.start();
    }
    cluster.ready();
    for node in &mut cluster.nodes {
        node.kill();
        set_list(node, &members);
        node.start();
    }
    for node in &cluster.nodes {
        let own = until("the node knows its cluster", || node.status()?.cluster_id);
        let why = node.gives_reason(" to cluster ");
        assert!(why.contains(&format!("this node belongs to cluster {own}")), "{why}");
        assert_eq!(node.fetch("/readyz").0, 503, "it leads, and is not ready");
        assert!(node.log().contains(&why), "it is warned of");
    }
    let status = cluster.command(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(error.contains("these nodes belong to 3 clusters"), "{error}");
}

#[test]
fn a_member_of_another_cluster_than_most_of_its_list_ends() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let mut other = Cluster::prepare(1, &[]);
    other.nodes[0].flags[2] = "--raft_id=3".to_owned();
    let own = list(&other.nodes[0])[0].replacen("1/", "3/", 1);
    set_list(&mut other.nodes[0], &[own]);
    other.nodes[0].start();
    other.ready();
    let data = other.nodes[0].home().join("kuberaft-data").join("3");
    other.nodes[0].kill();
    let node = &mut cluster.nodes[2];
    node.kill();
    std::fs::remove_dir_all(node.data()).unwrap();
    copy(&data, &node.data());
    // It is a cluster of its own, and leads it.
    node.start();
    assert_eq!(node.ended().code(), Some(5));
    let log = node.log();
    assert!(log.contains("belongs to cluster"), "{log}");
    assert_eq!(cluster.nodes[0].fetch("/readyz").0, 200, "the others continue");
}

#[test]
fn the_reason_behind_each_name_that_does_not_answer_is_told() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(4, &[]);
    let client = format!("2/{}", cluster.nodes[1].client.address());
    let mut members = list(&cluster.nodes[0]);
    members[1] = client;
    members[3] = "4/host.invalid:7000".to_owned();
    set_list(&mut cluster.nodes[0], &members);
    cluster.nodes[1].start();
    cluster.nodes[0].start();
    cluster.nodes[0].gives_reason("3: 127.0.0.1:");
    let (_, reasons) = cluster.nodes[0].fetch("/readyz");
    assert!(reasons.contains("connection refused"), "{reasons}");
    cluster.nodes[0].gives_reason("2: what answers there is no member: it may be a client port");
    cluster.nodes[0].gives_reason("4: the host of host.invalid:7000 does not resolve");
    let log = cluster.nodes[0].log();
    let warning = "a member cannot be asked: the host of host.invalid:7000 does not resolve";
    assert_eq!(log.matches(warning).count(), 1, "one warning for each reason: {log}");
}
