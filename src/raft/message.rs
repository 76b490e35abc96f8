//! What nodes say to each other.
//!
//! Two families, told apart by type: a [`Signal`] promises nothing about the sender's disk and may leave at
//! once; a [`Promise`] may leave only when the append it speaks of is durable. Only
//! [`Effect::Acknowledge`](super::Effect::Acknowledge) can carry a promise, and it names the append to wait for.

use bytes::Bytes;

use super::{Entry, Raft, Refusal};
use crate::types::{LogIndex, LogPosition, NodeId, ProposalId, ReadId, Session, StateDigest, Term};

/// Anything that arrives from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Says nothing about the sender's disk.
    Signal(Signal),
    /// Rests on what the sender's disk holds.
    Promise(Promise),
}

/// How much a message carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Entries, forwarded commands or answers.
    pub items: usize,
    /// What the entries or commands hold, in bytes.
    pub bytes: usize,
}

impl Message {
    /// How much it carries; nothing for messages without entries, commands and answers.
    #[must_use]
    pub fn load(&self) -> Load {
        let (items, bytes) = match self {
            Self::Signal(Signal::Append(append)) => {
                (append.entries.len(), append.entries.iter().map(Entry::size_bytes).sum())
            }
            Self::Signal(Signal::Forward { proposals }) => {
                (proposals.len(), proposals.iter().map(|(_, command)| command.len()).sum())
            }
            Self::Signal(Signal::Forwarded { answers }) => (answers.len(), 0),
            Self::Signal(_) | Self::Promise(_) => (0, 0),
        };
        Load { items, bytes }
    }
}

/// A message that may leave before anything is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Would you vote for me? (thesis, 9.6). Changes nothing at the receiver.
    PreVote(VoteRequest),
    /// Vote for me (paper, 5.2).
    RequestVote(VoteRequest),
    /// Yes to a [`Signal::PreVote`] for `term`.
    PreVoteGranted {
        /// The term that was asked about.
        term: Term,
    },
    /// No to a vote or pre-vote request.
    VoteRefused {
        /// The refusing node's own term.
        term: Term,
        /// Whether a pre-vote was asked for.
        pre_vote: bool,
    },
    /// `AppendEntries`; without entries it is the heartbeat (paper, 5.3).
    Append(Append),
    /// The receiver's log does not hold `prev` of an append, or the append's term is old.
    AppendRejected {
        /// The receiver's own term.
        term: Term,
        /// Session that the append named.
        session: Session,
        /// The position that did not match.
        prev: LogPosition,
        /// The last position at or below `prev` that the receiver's log may share with the leader's.
        hint: LogPosition,
    },
    /// An append of this read round has arrived; says nothing about its entries, so it never waits for the disk.
    RoundEcho {
        /// The leader's term.
        term: Term,
        /// Session that the append named.
        session: Session,
        /// Latest round seen from this leader.
        round: u64,
        /// For how long the sender promises to ignore other candidates after it heard this leader, in milliseconds,
        /// even if it restarts; 0: no promise. What a leader's lease rests on (thesis, 6.4.1).
        stickiness_ms: u32,
    },
    /// A follower's clients' writes, for the leader to propose. Never forwarded again.
    Forward {
        /// Id at the follower, and the command.
        proposals: Vec<(ProposalId, Bytes)>,
    },
    /// What became of forwarded writes: where they were appended, or why they were not.
    Forwarded {
        /// One for each proposal of a [`Signal::Forward`], in its order.
        answers: Vec<ForwardAnswer>,
    },
    /// A follower asks for a read index (thesis, 6.4) on behalf of all its waiting reads.
    ReadIndex {
        /// The follower's batch.
        id: ReadId,
    },
    /// The answer to [`Signal::ReadIndex`]: reads are linearizable once `index` is applied.
    ReadIndexAt {
        /// The follower's batch.
        id: ReadId,
        /// The leader's term.
        term: Term,
        /// The leader's commit index when it was confirmed to be the leader.
        index: LogIndex,
    },
    /// The leader could not confirm that it leads; or the receiver is none.
    ReadIndexRefused {
        /// The follower's batch.
        id: ReadId,
    },
    /// The leader of `term` wants the receiver to stand for election at once (thesis, 3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// The receiver was removed from the cluster by the committed entry `index`.
    Removed {
        /// The configuration that removed it.
        index: LogIndex,
    },
    /// The receiver acknowledged entries up to `match_index` in this session, and now says that it lacks them.
    LostData {
        /// The leader's term.
        term: Term,
        /// The receiver's session.
        session: Session,
        /// What it had acknowledged.
        match_index: LogIndex,
    },
    /// Digests of the sender's state, each after the entry named, newest first.
    StateDigests {
        /// At most [`STATE_DIGESTS_MAX`](super::STATE_DIGESTS_MAX).
        digests: Vec<(LogIndex, StateDigest)>,
    },
}

/// Where a forwarded write was appended, or why it was not.
pub type ForwardAnswer = (ProposalId, Result<LogPosition, Refusal>);

/// A message that rests on a durable append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The sender voted for the receiver in `term` and will not vote for another.
    VoteGranted {
        /// Term of the vote.
        term: Term,
    },
    /// The sender's log equals the leader's up to `match_index`, durably.
    Appended {
        /// The leader's term.
        term: Term,
        /// Session that the append named.
        session: Session,
        /// Last index known to match and to be durable.
        match_index: LogIndex,
        /// Latest read round seen from this leader.
        round: u64,
        /// As in [`Signal::RoundEcho`].
        stickiness_ms: u32,
    },
}

/// Arguments of `RequestVote` and of `PreVote` (paper, figure 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The term that the candidate asks for; for a pre-vote the one it would start.
    pub term: Term,
    /// Last entry of the candidate's log.
    pub last: LogPosition,
    /// The leader itself asked the candidate to take over: a living leader is no reason to ignore it (thesis, 3.10).
    pub transfer: bool,
    /// How long the candidate waits for votes at the least, in milliseconds; 0: as long as the receiver would.
    pub election_timeout_ms: u32,
}

/// Arguments of `AppendEntries` (paper, figure 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The receiver's session in the leader's configuration.
    pub session: Session,
    /// The entry before the first one sent.
    pub prev: LogPosition,
    /// In order, without gaps; empty for a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit_index: LogIndex,
    /// The leader's latest read round; echoed.
    pub round: u64,
    /// The leader has not heard the receiver for an election timeout: nothing that the receiver sends arrives.
    pub unheard: bool,
    /// The election timeout that slow links or disks need, in milliseconds; 0: the receiver's own.
    pub election_timeout_ms: u32,
}

impl Message {
    /// The forwarded writes that it carries.
    #[must_use]
    pub fn forwarded(&self) -> Vec<ProposalId> {
        match self {
            Self::Signal(Signal::Forward { proposals }) => proposals.iter().map(|(id, _)| *id).collect(),
            Self::Signal(_) | Self::Promise(_) => Vec::new(),
        }
    }

    /// The sender's term, where the message tells it and it means anything to the receiver's own.
    pub(super) fn term(&self) -> Option<Term> {
        match self {
            Self::Signal(signal) => match signal {
                Signal::RequestVote(request) => Some(request.term),
                Signal::VoteRefused { term, .. }
                | Signal::AppendRejected { term, .. }
                | Signal::RoundEcho { term, .. }
                | Signal::ReadIndexAt { term, .. }
                | Signal::TimeoutNow { term }
                | Signal::LostData { term, .. } => Some(*term),
                Signal::Append(append) => Some(append.term),
                // The term of a pre-vote is one that may never come to be.
                Signal::PreVote(_)
                | Signal::PreVoteGranted { .. }
                | Signal::Forward { .. }
                | Signal::Forwarded { .. }
                | Signal::ReadIndex { .. }
                | Signal::ReadIndexRefused { .. }
                | Signal::Removed { .. }
                | Signal::StateDigests { .. } => None,
            },
            Self::Promise(Promise::VoteGranted { term } | Promise::Appended { term, .. }) => Some(*term),
        }
    }
}

impl Raft {
    /// Whether another node sent what only a leader sends: that of the message's term or, of answers, the last one known,
    /// since questions go to no other. A late message of an earlier leader is no fault.
    pub(super) fn is_out_of_place(&self, from: NodeId, message: &Message) -> bool {
        let Message::Signal(signal) = message else { return false };
        match signal {
            Signal::TimeoutNow { term } | Signal::LostData { term, .. } => {
                self.last_leader != Some((from, *term))
            }
            Signal::Forwarded { .. } | Signal::ReadIndexAt { .. } | Signal::ReadIndexRefused { .. } => {
                self.last_leader.is_none_or(|(leader, _)| leader != from)
            }
            _ => false,
        }
    }
}

impl From<Signal> for Message {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

impl From<Promise> for Message {
    fn from(promise: Promise) -> Self {
        Self::Promise(promise)
    }
}
