//! The log's part: appends, flushes, acknowledges; installs snapshots, drops what nobody needs.

use std::sync::{Arc, Mutex, PoisonError};

use super::LogInput;
use super::snapshot::Shelf;
use crate::raft::{AppendEntries, Event, HardState, Message, Snapshot};
use crate::storage::files::Files;
use crate::storage::wal::{FlushStats, Wal};
use crate::storage::{Checkpoint, StateStore, StorageError};
use crate::types::{IoId, LogIndex, NodeId, StagedId};

/// The write-ahead log's part. It shares the state store with the part that writes checkpoints.
pub struct Log<F: Files, S: StateStore> {
    wal: Wal<F>,
    state: Arc<Mutex<S>>,
    shelf: Shelf<S::Staging>,
}

/// What the log part did.
#[derive(Debug, Default)]
pub struct LogOutput {
    /// Promises that depend on what is durable now.
    pub sends: Vec<(NodeId, Message)>,
    /// For the core.
    pub events: Vec<Event>,
    /// The flush, if there was one.
    pub flush: Option<FlushStats>,
}

/// What waits for the next flush, or for what comes after it.
#[derive(Default)]
struct Waiting {
    io: Option<IoId>,
    loads: Vec<Load>,
    compact: Option<LogIndex>,
}

struct Load {
    peer: NodeId,
    from: LogIndex,
    through: LogIndex,
    bytes_max: usize,
}

impl<F: Files, S: StateStore> Log<F, S> {
    /// The part that writes to `wal`, and makes what is on `shelf` the state.
    #[must_use]
    pub fn new(wal: Wal<F>, state: Arc<Mutex<S>>, shelf: Shelf<S::Staging>) -> Self {
        Self { wal, state, shelf }
    }

    /// The log itself. Whoever runs this part also runs [`Wal::take_preparation`] and [`Wal::take_removal`].
    pub fn wal(&mut self) -> &mut Wal<F> {
        &mut self.wal
    }

    /// Takes everything that waits: one write and one flush for all of it, then what rested on it. Only the install of
    /// a snapshot has a flush of its own before it.
    ///
    /// # Errors
    /// The log or the state could not be written, flushed or read. Nothing was acknowledged that is not durable; nothing
    /// more may be: the process must stop.
    pub fn handle(&mut self, inputs: Vec<LogInput>, out: &mut LogOutput) -> Result<(), StorageError> {
        let result = self.take(inputs, out);
        if result.is_err() {
            out.sends.clear();
        }
        result
    }

    fn take(&mut self, inputs: Vec<LogInput>, out: &mut LogOutput) -> Result<(), StorageError> {
        let mut waiting = Waiting::default();
        for input in inputs {
            match input {
                LogInput::Append(append) => {
                    self.wal.append(&append);
                    waiting.io = Some(append.io);
                }
                LogInput::Acknowledge { to, promise } => out.sends.push((to, promise.into())),
                LogInput::Load { peer, from, through, bytes_max } => {
                    waiting.loads.push(Load { peer, from, through, bytes_max });
                }
                LogInput::Install { io, snapshot, staged, hard_state, keep_log } => {
                    self.settle(&mut waiting, out)?;
                    self.install(io, &snapshot, staged, hard_state, keep_log)?;
                    out.events.push(Event::Appended { io });
                }
                LogInput::Compact { through } => waiting.compact = waiting.compact.max(Some(through)),
            }
        }
        self.settle(&mut waiting, out)
    }

    /// Flushes, reads what was asked for, and drops last: what is to be read may be what is dropped.
    fn settle(&mut self, waiting: &mut Waiting, out: &mut LogOutput) -> Result<(), StorageError> {
        let Waiting { io, loads, compact } = std::mem::take(waiting);
        if let Some(io) = io {
            out.flush = Some(self.wal.flush()?);
            out.events.push(Event::Appended { io });
        }
        for Load { peer, from, through, bytes_max } in loads {
            let entries = self.wal.read(from, through, bytes_max)?;
            out.events.push(Event::Loaded { peer, entries });
        }
        compact.map_or(Ok(()), |through| self.wal.compact_beside(through))
    }

    /// First the state, by one durable record, then the log: a crash in between leaves a state that is ahead of its
    /// log, which the next start puts right.
    fn install(
        &mut self,
        io: IoId,
        snapshot: &Snapshot,
        staged: StagedId,
        hard_state: HardState,
        keep_log: bool,
    ) -> Result<(), StorageError> {
        let (staging, revision) = self.shelf.take_staging(staged).unwrap_or_else(|| {
            panic!("snapshot {} is to be installed, but is not staged", snapshot.position)
        });
        let checkpoint = Checkpoint {
            applied: snapshot.position,
            time: snapshot.time,
            revision,
            configuration: Arc::clone(&snapshot.configuration),
            configuration_index: snapshot.configuration_index,
            installed: true,
        };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).install(staging, checkpoint)?;
        if !keep_log {
            return self.wal.reset(snapshot.position, hard_state);
        }
        self.wal.append(&AppendEntries {
            io,
            truncate_from: None,
            hard_state,
            commit_index: snapshot.position.index,
            entries: Vec::new(),
        });
        self.wal.flush()?;
        self.wal.compact_beside(snapshot.position.index)
    }
}
