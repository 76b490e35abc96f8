//! The life of a node's parts in virtual time: turns of the core, jobs of log and apply, checkpoints; starts and
//! ends of processes. Between any two effects a process may end.

use std::path::Path;

use super::agenda::Event;
use super::clients::Token;
use super::cluster::Cluster;
use super::disk::Crash;
use super::lies::Told;
use super::network::Fate;
use super::node::{Answered, CREDITS, Done, FromPeer, Process, Turn};
use super::trace::{Happening, words};
use crate::raft::{Event as CoreEvent, HaltReason, Message, RoleName, Signal};
use crate::replica::{ApplyInput, LogInput};
use crate::types::{Instant, LogIndex, NodeId};

impl Cluster {
    pub(super) fn process(&mut self, node: usize) -> &mut Process {
        self.machines[node].process.as_mut().expect("events of ended processes are dropped")
    }

    pub(super) fn incarnation(&self, node: usize) -> u64 {
        self.machines[node].incarnation
    }

    fn wake_time(&mut self) -> u64 {
        self.random.between(1, self.setup.wake_micros)
    }

    // --- the core

    /// Plans the core's next turn, or its timer.
    pub(super) fn wake(&mut self, node: usize) {
        let wait = self.wake_time();
        let now = self.now;
        let machine = &mut self.machines[node];
        let incarnation = machine.incarnation;
        let Some(process) = machine.process.as_mut().filter(|process| process.runs) else { return };
        if process.turn_at.is_some() {
            return;
        }
        if process.has_work() {
            let at = Instant(now.0 + wait).max(process.busy_until).max(machine.paused_until);
            process.turn_at = Some(at);
            self.add(at, Event::Turn { node, incarnation });
            return;
        }
        let is_leader = process.leads;
        if machine.holds_elections && !is_leader {
            return;
        }
        let at = machine.clock.when(process.core.raft().next_deadline()).max(now);
        if process.timer_at.is_none_or(|planned| planned > at) {
            process.timer_at = Some(at);
            self.add(at, Event::Timer { node, incarnation });
        }
    }

    pub(super) fn on_timer(&mut self, node: usize) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let (clock, held) = (machine.clock, machine.holds_elections);
        let process = self.process(node);
        if process.timer_at.is_none_or(|planned| planned > now) {
            // An earlier one was planned later, and has come.
            return;
        }
        process.timer_at = None;
        let is_due = process.core.raft().next_deadline() <= clock.local(now);
        let is_held = held && !process.leads;
        if is_due && !is_held && process.turn_at.is_none() {
            process.turn_at = Some(now.max(process.busy_until));
            let (at, incarnation) = (now.max(process.busy_until), self.incarnation(node));
            self.add(at, Event::Turn { node, incarnation });
        } else {
            self.wake(node);
        }
    }

    pub(super) fn on_turn(&mut self, node: usize) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let local = machine.clock.local(now);
        let held = machine.holds_elections;
        let process = self.process(node);
        process.turn_at = None;
        let before = process.core.raft().status(local).commit_index;
        let may_time_out = !held || process.leads;
        let turn = process.turn(local, may_time_out);
        let status = process.core.raft().status(local);
        let process = self.process(node);
        process.busy_until = Instant(now.0 + 2 + turn.steps);
        process.leads = status.role == RoleName::Leader;
        let words = [1 + node as u64, status.term.0 << 32 | status.last_log_index.0, status.commit_index.0];
        self.trace.mix(now, words);
        self.watch_turn(node, &turn, local);
        if status.commit_index > before {
            let (index, term) = (status.commit_index, status.term);
            self.trace.note(now, [22, index.0, term.0], || Happening::Committed { node, index, term });
        }
        let log_waits = self.process(node).log_waits();
        let checked = self.invariants.turned(node, local, &status, log_waits, &self.setup.raft);
        self.check(checked);
        if status.role == RoleName::Leader {
            let peers = self.process(node).core.raft().peers(local);
            let checked = self
                .invariants
                .leading(node, &peers, &self.setup.raft)
                .and_then(|()| self.invariants.leads_with_disk(node, local, &status, &self.setup.raft));
            self.check(checked);
            self.watch_leases();
        }
        self.pass_on(node, turn);
        self.wake(node);
    }

    /// A leader's turn is over: it may have won, or a lease may last longer.
    fn watch_leases(&mut self) {
        // Clocks that differ by more than the margin break this; that reads are stale then is for the checker.
        if !self.setup.raft.lease_reads || self.setup.wild_clocks {
            return;
        }
        for node in 0..self.machines.len() {
            let machine = &self.machines[node];
            let Some(process) = machine.process.as_ref().filter(|process| process.leads) else { continue };
            let (raft, local) = (process.core.raft(), machine.clock.local(self.now));
            if raft.has_lease(local) {
                let checked = self.invariants.has_lease(node, raft.status(local).term);
                self.check(checked);
            }
        }
    }

    /// Shows a turn's output to those who check and tell.
    fn watch_turn(&mut self, node: usize, turn: &Turn, local: Instant) {
        for observation in &turn.observations {
            if !(self.had_liar && matches!(observation, crate::raft::Observation::MessageIgnored { .. })) {
                let checked = self.invariants.observed(node, observation);
                self.check(checked);
            }
            self.trace.note(self.now, [20, node as u64, 0], || Happening::Observed {
                node,
                observation: observation.clone(),
            });
        }
        for input in &turn.log {
            if let LogInput::Install { io, snapshot, hard_state, keep_log, .. } = input {
                let checked = self.invariants.installing(node, *io, snapshot, *hard_state, *keep_log, local);
                self.check(checked);
            }
            let LogInput::Append(append) = input else { continue };
            let checked = self.invariants.appending(node, append, local);
            self.check(checked);
            let after = append.entries.first().map_or(LogIndex(0), |entry| entry.index.prev());
            let last = append.entries.last().map_or(after, |entry| entry.index);
            self.trace.note(self.now, [21, after.0, last.0], || Happening::Appending {
                node,
                hard_state: append.hard_state,
                truncate_from: append.truncate_from,
                after,
                last,
            });
        }
    }

    /// Carries out a turn's output in the driver's order. Any effect may be the process's last.
    fn pass_on(&mut self, node: usize, turn: Turn) {
        let Turn { log, sends, apply, answers, halt, replies, removed, dropped_snapshots, .. } = turn;
        if let Some(reason) = halt {
            if reason == HaltReason::Diverged && !self.machines[node].spoiled {
                self.report("one state", format!("n{} halts, but its state is not another one", node + 1));
            }
            self.halt(node, "the core halts");
            return;
        }
        if !log.is_empty() {
            if !self.lives_on(node) {
                return;
            }
            let process = self.process(node);
            process.log_jobs += 1;
            process.log_queue.push_back(log);
            self.wake_log(node);
        }
        for (to, message) in sends {
            if !self.lives_on(node) {
                return;
            }
            let forwarded = message.forwarded();
            if !self.send(node, to, message) {
                self.process(node).dropped.push((to, forwarded));
            }
        }
        if let Some(job) = apply {
            if !self.lives_on(node) {
                return;
            }
            let process = self.process(node);
            process.apply_jobs += 1;
            process.apply_queue.push_back(job);
            self.wake_apply(node);
        }
        for (token, answer) in answers {
            if !self.lives_on(node) {
                return;
            }
            self.answer(node, token, answer);
        }
        self.drop_snapshots(node, dropped_snapshots);
        for (request, result) in replies {
            if !self.lives_on(node) {
                return;
            }
            self.on_admin_reply(node, request, &result);
        }
        if removed {
            self.on_removed(node);
            return;
        }
        let process = self.process(node);
        // One more than there are credits: the turn that used the last one for messages may fill it.
        let (log_jobs, apply_jobs) = (process.log_jobs, process.apply_jobs);
        if log_jobs > CREDITS + 1 || apply_jobs > CREDITS + 1 {
            let what =
                format!("n{} has {log_jobs} jobs under way to its log, {apply_jobs} to apply", node + 1);
            self.report("bounds", what);
        }
    }

    /// Counts an effect; false if the process ends instead.
    fn lives_on(&mut self, node: usize) -> bool {
        match &mut self.machines[node].fuse {
            Some(0) => {
                self.end_process(node, Crash::Killed, "killed between two effects");
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    // --- messages

    /// False if the message is known to be lost.
    fn send(&mut self, from: usize, to: NodeId, message: Message) -> bool {
        let checked = self.invariants.sending(from, to, &message);
        self.check(checked);
        let ids = (self.machines[from].id, to);
        let to = Self::index_of(to);
        self.trace.note(self.now, [2, (from * 8 + to) as u64, words(&message)], || Happening::Sent {
            from,
            to,
            message: message.clone(),
        });
        let mut message = message;
        match self.liar.as_mut().and_then(|liar| liar.tell(from, &message)) {
            None => {}
            Some(Told::Lie(lie)) => {
                self.tell(|| format!("n{} lies to n{}: {message:?} becomes {lie:?}", from + 1, to + 1));
                message = lie;
            }
            Some(Told::Refused) => {
                self.tell(|| format!("n{} refuses a lie of n{}", to + 1, from + 1));
                return false;
            }
        }
        match self.network.send(self.now, from, to) {
            Fate::Lost(is_told) => {
                self.trace.note(self.now, [3, from as u64, to as u64], || Happening::Lost {
                    from,
                    to,
                    why: "on the way",
                });
                // Known at once, or told when the connection breaks, or never.
                if is_told && self.random.chance(500) {
                    return false;
                }
                if is_told {
                    let wait = self.random.between(100, 20_000);
                    let incarnation = self.incarnation(from);
                    self.add_in(wait, Event::SendDropped { node: from, incarnation, to: ids.1 });
                }
                true
            }
            Fate::Refused => {
                let why = "no stream takes it";
                self.trace.note(self.now, [3, from as u64, to as u64], || Happening::Lost { from, to, why });
                false
            }
            Fate::Arrives(at, again) => {
                if let Some(again) = again.filter(|_| may_be_doubled(&message)) {
                    self.add(again, Event::Deliver { from, to, ids, message: Box::new(message.clone()) });
                }
                self.add(at, Event::Deliver { from, to, ids, message: Box::new(message) });
                true
            }
        }
    }

    pub(super) fn on_send_dropped(&mut self, node: usize, to: NodeId) {
        let limit = self.setup.message_queue;
        let process = self.process(node);
        if process.messages.len() < limit {
            process.messages.push_back(FromPeer::Dropped(to, Vec::new()));
        }
        self.wake(node);
    }

    /// `ids` are those of sender and receiver, as the sender knew them.
    pub(super) fn deliver(&mut self, from: usize, to: usize, ids: (NodeId, NodeId), message: Box<Message>) {
        let limit = self.setup.message_queue;
        let (id, target) = ids;
        let own = self.machines[to].id;
        let is_cut = self.network.is_cut(from, to);
        let process = self.machines[to].process.as_mut().filter(|process| process.runs);
        let lost = match &process {
            _ if own != target => Some("it is for another node"),
            None => Some("the receiver does not run"),
            Some(process) if process.messages.len() >= limit => Some("the receiver's queue is full"),
            Some(_) if is_cut => Some("the link was cut"),
            Some(_) => None,
        };
        if let Some(why) = lost {
            if !is_cut {
                self.on_first_contact(from, to);
            }
            self.trace.note(self.now, [4, from as u64, to as u64], || Happening::Lost { from, to, why });
            let incarnation = self.incarnation(from);
            if self.random.chance(self.network.traits.told) {
                self.add_in(500, Event::SendDropped { node: from, incarnation, to: target });
            }
            return;
        }
        self.trace.note(self.now, [5, (from * 8 + to) as u64, words(&message)], || Happening::Delivered {
            from,
            to,
            message: (*message).clone(),
        });
        if let Some(process) = process {
            process.messages.push_back(FromPeer::Message(id, message));
        }
        self.wake(to);
    }

    // --- the log

    fn wake_log(&mut self, node: usize) {
        let wait = self.wake_time();
        let begin = Instant(self.now.0 + wait);
        let files = self.machines[node].files.clone();
        files.disk().begin(self.now);
        files.disk().delay_to(begin);
        if !self.process(node).start_log_job() {
            return;
        }
        self.invariants.writing(node);
        let at = files.disk().end().max(begin);
        let incarnation = self.incarnation(node);
        self.add(at, Event::LogDone { node, incarnation });
    }

    pub(super) fn on_log_done(&mut self, node: usize) {
        let Some(job) = self.process(node).log_job.take() else { return };
        if let Err(error) = job.result {
            self.halt(node, &error.to_string());
            return;
        }
        let io = job.out.events.iter().rev().find_map(|event| match event {
            CoreEvent::Appended { io } => Some(*io),
            _ => None,
        });
        let is_flushed = self.machines[node].files.disk().is_flushed(is_segment);
        let checked = self.invariants.written(node, io, is_flushed);
        self.check(checked);
        let last = self.invariants.durable(node).index;
        self.trace.note(self.now, [6, node as u64, last.0], || Happening::Durable { node, last });
        let mut events = job.out.events;
        for (to, message) in job.out.sends {
            if !self.lives_on(node) {
                return;
            }
            if !self.send(node, to, message) {
                events.push(CoreEvent::SendDropped { to, unsent: Vec::new() });
            }
        }
        if !self.lives_on(node) {
            return;
        }
        self.process(node).done(Done::Log { jobs: job.jobs, events });
        self.prepare_segment(node);
        self.wake_log(node);
        self.wake(node);
    }

    /// Makes the next segment ready and removes old ones when it is time; on a thread of its own in the driver.
    pub(super) fn prepare_segment(&mut self, node: usize) {
        let wal = self.process(node).log.wal();
        let (preparation, removal) = (wal.take_preparation(), wal.take_removal());
        if preparation.is_none() && removal.is_none() {
            return;
        }
        self.machines[node].files.disk().begin(self.now);
        let removed = removal.map_or(Ok(()), |removal| removal.run());
        if let Err(error) = removed.and_then(|()| preparation.map_or(Ok(()), |preparation| preparation.run()))
        {
            let at = self.machines[node].files.disk().end();
            let (incarnation, why) = (self.incarnation(node), error.to_string());
            self.add(at, Event::PreparationFailed { node, incarnation, why });
        }
    }

    // --- apply

    fn wake_apply(&mut self, node: usize) {
        if !self.process(node).start_apply_job() {
            return;
        }
        let wait = 1 + self.wake_time();
        let incarnation = self.incarnation(node);
        self.add_in(wait, Event::ApplyDone { node, incarnation });
    }

    pub(super) fn on_apply_done(&mut self, node: usize) {
        let process = self.machines[node].process.as_mut().expect("events of ended processes are dropped");
        let mut checked = Ok(());
        for input in process.apply_job.iter().flat_map(|job| &job.inputs) {
            checked = checked.and_then(|()| match input {
                ApplyInput::Entries(entries) => self.invariants.applying(node, entries),
                ApplyInput::Install { snapshot, .. } => self.invariants.installed(node, snapshot.position),
                ApplyInput::Reads(_) | ApplyInput::SendSnapshot { .. } => Ok(()),
            });
        }
        let applied = process.finish_apply_job();
        let index = process.applied();
        checked = checked.and_then(|()| self.invariants.applied(node, &applied.records));
        let digest = self.state_hash(node).unwrap_or_default();
        if !self.machines[node].spoiled {
            checked = checked.and_then(|()| self.invariants.stands_at(node, index, digest));
        }
        self.check(checked);
        self.trace.note(self.now, [7, node as u64, index.0], || Happening::Applied { node, last: index });
        for (token, answer) in applied.answers {
            if !self.lives_on(node) {
                return;
            }
            self.answer(node, token, answer);
        }
        for cut in applied.cuts {
            if !self.lives_on(node) {
                return;
            }
            self.send_snapshot(node, cut);
        }
        self.wake_apply(node);
        self.wake(node);
    }

    pub(super) fn on_checkpoint(&mut self, node: usize) {
        let mut next = self.setup.checkpoint_interval;
        if self.process(node).needs_checkpoint() {
            let done_at = self.checkpoint_done_at();
            self.machines[node].state.begin(self.now, done_at);
            let position = match self.process(node).write_checkpoint() {
                Ok(position) => position,
                Err(error) => return self.halt(node, &error.to_string()),
            };
            let incarnation = self.incarnation(node);
            self.add(done_at, Event::Checkpointed { node, incarnation, position });
            next = next.max(done_at.0 - self.now.0);
        }
        let incarnation = self.incarnation(node);
        self.add_in(next, Event::Checkpoint { node, incarnation });
    }

    // --- clients

    fn answer(&mut self, node: usize, token: Token, answer: Answered) {
        let ending = match answer {
            Answered::Read(Ok(())) => {
                // The request's own task reads the store a little later.
                let wait = self.wake_time();
                let incarnation = self.incarnation(node);
                self.add_in(wait, Event::ReadStore { node, incarnation, token });
                return;
            }
            Answered::Write(Ok(answer)) => answer.into(),
            Answered::Write(Err(refusal)) | Answered::Read(Err(refusal)) => {
                let words = [13, node as u64, refusal.reason as u64];
                self.trace.note(self.now, words, || Happening::Refused { node, refusal });
                refusal.into()
            }
        };
        self.reply(token, ending);
    }
}

/// Raft's messages may come twice. Clients' writes may not: the transport's streams never repeat a message, and the
/// core relies on that (a write forwarded twice would be applied twice).
fn may_be_doubled(message: &Message) -> bool {
    !matches!(message, Message::Signal(Signal::Forward { .. }))
}

/// Whether a file is a part of the log, and not one that is being made ready.
fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| u64::from_str_radix(&name.to_string_lossy(), 16).is_ok())
}
