//! Logs as lists of marks: what two of them are compared by.

use std::sync::Arc;

use crate::raft::{Configuration, Entry, HardState, Payload};
use crate::types::{Instant, IoId, LogIndex, LogPosition, LogTime, Term};

/// An entry, as far as two logs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) term: Term,
    pub(super) time: LogTime,
    pub(super) digest: u64,
    /// Of the command, if it is one.
    pub(super) bytes: usize,
}

impl Mark {
    pub(super) fn of(entry: &Entry) -> Self {
        let (digest, bytes) = match &entry.payload {
            Payload::Noop => (1, 0),
            Payload::Command(data) => (digest(2, data), data.len()),
            Payload::Configuration(configuration) => (digest(3, &configuration.encode()), 0),
        };
        Self { term: entry.term, time: entry.time, digest, bytes }
    }
}

fn digest(kind: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let mix = |state: u64, word: u64| {
        let mixed = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    };
    let state = words.iter().fold(mix(kind, bytes.len() as u64), |s, w| mix(s, u64::from_le_bytes(*w)));
    mix(state, u64::from_le_bytes(last))
}

/// A log as a list of marks, with what must be remembered in addition.
#[derive(Clone, Debug, Default)]
pub(super) struct MarkedLog {
    pub(super) marks: Vec<Mark>,
    pub(super) hard_state: HardState,
    /// The configurations among the entries, in order.
    pub(super) configurations: Configurations,
}

/// Configurations, each with the index of its entry.
pub(super) type Configurations = Vec<(LogIndex, Arc<Configuration>)>;

/// The configurations among entries.
pub(super) fn configurations(entries: &[Entry]) -> Configurations {
    let of = |entry: &Entry| match &entry.payload {
        Payload::Configuration(configuration) => Some((entry.index, Arc::clone(configuration))),
        Payload::Noop | Payload::Command(_) => None,
    };
    entries.iter().filter_map(of).collect()
}

impl MarkedLog {
    /// A whole log.
    pub(super) fn of(entries: &[Entry], hard_state: HardState) -> Self {
        let marks = entries.iter().map(Mark::of).collect();
        Self { marks, hard_state, configurations: configurations(entries) }
    }

    pub(super) fn take(&mut self, write: &Write) {
        self.hard_state = write.hard_state;
        if let Some(prefix) = &write.prefix {
            self.replace(prefix);
        }
        if let Some(from) = write.truncate_from {
            self.marks.truncate(place(from));
            self.configurations.retain(|(index, _)| *index < from);
        }
        self.marks.extend_from_slice(&write.marks);
        self.configurations.extend_from_slice(&write.configurations);
    }

    /// The newest configuration at or below `index`.
    pub(super) fn configuration_at(&self, index: LogIndex) -> Option<&(LogIndex, Arc<Configuration>)> {
        self.configurations.iter().rfind(|(at, _)| *at <= index)
    }

    /// Restarts with these entries; what is behind them stays if it may.
    fn replace(&mut self, prefix: &Prefix) {
        let covered = prefix.log.last().index;
        let mut log = prefix.log.clone();
        if prefix.keeps_tail && self.marks.len() > log.marks.len() {
            log.marks.extend_from_slice(&self.marks[log.marks.len()..]);
            log.configurations.extend(self.configurations.iter().filter(|(at, _)| *at > covered).cloned());
        }
        (self.marks, self.configurations) = (log.marks, log.configurations);
    }

    pub(super) fn has(&self, index: LogIndex, mark: Mark) -> bool {
        self.marks.get(place(index)) == Some(&mark)
    }

    pub(super) fn last(&self) -> LogPosition {
        let term = self.marks.last().map_or(Term(0), |mark| mark.term);
        LogPosition { index: LogIndex(self.marks.len() as u64), term }
    }
}

/// The place of an entry in a list of marks.
pub(super) fn place(index: LogIndex) -> usize {
    usize::try_from(index.0.saturating_sub(1)).expect("logs fit into memory")
}

/// What a snapshot covers, as a log.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    pub(super) log: MarkedLog,
    /// What the log holds behind it stays.
    pub(super) keeps_tail: bool,
}

/// One append, handed to the log, or the installation of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) io: IoId,
    pub(super) truncate_from: Option<LogIndex>,
    pub(super) hard_state: HardState,
    pub(super) marks: Vec<Mark>,
    pub(super) configurations: Configurations,
    /// First, the log restarts with this.
    pub(super) prefix: Option<Prefix>,
    /// When, by the node's clock.
    pub(super) since: Instant,
}
