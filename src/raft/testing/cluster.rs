//! Some nodes on virtual time, a network that does what it is told, and disks that forget what was not flushed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::super::{
    Committed, Configuration, Effect, Entry, Event, HaltReason, HardState, Message, Promise, Proposal, Raft,
    RoleName, Settings,
};
use super::clients::Clients;
use super::disk::{Content, Disk, StoredLog};
use super::invariants::History;
use super::members::Administrators;
use super::snapshots::Transfer;
use super::trace::{self, Trace, entry_text, name};
use crate::types::{Instant, LogIndex, NodeId, ProposalId, ReadId, Term};

/// Steps that follow from one event without time passing; more is a loop.
const STEPS_MAX: usize = 100_000;

pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Messages under way, in the order of sending.
    pub(super) network: Vec<Envelope>,
    /// Snapshots under way, in the order in which they were cut.
    pub(super) transfers: Vec<Transfer>,
    /// Pairs (from, to) that no message passes between.
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) settings: Settings,
    pub(super) seed: u64,
    pub(super) clients: Clients,
    pub(super) administrators: Administrators,
    pub(super) trace: Trace,
    pub(super) history: History,
    /// The first broken invariant.
    pub(super) violation: Option<String>,
    steps: usize,
}

/// One node: its core (unless it is down), its disk, and a state machine that only records.
pub(super) struct Node {
    pub(super) raft: Option<Raft>,
    pub(super) disk: Disk,
    /// Applied entries. Survives crashes: a state machine on disk.
    pub(super) applied: Vec<Entry>,
    /// The configuration it was given before its first entry.
    pub(super) first: Option<Configuration>,
    starts: u64,
    /// Whether its disk was made to lose what was flushed.
    pub(super) has_lost_data: bool,
    /// Commit index after the latest step.
    commit: LogIndex,
    /// The latest term it led.
    led: Term,
}

/// A message under way.
#[derive(Clone)]
pub(super) struct Envelope {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
    pub(super) sent_at: Instant,
}

/// A node as it is before its first start.
pub(super) struct Founding {
    pub(super) id: NodeId,
    pub(super) voters: Option<Configuration>,
    pub(super) hard_state: HardState,
    pub(super) log: Vec<Entry>,
    pub(super) applied: usize,
}

/// What a node has to do next within one turn; the text stands above what comes of it, if anything does.
type Todo = VecDeque<(Event, Option<String>)>;

impl Cluster {
    pub(super) fn new(settings: Settings, seed: u64, is_traced: bool) -> Self {
        Self {
            now: Instant(0),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            transfers: Vec::new(),
            cuts: BTreeSet::new(),
            settings,
            seed,
            clients: Clients::default(),
            administrators: Administrators::default(),
            trace: Trace::new(is_traced),
            history: History::default(),
            violation: None,
            steps: 0,
        }
    }

    /// Puts a new node in this place and starts it.
    pub(super) fn found(&mut self, Founding { id, voters, hard_state, log, applied }: Founding) {
        let log = StoredLog::of(log);
        let written = self.history.on_written(&log);
        self.note(written);
        let entries = &log.entries[..applied];
        for entry in entries {
            let committed = self.history.on_committed(entry.position(), entry.term);
            self.note(committed.map(|_| ()));
        }
        let applied = entries.to_vec();
        let disk = Disk::new(hard_state, log);
        let node = Node {
            raft: None,
            disk,
            applied,
            first: voters,
            starts: 0,
            has_lost_data: false,
            commit: LogIndex(0),
            led: Term(0),
        };
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub(super) fn raft(&self, id: NodeId) -> Option<&Raft> {
        self.nodes.get(&id)?.raft.as_ref()
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |raft: &Raft| raft.status(self.now).role == RoleName::Leader;
        let leaders = self.nodes.iter().filter(|(_, node)| node.raft.as_ref().is_some_and(leads));
        leaders.max_by_key(|(_, node)| node.raft.as_ref().map(|raft| raft.hard_state.term)).map(|(id, _)| *id)
    }

    /// Starts a node that is down, from its disk.
    pub(super) fn start(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.raft.is_some() {
            return;
        }
        node.starts += 1;
        let applied = LogIndex(node.applied.len() as u64);
        let recovered = node.disk.recovered(node.first.as_ref(), &node.applied);
        let seed = self.seed ^ (id.0 << 32) ^ (node.starts << 48);
        node.commit = applied;
        let raft = Raft::new(self.now, id, self.settings.clone(), seed, node.disk.hard_state, recovered);
        node.raft = Some(raft.expect("the script's settings can work"));
    }

    /// Ends a node without notice: what was not flushed is gone, what was sent is under way.
    pub(super) fn crash(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let lost = node.disk.pending();
        node.raft = None;
        node.disk.crash();
        self.clients.on_crash(id);
        self.administrators.on_crash(id);
        self.transfers.retain(|transfer| transfer.from != id);
        self.trace.line(|_| match lost {
            0 => format!("{} crashes", name(id)),
            lost => format!("{} crashes; appends not flushed, and lost: {lost}", name(id)),
        });
    }

    /// One event at one node, and all that follows there without time passing.
    pub(super) fn step(&mut self, id: NodeId, event: Event) {
        self.work(id, Todo::from([(event, None)]));
    }

    fn work(&mut self, id: NodeId, mut todo: Todo) {
        self.steps += 1;
        while let Some((event, heading)) = todo.pop_front() {
            let Some(raft) = self.nodes.get_mut(&id).and_then(|node| node.raft.as_mut()) else { return };
            let mut effects = Vec::new();
            let is_timeout = matches!(event, Event::Timeout);
            raft.step(self.now, event, &mut effects);
            let is_busy = is_timeout && raft.next_deadline() <= self.now;
            if is_busy {
                self.note(Err(format!("{} wants to be called again without time passing", name(id))));
            }
            let position = self.trace.len();
            let has_heading = heading.is_some() && self.trace.is_on();
            self.trace.line_if(heading);
            self.tell_commit(id);
            for effect in effects {
                self.carry_out(id, effect, &mut todo);
            }
            self.check(id);
            if has_heading {
                self.trace.drop_if_last(position);
            }
            let Some(node) = self.nodes.get_mut(&id) else { return };
            if !node.disk.is_held && node.disk.has_pending() {
                self.flush_pending(id, usize::MAX, false, &mut todo);
            }
        }
    }

    fn tell_commit(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let commit = node.raft.as_ref().map(|raft| raft.log.commit()).unwrap_or_default();
        if commit > node.commit {
            self.trace.line(|_| format!("  {} commits through {commit}", name(id)));
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect, todo: &mut Todo) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match effect {
            Effect::Append(append) => {
                self.trace.line(|_| format!("  {} disk: {}", name(id), trace::append_entries_text(&append)));
                let leads =
                    node.raft.as_ref().is_some_and(|raft| raft.status(self.now).role == RoleName::Leader);
                let truncates = append.truncate_from.is_some();
                node.disk.append(append);
                let written = self.history.on_written(&node.disk.written);
                self.note(written);
                if leads && truncates {
                    self.note(Err(format!("{} removes entries of its own log while it leads", name(id))));
                }
            }
            Effect::Send { to, signal } => self.send(id, to, signal.into(), ""),
            Effect::Acknowledge { to, promise, after } => {
                let is_traced = self.trace.is_on();
                let copy = is_traced.then(|| promise.clone());
                if let Some(promise) = node.disk.hold(to, promise, after) {
                    self.check_promise(id, to, &promise);
                    self.send(id, to, promise.into(), "");
                } else if node.disk.is_held
                    && let Some(promise) = copy
                {
                    self.trace.line(|trace| {
                        format!("  {} holds {} until io={after}", name(id), trace.message(&promise.into()))
                    });
                }
            }
            Effect::Load { peer, from, through, bytes_max } => {
                self.load(id, (from, through), bytes_max, peer, todo);
            }
            Effect::Apply { entries } => self.apply(id, entries, todo),
            Effect::ReadReady { .. }
            | Effect::ReadFailed { .. }
            | Effect::ProposalFailed { .. }
            | Effect::Reply { .. }
            | Effect::Removed { .. } => self.answer(id, effect),
            Effect::SendSnapshot { .. }
            | Effect::InstallSnapshot { .. }
            | Effect::DropSnapshot { .. }
            | Effect::Compact { .. } => self.carry_out_for_snapshots(id, effect),
            Effect::Observe(observation) => {
                if self.trace.is_on()
                    && let Some(text) = trace::observation_text(id, &observation)
                {
                    self.trace.line(|_| format!("  {} {text}", name(id)));
                }
            }
            Effect::Halt(reason) => {
                self.trace.line(|_| format!("  {} halts: {reason:?}", name(id)));
                if reason == HaltReason::DataLost && !node.has_lost_data {
                    self.violation.get_or_insert(format!("{} halts, but has lost nothing", name(id)));
                }
                node.raft = None;
                node.disk.crash();
                todo.clear();
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message, note: &str) {
        let is_cut = self.cuts.contains(&(from, to));
        self.trace.line(|trace| {
            let lost = if is_cut { " (lost: partition)" } else { "" };
            format!("  {} → {} {}{note}{lost}", name(from), name(to), trace.message(&message))
        });
        if !is_cut {
            self.network.push(Envelope { from, to, message, sent_at: self.now });
        }
    }

    fn load(
        &mut self,
        id: NodeId,
        (from, through): (LogIndex, LogIndex),
        bytes_max: usize,
        peer: NodeId,
        todo: &mut Todo,
    ) {
        let Some(node) = self.nodes.get(&id) else { return };
        self.trace.line(|_| format!("  {} disk: load {from} to {through} for {}", name(id), name(peer)));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in from.0..=through.0 {
            let Some(entry) = node.disk.durable.at(LogIndex(index)) else { break };
            bytes += entry.size_bytes();
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        if entries.is_empty() {
            self.note(Err(format!("{} asks its disk for {from} to {through}, which is not there", name(id))));
        }
        let heading = format!("{} disk: loaded {}", name(id), trace::entries_text(&entries));
        todo.push_back((Event::Loaded { peer, entries }, Some(heading)));
    }

    fn apply(&mut self, id: NodeId, entries: Vec<Committed>, todo: &mut Todo) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let commit = node.raft.as_ref().map(|raft| raft.log.commit()).unwrap_or_default();
        let mut lines = Vec::new();
        let mut errors = Vec::new();
        for Committed { entry, proposal } in entries {
            let answer = proposal.map(|proposal| format!(", answers p{proposal}")).unwrap_or_default();
            if self.trace.is_on() {
                lines.push(format!("  {} applies {}{answer}", name(id), entry_text(&entry)));
            }
            if let Some(proposal) = proposal {
                errors.extend(self.clients.on_applied(id, proposal, &entry.payload).err());
            }
            if entry.index > commit || entry.index.0 != node.applied.len() as u64 + 1 {
                errors.push(format!("{} applies {} after {}", name(id), entry.index, node.applied.len()));
            }
            if node.disk.durable.at(entry.index) != Some(&entry) {
                errors.push(format!("{} applies {}, which is not durable there", name(id), entry.position()));
            }
            node.applied.push(entry);
        }
        let index = LogIndex(node.applied.len() as u64);
        for line in lines {
            self.trace.line(|_| line);
        }
        for error in errors {
            self.note(Err(error));
        }
        todo.push_back((Event::Applied { index, digest: None, marks: Vec::new() }, None));
    }

    /// Makes pending appends durable, at most `count`; the promises that depend on them leave.
    pub(super) fn flush(&mut self, id: NodeId, count: usize) {
        let mut todo = Todo::new();
        self.flush_pending(id, count, true, &mut todo);
        self.work(id, todo);
    }

    fn flush_pending(&mut self, id: NodeId, count: usize, is_told: bool, todo: &mut Todo) {
        let (mut last, mut installed) = (None, None);
        for _ in 0..count {
            let Some(flushed) = self.nodes.get_mut(&id).and_then(|node| node.disk.flush_one()) else { break };
            last = Some(flushed.io);
            if is_told {
                self.trace.line(|_| format!("{} disk: io={} is durable", name(id), flushed.io));
            }
            for (to, promise) in flushed.promises {
                self.check_promise(id, to, &promise);
                let note = if is_told { String::new() } else { format!(" (after io={})", flushed.io) };
                self.send(id, to, promise.into(), &note);
            }
            if let (Some(Content { snapshot, applied }), Some(node)) =
                (flushed.installed, self.nodes.get_mut(&id))
            {
                if snapshot.configuration_index == LogIndex(0) && !snapshot.configuration.voters.is_empty() {
                    node.first = Some(snapshot.configuration.as_ref().clone());
                }
                node.applied = applied;
                let heading = format!("{} state: as of {}", name(id), snapshot.position);
                let index = snapshot.position.index;
                let event = Event::Applied { index, digest: None, marks: Vec::new() };
                installed = Some((event, Some(heading)));
            }
        }
        if let Some(io) = last {
            let heading = (!is_told).then(|| format!("{} disk: io={io} is durable", name(id)));
            todo.push_back((Event::Appended { io }, heading));
        }
        if let Some((event, heading)) = installed {
            todo.push_back((event, heading));
        }
    }

    /// A promise leaves only when the disk holds what it depends on.
    fn check_promise(&mut self, id: NodeId, to: NodeId, promise: &Promise) {
        let Some(node) = self.nodes.get(&id) else { return };
        let HardState { term, voted_for } = node.disk.hard_state;
        let is_kept = match promise {
            Promise::VoteGranted { term: granted } => {
                term > *granted || (term == *granted && voted_for == Some(to))
            }
            Promise::Appended { term: accepted, match_index, .. } => {
                term >= *accepted && node.disk.last_durable().index >= *match_index
            }
        };
        if !is_kept {
            self.note(Err(format!("{} promises {promise:?} to {} before it is durable", name(id), name(to))));
        }
    }

    /// The invariants that a step of this node can break.
    fn check(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(raft) = &node.raft else { return };
        let status = raft.status(self.now);
        let mut errors = Vec::new();
        if raft.log.last() != node.disk.written.last() || raft.log.before() != node.disk.written.before {
            errors.push(format!("{}'s log is not what it wrote", name(id)));
        }
        if raft.log.durable() > node.disk.last_durable().index {
            errors.push(format!("{} believes in {}, which is not durable", name(id), raft.log.durable()));
        }
        if status.role == RoleName::Leader {
            errors.extend(self.history.on_leader(status.term, id).err());
            if std::mem::replace(&mut node.led, status.term) != status.term {
                errors.extend(self.history.check_leader(status.term, id, &node.disk.written).err());
            }
        }
        let before = std::mem::replace(&mut node.commit, status.commit_index);
        for index in before.0 + 1..=status.commit_index.0 {
            errors.extend(self.check_committed(id, LogIndex(index)).err());
        }
        for error in errors {
            self.note(Err(error));
        }
        let checked = self.check_members(id);
        self.note(checked);
    }

    fn check_committed(&mut self, id: NodeId, index: LogIndex) -> Result<(), String> {
        let node = &self.nodes[&id];
        if index <= node.disk.written.before.index {
            // It came with a snapshot.
            return self.history.check_before(node.disk.written.before);
        }
        let entry = node.disk.written.at(index).ok_or("committed past the end of the log")?;
        let raft = node.raft.as_ref().ok_or("a node that is down commits")?;
        if !self.history.on_committed(entry.position(), raft.hard_state.term)? {
            return Ok(());
        }
        self.clients.on_committed(index, &entry.payload)?;
        let position = entry.position();
        let holds = |id: NodeId| self.nodes.get(&id).is_some_and(|node| node.disk.durable.covers(position));
        let has_quorum =
            raft.log.configuration().is_some_and(|configuration| configuration.has_quorum(holds));
        let is_whole = raft.log.configuration().is_some_and(|configuration| {
            configuration.members().keys().all(|id| self.nodes.contains_key(id))
        });
        if is_whole && !has_quorum {
            return Err(format!("{} is committed, but no majority holds it durably", entry.position()));
        }
        let leads = |node: &Node| {
            let raft = node.raft.as_ref()?;
            (raft.status(self.now).role == RoleName::Leader).then_some(raft.hard_state.term)
        };
        for (id, node) in &self.nodes {
            if let Some(term) = leads(node) {
                self.history.check_leader(term, *id, &node.disk.written)?;
            }
        }
        Ok(())
    }

    pub(super) fn note(&mut self, result: Result<(), String>) {
        if let Err(violation) = result {
            self.trace.line(|_| format!("  BROKEN: {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    /// Hands over a message that is under way.
    pub(super) fn deliver(&mut self, position: usize) {
        let Envelope { from, to, message, .. } = self.network.remove(position);
        self.hand_over(from, to, message);
    }

    pub(super) fn hand_over(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_up = self.raft(to).is_some();
        let is_cut = self.cuts.contains(&(from, to));
        self.trace.line(|trace| {
            let lost = match (is_up, is_cut) {
                (_, true) => " (lost: partition)",
                (false, _) => " (lost: is down)",
                _ => "",
            };
            format!("{} ← {} {}{lost}", name(to), name(from), trace.message(&message))
        });
        if is_up && !is_cut {
            self.step(to, Event::Message { from, message });
        }
    }

    /// Delivers all messages and snapshots, and those that come of them, in order, until none is under way.
    pub(super) fn stabilize(&mut self) {
        let limit = self.steps + STEPS_MAX;
        while !self.network.is_empty() || !self.transfers.is_empty() {
            if self.steps > limit {
                self.note(Err("messages go round in circles".into()));
                return;
            }
            if self.network.is_empty() {
                let is_received = self.receive_snapshot(0);
                self.end_transfer(0, is_received);
            } else {
                self.deliver(0);
            }
        }
    }

    /// Fires a node's timer, at its deadline or now if that has passed.
    pub(super) fn timeout(&mut self, id: NodeId) {
        let Some(raft) = self.raft(id) else { return };
        self.now = self.now.max(raft.next_deadline());
        let now_ms = self.now.0 / 1000;
        self.trace.line(|_| format!("{} timer fires at {now_ms} ms", name(id)));
        self.step(id, Event::Timeout);
    }

    /// Lets time pass: timers fire; messages are delivered at once if `delivers`, else they stay under way.
    pub(super) fn advance(&mut self, duration: Duration, delivers: bool) {
        let end = self.now.after(duration);
        loop {
            let deadlines = self.nodes.iter().filter_map(|(id, node)| {
                let raft = node.raft.as_ref()?;
                Some((raft.next_deadline(), *id))
            });
            let Some((_, id)) = deadlines.min().filter(|(deadline, _)| *deadline <= end) else { break };
            self.timeout(id);
            if delivers {
                self.stabilize();
            }
            if self.violation.is_some() {
                return;
            }
        }
        self.now = end;
    }

    /// Lets time pass: timers fire, and each message arrives `latency` after it was sent.
    pub(super) fn advance_slowly(&mut self, duration: Duration, latency: Duration) {
        let end = self.now.after(duration);
        while self.violation.is_none() {
            let timer = self.nodes.iter().filter_map(|(id, node)| {
                let raft = node.raft.as_ref()?;
                Some((raft.next_deadline(), *id))
            });
            let timer = timer.min().filter(|(deadline, _)| *deadline <= end);
            let arrival = self.network.first().map(|envelope| envelope.sent_at.after(latency));
            let arrival = arrival.filter(|at| *at <= end);
            match (arrival, timer) {
                (Some(at), timer) if timer.is_none_or(|(deadline, _)| at <= deadline) => {
                    self.now = self.now.max(at);
                    self.deliver(0);
                }
                (_, Some((_, id))) => self.timeout(id),
                (_, None) => break,
            }
        }
        self.now = end;
    }

    pub(super) fn propose(&mut self, id: NodeId, commands: Vec<Bytes>, within: Duration) -> Vec<ProposalId> {
        let deadline = self.now.after(within);
        let mut ids = Vec::new();
        let mut proposals = Vec::new();
        for command in commands {
            let proposal = self.clients.propose(id, command.clone());
            ids.push(proposal);
            proposals.push(Proposal { id: proposal, command, deadline });
        }
        self.trace.line(|_| {
            let one = |p: &Proposal| format!("p{} {}", p.id, trace::command_text(&p.command));
            format!("{} ← client {}", name(id), proposals.iter().map(one).collect::<Vec<_>>().join(", "))
        });
        self.step(id, Event::Propose { proposals });
        ids
    }

    pub(super) fn read(&mut self, id: NodeId, count: usize, within: Duration) {
        let deadline = self.now.after(within);
        let committed = self.history.committed();
        let ids: Vec<ReadId> = (0..count).map(|_| self.clients.read(id, committed)).collect();
        self.trace.line(|_| format!("{} ← client {}", name(id), reads_text(&ids)));
        self.step(id, Event::Read { ids, deadline });
    }
}

pub(super) fn reads_text(ids: &[ReadId]) -> String {
    match ids {
        [first, .., last] => format!("reads r{first} to r{last}"),
        _ => ids.iter().map(|id| format!("read r{id}")).collect::<Vec<_>>().join(" "),
    }
}
