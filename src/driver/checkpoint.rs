//! The checkpoint's thread: writes what was applied to the state store, behind, so that a start need not replay the log.
//! When most of what is stored is history, it rewrites the live state, piece by piece between checkpoints.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::core_thread::Done;
use super::shutdown::Failure;
use crate::kv::{Record, View};
use crate::metrics::{IntGauge, Metrics};
use crate::raft::Event;
use crate::storage::{Checkpoint, StateStore, StorageError};

/// Written earlier than the interval says when this many changes wait.
const RECORDS_MAX: usize = 65_536;
/// The same in bytes.
const RECORDS_BYTES_MAX: usize = 16 << 20;
/// A rewrite writes one more piece for each so many bytes of a checkpoint: four times as fast as the state grows, so
/// that it ends while writes come without a pause, and history stays in proportion to what is alive.
const BYTES_PER_PIECE: usize = 256 << 10;

/// The thread is woken before its time once so many batches wait, or so many bytes came; it takes this many at once at
/// most.
const WAKE_BATCHES: usize = 256;
const WAKE_BYTES: usize = 4 << 20;
const TAKEN_MAX: usize = 1024;
/// Bytes that may wait in the queue; one batch always fits. Apply waits while there are more, which the core sees as
/// entries that are committed and not applied.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// One store's part in the gauge of all that is stored.
pub(super) struct Size<'a> {
    gauge: &'a IntGauge,
    bytes: i64,
}

impl<'a> Size<'a> {
    pub(super) fn new(gauge: &'a IntGauge) -> Self {
        Self { gauge, bytes: 0 }
    }

    pub(super) fn set(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(bytes - self.bytes);
        self.bytes = bytes;
    }
}

/// The queue of changes from apply to the checkpoint's thread, for so many batches. That thread sleeps between
/// checkpoints: waking it for each batch would cost every write a switch of threads on every node.
pub(super) fn queue(batches: usize) -> (ChangesIn, ChangesOut) {
    let (changes_in, changes) = bounded(batches);
    let (wake, woken) = bounded(1);
    let (room_in, room) = bounded(1);
    let waiting = Arc::<AtomicUsize>::default();
    (
        ChangesIn { changes: changes_in, wake, room, waiting: Arc::clone(&waiting), bytes: 0 },
        ChangesOut { changes, woken, room: room_in, waiting },
    )
}

/// Apply's end of the queue.
pub(super) struct ChangesIn {
    changes: Sender<Changes>,
    wake: Sender<()>,
    /// Told after some were taken.
    room: Receiver<()>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    /// What was sent since the thread was last woken.
    bytes: usize,
}

impl ChangesIn {
    /// Waits for room. False once the checkpoint's thread has ended.
    #[must_use]
    pub(super) fn send(&mut self, change: Changes) -> bool {
        let bytes = change.size_bytes();
        while self.waiting.load(Ordering::Relaxed) > 0
            && self.waiting.load(Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX
        {
            self.wake();
            if self.room.recv().is_err() {
                return false;
            }
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        let is_urgent = change.installed || change.view.is_some();
        match self.changes.try_send(change) {
            Ok(()) => {}
            Err(TrySendError::Full(change)) => {
                self.wake();
                if self.changes.send(change).is_err() {
                    return false;
                }
            }
            Err(TrySendError::Disconnected(_)) => return false,
        }
        if is_urgent || self.bytes >= WAKE_BYTES || self.changes.len() >= WAKE_BATCHES {
            self.wake();
        }
        true
    }

    fn wake(&mut self) {
        self.bytes = 0;
        // If it was woken already, that is enough.
        let _ = self.wake.try_send(());
    }

    /// Batches that wait.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }
}

/// The checkpoint's end of the queue.
pub(super) struct ChangesOut {
    changes: Receiver<Changes>,
    woken: Receiver<()>,
    room: Sender<()>,
    waiting: Arc<AtomicUsize>,
}

impl ChangesOut {
    /// Waits until `deadline`, or until much has come. True once nothing more will come.
    fn wait(&self, deadline: Instant) -> bool {
        if self.changes.len() >= WAKE_BATCHES {
            return false;
        }
        matches!(self.woken.recv_deadline(deadline), Err(RecvTimeoutError::Disconnected))
    }

    /// What waits now, at most so much that new batches cannot keep the caller from its other work.
    fn take(&self) -> impl Iterator<Item = Changes> {
        self.changes.try_iter().take(TAKEN_MAX).inspect(|change| {
            self.waiting.fetch_sub(change.size_bytes(), Ordering::Relaxed);
            // If that is known already, it is enough.
            let _ = self.room.try_send(());
        })
    }

    fn len(&self) -> usize {
        self.changes.len()
    }
}

/// What one batch changed, and what a checkpoint after it covers.
pub(super) struct Changes {
    pub(super) records: Vec<Record>,
    pub(super) checkpoint: Checkpoint,
    /// The state was replaced by a snapshot, which is stored already: what changed before is of no use.
    pub(super) installed: bool,
    /// Keys that the state holds now.
    pub(super) keys: usize,
    /// The state after the batch, if it was [wanted](ViewWanted).
    pub(super) view: Option<View>,
}

impl Changes {
    fn size_bytes(&self) -> usize {
        self.records.iter().map(Record::size_bytes).sum()
    }
}

/// Tells apply that the next batch's changes should come with a view of the state.
#[derive(Clone, Default)]
pub(super) struct ViewWanted(Arc<AtomicBool>);

impl ViewWanted {
    fn want(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one is wanted; it is not afterwards.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The state store, shared with the log's thread, which installs snapshots. Whoever holds it keeps the other waiting:
/// it is held for one checkpoint or for one piece of a rewrite.
pub(super) type SharedState<S> = Arc<Mutex<S>>;

/// Runs until apply drops the queue; then writes what is left.
pub(super) fn run<S: StateStore>(
    state: &SharedState<S>,
    changes: &ChangesOut,
    view_wanted: ViewWanted,
    interval: Duration,
    done: &Sender<Done>,
    every_round: impl Fn(),
    metrics: &Metrics,
) -> Result<(), Failure> {
    let size = Size::new(&metrics.storage_bytes);
    let mut writer = Writer {
        state,
        view_wanted,
        done,
        metrics,
        size,
        records: Vec::new(),
        bytes: 0,
        checkpoint: None,
        keys: 0,
        is_rewriting: false,
        is_short: false,
    };
    writer.show();
    writer.measure()?;
    let waiting = metrics.queue_length.with_label_values(&["checkpoint"]);
    let mut due = Instant::now() + interval;
    loop {
        waiting.set(i64::try_from(changes.len()).unwrap_or(i64::MAX));
        let is_over = changes.wait(if writer.is_rewriting { Instant::now() } else { due });
        let mut is_idle = true;
        for change in changes.take() {
            writer.take(change)?;
            is_idle = false;
            if writer.is_full() {
                break;
            }
        }
        if is_idle {
            if is_over {
                writer.write()?;
                return Ok(());
            }
            writer.continue_rewrite()?;
        }
        let now = Instant::now();
        if now >= due || writer.is_full() {
            let pieces = 1 + writer.bytes / BYTES_PER_PIECE;
            writer.write()?;
            // Also when changes come without a pause.
            for _ in 0..pieces {
                writer.continue_rewrite()?;
            }
            every_round();
            due = now + interval;
        }
    }
}

/// What waits for the next checkpoint.
struct Writer<'a, S> {
    state: &'a Mutex<S>,
    view_wanted: ViewWanted,
    done: &'a Sender<Done>,
    metrics: &'a Metrics,
    size: Size<'a>,
    records: Vec<Record>,
    /// What `records` hold.
    bytes: usize,
    checkpoint: Option<Checkpoint>,
    keys: usize,
    is_rewriting: bool,
    /// The newest checkpoint found no room, which was logged.
    is_short: bool,
}

impl<'a, S: StateStore> Writer<'a, S> {
    fn state(&self) -> MutexGuard<'a, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a checkpoint is due, whatever the time.
    fn is_full(&self) -> bool {
        self.records.len() >= RECORDS_MAX || self.bytes >= RECORDS_BYTES_MAX
    }

    fn measure(&mut self) -> Result<(), StorageError> {
        let bytes = self.state().size_bytes()?;
        self.size.set(bytes);
        Ok(())
    }

    /// Shows up to where the state on disk reaches.
    fn show(&self) {
        let index = self.state().checkpoint().applied.index;
        self.metrics.raft_snapshot_index.set(i64::try_from(index.0).unwrap_or(i64::MAX));
    }

    fn take(&mut self, mut change: Changes) -> Result<(), StorageError> {
        if change.installed {
            self.records.clear();
            self.bytes = 0;
            self.show();
        }
        self.bytes += change.size_bytes();
        self.records.append(&mut change.records);
        let at = change.checkpoint.applied;
        self.checkpoint = Some(change.checkpoint);
        self.keys = change.keys;
        if let Some(view) = change.view {
            // The store must hold just what the view shows.
            self.write()?;
            self.state().begin_rewrite(at, Box::new(view.records()))?;
            self.is_rewriting = true;
        }
        Ok(())
    }

    /// One checkpoint of all that waits, if the disk has room for it. Else it waits on, which is not for long or not
    /// much: a node that is short of space takes no more entries.
    fn write(&mut self) -> Result<(), StorageError> {
        if self.checkpoint.is_none() {
            return Ok(());
        }
        let mut state = self.state();
        let has_room = state.make_room(&self.records)?;
        if has_room == std::mem::replace(&mut self.is_short, !has_room) {
            if has_room {
                tracing::info!("there is disk space for checkpoints again");
            } else {
                tracing::warn!("the disk is too full for a checkpoint; the log keeps what it would hold");
            }
        }
        let Some(checkpoint) = self.checkpoint.take_if(|_| has_room) else { return Ok(()) };
        state.write(&self.records)?;
        self.records.clear();
        self.bytes = 0;
        state.commit(checkpoint)?;
        let position = state.checkpoint().applied;
        let needs_rewrite = !self.is_rewriting && state.needs_rewrite(self.keys as u64)?;
        drop(state);
        self.show();
        // Fails only if the core has stopped, which needs no log any more.
        let _ = self.done.send(Done::Event(Event::SnapshotTaken { position }));
        if needs_rewrite {
            self.view_wanted.want();
        }
        self.measure()
    }

    fn continue_rewrite(&mut self) -> Result<(), StorageError> {
        if self.is_rewriting {
            self.is_rewriting = self.state().continue_rewrite()?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
