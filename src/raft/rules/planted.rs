//! The rules with a bug that is chosen when the program runs: they take the place of `rules.rs` with the cargo feature
//! `planted-bugs`. Here are the rules that some bug answers wrongly; the sound ones answer everything else.

#[path = "../rules.rs"]
mod sound;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use crate::plant::{Plant, Planted};
use crate::raft::{Configuration, HardState, Message, Signal, VoteAnswer, VoteRequest};
use crate::types::{IoId, LogIndex, LogPosition, NodeId, Term};

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
