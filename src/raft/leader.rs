//! Leading: the no-op, batches of writes, commit by counting, heartbeats (paper, 5.3 and 5.4.2; thesis, 6.2).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::check::TIME_MAX;
use super::lease::{Echo, RoundTrip};
use super::progress::{Flow, Progress, Recent};
use super::proposals::{Origin, Queued};
use super::replication::{Outgoing, send_heartbeat, send_waiting};
use super::role::{Batch, Leader, Role};
use super::{Effect, Entry, ForwardAnswer, Observation, Payload, Raft, Refusal, RefusalReason, Signal};
use crate::types::{Instant, LogIndex, LogPosition, LogTime, NodeId, ProposalId, Session, Term};

/// Batches on their way before writes are held back to share one.
const UNCOMMITTED_BATCHES: usize = 2;
/// Rounds whose time of sending is remembered.
const ROUNDS_REMEMBERED: usize = 64;

impl Raft {
    pub(super) fn become_leader(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let last = self.log.last().index;
        let followers = self.followers().into_iter();
        let progress = followers.map(|(id, session)| (id, Progress::new(now, session, last))).collect();
        let leader = Leader {
            progress,
            next_heartbeat: now.after(self.settings.heartbeat_interval),
            round: 0,
            rounds_sent: VecDeque::new(),
            recent: Recent::new(now, last.next()),
            noop_index: last.next(),
            batches: VecDeque::new(),
            elected_at: now,
            elected_time: self.log.time(),
            settled: None,
            change: None,
            transfer: None,
            promotion_since: None,
            lease_given_up: false,
        };
        self.change_role(Role::Leader(Box::new(leader)), "won the election", out);
        out.push(Effect::Observe(Observation::ElectionWon { term: self.hard_state.term }));
        self.append_batch(now, vec![Payload::Noop], out);
        self.start_round(now, out);
        self.move_proposals(now, out);
        self.move_reads(now, out);
    }

    /// Appends one entry for each payload and sends them.
    pub(super) fn append_batch(&mut self, now: Instant, payloads: Vec<Payload>, out: &mut Vec<Effect>) {
        let term = self.hard_state.term;
        let time = self.log_time(now);
        let mut entries = Vec::with_capacity(payloads.len());
        let mut bytes = 0;
        let is_configuration = payloads.iter().any(|payload| matches!(payload, Payload::Configuration(_)));
        for payload in payloads {
            let entry = Entry { term, index: self.log.last().index.next(), time, payload };
            bytes += entry.size_bytes();
            self.log.push(entry.clone());
            entries.push(entry);
        }
        self.append(None, entries, out);
        let last = self.log.last().index;
        if let Role::Leader(leader) = &mut self.role {
            leader.batches.push_back(Batch { last, bytes, appended_at: now });
        }
        if is_configuration {
            self.follow_configuration(now, out);
        }
        self.replicate(out);
    }

    /// The log's clock at a leader: where it stood at the election, and the time since then.
    fn log_time(&self, now: Instant) -> LogTime {
        let Role::Leader(leader) = &self.role else { return self.log.time() };
        let since = u64::try_from(now.since(leader.elected_at).as_micros()).unwrap_or(u64::MAX);
        LogTime(leader.elected_time.0.saturating_add(since)).max(self.log.time()).min(TIME_MAX)
    }

    /// Appends what waits, unless enough is on its way: then it waits for a commit, or until it is a batch worth sending.
    /// During a leadership transfer, it waits for the next leader. While the own disk has a window of entries to write, it
    /// waits for the disk.
    pub(super) fn form_batches(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.is_space_low() {
            self.refuse_for_space(out);
        }
        while let Role::Leader(leader) = &self.role {
            let enough = self.proposals.queue_len() >= self.settings.batch_entries
                || self.proposals.queue_bytes() >= self.settings.batch_bytes;
            let holds_back = leader.transfer.is_some();
            if holds_back
                || self.proposals.queue_len() == 0
                || (leader.batches.len() >= UNCOMMITTED_BATCHES && !enough)
                || self.is_ahead_of_disk()
            {
                return;
            }
            self.form_batch(now, out);
        }
    }

    /// Whether the own disk has as much to write as may be on its way to a follower. With more in its queue, a disk that is
    /// only busy could not be told from one that hangs, and a busy leader would step down.
    fn is_ahead_of_disk(&self) -> bool {
        let limit = self.settings.window_bytes;
        self.log.unflushed_bytes(limit) >= limit
    }

    fn form_batch(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let term = self.hard_state.term;
        let mut payloads = Vec::new();
        let mut bytes = 0;
        let mut answers: BTreeMap<NodeId, Vec<ForwardAnswer>> = BTreeMap::new();
        while bytes < self.settings.append_bytes_max
            && let Some(Queued { origin, id, command }) = self.proposals.dequeue()
        {
            let index = LogIndex(self.log.last().index.0 + 1 + payloads.len() as u64);
            let position = LogPosition { index, term };
            match origin {
                Origin::Local => self.proposals.on_appended(id, position),
                Origin::Peer(peer) => answers.entry(peer).or_default().push((id, Ok(position))),
            }
            bytes += command.len();
            payloads.push(Payload::Command(command));
        }
        // Before the entries themselves, so that the follower knows whose they are when they are applied.
        for (to, answers) in answers {
            if let (Role::Leader(leader), Some((_, Ok(position)))) = (&mut self.role, answers.last())
                && let Some(progress) = leader.progress.get_mut(&to)
            {
                progress.forwarded_through = position.index;
            }
            out.push(Effect::Send { to, signal: Signal::Forwarded { answers } });
        }
        if !payloads.is_empty() {
            self.append_batch(now, payloads, out);
        }
    }

    pub(super) fn on_forward(
        &mut self,
        now: Instant,
        from: NodeId,
        proposals: Vec<(ProposalId, Bytes)>,
        out: &mut Vec<Effect>,
    ) {
        let leads = matches!(self.role, Role::Leader(_));
        let mut bytes = self.unfinished_bytes();
        let mut answers = Vec::new();
        for (id, command) in proposals {
            bytes += command.len();
            if !leads {
                answers.push((id, Err(Refusal::not_applied(RefusalReason::NoLeader))));
            } else if self.is_too_much(bytes) {
                bytes -= command.len();
                answers.push((id, Err(Refusal::not_applied(RefusalReason::Overloaded))));
            } else {
                self.proposals.enqueue(Queued { origin: Origin::Peer(from), id, command });
            }
        }
        if !answers.is_empty() {
            out.push(Effect::Send { to: from, signal: Signal::Forwarded { answers } });
        }
        if leads {
            self.form_batches(now, out);
        }
    }

    pub(super) fn on_heartbeat_due(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.measure_timeout();
        self.report_lost_peers(now, out);
        if self.settings.check_quorum && !self.quorum_is_active(now) {
            self.become_follower(now, self.hard_state.term, None, "no majority answers", out);
            return;
        }
        if self.is_space_low() {
            self.hand_over(now, out);
        }
        self.start_transfers(now, out);
        let timeout = self.election_timeout();
        if let Role::Leader(leader) = &mut self.role {
            leader.next_heartbeat = now.after(self.settings.heartbeat_interval);
            leader.recent.note(now, self.log.last().index, timeout);
        }
        self.start_round(now, out);
        self.advance_transfer(out);
        self.promote_learners(now, out);
        self.tell_state(now, out);
    }

    /// Whether a majority of the voters, this leader included, was heard within an election timeout.
    pub(super) fn quorum_is_active(&self, now: Instant) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let active = |id: NodeId| {
            let timeout = self.election_timeout();
            id == self.id || leader.progress.get(&id).is_some_and(|progress| progress.is_active(now, timeout))
        };
        self.is_quorum(active)
    }

    fn report_lost_peers(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let timeout = self.election_timeout();
        let Role::Leader(leader) = &mut self.role else { return };
        for (peer, progress) in &mut leader.progress {
            if !progress.lost && now.since(progress.last_contact) > timeout {
                progress.lost = true;
                out.push(Effect::Observe(Observation::PeerLost { peer: *peer }));
            }
        }
    }

    /// Starts a read round: an empty append to everybody, which is the heartbeat, too.
    pub(super) fn start_round(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.round += 1;
        leader.rounds_sent.push_back((leader.round, now));
        if leader.rounds_sent.len() > ROUNDS_REMEMBERED {
            leader.rounds_sent.pop_front();
        }
        let Some((outgoing, progress)) = self.outgoing() else { return };
        for (to, progress) in progress {
            send_heartbeat(&outgoing, *to, progress, out);
        }
    }

    /// What every append of this moment has in common, and the followers it may go to; `None` unless leading.
    pub(super) fn outgoing(&mut self) -> Option<(Outgoing<'_>, &mut BTreeMap<NodeId, Progress>)> {
        let told_timeout_ms = self.told_timeout_ms();
        let Role::Leader(leader) = &mut self.role else { return None };
        let outgoing = Outgoing {
            term: self.hard_state.term,
            round: leader.round,
            log: &self.log,
            settings: &self.settings,
            told_timeout_ms,
        };
        Some((outgoing, &mut leader.progress))
    }

    /// Sends to every follower what its window has room for.
    fn replicate(&mut self, out: &mut Vec<Effect>) {
        let Some((outgoing, progress)) = self.outgoing() else { return };
        for (to, progress) in progress {
            send_waiting(&outgoing, *to, progress, out);
        }
    }

    /// Notes an answer of a follower; `None` if it does not concern this leadership or this membership.
    pub(super) fn on_contact(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        session: Session,
        echo: Option<Echo>,
        out: &mut Vec<Effect>,
    ) -> Option<NodeId> {
        let Role::Leader(leader) = &mut self.role else { return None };
        let progress = leader.progress.get_mut(&from)?;
        if term != self.hard_state.term || session != progress.session {
            return None;
        }
        progress.last_contact = now;
        if std::mem::take(&mut progress.lost) {
            out.push(Effect::Observe(Observation::PeerFound { peer: from }));
        }
        let is_new = |echo: &Echo| echo.round > progress.echoed_round && echo.round <= leader.round;
        if let Some(echo) = echo.filter(is_new) {
            progress.echoed_round = echo.round;
            if let Some((_, sent_at)) = leader.rounds_sent.iter().find(|(sent, _)| *sent == echo.round) {
                let trip = RoundTrip { sent_at: *sent_at, received_at: now };
                let lease_until = self.settings.lease_until(trip, echo.stickiness_ms);
                progress.lease_until = progress.lease_until.max(lease_until);
                progress.round_trips.add(trip.took());
                let micros = u64::try_from(trip.took().as_micros()).unwrap_or(u64::MAX);
                out.push(Effect::Observe(Observation::PeerRoundTrip { peer: from, micros }));
            }
            self.confirm_reads(now, out);
        }
        Some(from)
    }

    pub(super) fn on_appended_at(
        &mut self,
        now: Instant,
        from: NodeId,
        match_index: LogIndex,
        out: &mut Vec<Effect>,
    ) {
        let (last, before) = (self.log.last().index, self.log.before().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if match_index > last {
            return;
        }
        progress.on_match(match_index, before);
        let hands_over = leader.transfer.is_some();
        self.advance_commit(now, out);
        self.send_more(from, out);
        if hands_over {
            self.advance_transfer(out);
        }
    }

    pub(super) fn on_append_rejected(
        &mut self,
        now: Instant,
        from: NodeId,
        prev: LogPosition,
        hint: LogPosition,
        out: &mut Vec<Effect>,
    ) {
        if self.suspects_lost_data(from, prev, hint, out) {
            return;
        }
        let bound = self.log.agreement_bound(hint);
        let before = self.log.before().index;
        let Some((outgoing, progress)) = self.outgoing() else { return };
        let Some(progress) = progress.get_mut(&from) else { return };
        let stale = match progress.flow {
            Flow::Probe => prev.index.next() != progress.next_index,
            Flow::Replicate(_) => prev.index < progress.match_index,
            Flow::Snapshot(_) => true,
        };
        if stale {
            return;
        }
        progress.probe_from(bound.index.next(), before);
        send_heartbeat(&outgoing, from, progress, out);
        self.start_transfers(now, out);
    }

    /// Commits what a majority holds durably, if it is of this term (paper, 5.4.2): earlier terms' entries are
    /// committed with it. The leader's own log counts only as far as it is durable.
    pub(super) fn advance_commit(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let rules = self.settings.rules;
        let Some(configuration) = self.log.configuration() else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        let durable = |id: NodeId| {
            if id == self.id {
                rules.counts_at_leader(&self.log)
            } else {
                leader.progress.get(&id).map_or(LogIndex(0), |progress| progress.match_index)
            }
        };
        let candidate = rules.agreed_index(configuration, durable);
        let may_commit = rules.may_commit(self.log.term_at(candidate), self.hard_state.term);
        if !may_commit || !self.log.commit_to(candidate) {
            return;
        }
        let mut oldest = None;
        while leader.batches.front().is_some_and(|batch| batch.last <= candidate) {
            let batch = leader.batches.pop_front();
            oldest = oldest.or(batch.map(|batch| batch.appended_at));
        }
        if let Some(at) = oldest {
            let micros = u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
            out.push(Effect::Observe(Observation::Committed { index: candidate, micros }));
        }
        self.form_batches(now, out);
        self.tell_commit(out);
        self.move_reads(now, out);
        self.settle_configuration(now, out);
    }

    /// Tells the followers whose clients wait for this commit, unless an append has just told them.
    fn tell_commit(&mut self, out: &mut Vec<Effect>) {
        let commit = self.log.commit();
        let Some((outgoing, progress)) = self.outgoing() else { return };
        for (to, progress) in progress {
            if progress.commit_sent < commit.min(progress.forwarded_through) {
                send_heartbeat(&outgoing, *to, progress, out);
            }
        }
    }

    /// Asks the followers whose logs are not known, those that were just added among them, where they agree.
    pub(super) fn probe_followers(&mut self, out: &mut Vec<Effect>) {
        let Some((outgoing, progress)) = self.outgoing() else { return };
        for (to, progress) in progress.iter_mut().filter(|(_, progress)| matches!(progress.flow, Flow::Probe))
        {
            send_heartbeat(&outgoing, *to, progress, out);
        }
    }

    fn send_more(&mut self, to: NodeId, out: &mut Vec<Effect>) {
        let Some((outgoing, progress)) = self.outgoing() else { return };
        if let Some(progress) = progress.get_mut(&to) {
            send_waiting(&outgoing, to, progress, out);
        }
    }

    /// Entries that had to be read from disk for a follower that lags.
    pub(super) fn on_loaded(&mut self, peer: NodeId, entries: Vec<Entry>, out: &mut Vec<Effect>) {
        let Some((outgoing, progress)) = self.outgoing() else { return };
        let Some(progress) = progress.get_mut(&peer) else { return };
        let Flow::Replicate(window) = &mut progress.flow else { return };
        if !std::mem::take(&mut window.loading) {
            return;
        }
        if entries.first().is_some_and(|entry| entry.index == progress.next_index) {
            outgoing.send_entries(peer, progress, entries, out);
        }
        send_waiting(&outgoing, peer, progress, out);
    }
}
