//! The four roles and the state that only one of them has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::members::PendingChange;
use super::progress::{Progress, Recent};
use super::transfer::Transfer;
use super::{RoleName, Rules};
use crate::types::{Instant, IoId, LogIndex, LogTime, NodeId};

pub(super) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// Follows `leader`, or waits for one.
pub(super) struct Follower {
    pub(super) leader: Option<NodeId>,
    /// When to start an election.
    pub(super) election_deadline: Instant,
    /// When the leader was last heard.
    pub(super) leader_contact: Option<Instant>,
    /// Since when the leader says that it does not hear this node.
    pub(super) unheard_since: Option<Instant>,
    /// Last entry known to equal the leader's (of this term).
    pub(super) verified: LogIndex,
    /// Latest read round echoed to the leader.
    pub(super) echoed_round: u64,
}

/// Asks whether an election could be won (thesis, 9.6).
pub(super) struct PreCandidate {
    pub(super) election_deadline: Instant,
    pub(super) granted: BTreeSet<NodeId>,
}

/// Asks for votes (paper, 5.2).
pub(super) struct Candidate {
    pub(super) election_deadline: Instant,
    /// When this append is durable, its own vote counts and it asks for the others'.
    pub(super) own_vote: IoId,
    /// The leader before asked it to stand (thesis, 3.10).
    pub(super) transfer: bool,
    pub(super) granted: BTreeSet<NodeId>,
}

/// Replicates its log (paper, 5.3).
pub(super) struct Leader {
    /// Every other member, and those removed by a configuration that is not committed yet.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) next_heartbeat: Instant,
    /// Read round; a new one starts with each heartbeat and each batch of reads.
    pub(super) round: u64,
    /// When the latest rounds were sent, for round-trip times.
    pub(super) rounds_sent: VecDeque<(u64, Instant)>,
    /// Where the log ended an election timeout ago.
    pub(super) recent: Recent,
    /// The no-op of this term. Reads wait until it is committed.
    pub(super) noop_index: LogIndex,
    /// Batches of entries not yet committed, oldest first.
    pub(super) batches: VecDeque<Batch>,
    /// When it won, and the log's clock at that moment.
    pub(super) elected_at: Instant,
    pub(super) elected_time: LogTime,
    /// The configuration whose commit was last acted on.
    pub(super) settled: Option<LogIndex>,
    /// Who waits for a change of members.
    pub(super) change: Option<PendingChange>,
    pub(super) transfer: Option<Transfer>,
    /// When the first of the learners that are to be promoted next had caught up for long enough.
    pub(super) promotion_since: Option<Instant>,
    /// Another node was asked to take over, which overrides what followers promised: no more reads by lease in this
    /// term (thesis, 6.4.1).
    pub(super) lease_given_up: bool,
}

/// Entries that a leader appended together.
pub(super) struct Batch {
    pub(super) last: LogIndex,
    pub(super) bytes: usize,
    pub(super) appended_at: Instant,
}

impl Leader {
    /// Whether a follower lacks so little of a log that ends at `last` that it can count in a majority.
    pub(super) fn is_caught_up(&self, id: NodeId, last: LogIndex, rules: Rules) -> bool {
        let progress = self.progress.get(&id);
        progress.is_some_and(|progress| rules.is_caught_up(progress.match_index, last, self.recent.index()))
    }

    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes).sum()
    }
}

impl Role {
    pub(super) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}
