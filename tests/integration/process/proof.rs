//! Acts that cannot be undone need proof: a removal, the first contact of an empty node, the place of a silent member.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kuberaft::membership::{Formed, Intent, Local, RemovedBy, Standing};
use kuberaft::metrics::Metrics;
use kuberaft::raft::{Configuration, Member};
use kuberaft::supervision::Tasks;
use kuberaft::transport::{
    self, AdminFuture, Administrator, BootstrapStore, PeerDirectory, PeerService, Peers, PeersContext,
    Settings, StoreError,
};
use kuberaft::types::{ClusterId, LogIndex, NodeId};
use tokio::sync::oneshot;

use super::cluster::{Cluster, Node, exchange};
use super::{alone, runtime, until};

struct NoStore;

impl BootstrapStore for NoStore {
    fn save_intent(&self, _: &Intent) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_membership(&self, _: &Formed) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Says of everybody that it was removed.
struct Liar(Configuration);

impl Administrator for Liar {
    fn at_leader(
        &self,
        _: kuberaft::membership::AdminRequest,
        _: bool,
        _: std::time::Duration,
    ) -> AdminFuture {
        unreachable!("nobody asks for it")
    }

    fn anywhere(&self, _: kuberaft::membership::AdminRequest, _: std::time::Duration) -> AdminFuture {
        unreachable!("nobody asks for it")
    }

    fn removed_by(&self, _: NodeId) -> Option<RemovedBy> {
        Some(RemovedBy { index: LogIndex(1_000_000), configuration: Some(self.0.clone()) })
    }
}

fn local(node: &Node, node_id: NodeId) -> Local {
    Local {
        node_id,
        name: node.name.clone(),
        client_addr: node.client.address(),
        peer_addr: Some(node.peer.address()),
    }
}

/// Answers in the place of a node that is down, until the returned sender is dropped.
fn impersonate(node: &Node, node_id: NodeId, cluster_id: ClusterId, liar: Liar) -> oneshot::Sender<()> {
    let standing = Standing::Member(Formed { cluster_id, configuration: None });
    let directory = PeerDirectory::default();
    let service = PeerService::new(local(node, node_id), standing, Arc::new(NoStore), directory);
    service.administer_by(Arc::new(liar));
    let (stop, stopped) = oneshot::channel::<()>();
    let address = node.peer.address();
    runtime().spawn(async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let stopped = async { drop(stopped.await) };
        transport::serve(listener, service, &Settings::default(), stopped).await.unwrap();
    });
    stop
}

#[test]
fn one_word_that_a_node_was_removed_sets_nothing_aside() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    cluster.nodes[0].put("key", "kept").unwrap();
    let status = cluster.nodes[0].status().unwrap();
    let (first, cluster_id) = (status.node_id.unwrap(), status.cluster_id.unwrap());
    let last = cluster.nodes[2].status().unwrap().node_id.unwrap();
    let voters = status
        .voters
        .iter()
        .filter(|voter| voter.node_id != last)
        .map(|voter| (voter.node_id, Member { name: voter.name.clone(), ..Member::default() }));
    let claimed = Configuration {
        voters: voters.collect(),
        removed: [(last, LogIndex(1_000_000))].into(),
        ..Configuration::default()
    };
    cluster.nodes.iter_mut().for_each(Node::kill);
    let liar = impersonate(&cluster.nodes[0], first, cluster_id, Liar(claimed));
    cluster.nodes[2].start();
    let why = cluster.nodes[2].gives_reason("removed this node from cluster");
    assert!(why.contains("1 says") && why.contains("move its data directory away"), "{why}");
    assert!(!cluster.nodes[2].data().join("data.removed").exists());
    let (status, reasons) = cluster.nodes[2].fetch("/readyz");
    assert_eq!(status, 503);
    assert!(reasons.contains("removed this node"), "{reasons}");
    drop(liar);
    until("the liar's port is free", || {
        std::net::TcpStream::connect(cluster.nodes[0].peer.address()).is_err().then_some(())
    });
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    cluster.ready();
    assert_eq!(cluster.nodes[2].status().unwrap().node_id, Some(last), "the same node with the same data");
    assert_eq!(cluster.nodes[2].fetch("/get?key=key"), (200, "kept".into()));
}

#[test]
fn an_empty_node_is_not_bound_by_a_contact_that_it_does_not_expect() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.nodes[0].start();
    cluster.nodes[0].gives_reason("waiting for 2 to answer");
    let target = until("the node says its id", || cluster.nodes[0].status()?.node_id);
    let refused = Arc::new(AtomicU64::new(0));
    let (lost, address) = (Arc::clone(&refused), cluster.nodes[0].peer.address());
    let context = PeersContext {
        tasks: Tasks::default(),
        // The name is one that the node expects; who dials can say any.
        local: local(&cluster.nodes[1], NodeId(0xbad)),
        cluster_id: ClusterId(0xbad),
        resolver: Arc::new(move |_| vec![address.clone()]),
        on_lost: Arc::new(move |_, _| {
            lost.fetch_add(1, Ordering::SeqCst);
        }),
        on_snapshot_end: Arc::new(|_| ()),
        still_leads: Arc::new(|_| false),
        directory: PeerDirectory::default(),
        metrics: Metrics::new(),
        settings: Settings::default(),
    };
    let peers = Peers::new(context, runtime().handle().clone());
    peers.set_peers(&[(target, "1".to_owned())].into());
    until("its streams are refused", || (refused.load(Ordering::SeqCst) >= 3).then_some(()));
    assert_eq!(cluster.nodes[0].status().unwrap().cluster_id, None);
    drop(peers);
    cluster.nodes[1].start();
    cluster.ready();
    let formed = cluster.nodes[0].status().unwrap().cluster_id.unwrap();
    assert_ne!(formed, ClusterId(0xbad));
}

#[test]
fn a_silent_member_keeps_its_place_for_a_minute() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(3, &["--election-timeout=150ms", "--heartbeat-interval=30ms"]);
    let leader = cluster.leader();
    let lost = cluster.other(leader);
    let before = cluster.nodes[lost].status().unwrap().node_id.unwrap();
    cluster.nodes[lost].kill();
    std::fs::remove_dir_all(cluster.nodes[lost].data()).unwrap();
    cluster.nodes[lost].start();
    cluster.nodes[lost].gives_reason("silent for 3 s; it is replaced after 60 s");
    let members = cluster.nodes[leader].status().unwrap().voters;
    assert!(members.iter().any(|voter| voter.node_id == before), "it is still a member");
    let name = cluster.nodes[lost].name.clone();
    // An administrator need not wait.
    cluster.insist(&["member", "remove", &name], &["was removed for ever"]);
    cluster.settled(&["1", "2", "3"]);
}

#[test]
fn only_names_of_the_list_join_by_themselves() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let later = cluster.prepare_later(&[0, 1, 2], &["--join=auto"]);
    cluster.nodes[later].start();
    let why = cluster.nodes[later].gives_reason("is not on the members' list");
    assert!(why.contains("`kuberaft member add 4 --id") && why.contains("--admit anyone"), "{why}");
    cluster.settled(&["1", "2", "3"]);
    let id = cluster.nodes[later].status().unwrap().node_id.unwrap().to_string();
    let address = cluster.nodes[later].peer.address();
    cluster.insist(&["member", "add", "4", "--id", &id, "--peer-addr", &address], &["is that already"]);
    cluster.settled(&["1", "2", "3", "4"]);
    cluster.ready();
}

#[test]
fn a_removal_that_outlives_its_leader_has_an_unknown_outcome() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(2, &["--request-timeout=3s"]);
    let leader = cluster.leader();
    let lost = cluster.other(leader);
    let id = cluster.nodes[lost].status().unwrap().node_id.unwrap();
    cluster.nodes[lost].kill();
    let request = format!("DELETE /v1/members/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = exchange(&cluster.nodes[leader].client, request.as_bytes());
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(status >= 500, "{answer}");
    assert!(answer.contains("\"outcome\":\"unknown\""), "{answer}");
    // The true outcome shows once it is back: it was removed.
    cluster.nodes[lost].start();
    cluster.settled(&[&cluster.nodes[leader].name]);
}
