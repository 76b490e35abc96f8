//! A disk that keeps appends in order and forgets, in a crash, what was not flushed.

use std::collections::VecDeque;

use super::super::{AppendEntries, Configuration, Entry, HardState, Payload, Promise, Recovered};
use crate::types::{IoId, LogIndex, LogPosition, NodeId};

/// The log of one node.
#[derive(Default)]
pub(super) struct Disk {
    /// What survives a crash.
    pub(super) hard_state: HardState,
    pub(super) durable: Vec<Entry>,
    /// What the core has been told to write so far, flushed or not.
    pub(super) written: Vec<Entry>,
    pending: VecDeque<AppendEntries>,
    /// Promises that wait for an append.
    promises: VecDeque<(NodeId, Promise, IoId)>,
    flushed: IoId,
    /// Whether appends wait for a command to flush them.
    pub(super) is_held: bool,
}

/// What one append's becoming durable sets free.
pub(super) struct Flushed {
    pub(super) io: IoId,
    pub(super) promises: Vec<(NodeId, Promise)>,
}

impl Disk {
    pub(super) fn new(hard_state: HardState, entries: Vec<Entry>) -> Self {
        Self { hard_state, written: entries.clone(), durable: entries, ..Self::default() }
    }

    pub(super) fn append(&mut self, append: AppendEntries) {
        write(&mut self.written, &append);
        self.pending.push_back(append);
    }

    /// Takes a promise; gives it back if it may leave at once.
    pub(super) fn hold(&mut self, to: NodeId, promise: Promise, after: IoId) -> Option<Promise> {
        if after <= self.flushed {
            return Some(promise);
        }
        self.promises.push_back((to, promise, after));
        None
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the oldest pending append durable.
    pub(super) fn flush_one(&mut self) -> Option<Flushed> {
        let append = self.pending.pop_front()?;
        write(&mut self.durable, &append);
        self.hard_state = append.hard_state;
        self.flushed = append.io;
        let mut promises = Vec::new();
        while self.promises.front().is_some_and(|(_, _, after)| *after <= append.io) {
            promises.extend(self.promises.pop_front().map(|(to, promise, _)| (to, promise)));
        }
        Some(Flushed { io: append.io, promises })
    }

    pub(super) fn crash(&mut self) {
        self.pending.clear();
        self.promises.clear();
        self.written.clone_from(&self.durable);
        self.flushed = IoId(0);
    }

    pub(super) fn durable_at(&self, index: LogIndex) -> Option<&Entry> {
        at(&self.durable, index)
    }

    pub(super) fn written_at(&self, index: LogIndex) -> Option<&Entry> {
        at(&self.written, index)
    }

    /// What a restart finds, with `first` as the configuration that was given before the first entry.
    pub(super) fn recovered(&self, first: Option<&Configuration>, applied: LogIndex) -> Recovered {
        let mut recovered = Recovered { applied, ..Recovered::default() };
        recovered.configurations.extend(first.map(|first| (LogIndex(0), first.clone().into())));
        for entry in &self.durable {
            if entry.term > recovered.last.term {
                recovered.runs.push(entry.position());
            }
            recovered.last = entry.position();
            if let Payload::Configuration(configuration) = &entry.payload {
                recovered.configurations.push((entry.index, configuration.clone()));
            }
            if entry.index > applied {
                recovered.tail.push(entry.clone());
            }
        }
        recovered
    }

    pub(super) fn last_durable(&self) -> LogPosition {
        self.durable.last().map(Entry::position).unwrap_or_default()
    }
}

fn at(log: &[Entry], index: LogIndex) -> Option<&Entry> {
    log.get(usize::try_from(index.0).ok()?.checked_sub(1)?)
}

fn write(log: &mut Vec<Entry>, append: &AppendEntries) {
    if let Some(from) = append.truncate_from {
        log.retain(|entry| entry.index < from);
    }
    log.extend(append.entries.iter().cloned());
}
