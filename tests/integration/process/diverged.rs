//! A replica whose state is another one than that of a majority stops, and the others continue.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use kuberaft::kv::Record;
use kuberaft::raft::AppendEntries;
use kuberaft::replica::recovery::{Disk, survivor};
use kuberaft::storage::wal::Options;
use kuberaft::storage::{Checkpoint, DataDir, NewData, Opened, Remake, Staging};
use kuberaft::types::IoId;
use rustix::process::Signal;

use super::cluster::{Cluster, Node};
use super::{alone, until};

/// Changes a value in the state of a node that does not run, as no checksum would notice.
fn change_state(root: &Path) {
    let data = DataDir::open_existing(root, Options::default()).unwrap();
    let Opened { lock, identity, wal, recovered: found, state } = data.into_parts().unwrap();
    let disk = Disk { node_id: identity.node_id, wal, found, state };
    let found = survivor(disk, &BTreeSet::new()).unwrap();
    let cluster_id = identity.cluster_id.unwrap();
    let remake =
        Remake { node_id: identity.node_id, name: identity.name, cluster_id, place: None, audit: Vec::new() };
    let new = NewData::begin(root, &lock, remake, Options::default()).unwrap();
    let mut records: Vec<Record> = found.view.records().collect();
    let value = records.iter_mut().find_map(|record| match record {
        Record::Row(row) if row.key == "key-7" => row.value.as_mut(),
        _ => None,
    });
    *value.expect("the key is there") = Bytes::from_static(b"another value");
    let mut staging = new.stage().unwrap();
    staging.write(&records).unwrap();
    staging.seal().unwrap();
    let snapshot = found.snapshot;
    let checkpoint = Checkpoint {
        applied: snapshot.position,
        time: snapshot.time,
        revision: found.view.revision(),
        configuration: snapshot.configuration,
        configuration_index: snapshot.configuration_index,
        installed: false,
    };
    let first = AppendEntries {
        io: IoId(0),
        truncate_from: None,
        hard_state: found.hard_state,
        commit_index: snapshot.position.index,
        entries: Vec::new(),
    };
    new.install(staging, checkpoint, &first).unwrap();
}

fn differing(node: &Node) -> bool {
    node.fetch("/metrics").1.lines().any(|line| line == "kuberaft_raft_differing_members 1")
}

#[test]
fn a_member_whose_state_differs_from_a_majority_ends_with_3_and_the_others_serve_on() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    for number in 0..20 {
        cluster.nodes[leader].put(&format!("key-{number}"), format!("value-{number}")).unwrap();
    }
    // The node to be changed first, so that the others commit all that is in its log: `change_state` applies all of it.
    for node in cluster.nodes.iter_mut().rev() {
        node.signal(Signal::TERM);
        assert_eq!(node.ended().code(), Some(0));
    }
    change_state(&cluster.nodes[2].data());
    cluster.nodes.iter_mut().for_each(Node::start);
    assert_eq!(cluster.nodes[2].ended().code(), Some(3), "{}", cluster.nodes[2].log());
    let log = cluster.nodes[2].log();
    assert!(log.contains("differs from that of a majority"), "{log}");
    until("the others say that a member differed", || {
        if cluster.nodes[..2].iter().all(differing) {
            return Some(());
        }
        // It may have ended before it was connected to both. What is wrong is on its disk, so it ends again.
        cluster.nodes[2].start();
        assert_eq!(cluster.nodes[2].ended().code(), Some(3));
        None
    });
    until("the others serve", || cluster.nodes[0].put("more", "x").ok());
    // What is wrong is on its disk, so a restart changes nothing.
    cluster.nodes[2].start();
    assert_eq!(cluster.nodes[2].ended().code(), Some(3));
    assert!(cluster.nodes[..2].iter().all(Node::is_running));
}
