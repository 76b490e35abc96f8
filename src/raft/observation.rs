//! What the core reports for metrics, logs and the page: one typed stream.

use crate::types::{LogIndex, NodeId, StateDigest, Term};

/// Something worth counting or showing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Observation {
    /// This node's role or term changed.
    RoleChanged {
        /// The new role.
        role: RoleName,
        /// The current term.
        term: Term,
        /// Why, in a few words.
        why: &'static str,
    },
    /// Another leader is known now, or none.
    LeaderChanged {
        /// The leader of `term`, if known.
        leader: Option<NodeId>,
        /// The current term.
        term: Term,
    },
    /// This node asks for votes in a new term.
    ElectionStarted {
        /// The new term.
        term: Term,
    },
    /// This node won.
    ElectionWon {
        /// Its term.
        term: Term,
    },
    /// This node answered a vote request.
    VoteAnswered {
        /// The candidate.
        to: NodeId,
        /// The term asked for.
        term: Term,
        /// Whether it was a pre-vote.
        pre_vote: bool,
        /// What was answered.
        answer: VoteAnswer,
    },
    /// A voter answered the leader again after a silence.
    PeerFound {
        /// Which.
        peer: NodeId,
    },
    /// A voter has not answered the leader for an election timeout.
    PeerLost {
        /// Which.
        peer: NodeId,
    },
    /// Time from a heartbeat to its echo, in microseconds.
    PeerRoundTrip {
        /// Which peer.
        peer: NodeId,
        /// Microseconds.
        micros: u64,
    },
    /// Entries of this leader's own proposals were committed.
    Committed {
        /// Up to which index.
        index: LogIndex,
        /// Microseconds from append to commit, of the oldest entry.
        micros: u64,
    },
    /// Another configuration is in force, committed or not.
    ConfigurationChanged {
        /// Its entry.
        index: LogIndex,
        /// Whether it is joint: voters are changing.
        joint: bool,
        /// Its voters; of a joint one, those to be.
        voters: Vec<NodeId>,
        /// Its learners.
        learners: Vec<NodeId>,
    },
    /// This leader makes a learner that has caught up a voter.
    MemberPromoted {
        /// Which.
        member: NodeId,
    },
    /// A member's removal is committed; this leader sends it no more entries.
    MemberRemoved {
        /// Which.
        member: NodeId,
    },
    /// This leader begins a leadership transfer.
    TransferStarted {
        /// To whom.
        to: NodeId,
    },
    /// The handing over that this node started is over.
    TransferEnded {
        /// To whom it was.
        to: NodeId,
        /// Whether that one leads now.
        done: bool,
    },
    /// The log's beginning was dropped.
    LogCompacted {
        /// Up to which entry.
        through: LogIndex,
    },
    /// This leader sends its state to a follower.
    SnapshotStarted {
        /// Which.
        to: NodeId,
    },
    /// That has ended.
    SnapshotSent {
        /// Which follower.
        to: NodeId,
        /// The last entry that the snapshot covers, if the follower has all of it.
        index: Option<LogIndex>,
    },
    /// A leader's snapshot has arrived and takes the place of the log up to there.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// The last entry that it covers.
        index: LogIndex,
    },
    /// What was received is the applied state.
    SnapshotInstalled {
        /// The last applied entry.
        index: LogIndex,
    },
    /// The own disk has not answered for too long.
    DiskStalls {
        /// Microseconds since the oldest append that is not durable.
        micros: u64,
    },
    /// It answers again.
    DiskWorks,
    /// Too little space is left for more entries.
    SpaceLow,
    /// There is room again.
    SpaceFreed,
    /// A message of a peer was ignored: no correct one sends it to this node now. At most one is reported a second.
    MessageIgnored {
        /// Who sent it.
        from: NodeId,
        /// Why, as a stable name.
        why: &'static str,
    },
    /// The own log lacks entries that were acknowledged.
    DataLost {
        /// The last one acknowledged.
        match_index: LogIndex,
        /// The last one there is.
        last_index: LogIndex,
    },
    /// A member's state after the same entry is another one.
    StateDiffers {
        /// Which member.
        peer: NodeId,
        /// After which entry.
        index: LogIndex,
    },
    /// A member whose state differed has the same state again.
    StateAgrees {
        /// Which member.
        peer: NodeId,
        /// After which entry.
        index: LogIndex,
    },
    /// A majority of the voters has the same state after this entry, and the own one differs from it.
    StateDiverged {
        /// After which entry.
        index: LogIndex,
        /// The own state's digest.
        own: StateDigest,
        /// The majority's.
        majority: StateDigest,
    },
}

/// The roles, without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Follows a leader or waits for one.
    Follower,
    /// Asks whether an election could be won (thesis, 9.6).
    PreCandidate,
    /// Asks for votes (paper, 5.2).
    Candidate,
    /// Replicates its log (paper, 5.3).
    Leader,
}

/// How a vote request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VoteAnswer {
    /// Yes.
    Granted,
    /// The request's term is old.
    OldTerm,
    /// The vote of this term went to another.
    VotedForAnother,
    /// The candidate's log is behind (paper, 5.4.1).
    LogBehind,
    /// A leader was heard of lately; not answered at all (thesis, 6.4 and 9.6).
    LeaderAlive,
}

impl RoleName {
    /// As shown in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre_candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}
