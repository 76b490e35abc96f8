//! Trouble with the own disk: it stalls, it fills up, or it lost what it held.

use std::collections::{BTreeMap, VecDeque};

use super::progress::Progress;
use super::proposals::{Origin, Queued};
use super::role::Role;
use super::{
    Effect, ForwardAnswer, HaltReason, NUMBER_MAX, Observation, Raft, Refusal, RefusalReason, Signal,
};
use crate::types::{Instant, IoId, LogIndex, LogPosition, NodeId, Session};

/// What is known of the own disk's trouble.
#[derive(Default)]
pub(super) struct Trouble {
    /// Steps whose appends are not durable yet: the last one of each, and when it was.
    unflushed: VecDeque<(IoId, Instant)>,
    is_stall_reported: bool,
    is_space_low: bool,
    /// When which node was last asked to take over for want of space.
    handed_over: Option<(Instant, NodeId)>,
}

impl Raft {
    /// At the end of each step: since when its appends wait.
    pub(super) fn note_appends(&mut self, now: Instant) {
        let last_io = self.log.last_io();
        if self.log.flushed_io() < last_io
            && self.trouble.unflushed.back().is_none_or(|(known, _)| *known < last_io)
        {
            self.trouble.unflushed.push_back((last_io, now));
        }
    }

    /// Appends have become durable: a stall may be over.
    pub(super) fn on_flushed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let flushed = self.log.flushed_io();
        while let Some((_, since)) = self.trouble.unflushed.pop_front_if(|(io, _)| *io <= flushed) {
            self.timing.note_flush(now.since(since));
        }
        if self.trouble.is_stall_reported && !self.disk_stalls(now) {
            self.trouble.is_stall_reported = false;
            out.push(Effect::Observe(Observation::DiskWorks));
        }
    }

    /// When the oldest append will have waited for too long. At least twice an election timeout: else a slow flush
    /// would cost an election, which costs more flushes.
    fn stall_deadline(&self) -> Option<Instant> {
        let timeout = self.settings.disk_stall_timeout.max(self.settings.election_timeout * 2);
        self.trouble.unflushed.front().map(|(_, since)| since.after(timeout))
    }

    /// Whether the oldest append has waited for too long.
    fn disk_stalls(&self, now: Instant) -> bool {
        self.stall_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// When to look at the disk next: once for each stall.
    pub(super) fn next_disk_check(&self) -> Option<Instant> {
        self.stall_deadline().filter(|_| !self.trouble.is_stall_reported)
    }

    /// Looks whether the own disk hangs: a leader then lets another one lead.
    pub(super) fn watch_disk(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.disk_stalls(now) {
            return;
        }
        if !std::mem::replace(&mut self.trouble.is_stall_reported, true) {
            let since = self.trouble.unflushed.front().map_or(now, |(_, since)| *since);
            let micros = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
            out.push(Effect::Observe(Observation::DiskStalls { micros }));
        }
        let leads = matches!(self.role, Role::Leader(_));
        if leads && !self.settings.rules.may_lead_on_stalled_disk(&self.other_voters()) {
            self.become_follower(now, self.hard_state.term, None, "own disk stalls", out);
        }
    }

    /// Whether this node could lead if it were elected: its disk takes appends. A sole voter leads with a full disk, too:
    /// nobody else can serve reads.
    pub(super) fn may_campaign(&self, now: Instant) -> bool {
        let alone = self.other_voters().is_empty();
        // Peers refuse a term at the ceiling: only `recover` starts terms again.
        let has_term_left = self.hard_state.term.next().0 < NUMBER_MAX;
        has_term_left && !self.disk_stalls(now) && (alone || !self.trouble.is_space_low)
    }

    /// Stays out of an election that is due.
    pub(super) fn put_off_election(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.leader().is_some() {
            self.become_follower(now, self.hard_state.term, None, "the leader is silent", out);
        }
        let deadline = self.draw_election_deadline(now);
        match &mut self.role {
            Role::Follower(follower) => follower.election_deadline = deadline,
            Role::PreCandidate(candidate) => candidate.election_deadline = deadline,
            Role::Candidate(candidate) => candidate.election_deadline = deadline,
            Role::Leader(_) => {}
        }
    }

    pub(super) fn is_space_low(&self) -> bool {
        self.trouble.is_space_low
    }

    /// The disk is nearly full: no new entries, and nothing old that is not needed for a restart. Votes and terms still
    /// fit.
    pub(super) fn on_space_low(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.trouble.is_space_low, true) {
            return;
        }
        self.trouble.handed_over = None;
        out.push(Effect::Observe(Observation::SpaceLow));
        self.compact(now, out);
        self.move_proposals(now, out);
        self.hand_over(now, out);
    }

    pub(super) fn on_space_freed(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.trouble.is_space_low) {
            out.push(Effect::Observe(Observation::SpaceFreed));
        }
    }

    /// A leader without space asks a voter that holds its whole log to take over, another one each time, once in an
    /// election timeout.
    pub(super) fn hand_over(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let asked = self.trouble.handed_over;
        if asked.is_some_and(|(at, _)| now.since(at) < self.election_timeout()) {
            return;
        }
        let last = self.log.last().index;
        let Role::Leader(leader) = &self.role else { return };
        if leader.transfer.is_some() {
            return;
        }
        let is_voter = |id: &NodeId| self.log.configuration().is_some_and(|c| c.voters.contains_key(id));
        let (rules, timeout) = (self.settings.rules, self.election_timeout());
        let holds_all = |progress: &Progress| {
            rules.may_take_over(progress.match_index, last) && progress.is_active(now, timeout)
        };
        let able: Vec<NodeId> = leader
            .progress
            .iter()
            .filter(|(id, progress)| is_voter(id) && holds_all(progress))
            .map(|(id, _)| *id)
            .collect();
        let next = able.iter().find(|id| asked.is_none_or(|(_, before)| **id > before));
        let Some(to) = next.or(able.first()).copied() else { return };
        self.trouble.handed_over = Some((now, to));
        if let Role::Leader(leader) = &mut self.role {
            leader.lease_given_up = true;
        }
        out.push(Effect::Send { to, signal: Signal::TimeoutNow { term: self.hard_state.term } });
    }

    /// Refuses all writes that wait to be appended here.
    pub(super) fn refuse_for_space(&mut self, out: &mut Vec<Effect>) {
        let refusal = Refusal::not_applied(RefusalReason::SpaceLow);
        let mut answers: BTreeMap<NodeId, Vec<ForwardAnswer>> = BTreeMap::new();
        while let Some(Queued { origin, id, .. }) = self.proposals.dequeue() {
            match origin {
                Origin::Local => self.fail_proposal(id, refusal, out),
                Origin::Peer(peer) => answers.entry(peer).or_default().push((id, Err(refusal))),
            }
        }
        for (to, answers) in answers {
            out.push(Effect::Send { to, signal: Signal::Forwarded { answers } });
        }
    }

    /// At a leader: whether a rejected append shows that the follower lacks what it acknowledged to this leader. What was
    /// sent since then has its `prev` at or behind `match_index`; a follower that holds all it acknowledged finds that
    /// the logs may agree there. One that says otherwise has lost entries, or said so before it acknowledged and the
    /// message is late. So it is told, and looks for itself. Until then it gets nothing: entries sent again would hide
    /// the loss.
    pub(super) fn suspects_lost_data(
        &self,
        from: NodeId,
        prev: LogPosition,
        hint: LogPosition,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(progress) = leader.progress.get(&from) else { return false };
        let match_index = progress.match_index;
        if prev.index < match_index || hint.index >= match_index {
            return false;
        }
        let (term, session) = (self.hard_state.term, progress.session);
        out.push(Effect::Send { to: from, signal: Signal::LostData { term, session, match_index } });
        true
    }

    /// The leader of `term` says that this node acknowledged entries and rejects appends behind them. In one term no
    /// entry is removed that was acknowledged to its leader, so a log that ends before it has lost its end. A late or
    /// doubled message finds the log whole, or another term. In a term that began after this node started, the log in
    /// memory still has all that was acknowledged: then the leader errs.
    pub(super) fn on_lost_data(&mut self, session: Session, match_index: LogIndex, out: &mut Vec<Effect>) {
        let own = self.log.configuration().and_then(|configuration| configuration.member(self.id));
        if own.is_some_and(|member| member.session != session) || self.log.last().index >= match_index {
            return;
        }
        if self.started_in != self.hard_state.term {
            return;
        }
        let last_index = self.log.last().index;
        out.push(Effect::Observe(Observation::DataLost { match_index, last_index }));
        out.push(Effect::Halt(HaltReason::DataLost));
    }
}
