//! Whether what a follower sends reaches its leader. A network may let messages pass in one direction only: the follower
//! hears its leader, and nothing that it sends arrives. So each append says whether the leader hears the receiver.

use super::role::Role;
use super::{Effect, Outcome, Raft, Refusal, RefusalReason};
use crate::types::{Instant, NodeId, ProposalId};

impl Raft {
    /// Whether the leader is heard, and has said for an election timeout that it does not hear this node. Not at its
    /// first word: after a pause, a follower finds appends that were sent while it was silent.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        follower.leader.is_some()
            && follower.unheard_since.is_some_and(|since| now.since(since) >= self.election_timeout())
    }

    /// Notes whether the leader's append says that it does not hear this node.
    pub(super) fn note_unheard(&mut self, now: Instant, unheard: bool, out: &mut Vec<Effect>) {
        let Role::Follower(follower) = &mut self.role else { return };
        follower.unheard_since = unheard.then(|| follower.unheard_since.unwrap_or(now));
        self.refuse_if_unheard(now, out);
    }

    /// Answers all who wait for the leader if it does not hear this node: what was not sent to it is certainly not
    /// applied, what was sent may still arrive.
    pub(super) fn refuse_if_unheard(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        if !self.is_unheard(now) {
            return false;
        }
        let refused = |outcome| Refusal { reason: RefusalReason::NotHeard, outcome };
        while let Some(queued) = self.proposals.dequeue() {
            self.fail_proposal(queued.id, refused(Outcome::NotApplied), out);
        }
        for id in self.proposals.forwarded() {
            self.fail_proposal(id, refused(Outcome::Unknown), out);
        }
        let ids = self.reads.take_unconfirmed();
        if !ids.is_empty() {
            out.push(Effect::ReadFailed { ids, refusal: refused(Outcome::NotApplied) });
        }
        true
    }

    /// A message to `to` was dropped. Forwarded writes that never left are free to be sent again.
    pub(super) fn on_send_dropped(&mut self, to: NodeId, unsent: &[ProposalId]) {
        let before = self.log.before().index;
        match &mut self.role {
            Role::Leader(leader) => {
                let progress = leader.progress.get_mut(&to);
                if let Some(progress) = progress.filter(|progress| !progress.gets_snapshot()) {
                    progress.on_send_dropped(before);
                }
            }
            Role::Follower(follower) if follower.leader == Some(to) => self.reads.doubt_question(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        for id in unsent {
            self.proposals.requeue(*id);
        }
    }
}
