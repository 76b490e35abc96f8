//! Following a leader: `AppendEntries`, and writes and reads on behalf of this node's clients.

use super::role::{Follower, Role};
use super::{Append, Effect, Entry, ForwardAnswer, Promise, Raft, Refusal, RefusalReason, Signal};
use crate::types::{Instant, LogIndex, LogPosition, NodeId, ProposalId, ReadId, Session, Term};

impl Follower {
    pub(super) fn new(election_deadline: Instant, leader: Option<NodeId>) -> Self {
        Self {
            leader,
            election_deadline,
            leader_contact: None,
            unheard_since: None,
            verified: LogIndex(0),
            echoed_round: 0,
        }
    }
}

impl Raft {
    pub(super) fn on_append(&mut self, now: Instant, from: NodeId, append: Append, out: &mut Vec<Effect>) {
        let Append { term, session, prev, entries, commit_index, round, unheard, election_timeout_ms } =
            append;
        if term < self.hard_state.term {
            // Always answered, so that a leader of an old term learns of the new one.
            let hint = LogPosition::default();
            let signal = Signal::AppendRejected { term: self.hard_state.term, session, prev, hint };
            out.push(Effect::Send { to: from, signal });
            return;
        }
        if !matches!(self.role, Role::Leader(_)) {
            self.follow_timeout(election_timeout_ms);
        }
        if !self.hear_leader(now, from, term, out) {
            return;
        }
        self.tell_state(now, out);
        self.note_unheard(now, unheard, out);
        let (prev, entries) = self.skip_covered(prev, entries);
        if !self.log.matches(prev) {
            if self.takes_nothing_new() && prev.index > self.log.last().index {
                // It lacks entries that it has no room for. Asking for them would have them sent for nothing.
                self.echo_round(from, term, session, round, out);
                self.move_proposals(now, out);
                return;
            }
            let limit = LogPosition { index: prev.index.prev(), term: prev.term };
            let hint = self.log.agreement_bound(limit).max(self.log.before());
            let signal = Signal::AppendRejected { term, session, prev, hint };
            out.push(Effect::Send { to: from, signal });
            return;
        }
        let Some(taken) = self.take_entries(now, from, entries, out) else { return };
        let match_index = LogIndex(prev.index.0 + taken);
        self.advance_follower_commit(match_index, commit_index);
        let stickiness_ms = self.stickiness_ms();
        self.answer_append(from, Promise::Appended { term, session, match_index, round, stickiness_ms }, out);
        self.move_proposals(now, out);
        self.move_reads(now, out);
    }

    /// Leaves out what the log's beginning covers: it is committed, and so it is the same in every leader's log.
    fn skip_covered(&self, prev: LogPosition, mut entries: Vec<Entry>) -> (LogPosition, Vec<Entry>) {
        let before = self.log.before();
        if prev.index >= before.index {
            return (prev, entries);
        }
        entries.retain(|entry| entry.index > before.index);
        (before, entries)
    }

    /// Notes that `from` leads `term`. False if this node leads that term itself, which no honest peer can claim.
    pub(super) fn hear_leader(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        out: &mut Vec<Effect>,
    ) -> bool {
        if matches!(self.role, Role::Leader(_)) {
            return false;
        }
        if self.leader() != Some(from) {
            self.become_follower(now, term, Some(from), "heard the leader", out);
        }
        let election_deadline = self.draw_election_deadline(now);
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = election_deadline;
            follower.leader_contact = Some(now);
        }
        self.promise_no_vote(now);
        true
    }

    /// Appends what the log does not hold yet; a conflicting tail is replaced (paper, 5.3). Returns how many of the
    /// entries the log holds then: all, unless there is no room for new ones. `None`: no correct leader sends them to this
    /// node, so they are ignored.
    fn take_entries(
        &mut self,
        now: Instant,
        from: NodeId,
        mut entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) -> Option<u64> {
        let all = entries.len() as u64;
        let rules = self.settings.rules;
        let known = entries.iter().take_while(|entry| rules.holds(&self.log, entry)).count();
        let new = entries.split_off(known);
        let Some(first) = new.first() else { return Some(all) };
        // A leader that contradicts committed entries breaks Raft's promise; this node's own log is sound.
        if let Some(why) = rules.contradiction(&self.log, first) {
            out.extend(self.ignored(now, from, why).map(Effect::Observe));
            return None;
        }
        if self.takes_nothing_new() {
            return Some(known as u64);
        }
        if self.time_leaps(now, from, &new) {
            out.extend(self.ignored(now, from, "time_leap").map(Effect::Observe));
            return None;
        }
        let truncate_from = (first.index <= self.log.last().index).then_some(first.index);
        if let Some(from) = truncate_from {
            self.log.truncate_from(from);
            if let Role::Follower(follower) = &mut self.role {
                follower.verified = follower.verified.min(from.prev());
            }
        }
        for entry in &new {
            self.log.push(entry.clone());
        }
        self.append(truncate_from, new, out);
        self.leaps.on_taken(now);
        Some(all)
    }

    /// Whether there is no room for new entries, on the disk or in memory. The leader is answered all the same, and sends
    /// them again with a later heartbeat.
    fn takes_nothing_new(&self) -> bool {
        self.is_space_low() || self.is_backlogged()
    }

    /// Whether so much is committed and not yet applied, or not yet durable, that the log takes no new entries: apply or
    /// the disk is slower than the leader. Of what is durable only committed entries count, since they can always be
    /// applied. No correct leader sends so much ahead of the disk.
    fn is_backlogged(&self) -> bool {
        let limit = self.settings.uncommitted_bytes_max;
        self.log.backlog_bytes(limit) >= limit || self.log.unflushed_bytes(limit) >= limit
    }

    /// Adopts the leader's commit index up to the last entry that is known to equal the leader's.
    fn advance_follower_commit(&mut self, match_index: LogIndex, commit_index: LogIndex) {
        if let Role::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(match_index);
            let commit = self.settings.rules.commit_at_follower(&self.log, follower.verified, commit_index);
            self.log.commit_to(commit);
        }
    }

    /// Acknowledges once durable. If that has to wait, the read round is echoed at once.
    fn answer_append(&mut self, to: NodeId, promise: Promise, out: &mut Vec<Effect>) {
        let waits = self.must_write_hard_state() || !self.log.is_flushed();
        if let Promise::Appended { term, session, round, .. } = &promise {
            if waits {
                self.echo_round(to, *term, *session, *round, out);
            } else if let Role::Follower(follower) = &mut self.role {
                follower.echoed_round = follower.echoed_round.max(*round);
            }
        }
        self.acknowledge(to, promise, out);
    }

    /// Echoes a read round, once.
    fn echo_round(&mut self, to: NodeId, term: Term, session: Session, round: u64, out: &mut Vec<Effect>) {
        let stickiness_ms = self.stickiness_ms();
        let Role::Follower(follower) = &mut self.role else { return };
        if round > follower.echoed_round {
            follower.echoed_round = round;
            let signal = Signal::RoundEcho { term, session, round, stickiness_ms };
            out.push(Effect::Send { to, signal });
        }
    }

    /// What the leader says of forwarded writes.
    pub(super) fn on_forwarded(&mut self, answers: Vec<ForwardAnswer>, out: &mut Vec<Effect>) {
        for (id, answer) in answers {
            if !self.proposals.is_forwarded(id) {
                continue;
            }
            match answer {
                // Its result went by unseen: the entry was applied before its place was known.
                Ok(position) if position.index <= self.log.handed() => {
                    self.give_up_forwarded(id, Refusal::unknown(RefusalReason::LeadershipLost), out);
                }
                Ok(position) => self.proposals.on_appended(id, position),
                Err(refusal) => self.give_up_forwarded(id, refusal, out),
            }
        }
    }

    /// A forwarded write will get no other answer from the leader that it was sent to: the next leader is asked, or its
    /// client is told.
    fn give_up_forwarded(&mut self, id: ProposalId, refusal: Refusal, out: &mut Vec<Effect>) {
        if self.settings.rules.may_send_again(refusal) {
            self.proposals.requeue(id);
        } else {
            self.fail_proposal(id, refusal, out);
        }
    }

    pub(super) fn fail_proposal(&mut self, id: ProposalId, refusal: Refusal, out: &mut Vec<Effect>) {
        self.proposals.finish(id);
        out.push(Effect::ProposalFailed { id, refusal });
    }

    /// Followers' writes that this leader did not append before it lost leadership.
    pub(super) fn refuse_remote_proposals(&mut self, out: &mut Vec<Effect>) {
        let refusal = Refusal::not_applied(RefusalReason::LeadershipLost);
        for (to, ids) in self.proposals.take_remote() {
            let answers = ids.into_iter().map(|id| (id, Err(refusal))).collect();
            out.push(Effect::Send { to, signal: Signal::Forwarded { answers } });
        }
    }

    /// Another leader leads: whether the one before appended what was sent to it will not be told any more.
    pub(super) fn give_up_all_forwarded(&mut self, out: &mut Vec<Effect>) {
        for id in self.proposals.forwarded() {
            self.give_up_forwarded(id, Refusal::unknown(RefusalReason::LeadershipLost), out);
        }
    }

    /// Asks the leader for a read index for all reads that wait, unless an answer is to be expected.
    pub(super) fn ask_read_index(&mut self, now: Instant, leader: NodeId, out: &mut Vec<Effect>) {
        if self.reads.wants_to_ask(now, self.settings.heartbeat_interval * 2) {
            self.next_read_id = self.next_read_id.wrapping_add(1);
            let id = ReadId(self.next_read_id);
            self.reads.ask(now, id);
            out.push(Effect::Send { to: leader, signal: Signal::ReadIndex { id } });
        }
    }

    pub(super) fn on_read_index_at(
        &mut self,
        now: Instant,
        id: ReadId,
        term: Term,
        index: LogIndex,
        out: &mut Vec<Effect>,
    ) {
        let Role::Follower(follower) = &self.role else { return };
        let (rules, verified) = (self.settings.rules, follower.verified);
        if let Some(reads) = self.reads.take_answered(now, |question| rules.answers(id, question)) {
            self.reads.add_ready(index, reads);
            if term == self.hard_state.term {
                self.log.commit_to(rules.commit_at_follower(&self.log, verified, index));
            }
            // Those that came after the question was sent need one of their own.
            self.move_reads(now, out);
        }
    }
}
