//! A replica in three parts without threads or I/O of their own: core, log and apply.
//!
//! Each part takes input and fills an output; whoever runs them carries the outputs to the next part, in order.
//! The driver gives each part a thread and a bounded queue. What must stay in order travels in one queue: an
//! acknowledgement goes through the log's queue behind the append it rests on, a confirmed read through apply's
//! queue behind the entries it must see.

pub mod recovery;
pub mod snapshot;

use std::sync::{Arc, PoisonError, RwLock};

use crate::kv::{self, Command, Record};
use crate::plant::Plant;
use crate::raft::{
    AdminRefusal, AppendEntries, Committed, Configuration, Effect, Event, HaltReason, Message, Observation,
    Payload, Promise, Raft, Refusal,
};
use crate::storage::files::Files;
use crate::storage::wal::{FlushStats, Wal};
use crate::storage::{Checkpoint, StorageError};
use crate::types::{
    Instant, IoId, LogIndex, LogPosition, LogTime, NodeId, ProposalId, ReadId, RequestId, StagedId,
};

/// The consensus core and the routing of its effects.
pub struct Core {
    raft: Raft,
    durable: IoId,
    applied: LogIndex,
}

/// What the core wants done, sorted by who does it. Drained by the caller after every turn.
#[derive(Debug, Default)]
pub struct CoreOutput {
    /// For the log, in order.
    pub log: Vec<LogInput>,
    /// For apply, in order.
    pub apply: Vec<ApplyInput>,
    /// To send at once.
    pub sends: Vec<(NodeId, Message)>,
    /// Reads that are linearizable now.
    pub ready_reads: Vec<ReadId>,
    /// Reads that failed.
    pub failed_reads: Vec<(ReadId, Refusal)>,
    /// Writes that ended other than by being applied here.
    pub failed_writes: Vec<(ProposalId, Refusal)>,
    /// Administrators' requests that ended.
    pub replies: Vec<(RequestId, Result<LogIndex, AdminRefusal>)>,
    /// Received snapshots that are of no use.
    pub dropped_snapshots: Vec<StagedId>,
    /// The entry that removed this node from its cluster.
    pub removed: Option<LogIndex>,
    /// To count and log.
    pub observations: Vec<Observation>,
    /// Stop the process.
    pub halt: Option<HaltReason>,
}

/// Input of the log part.
#[derive(Debug)]
pub enum LogInput {
    /// Write this.
    Append(AppendEntries),
    /// Send this once everything before it in the queue is durable.
    Acknowledge {
        /// To whom.
        to: NodeId,
        /// What.
        promise: Promise,
    },
    /// Read older entries.
    Load {
        /// For whom.
        peer: NodeId,
        /// First entry.
        from: LogIndex,
        /// Last entry.
        through: LogIndex,
        /// Stop at this many bytes.
        bytes_max: usize,
    },
}

/// Input of the apply part.
#[derive(Debug)]
pub enum ApplyInput {
    /// Apply these.
    Entries(Vec<Committed>),
    /// These reads may be served once everything before them in the queue is applied.
    Reads(Vec<ReadId>),
}

impl Core {
    /// Wraps a core whose entries up to `applied` have been applied.
    #[must_use]
    pub fn new(raft: Raft, applied: LogIndex) -> Self {
        Self { raft, durable: IoId(0), applied }
    }

    /// The consensus state, to look at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The last applied index that the core was told of.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut CoreOutput) {
        match &event {
            Event::Appended { io } => self.durable = self.durable.max(*io),
            Event::Applied { index } => self.applied = self.applied.max(*index),
            _ => {}
        }
        let mut effects = Vec::new();
        self.raft.step(now, event, &mut effects);
        for effect in effects {
            self.route(effect, out);
        }
    }

    fn route(&self, effect: Effect, out: &mut CoreOutput) {
        match effect {
            Effect::Append(append) => out.log.push(LogInput::Append(append)),
            Effect::Send { to, signal } => out.sends.push((to, signal.into())),
            Effect::Acknowledge { to, promise, after }
                if after <= self.durable
                    || self.raft.settings().planted.is(Plant::AcknowledgeBeforeFlush) =>
            {
                out.sends.push((to, promise.into()));
            }
            Effect::Acknowledge { to, promise, .. } => out.log.push(LogInput::Acknowledge { to, promise }),
            Effect::Load { peer, from, through, bytes_max } => {
                out.log.push(LogInput::Load { peer, from, through, bytes_max });
            }
            Effect::Apply { entries } => out.apply.push(ApplyInput::Entries(entries)),
            Effect::ReadReady { ids, index } if index <= self.applied => out.ready_reads.extend(ids),
            Effect::ReadReady { ids, .. } => out.apply.push(ApplyInput::Reads(ids)),
            Effect::ReadFailed { ids, refusal } => {
                out.failed_reads.extend(ids.into_iter().map(|id| (id, refusal)));
            }
            Effect::ProposalFailed { id, refusal } => out.failed_writes.push((id, refusal)),
            Effect::Reply { request, result } => out.replies.push((request, result)),
            Effect::DropSnapshot { staged } => out.dropped_snapshots.push(staged),
            Effect::Removed { index } => out.removed = Some(index),
            // The core does not ask for these yet.
            Effect::SendSnapshot { .. } | Effect::InstallSnapshot { .. } | Effect::Compact { .. } => {}
            Effect::Observe(observation) => out.observations.push(observation),
            Effect::Halt(reason) => out.halt = Some(reason),
        }
    }
}

/// The write-ahead log's part.
pub struct Log<F: Files> {
    wal: Wal<F>,
}

/// What the log part did.
#[derive(Debug, Default)]
pub struct LogOutput {
    /// Promises that rest on what is durable now.
    pub sends: Vec<(NodeId, Message)>,
    /// For the core.
    pub events: Vec<Event>,
    /// The flush, if there was one.
    pub flush: Option<FlushStats>,
}

impl<F: Files> Log<F> {
    /// The part that writes to `wal`.
    #[must_use]
    pub fn new(wal: Wal<F>) -> Self {
        Self { wal }
    }

    /// The log itself.
    pub fn wal(&mut self) -> &mut Wal<F> {
        &mut self.wal
    }

    /// Takes everything that waits: one write and one flush for all of it, then what rested on it.
    ///
    /// # Errors
    /// The log could not be written, flushed or read. Nothing was acknowledged that is not durable; nothing more
    /// may be: the process must stop.
    pub fn handle(&mut self, inputs: Vec<LogInput>, out: &mut LogOutput) -> Result<(), StorageError> {
        let mut last_io = None;
        let mut loads = Vec::new();
        for input in inputs {
            match input {
                LogInput::Append(append) => {
                    self.wal.append(&append);
                    last_io = Some(append.io);
                }
                LogInput::Acknowledge { to, promise } => out.sends.push((to, promise.into())),
                LogInput::Load { peer, from, through, bytes_max } => {
                    loads.push((peer, from, through, bytes_max));
                }
            }
        }
        if let Some(io) = last_io {
            match self.wal.flush() {
                Ok(stats) => out.flush = Some(stats),
                Err(error) => {
                    out.sends.clear();
                    return Err(error);
                }
            }
            out.events.push(Event::Appended { io });
        }
        for (peer, from, through, bytes_max) in loads {
            let entries = self.wal.read(from, through, bytes_max)?;
            out.events.push(Event::Loaded { peer, entries });
        }
        Ok(())
    }
}

/// The state machine's part. Readers share the store; apply takes its lock once a batch.
pub struct Apply {
    store: Arc<RwLock<kv::Store>>,
    applied: LogPosition,
    /// The log's clock at that entry.
    time: LogTime,
    configuration: (LogIndex, Arc<Configuration>),
}

/// What the apply part did.
#[derive(Debug, Default)]
pub struct ApplyOutput {
    /// Answers for this node's clients, in the order of the entries.
    pub answers: Vec<(ProposalId, kv::Answer)>,
    /// Reads that may be served now.
    pub ready_reads: Vec<ReadId>,
    /// Changes for the checkpoint, in the order of the entries.
    pub records: Vec<Record>,
}

impl Apply {
    /// A state machine that has applied everything up to `applied`.
    #[must_use]
    pub fn new(
        store: Arc<RwLock<kv::Store>>,
        applied: LogPosition,
        time: LogTime,
        configuration: (LogIndex, Arc<Configuration>),
    ) -> Self {
        Self { store, applied, time, configuration }
    }

    /// Last applied index.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied.index
    }

    /// Keys in the store.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What a checkpoint of the state as it is now covers.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let (configuration_index, configuration) = self.configuration.clone();
        let revision = self.store.read().unwrap_or_else(PoisonError::into_inner).revision();
        Checkpoint {
            applied: self.applied,
            time: self.time,
            revision,
            configuration,
            configuration_index,
            installed: false,
        }
    }

    /// The state as of [`Apply::checkpoint`].
    #[must_use]
    pub fn view(&self) -> kv::View {
        self.store.read().unwrap_or_else(PoisonError::into_inner).view()
    }

    /// Applies a batch.
    ///
    /// # Panics
    /// A committed command that does not parse, or a gap: replicas would diverge, so the process stops.
    pub fn handle(&mut self, inputs: Vec<ApplyInput>, out: &mut ApplyOutput) {
        let store = Arc::clone(&self.store);
        let mut store = store.write().unwrap_or_else(PoisonError::into_inner);
        for input in inputs {
            match input {
                ApplyInput::Entries(entries) => {
                    for committed in entries {
                        self.apply(&mut store, committed, out);
                    }
                }
                ApplyInput::Reads(ids) => out.ready_reads.extend(ids),
            }
        }
    }

    fn apply(&mut self, store: &mut kv::Store, committed: Committed, out: &mut ApplyOutput) {
        let Committed { entry, proposal } = committed;
        assert!(
            entry.index == self.applied.index.next(),
            "entry {} was handed out for apply after {}",
            entry.position(),
            self.applied
        );
        (self.applied, self.time) = (entry.position(), entry.time);
        match entry.payload {
            Payload::Noop => {}
            Payload::Configuration(configuration) => self.configuration = (entry.index, configuration),
            Payload::Command(data) => {
                let command = Command::decode(&data).unwrap_or_else(|error| {
                    panic!("committed entry {} cannot be applied: {error}", self.applied)
                });
                let answer = store.apply(entry.index, entry.time, command, &mut out.records);
                if let Some(id) = proposal {
                    out.answers.push((id, answer));
                }
            }
        }
    }
}
