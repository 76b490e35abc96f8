//! One node's consensus state, the dispatch of events, and the change of roles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::divergence::Divergence;
use super::election::ignored_vote;
use super::install::Received;
use super::leap::Leaps;
use super::lease::Echo;
use super::log::{Log, Recovered};
use super::members::ChangeRequest;
use super::progress::Progress;
use super::proposals::{Proposals, Resolved};
use super::random::Random;
use super::reads::{LocalReads, Reads};
use super::removal::Told;
use super::role::{Follower, Role};
use super::timing::Timing;
use super::transfer::Handover;
use super::trouble::Trouble;
use super::{
    AppendEntries, Committed, Configuration, Effect, Entry, Event, HaltReason, HardState, Message,
    Observation, Outcome, Promise, Proposal, Refusal, RefusalReason, RoleName, Settings, SettingsError,
    Signal,
};
use crate::types::{Instant, LogIndex, NodeId, ReadId, Term};

/// Entries handed to apply in one effect, and how many may be handed out but not applied.
const APPLY_ENTRIES_MAX: usize = 4096;
const UNAPPLIED_ENTRIES_MAX: u64 = 16_384;

/// The consensus state of one node.
///
/// Call [`Raft::step`] with every event, in order, and with [`Event::Timeout`] no later than
/// [`Raft::next_deadline`]; carry out the effects of each step before the next one.
pub struct Raft {
    pub(super) id: NodeId,
    pub(super) settings: Settings,
    pub(super) hard_state: HardState,
    /// `hard_state` as the latest append carried it.
    pub(super) written: HardState,
    pub(super) log: Log,
    pub(super) role: Role,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) random: Random,
    pub(super) next_read_id: u64,
    /// A transfer of leadership that this node began and whose end it waits for.
    pub(super) handover: Option<Handover>,
    pub(super) told: Told,
    pub(super) divergence: Divergence,
    /// The latest leader known, and its term.
    pub(super) last_leader: Option<(NodeId, Term)>,
    /// Role and term last reported.
    reported: (RoleName, Term),
    /// The last entry that the state covers durably: the log up to it is not needed for a restart.
    pub(super) covered: LogIndex,
    pub(super) trouble: Trouble,
    pub(super) timing: Timing,
    /// Until when this node votes for nobody: it promised so to a leader, or may have before it started.
    pub(super) no_vote_until: Instant,
    /// The term as it was when this node started.
    pub(super) started_in: Term,
    pub(super) leaps: Leaps,
}

/// A node's consensus state, for those who look at it.
#[allow(clippy::struct_excessive_bools)] // what is reported, not what decides
#[derive(Clone, Debug)]
pub struct Status {
    /// Role now.
    pub role: RoleName,
    /// Term now.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Latest index known to be committed.
    pub commit_index: LogIndex,
    /// Last entry of the log.
    pub last_log_index: LogIndex,
    /// First entry that the log holds or will hold: what is below it is only in the state.
    pub first_log_index: LogIndex,
    /// Members as of the latest configuration in the log.
    pub configuration: Option<Arc<Configuration>>,
    /// Index of that configuration's entry; 0 if there is none.
    pub configuration_index: LogIndex,
    /// Whether this node receives the log and does not count.
    pub is_learner: bool,
    /// Whether that configuration is joint, or not known to be committed.
    pub change_in_progress: bool,
    /// At a leader: the target of its leadership transfer.
    pub transfer_to: Option<NodeId>,
    /// At a leader: whether a majority answers; elsewhere: whether a leader is known.
    pub has_quorum: bool,
    /// False at a follower that hears its leader and is not heard by it: it can serve nobody.
    pub is_heard: bool,
    /// Election timeout in force: as configured, or longer where links or disks are slow.
    pub election_timeout: Duration,
    /// Time since the leader was last heard, in microseconds; 0 at the leader; `None` if it never was.
    pub leader_contact_micros: Option<u64>,
    /// Writes of this node's clients without an outcome.
    pub proposals_pending: usize,
}

/// One follower, as its leader sees it.
#[expect(clippy::struct_excessive_bools, reason = "independent observations")]
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// Last index known to be durable there.
    pub match_index: LogIndex,
    /// First index not sent yet.
    pub next_index: LogIndex,
    /// Whether it receives the log and does not count.
    pub is_learner: bool,
    /// Whether it answered within an election timeout.
    pub active: bool,
    /// Whether it lacks so little that it can count in a majority at once.
    pub caught_up: bool,
    /// Time since it was last heard, or since this node began to send to it.
    pub silent_for: Duration,
    /// Appends on their way to it: how many, and their entries' bytes.
    pub in_flight: (usize, usize),
    /// Whether it gets the whole state, since the log no longer holds what it needs next.
    pub gets_snapshot: bool,
}

impl Raft {
    /// A node as it starts: a follower without a leader.
    ///
    /// `seed` is the only source of randomness. It must differ between nodes and between starts: ids of
    /// questions to the leader are drawn from it, too.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(
        now: Instant,
        id: NodeId,
        settings: Settings,
        seed: u64,
        hard_state: HardState,
        recovered: Recovered,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let divergence = Divergence::new(recovered.applied, recovered.digest);
        let log = Log::new(recovered, settings.cache_bytes, settings.rules);
        let told = Told::new(log.configuration());
        let (covered, no_vote_until) = (log.before().index, settings.first_vote_at(now));
        let (mut random, timing) = (Random::new(seed), Timing::new(&settings));
        let next_read_id = random.next_u64();
        let mut raft = Self {
            id,
            settings,
            hard_state,
            written: hard_state,
            log,
            role: Role::Follower(Follower::new(now, None)),
            proposals: Proposals::default(),
            reads: Reads::default(),
            random,
            next_read_id,
            handover: None,
            told,
            divergence,
            last_leader: None,
            reported: (RoleName::Follower, hard_state.term),
            covered,
            trouble: Trouble::default(),
            timing,
            no_vote_until,
            started_in: hard_state.term,
            leaps: Leaps::new(now),
        };
        // A sole voter has nobody to wait for.
        let alone = raft.is_voter() && raft.other_voters().is_empty();
        let deadline = if alone { now } else { raft.draw_election_deadline(now) };
        if let Role::Follower(follower) = &mut raft.role {
            follower.election_deadline = deadline;
        }
        Ok(raft)
    }

    /// Takes one event; pushes what must be done to `out`.
    pub fn step(&mut self, now: Instant, mut event: Event, out: &mut Vec<Effect>) {
        self.note_state(&mut event);
        match event {
            Event::Timeout => self.on_timeout(now, out),
            Event::Message { from, message } => self.on_message(now, from, message, out),
            Event::SendDropped { to, unsent } => self.on_send_dropped(to, &unsent),
            Event::Propose { proposals } => self.on_propose(now, proposals, out),
            Event::Read { ids, deadline } => self.on_read(now, ids, deadline, out),
            Event::Appended { io } => {
                self.log.on_durable(io);
                self.on_flushed(now, out);
                self.advance_commit(now, out);
                if matches!(self.role, Role::Leader(_)) {
                    self.form_batches(now, out);
                }
            }
            Event::AppendFailed => out.push(Effect::Halt(HaltReason::DiskFailed)),
            Event::Loaded { peer, entries } => self.on_loaded(peer, entries, out),
            Event::Applied { index, .. } => self.on_applied(index, out),
            Event::ChangeMembers { request, change, expected, deadline } => {
                self.on_change_members(now, ChangeRequest { request, change, expected, deadline }, out);
            }
            Event::TransferLeadership { request, to, deadline } => {
                self.on_transfer_leadership(now, request, to, deadline, out);
            }
            Event::SnapshotTaken { position } => self.on_snapshot_taken(now, position, out),
            Event::SnapshotSent { to, session, term, sent } => {
                self.on_snapshot_sent(now, to, (session, term), sent, out);
            }
            Event::SnapshotReceived { from, term, session, snapshot, staged } => {
                self.on_snapshot_received(now, Received { from, term, session, snapshot, staged }, out);
            }
            Event::SpaceLow => self.on_space_low(now, out),
            Event::SpaceFreed => self.on_space_freed(out),
        }
        self.count_own_vote(now, out);
        self.write_hard_state(out);
        self.note_appends(now);
        self.hand_out(out);
        self.tell_configuration(out);
    }

    /// When to call [`Raft::step`] with [`Event::Timeout`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let role = match &self.role {
            Role::Follower(follower) => follower.election_deadline,
            Role::PreCandidate(candidate) => candidate.election_deadline,
            Role::Candidate(candidate) => candidate.election_deadline,
            Role::Leader(leader) => leader.next_heartbeat,
        };
        let others = [
            self.proposals.next_deadline(),
            self.reads.next_deadline(),
            self.admin_deadline(),
            self.next_disk_check(),
        ];
        others.into_iter().flatten().fold(role, Instant::min)
    }

    /// Timing and limits.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state as of the last step.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (has_quorum, contact) = match &self.role {
            Role::Leader(_) => (self.quorum_is_active(now), Some(now)),
            Role::Follower(follower) => (follower.leader.is_some(), follower.leader_contact),
            Role::PreCandidate(_) | Role::Candidate(_) => (false, None),
        };
        Status {
            role: self.role.name(),
            term: self.hard_state.term,
            leader: self.leader(),
            commit_index: self.log.commit(),
            last_log_index: self.log.last().index,
            first_log_index: self.log.before().index.next(),
            configuration: self.log.configuration().cloned(),
            configuration_index: self.log.configuration_index(),
            is_learner: self.log.configuration().is_some_and(|c| c.is_learner(self.id)),
            change_in_progress: self.change_is_open(),
            transfer_to: self.transfer_to(),
            has_quorum,
            election_timeout: self.election_timeout(),
            is_heard: !self.is_unheard(now),
            leader_contact_micros: contact
                .map(|at| u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX)),
            proposals_pending: self.proposals.len(),
        }
    }

    /// The followers, at a leader; empty elsewhere.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        let last = self.log.last().index;
        let peer = |(id, progress): (&NodeId, &Progress)| PeerStatus {
            id: *id,
            match_index: progress.match_index,
            next_index: progress.next_index,
            is_learner: self.log.configuration().is_some_and(|c| c.is_learner(*id)),
            active: progress.is_active(now, self.election_timeout()),
            caught_up: leader.is_caught_up(*id, last, self.settings.rules),
            silent_for: now.since(progress.last_contact),
            in_flight: progress.in_flight(),
            gets_snapshot: progress.gets_snapshot(),
        };
        leader.progress.iter().map(peer).collect()
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Leader(_) => Some(self.id),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    pub(super) fn draw_election_deadline(&mut self, now: Instant) -> Instant {
        now.after(self.random.up_to_twice(self.election_timeout()))
    }

    /// Whether this node may be a candidate: it is a voter, before or after a change that is under way.
    pub(super) fn is_voter(&self) -> bool {
        self.settings.rules.may_lead(self.id, self.log.open_configurations())
    }

    /// The voters that this node asks for votes, of both sets while joint.
    pub(super) fn other_voters(&self) -> BTreeSet<NodeId> {
        let Some(configuration) = self.log.configuration() else { return BTreeSet::new() };
        let voters = configuration.voters.keys().chain(configuration.outgoing.keys());
        voters.copied().filter(|id| *id != self.id).collect()
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.expire(now, out);
        self.expire_admin(now, out);
        self.watch_disk(now, out);
        let election_due = match &self.role {
            Role::Leader(leader) => {
                if leader.next_heartbeat <= now {
                    self.on_heartbeat_due(now, out);
                }
                return;
            }
            Role::Follower(Follower { election_deadline, .. }) => *election_deadline <= now,
            Role::PreCandidate(candidate) => candidate.election_deadline <= now,
            Role::Candidate(candidate) => candidate.election_deadline <= now,
        };
        if election_due {
            self.on_election_timeout(now, out);
        }
    }

    /// Answers the clients whose time is up.
    fn expire(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let reason = match self.leader() {
            None => RefusalReason::NoLeader,
            Some(id) if id == self.id && !self.quorum_is_active(now) => RefusalReason::NoQuorum,
            Some(_) => RefusalReason::Timeout,
        };
        for (id, outcome) in self.proposals.take_expired(now) {
            out.push(Effect::ProposalFailed { id, refusal: Refusal { reason, outcome } });
        }
        let ids = self.reads.take_expired(now);
        if !ids.is_empty() {
            out.push(Effect::ReadFailed { ids, refusal: Refusal { reason, outcome: Outcome::NotApplied } });
        }
    }

    fn on_message(&mut self, now: Instant, from: NodeId, message: Message, out: &mut Vec<Effect>) {
        if let Some(index) = self.removed_sender(from, &message) {
            out.push(Effect::Send { to: from, signal: Signal::Removed { index } });
            return;
        }
        if message.term().is_some_and(|term| self.term_leaps(now, from, term)) {
            out.extend(self.ignored(now, from, "term_leap").map(Effect::Observe));
            return;
        }
        if message.term().is_some_and(|term| term > self.hard_state.term) {
            if let Message::Signal(Signal::RequestVote(request)) = &message
                && !request.transfer
                && self.ignores_vote_requests(now)
            {
                out.push(Effect::Observe(ignored_vote(from, request.term, false)));
                return;
            }
            let term = message.term().unwrap_or_default();
            self.become_follower(now, term, None, "saw a higher term", out);
        }
        if self.is_out_of_place(from, &message) {
            return;
        }
        match message {
            Message::Signal(Signal::PreVote(request)) => self.on_pre_vote(now, from, &request, out),
            Message::Signal(Signal::RequestVote(request)) => self.on_request_vote(now, from, &request, out),
            Message::Signal(Signal::PreVoteGranted { .. } | Signal::VoteRefused { .. })
            | Message::Promise(Promise::VoteGranted { .. }) => self.on_vote_answer(now, from, &message, out),
            Message::Signal(Signal::Append(append)) => self.on_append(now, from, append, out),
            Message::Promise(Promise::Appended { term, session, match_index, round, stickiness_ms }) => {
                let echo = Echo { round, stickiness_ms };
                if let Some(contact) = self.on_contact(now, from, term, session, Some(echo), out) {
                    self.on_appended_at(now, contact, match_index, out);
                }
            }
            Message::Signal(Signal::RoundEcho { term, session, round, stickiness_ms }) => {
                let echo = Echo { round, stickiness_ms };
                self.on_contact(now, from, term, session, Some(echo), out);
            }
            Message::Signal(Signal::AppendRejected { term, session, prev, hint }) => {
                if let Some(contact) = self.on_contact(now, from, term, session, None, out) {
                    self.on_append_rejected(now, contact, prev, hint, out);
                }
            }
            Message::Signal(Signal::Forward { proposals }) => self.on_forward(now, from, proposals, out),
            Message::Signal(Signal::Forwarded { answers }) => self.on_forwarded(answers, out),
            Message::Signal(Signal::ReadIndex { id }) => self.on_read_index(now, from, id, out),
            Message::Signal(Signal::ReadIndexAt { id, term, index }) => {
                self.on_read_index_at(now, id, term, index, out);
            }
            Message::Signal(Signal::ReadIndexRefused { id }) => self.reads.on_refused(id),
            Message::Signal(Signal::TimeoutNow { term }) => self.on_timeout_now(now, term, out),
            Message::Signal(Signal::Removed { index }) => self.on_removed(from, index, out),
            Message::Signal(Signal::StateDigests { digests }) => self.on_state_digests(from, digests, out),
            Message::Signal(Signal::LostData { term, session, match_index }) => {
                if term == self.hard_state.term {
                    self.on_lost_data(session, match_index, out);
                }
            }
        }
    }

    fn on_propose(&mut self, now: Instant, proposals: Vec<Proposal>, out: &mut Vec<Effect>) {
        let mut bytes = self.unfinished_bytes();
        for proposal in proposals {
            bytes += proposal.command.len();
            if self.is_too_much(bytes) {
                let refusal = Refusal::not_applied(RefusalReason::Overloaded);
                out.push(Effect::ProposalFailed { id: proposal.id, refusal });
                bytes -= proposal.command.len();
            } else {
                self.proposals.add_local(proposal);
            }
        }
        self.move_proposals(now, out);
    }

    /// Whether more bytes would wait, be uncommitted or be unapplied than may.
    pub(super) fn is_too_much(&self, bytes: usize) -> bool {
        !self.settings.rules.may_take_write(bytes, self.settings.uncommitted_bytes_max)
    }

    /// Bytes of writes that wait here, or are not yet committed or applied.
    pub(super) fn unfinished_bytes(&self) -> usize {
        let uncommitted = match &self.role {
            Role::Leader(leader) => leader.uncommitted_bytes(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => 0,
        };
        let backlog = self.log.backlog_bytes(self.settings.uncommitted_bytes_max);
        self.proposals.kept_bytes() + uncommitted + backlog
    }

    /// Appends queued writes, forwards them, or leaves them until a leader is known.
    pub(super) fn move_proposals(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Leader(_)) {
            self.form_batches(now, out);
        } else if let Some(to) = self.leader()
            && self.proposals.queue_len() > 0
            && !self.refuse_if_unheard(now, out)
        {
            let proposals = self.proposals.take_for_forwarding(self.settings.window_bytes);
            if !proposals.is_empty() {
                out.push(Effect::Send { to, signal: Signal::Forward { proposals } });
            }
        }
    }

    fn on_read(&mut self, now: Instant, ids: Vec<ReadId>, deadline: Instant, out: &mut Vec<Effect>) {
        self.reads.add(LocalReads { ids, deadline });
        self.move_reads(now, out);
    }

    /// Writes what changed to the log: entries already pushed, term and vote.
    pub(super) fn append(
        &mut self,
        truncate_from: Option<LogIndex>,
        entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) {
        self.written = self.hard_state;
        out.push(Effect::Append(AppendEntries {
            io: self.log.begin_io(),
            truncate_from,
            hard_state: self.hard_state,
            commit_index: self.log.commit(),
            entries,
        }));
    }

    /// Whether the log does not hold the current term and vote yet.
    pub(super) fn must_write_hard_state(&self) -> bool {
        self.settings.rules.must_write(self.hard_state, self.written)
    }

    fn write_hard_state(&mut self, out: &mut Vec<Effect>) {
        if self.must_write_hard_state() {
            self.append(None, Vec::new(), out);
        }
    }

    /// Sends a promise after all that has been appended so far, the current term and vote included.
    pub(super) fn acknowledge(&mut self, to: NodeId, promise: Promise, out: &mut Vec<Effect>) {
        self.write_hard_state(out);
        out.push(Effect::Acknowledge { to, promise, after: self.log.last_io() });
    }

    fn hand_out(&mut self, out: &mut Vec<Effect>) {
        while self.log.handed().0 - self.log.applied().0 < UNAPPLIED_ENTRIES_MAX {
            let entries = self.log.hand_out(APPLY_ENTRIES_MAX);
            if entries.is_empty() {
                break;
            }
            let mut committed = Vec::with_capacity(entries.len());
            for entry in entries {
                let Resolved { applied, superseded, misplaced } = self.proposals.resolve(&entry);
                let lost = RefusalReason::LeadershipLost;
                let superseded = superseded.into_iter().map(|id| (id, Refusal::not_applied(lost)));
                let misplaced = misplaced.into_iter().map(|id| (id, Refusal::unknown(lost)));
                for (id, refusal) in superseded.chain(misplaced) {
                    out.push(Effect::ProposalFailed { id, refusal });
                }
                committed.push(Committed { entry, proposal: applied });
            }
            out.push(Effect::Apply { entries: committed });
        }
        if self.log.is_installing() {
            // Its state is not the applied one yet, and is no part of what has been handed out.
            return;
        }
        while let Some((index, ids)) = self.reads.take_ready(self.log.handed()) {
            out.push(Effect::ReadReady { ids, index });
        }
    }

    /// Follows `leader` (or waits for one) in `term`, which is the current one or a later one.
    pub(super) fn become_follower(
        &mut self,
        now: Instant,
        term: Term,
        leader: Option<NodeId>,
        why: &'static str,
        out: &mut Vec<Effect>,
    ) {
        if term > self.hard_state.term {
            self.hard_state = HardState { term, voted_for: None };
        }
        // A higher term alone is no sign of a leader: the time to the next election continues (paper, 5.2).
        let election_deadline = match (&self.role, leader) {
            (Role::Follower(follower), None) => follower.election_deadline,
            _ => self.draw_election_deadline(now),
        };
        let mut follower = Follower::new(election_deadline, leader);
        follower.leader_contact = leader.map(|_| now);
        self.change_role(Role::Follower(follower), why, out);
    }

    /// The only place where the role changes: what depended on the old role is abandoned or moved.
    pub(super) fn change_role(&mut self, role: Role, why: &'static str, out: &mut Vec<Effect>) {
        let old_leader = self.leader();
        let old_role = std::mem::replace(&mut self.role, role);
        let term = self.hard_state.term;
        let report = (self.role.name(), term);
        if std::mem::replace(&mut self.reported, report) != report {
            out.push(Effect::Observe(Observation::RoleChanged { role: report.0, term, why }));
        }
        if let Role::Leader(old) = old_role {
            self.refuse_remote_proposals(out);
            self.give_up_admin(*old, out);
        }
        let leader = self.leader();
        if leader == old_leader {
            return;
        }
        out.push(Effect::Observe(Observation::LeaderChanged { leader, term }));
        if let Some(leader) = leader {
            self.on_leader_known(leader, out);
        }
        for (to, id) in self.reads.reset() {
            out.push(Effect::Send { to, signal: Signal::ReadIndexRefused { id } });
        }
        if let Some(leader) = leader
            && self.last_leader.replace((leader, term)) != Some((leader, term))
        {
            self.give_up_all_forwarded(out);
        }
    }
}
