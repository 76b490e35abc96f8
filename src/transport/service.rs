//! The peer port: answers questions, accepts membership, receives streams. Serves before this node belongs to a
//! cluster and on, as peers ask at any time.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status, Streaming};

use super::administration::{self, SharedAdministrator};
use super::bootstrap::BootstrapStore;
use super::convert::GRPC_BYTES_MAX;
use super::deliver::deliver;
use super::dial;
use super::directory::PeerDirectory;
use super::incoming::{Connection, incoming};
use super::log_limit::LogLimit;
use super::peers::{Contact, Peers};
use super::proto::{self, peer_server};
use super::senders::{Known, Neighbours, first_of};
use super::settings::Settings;
use crate::membership::{self, Formed, Intent, Local, Refused, Standing};
use crate::raft::{Configuration, FEATURE_LEVEL, Message};
use crate::replica::snapshot::Receive;
use crate::types::{ClusterId, FeatureLevel, Name, NodeId};

/// Takes checked messages; false: no room, the message is dropped. Called in the order of arrival from each
/// peer, from several threads at once; must not block.
pub type Sink = Arc<dyn Fn(NodeId, Message) -> bool + Send + Sync>;

/// The peer port's state. Clones share it.
#[derive(Clone)]
pub struct PeerService(Arc<Shared>);

struct Shared {
    local: Local,
    store: Arc<dyn BootstrapStore>,
    directory: PeerDirectory,
    /// Held while something is made durable, so that membership is accepted once.
    founding: Mutex<Founding>,
    /// Set once; notifies all that wait for this node to belong to a cluster.
    outcome: watch::Sender<Outcome>,
    /// The names of this node's list, in the latest round of questions.
    listed: RwLock<BTreeSet<String>>,
    running: watch::Sender<Option<Running>>,
    snapshots: OnceLock<Arc<dyn Receive>>,
    /// The feature level of this program; set as the port is served.
    feature_level: OnceLock<FeatureLevel>,
    administrator: OnceLock<SharedAdministrator>,
    known: OnceLock<Known>,
    reason: watch::Sender<String>,
    stopping: watch::Sender<bool>,
    refusals: LogLimit,
}

pub(super) struct Founding {
    pub(super) standing: Standing,
    newest_nonce: Option<u64>,
}

/// How forming or joining has ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Pending,
    Member(Formed),
    /// The store failed; nothing may be accepted any more.
    Failed(String),
}

#[derive(Clone)]
pub(super) struct Running {
    sink: Sink,
    peers: Peers,
}

impl PeerService {
    /// The service of a node whose data directory says `standing`.
    #[must_use]
    pub fn new(
        local: Local,
        standing: Standing,
        store: Arc<dyn BootstrapStore>,
        directory: PeerDirectory,
    ) -> Self {
        let outcome = match &standing {
            Standing::Member(formed) => Outcome::Member(formed.clone()),
            Standing::Empty | Standing::Intent(_) | Standing::Retired(_) => Outcome::Pending,
        };
        Self(Arc::new(Shared {
            local,
            store,
            directory,
            founding: Mutex::new(Founding { standing, newest_nonce: None }),
            outcome: watch::Sender::new(outcome),
            listed: RwLock::default(),
            running: watch::Sender::new(None),
            snapshots: OnceLock::new(),
            feature_level: OnceLock::new(),
            administrator: OnceLock::new(),
            known: OnceLock::new(),
            reason: watch::Sender::new(String::new()),
            stopping: watch::Sender::new(false),
            refusals: LogLimit::default(),
        }))
    }

    /// Where this node asks about senders that it does not know. Until then they are told to come again. The first call
    /// counts; it must come before [`serve`] where there is TLS, as certificates are not looked at before.
    pub fn know(&self, neighbours: Neighbours) {
        let _ = self.0.known.set(neighbours.into());
    }

    pub(super) fn known(&self) -> Option<&Known> {
        self.0.known.get()
    }

    pub(super) fn founding(&self) -> &Mutex<Founding> {
        &self.0.founding
    }

    /// The streams to the other members, once this node runs.
    pub(super) fn peers(&self) -> Option<Peers> {
        self.0.running.borrow().as_ref().map(|running| running.peers.clone())
    }

    /// The names of the members, once this node runs.
    pub(super) fn member_names(&self) -> Vec<String> {
        self.peers().map(|peers| peers.member_names()).unwrap_or_default()
    }

    /// From now on messages go to `sink`; a node that makes contact is answered through `peers`. Streams that are
    /// open already have waited for this.
    pub fn run(&self, sink: Sink, peers: Peers) {
        self.0.running.send_replace(Some(Running { sink, peers }));
    }

    /// From now on snapshots go to `snapshots`. The first call counts.
    pub fn receive_snapshots_by(&self, snapshots: Arc<dyn Receive>) {
        let _ = self.0.snapshots.set(snapshots);
    }

    pub(super) fn snapshots(&self) -> Result<Arc<dyn Receive>, Status> {
        self.0.snapshots.get().cloned().ok_or_else(|| Status::unavailable("this node does not run yet"))
    }

    /// From now on requests of administrators and joining nodes go to `administrator`. The first call counts.
    pub fn administer_by(&self, administrator: SharedAdministrator) {
        let _ = self.0.administrator.set(administrator);
    }

    pub(super) fn administrator(&self) -> Option<&SharedAdministrator> {
        self.0.administrator.get()
    }

    /// Whether this node runs and its configuration holds `id`.
    pub(super) fn is_member(&self, id: NodeId) -> bool {
        self.0.running.borrow().as_ref().is_some_and(|running| running.peers.is_member(id))
    }

    /// Why this node does not belong to a cluster yet; empty once it does.
    #[must_use]
    pub fn reasons(&self) -> watch::Receiver<String> {
        self.0.reason.subscribe()
    }

    pub(super) fn set_reason(&self, why: &str) {
        let changed = self.0.reason.send_if_modified(|reason| {
            let changed = reason != why;
            why.clone_into(reason);
            changed
        });
        if changed && !why.is_empty() {
            tracing::info!("not in a cluster yet: {why}");
        }
    }

    /// The highest feature level that this program understands.
    pub(super) fn understood(&self) -> FeatureLevel {
        self.0.feature_level.get().copied().unwrap_or(FEATURE_LEVEL)
    }

    pub(super) fn local(&self) -> &Local {
        &self.0.local
    }

    /// The names of this node's list from now on.
    pub(super) fn list(&self, names: BTreeSet<String>) {
        *self.0.listed.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Its list, if this node is on it: one that is not takes no part in forming a cluster.
    pub(super) fn own_list(&self) -> Vec<String> {
        let listed = self.0.listed.read().unwrap_or_else(PoisonError::into_inner);
        if listed.contains(&self.0.local.name) { listed.iter().cloned().collect() } else { Vec::new() }
    }

    pub(super) fn outcome(&self) -> watch::Receiver<Outcome> {
        self.0.outcome.subscribe()
    }

    pub(super) async fn standing(&self) -> Standing {
        self.0.founding.lock().await.standing.clone()
    }

    /// Makes the start of forming a cluster durable, unless the node became a member meanwhile.
    pub(super) async fn intend(&self, intent: Intent) {
        let mut founding = self.0.founding.lock().await;
        if matches!(founding.standing, Standing::Empty | Standing::Intent(_)) {
            let saved = self.save(intent.clone(), |store, intent| store.save_intent(intent)).await;
            if saved.is_ok() {
                founding.standing = Standing::Intent(intent);
                founding.newest_nonce = None;
            }
        }
    }

    /// Gives up an intent that nobody was told of, to join another cluster. What is durable of it is overridden by that.
    pub(super) async fn give_up_intent(&self) {
        let mut founding = self.0.founding.lock().await;
        if matches!(founding.standing, Standing::Intent(_)) {
            founding.standing = Standing::Empty;
            // An invitation that depends on an answer from before is void.
            founding.newest_nonce = None;
        }
    }

    /// Makes this node a member of the cluster it intended to form.
    pub(super) async fn complete(&self) {
        let mut founding = self.0.founding.lock().await;
        if let Standing::Intent(intent) = founding.standing.clone() {
            // A failure is found in the outcome.
            let _ = self.accept(&mut founding, intent.into()).await;
        }
    }

    /// Durable first, known afterwards.
    pub(super) async fn accept(&self, founding: &mut Founding, formed: Formed) -> Result<(), Status> {
        self.save(formed.clone(), |store, formed| store.save_membership(formed)).await?;
        tracing::info!(cluster_id = %formed.cluster_id, "member of a cluster");
        founding.standing = Standing::Member(formed.clone());
        self.set_reason("");
        self.0.outcome.send_replace(Outcome::Member(formed));
        Ok(())
    }

    /// Runs a flush where it may block. After a failure nothing is saved any more: what the disk holds is unknown.
    async fn save<T: Send + 'static>(
        &self,
        record: T,
        save: impl FnOnce(&dyn BootstrapStore, &T) -> Result<(), super::StoreError> + Send + 'static,
    ) -> Result<(), Status> {
        if let Outcome::Failed(error) = &*self.0.outcome.borrow() {
            return Err(Status::internal(error.clone()));
        }
        let store = Arc::clone(&self.0.store);
        let saved = tokio::task::spawn_blocking(move || save(&*store, &record)).await;
        let error = match saved {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.0.outcome.send_replace(Outcome::Failed(error.clone()));
        Err(Status::internal(error))
    }

    /// Ends all streams and refuses new ones.
    fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    async fn receive(
        &self,
        frames: &mut Streaming<proto::Frame>,
        connection: &Connection,
    ) -> Result<(), Status> {
        let Some(first) = first_of(frames).await? else { return Ok(()) };
        self.check_route(first.route)?;
        let introduction = first.introduction.clone().unwrap_or_default();
        if introduction.name.is_empty() || introduction.name.len() > Name::BYTES_MAX {
            return Err(Status::invalid_argument("a stream's first frame must tell the sender's name"));
        }
        let route = self.admit(first.route, &introduction.name, connection).await?;
        let from = NodeId(route.from);
        self.0.directory.record(from, &introduction);
        let Running { sink, peers } = self.running().await?;
        let contact = peers.contact(from, &introduction.name);
        let ended = contact.ended();
        tokio::select! {
            result = self.deliver_all(first, frames, &route, &sink, &contact) => result,
            () = ended => Err(Status::unavailable("this node has no more to do with the sender")),
        }
    }

    /// Waits until there is something to hand messages to.
    pub(super) async fn running(&self) -> Result<Running, Status> {
        let mut running = self.0.running.subscribe();
        let running = running.wait_for(Option::is_some).await;
        let running = running.map_err(|_| Status::unavailable("stopping"))?;
        running.clone().ok_or_else(|| Status::unavailable("stopping"))
    }

    /// Says so in the log, within limits.
    fn log_refusal(&self, what: &str, from: &str, status: &Status) {
        let text = format!("{what} from {from} refused: {}", status.message());
        if status.code() != tonic::Code::Unavailable && self.0.refusals.allows(&text) {
            tracing::warn!("{text}");
        }
    }
}

impl PeerService {
    async fn deliver_all(
        &self,
        mut frame: proto::Frame,
        frames: &mut Streaming<proto::Frame>,
        route: &proto::Route,
        sink: &Sink,
        contact: &Contact,
    ) -> Result<(), Status> {
        let from = NodeId(route.from);
        loop {
            let is_gone = !self.is_member(from) && self.is_removed(from);
            deliver(frame, route, is_gone, sink, (contact, self.understood()))?;
            match frames.message().await? {
                Some(next) => frame = next,
                None => return Ok(()),
            }
        }
    }
}

/// Streams and questions of one connection at one time.
const HTTP2_STREAMS_MAX: u32 = 32;

/// Largest HTTP/2 frame that a peer may send, in bytes; the protocol's default of 16 KiB cuts appends into many.
const HTTP2_FRAME_BYTES_MAX: u32 = 1 << 20;

pub(super) fn refusal(refused: &Refused) -> Status {
    Status::failed_precondition(refused.to_string())
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        let connection = connection(&request);
        let request = request.into_inner();
        let is_certified = match &request.sender {
            Some(sender) => self.is_certified(&connection, &sender.name)?,
            None => false,
        };
        let asker = request.route.ok_or_else(|| Status::invalid_argument("a question without a route"))?;
        let mut founding = self.0.founding.lock().await;
        let cluster_id = founding.standing.cluster_id();
        if let Some(introduction) = &request.sender
            && cluster_id.is_some_and(|id| id.0 == asker.cluster_id)
            && (is_certified
                || self.known_name(NodeId(asker.from), &founding.standing).as_ref()
                    == Some(&introduction.name))
        {
            self.0.directory.record(NodeId(asker.from), introduction);
        }
        let mut nonce = 0;
        if request.forming && founding.standing == Standing::Empty {
            nonce = getrandom::u64().map_err(|error| Status::internal(error.to_string()))?;
            founding.newest_nonce = Some(nonce);
        }
        let knows_asker = match &*self.0.running.borrow() {
            Some(running) => running.peers.is_member(NodeId(asker.from)),
            None => founding.standing.founded_with(NodeId(asker.from)),
        };
        let knows_about = self.knows_about(NodeId(request.about), &request.about_name, &founding.standing);
        let removed_asker = self.administrator().and_then(|known| known.removed_by(NodeId(asker.from)));
        Ok(Response::new(proto::HelloResponse {
            route: Some(proto::Route {
                cluster_id: cluster_id.map_or(0, |id| id.0),
                from: self.0.local.node_id.0,
                to: asker.from,
            }),
            sender: Some(dial::introduction(&self.0.local, self.understood())),
            cluster_feature_level: self.administrator().map_or(0, |known| known.feature_level().0),
            nonce,
            knows_asker,
            removed_asker: removed_asker.as_ref().map_or(0, |removed| removed.index.0),
            knows_about,
            configuration: removed_asker
                .and_then(|removed| removed.configuration)
                .map(|configuration| configuration.encode())
                .unwrap_or_default(),
            intent: matches!(founding.standing, Standing::Intent(_)),
            listed: self.own_list(),
        }))
    }

    async fn form(
        &self,
        request: Request<proto::FormRequest>,
    ) -> Result<Response<proto::FormResponse>, Status> {
        let connection = connection(&request);
        let proto::FormRequest { route, nonce, configuration } = request.into_inner();
        let result = self.on_form(route, nonce, &configuration, &connection).await;
        if let Err(status) = &result {
            self.log_refusal("founding", &format!("node {:016x}", route.unwrap_or_default().from), status);
        }
        result.map(|()| Response::new(proto::FormResponse {}))
    }

    async fn stream(
        &self,
        request: Request<Streaming<proto::Frame>>,
    ) -> Result<Response<proto::StreamEnd>, Status> {
        let connection = connection(&request);
        let from = connection.from.map_or_else(String::new, |address| address.to_string());
        let mut frames = request.into_inner();
        let mut stopping = self.0.stopping.subscribe();
        let result = tokio::select! {
            result = self.receive(&mut frames, &connection) => result,
            _ = stopping.wait_for(|stopping| *stopping) => Err(Status::unavailable("stopping")),
        };
        if let Err(status) = &result {
            self.log_refusal("stream", &from, status);
        }
        result.map(|()| Response::new(proto::StreamEnd {}))
    }

    async fn offer_snapshot(
        &self,
        request: Request<proto::SnapshotHeader>,
    ) -> Result<Response<proto::SnapshotResume>, Status> {
        let connection = connection(&request);
        let header = request.into_inner();
        let result = self.on_snapshot_offer(&header, &connection).await;
        if let Err(status) = &result {
            let from = format!("node {:016x}", header.route.unwrap_or_default().from);
            self.log_refusal("snapshot", &from, status);
        }
        result.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotEnd>, Status> {
        let connection = connection(&request);
        let from = connection.from.map_or_else(String::new, |address| address.to_string());
        let mut chunks = request.into_inner();
        let mut stopping = self.0.stopping.subscribe();
        let result = tokio::select! {
            result = self.on_snapshot(&mut chunks, &connection) => result,
            _ = stopping.wait_for(|stopping| *stopping) => Err(Status::unavailable("stopping")),
        };
        if let Err(status) = &result {
            self.log_refusal("snapshot", &from, status);
        }
        result.map(Response::new)
    }

    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Response<proto::AdminResponse>, Status> {
        let connection = connection(&request);
        let request = request.into_inner();
        let call = request.call;
        if let refused @ Err(_) = self.check_level(call.as_ref(), request.feature_level) {
            return Ok(Response::new(administration::outcome_to_wire(refused)));
        }
        let joining = administration::join_from_wire(request, connection.from.map(|from| from.ip()));
        self.on_admin_call(call, joining, &connection).await.map(Response::new)
    }

    async fn change(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::AdminResponse>, Status> {
        let connection = connection(&request);
        let request = request.into_inner();
        let call = request.call;
        self.on_admin_call(call, administration::change_from_wire(request), &connection)
            .await
            .map(Response::new)
    }

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::AdminResponse>, Status> {
        let connection = connection(&request);
        let proto::TransferRequest { call, to } = request.into_inner();
        self.on_admin_call(call, Ok(administration::transfer_from_wire(to)), &connection)
            .await
            .map(Response::new)
    }
}

/// What is known of the connection that a request came by.
fn connection<T>(request: &Request<T>) -> Connection {
    request.extensions().get::<Connection>().cloned().unwrap_or_default()
}

impl PeerService {
    async fn on_form(
        &self,
        route: Option<proto::Route>,
        nonce: u64,
        configuration: &[u8],
        connection: &Connection,
    ) -> Result<(), Status> {
        let route = route.ok_or_else(|| Status::invalid_argument("founding without a route"))?;
        let own = self.0.local.node_id;
        if route.to != own.0 {
            return Err(refusal(&Refused::WrongTarget { own, target: NodeId(route.to) }));
        }
        let configuration = Configuration::decode(configuration)
            .map_err(|error| Status::invalid_argument(format!("bad configuration: {error}")))?;
        let founder = configuration.voters.get(&NodeId(route.from));
        let (Some(founder), true) = (founder, route.cluster_id != 0) else {
            return Err(Status::invalid_argument("founding by no member, or of no cluster"));
        };
        let (cluster_id, from) = (ClusterId(route.cluster_id), NodeId(route.from));
        self.check_founder(cluster_id, from, &founder.name, connection).await?;
        let offered = Formed { cluster_id: ClusterId(route.cluster_id), configuration: Some(configuration) };
        let mut founding = self.0.founding.lock().await;
        let newest = founding.newest_nonce;
        match membership::on_form(&self.0.local, &founding.standing, newest, nonce, offered) {
            Ok(None) => Ok(()),
            Ok(Some(formed)) => self.accept(&mut founding, formed).await,
            Err(refused) => Err(refusal(&refused)),
        }
    }
}

/// Serves the peer port until `shutdown` completes, then ends the open streams. Returns when all connections are
/// closed, or after `settings.shutdown_timeout`.
///
/// # Errors
/// The server could not be set up. Nothing that a peer does ends it.
pub async fn serve(
    listener: TcpListener,
    service: PeerService,
    settings: &Settings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let _ = service.0.feature_level.set(settings.feature_level);
    let peer = peer_server::PeerServer::new(service.clone())
        .max_decoding_message_size(GRPC_BYTES_MAX)
        .max_encoding_message_size(GRPC_BYTES_MAX);
    let incoming = incoming(listener, settings.tls.as_ref(), settings.connections_max);
    let mut stopping = service.0.stopping.subscribe();
    let signal = async {
        shutdown.await;
        service.stop();
    };
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(settings.window_bytes)
        .initial_connection_window_size(settings.window_bytes)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .max_concurrent_streams(Some(HTTP2_STREAMS_MAX))
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .serve_with_incoming_shutdown(peer, incoming, signal);
    let overdue = async {
        // The sender lives as long as the service, which this function holds.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(settings.shutdown_timeout).await;
    };
    tokio::select! {
        result = server => result,
        () = overdue => Ok(()),
    }
}
