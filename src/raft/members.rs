//! Changes of members at the leader (thesis, chapter 4): adding and removing learners in one step, voters through a
//! joint configuration. A configuration is in force as soon as it is in the log; what follows from it waits for its
//! commit: leaving a joint one, telling who asked, telling who was removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::progress::Progress;
use super::role::Role;
use super::{AdminRefusal, Change, Configuration, Effect, Observation, Payload, Raft};
use crate::types::{FeatureLevel, Instant, LogIndex, NodeId, RequestId, Session};

/// What an administrator asked for.
#[derive(Clone, Debug)]
pub(super) struct ChangeRequest {
    pub(super) request: RequestId,
    pub(super) change: Change,
    pub(super) expected: Option<LogIndex>,
    pub(super) deadline: Instant,
}

/// Who waits for the change under way.
#[derive(Debug)]
pub(super) struct PendingChange {
    request: RequestId,
    pub(super) deadline: Instant,
}

impl Raft {
    pub(super) fn on_change_members(&mut self, now: Instant, asked: ChangeRequest, out: &mut Vec<Effect>) {
        match self.plan_change(now, &asked) {
            Err(refusal) => {
                out.push(Effect::Reply { request: asked.request, result: Err(refusal) });
            }
            Ok(next) if next.voters.contains_key(&self.id) => self.begin_change(now, &asked, next, out),
            Ok(next) => match self.successor(now, &next) {
                // Whoever leads next makes the change; a leader that leaves would hold up its end.
                Some(to) => self.transfer_for_change(now, to, asked, out),
                None => self.begin_change(now, &asked, next, out),
            },
        }
    }

    /// A voter that can take over at once from a leader that `next` makes none.
    fn successor(&self, now: Instant, next: &Configuration) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let configuration = self.log.configuration()?;
        let last = self.log.last().index;
        let can_lead = |id: NodeId| {
            configuration.voters.contains_key(&id)
                && next.voters.contains_key(&id)
                && leader.is_caught_up(id, last, self.settings.rules)
        };
        self.furthest_voter(now, can_lead)
    }

    /// Whether a change can begin now, and the configuration that it begins with.
    pub(super) fn plan_change(
        &self,
        now: Instant,
        asked: &ChangeRequest,
    ) -> Result<Configuration, AdminRefusal> {
        let rules = self.settings.rules;
        let (Role::Leader(leader), Some(configuration)) = (&self.role, self.log.configuration()) else {
            return Err(AdminRefusal::NotLeader { leader: self.leader() });
        };
        let current = self.log.configuration_index();
        if asked.expected.is_some_and(|expected| expected != current) {
            return Err(AdminRefusal::Unexpected { current });
        }
        if !rules.may_change_members(self.log.commit(), leader.noop_index) {
            return Err(AdminRefusal::NotReady);
        }
        if self.changes_or_transfers() {
            return Err(AdminRefusal::InProgress);
        }
        configuration.check(&asked.change, rules)?;
        let last = self.log.last().index;
        let next = configuration.changed(&asked.change, last.next());
        if next.voters.is_empty() {
            return Err(AdminRefusal::NoVoters);
        }
        for id in &asked.change.promote {
            if !leader.is_caught_up(*id, last, rules) {
                let entries = leader.progress.get(id).map_or(last.0, |progress| progress.lacks(last));
                return Err(AdminRefusal::NotCaughtUp { id: *id, entries });
            }
        }
        self.check_voters_to_be(now, &next)?;
        Ok(next)
    }

    /// Whether a configuration is joint or not yet committed, or a transfer is under way.
    pub(super) fn changes_or_transfers(&self) -> bool {
        self.change_is_open() || self.transfer_to().is_some()
    }

    /// Whether the configuration in force is joint, or not known to be committed.
    pub(super) fn change_is_open(&self) -> bool {
        self.log.configuration().is_some_and(|configuration| configuration.is_joint())
            || self.log.configuration_index() > self.log.commit()
    }

    /// Voters change only while those to be could commit at once; else the cluster might stop for want of one that
    /// is not there.
    fn check_voters_to_be(&self, now: Instant, next: &Configuration) -> Result<(), AdminRefusal> {
        let Role::Leader(leader) = &self.role else { return Ok(()) };
        if !next.is_joint() {
            return Ok(());
        }
        let (last, rules, timeout) = (self.log.last().index, self.settings.rules, self.election_timeout());
        let is_active =
            |id: &NodeId| leader.progress.get(id).is_some_and(|progress| progress.is_active(now, timeout));
        let is_there =
            |id: &&NodeId| **id == self.id || (is_active(id) && leader.is_caught_up(**id, last, rules));
        let (active, voters) = (next.voters.keys().filter(is_there).count(), next.voters.len());
        if rules.may_enter_joint(active, voters) {
            Ok(())
        } else {
            Err(AdminRefusal::NoQuorum { active, voters })
        }
    }

    pub(super) fn begin_change(
        &mut self,
        now: Instant,
        asked: &ChangeRequest,
        next: Configuration,
        out: &mut Vec<Effect>,
    ) {
        if let Role::Leader(leader) = &mut self.role {
            leader.change = Some(PendingChange { request: asked.request, deadline: asked.deadline });
        }
        self.append_configuration(now, next, out);
    }

    /// Appends a configuration, which is in force from here on.
    pub(super) fn append_configuration(&mut self, now: Instant, next: Configuration, out: &mut Vec<Effect>) {
        self.append_batch(now, vec![Payload::Configuration(Arc::new(next))], out);
        self.probe_followers(out);
    }

    fn leave_joint(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if let Some(joint) = self.log.configuration() {
            let next = joint.left(self.log.last().index.next());
            self.append_configuration(now, next, out);
        }
    }

    /// After a commit: does what the commit of a configuration allows. The leader continues what an earlier leader
    /// began.
    pub(super) fn settle_configuration(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let (index, commit, rules) = (self.log.configuration_index(), self.log.commit(), self.settings.rules);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(configuration) = self.log.configuration().cloned() else { return };
        let may_settle = if configuration.is_joint() {
            rules.may_leave_joint(index, commit)
        } else {
            rules.is_settled(index, commit)
        };
        if !may_settle || leader.settled.replace(index) == Some(index) {
            return;
        }
        if configuration.is_joint() {
            self.leave_joint(now, out);
            return;
        }
        if let Some(change) = leader.change.take() {
            out.push(Effect::Reply { request: change.request, result: Ok(index) });
        }
        if !configuration.voters.contains_key(&self.id) {
            // The others learn of the commit before they lose their leader (thesis, 4.2.2).
            self.start_round(now, out);
        }
        self.drop_removed(&configuration, out);
        self.follow_configuration(now, out);
        // A removed node answers no round that is under way; a leader that is left alone needs no answer.
        self.confirm_reads(now, out);
    }

    /// Everybody whom a leader sends entries to, with their sessions: all members, and those that are removed as long
    /// as that is not committed.
    pub(super) fn followers(&self) -> BTreeMap<NodeId, Session> {
        let mut followers = BTreeMap::new();
        for (_, configuration) in self.log.open_configurations() {
            followers.extend(configuration.members().into_iter().map(|(id, member)| (id, member.session)));
        }
        followers.remove(&self.id);
        followers
    }

    /// The open configurations have changed: this node steps down if it is a voter of none, starts again with members of
    /// another session than before, and begins to send to those that were added.
    pub(super) fn follow_configuration(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.is_voter() {
            self.become_follower(now, self.hard_state.term, None, "is a voter no longer", out);
            return;
        }
        let followers = self.followers();
        let (last, before) = (self.log.last().index, self.log.before().index);
        let Role::Leader(leader) = &mut self.role else { return };
        for (id, session) in followers {
            if leader.progress.get(&id).is_none_or(|progress| progress.session != session) {
                let mut progress = Progress::new(now, session, last);
                progress.probe_from(last.next(), before);
                leader.progress.insert(id, progress);
            }
        }
    }

    /// The feature level of the cluster, as far as it is known to be committed: commands up to it may be appended.
    pub(crate) fn feature_level(&self) -> FeatureLevel {
        let committed = self.log.committed_configuration();
        committed.map_or(FeatureLevel(0), |(_, configuration)| configuration.feature_level)
    }

    /// After each step: reports a configuration that came into force, and the commit of this node's own removal.
    pub(super) fn tell_configuration(&mut self, out: &mut Vec<Effect>) {
        let removed = self.log.committed_configuration().and_then(|(_, c)| c.removed.get(&self.id).copied());
        if let Some(index) = removed {
            self.tell_removal(index, out);
        }
        let in_force = self.log.configuration();
        let is_told = match (in_force, &self.told.in_force) {
            (Some(in_force), Some(told)) => Arc::ptr_eq(in_force, told),
            (in_force, told) => in_force.is_none() && told.is_none(),
        };
        if is_told {
            return;
        }
        self.told.in_force = in_force.cloned();
        if let Some(configuration) = &self.told.in_force {
            out.push(Effect::Observe(Observation::ConfigurationChanged {
                index: self.log.configuration_index(),
                joint: configuration.is_joint(),
                voters: configuration.voters.keys().copied().collect(),
                learners: configuration.learners.keys().copied().collect(),
            }));
        }
    }

    /// The first deadline of the administrators' requests.
    pub(super) fn admin_deadline(&self) -> Option<Instant> {
        let handover = self.handover.as_ref().map(|handover| handover.deadline);
        let Role::Leader(leader) = &self.role else { return handover };
        let change = leader.change.as_ref().map(|change| change.deadline);
        let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
        [handover, change, transfer].into_iter().flatten().min()
    }

    /// Answers administrators whose time is up.
    pub(super) fn expire_admin(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let expired = match &mut self.role {
            Role::Leader(leader) => leader.change.take_if(|change| change.deadline <= now),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => None,
        };
        if let Some(change) = expired {
            let result = Err(AdminRefusal::Timeout);
            out.push(Effect::Reply { request: change.request, result });
        }
        self.expire_transfer(now, out);
    }

    /// Leadership ended while a change was under way: another leader continues it, or replaces it.
    pub(super) fn give_up_change(change: &PendingChange, out: &mut Vec<Effect>) {
        let result = Err(AdminRefusal::LeadershipLost);
        out.push(Effect::Reply { request: change.request, result });
    }
}
