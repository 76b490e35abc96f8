//! Elections: timeouts, pre-votes, votes (paper, 5.2 and 5.4.1; thesis, 4.2.3 and 9.6).

use std::collections::BTreeSet;

use super::role::{Candidate, PreCandidate, Role};
use super::{Effect, HardState, Observation, Promise, Raft, Signal, VoteAnswer, VoteRequest};
use crate::plant::Plant;
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
        if self.settings.planted.is(Plant::AskBeforeOwnVote) {
            self.ask_for_votes(out);
        }
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
                contact.is_some_and(|at| now.since(at) < self.election_timeout())
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
            _ => self.refusal(request, true),
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
            out.push(Effect::Send { to: from, signal: self.refusal(request, false) });
            return;
        }
        if self.hard_state.voted_for != Some(from) {
            self.hard_state.voted_for = Some(from);
            self.hard_state_changed = !self.settings.planted.is(Plant::VoteNotPersisted);
        }
        self.await_candidate(request.election_timeout_ms);
        let deadline = self.draw_election_deadline(now);
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = deadline;
        }
        self.acknowledge(from, Promise::VoteGranted { term }, out);
    }

    /// The vote depends only on term, earlier vote and log (paper, 5.2 and 5.4.1): never on this node's idea of
    /// who the members are, else a cluster that grew could be left without a majority of willing voters.
    fn judge(&self, from: NodeId, request: &VoteRequest) -> VoteAnswer {
        let HardState { term, voted_for } = self.hard_state;
        let last = self.log.last();
        if request.term < term {
            VoteAnswer::OldTerm
        } else if request.term == term
            && (voted_for.is_some_and(|id| id != from) || self.leader().is_some_and(|id| id != from))
            && !self.settings.planted.is(Plant::TwoVotesATerm)
        {
            VoteAnswer::VotedForAnother
        } else if (request.last.term, request.last.index) < (last.term, last.index)
            && !self.settings.planted.is(Plant::VoteWithoutLogCheck)
            && !(request.transfer && self.settings.planted.is(Plant::TransferWithoutLogCheck))
        {
            VoteAnswer::LogBehind
        } else {
            VoteAnswer::Granted
        }
    }

    fn refusal(&self, request: &VoteRequest, pre_vote: bool) -> Signal {
        let silent = self.settings.planted.is(Plant::RefusalWithoutTerm);
        Signal::VoteRefused {
            term: if silent { request.term.prev() } else { self.hard_state.term },
            pre_vote,
        }
    }

    pub(super) fn on_pre_vote_granted(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        out: &mut Vec<Effect>,
    ) {
        let asked = self.hard_state.term.next();
        let Role::PreCandidate(candidate) = &mut self.role else { return };
        if term != asked {
            return;
        }
        candidate.granted.insert(from);
        let Role::PreCandidate(candidate) = &self.role else { return };
        let granted = &candidate.granted;
        if self.deciding().is_some_and(|c| c.has_quorum(|id| granted.contains(&id))) {
            self.start_election(now, false, out);
        }
    }

    pub(super) fn on_vote_granted(&mut self, now: Instant, from: NodeId, term: Term, out: &mut Vec<Effect>) {
        self.note_vote_answer(now, term);
        if term == self.hard_state.term
            && let Role::Candidate(candidate) = &mut self.role
        {
            candidate.granted.insert(from);
            self.count_votes(now, out);
        }
    }

    /// Once a candidate's own vote is durable, it counts, and the others are asked for theirs. Not before: else it
    /// could crash, forget that it stood for this term, and stand for it again with another log, while votes and
    /// appends of its first candidacy are still under way.
    pub(super) fn count_own_vote(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let id = self.id;
        let flushed = self.log.flushed_io();
        if let Role::Candidate(candidate) = &mut self.role
            && flushed >= candidate.own_vote
            && candidate.granted.insert(id)
        {
            if !self.settings.planted.is(Plant::AskBeforeOwnVote) {
                self.ask_for_votes(out);
            }
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

    fn count_votes(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let granted = &candidate.granted;
        let is_asking = granted.contains(&self.id) || self.settings.planted.is(Plant::AskBeforeOwnVote);
        if is_asking && self.deciding().is_some_and(|c| c.has_quorum(|id| granted.contains(&id))) {
            self.become_leader(now, out);
        }
    }
}

/// What is reported of a request that was not answered because a leader is alive.
pub(super) fn ignored_vote(to: NodeId, term: Term, pre_vote: bool) -> Observation {
    Observation::VoteAnswered { to, term, pre_vote, answer: VoteAnswer::LeaderAlive }
}
