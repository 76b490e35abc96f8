//! Snapshots between nodes (paper, 7): a leader that no longer holds what a follower needs sends its state instead.
//!
//! The core sees the position of a snapshot in the log, never its content. At the receiver the log is changed in memory
//! at once, as if the entries up to the snapshot's had been appended; what depends on that waits for the disk as it
//! does for appends, and nothing is handed to apply until the snapshot is the applied state.

use super::progress::{Flow, Transfer};
use super::role::Role;
use super::{Effect, Observation, Outcome, Promise, Raft, Refusal, RefusalReason, Signal, Snapshot};
use crate::types::{Instant, LogIndex, LogPosition, NodeId, Session, StagedId, Term};

/// A snapshot that has arrived.
pub(super) struct Received {
    pub(super) from: NodeId,
    pub(super) term: Term,
    pub(super) session: Session,
    pub(super) snapshot: Snapshot,
    pub(super) staged: StagedId,
}

impl Raft {
    /// Starts the transfers that are due, to followers in touch.
    pub(super) fn start_transfers(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let (term, from) = (self.hard_state.term, self.log.applied());
        let timeout = self.election_timeout();
        let Role::Leader(leader) = &mut self.role else { return };
        for (to, progress) in &mut leader.progress {
            let is_active = progress.is_active(now, timeout);
            if is_active && matches!(progress.flow, Flow::Snapshot(Transfer::Due)) {
                progress.flow = Flow::Snapshot(Transfer::Running { from });
                out.push(Effect::SendSnapshot { to: *to, session: progress.session, term });
                out.push(Effect::Observe(Observation::SnapshotStarted { to: *to }));
            }
        }
    }

    /// A transfer has ended. The follower's log is assumed to continue behind the snapshot, until it says otherwise;
    /// that it is durable there is known only when it says so. What failed is tried again with the next heartbeat.
    pub(super) fn on_snapshot_sent(
        &mut self,
        now: Instant,
        to: NodeId,
        (session, term): (Session, Term),
        sent: Option<LogPosition>,
        out: &mut Vec<Effect>,
    ) {
        let (before, is_current) = (self.log.before().index, term == self.hard_state.term);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to).filter(|_| is_current) else { return };
        if session != progress.session || !matches!(progress.flow, Flow::Snapshot(Transfer::Running { .. })) {
            return;
        }
        match sent {
            // What follows may have been dropped meanwhile: then there will be another transfer.
            Some(position) => progress.probe_from(position.index.next(), before),
            None => progress.flow = Flow::Snapshot(Transfer::Due),
        }
        out.push(Effect::Observe(Observation::SnapshotSent { to, index: sent.map(|sent| sent.index) }));
        self.compact(now, out);
    }

    pub(super) fn on_snapshot_received(&mut self, now: Instant, received: Received, out: &mut Vec<Effect>) {
        let Received { from, term, session, snapshot, staged } = received;
        let position = snapshot.position;
        if term < self.hard_state.term {
            // Always answered, so that a leader of an old term learns of the new one.
            let (term, hint) = (self.hard_state.term, LogPosition::default());
            let signal = Signal::AppendRejected { term, session, prev: position, hint };
            out.push(Effect::Send { to: from, signal });
            out.push(Effect::DropSnapshot { staged });
            return;
        }
        if self.term_leaps(now, from, term) || self.snapshot_time_leaps(from, &snapshot) {
            out.extend(self.ignored(now, from, "snapshot_leap").map(Effect::Observe));
            out.push(Effect::DropSnapshot { staged });
            return;
        }
        if term > self.hard_state.term {
            self.become_follower(now, term, None, "saw a higher term", out);
        }
        if !self.hear_leader(now, from, term, out) {
            out.push(Effect::DropSnapshot { staged });
            return;
        }
        if self.settings.rules.may_install(position, self.log.commit()) {
            self.install(from, snapshot, staged, out);
        } else {
            out.push(Effect::DropSnapshot { staged });
        }
        // What is committed equals any leader's log (paper, 5.4.3), and is durable by then.
        let match_index = self.log.commit();
        let stickiness_ms = self.stickiness_ms();
        let round = if let Role::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(match_index);
            follower.echoed_round
        } else {
            0
        };
        self.acknowledge(from, Promise::Appended { term, session, match_index, round, stickiness_ms }, out);
        self.move_proposals(now, out);
        // Questions asked before are asked again: their answers may be of the time before the snapshot.
        self.reads.forget_questions();
        self.move_reads(now, out);
    }

    fn install(&mut self, from: NodeId, snapshot: Snapshot, staged: StagedId, out: &mut Vec<Effect>) {
        let position = snapshot.position;
        let keep_log = self.settings.rules.keeps_log(&self.log, position);
        if let Role::Follower(follower) = &mut self.role
            && !keep_log
        {
            // Nothing behind the snapshot is left.
            follower.verified = follower.verified.min(position.index);
        }
        self.log.install(&snapshot, keep_log);
        self.covered = self.covered.max(position.index);
        // They went by unseen.
        let refusal = Refusal { reason: RefusalReason::LeadershipLost, outcome: Outcome::Unknown };
        for id in self.proposals.take_appended(position.index) {
            out.push(Effect::ProposalFailed { id, refusal });
        }
        self.written = self.hard_state;
        let (io, hard_state) = (self.log.begin_io(), self.hard_state);
        out.push(Effect::Observe(Observation::SnapshotReceived { from, index: position.index }));
        out.push(Effect::InstallSnapshot { io, snapshot, staged, hard_state, keep_log });
    }

    /// The state of a snapshot is the applied one, or some later one is.
    pub(super) fn on_applied(&mut self, index: LogIndex, out: &mut Vec<Effect>) {
        if self.log.on_applied(index) {
            self.forget_own_states();
            out.push(Effect::Observe(Observation::SnapshotInstalled { index }));
        }
    }
}
