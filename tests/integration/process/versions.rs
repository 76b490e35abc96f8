//! Programs of different feature levels in one cluster. Level 1 exists for these tests alone: it has another encoding of
//! commands, which `?encoding=2` asks for.

use super::backup::succeed;
use super::cluster::{Cluster, Node, exchange};
use super::{alone, until};

/// Writes with the encoding that needs feature level 1; returns the status line and the rest of the answer.
fn put_2(node: &Node, key: &str) -> (u16, String) {
    let request = format!(
        "PUT /v1/kv/{key}?encoding=2 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nnew"
    );
    let answer = String::from_utf8(exchange(&node.client, request.as_bytes())).unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("no answer: {answer}")), answer)
}

fn refused(cluster: &Cluster) {
    for node in &cluster.nodes {
        let (code, answer) = put_2(node, "early");
        assert_eq!(code, 503, "{answer}");
        assert!(answer.contains("\"cluster_version\"") && answer.contains("\"not_applied\""), "{answer}");
        assert_eq!(node.fetch("/get?key=early").0, 404);
    }
}

fn set_level(node: &mut Node, level: u64) {
    node.flags.retain(|flag| !flag.starts_with("--feature-level"));
    node.flags.push(format!("--feature-level={level}"));
}

#[test]
fn a_command_above_the_level_of_the_cluster_waits_for_the_upgrade_of_all_members() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let directory = cluster.directory.path().to_owned();
    cluster.nodes[0].put("old", "value").unwrap();
    refused(&cluster);

    // One after the other is upgraded; the last one holds the others back.
    for at in 0..3 {
        refused(&cluster);
        let node = &mut cluster.nodes[at];
        node.kill();
        set_level(node, 1);
        node.start();
        cluster.ready();
    }
    until("the level is raised at all nodes", || {
        let raised = |node: &Node| node.status().is_some_and(|status| status.cluster_feature_level.0 == 1);
        cluster.nodes.iter().all(raised).then_some(())
    });
    for (at, node) in cluster.nodes.iter().enumerate() {
        // A level counts for clients once it is committed and applied; until then a write is refused, to be repeated.
        until("the command is taken", || (put_2(node, &format!("key-{at}")).0 == 200).then_some(()));
        assert_eq!(node.status().unwrap().feature_level.0, 1);
    }
    for node in &cluster.nodes {
        for at in 0..3 {
            assert_eq!(node.fetch(&format!("/get?key=key-{at}")), (200, "new".into()));
        }
    }

    // There is no way back for a member, whether it has its data or not.
    let at = cluster.other(cluster.leader());
    let node = &mut cluster.nodes[at];
    node.kill();
    set_level(node, 0);
    node.start();
    assert_eq!(node.ended().code(), Some(5));
    let log = node.log();
    assert!(log.contains("understands feature level 0, and the cluster has feature level 1"), "{log}");
    set_level(node, 1);
    node.start();
    cluster.ready();
    let later = cluster.prepare_later(&[0, 1, 2], &["--join=auto"]);
    let node = &mut cluster.nodes[later];
    node.start();
    assert_eq!(node.ended().code(), Some(5));
    assert!(node.log().contains("this node cannot join"), "{}", node.log());

    // A backup carries the level, and so does what is restored of it.
    let client = cluster.nodes[at].client.address();
    succeed(&directory, &["snapshot", "save", "backup", "--endpoints", &client]);
    let mut restored = Cluster::prepare(1, &[]);
    let node = &mut restored.nodes[0];
    let (file, data) = (directory.join("backup"), node.data());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    succeed(&directory, &["snapshot", "restore", file, "--data-dir", data, "--name", "1"]);
    node.start();
    assert_eq!(node.ended().code(), Some(5));
    assert!(node.log().contains("the cluster has feature level 1"), "{}", node.log());
    set_level(node, 1);
    node.start();
    node.ready();
    assert_eq!(node.status().unwrap().cluster_feature_level.0, 1);
    assert_eq!(node.fetch("/get?key=key-0"), (200, "new".into()));
}
