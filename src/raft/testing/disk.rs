//! A disk that keeps appends in order and forgets, in a crash, what was not flushed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::{AppendEntries, Configuration, Entry, HardState, Payload, Promise, Recovered, Snapshot};
use crate::types::{IoId, LogIndex, LogPosition, NodeId, StagedId};

/// The disk of one node.
#[derive(Default)]
pub(super) struct Disk {
    /// What survives a crash.
    pub(super) hard_state: HardState,
    pub(super) durable: StoredLog,
    /// Last entry that the durable state covers.
    pub(super) covered: LogIndex,
    /// What the core has been told to write so far, flushed or not.
    pub(super) written: StoredLog,
    pending: VecDeque<Job>,
    /// Promises that wait for an append.
    promises: VecDeque<(NodeId, Promise, IoId)>,
    flushed: IoId,
    /// Whether appends wait for a command to flush them.
    pub(super) is_held: bool,
    /// Snapshots that were received and not used or dropped yet; a start clears them away.
    staged: BTreeMap<StagedId, Content>,
    last_staged: u64,
}

/// A log whose beginning may be gone.
#[derive(Clone, Default)]
pub(super) struct StoredLog {
    /// The entry before the first one.
    pub(super) before: LogPosition,
    pub(super) entries: Vec<Entry>,
}

/// A whole snapshot: the state is the list of all applied entries.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) snapshot: Snapshot,
    pub(super) applied: Vec<Entry>,
}

enum Job {
    Append(AppendEntries),
    Install { io: IoId, hard_state: HardState, keep_log: bool, content: Content },
}

/// What one append's becoming durable sets free.
pub(super) struct Flushed {
    pub(super) io: IoId,
    pub(super) promises: Vec<(NodeId, Promise)>,
    /// The snapshot that is the state now.
    pub(super) installed: Option<Content>,
}

impl Disk {
    pub(super) fn new(hard_state: HardState, log: StoredLog) -> Self {
        let covered = log.before.index;
        Self { hard_state, written: log.clone(), durable: log, covered, ..Self::default() }
    }

    pub(super) fn append(&mut self, append: AppendEntries) {
        self.written.write(&append);
        self.pending.push_back(Job::Append(append));
    }

    /// A snapshot has arrived whole.
    pub(super) fn stage(&mut self, content: Content) -> StagedId {
        self.last_staged += 1;
        self.staged.insert(StagedId(self.last_staged), content);
        StagedId(self.last_staged)
    }

    pub(super) fn unstage(&mut self, staged: StagedId) -> Option<Content> {
        self.staged.remove(&staged)
    }

    pub(super) fn install(&mut self, io: IoId, hard_state: HardState, keep_log: bool, content: Content) {
        self.written.install(content.snapshot.position, keep_log);
        self.pending.push_back(Job::Install { io, hard_state, keep_log, content });
    }

    /// Drops the log's beginning. That may be done at once: nothing that waits to be flushed is part of it.
    pub(super) fn compact(&mut self, through: LogIndex) -> Result<(), String> {
        if through > self.covered {
            return Err(format!(
                "the log is compacted at {through}, but the state covers only {}",
                self.covered
            ));
        }
        for log in [&mut self.written, &mut self.durable] {
            let before = log.at(through).map(Entry::position);
            log.begin_behind(
                before.ok_or_else(|| format!("the log is compacted at {through}, which it lacks"))?,
            );
        }
        Ok(())
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
        let mut installed = None;
        let (io, hard_state) = match self.pending.pop_front()? {
            Job::Append(append) => {
                self.durable.write(&append);
                (append.io, append.hard_state)
            }
            Job::Install { io, hard_state, keep_log, content } => {
                self.durable.install(content.snapshot.position, keep_log);
                self.covered = content.snapshot.position.index;
                installed = Some(content);
                (io, hard_state)
            }
        };
        self.hard_state = hard_state;
        self.flushed = io;
        let mut promises = Vec::new();
        while self.promises.front().is_some_and(|(_, _, after)| *after <= io) {
            promises.extend(self.promises.pop_front().map(|(to, promise, _)| (to, promise)));
        }
        Some(Flushed { io, promises, installed })
    }

    pub(super) fn crash(&mut self) {
        self.pending.clear();
        self.promises.clear();
        self.staged.clear();
        self.written.clone_from(&self.durable);
        self.flushed = IoId(0);
    }

    /// What was flushed is gone from here on: what no disk should do. Of a node that is down.
    pub(super) fn lose_from(&mut self, from: LogIndex) {
        self.durable.entries.retain(|entry| entry.index < from);
        self.written.clone_from(&self.durable);
    }

    /// What a restart finds, with `first` as the configuration that was given before the first entry and `applied` as
    /// the state.
    pub(super) fn recovered(&self, first: Option<&Configuration>, applied: &[Entry]) -> Recovered {
        let before = self.durable.before;
        let applied_index = LogIndex(applied.len() as u64);
        let mut recovered =
            Recovered { before, last: before, applied: applied_index, ..Recovered::default() };
        recovered.configurations.extend(configuration_at(first, applied, before.index));
        let mut term = None;
        for entry in applied.iter().chain(&self.durable.entries) {
            recovered.time = recovered.time.max(entry.time);
        }
        for entry in &self.durable.entries {
            if term.replace(entry.term) != Some(entry.term) {
                recovered.runs.push(entry.position());
            }
            recovered.last = entry.position();
            if let Payload::Configuration(configuration) = &entry.payload {
                recovered.configurations.push((entry.index, configuration.clone()));
            }
            if entry.index > applied_index {
                recovered.tail.push(entry.clone());
            }
        }
        recovered
    }

    pub(super) fn last_durable(&self) -> LogPosition {
        self.durable.last()
    }
}

/// The newest configuration at or below an entry, in a state that has applied it.
pub(super) fn configuration_at(
    first: Option<&Configuration>,
    applied: &[Entry],
    index: LogIndex,
) -> Option<(LogIndex, Arc<Configuration>)> {
    let in_log =
        applied.iter().rev().filter(|entry| entry.index <= index).find_map(|entry| match &entry.payload {
            Payload::Configuration(configuration) => Some((entry.index, Arc::clone(configuration))),
            Payload::Noop | Payload::Command(_) => None,
        });
    in_log.or_else(|| first.map(|first| (LogIndex(0), Arc::new(first.clone()))))
}

impl StoredLog {
    pub(super) fn of(entries: Vec<Entry>) -> Self {
        Self { before: LogPosition::default(), entries }
    }

    pub(super) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.before, Entry::position)
    }

    pub(super) fn at(&self, index: LogIndex) -> Option<&Entry> {
        let place = index.0.checked_sub(self.before.index.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Whether it holds the committed entry at this position, or begins behind it.
    pub(super) fn covers(&self, position: LogPosition) -> bool {
        position.index < self.before.index
            || position == self.before
            || self.at(position.index).map(Entry::position) == Some(position)
    }

    fn write(&mut self, append: &AppendEntries) {
        if let Some(from) = append.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        self.entries.extend(append.entries.iter().cloned());
    }

    fn install(&mut self, position: LogPosition, keep_log: bool) {
        if !keep_log {
            self.entries.clear();
        }
        self.begin_behind(position);
    }

    fn begin_behind(&mut self, before: LogPosition) {
        self.entries.retain(|entry| entry.index > before.index);
        self.before = before;
    }
}
