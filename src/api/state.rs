//! What all requests share.

use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::budget::Budget;
use super::request_metrics::RequestMetrics;
use super::snapshot_slots::SnapshotSlots;
use super::{Problem, Replica, Settings, VerifyToken};
use crate::membership::{AdminError, AdminRequest};
use crate::metrics::Metrics;
use crate::supervision::Pulse;
use crate::types::{LogIndex, NodeId};

/// Streams of events at one time: each keeps what its client does not take yet.
const EVENT_STREAMS_MAX: usize = 1_000;

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
    pub(super) requests: Arc<RequestMetrics>,
    node_id: OnceLock<NodeId>,
    replica: OnceLock<R>,
    administer: OnceLock<Administer>,
    threads: RwLock<Vec<Pulse>>,
    waiting: RwLock<Option<String>>,
    advice: RwLock<Option<String>>,
    /// Why this node must not serve whether it finds a leader or not, and why it finds none.
    trouble: RwLock<(Option<String>, Option<String>)>,
    mentioned: RwLock<Option<String>>,
    draining: watch::Sender<bool>,
    pub(super) snapshots: Arc<SnapshotSlots>,
    /// One for each stream of events that may still be opened.
    pub(super) event_streams: Arc<Semaphore>,
    /// For bodies of requests, from before they are read until they are answered.
    pub(super) request_memory: Budget,
    /// For large values, until clients have taken them.
    pub(super) answer_memory: Budget,
    verify_token: OnceLock<VerifyToken>,
}

impl<R: Replica> Api<R> {
    /// An API without a replica yet.
    #[must_use]
    pub fn new(node: Node, settings: Settings, metrics: Metrics, directory: Directory) -> Self {
        let requests = Arc::new(RequestMetrics::new(&metrics));
        let request_memory =
            Budget::new(settings.request_memory_bytes, "the memory for requests is in use by others");
        let answer_memory =
            Budget::new(settings.answer_memory_bytes, "the memory for answers is in use by others");
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
            threads: RwLock::default(),
            waiting,
            advice: RwLock::default(),
            trouble: RwLock::default(),
            mentioned: RwLock::default(),
            draining: watch::Sender::new(false),
            snapshots: Arc::default(),
            event_streams: Arc::new(Semaphore::new(EVENT_STREAMS_MAX)),
            request_memory,
            answer_memory,
            verify_token: OnceLock::new(),
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

    /// Has the liveness probe fail when one of these threads, too, stands still.
    pub fn watch_threads(&self, threads: Pulse) {
        self.threads.write().unwrap_or_else(PoisonError::into_inner).push(threads);
    }

    /// Why the process is not alive.
    pub(super) fn troubles(&self) -> Vec<String> {
        let (threads, now) = (self.threads.read().unwrap_or_else(PoisonError::into_inner), Instant::now());
        threads.iter().flat_map(|threads| threads.troubles(now)).collect()
    }

    /// Hands requests of administrators to `administer` from now on. The first call counts.
    pub fn administer_by(&self, administer: Administer) {
        let _ = self.administer.set(administer);
    }

    /// Takes those for administrators, too, who send a bearer token for which `verify` says yes. The first call counts.
    pub fn verify_tokens_by(&self, verify: VerifyToken) {
        let _ = self.verify_token.set(verify);
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

    /// Says that this node is in the wrong place (`astray`), and why it finds no leader (`lost`); `None` takes it back.
    pub fn report_trouble(&self, astray: Option<String>, lost: Option<String>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = (astray, lost);
    }

    pub(super) fn trouble(&self) -> (Option<String>, Option<String>) {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what this node waits for as the leader, though it is ready: only its status tells. `None` takes it back.
    pub fn mention(&self, waits: Option<String>) {
        *self.mentioned.write().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    pub(super) fn mentioned(&self) -> Option<String> {
        self.mentioned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends what would never end, such as streams of events: the server stops.
    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Completes the figures that are not kept up to date by themselves.
    pub(super) fn measure_memory(&self) {
        for (kind, budget) in [("requests", &self.request_memory), ("answers", &self.answer_memory)] {
            let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
            self.metrics.http_memory_bytes.with_label_values(&[kind]).set(gauge(budget.taken_bytes()));
            self.metrics.http_memory_max_bytes.with_label_values(&[kind]).set(gauge(budget.bytes_max()));
        }
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

impl<R> Api<R> {
    pub(super) fn verify_token(&self) -> Option<&VerifyToken> {
        self.verify_token.get()
    }
}
