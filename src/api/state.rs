//! What all requests share.

use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::request_metrics::RequestMetrics;
use super::{Problem, Replica, Settings};
use crate::membership::{AdminError, AdminRequest};
use crate::metrics::Metrics;
use crate::types::{LogIndex, NodeId};

/// Who this node is, as far as it is known before a replica runs.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where clients reach it, `host:port`.
    pub client_addr: Option<String>,
}

/// What is known of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where clients reach it, `host:port`, if it has told.
    pub client_addr: Option<String>,
}

/// Looks up another member; must be quick, it is called while requests are answered.
pub type Directory = Arc<dyn Fn(NodeId) -> Option<Peer> + Send + Sync>;

/// Does what administrators ask for, within this time, wherever the leader is.
pub type Administer = Arc<dyn Fn(AdminRequest, Duration) -> AdminAnswer + Send + Sync>;

/// The index of the entry that did it, or why it was not done; under way.
pub type AdminAnswer = Pin<Box<dyn Future<Output = Result<LogIndex, AdminError>> + Send>>;

/// The API of one node. Answers from the start: keys are refused with the reason given by
/// [`Api::set_waiting`] until [`Api::start`].
pub struct Api<R> {
    pub(super) node: Node,
    pub(super) settings: Settings,
    pub(super) metrics: Metrics,
    pub(super) directory: Directory,
    pub(super) requests: RequestMetrics,
    node_id: OnceLock<NodeId>,
    replica: OnceLock<R>,
    administer: OnceLock<Administer>,
    waiting: RwLock<Option<String>>,
    advice: RwLock<Option<String>>,
    mentioned: RwLock<Option<String>>,
    draining: watch::Sender<bool>,
    /// One snapshot is sent at a time: each keeps what was overwritten meanwhile in memory.
    pub(super) snapshots: Arc<Semaphore>,
}

impl<R: Replica> Api<R> {
    /// An API without a replica yet.
    #[must_use]
    pub fn new(node: Node, settings: Settings, metrics: Metrics, directory: Directory) -> Self {
        let requests = RequestMetrics::new(&metrics);
        let waiting = RwLock::new(Some("the replica does not run yet".into()));
        let (node_id, replica, administer) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self {
            node,
            settings,
            metrics,
            directory,
            requests,
            node_id,
            replica,
            administer,
            waiting,
            advice: RwLock::default(),
            mentioned: RwLock::default(),
            draining: watch::Sender::new(false),
            snapshots: Arc::new(Semaphore::new(1)),
        }
    }

    /// Tells this node's identity from now on: the data directory is open. Later calls change nothing.
    pub fn identify(&self, node_id: NodeId) {
        let _ = self.node_id.set(node_id);
    }

    /// Serves keys from `replica` from now on. The first call counts; later ones change nothing.
    pub fn start(&self, replica: R) {
        let _ = self.replica.set(replica);
        self.set_waiting(None);
    }

    /// Hands requests of administrators to `administer` from now on. The first call counts.
    pub fn administer_by(&self, administer: Administer) {
        let _ = self.administer.set(administer);
    }

    pub(super) fn administer(&self) -> Option<&Administer> {
        self.administer.get()
    }

    /// Says why this node is not ready: what the bootstrap waits for, or that the process shuts down.
    /// `None` takes it back.
    pub fn set_waiting(&self, reason: Option<String>) {
        *self.waiting.write().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Says what can be done about a leader that is not found; told only while none is. `None` takes it back.
    pub fn advise(&self, advice: Option<String>) {
        *self.advice.write().unwrap_or_else(PoisonError::into_inner) = advice;
    }

    pub(super) fn advice(&self) -> Option<String> {
        self.advice.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what this node waits for as the leader, though it is ready: only its status tells. `None` takes it back.
    pub fn mention(&self, waits: Option<String>) {
        *self.mentioned.write().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    pub(super) fn mentioned(&self) -> Option<String> {
        self.mentioned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends what would go on for ever, such as streams of events: the server stops.
    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(super) fn waiting(&self) -> Option<String> {
        self.waiting.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn node_id(&self) -> Option<NodeId> {
        self.node_id.get().copied()
    }

    pub(super) fn running(&self) -> Option<&R> {
        self.replica.get()
    }

    /// The replica, or the answer to a request for a key before there is one.
    pub(super) fn replica(&self) -> Result<&R, Problem> {
        self.running().ok_or_else(|| {
            Problem::not_serving(self.waiting().unwrap_or_else(|| "the replica does not run yet".into()))
        })
    }
}
