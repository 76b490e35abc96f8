//! What the core is told, and what it asks for. Both are complete: nothing else goes in or comes out.

use bytes::Bytes;

use super::{AdminRefusal, Change, Entry, HardState, Message, Observation, Promise, Signal, Snapshot};
use crate::types::{
    Instant, IoId, LogIndex, LogPosition, NodeId, ProposalId, ReadId, RequestId, Session, StagedId,
    StateDigest, Term,
};

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
        /// The forwarded writes in it that certainly never left.
        unsent: Vec<ProposalId>,
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
        /// When they are refused if they were not served.
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
        /// Digest of the state after it; `None` where states are not compared.
        digest: Option<StateDigest>,
        /// Digests after the entries that set a mark; all replicas set marks after the same entries.
        marks: Vec<(LogIndex, StateDigest)>,
    },
    /// An administrator wants other members.
    ChangeMembers {
        /// Answered by [`Effect::Reply`].
        request: RequestId,
        /// What to change.
        change: Change,
        /// Refused unless the configuration in force is that of this entry.
        expected: Option<LogIndex>,
        /// When the request ends with a timeout.
        deadline: Instant,
    },
    /// An administrator wants another leader.
    TransferLeadership {
        /// Answered by [`Effect::Reply`].
        request: RequestId,
        /// Who shall lead; `None`: the voter that is furthest.
        to: Option<NodeId>,
        /// When the request ends with a timeout.
        deadline: Instant,
    },
    /// The state as of this entry is durable: the log below it is no longer needed for a restart.
    SnapshotTaken {
        /// The last entry that it covers.
        position: LogPosition,
    },
    /// The transfer asked for by [`Effect::SendSnapshot`] has ended.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// As asked for.
        session: Session,
        /// As asked for.
        term: Term,
        /// The last entry that the snapshot covers, if the receiver has all of it.
        sent: Option<LogPosition>,
    },
    /// A leader's snapshot has arrived whole, was verified, and waits under `staged`.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// Its term.
        term: Term,
        /// This node's session.
        session: Session,
        /// What it covers.
        snapshot: Snapshot,
        /// Names its content for [`Effect::InstallSnapshot`] or [`Effect::DropSnapshot`].
        staged: StagedId,
    },
    /// Free space fell below the reserve: no more entries.
    SpaceLow,
    /// There is room again.
    SpaceFreed,
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
        /// The append that it depends on.
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
    /// What became of an administrator's request: the index of the entry that did it, or why it was not done.
    Reply {
        /// Which.
        request: RequestId,
        /// The outcome.
        result: Result<LogIndex, AdminRefusal>,
    },
    /// Send the state, as of any entry from now on, to a peer whose next entries the log no longer holds. Answered by
    /// [`Event::SnapshotSent`]. The entries behind what is applied now are kept meanwhile.
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// The receiver's session.
        session: Session,
        /// The leader's term.
        term: Term,
    },
    /// Make a received snapshot the state, in this order: everything before it in the log's queue; the record that
    /// makes it current; the log restarts behind it (or, with `keep_log`, drops what it covers); the state. The
    /// log's part is answered by [`Event::Appended`] of `io`, the state's by [`Event::Applied`].
    InstallSnapshot {
        /// Counts as an append.
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
    /// A received snapshot is of no use.
    DropSnapshot {
        /// Its content.
        staged: StagedId,
    },
    /// The log up to and including this entry is needed by nobody.
    Compact {
        /// The last one that may go.
        through: LogIndex,
    },
    /// This node was removed from its cluster.
    Removed {
        /// By which entry.
        index: LogIndex,
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
    /// The leader's disk is nearly full.
    SpaceLow,
    /// The leader is heard, but says that it does not hear this node.
    NotHeard,
    /// Not every member's program knows the command.
    ClusterVersion,
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
    /// The log lacks entries that this node has acknowledged.
    DataLost,
    /// A majority of the voters has another state after the same entry.
    Diverged,
}
