//! Elections: timeouts, pre-votes, votes (paper, 5.2 and 5.4.1; thesis, 4.2.3 and 9.6).

use std::collections::BTreeSet;

use super::role::{Candidate, PreCandidate, Role};
use super::{Effect, HardState, Message, Observation, Promise, Raft, Signal, VoteAnswer, VoteRequest};
use crate::types::{Instant, NodeId, Term};

impl Raft {
    pub(super) fn on_election_timeout(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.is_voter() {
            // Not a member, or not known to be one: it votes when asked but never starts an election.
            self.put_off_election(now, out);
            return;
        }
        if !self.may_campaign(now) {
            self.put_off_election(now, out);
            return;
        }
        let alone = self.other_voters().is_empty();
        if self.settings.pre_vote && !alone {
            self.start_pre_vote(now, out);
        } else {
            self.start_election(now, false, out);
        }
    }

    fn start_pre_vote(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let election_deadline = self.draw_election_deadline(now);
        let granted = BTreeSet::from([self.id]);
        let role = Role::PreCandidate(PreCandidate { election_deadline, granted });
        self.change_role(role, "election timeout", out);
        let request = VoteRequest {
            term: self.hard_state.term.next(),
            last: self.log.last(),
            transfer: false,
            election_timeout_ms: self.told_timeout_ms(),
        };
        for to in self.other_voters() {
            out.push(Effect::Send { to, signal: Signal::PreVote(request.clone()) });
        }
    }

    /// Stands for election; on behalf of the leader if this is a `transfer`.
    pub(super) fn start_election(&mut self, now: Instant, transfer: bool, out: &mut Vec<Effect>) {
        if !self.may_campaign(now) {
            return;
        }
        let term = self.hard_state.term.next();
        self.hard_state = HardState { term, voted_for: Some(self.id) };
        self.append(None, Vec::new(), out);
        self.timing.note_election(now, term);
        let election_deadline = self.draw_election_deadline(now);
        let own_vote = self.log.last_io();
        let role =
            Role::Candidate(Candidate { election_deadline, own_vote, transfer, granted: BTreeSet::new() });
        let why = if transfer { "stands for election, as the leader wants" } else { "stands for election" };
        self.change_role(role, why, out);
        out.push(Effect::Observe(Observation::ElectionStarted { term }));
    }

    /// Whether vote requests are ignored because a leader is alive: only with `check_quorum`, since only then
    /// a leader that lost its majority is known to step down (thesis, 4.2.3).
    pub(super) fn ignores_vote_requests(&self, now: Instant) -> bool {
        if !self.settings.check_quorum {
            return false;
        }
        if self.has_promised_no_vote(now) {
            return true;
        }
        match &self.role {
            Role::Leader(_) => self.quorum_is_active(now),
            Role::Follower(follower) => {
                let contact = follower.leader.and(follower.leader_contact);
                let timeout = self.election_timeout();
                contact.is_some_and(|at| self.settings.rules.is_leader_alive(now, at, timeout))
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    pub(super) fn on_pre_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        request: &VoteRequest,
        out: &mut Vec<Effect>,
    ) {
        if self.ignores_vote_requests(now) {
            out.push(Effect::Observe(ignored_vote(from, request.term, true)));
            return;
        }
        let answer = self.judge(from, request);
        out.push(Effect::Observe(Observation::VoteAnswered {
            to: from,
            term: request.term,
            pre_vote: true,
            answer,
        }));
        let signal = match answer {
            VoteAnswer::Granted => Signal::PreVoteGranted { term: request.term },
            _ => self.refusal(true),
        };
        out.push(Effect::Send { to: from, signal });
    }

    pub(super) fn on_request_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        request: &VoteRequest,
        out: &mut Vec<Effect>,
    ) {
        if self.has_promised_no_vote(now) && !request.transfer {
            out.push(Effect::Observe(ignored_vote(from, request.term, false)));
            return;
        }
        // A higher term has been adopted by now, unless a leader is alive.
        let answer = self.judge(from, request);
        let term = self.hard_state.term;
        out.push(Effect::Observe(Observation::VoteAnswered {
            to: from,
            term: request.term,
            pre_vote: false,
            answer,
        }));
        if answer != VoteAnswer::Granted {
            out.push(Effect::Send { to: from, signal: self.refusal(false) });
            return;
        }
        self.hard_state.voted_for = Some(from);
        self.await_candidate(request.election_timeout_ms);
        let deadline = self.draw_election_deadline(now);
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = deadline;
        }
        self.acknowledge(from, Promise::VoteGranted { term }, out);
    }

    fn judge(&self, from: NodeId, request: &VoteRequest) -> VoteAnswer {
        let (own, leader, last) = (self.hard_state, self.leader(), self.log.last());
        self.settings.rules.answer_vote(from, request, own, leader, last)
    }

    fn refusal(&self, pre_vote: bool) -> Signal {
        Signal::VoteRefused { term: self.settings.rules.refusal_term(self.hard_state.term), pre_vote }
    }

    /// An answer to this node's question for votes or pre-votes. A refusal tells no more than its sender's term, which
    /// the caller has looked at. An answer that comes too late changes nothing.
    pub(super) fn on_vote_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        answer: &Message,
        out: &mut Vec<Effect>,
    ) {
        if let Message::Promise(Promise::VoteGranted { term })
        | Message::Signal(Signal::VoteRefused { term, pre_vote: false }) = answer
        {
            self.note_vote_answer(now, *term);
        }
        let (rules, term) = (self.settings.rules, self.hard_state.term);
        match &mut self.role {
            Role::PreCandidate(candidate) if rules.is_pre_vote(answer, term) => {
                candidate.granted.insert(from);
                self.count_pre_votes(now, out);
            }
            Role::Candidate(candidate) if rules.is_vote(answer, term) => {
                candidate.granted.insert(from);
                self.count_votes(now, out);
            }
            Role::PreCandidate(_) | Role::Candidate(_) | Role::Follower(_) | Role::Leader(_) => {}
        }
    }

    /// After each step: once a candidate's own vote counts, the others are asked for theirs.
    pub(super) fn count_own_vote(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let (id, rules, flushed) = (self.id, self.settings.rules, self.log.flushed_io());
        if let Role::Candidate(candidate) = &mut self.role
            && rules.own_vote_counts(candidate.own_vote, flushed)
            && candidate.granted.insert(id)
        {
            self.ask_for_votes(out);
            self.count_votes(now, out);
        }
    }

    fn ask_for_votes(&self, out: &mut Vec<Effect>) {
        let transfer = matches!(&self.role, Role::Candidate(candidate) if candidate.transfer);
        let request = VoteRequest {
            term: self.hard_state.term,
            last: self.log.last(),
            transfer,
            election_timeout_ms: self.told_timeout_ms(),
        };
        for to in self.other_voters() {
            out.push(Effect::Send { to, signal: Signal::RequestVote(request.clone()) });
        }
    }

    fn count_pre_votes(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Role::PreCandidate(candidate) = &self.role else { return };
        if self.is_quorum(|id| candidate.granted.contains(&id)) {
            self.start_election(now, false, out);
        }
    }

    fn count_votes(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let may_win = self.settings.rules.own_vote_counts(candidate.own_vote, self.log.flushed_io());
        if may_win && self.is_quorum(|id| candidate.granted.contains(&id)) {
            self.become_leader(now, out);
        }
    }

    /// Whether the members that `has` accepts decide by the configuration in force.
    pub(super) fn is_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        self.log.configuration().is_some_and(|c| self.settings.rules.has_quorum(c, &has))
    }
}

/// What is reported of a request that was not answered because a leader is alive.
pub(super) fn ignored_vote(to: NodeId, term: Term, pre_vote: bool) -> Observation {
    Observation::VoteAnswered { to, term, pre_vote, answer: VoteAnswer::LeaderAlive }
}
