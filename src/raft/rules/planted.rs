//! The rules with a bug that is chosen when the program runs: they take the place of `rules.rs` with the cargo feature
//! `planted-bugs`. Here are the rules that some bug answers wrongly; the sound ones answer everything else.

#[path = "../rules.rs"]
mod sound;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::plant::{Plant, Planted};
use crate::raft::lease::RoundTrip;
use crate::raft::log::Log;
use crate::raft::reads::Confirming;
use crate::raft::{
    Configuration, Entry, HardState, Member, Message, Refusal, RefusalReason, Signal, Snapshot, VoteAnswer,
    VoteRequest,
};
use crate::types::{Instant, IoId, LogIndex, LogPosition, NodeId, ReadId, Term};

/// Configurations with the entries that hold them, in order.
type Configurations = [(LogIndex, Arc<Configuration>)];

const SOUND: sound::Rules = sound::Rules {};

/// The sound rules but for one bug, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    planted: Planted,
}

impl Deref for Rules {
    type Target = sound::Rules;

    fn deref(&self) -> &sound::Rules {
        &SOUND
    }
}

impl From<Planted> for Rules {
    fn from(planted: Planted) -> Self {
        Self { planted }
    }
}

impl From<Rules> for Planted {
    fn from(rules: Rules) -> Self {
        rules.planted
    }
}

impl Rules {
    fn has(self, bug: Plant) -> bool {
        self.planted.is(bug)
    }
}

/// Majorities.
impl Rules {
    pub(in crate::raft) fn has_quorum(
        self,
        configuration: &Configuration,
        has: impl Fn(NodeId) -> bool,
    ) -> bool {
        SOUND.has_quorum(&self.deciding(configuration), has)
    }

    pub(in crate::raft) fn agreed_index(
        self,
        configuration: &Configuration,
        reached: impl Fn(NodeId) -> LogIndex,
    ) -> LogIndex {
        if !self.has(Plant::CommitWithoutQuorum) {
            return SOUND.agreed_index(&self.deciding(configuration), reached);
        }
        let furthest = |voters: &BTreeMap<NodeId, Member>| voters.keys().map(|id| reached(*id)).max();
        let new = furthest(&configuration.voters).unwrap_or_default();
        furthest(&configuration.outgoing).map_or(new, |old| new.min(old))
    }

    /// The configuration whose voters decide.
    fn deciding(self, configuration: &Configuration) -> Cow<'_, Configuration> {
        if self.has(Plant::JointOneMajority) && configuration.is_joint() {
            Cow::Owned(Configuration { outgoing: BTreeMap::new(), ..configuration.clone() })
        } else {
            Cow::Borrowed(configuration)
        }
    }
}

/// Elections.
impl Rules {
    pub(in crate::raft) fn may_lead(self, id: NodeId, open: &Configurations) -> bool {
        let forgotten = if self.has(Plant::LeaverStepsDownEarly) { open.len().saturating_sub(1) } else { 0 };
        SOUND.may_lead(id, &open[forgotten..])
    }

    pub(in crate::raft) fn answer_vote(
        self,
        from: NodeId,
        request: &VoteRequest,
        own: HardState,
        leader: Option<NodeId>,
        last: LogPosition,
    ) -> VoteAnswer {
        let ignores_log = self.has(Plant::VoteWithoutLogCheck)
            || (request.transfer && self.has(Plant::TransferWithoutLogCheck));
        let last = if ignores_log { LogPosition::default() } else { last };
        if self.has(Plant::TwoVotesATerm) {
            SOUND.answer_vote(from, request, HardState { voted_for: None, ..own }, None, last)
        } else {
            SOUND.answer_vote(from, request, own, leader, last)
        }
    }

    pub(in crate::raft) fn refusal_term(self, own: Term) -> Term {
        if self.has(Plant::RefusalWithoutTerm) { Term(0) } else { SOUND.refusal_term(own) }
    }

    pub(in crate::raft) fn must_write(self, own: HardState, written: HardState) -> bool {
        let is_lost = self.has(Plant::VoteNotPersisted) && own.voted_for.is_some();
        SOUND.must_write(own, written) && !is_lost
    }

    pub(in crate::raft) fn own_vote_counts(self, own_vote: IoId, flushed: IoId) -> bool {
        SOUND.own_vote_counts(own_vote, flushed) || self.has(Plant::AskBeforeOwnVote)
    }

    pub(in crate::raft) fn is_vote(self, answer: &Message, own: Term) -> bool {
        let is_refusal = matches!(
            answer,
            Message::Signal(Signal::VoteRefused { term, pre_vote: false }) if *term == own
        );
        SOUND.is_vote(answer, own) || (is_refusal && self.has(Plant::RefusalCountsAsVote))
    }

    pub(in crate::raft) fn may_lead_on_stalled_disk(self, other_voters: &BTreeSet<NodeId>) -> bool {
        SOUND.may_lead_on_stalled_disk(other_voters) || self.has(Plant::StalledLeaderStays)
    }

    pub(in crate::raft) fn may_take_over(self, match_index: LogIndex, last: LogIndex) -> bool {
        SOUND.may_take_over(match_index, last) || self.has(Plant::TransferWithoutLogCheck)
    }
}

/// Replication, commit, apply.
impl Rules {
    pub(in crate::raft) fn may_take_write(self, bytes: usize, bytes_max: usize) -> bool {
        SOUND.may_take_write(bytes, bytes_max) || self.has(Plant::UnboundedWrites)
    }

    pub(in crate::raft) fn may_send_again(self, refusal: Refusal) -> bool {
        let has_no_leader = matches!(refusal.reason, RefusalReason::NoLeader | RefusalReason::LeadershipLost);
        SOUND.may_send_again(refusal) || (has_no_leader && self.has(Plant::ForwardTwice))
    }

    pub(in crate::raft) fn holds(self, log: &Log, entry: &Entry) -> bool {
        let is_kept = self.has(Plant::KeepConflict) && entry.index <= log.last().index;
        SOUND.holds(log, entry) || is_kept
    }

    pub(in crate::raft) fn makes_durable(self, appended: LogIndex, kept: LogIndex) -> LogIndex {
        if self.has(Plant::ReplacedCountsDurable) { appended } else { SOUND.makes_durable(appended, kept) }
    }

    pub(crate) fn may_acknowledge(self, after: IoId, durable: IoId) -> bool {
        SOUND.may_acknowledge(after, durable) || self.has(Plant::AcknowledgeBeforeFlush)
    }

    pub(in crate::raft) fn counts_at_leader(self, log: &Log) -> LogIndex {
        if self.has(Plant::CountUnflushed) || self.ignores_flush(log) {
            log.last().index
        } else {
            SOUND.counts_at_leader(log)
        }
    }

    pub(in crate::raft) fn may_commit(self, term: Option<Term>, own: Term) -> bool {
        SOUND.may_commit(term, own) || self.has(Plant::CommitEarlierTerm)
    }

    pub(in crate::raft) fn commit_at_follower(
        self,
        log: &Log,
        verified: LogIndex,
        leader_commit: LogIndex,
    ) -> LogIndex {
        let verified = if self.has(Plant::CommitUnverified) { log.last().index } else { verified };
        SOUND.commit_at_follower(log, verified, leader_commit)
    }

    pub(in crate::raft) fn may_apply_through(self, log: &Log) -> LogIndex {
        if self.has(Plant::ApplyBeforeCommit) {
            log.durable()
        } else if self.ignores_flush(log) {
            log.commit()
        } else {
            SOUND.may_apply_through(log)
        }
    }

    /// Whether one voter alone decides, and does not wait for its own log.
    fn ignores_flush(self, log: &Log) -> bool {
        let is_alone =
            |configuration: &Arc<Configuration>| !configuration.is_joint() && configuration.voters.len() == 1;
        self.has(Plant::AloneAppliesUnflushed) && log.configuration().is_some_and(is_alone)
    }
}

/// Reads and leases.
impl Rules {
    pub(in crate::raft) fn may_read(self, commit: LogIndex, noop: LogIndex) -> bool {
        SOUND.may_read(commit, noop) || self.has(Plant::ReadBeforeNoop)
    }

    pub(in crate::raft) fn is_confirmed(
        self,
        configuration: &Configuration,
        reads: &Confirming,
        echoed: impl Fn(NodeId) -> u64,
    ) -> bool {
        let mut waits_for = self.deciding(configuration);
        if self.has(Plant::ReadWaitsForRemoved) {
            let removed = configuration.removed.iter().filter(|(_, index)| **index > reads.index);
            waits_for.to_mut().voters.extend(removed.map(|(id, _)| (*id, Member::default())));
        }
        SOUND.is_confirmed(&waits_for, reads, echoed) || self.has(Plant::ReadWithoutRound)
    }

    pub(in crate::raft) fn answers(self, answer: ReadId, question: ReadId) -> bool {
        SOUND.answers(answer, question) || self.has(Plant::ReadAnswerMixedUp)
    }

    pub(in crate::raft) fn lease_end(self, trip: RoundTrip, promised: Duration, drift_ppm: u32) -> Instant {
        let sent_at = if self.has(Plant::LeaseFromReceipt) { trip.received_at } else { trip.sent_at };
        let drift_ppm = if self.has(Plant::LeaseWithoutMargin) { 0 } else { drift_ppm };
        SOUND.lease_end(RoundTrip { sent_at, ..trip }, promised, drift_ppm)
    }

    pub(in crate::raft) fn first_vote_at(self, start: Instant, longest_promise: Duration) -> Instant {
        if self.has(Plant::VoteAtOnceWithLeases) {
            start
        } else {
            SOUND.first_vote_at(start, longest_promise)
        }
    }
}

/// Members.
impl Rules {
    pub(in crate::raft) fn may_change_members(self, commit: LogIndex, noop: LogIndex) -> bool {
        SOUND.may_change_members(commit, noop) || self.has(Plant::ChangeBeforeNoop)
    }

    pub(in crate::raft) fn may_leave_joint(self, index: LogIndex, commit: LogIndex) -> bool {
        SOUND.may_leave_joint(index, commit) || self.has(Plant::LeaveJointEarly)
    }

    pub(in crate::raft) fn is_caught_up(
        self,
        match_index: LogIndex,
        last: LogIndex,
        earlier: LogIndex,
    ) -> bool {
        SOUND.is_caught_up(match_index, last, earlier) || self.has(Plant::PromoteBeforeCatchUp)
    }

    pub(in crate::raft) fn may_promote(self, kept_up: Option<Duration>, election_timeout: Duration) -> bool {
        SOUND.may_promote(kept_up, election_timeout) || self.has(Plant::PromoteBeforeCatchUp)
    }

    pub(in crate::raft) fn may_enter_joint(self, ready: usize, voters: usize) -> bool {
        SOUND.may_enter_joint(ready, voters) || self.has(Plant::PromoteBeforeCatchUp)
    }

    pub(in crate::raft) fn removed_by(self, configuration: &Configuration, id: NodeId) -> Option<LogIndex> {
        if self.has(Plant::RemovedRejoins) { None } else { SOUND.removed_by(configuration, id) }
    }
}

/// Snapshots and compaction.
impl Rules {
    pub(in crate::raft) fn keeps_log(self, log: &Log, snapshot: LogPosition) -> bool {
        let is_stale = self.has(Plant::StaleEntryAtSnapshot) && snapshot.index <= log.last().index;
        SOUND.keeps_log(log, snapshot) || is_stale
    }

    pub(in crate::raft) fn configurations_behind(
        self,
        known: &Configurations,
        snapshot: &Snapshot,
        keeps_log: bool,
    ) -> Vec<(LogIndex, Arc<Configuration>)> {
        if !self.has(Plant::SnapshotDropsConfiguration) {
            return SOUND.configurations_behind(known, snapshot, keeps_log);
        }
        let stays = |index: LogIndex| keeps_log || index <= snapshot.position.index;
        known.iter().filter(|(index, _)| stays(*index)).cloned().collect()
    }

    pub(in crate::raft) fn may_drop_through(
        self,
        log: &Log,
        covered: LogIndex,
        unwanted: LogIndex,
    ) -> LogIndex {
        if self.has(Plant::CompactWithoutSnapshot) {
            log.applied()
        } else {
            SOUND.may_drop_through(log, covered, unwanted)
        }
    }
}
