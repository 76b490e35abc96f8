//! Linearizable reads by read index (thesis, 6.4), on the leader and on followers.
//!
//! All reads that wait are served by one heartbeat round. A round's index is taken when it starts, and only
//! echoes of that round or later ones confirm it. Ids of a follower's questions are used once.

use std::collections::VecDeque;

use crate::types::{Instant, LogIndex, NodeId, ReadId};

/// Reads of this node's clients that arrived together.
#[derive(Debug)]
pub(super) struct LocalReads {
    pub(super) ids: Vec<ReadId>,
    pub(super) deadline: Instant,
}

/// What a leader is confirming in one round.
#[derive(Debug)]
pub(super) struct Confirming {
    pub(super) round: u64,
    pub(super) index: LogIndex,
    pub(super) local: Vec<LocalReads>,
    pub(super) remote: Vec<(NodeId, ReadId)>,
}

/// A follower's question to its leader.
#[derive(Debug)]
struct Asking {
    id: ReadId,
    asked_at: Instant,
    local: Vec<LocalReads>,
}

#[derive(Default)]
pub(super) struct Reads {
    /// Not yet part of a round or a question.
    waiting: VecDeque<LocalReads>,
    /// Followers' questions, at the leader.
    remote: Vec<(NodeId, ReadId)>,
    confirming: Option<Confirming>,
    asking: Option<Asking>,
    /// Confirmed; they wait until everything up to the index has been handed to apply.
    ready: VecDeque<(LogIndex, Vec<LocalReads>)>,
}

impl Reads {
    pub(super) fn add(&mut self, reads: LocalReads) {
        self.waiting.push_back(reads);
    }

    pub(super) fn add_remote(&mut self, from: NodeId, id: ReadId) {
        // A follower asks one question at a time: it has given up an older one.
        self.remote.retain(|(asker, _)| *asker != from);
        self.remote.push((from, id));
    }

    /// Whether the leader should start a round for those that wait.
    pub(super) fn wants_round(&self) -> bool {
        self.confirming.is_none() && !(self.waiting.is_empty() && self.remote.is_empty())
    }

    pub(super) fn start_round(&mut self, round: u64, index: LogIndex) {
        let (local, remote) = self.take_waiting();
        self.confirming = Some(Confirming { round, index, local, remote });
    }

    /// Takes what waits for a round; what a round is under way for stays.
    pub(super) fn take_waiting(&mut self) -> (Vec<LocalReads>, Vec<(NodeId, ReadId)>) {
        (self.waiting.drain(..).collect(), std::mem::take(&mut self.remote))
    }

    /// The round that is being confirmed.
    pub(super) fn confirming_round(&self) -> Option<u64> {
        self.confirming.as_ref().map(|confirming| confirming.round)
    }

    pub(super) fn take_confirmed(&mut self) -> Option<Confirming> {
        self.confirming.take()
    }

    /// Whether a follower should ask its leader now: something waits and no question is under way.
    pub(super) fn wants_to_ask(&self) -> bool {
        self.asking.is_none() && !self.waiting.is_empty()
    }

    pub(super) fn start_asking(&mut self, now: Instant, id: ReadId) {
        self.asking = Some(Asking { id, asked_at: now, local: self.waiting.drain(..).collect() });
    }

    /// When the question under way was asked.
    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.asking.as_ref().map(|asking| asking.asked_at)
    }

    /// The reads of question `id`, if it is the one under way; `any` plants the bug of not looking.
    pub(super) fn take_answered(&mut self, id: ReadId, any: bool) -> Option<Vec<LocalReads>> {
        match &self.asking {
            Some(asking) if asking.id == id || any => self.asking.take().map(|asking| asking.local),
            _ => None,
        }
    }

    /// Forgets the question under way, if it is `id` (or whatever it is): its reads wait again, and a late
    /// answer no longer counts.
    pub(super) fn forget_question(&mut self, id: Option<ReadId>) {
        if let Some(asking) = self.asking.take_if(|asking| id.is_none_or(|id| id == asking.id)) {
            self.wait_again(asking.local);
        }
    }

    /// Leadership ended: what was being confirmed waits again. Returns the followers' questions to refuse.
    pub(super) fn reset(&mut self) -> Vec<(NodeId, ReadId)> {
        self.forget_question(None);
        let mut refused = std::mem::take(&mut self.remote);
        if let Some(confirming) = self.confirming.take() {
            refused.extend(confirming.remote);
            self.wait_again(confirming.local);
        }
        refused
    }

    fn wait_again(&mut self, reads: Vec<LocalReads>) {
        for reads in reads.into_iter().rev() {
            self.waiting.push_front(reads);
        }
    }

    pub(super) fn add_ready(&mut self, index: LogIndex, local: Vec<LocalReads>) {
        if !local.is_empty() {
            self.ready.push_back((index, local));
        }
    }

    /// Takes confirmed reads whose index is at most `handed`.
    pub(super) fn take_ready(&mut self, handed: LogIndex) -> Option<(LogIndex, Vec<ReadId>)> {
        let position = self.ready.iter().position(|(index, _)| *index <= handed)?;
        let (index, local) = self.ready.remove(position)?;
        Some((index, local.into_iter().flat_map(|reads| reads.ids).collect()))
    }

    /// When the oldest read gives up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending().map(|reads| reads.deadline).min()
    }

    fn pending(&self) -> impl Iterator<Item = &LocalReads> {
        let confirming = self.confirming.iter().flat_map(|confirming| &confirming.local);
        let asking = self.asking.iter().flat_map(|asking| &asking.local);
        let ready = self.ready.iter().flat_map(|(_, local)| local);
        self.waiting.iter().chain(confirming).chain(asking).chain(ready)
    }

    /// Takes reads whose deadline has come.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<ReadId> {
        let mut expired = Vec::new();
        let mut keep = |reads: &mut LocalReads| {
            let keep = reads.deadline > now;
            if !keep {
                expired.append(&mut reads.ids);
            }
            keep
        };
        self.waiting.retain_mut(&mut keep);
        if let Some(confirming) = &mut self.confirming {
            confirming.local.retain_mut(&mut keep);
        }
        if let Some(asking) = &mut self.asking {
            asking.local.retain_mut(&mut keep);
        }
        for (_, local) in &mut self.ready {
            local.retain_mut(&mut keep);
        }
        self.ready.retain(|(_, local)| !local.is_empty());
        expired
    }
}
