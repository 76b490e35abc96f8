//! The checkpoint's thread: writes what was applied to the state store, behind, so that a start need not replay the log.
//! When most of what is stored is history, it rewrites the live state, piece by piece between checkpoints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

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
    changes: &Receiver<Changes>,
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
        let wait_until = if writer.is_rewriting { Instant::now() } else { due };
        match changes.recv_deadline(wait_until) {
            Ok(change) => writer.take(change)?,
            Err(RecvTimeoutError::Timeout) => writer.continue_rewrite()?,
            Err(RecvTimeoutError::Disconnected) => {
                writer.write()?;
                return Ok(());
            }
        }
        let now = Instant::now();
        if now >= due || writer.records.len() >= RECORDS_MAX || writer.bytes >= RECORDS_BYTES_MAX {
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
        self.bytes += change.records.iter().map(Record::size_bytes).sum::<usize>();
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
