//! Leadership transfer (thesis, 3.10): writes pause, the target's log is completed, then the target starts an election
//! at once.

use super::members::ChangeRequest;
use super::role::{Leader, Role};
use super::{AdminRefusal, Effect, Observation, Raft, Signal};
use crate::types::{Instant, NodeId, RequestId, Term};

/// A transfer under way at the leader.
#[derive(Debug)]
pub(super) struct Transfer {
    to: NodeId,
    /// When the leader takes writes again.
    pub(super) deadline: Instant,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// An administrator wants another leader: this one, or any.
    Asked { request: RequestId, named: Option<NodeId>, deadline: Instant },
    /// The leader itself is to leave; the change is made by the next one.
    Change(ChangeRequest),
}

/// A transfer whose leader leads no longer: the present leader shows what became of it.
#[derive(Debug)]
pub(super) struct Handover {
    to: NodeId,
    purpose: Purpose,
    pub(super) deadline: Instant,
}

impl Raft {
    pub(super) fn on_transfer_leadership(
        &mut self,
        now: Instant,
        request: RequestId,
        named: Option<NodeId>,
        deadline: Instant,
        out: &mut Vec<Effect>,
    ) {
        match self.choose_target(now, named) {
            Ok(to) => {
                self.start_transfer(now, to, Purpose::Asked { request, named, deadline }, out);
            }
            Err(refusal) => out.push(Effect::Reply { request, result: Err(refusal) }),
        }
    }

    fn choose_target(&self, now: Instant, named: Option<NodeId>) -> Result<NodeId, AdminRefusal> {
        let (Role::Leader(leader), Some(configuration)) = (&self.role, self.log.configuration()) else {
            return Err(AdminRefusal::NotLeader { leader: self.leader() });
        };
        if self.changes_or_transfers() {
            return Err(AdminRefusal::InProgress);
        }
        let Some(to) = named else {
            let can_lead = |id| configuration.voters.contains_key(&id);
            return self.furthest_voter(now, can_lead).ok_or(AdminRefusal::NoTarget);
        };
        if to == self.id {
            return Err(AdminRefusal::Already(to));
        }
        if configuration.is_learner(to) {
            return Err(AdminRefusal::Invalid("a learner cannot lead"));
        }
        let progress = leader.progress.get(&to).ok_or(AdminRefusal::NotAMember(to))?;
        if progress.is_active(now, self.election_timeout()) { Ok(to) } else { Err(AdminRefusal::NoTarget) }
    }

    /// Of the others that answer and that `can_lead` accepts, the one whose log is furthest.
    pub(super) fn furthest_voter(&self, now: Instant, can_lead: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let timeout = self.election_timeout();
        let able = leader
            .progress
            .iter()
            .filter(|(id, progress)| progress.is_active(now, timeout) && can_lead(**id));
        able.rev().max_by_key(|(_, progress)| progress.match_index).map(|(id, _)| *id)
    }

    /// The target of this leader's transfer.
    pub(super) fn transfer_to(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Transfers leadership to `to`, because a change leaves this leader out.
    pub(super) fn transfer_for_change(
        &mut self,
        now: Instant,
        to: NodeId,
        asked: ChangeRequest,
        out: &mut Vec<Effect>,
    ) {
        self.start_transfer(now, to, Purpose::Change(asked), out);
    }

    fn start_transfer(&mut self, now: Instant, to: NodeId, purpose: Purpose, out: &mut Vec<Effect>) {
        let deadline = now.after(self.election_timeout()).min(purpose.deadline());
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { to, deadline, purpose });
            out.push(Effect::Observe(Observation::TransferStarted { to }));
            self.advance_transfer(out);
        }
    }

    /// Tells the target to stand once its log is complete; again with each heartbeat, in case that is lost.
    pub(super) fn advance_transfer(&mut self, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, .. }) = leader.transfer else { return };
        let (rules, last) = (self.settings.rules, self.log.last().index);
        if leader.progress.get(&to).is_some_and(|progress| rules.may_take_over(progress.match_index, last)) {
            leader.lease_given_up = true;
            out.push(Effect::Send { to, signal: Signal::TimeoutNow { term: self.hard_state.term } });
        }
    }

    /// The leader of `term` wants this node to start an election at once. Only a voter that is not a candidate does.
    pub(super) fn on_timeout_now(&mut self, now: Instant, term: Term, out: &mut Vec<Effect>) {
        let waits = match self.role {
            Role::Follower(_) | Role::PreCandidate(_) => true,
            Role::Candidate(_) | Role::Leader(_) => false,
        };
        if waits && term == self.hard_state.term && self.is_voter() {
            self.start_election(now, true, out);
        }
    }

    /// The target has not taken over in time: this leader continues.
    pub(super) fn expire_transfer(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if let Some(handover) = self.handover.take_if(|handover| handover.deadline <= now) {
            let result = Err(AdminRefusal::Timeout);
            out.push(Effect::Reply { request: handover.purpose.request(), result });
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = leader.transfer.take_if(|transfer| transfer.deadline <= now) else { return };
        out.push(Effect::Observe(Observation::TransferEnded { to: transfer.to, done: false }));
        match transfer.purpose {
            Purpose::Change(asked) if asked.deadline > now => match self.plan_change(now, &asked) {
                Ok(next) => self.begin_change(now, &asked, next, out),
                Err(refusal) => out.push(Effect::Reply { request: asked.request, result: Err(refusal) }),
            },
            purpose => {
                let result = Err(AdminRefusal::Timeout);
                out.push(Effect::Reply { request: purpose.request(), result });
            }
        }
        self.move_proposals(now, out);
    }

    /// Leadership ended: who asked for a change may find it done by another leader; what became of a transfer shows
    /// once there is one.
    pub(super) fn give_up_admin(&mut self, leader: Leader, out: &mut Vec<Effect>) {
        if let Some(change) = &leader.change {
            Self::give_up_change(change, out);
        }
        if let Some(Transfer { to, purpose, .. }) = leader.transfer {
            let deadline = purpose.deadline();
            self.handover = Some(Handover { to, purpose, deadline });
        }
    }

    /// A leader is known: answers who asked the one before for it.
    pub(super) fn on_leader_known(&mut self, leader: NodeId, out: &mut Vec<Effect>) {
        let Some(Handover { to, purpose, .. }) = self.handover.take() else { return };
        out.push(Effect::Observe(Observation::TransferEnded { to, done: leader == to }));
        let result = match &purpose {
            Purpose::Change(_) => Err(AdminRefusal::NotLeader { leader: Some(leader) }),
            Purpose::Asked { named, .. }
                if leader != self.id && named.is_none_or(|named| named == leader) =>
            {
                Ok(self.log.last().index)
            }
            Purpose::Asked { .. } => Err(AdminRefusal::LeadershipLost),
        };
        out.push(Effect::Reply { request: purpose.request(), result });
    }
}

impl Purpose {
    fn request(&self) -> RequestId {
        match self {
            Self::Asked { request, .. } => *request,
            Self::Change(asked) => asked.request,
        }
    }

    /// When it expires.
    fn deadline(&self) -> Instant {
        match self {
            Self::Asked { deadline, .. } => *deadline,
            Self::Change(asked) => asked.deadline,
        }
    }
}
