//! Which entries the log holds, of which term, in which record: the log's index in memory.

use crate::types::{LogIndex, LogPosition, Term};

/// Where a record with entries stands. One for each such record, so kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordPlace {
    /// Its first entry. The last one that still counts is the one before the next place's first.
    pub(super) first: LogIndex,
    /// Sequence number of its segment.
    pub(super) segment: u32,
    /// Byte in the segment's file.
    pub(super) offset: u32,
}

/// The log's entries by term and by record.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    /// The entry before the first one.
    pub(super) before: LogPosition,
    /// The last entry, or `before`.
    pub(super) last: LogPosition,
    /// First index of each run of one term.
    pub(super) runs: Vec<LogPosition>,
    /// Rising by first entry.
    pub(super) places: Vec<RecordPlace>,
}

impl Positions {
    pub(super) fn begin(before: LogPosition) -> Self {
        Self { before, last: before, runs: Vec::new(), places: Vec::new() }
    }

    /// Whether dropping `from` and all after it leaves a log that begins where it does.
    pub(super) fn can_truncate(&self, from: LogIndex) -> bool {
        self.before.index < from && from <= self.last.index.next()
    }

    /// Drops `from` and all after it.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let keep = self.runs.partition_point(|run| run.index < from);
        self.runs.truncate(keep);
        let keep = self.places.partition_point(|place| place.first < from);
        self.places.truncate(keep);
        if from <= self.last.index {
            self.last = LogPosition { index: from.prev(), term: self.term_at_end() };
        }
    }

    fn term_at_end(&self) -> Term {
        self.runs.last().map_or(self.before.term, |run| run.term)
    }

    /// Whether an entry may follow the last one: no gap, and a term that does not go back.
    pub(super) fn can_follow(&self, position: LogPosition) -> bool {
        position.index == self.last.index.next() && position.term >= self.last.term
    }

    /// Adds one entry.
    pub(super) fn push(&mut self, position: LogPosition) {
        if self.runs.last().is_none_or(|run| run.term != position.term) {
            self.runs.push(position);
        }
        self.last = position;
    }

    /// Drops `before` and all entries below it, which none of the segments that stay holds.
    pub(super) fn drop_through(&mut self, before: LogPosition) {
        let first = before.index.next();
        let below = self.runs.partition_point(|run| run.index <= first);
        if let Some(run) = below.checked_sub(1).and_then(|at| self.runs.get_mut(at))
            && first <= self.last.index
        {
            // Of the run that continues behind `before`, the rest stays.
            run.index = first;
            self.runs.drain(..below - 1);
        } else {
            self.runs.drain(..below);
        }
        let below = self.places.partition_point(|place| place.first < first);
        self.places.drain(..below);
        self.before = before;
    }

    /// Adds the place of the record that holds the entries from `first` on.
    pub(super) fn place(&mut self, place: RecordPlace) {
        self.places.push(place);
    }
}
