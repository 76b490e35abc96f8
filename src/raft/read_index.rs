//! Read rounds on the leader (thesis, 6.4).

use super::reads::Confirming;
use super::role::Role;
use super::{Effect, Raft, Signal};
use crate::types::{Instant, NodeId, ReadId};

impl Raft {
    /// Starts what the waiting reads need: a round on the leader, a question to the leader elsewhere.
    pub(super) fn move_reads(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match &self.role {
            Role::Leader(leader) => {
                if !self.settings.rules.may_read(self.log.commit(), leader.noop_index) {
                    return;
                }
                self.serve_by_lease(now, out);
                let Role::Leader(leader) = &self.role else { return };
                if self.reads.wants_round() {
                    let (round, index) = (leader.round + 1, self.log.commit());
                    self.reads.start_round(round, index);
                    self.start_round(now, out);
                    self.confirm_reads(now, out);
                }
            }
            Role::Follower(follower) => {
                if let Some(leader) = follower.leader
                    && !self.refuse_if_unheard(now, out)
                {
                    self.ask_read_index(now, leader, out);
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    pub(super) fn on_read_index(&mut self, now: Instant, from: NodeId, id: ReadId, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Leader(_)) {
            self.reads.add_remote(from, id);
            self.move_reads(now, out);
        } else {
            out.push(Effect::Send { to: from, signal: Signal::ReadIndexRefused { id } });
        }
    }

    /// Serves the round that is being confirmed once a majority has echoed it, and starts the next.
    pub(super) fn confirm_reads(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let (Role::Leader(leader), Some(reads)) = (&self.role, self.reads.confirming()) else { return };
        let echoed = |id: NodeId| match leader.progress.get(&id) {
            _ if id == self.id => u64::MAX,
            progress => progress.map_or(0, |progress| progress.echoed_round),
        };
        let configuration = self.log.configuration();
        if !configuration.is_some_and(|c| self.settings.rules.is_confirmed(c, reads, echoed)) {
            return;
        }
        if let Some(Confirming { index, local, remote, .. }) = self.reads.take_confirmed() {
            self.reads.add_ready(index, local);
            let term = self.hard_state.term;
            for (to, id) in remote {
                out.push(Effect::Send { to, signal: Signal::ReadIndexAt { id, term, index } });
            }
        }
        self.move_reads(now, out);
    }
}
