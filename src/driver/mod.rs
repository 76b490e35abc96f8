//! Runs a replica: a thread each for core, log, apply, checkpoint and segment preparation, bounded queues between them.
//!
//! ```text
//!  clients ──▶ ┌──────┐ appends, acknowledgements ┌─────┐ promises ──▶ peers
//!  peers ────▶ │ core │ ────────────────────────▶ │ log │
//!  (done) ───▶ └──────┘ ◀── durable, loaded ───── └─────┘
//!                 │ committed entries, confirmed reads
//!                 ▼
//!              ┌───────┐ answers ──▶ clients      ┌────────────┐
//!              │ apply │ ───────── changes ─────▶ │ checkpoint │ (sled)
//!              └───────┘                          └────────────┘
//! ```
//!
//! The core never blocks: it holds credits for the queues of log and apply, and takes no new messages or requests
//! without one for the log. What waits for apply is bounded by the core, in bytes. Queues back to the core have room
//! for every outstanding job.

mod apply_thread;
mod checkpoint;
mod clock;
mod core_thread;
mod events;
mod handle;
mod inbox;
mod log_thread;
mod observe;
mod scrub_thread;
mod segments_thread;
mod shutdown;
mod snapshots;

use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::kv;
use crate::metrics::Metrics;
use crate::raft::Message;
use crate::replica::snapshot::{Receive, Shelf};
use crate::replica::{Apply, Core, Log};
use crate::storage::StateStore;
use crate::storage::files::Files;
use crate::storage::space::Space;
use crate::storage::wal::Options;
use crate::types::{ClusterId, NodeId};

use snapshots::Receiving;

pub use clock::now;
pub use handle::{
    AdminRefusal, Change, Configuration, EventStream, Events, Handle, Member, NewMember, NextEvent,
    Observation, Observed, Outcome, PeerStatus, ReadError, Refusal, RefusalReason, RoleName, Save, Status,
    WriteError,
};
pub use inbox::Inbox;
pub use segments_thread::FreeBytes;
pub use shutdown::{Failure, Running};
pub use snapshots::SendSnapshot;

/// Jobs that may be on their way to the log. Each heartbeat is one, since its acknowledgement waits behind the appends. With
/// a few, a follower would hear its leader no longer while one flush takes a second. Their bytes are bounded elsewhere: by
/// the leader's window, and by what a follower takes that is not durable.
const LOG_CREDITS: usize = 1024;
/// Jobs that may be on their way to apply.
const APPLY_CREDITS: usize = 32;
/// Batches of changes that may wait for the checkpoint.
const CHECKPOINT_QUEUE: usize = 1024;

/// Limits and intervals of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Clients' requests that may wait for the core; one more is refused as overloaded.
    pub request_queue: usize,
    /// Peers' messages that may wait for the core; one more is dropped.
    pub message_queue: usize,
    /// The same in bytes; one message always fits.
    pub message_queue_bytes: usize,
    /// Time between checkpoints of the applied state.
    pub checkpoint_interval: Duration,
    /// With less free space on the data directory's disk the node takes no entries; in bytes, 0: never.
    pub disk_reserve_bytes: u64,
    /// Time between two times that the log's older segments are read again; zero: never.
    pub log_scrub_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_queue: 16_384,
            message_queue: 4_096,
            message_queue_bytes: 32 << 20,
            checkpoint_interval: Duration::from_secs(1),
            disk_reserve_bytes: Space::default_reserve_bytes(&Options::default()),
            log_scrub_interval: Duration::from_hours(24),
        }
    }
}

/// Hands a message to the transport; false if it was dropped.
pub type Send = Arc<dyn Fn(NodeId, Message) -> bool + std::marker::Send + Sync>;

/// Told of every configuration that comes into force, from the core's thread.
pub type OnConfiguration = Box<dyn FnMut(&Configuration) + std::marker::Send>;

/// A replica and what it is connected to.
pub struct Replica<F: Files, S: StateStore> {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
    /// Part one.
    pub core: Core,
    /// Part two.
    pub log: Log<F, S>,
    /// Part three.
    pub apply: Apply,
    /// The state that apply changes and readers read.
    pub store: Arc<RwLock<kv::Store>>,
    /// Where the checkpoint goes.
    pub state: Arc<Mutex<S>>,
    /// Where received snapshots wait.
    pub shelf: Shelf<S::Staging>,
    /// How much room its disk has left.
    pub free_bytes: FreeBytes,
    /// To the peers.
    pub send: Send,
    /// Snapshots to the peers.
    pub send_snapshot: SendSnapshot,
    /// Told of configurations.
    pub on_configuration: OnConfiguration,
    /// What to count in.
    pub metrics: Metrics,
}

/// Starts the threads.
///
/// # Errors
/// The system gives no more threads.
pub fn start<F: Files, S: StateStore + 'static>(
    replica: Replica<F, S>,
    settings: &Settings,
) -> std::io::Result<(Handle, Inbox, Running)> {
    let Replica { cluster_id, node_id, core, mut log, apply, store, state, shelf, .. } = replica;
    let Replica { send, send_snapshot, free_bytes, on_configuration, metrics, .. } = replica;
    let (requests_in, requests) = bounded(settings.request_queue);
    let (messages_in, messages) = bounded(settings.message_queue);
    // One for each job on its way; the log's thread may add one more when it fails, the segments' one now and then.
    let (done_in, done) = bounded(2 * (LOG_CREDITS + APPLY_CREDITS));
    let (log_jobs_in, log_jobs) = bounded(LOG_CREDITS + 1);
    let (apply_jobs_in, apply_jobs) = bounded(APPLY_CREDITS + 1);
    let (changes_in, changes) = checkpoint::queue(CHECKPOINT_QUEUE);
    let (segments_in, segments) = bounded(2);
    let view_wanted = checkpoint::ViewWanted::default();

    let events = Events::default();
    let status = Arc::new(RwLock::new(core_thread::status(cluster_id, node_id, &core)));
    let mut threads = shutdown::Threads::default();
    let snapshots = Arc::new(Receiving::new(
        Arc::clone(&state),
        shelf.clone(),
        Arc::clone(&status),
        done_in.clone(),
        threads.reporter(),
        snapshots::Room { free_bytes: Arc::clone(&free_bytes), reserve_bytes: settings.disk_reserve_bytes },
        metrics.clone(),
    ));
    let waiting = inbox::Waiting::new(settings.message_queue_bytes);
    let inbox = Inbox::new(messages_in, waiting, done_in.clone(), Arc::clone(&snapshots) as Arc<dyn Receive>);
    let interval = settings.log_scrub_interval;
    let scrub_lives = scrub_thread::start(&mut threads, log.wal().scrub(), &state, interval, &metrics)?;
    threads.spawn("checkpoint", {
        let view_wanted = view_wanted.clone();
        let (interval, done, metrics) = (settings.checkpoint_interval, done_in.clone(), metrics.clone());
        let every_round = move || snapshots.expire();
        // All of its work is the disk's.
        move |_| checkpoint::run(&state, &changes, view_wanted, interval, &done, every_round, &metrics)
    })?;
    threads.spawn("segments", {
        let (space, gauge) = (Space::new(settings.disk_reserve_bytes), metrics.storage_free_bytes.clone());
        let waiting = metrics.queue_length.with_label_values(&["segments"]);
        let watch = segments_thread::Watch { space, free_bytes, gauge, waiting, is_blind: false };
        let done = done_in.clone();
        // As of the checkpoint.
        move |_| segments_thread::run(&segments, watch, &done)
    })?;
    threads.spawn("apply", {
        let (done, metrics) = (done_in.clone(), metrics.clone());
        move |beat| {
            let queues = apply_thread::Queues { jobs: apply_jobs, done, changes: changes_in };
            apply_thread::run(apply, queues, &view_wanted, &send_snapshot, &metrics, beat)
        }
    })?;
    threads.spawn("log", {
        let (send, metrics) = (Arc::clone(&send), metrics.clone());
        move |beat| {
            let _ends_scrub = scrub_lives;
            log_thread::run(log, &log_jobs, &done_in, &segments_in, &send, &metrics, beat)
        }
    })?;
    threads.spawn("core", {
        let queues = core_thread::Queues { done, messages, requests, log: log_jobs_in, apply: apply_jobs_in };
        let observer = observe::Observer::new(node_id, metrics.clone(), on_configuration, events.clone());
        let status = Arc::clone(&status);
        let drop_snapshot = snapshots::dropper(shelf);
        move |beat| {
            core_thread::CoreThread::new(core, queues, send, drop_snapshot, observer, status).run(beat)
        }
    })?;
    let handle = Handle::new(requests_in.clone(), store, status, events, &metrics);
    Ok((handle, inbox, threads.running(requests_in)))
}
