//! Snapshots between nodes: offered, sent in chunks, taken in, verified and handed to the core, as the transport and the
//! driver do it, over links that lose and delay. What breaks is continued, restarted or abandoned.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::ControlFlow;

use super::agenda::Event;
use super::cluster::Cluster;
use super::network::Fate;
use super::node::Done;
use super::state::SimStaging;
use super::trace::Happening;
use crate::raft::Event as CoreEvent;
use crate::replica::snapshot::{Chunk, Cut, Header, Incoming, IncomingError};
use crate::storage::space::NoRoom;
use crate::storage::{Staging, StateStore};
use crate::types::{Instant, NodeId, StagedId};

/// How long an answer is waited for in addition to two round trips, in microseconds.
const PATIENCE: u64 = 400_000;
/// How often a broken transfer is continued.
const ATTEMPTS: u32 = 4;

/// With less free space, nodes take no entries.
pub(super) const RESERVE_BYTES: u64 = 1 << 20;
/// So many chunks' worth of bytes come between two looks at free space.
const CHUNKS_BETWEEN_LOOKS: u64 = 3;

/// A snapshot on its way out.
pub(super) struct Sending {
    cut: Cut,
    header: Header,
    chunks: Vec<Chunk>,
    next: usize,
    attempts: u32,
    /// Counts questions: an answer to an earlier one does not count.
    asked: u64,
}

/// What the sender hears.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heard {
    /// These chunks are there.
    From(u64),
    /// All of it is there.
    Complete,
    /// It is not wanted now.
    Refused,
    /// No answer.
    Nothing,
}

/// What the sender says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Offer(Header),
    Chunk(u64, Chunk),
}

/// Snapshots of one process.
#[derive(Default)]
pub(super) struct Snapshots {
    sending: BTreeMap<u64, Sending>,
    incoming: Option<Incoming<SimStaging>>,
    /// The one that came whole last.
    complete: Option<u64>,
}

fn is_full(error: &IncomingError) -> bool {
    matches!(error, IncomingError::Storage(error) if error.is_full())
}

impl Cluster {
    /// Begins to send what apply has cut.
    pub(super) fn send_snapshot(&mut self, node: usize, cut: Cut) {
        let id = self.random.next_u64();
        let header = cut.header(id);
        let mut chunks = Vec::new();
        cut.chunks_of(self.setup.chunk_bytes, id, 0, |chunk| {
            chunks.push(chunk);
            ControlFlow::Continue(())
        });
        self.note_snapshot(node, || {
            format!(
                "n{} sends snapshot {} to {}, {} chunks",
                node + 1,
                header.snapshot.position,
                cut.to,
                chunks.len()
            )
        });
        let sending = Sending { cut, header, chunks, next: 0, attempts: ATTEMPTS, asked: 0 };
        self.process(node).snapshots.sending.insert(id, sending);
        self.offer(node, id);
    }

    fn note_snapshot(&mut self, node: usize, what: impl FnOnce() -> String) {
        self.trace.note(self.now, [50, node as u64, 0], || Happening::Fault { what: what() });
    }

    fn offer(&mut self, node: usize, id: u64) {
        let Some(sending) = self.process(node).snapshots.sending.get(&id) else { return };
        let header = sending.header.clone();
        self.say(node, id, Said::Offer(header));
    }

    fn say(&mut self, node: usize, id: u64, said: Said) {
        let incarnation = self.incarnation(node);
        let own = self.machines[node].id;
        let Some(sending) = self.process(node).snapshots.sending.get_mut(&id) else { return };
        sending.asked += 1;
        let (asked, target) = (sending.asked, sending.cut.to);
        let to = Self::index_of(target);
        if let Fate::Arrives(at, _) = self.network.send(self.now, node, to) {
            let ids = (own, target);
            let said = Box::new(said);
            self.add(at, Event::SnapshotSaid { from: node, incarnation, to, ids, asked, said });
        }
        let patience = PATIENCE + 4 * self.setup.network.delay_least;
        self.add_in(patience, Event::SnapshotHeard { node, incarnation, id, asked, heard: Heard::Nothing });
    }

    /// The receiver's side.
    pub(super) fn on_snapshot_said(
        &mut self,
        (from, incarnation): (usize, u64),
        to: usize,
        ids: (NodeId, NodeId),
        asked: u64,
        said: Box<Said>,
    ) {
        let machine = &mut self.machines[to];
        let until = machine.paused_until;
        let runs = machine.process.as_ref().is_some_and(|process| process.runs);
        if machine.id != ids.1 || !runs || self.network.is_cut(from, to) {
            return;
        }
        if until > self.now {
            self.add(until, Event::SnapshotSaid { from, incarnation, to, ids, asked, said });
            return;
        }
        let (id, heard) = match *said {
            Said::Offer(header) => (header.id, self.take_offer(to, ids.0, header)),
            Said::Chunk(id, chunk) => (id, self.take_chunk(to, ids.0, id, &chunk)),
        };
        if let Fate::Arrives(at, _) = self.network.send(self.now, to, from) {
            self.add(at, Event::SnapshotHeard { node: from, incarnation, id, asked, heard });
        }
    }

    /// As `driver::snapshots` does.
    fn take_offer(&mut self, node: usize, from: NodeId, header: Header) -> Heard {
        let local = self.machines[node].clock.local(self.now);
        let process = self.process(node);
        let term = process.core.raft().status(local).term;
        if header.term < term {
            return Heard::Refused;
        }
        if process.snapshots.complete == Some(header.id) {
            return Heard::Complete;
        }
        if let Some(incoming) = &process.snapshots.incoming {
            let known = incoming.header();
            if *known == header && incoming.from() == from {
                return Heard::From(incoming.next_chunk());
            }
            let age = |header: &Header| (header.term, header.snapshot.position.index);
            if age(known) > age(&header) {
                return Heard::Refused;
            }
        }
        if !process.shelf.is_empty() {
            return Heard::Refused;
        }
        process.snapshots.incoming = None;
        if !self.has_room(node, SimStaging::disk_bytes_max(header.bytes_max)) {
            return Heard::Refused;
        }
        let process = self.process(node);
        let staging = process.state().stage().expect("a staging in memory");
        process.snapshots.incoming = Some(Incoming::new(from, header, staging));
        if !self.is_calm && self.random.chance(250) {
            self.fill_disk_soon(node);
        }
        Heard::From(0)
    }

    /// Something else fills the disk while a snapshot comes.
    fn fill_disk_soon(&mut self, node: usize) {
        let free_bytes = self.random.pick(&[0, RESERVE_BYTES]);
        let (wait, lasts) = (self.random.around(2000), self.random.around(300_000));
        self.add_in(wait, Event::DiskSpace { node, free_bytes });
        self.add_in(wait + lasts, Event::DiskSpace { node, free_bytes: u64::MAX });
    }

    pub(super) fn on_disk_space(&mut self, node: usize, free_bytes: u64) {
        self.set_free_bytes(node, if self.is_calm { u64::MAX } else { free_bytes });
    }

    /// Whether so much can be staged without using up the reserve.
    fn has_room(&mut self, node: usize, needed_bytes: u64) -> bool {
        let checked = NoRoom::check(needed_bytes, RESERVE_BYTES, self.machines[node].free_bytes);
        if let Err(no_room) = &checked {
            self.note_snapshot(node, || format!("n{} has no room for a snapshot: {no_room}", node + 1));
        }
        checked.is_ok()
    }

    /// Nothing of what is staged is kept, so that its room is there for the log.
    fn let_go(&mut self, node: usize, why: &dyn Display) -> Heard {
        self.process(node).snapshots.incoming = None;
        self.note_snapshot(node, || format!("n{} discards a snapshot: {why}", node + 1));
        Heard::Refused
    }

    fn take_chunk(&mut self, node: usize, from: NodeId, id: u64, chunk: &Chunk) -> Heard {
        let look_bytes = CHUNKS_BETWEEN_LOOKS * self.setup.chunk_bytes as u64;
        let process = self.process(node);
        let is_meant = |incoming: &&mut Incoming<_>| incoming.header().id == id && incoming.from() == from;
        let Some(incoming) = process.snapshots.incoming.as_mut().filter(is_meant) else {
            return Heard::Refused;
        };
        match incoming.take(chunk) {
            Ok(false) if incoming.is_look_due(look_bytes) => {
                let (next, left) = (incoming.next_chunk(), incoming.disk_bytes_left());
                return if self.has_room(node, left) {
                    Heard::From(next)
                } else {
                    self.let_go(node, &"no room")
                };
            }
            Ok(false) => return Heard::From(incoming.next_chunk()),
            Ok(true) => {}
            Err(error) if is_full(&error) => {
                return self.let_go(node, &error);
            }
            Err(error) => {
                if !error.keeps_staged() {
                    let what = format!("n{} was sent a bad snapshot: {error}", node + 1);
                    self.report("snapshots arrive as they were", what);
                }
                return Heard::Refused;
            }
        }
        let incoming = process.snapshots.incoming.take().expect("it was there a moment ago");
        let Header { term, session, snapshot, .. } = incoming.header().clone();
        let content = match incoming.finish() {
            Ok(content) => content,
            Err(error) if is_full(&error) => return self.let_go(node, &error),
            Err(error) => {
                let what = format!("n{} was sent a bad snapshot: {error}", node + 1);
                self.report("snapshots arrive as they were", what);
                return Heard::Refused;
            }
        };
        let process = self.process(node);
        process.snapshots.complete = Some(id);
        let staged = process.shelf.put(content);
        process.done(Done::Event(CoreEvent::SnapshotReceived { from, term, session, snapshot, staged }));
        self.wake(node);
        Heard::Complete
    }

    /// The sender's side.
    pub(super) fn on_snapshot_heard(&mut self, node: usize, id: u64, asked: u64, heard: Heard) {
        let breaks = !self.is_calm && self.random.chance(20);
        let Some(sending) = self.process(node).snapshots.sending.get_mut(&id) else { return };
        if sending.asked != asked {
            return;
        }
        match heard {
            Heard::Complete => self.end_sending(node, id, true),
            Heard::From(next) if !breaks => {
                let next = usize::try_from(next).unwrap_or(usize::MAX);
                if std::mem::replace(&mut sending.next, next) < next {
                    sending.attempts = ATTEMPTS;
                }
                match sending.chunks.get(sending.next).cloned() {
                    Some(chunk) => self.say(node, id, Said::Chunk(id, chunk)),
                    None => self.end_sending(node, id, false),
                }
            }
            Heard::From(_) | Heard::Refused | Heard::Nothing => {
                sending.attempts -= 1;
                if sending.attempts == 0 {
                    self.end_sending(node, id, false);
                } else {
                    self.offer(node, id);
                }
            }
        }
    }

    fn end_sending(&mut self, node: usize, id: u64, is_there: bool) {
        let process = self.process(node);
        let Some(Sending { cut, .. }) = process.snapshots.sending.remove(&id) else { return };
        let sent = is_there.then_some(cut.snapshot.position);
        process.done(Done::Event(CoreEvent::SnapshotSent {
            to: cut.to,
            session: cut.session,
            term: cut.term,
            sent,
        }));
        self.wake(node);
    }

    /// Received snapshots that the core does not want.
    pub(super) fn drop_snapshots(&mut self, node: usize, staged: Vec<StagedId>) {
        for id in staged {
            self.process(node).shelf.remove(id);
        }
    }

    /// The checkpoint is durable.
    pub(super) fn on_checkpointed(&mut self, node: usize, position: crate::types::LogPosition) {
        self.process(node).done(Done::Event(CoreEvent::SnapshotTaken { position }));
        self.wake(node);
    }

    /// So much room is left on a node's disk.
    pub fn set_free_bytes(&mut self, node: usize, free_bytes: u64) {
        self.machines[node].free_bytes = free_bytes;
        self.machines[node].state.set_full(free_bytes == 0);
        self.with_disk(node, |disk| disk.set_full(free_bytes == 0));
        self.tell_space(node);
    }

    /// Tells a node's process of its disk's room.
    pub(super) fn tell_space(&mut self, node: usize) {
        let low = self.machines[node].free_bytes < RESERVE_BYTES;
        if let Some(process) = self.machines[node].process.as_mut().filter(|process| process.runs) {
            process.done(Done::Event(if low { CoreEvent::SpaceLow } else { CoreEvent::SpaceFreed }));
        }
        self.wake(node);
    }

    /// When a checkpoint begun now is durable.
    pub(super) fn checkpoint_done_at(&mut self) -> Instant {
        Instant(self.now.0 + self.random.between(200, self.setup.checkpoint_micros))
    }
}
