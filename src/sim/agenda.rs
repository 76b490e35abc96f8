//! What will happen when: events in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::churn::Ask;
use super::clients::{Ending, Token};
use super::founding::{Rpc, Step};
use super::snapshots::{Heard, Said};
use crate::raft::Message;
use crate::types::{Instant, LogPosition, NodeId, RequestId};

/// Something that will happen. `incarnation` names the process that it is for.
pub(super) enum Event {
    Deliver {
        from: usize,
        to: usize,
        ids: (NodeId, NodeId),
        message: Box<Message>,
    },
    SendDropped {
        node: usize,
        incarnation: u64,
        to: NodeId,
    },
    Turn {
        node: usize,
        incarnation: u64,
    },
    Timer {
        node: usize,
        incarnation: u64,
    },
    LogDone {
        node: usize,
        incarnation: u64,
    },
    ApplyDone {
        node: usize,
        incarnation: u64,
    },
    Checkpoint {
        node: usize,
        incarnation: u64,
    },
    PreparationFailed {
        node: usize,
        incarnation: u64,
        why: String,
    },
    Started {
        node: usize,
        incarnation: u64,
    },
    ReadStore {
        node: usize,
        incarnation: u64,
        token: Token,
    },
    Checkpointed {
        node: usize,
        incarnation: u64,
        position: LogPosition,
    },
    SnapshotHeard {
        node: usize,
        incarnation: u64,
        id: u64,
        asked: u64,
        heard: Heard,
    },
    SnapshotSaid {
        from: usize,
        incarnation: u64,
        to: usize,
        ids: (NodeId, NodeId),
        asked: u64,
        said: Box<Said>,
    },
    Restart {
        node: usize,
    },
    DiskSpace {
        node: usize,
        free_bytes: u64,
    },
    Founding {
        node: usize,
        incarnation: u64,
        step: Step,
    },
    Rpc {
        from: usize,
        to: usize,
        rpc: Box<Rpc>,
    },
    Request {
        node: usize,
        token: Token,
    },
    Reply {
        token: Token,
        ending: Ending,
    },
    GiveUp {
        token: Token,
    },
    Think {
        client: usize,
    },
    Administer,
    AdminRequest {
        node: usize,
        request: RequestId,
        ask: Box<Ask>,
    },
    ComeBack {
        node: usize,
        id: NodeId,
    },
}

/// Events by time; those of one time in the order they were added.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Instant, event: Event) {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(event);
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, slot)));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn take(&mut self) -> Option<(Instant, Event)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot].take()?))
    }
}
