//! A replica in three parts without threads or I/O of their own: core, log and apply.
//!
//! Each part takes input and fills an output; the caller carries the outputs to the next part, in order.
//! The driver gives each part a thread and a bounded queue. What must stay in order travels in one queue: an
//! acknowledgement goes through the log's queue behind the append that it depends on, a confirmed read through apply's
//! queue behind the entries it must see.

pub mod admission;
mod apply;
mod log;
pub mod recovery;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use apply::{Apply, ApplyOutput, Unappliable};
pub use log::{Log, LogOutput};

use crate::raft::{
    AdminRefusal, AppendEntries, Committed, Effect, Event, HaltReason, HardState, Message, Observation,
    Promise, Raft, Refusal, Snapshot,
};
use crate::types::{Instant, IoId, LogIndex, NodeId, ProposalId, ReadId, RequestId, Session, StagedId, Term};

/// The consensus core and the routing of its effects.
pub struct Core {
    raft: Raft,
    durable: IoId,
    applied: LogIndex,
    held: Option<Held>,
}

/// What apply is to do once a snapshot is durably the state: no change of the state may reach the state store while
/// that still holds the old one.
struct Held {
    until: IoId,
    inputs: Vec<ApplyInput>,
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
    /// Make a received snapshot the durable state, and let the log follow it.
    Install {
        /// Answered as an append.
        io: IoId,
        /// What it covers.
        snapshot: Snapshot,
        /// Its content.
        staged: StagedId,
        /// Term and vote to remember.
        hard_state: HardState,
        /// The log holds the snapshot's last entry: what follows it stays.
        keep_log: bool,
    },
    /// Drop what nobody needs.
    Compact {
        /// The last entry that may go.
        through: LogIndex,
    },
}

/// Input of the apply part.
#[derive(Debug)]
pub enum ApplyInput {
    /// Apply these.
    Entries(Vec<Committed>),
    /// These reads may be served once everything before them in the queue is applied.
    Reads(Vec<ReadId>),
    /// Replace the state by a received snapshot, which is durably the state by now.
    Install {
        /// What it covers.
        snapshot: Snapshot,
        /// Its content.
        staged: StagedId,
    },
    /// Cut the state as it is then, for a peer.
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// The receiver's session.
        session: Session,
        /// The leader's term.
        term: Term,
    },
}

impl Core {
    /// Wraps a core whose entries up to `applied` have been applied.
    #[must_use]
    pub fn new(raft: Raft, applied: LogIndex) -> Self {
        Self { raft, durable: IoId(0), applied, held: None }
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
            Event::Appended { io } => {
                self.durable = self.durable.max(*io);
                self.release(out);
            }
            Event::Applied { index, .. } => self.applied = self.applied.max(*index),
            _ => {}
        }
        let event = admission::without_unappliable(event, self.raft.feature_level(), out);
        let mut effects = Vec::new();
        self.raft.step(now, event, &mut effects);
        for effect in effects {
            self.route(effect, out);
        }
    }

    /// Passes on what waited for a snapshot to be durable.
    fn release(&mut self, out: &mut CoreOutput) {
        if let Some(held) = self.held.take_if(|held| held.until <= self.durable) {
            out.apply.extend(held.inputs);
        }
    }

    fn queue_for_apply(&mut self, input: ApplyInput, out: &mut CoreOutput) {
        match &mut self.held {
            Some(held) => held.inputs.push(input),
            None => out.apply.push(input),
        }
    }

    fn route(&mut self, effect: Effect, out: &mut CoreOutput) {
        match effect {
            Effect::Append(append) => out.log.push(LogInput::Append(append)),
            Effect::Send { to, signal } => out.sends.push((to, signal.into())),
            Effect::Acknowledge { to, promise, after }
                if self.raft.settings().rules.may_acknowledge(after, self.durable) =>
            {
                out.sends.push((to, promise.into()));
            }
            Effect::Acknowledge { to, promise, .. } => out.log.push(LogInput::Acknowledge { to, promise }),
            Effect::Load { peer, from, through, bytes_max } => {
                out.log.push(LogInput::Load { peer, from, through, bytes_max });
            }
            Effect::Apply { entries } => self.queue_for_apply(ApplyInput::Entries(entries), out),
            Effect::ReadReady { ids, index } if index <= self.applied => out.ready_reads.extend(ids),
            Effect::ReadReady { ids, .. } => self.queue_for_apply(ApplyInput::Reads(ids), out),
            Effect::ReadFailed { ids, refusal } => {
                out.failed_reads.extend(ids.into_iter().map(|id| (id, refusal)));
            }
            Effect::ProposalFailed { id, refusal } => out.failed_writes.push((id, refusal)),
            Effect::Reply { request, result } => out.replies.push((request, result)),
            Effect::DropSnapshot { staged } => out.dropped_snapshots.push(staged),
            Effect::Removed { index } => out.removed = Some(index),
            Effect::SendSnapshot { to, session, term } => {
                self.queue_for_apply(ApplyInput::SendSnapshot { to, session, term }, out);
            }
            Effect::InstallSnapshot { io, snapshot, staged, hard_state, keep_log } => {
                // What was held for an earlier one stays before it.
                let held = self.held.get_or_insert(Held { until: io, inputs: Vec::new() });
                held.until = io;
                held.inputs.push(ApplyInput::Install { snapshot: snapshot.clone(), staged });
                out.log.push(LogInput::Install { io, snapshot, staged, hard_state, keep_log });
            }
            Effect::Compact { through } => out.log.push(LogInput::Compact { through }),
            Effect::Observe(observation) => out.observations.push(observation),
            Effect::Halt(reason) => out.halt = Some(reason),
        }
    }
}
