//! What the core is told, and what it asks for. Both are complete: nothing else goes in or comes out.

use bytes::Bytes;

use super::{Entry, HardState, Message, Observation, Promise, Signal};
use crate::types::{Instant, IoId, LogIndex, NodeId, ProposalId, ReadId};

/// Something that happened outside the core.
#[derive(Clone, Debug)]
pub enum Event {
    /// The deadline given by `next_deadline` has come.
    Timeout,
    /// A peer's message, already checked for form, cluster and target.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A message to this peer was dropped before it left (queue full, no connection).
    SendDropped {
        /// Whom it was for.
        to: NodeId,
    },
    /// Clients' writes, all that waited.
    Propose {
        /// In the order they came.
        proposals: Vec<Proposal>,
    },
    /// Clients' linearizable reads, all that waited.
    Read {
        /// The reads.
        ids: Vec<ReadId>,
        /// When to give up on them.
        deadline: Instant,
    },
    /// Every append up to and including `io` is durable.
    Appended {
        /// The latest one.
        io: IoId,
    },
    /// The log could not write; nothing after this is durable. The core halts.
    AppendFailed,
    /// Entries asked for by [`Effect::Load`].
    Loaded {
        /// The peer they were asked for.
        peer: NodeId,
        /// From the asked index on; at least one.
        entries: Vec<Entry>,
    },
    /// Everything up to `index` has been applied to the state machine.
    Applied {
        /// Last applied index.
        index: LogIndex,
    },
}

/// One client's write.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The caller's handle for the answer.
    pub id: ProposalId,
    /// Encoded once, shared by log, wire and apply.
    pub command: Bytes,
    /// When to answer the client even if the outcome is not known.
    pub deadline: Instant,
}

/// Something the core wants done. Effects of one step must be carried out in the order given, except
/// that a [`Effect::Send`] may overtake appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write to the log, in order. Answered by [`Event::Appended`] once durable.
    Append(AppendEntries),
    /// Send at once.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        signal: Signal,
    },
    /// Send once append `after` and all before it are durable.
    Acknowledge {
        /// To whom.
        to: NodeId,
        /// What.
        promise: Promise,
        /// The append it rests on.
        after: IoId,
    },
    /// Read older entries for a peer that lags. Answered by [`Event::Loaded`].
    Load {
        /// For whom.
        peer: NodeId,
        /// First entry wanted.
        from: LogIndex,
        /// Last entry wanted; fewer may be given, at least one.
        through: LogIndex,
        /// Stop when this many bytes are read (at least one entry is given).
        bytes_max: usize,
    },
    /// Apply to the state machine, in order; the entries are committed and durable here.
    Apply {
        /// In order, without gaps to what was handed out before.
        entries: Vec<Committed>,
    },
    /// These reads are linearizable once `index` is applied. All entries up to it have been handed out before.
    ReadReady {
        /// The reads.
        ids: Vec<ReadId>,
        /// Applied index to wait for.
        index: LogIndex,
    },
    /// These reads cannot be served.
    ReadFailed {
        /// The reads.
        ids: Vec<ReadId>,
        /// Why.
        refusal: Refusal,
    },
    /// A proposal ended other than by being applied here.
    ProposalFailed {
        /// Which.
        id: ProposalId,
        /// Why, and whether it may still be applied.
        refusal: Refusal,
    },
    /// Something to count, log or show.
    Observe(Observation),
    /// Stop the process; continuing could break a promise.
    Halt(HaltReason),
}

/// One record of the log: what changes in one step, durable as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// Rising by one.
    pub io: IoId,
    /// Drop this entry and all after it first.
    pub truncate_from: Option<LogIndex>,
    /// Term and vote to remember.
    pub hard_state: HardState,
    /// Commit index as known now; a hint for the next start.
    pub commit_index: LogIndex,
    /// To append, in order; may be empty.
    pub entries: Vec<Entry>,
}

/// A committed entry and, where this node waits for it, the proposal it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Who waits for its result here.
    pub proposal: Option<ProposalId>,
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stood in the way.
    pub reason: RefusalReason,
    /// Whether the write may still take effect.
    pub outcome: Outcome,
}

/// What stood in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// No leader is known.
    NoLeader,
    /// There is a leader, but no majority answers it.
    NoQuorum,
    /// Too much waits already.
    Overloaded,
    /// Leadership moved before the write was committed.
    LeadershipLost,
    /// The deadline passed although the cluster works.
    Timeout,
}

/// Whether a refused write may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly not, now or later.
    NotApplied,
    /// It may have been, or may still be.
    Unknown,
}

/// Why the process must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltReason {
    /// The log failed to write or flush; a flush is never repeated.
    DiskFailed,
}
