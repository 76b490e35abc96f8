//! Real sockets on loopback: forming a cluster, streams between peers, and hostile input.

mod senders;
mod snapshots;
mod surroundings;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;

use super::proto::peer_client::PeerClient;
use super::*;
use crate::membership::{Formed, InitialCluster, InitialMember, Intent, JoinPolicy, Local, Standing};
use crate::metrics::Metrics;
use crate::raft::{Append, Configuration, Entry, Member, Message, Payload, Signal};
use crate::replica::snapshot::Outcome;
use crate::supervision::Tasks;
use crate::types::{ClusterId, LogIndex, LogPosition, LogTime, NodeId, ProposalId, ReadId, Session, Term};

const X: ClusterId = ClusterId(0x10);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Where each name is now; what every node's resolver reads.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<BTreeMap<String, String>>>);

impl Addresses {
    fn resolver(&self) -> Resolver {
        let addresses = self.0.clone();
        Arc::new(move |name| addresses.lock().unwrap().get(name).cloned().into_iter().collect())
    }
}

/// A data directory.
#[derive(Default)]
struct Disk {
    standing: Mutex<Standing>,
    fails: bool,
}

impl BootstrapStore for Disk {
    fn save_intent(&self, intent: &Intent) -> Result<(), StoreError> {
        *self.standing.lock().unwrap() = Standing::Intent(intent.clone());
        if self.fails { Err("disk full".into()) } else { Ok(()) }
    }

    fn save_membership(&self, formed: &Formed) -> Result<(), StoreError> {
        *self.standing.lock().unwrap() = Standing::Member(formed.clone());
        if self.fails { Err("disk full".into()) } else { Ok(()) }
    }
}

/// One process: a peer port and what belongs to it.
struct Node {
    local: Local,
    service: PeerService,
    directory: PeerDirectory,
    disk: Arc<Disk>,
    addresses: Addresses,
    port: String,
    settings: Settings,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

fn settings() -> Settings {
    Settings {
        reconnect_min: Duration::from_millis(1),
        reconnect_max: Duration::from_millis(20),
        bootstrap_interval: Duration::from_millis(5),
        farewell: Duration::from_millis(1),
        ..Settings::default()
    }
}

fn local(name: &str, id: u64) -> Local {
    let client_addr = format!("{name}.example:80");
    Local { node_id: NodeId(id), name: name.into(), client_addr, peer_addr: None }
}

async fn start(addresses: &Addresses, name: &str, id: u64, disk: Arc<Disk>) -> Node {
    start_under(addresses, name, id, disk, settings()).await
}

async fn start_under(
    addresses: &Addresses,
    name: &str,
    id: u64,
    disk: Arc<Disk>,
    settings: Settings,
) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().to_string();
    addresses.0.lock().unwrap().insert(name.into(), port.clone());
    let (local, directory) = (local(name, id), PeerDirectory::default());
    let standing = disk.standing.lock().unwrap().clone();
    let service = PeerService::new(local.clone(), standing, disk.clone(), directory.clone());
    service.know(neighbours(addresses, settings.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let (serving, under) = (service.clone(), settings.clone());
    let server = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve(listener, serving, &under, stopped).await.unwrap();
    });
    Node { local, service, directory, disk, addresses: addresses.clone(), port, settings, stop, server }
}

/// Everybody of `NAMES`, where `addresses` has them.
fn neighbours(addresses: &Addresses, settings: Settings) -> Neighbours {
    let members = NAMES.map(|name| InitialMember { name: name.into(), address: name.into() });
    let surroundings = Arc::new(InitialCluster::new(members.into()).unwrap());
    Neighbours { surroundings, resolver: addresses.resolver(), settings }
}

fn member_of(cluster_id: ClusterId) -> Arc<Disk> {
    let formed = Formed { cluster_id, configuration: None };
    Arc::new(Disk { standing: Mutex::new(Standing::Member(formed)), fails: false })
}

fn founders(members: &[(u64, &str)]) -> Configuration {
    let voters = members
        .iter()
        .map(|&(id, name)| {
            (NodeId(id), Member { name: name.into(), session: Session(1), ..Member::default() })
        })
        .collect();
    Configuration { voters, ..Configuration::default() }
}

/// What a running node hears and loses.
struct Traffic {
    peers: Peers,
    inbox: mpsc::UnboundedReceiver<(NodeId, Message)>,
    lost: mpsc::UnboundedReceiver<NodeId>,
    /// How snapshots ended.
    ended: mpsc::UnboundedReceiver<Outcome>,
    /// Whether it leads, in whatever term.
    leads: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Node {
    /// Forms or finds its cluster among `NAMES`.
    fn bootstrap(&self) -> JoinHandle<Result<Formed, BootstrapError>> {
        self.bootstrap_with(self.addresses.resolver())
    }

    fn bootstrap_with(&self, resolver: Resolver) -> JoinHandle<Result<Formed, BootstrapError>> {
        let members = NAMES.map(|name| InitialMember { name: name.into(), address: name.into() });
        let cluster = InitialCluster::new(members.into()).unwrap();
        let (policy, name_in_use_max) = (JoinPolicy::Wait, Duration::ZERO);
        let entrance = Entrance { surroundings: Arc::new(cluster), policy, name_in_use_max };
        let (service, settings) = (self.service.clone(), self.settings.clone());
        tokio::spawn(async move { bootstrap(&service, &entrance, &resolver, &settings).await })
    }

    fn run(&self, cluster_id: ClusterId, members: &[(u64, &str)]) -> Traffic {
        let (to_inbox, inbox) = mpsc::unbounded_channel();
        let (to_lost, lost) = mpsc::unbounded_channel();
        let (to_ended, ended) = mpsc::unbounded_channel();
        let leads = Arc::new(AtomicBool::new(true));
        let still_leads = leads.clone();
        let metrics = Metrics::new();
        let context = PeersContext {
            tasks: Tasks::default(),
            local: self.local.clone(),
            cluster_id,
            resolver: self.addresses.resolver(),
            on_lost: Arc::new(move |id, _| {
                let _ = to_lost.send(id);
            }),
            on_snapshot_end: Arc::new(move |outcome| {
                let _ = to_ended.send(outcome);
            }),
            still_leads: Arc::new(move |_| still_leads.load(Ordering::Relaxed)),
            directory: self.directory.clone(),
            metrics: metrics.clone(),
            settings: self.settings.clone(),
        };
        let peers = Peers::new(context, tokio::runtime::Handle::current());
        peers.set_peers(&names(members));
        self.service
            .run(Arc::new(move |from, message| to_inbox.send((from, message)).is_ok()), peers.clone());
        Traffic { peers, inbox, lost, ended, leads, metrics }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap();
    }

    async fn wait_for_reason(&self, part: &str) {
        self.service.reasons().wait_for(|reason| reason.contains(part)).await.unwrap();
    }
}

fn names(members: &[(u64, &str)]) -> BTreeMap<NodeId, String> {
    members.iter().map(|&(id, name)| (NodeId(id), name.into())).collect()
}

fn message(id: u64) -> Message {
    Signal::ReadIndex { id: ReadId(id) }.into()
}

impl Traffic {
    /// Sends as soon as there is a stream.
    async fn send(&self, to: u64, id: u64) {
        while let Err(dropped) = self.peers.send(NodeId(to), message(id)) {
            assert!(matches!(dropped, Dropped::NotConnected | Dropped::UnknownPeer), "{dropped}");
            tokio::task::yield_now().await;
        }
    }

    async fn receive(&mut self) -> (u64, Message) {
        let (from, message) = self.inbox.recv().await.unwrap();
        (from.0, message)
    }
}

#[tokio::test]
async fn three_empty_nodes_form_one_cluster_and_talk() {
    let addresses = Addresses::default();
    let mut nodes = Vec::new();
    for (id, name) in (1..).zip(NAMES) {
        nodes.push(start(&addresses, name, id, Arc::default()).await);
    }
    let tasks: Vec<_> = nodes.iter().map(Node::bootstrap).collect();
    let mut formed = Vec::new();
    for task in tasks {
        formed.push(task.await.unwrap().unwrap());
    }
    let members = [(1, "a"), (2, "b"), (3, "c")];
    let cluster_id = formed[0].cluster_id;
    for (node, formed) in nodes.iter().zip(&formed) {
        assert_eq!(formed.cluster_id, cluster_id);
        // One that was reached by a running cluster before `Form` arrived would have none; none runs here.
        if let Some(configuration) = &formed.configuration {
            assert_eq!(*configuration, founders(&members));
        }
        assert_eq!(*node.disk.standing.lock().unwrap(), Standing::Member(formed.clone()));
        assert_eq!(node.service.reasons().borrow().clone(), "");
    }
    let mut traffic: Vec<_> = nodes.iter().map(|node| node.run(cluster_id, &members)).collect();
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        traffic[from - 1].send(to, 7).await;
        let to = usize::try_from(to).unwrap() - 1;
        assert_eq!(traffic[to].receive().await, (from as u64, message(7)));
        let (one, other) = (&nodes[from - 1], &nodes[to]);
        let heard = other.directory.get(one.local.node_id).unwrap();
        assert_eq!((heard.name, heard.client_addr), (one.local.name.clone(), one.local.client_addr.clone()));
        assert_eq!(one.directory.get(other.local.node_id).unwrap().client_addr, other.local.client_addr);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_cluster_forms_though_the_likeliest_addresses_are_dead() {
    // As after pods moved and before the API server says so.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let addresses = Addresses::default();
    let live = addresses.resolver();
    let resolver: Resolver = Arc::new(move |name| std::iter::once(dead.clone()).chain(live(name)).collect());
    let mut nodes = Vec::new();
    for (id, name) in (1..).zip(NAMES) {
        nodes.push(start(&addresses, name, id, Arc::default()).await);
    }
    let tasks: Vec<_> = nodes.iter().map(|node| node.bootstrap_with(resolver.clone())).collect();
    let mut clusters = Vec::new();
    for task in tasks {
        clusters.push(task.await.unwrap().unwrap().cluster_id);
    }
    assert!(clusters.iter().all(|id| *id == clusters[0]), "{clusters:?}");
}

#[tokio::test]
async fn a_restarted_founder_continues_with_the_same_ids_and_reaches_the_rest() {
    let addresses = Addresses::default();
    let configuration = founders(&[(1, "a"), (2, "b"), (3, "c")]);
    let intent = Intent { cluster_id: X, configuration: configuration.clone() };
    // It had told b before it crashed; c has heard nothing.
    let a = Arc::new(Disk { standing: Mutex::new(Standing::Intent(intent)), fails: false });
    let a = start(&addresses, "a", 1, a).await;
    let _b = start(&addresses, "b", 2, member_of(X)).await;
    let c = start(&addresses, "c", 3, Arc::default()).await;
    let c_forms = c.bootstrap();
    let formed = a.bootstrap().await.unwrap().unwrap();
    assert_eq!(formed, Formed { cluster_id: X, configuration: Some(configuration) });
    let traffic = a.run(X, &[(1, "a"), (2, "b"), (3, "c")]);
    let reached = c_forms.await.unwrap().unwrap();
    assert_eq!(reached.cluster_id, X);
    let mut c_hears = c.run(X, &[]);
    traffic.send(3, 1).await;
    assert_eq!(c_hears.receive().await, (1, message(1)));
}

#[tokio::test]
async fn a_founder_that_told_nobody_drops_an_intent_with_a_lost_directory() {
    let addresses = Addresses::default();
    let intent = Intent { cluster_id: X, configuration: founders(&[(1, "a"), (9, "b"), (3, "c")]) };
    let a = Arc::new(Disk { standing: Mutex::new(Standing::Intent(intent)), fails: false });
    let a = start(&addresses, "a", 1, a).await;
    let b = start(&addresses, "b", 2, Arc::default()).await;
    let c = start(&addresses, "c", 3, Arc::default()).await;
    let tasks = [a.bootstrap(), b.bootstrap(), c.bootstrap()];
    for task in tasks {
        let formed = task.await.unwrap().unwrap();
        assert_ne!(formed.cluster_id, X);
        assert_eq!(formed.configuration, Some(founders(&[(1, "a"), (2, "b"), (3, "c")])));
    }
}

#[tokio::test]
async fn an_emptied_member_stays_out_and_says_why() {
    let addresses = Addresses::default();
    let members = [(1, "a"), (2, "b"), (3, "c")];
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let c = start(&addresses, "c", 3, member_of(X)).await;
    let mut a_traffic = a.run(X, &members);
    let c_traffic = c.run(X, &members);
    // b was node 2.
    let b = start(&addresses, "b", 22, Arc::default()).await;
    let forming = b.bootstrap();
    b.wait_for_reason("has no member with this node's id 0000000000000016").await;
    c_traffic.send(1, 1).await;
    assert_eq!(a_traffic.receive().await.0, 3);
    assert!(a_traffic.peers.send(NodeId(2), message(1)).is_err());
    assert!(!forming.is_finished());
    assert_eq!(*b.disk.standing.lock().unwrap(), Standing::Empty);
    forming.abort();
}

#[tokio::test]
async fn a_node_waits_for_the_others_by_name() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, Arc::default()).await;
    let forming = a.bootstrap();
    a.wait_for_reason("waiting for b, c to answer").await;
    let _b = start(&addresses, "b", 2, Arc::default()).await;
    a.wait_for_reason("waiting for c to answer").await;
    // A wrong address.
    let b_port = addresses.0.lock().unwrap()["b"].clone();
    addresses.0.lock().unwrap().insert("c".into(), b_port);
    a.wait_for_reason("given for c, is answered by b").await;
    forming.abort();
}

#[tokio::test]
async fn a_failed_store_ends_the_bootstrap() {
    let addresses = Addresses::default();
    let disk = Arc::new(Disk { fails: true, ..Disk::default() });
    let a = start(&addresses, "a", 1, disk).await;
    let _b = start(&addresses, "b", 2, Arc::default()).await;
    let _c = start(&addresses, "c", 3, Arc::default()).await;
    let error = a.bootstrap().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cannot remember the cluster: disk full");
}

#[tokio::test]
async fn messages_arrive_in_order_and_again_after_a_restart_elsewhere() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let mut a_traffic = a.run(X, &[(1, "a"), (2, "b")]);
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let mut b_traffic = b.run(X, &[(1, "a"), (2, "b")]);
    for id in 0..2000 {
        a_traffic.send(2, id).await;
    }
    for id in 0..2000 {
        assert_eq!(b_traffic.receive().await, (1, message(id)));
    }
    drop(b_traffic);
    b.stop().await;
    assert_eq!(a_traffic.lost.recv().await, Some(NodeId(2)), "what was sent may be lost");
    assert_eq!(a_traffic.peers.send(NodeId(2), message(0)), Err(Dropped::NotConnected));
    let failures = a_traffic.metrics.raft_peer_send_failures_total.with_label_values(&["b"]);
    assert!(failures.get() >= 1);

    let b = start(&addresses, "b", 2, member_of(X)).await;
    let mut b_traffic = b.run(X, &[(1, "a"), (2, "b")]);
    a_traffic.send(2, 77).await;
    assert_eq!(b_traffic.receive().await, (1, message(77)));
}

#[tokio::test]
async fn streams_that_come_before_the_node_runs_wait_for_it() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let a_traffic = a.run(X, &[(2, "b")]);
    a_traffic.send(2, 1).await;
    let mut b_traffic = b.run(X, &[]);
    assert_eq!(b_traffic.receive().await, (1, message(1)));
}

#[tokio::test]
async fn nothing_is_shown_of_a_member_that_is_gone() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let traffic = a.run(X, &[(1, "a"), (2, "b"), (3, "c")]);
    let series = |name: &str| {
        let text = String::from_utf8(traffic.metrics.render().unwrap()).unwrap();
        let labels = [format!("=\"{name}\""), format!("=\"peer {name}\"")];
        text.lines().filter(|line| labels.iter().any(|label| line.contains(label))).count()
    };
    assert_eq!((series("b"), series("c")), (2, 2), "messages that were not sent, and those that wait");
    // The name continues under another id; then it goes.
    traffic.peers.set_peers(&names(&[(1, "a"), (9, "b"), (3, "c")]));
    assert_eq!((series("b"), series("c")), (2, 2));
    traffic.peers.set_peers(&names(&[(1, "a"), (3, "c")]));
    assert_eq!((series("b"), series("c")), (0, 2));
}

#[tokio::test]
async fn names_without_end_make_no_metrics_without_end() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let traffic = a.run(X, &[(1, "a")]);
    let contacts: Vec<_> =
        (10..200).map(|id| traffic.peers.contact(NodeId(id), &format!("stranger-{id}"))).collect();
    let text = String::from_utf8(traffic.metrics.render().unwrap()).unwrap();
    let drops = "kuberaft_raft_peer_receive_drops_total{";
    let series = |text: &str| text.lines().filter(|line| line.starts_with(drops)).count();
    assert_eq!(series(&text), 33);
    assert!(text.contains("peer=\"others\""), "{text}");
    drop(contacts);
    let text = String::from_utf8(traffic.metrics.render().unwrap()).unwrap();
    assert_eq!(series(&text), 1, "that of the others stays");
}

#[tokio::test]
async fn a_node_that_is_in_contact_can_be_answered() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let mut a_traffic = a.run(X, &[(2, "b")]);
    // b does not know its configuration yet.
    let mut b_traffic = b.run(X, &[]);
    assert_eq!(b_traffic.peers.send(NodeId(9), message(1)), Err(Dropped::UnknownPeer));
    a_traffic.send(2, 1).await;
    assert_eq!(b_traffic.receive().await, (1, message(1)));
    b_traffic.send(1, 2).await;
    assert_eq!(a_traffic.receive().await, (2, message(2)));
    assert!(!b_traffic.peers.is_member(NodeId(1)));
    // a drops b: the stream ends, and with it b's reason to talk to a.
    a_traffic.peers.set_peers(&BTreeMap::new());
    assert_eq!(a_traffic.lost.recv().await, Some(NodeId(2)));
    assert_eq!(b_traffic.lost.recv().await, Some(NodeId(1)));
}

/// A peer made by hand.
async fn stranger(node: &Node) -> PeerClient<tonic::transport::Channel> {
    PeerClient::connect(format!("http://{}", node.port)).await.unwrap()
}

fn frame(cluster_id: u64, from: u64, to: u64) -> proto::Frame {
    let introduction = proto::Introduction { name: "b".into(), ..proto::Introduction::default() };
    let route = Some(proto::Route { cluster_id, from, to });
    let messages = vec![convert::to_wire(message(1))];
    proto::Frame { route, introduction: Some(introduction), messages }
}

#[tokio::test]
async fn strangers_and_malformed_frames_are_refused_by_name() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let mut traffic = a.run(X, &[(2, "b")]);
    let mut client = stranger(&a).await;
    let mut check = async |frames: Vec<proto::Frame>, code, text: &str| {
        let status = client.stream(tokio_stream::iter(frames)).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains(text)), (code, true), "{status}");
    };
    check(vec![frame(0x11, 2, 1)], Code::FailedPrecondition, "belongs to cluster 0000000000000010").await;
    check(vec![frame(0x10, 2, 5)], Code::FailedPrecondition, "its data directory was emptied").await;
    check(vec![frame(0, 2, 1)], Code::InvalidArgument, "must be another node's").await;
    check(vec![frame(0x10, 0, 1)], Code::InvalidArgument, "must be another node's").await;
    check(vec![frame(0x10, 1, 1)], Code::InvalidArgument, "must be another node's").await;
    check(vec![proto::Frame::default()], Code::InvalidArgument, "without a route").await;
    let unnamed = proto::Frame { introduction: None, ..frame(0x10, 2, 1) };
    check(vec![unnamed], Code::InvalidArgument, "tell the sender's name").await;
    let empty = proto::Frame { messages: vec![proto::Message { body: None }], ..frame(0x10, 2, 1) };
    check(vec![empty], Code::InvalidArgument, "message is missing or unknown").await;
    assert!(traffic.inbox.try_recv().is_err(), "nothing of all this reached the core");

    check(vec![frame(0x10, 2, 1), frame(0x10, 3, 1)], Code::InvalidArgument, "differs").await;
    assert_eq!(traffic.receive().await, (2, message(1)), "what came before was good");
    let huge = proto::ForwardedProposal { id: 1, command: vec![0; GRPC_BYTES_MAX].into() };
    let forward = proto::message::Body::Forward(proto::Forward { proposals: vec![huge] });
    let huge = proto::Frame { messages: vec![proto::Message { body: Some(forward) }], ..frame(0x10, 2, 1) };
    check(vec![huge], Code::OutOfRange, "message length too large").await;
}

#[tokio::test]
async fn a_stream_ends_with_a_command_that_no_replica_can_apply() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let mut traffic = a.run(X, &[(2, "b")]);
    let poison = bytes::Bytes::from_static(b"\x01\x01");
    let forward = Signal::Forward { proposals: vec![(ProposalId(1), poison.clone())] };
    let (term, index) = (Term(1), LogIndex(1));
    let entry = Entry { term, index, time: LogTime(0), payload: Payload::Command(poison) };
    let nobody = Payload::Configuration(Arc::default());
    let unled = Entry { payload: nobody, ..entry.clone() };
    let append = |entry| {
        let (prev, commit_index) = (LogPosition::default(), LogIndex(0));
        let session = Session(1);
        Signal::Append(Append {
            term,
            session,
            prev,
            entries: vec![entry],
            commit_index,
            round: 1,
            unheard: false,
            election_timeout_ms: 0,
        })
    };
    let cases = [
        (forward, "a forwarded write: not a command: cut short"),
        (append(entry), "entry 1: not a command: cut short"),
        (append(unled), "bad configuration in entry 1: it has no voters"),
    ];
    for (signal, text) in cases {
        let messages = vec![convert::to_wire(signal.into())];
        let frames = vec![proto::Frame { messages, ..frame(0x10, 2, 1) }];
        let status = stranger(&a).await.stream(tokio_stream::iter(frames)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
    assert!(traffic.inbox.try_recv().is_err(), "nothing of all this reached the core");
    assert_eq!(traffic.metrics.raft_messages_refused_total.with_label_values(&["b"]).get(), 3);
}

#[tokio::test]
async fn founding_is_refused_to_strangers() {
    let addresses = Addresses::default();
    let b = start(&addresses, "b", 2, Arc::default()).await;
    // It forms this cluster, so that only what is wrong in a request is wrong.
    let intent = Intent { cluster_id: X, configuration: founders(&[(1, "a"), (2, "b")]) };
    let a = Disk { standing: Mutex::new(Standing::Intent(intent)), fails: false };
    let _a = start(&addresses, "a", 1, Arc::new(a)).await;
    let mut client = stranger(&b).await;
    let mut check = async |to, nonce, configuration: Configuration, text: &str| {
        let route = Some(proto::Route { cluster_id: 0x10, from: 1, to });
        let request = proto::FormRequest { route, nonce, configuration: configuration.encode() };
        let status = client.form(request).await.unwrap_err();
        assert!(status.message().contains(text), "{status}");
    };
    let both = founders(&[(1, "a"), (2, "b")]);
    check(5, 1, both.clone(), "its data directory was emptied").await;
    check(2, 1, both, "the nonce is not the newest").await;
    check(2, 0, founders(&[(1, "a"), (2, "b")]), "the nonce is not the newest").await;
    check(2, 1, founders(&[(2, "b")]), "founding by no member").await;
    assert_eq!(*b.disk.standing.lock().unwrap(), Standing::Empty);
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let mut a_traffic = a.run(X, &[]);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0xff; 4096],
    ];
    for bytes in garbage {
        let mut socket = TcpStream::connect(&a.port).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed or reset by the server; either way it is done with us.
        let _ = socket.read_to_end(&mut answer).await;
    }
    // Half a request that is never finished.
    let mut half = TcpStream::connect(&a.port).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();

    let b = start(&addresses, "b", 2, member_of(X)).await;
    let b_traffic = b.run(X, &[(1, "a")]);
    b_traffic.send(1, 5).await;
    assert_eq!(a_traffic.receive().await, (2, message(5)));
    drop(half);
    a.stop().await;
}

#[tokio::test]
async fn a_full_sink_is_counted() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let b_traffic = b.run(X, &[(1, "a")]);
    let a_traffic = a.run(X, &[]);
    let (tell, mut told) = mpsc::unbounded_channel();
    a.service.run(
        Arc::new(move |_, message| {
            tell.send(message).unwrap();
            false
        }),
        a_traffic.peers.clone(),
    );
    b_traffic.send(1, 5).await;
    b_traffic.send(1, 6).await;
    told.recv().await.unwrap();
    told.recv().await.unwrap();
    let drops = a_traffic.metrics.raft_peer_receive_drops_total.with_label_values(&["b"]);
    assert!(drops.get() >= 1, "the first was counted before the second came");
}
