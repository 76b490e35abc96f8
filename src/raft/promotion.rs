//! Learners become voters by themselves once they have caught up and stay so (thesis, 4.2.1).

use super::members::ChangeRequest;
use super::role::Role;
use super::{Change, Effect, Observation, Raft};
use crate::types::{Instant, NodeId, RequestId};

/// Election timeouts that a learner waits for others that are catching up, so that they are promoted as one.
const PATIENCE_TIMEOUTS: u32 = 10;

impl Raft {
    /// With each heartbeat: begins to make voters of the learners that are ready, all in one change.
    pub(super) fn promote_learners(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.settings.promotion {
            return;
        }
        let (ready, others_come) = self.watch_learners(now);
        let Role::Leader(leader) = &mut self.role else { return };
        if ready.is_empty() {
            leader.promotion_since = None;
            return;
        }
        let since = *leader.promotion_since.get_or_insert(now);
        let patience = self.election_timeout() * PATIENCE_TIMEOUTS;
        if (others_come && now.since(since) < patience) || self.changes_or_transfers() {
            return;
        }
        let change = Change { promote: ready.clone(), ..Change::default() };
        // Nobody waits for the answer.
        let asked = ChangeRequest { request: RequestId(0), change, expected: None, deadline: now };
        if let Ok(next) = self.plan_change(now, &asked) {
            for member in ready {
                out.push(Effect::Observe(Observation::MemberPromoted { member }));
            }
            self.append_configuration(now, next, out);
        }
    }

    /// The learners that are ready, and whether others that may become voters are on their way.
    fn watch_learners(&mut self, now: Instant) -> (Vec<NodeId>, bool) {
        let timeout = self.election_timeout();
        let (Role::Leader(leader), Some(configuration)) = (&mut self.role, self.log.configuration()) else {
            return (Vec::new(), false);
        };
        let (last, rules) = (self.log.last().index, self.settings.rules);
        let earlier = leader.recent.index();
        let (mut ready, mut others_come) = (Vec::new(), false);
        for (id, member) in &configuration.learners {
            let Some(progress) = leader.progress.get_mut(id) else { continue };
            if member.stays_learner || configuration.is_voter(*id) {
                continue;
            }
            let is_active = progress.is_active(now, timeout);
            if is_active && rules.is_caught_up(progress.match_index, last, earlier) {
                progress.caught_up_since.get_or_insert(now);
            } else {
                progress.caught_up_since = None;
            }
            if rules.may_promote(progress.caught_up_since.map(|since| now.since(since)), timeout) {
                ready.push(*id);
            } else {
                others_come |= is_active;
            }
        }
        (ready, others_come)
    }
}
