//! The rules: each question that safety depends on, as a small pure function with its source. The handlers are the
//! mechanism: they collect what a rule needs, ask it, and carry out the answer. To compare the core with the paper,
//! read this file.
//!
//! *Paper* is Ongaro and Ousterhout, "In search of an understandable consensus algorithm (extended version)"; *thesis*
//! is Ongaro, "Consensus: bridging theory and practice".
//!
//! With the cargo feature `planted-bugs`, `rules/planted.rs` takes the place of this file. It holds the same functions,
//! of which one gives a wrong answer, to show that the simulator notices.
#![expect(clippy::unused_self, reason = "the rules that settings carry may be other ones")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::plant::Planted;
use crate::raft::lease::RoundTrip;
use crate::raft::log::Log;
use crate::raft::reads::Confirming;
use crate::raft::{
    Configuration, Entry, HardState, Member, Message, Outcome, Promise, Refusal, RefusalReason, Signal,
    Snapshot, VoteAnswer, VoteRequest,
};
use crate::types::{Instant, IoId, LogIndex, LogPosition, NodeId, ReadId, Term};

/// Configurations with the entries that hold them, in order.
type Configurations = [(LogIndex, Arc<Configuration>)];

/// A learner that lacks no more entries than these has caught up, whatever their age.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// Election timeouts for which a learner must have kept up before it becomes a voter.
const STABLE_TIMEOUTS: u32 = 2;

/// The rules of a correct core. A value, so that settings can carry other ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {}

/// Majorities.
impl Rules {
    /// Whether the members that `has` accepts decide: a majority of the voters. While the configuration is joint, a
    /// majority of the voters before the change is needed, too (thesis, 4.3).
    pub(in crate::raft) fn has_quorum(
        self,
        configuration: &Configuration,
        has: impl Fn(NodeId) -> bool,
    ) -> bool {
        configuration.has_quorum(has)
    }

    /// The highest index that a majority has reached; of both sets of voters while joint (paper, 5.3).
    pub(in crate::raft) fn agreed_index(
        self,
        configuration: &Configuration,
        reached: impl Fn(NodeId) -> LogIndex,
    ) -> LogIndex {
        let agreed = |voters: &BTreeMap<NodeId, Member>| {
            let mut indexes: Vec<LogIndex> = voters.keys().map(|id| reached(*id)).collect();
            indexes.sort_unstable_by(|a, b| b.cmp(a));
            // Of five voters the third counts: it and the two ahead of it are a majority.
            indexes.get(indexes.len() / 2).copied().unwrap_or_default()
        };
        let new = agreed(&configuration.voters);
        if configuration.is_joint() { new.min(agreed(&configuration.outgoing)) } else { new }
    }
}

/// Elections.
impl Rules {
    /// Whether a node may be a candidate, or remain leader: it is a voter of the latest committed configuration or of a
    /// later one in its log. One that a configuration leaves out is needed until that is committed: if it alone has
    /// the entry, nobody else can win (thesis, 4.2.2).
    pub(in crate::raft) fn may_lead(self, id: NodeId, open: &Configurations) -> bool {
        open.iter().any(|(_, configuration)| configuration.is_voter(id))
    }

    /// What to answer a candidate: one vote a term, first come, first served (paper, 5.2), for no candidate whose log
    /// is behind (5.4.1). This node's idea of who the members are does not matter: else a cluster that grew could be
    /// left without a majority of willing voters.
    pub(in crate::raft) fn answer_vote(
        self,
        from: NodeId,
        request: &VoteRequest,
        own: HardState,
        leader: Option<NodeId>,
        last: LogPosition,
    ) -> VoteAnswer {
        let is_another = |id: NodeId| id != from;
        if request.term < own.term {
            VoteAnswer::OldTerm
        } else if request.term == own.term
            && (own.voted_for.is_some_and(is_another) || leader.is_some_and(is_another))
        {
            VoteAnswer::VotedForAnother
        } else if self.is_up_to_date(request.last, last) {
            VoteAnswer::Granted
        } else {
            VoteAnswer::LogBehind
        }
    }

    /// Whether a candidate's log is at least as far as the voter's: the later last term, then the longer log (paper,
    /// 5.4.1). So the winner holds all committed entries.
    pub(in crate::raft) fn is_up_to_date(self, candidate: LogPosition, voter: LogPosition) -> bool {
        (candidate.term, candidate.index) >= (voter.term, voter.index)
    }

    /// Whether a leader that was last heard at `contact` counts as alive: then vote requests are ignored, their terms
    /// included, so that nodes which were removed or cut off do not disturb it (thesis, 4.2.3).
    pub(in crate::raft) fn is_leader_alive(
        self,
        now: Instant,
        contact: Instant,
        election_timeout: Duration,
    ) -> bool {
        now.since(contact) < election_timeout
    }

    /// The term that a refusal tells: the own one, so that a candidate of an old term learns of it (paper, 5.1).
    pub(in crate::raft) fn refusal_term(self, own: Term) -> Term {
        own
    }

    /// Whether term and vote must be written before this node answers anybody: they are not what the latest append
    /// carried (paper, figure 2, persistent state).
    pub(in crate::raft) fn must_write(self, own: HardState, written: HardState) -> bool {
        own != written
    }

    /// Whether a candidate's own vote counts, so that it may ask for the others' and win: it is durable. Otherwise it
    /// could crash, forget its candidacy, and be a candidate of the same term again with another log, while votes and
    /// appends of its first candidacy are still under way.
    pub(in crate::raft) fn own_vote_counts(self, own_vote: IoId, flushed: IoId) -> bool {
        flushed >= own_vote
    }

    /// Whether this answer is a vote for a candidate of term `own` (paper, 5.2).
    pub(in crate::raft) fn is_vote(self, answer: &Message, own: Term) -> bool {
        matches!(answer, Message::Promise(Promise::VoteGranted { term }) if *term == own)
    }

    /// Whether this answer says that its sender would vote for this node in the term behind `own` (thesis, 9.6).
    pub(in crate::raft) fn is_pre_vote(self, answer: &Message, own: Term) -> bool {
        matches!(answer, Message::Signal(Signal::PreVoteGranted { term }) if *term == own.next())
    }

    /// Whether a leader whose disk stalls keeps the leadership: only if nobody could take it over. Otherwise it would
    /// keep its followers quiet while it commits nothing (hashicorp/raft #503, etcd #15247).
    pub(in crate::raft) fn may_lead_on_stalled_disk(self, other_voters: &BTreeSet<NodeId>) -> bool {
        other_voters.is_empty()
    }

    /// Whether a follower may be told to start an election at once: its log is the leader's (thesis, 3.10).
    pub(in crate::raft) fn may_take_over(self, match_index: LogIndex, last: LogIndex) -> bool {
        match_index == last
    }
}

/// Replication, commit, apply.
impl Rules {
    /// Whether a leader, or a node that asks one, may take a write: with it, no more than `bytes_max` would wait or be
    /// uncommitted.
    pub(in crate::raft) fn may_take_write(self, bytes: usize, bytes_max: usize) -> bool {
        bytes <= bytes_max
    }

    /// Whether a write that was forwarded may be sent again: its leader refused it before it appended it. Whatever may
    /// have been appended may be applied, and is never sent twice.
    pub(in crate::raft) fn may_send_again(self, refusal: Refusal) -> bool {
        matches!(
            refusal,
            Refusal {
                reason: RefusalReason::NoLeader | RefusalReason::LeadershipLost,
                outcome: Outcome::NotApplied,
            }
        )
    }

    /// Whether a follower's log holds this entry of its leader's already. An entry of another term at its index is
    /// another entry: it goes, with all behind it (paper, 5.3).
    pub(in crate::raft) fn holds(self, log: &Log, entry: &Entry) -> bool {
        log.matches(entry.position())
    }

    /// Why no correct leader sends this entry as the first one that the log lacks, if that is so. It would take back
    /// what is committed (paper, 5.4.3), or terms or times would decrease along the log.
    pub(in crate::raft) fn contradiction(self, log: &Log, first: &Entry) -> Option<&'static str> {
        let before = first.index.prev();
        if first.index <= log.commit() {
            Some("committed_conflict")
        } else if log.term_at(before).is_none_or(|term| first.term < term) {
            Some("falling_term")
        } else if log.time_at(before).is_some_and(|time| first.time < time) {
            Some("falling_time")
        } else {
            None
        }
    }

    /// Up to where an append under way makes the log durable, once all behind `kept` was removed from it: what takes
    /// a removed entry's place needs a flush of its own.
    pub(in crate::raft) fn makes_durable(self, appended: LogIndex, kept: LogIndex) -> LogIndex {
        appended.min(kept)
    }

    /// Whether a promise (a vote, an acknowledgement of entries) may leave: the append that it depends on is durable
    /// (paper, figure 2).
    pub(crate) fn may_acknowledge(self, after: IoId, durable: IoId) -> bool {
        after <= durable
    }

    /// What of the leader's own log counts toward commit: what is durable. It may write it while followers do (thesis,
    /// 10.2.1).
    pub(in crate::raft) fn counts_at_leader(self, log: &Log) -> LogIndex {
        log.durable()
    }

    /// Whether a leader of term `own` may commit by counting up to an entry of this term. Earlier terms' entries are
    /// committed with it: a majority may hold one of them, and a later leader still replace it (paper, 5.4.2, figure
    /// 8).
    pub(in crate::raft) fn may_commit(self, term: Option<Term>, own: Term) -> bool {
        term == Some(own)
    }

    /// Up to where a follower may commit: the leader's commit index, no further than its own log is known to be the
    /// leader's (paper, 5.3).
    pub(in crate::raft) fn commit_at_follower(
        self,
        log: &Log,
        verified: LogIndex,
        leader_commit: LogIndex,
    ) -> LogIndex {
        let last = log.last().index;
        assert!(verified <= last, "{verified} is verified of a log that ends at {last}");
        leader_commit.min(verified)
    }

    /// Up to where the log may be applied: what is committed, and durable here. What is applied is told to clients, and
    /// a voter that is alone has no other copy (etcd #14370).
    pub(in crate::raft) fn may_apply_through(self, log: &Log) -> LogIndex {
        log.commit().min(log.durable())
    }
}

/// Reads and leases.
impl Rules {
    /// Whether a leader may serve reads: it has committed the no-op of its term. Before, it does not know what earlier
    /// leaders committed (thesis, 6.4).
    pub(in crate::raft) fn may_read(self, commit: LogIndex, noop: LogIndex) -> bool {
        commit >= noop
    }

    /// Whether a round of reads may be served at the commit index of its start: a majority has answered this round or a
    /// later one, so this node still led when the round began (thesis, 6.4). `echoed` is the latest round that a member
    /// answered.
    pub(in crate::raft) fn is_confirmed(
        self,
        configuration: &Configuration,
        reads: &Confirming,
        echoed: impl Fn(NodeId) -> u64,
    ) -> bool {
        configuration.has_quorum(|id| echoed(id) >= reads.round)
    }

    /// Whether the leader's answer `answer` is the one to this question. An earlier question's answer may name an index
    /// from before the read.
    pub(in crate::raft) fn answers(self, answer: ReadId, question: ReadId) -> bool {
        answer == question
    }

    /// Until when, by the leader's clock, a follower keeps the promise that it gave in its echo. The promise begins no
    /// earlier than the round was sent, and it is taken to end early, in case the follower's clock runs faster (thesis,
    /// 6.4.1).
    pub(in crate::raft) fn lease_end(self, trip: RoundTrip, promised: Duration, drift_ppm: u32) -> Instant {
        const PPM: u64 = 1_000_000;
        let promised_micros = u64::try_from(promised.as_micros()).unwrap_or(u64::MAX);
        let kept = PPM.saturating_sub(u64::from(drift_ppm));
        trip.sent_at.after(Duration::from_micros(promised_micros * kept / PPM))
    }

    /// Whether a leader certainly leads at this moment: a majority ignores all other candidates. A leader that asked
    /// another node to take over has overridden those promises for the rest of its term (thesis, 6.4.1).
    pub(in crate::raft) fn has_lease(
        self,
        configuration: &Configuration,
        is_given_up: bool,
        now: Instant,
        promised_until: impl Fn(NodeId) -> Instant,
    ) -> bool {
        !is_given_up && configuration.has_quorum(|id| now < promised_until(id))
    }

    /// Whether some leader, maybe of an earlier term, may depend on this node to vote for nobody (thesis, 6.4.1).
    pub(in crate::raft) fn keeps_promise(self, now: Instant, promised_until: Instant) -> bool {
        now < promised_until
    }

    /// When a node that starts may vote: it may have given the longest promise right before it ended, and forgot it.
    pub(in crate::raft) fn first_vote_at(self, start: Instant, longest_promise: Duration) -> Instant {
        start.after(longest_promise)
    }
}

/// Members.
impl Rules {
    /// Whether a leader may change members: it has committed an entry of its own term. Otherwise two leaders could each
    /// begin a change that the other one does not know, and their majorities need not overlap (raft-dev, 2015: "bug in
    /// single-server membership changes").
    pub(in crate::raft) fn may_change_members(self, commit: LogIndex, noop: LogIndex) -> bool {
        commit >= noop
    }

    /// Whether what follows from a configuration may be done: its entry is committed. Those who wait are told, and
    /// those who were removed (thesis, 4.2.2).
    pub(in crate::raft) fn is_settled(self, index: LogIndex, commit: LogIndex) -> bool {
        index <= commit
    }

    /// Whether a joint configuration may be left: its entry is committed, by majorities of both sets of voters (thesis,
    /// 4.3; camunda #60086).
    pub(in crate::raft) fn may_leave_joint(self, index: LogIndex, commit: LogIndex) -> bool {
        index <= commit
    }

    /// Whether a follower lacks so little that it can count in a majority without holding it up. Under load no fixed
    /// number of entries tells: it is enough if it holds what the leader's log held an election timeout ago, up to
    /// `earlier` (thesis, 4.2.1).
    pub(in crate::raft) fn is_caught_up(
        self,
        match_index: LogIndex,
        last: LogIndex,
        earlier: LogIndex,
    ) -> bool {
        let lacks = last.0.saturating_sub(match_index.0);
        match_index > LogIndex(0) && (lacks <= CAUGHT_UP_ENTRIES || match_index >= earlier)
    }

    /// Whether a learner may become a voter: it has answered and kept up for so long (thesis, 4.2.1).
    pub(in crate::raft) fn may_promote(self, kept_up: Option<Duration>, election_timeout: Duration) -> bool {
        kept_up.is_some_and(|kept_up| kept_up >= election_timeout * STABLE_TIMEOUTS)
    }

    /// Whether voters may change to these: `ready` of them answer and have caught up, so that they could commit at once.
    /// Otherwise the cluster might stop for want of one that is not there.
    pub(in crate::raft) fn may_enter_joint(self, ready: usize, voters: usize) -> bool {
        ready > voters / 2
    }

    /// The entry that removed this node permanently, if one did. It is not heard any more, so that it cannot disturb those
    /// who stayed (thesis, 4.2.3; hashicorp/raft #524), and never added again: its vote may be forgotten (etcd #21178).
    pub(in crate::raft) fn removed_by(self, configuration: &Configuration, id: NodeId) -> Option<LogIndex> {
        configuration.removed.get(&id).copied()
    }

    /// Whether `own` believes that it was removed, by an entry that its log does not hold: most of the other voters that
    /// it knows say so. A removal takes its data out of use permanently, so one word is not enough.
    pub(in crate::raft) fn believes_removal(
        self,
        configuration: &Configuration,
        own: NodeId,
        says: impl Fn(NodeId) -> bool,
    ) -> bool {
        configuration.most_others(own, says)
    }
}

/// Snapshots and compaction.
impl Rules {
    /// Whether a received snapshot may take the state's place: it covers more than is committed here. An older one would
    /// take back what was applied (paper, 7).
    pub(in crate::raft) fn may_install(self, snapshot: LogPosition, commit: LogIndex) -> bool {
        snapshot.index > commit
    }

    /// Whether what follows a snapshot stays in the log: the log holds the snapshot's last entry. If it holds another
    /// one there, what follows is none of the leader's either, and all of it goes: else that one entry would stay where
    /// the log now begins, and disagree with every append (paper, 7; hashicorp/raft #697).
    pub(in crate::raft) fn keeps_log(self, log: &Log, snapshot: LogPosition) -> bool {
        log.matches(snapshot)
    }

    /// The configurations that are known once a snapshot took the place of the log up to its position: its own, which
    /// is part of it (paper, 7), and those of the entries that stay.
    pub(in crate::raft) fn configurations_behind(
        self,
        known: &Configurations,
        snapshot: &Snapshot,
        keeps_log: bool,
    ) -> Vec<(LogIndex, Arc<Configuration>)> {
        let Snapshot { position, configuration, configuration_index, .. } = snapshot;
        let covered = Some((*configuration_index, Arc::clone(configuration)));
        let covered = covered.filter(|(_, configuration)| !configuration.voters.is_empty());
        let stay = known.iter().filter(|(index, _)| keeps_log && *index > position.index);
        covered.into_iter().chain(stay.cloned()).collect()
    }

    /// The last entry that the log may drop: the state covers it durably, so a restart does not need it (paper, 7), it
    /// is applied, and nobody else wants it.
    pub(in crate::raft) fn may_drop_through(
        self,
        log: &Log,
        covered: LogIndex,
        unwanted: LogIndex,
    ) -> LogIndex {
        covered.min(log.applied()).min(unwanted)
    }
}

impl From<Planted> for Rules {
    /// These are the only rules of this program, whose [`Planted`] can name no bug.
    fn from(_: Planted) -> Self {
        Self {}
    }
}

impl From<Rules> for Planted {
    fn from(_: Rules) -> Self {
        Self::NONE
    }
}
