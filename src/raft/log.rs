//! The core's view of the log: recent entries, terms of all entries, and what is durable, committed and handed out.
//!
//! The log begins behind `before`: the state covers that entry and all below it, which are committed.
//!
//! Invariants:
//! - `before.index <= handed <= commit`; only what is committed and durable here is handed out.
//! - `before.index <= applied`, but while a snapshot is being installed: then nothing is handed out.
//! - `durable <= last.index`; an index above `durable` may be lost by a crash.
//! - Every entry above `applied` is in the window, so applying never needs the disk.
//! - `runs` holds `before`, then the first index of every later term, so a term look-up never needs the disk. Terms
//!   below `before` are not known.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Configuration, Entry, Payload, Rules, Snapshot};
use crate::types::{IoId, LogIndex, LogPosition, LogTime, StateDigest, Term};

/// What the log on disk holds at start.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The entry before the first one that the log holds; the state covers it.
    pub before: LogPosition,
    /// Last entry.
    pub last: LogPosition,
    /// The log's clock at the last entry, or a later time.
    pub time: LogTime,
    /// First position of each term, rising.
    pub runs: Vec<LogPosition>,
    /// The configuration that the state covers, if the log no longer holds it, then every one in the log, rising.
    pub configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// Index up to which entries are known to be committed and have been applied.
    pub applied: LogIndex,
    /// Digest of the state after `applied`, if states are compared.
    pub digest: Option<StateDigest>,
    /// All entries above `applied`.
    pub tail: Vec<Entry>,
}

pub(super) struct Log {
    rules: Rules,
    /// Recent entries without gaps; the last one is at `last.index`.
    window: VecDeque<Entry>,
    window_bytes: usize,
    cache_bytes: usize,
    /// The entry before the first one.
    before: LogPosition,
    runs: Vec<LogPosition>,
    last: LogPosition,
    /// The highest stamp of any entry that was ever in it.
    time: LogTime,
    configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// Appends not yet durable, with the last index each makes durable.
    pending: VecDeque<(IoId, LogIndex)>,
    last_io: IoId,
    durable: LogIndex,
    commit: LogIndex,
    handed: LogIndex,
    applied: LogIndex,
    /// The last entry that a snapshot covers which is not the applied state yet.
    installing: Option<LogIndex>,
}

impl Log {
    pub(super) fn new(recovered: Recovered, cache_bytes: usize, rules: Rules) -> Self {
        let window_bytes = recovered.tail.iter().map(Entry::size_bytes).sum();
        assert!(
            recovered.tail.len() as u64 == recovered.last.index.0 - recovered.applied.0,
            "the recovered tail has {} entries, expected {} to {}",
            recovered.tail.len(),
            recovered.applied.next(),
            recovered.last.index
        );
        assert!(
            recovered.before.index <= recovered.applied,
            "the log begins behind {}, but only {} is applied",
            recovered.before,
            recovered.applied
        );
        let mut log = Self {
            rules,
            window: recovered.tail.into(),
            window_bytes,
            cache_bytes,
            before: recovered.before,
            runs: recovered.runs,
            last: recovered.last,
            time: recovered.time,
            configurations: recovered.configurations,
            pending: VecDeque::new(),
            last_io: IoId(0),
            durable: recovered.last.index,
            commit: recovered.applied,
            handed: recovered.applied,
            applied: recovered.applied,
            installing: None,
        };
        log.begin_behind(recovered.before);
        log
    }

    /// The entry before the first one that the log holds.
    pub(super) fn before(&self) -> LogPosition {
        self.before
    }

    pub(super) fn last(&self) -> LogPosition {
        self.last
    }

    pub(super) fn time(&self) -> LogTime {
        self.time
    }

    pub(super) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(super) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(super) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The latest append handed to the log thread.
    pub(super) fn last_io(&self) -> IoId {
        self.last_io
    }

    /// The latest append that is durable.
    pub(super) fn flushed_io(&self) -> IoId {
        self.pending.front().map_or(self.last_io, |(first, _)| first.prev())
    }

    /// Whether every append so far is durable.
    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// The configuration in force: the latest in the log, committed or not (paper, 6).
    pub(super) fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.configurations.last().map(|(_, configuration)| configuration)
    }

    /// Index of the configuration in force; 0 if no entry holds it.
    pub(super) fn configuration_index(&self) -> LogIndex {
        self.configurations.last().map_or(LogIndex(0), |(index, _)| *index)
    }

    /// The latest configuration that is known to be committed, and the later ones in the log, which may be replaced.
    pub(super) fn open_configurations(&self) -> &[(LogIndex, Arc<Configuration>)] {
        let committed = self.configurations.partition_point(|(index, _)| *index <= self.commit);
        &self.configurations[committed.saturating_sub(1)..]
    }

    /// The latest configuration that is known to be committed, and its index.
    pub(super) fn committed_configuration(&self) -> Option<(LogIndex, &Arc<Configuration>)> {
        let (index, configuration) = self.open_configurations().first()?;
        (*index <= self.commit).then_some((*index, configuration))
    }

    /// Term of the entry at `index`; 0 for index 0; `None` past the end, and for what the log no longer knows.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last.index || (index < self.before.index && index > LogIndex(0)) {
            return None;
        }
        Some(self.run_of(index).term)
    }

    /// When the entry at `index` was made, if it is in memory.
    pub(super) fn time_at(&self, index: LogIndex) -> Option<LogTime> {
        let place = index.0.checked_sub(self.window.front()?.index.0)?;
        self.window.get(usize::try_from(place).ok()?).map(|entry| entry.time)
    }

    /// Whether the log is known to hold the entry at this position, or begins right behind it.
    pub(super) fn matches(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The first position of the term that the entry at `index` belongs to.
    fn run_of(&self, index: LogIndex) -> LogPosition {
        match self.runs.partition_point(|run| run.index <= index) {
            0 => LogPosition::default(),
            n => self.runs[n - 1],
        }
    }

    /// The last position at or below `limit.index` whose term is not above `limit.term`: the furthest place
    /// where a log that holds `limit` may agree with this one. Skips a whole term at a time (paper, end of 5.3).
    /// Below the beginning of the log no term is known: then the term is 0.
    pub(super) fn agreement_bound(&self, limit: LogPosition) -> LogPosition {
        let mut index = limit.index.min(self.last.index);
        while index >= self.before.index {
            let run = self.run_of(index);
            if run.term <= limit.term {
                return LogPosition { index, term: run.term };
            }
            index = run.index.prev();
        }
        LogPosition { index, term: Term(0) }
    }

    /// Lets the log begin behind this entry: what is at or below it is forgotten.
    fn begin_behind(&mut self, before: LogPosition) {
        while self.window.front().is_some_and(|entry| entry.index <= before.index) {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= entry.size_bytes();
            }
        }
        self.runs.retain(|run| run.index > before.index && run.term > before.term);
        self.runs.insert(0, before);
        self.before = before;
    }

    /// Drops all entries up to `through`, which are applied. The newest configuration among them is kept.
    pub(super) fn compact(&mut self, through: LogIndex) {
        assert!(
            through > self.before.index && through <= self.applied,
            "compaction through {through} of a log behind {} that is applied up to {}",
            self.before,
            self.applied
        );
        let covered = self.configurations.partition_point(|(index, _)| *index <= through);
        self.configurations.drain(..covered.saturating_sub(1));
        self.begin_behind(LogPosition { index: through, term: self.run_of(through).term });
    }

    /// Makes the log begin behind a snapshot that covers more than is committed here: what is above it stays if the
    /// log holds its last entry (`keep_log`), else nothing. Appends on their way no longer make the discarded entries
    /// durable. Nothing is handed out until the snapshot is the applied state.
    pub(super) fn install(&mut self, snapshot: &Snapshot, keep_log: bool) {
        let position = snapshot.position;
        assert!(
            position.index > self.commit,
            "a snapshot at {position} would take back committed entries, up to {}",
            self.commit
        );
        if !keep_log {
            self.window.clear();
            self.window_bytes = 0;
            self.runs.clear();
            self.last = position;
            self.lower_durable(self.commit);
        }
        self.configurations = self.rules.configurations_behind(&self.configurations, snapshot, keep_log);
        self.begin_behind(position);
        self.time = self.time.max(snapshot.time);
        self.commit = position.index;
        self.handed = position.index;
        self.installing = Some(position.index);
    }

    /// Entries above `kept` are no longer there: neither durable, nor made so by appends on their way.
    fn lower_durable(&mut self, kept: LogIndex) {
        self.durable = self.durable.min(kept);
        for (_, last_index) in &mut self.pending {
            *last_index = self.rules.makes_durable(*last_index, kept);
        }
    }

    /// Whether a snapshot has been taken over that is not the applied state yet.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Starts an append; all that was appended or truncated since the last one is part of it.
    pub(super) fn begin_io(&mut self) -> IoId {
        self.last_io = self.last_io.next();
        self.pending.push_back((self.last_io, self.last.index));
        self.last_io
    }

    /// Takes note that all appends up to `io` are durable.
    pub(super) fn on_durable(&mut self, io: IoId) {
        while let Some((first, last_index)) = self.pending.front().copied() {
            if first > io {
                break;
            }
            self.pending.pop_front();
            self.durable = self.durable.max(last_index);
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        assert!(
            entry.index == self.last.index.next() && entry.term >= self.last.term,
            "entry {} does not follow {}",
            entry.position(),
            self.last
        );
        if entry.term > self.last.term {
            self.runs.push(entry.position());
        }
        if let Payload::Configuration(configuration) = &entry.payload {
            self.configurations.push((entry.index, Arc::clone(configuration)));
        }
        self.last = entry.position();
        self.time = self.time.max(entry.time);
        self.window_bytes += entry.size_bytes();
        self.window.push_back(entry);
    }

    /// Removes the entry at `from` and all after it. Appends on their way no longer make those durable.
    pub(super) fn truncate_from(&mut self, from: LogIndex) {
        assert!(
            from > self.commit,
            "truncation from {from} would remove committed entries, up to {}",
            self.commit
        );
        while self.window.back().is_some_and(|entry| entry.index >= from) {
            if let Some(entry) = self.window.pop_back() {
                self.window_bytes -= entry.size_bytes();
            }
        }
        let kept = from.prev();
        self.last = LogPosition { index: kept, term: self.run_of(kept).term };
        self.runs.retain(|run| run.index <= kept);
        self.configurations.retain(|(index, _)| *index <= kept);
        self.lower_durable(kept);
    }

    /// Entries from `from` on, as many as fit in `bytes_max` but at least one; `None` if they are no longer in memory.
    pub(super) fn slice(&self, from: LogIndex, bytes_max: usize) -> Option<(Vec<Entry>, usize)> {
        let first = self.window_first();
        if from < first {
            return None;
        }
        let start = usize::try_from(from.0 - first.0).expect("the window fits in memory");
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.window.range(start.min(self.window.len())..) {
            let size = entry.size_bytes();
            if !entries.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
        }
        Some((entries, bytes))
    }

    /// Index of the oldest entry in memory; one past the end if there is none.
    pub(super) fn window_first(&self) -> LogIndex {
        self.window.front().map_or(self.last.index.next(), |entry| entry.index)
    }

    /// Moves the commit index forward.
    pub(super) fn commit_to(&mut self, index: LogIndex) -> bool {
        assert!(index <= self.last.index, "commit {index} is past the last entry {}", self.last.index);
        let moved = index > self.commit;
        self.commit = self.commit.max(index);
        moved
    }

    /// Takes the next entries that may be applied and were not handed out before.
    pub(super) fn hand_out(&mut self, entries_max: usize) -> Vec<Entry> {
        let through = self.rules.may_apply_through(self);
        if self.handed >= through || self.is_installing() {
            return Vec::new();
        }
        let first = self.window_first();
        let start =
            usize::try_from(self.handed.next().0 - first.0).expect("unapplied entries are in the window");
        let count = usize::try_from(through.0 - self.handed.0).unwrap_or(usize::MAX).min(entries_max);
        let entries: Vec<Entry> = self.window.range(start..start + count).cloned().collect();
        self.handed = LogIndex(self.handed.0 + count as u64);
        entries
    }

    /// What the entries hold that are committed and not yet applied, in bytes. Counting ends at `limit`.
    pub(super) fn backlog_bytes(&self, limit: usize) -> usize {
        self.bytes_between(self.applied, self.commit, limit)
    }

    /// What the entries hold that are appended and not yet durable here, in bytes. Counting ends at `limit`.
    pub(super) fn unflushed_bytes(&self, limit: usize) -> usize {
        self.bytes_between(self.durable(), self.last().index, limit)
    }

    fn bytes_between(&self, after: LogIndex, through: LogIndex, limit: usize) -> usize {
        let count = through.0.saturating_sub(after.0);
        let start = after.next().0.saturating_sub(self.window_first().0);
        let [start, count] = [start, count].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let mut bytes = 0;
        for entry in self.window.range(start.min(self.window.len())..).take(count) {
            bytes += entry.size_bytes();
            if bytes >= limit {
                break;
            }
        }
        bytes
    }

    /// Takes note of what was applied, and drops the oldest applied entries beyond the cache's size. True if that was
    /// the state of a snapshot.
    pub(super) fn on_applied(&mut self, index: LogIndex) -> bool {
        self.applied = self.applied.max(index.min(self.handed));
        let installed = self.installing.take_if(|position| *position <= index).is_some();
        while self.window_bytes > self.cache_bytes
            && self.window.front().is_some_and(|entry| entry.index <= self.applied)
        {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= entry.size_bytes();
            }
        }
        installed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::new(Recovered::default(), usize::MAX, Rules::default());
        for term in terms {
            let index = log.last().index.next();
            log.push(Entry { term: Term(*term), index, time: LogTime(0), payload: Payload::Noop });
        }
        log
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    #[test]
    fn terms_are_known_without_entries() {
        let log = log_of(&[1, 1, 3, 3, 4]);
        let terms: Vec<_> = (0..=6).map(|i| log.term_at(LogIndex(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [Some(0), Some(1), Some(1), Some(3), Some(3), Some(4), None]);
    }

    #[test]
    fn the_agreement_bound_skips_whole_terms() {
        let log = log_of(&[1, 1, 3, 3, 4]);
        assert_eq!(log.agreement_bound(at(9, 9)), at(5, 4));
        assert_eq!(log.agreement_bound(at(5, 3)), at(4, 3));
        assert_eq!(log.agreement_bound(at(4, 2)), at(2, 1));
        assert_eq!(log.agreement_bound(at(4, 0)), at(0, 0));
    }

    #[test]
    fn a_replaced_entry_does_not_make_its_successor_durable() {
        let mut log = log_of(&[1, 1, 1]);
        let first = log.begin_io();
        log.truncate_from(LogIndex(2));
        log.push(Entry { term: Term(2), index: LogIndex(2), time: LogTime(0), payload: Payload::Noop });
        let second = log.begin_io();
        log.on_durable(first);
        assert_eq!(log.durable(), LogIndex(1));
        log.on_durable(second);
        assert_eq!(log.durable(), LogIndex(2));
    }

    #[test]
    fn only_what_is_committed_and_durable_is_handed_out() {
        let mut log = log_of(&[1, 1, 1]);
        log.commit_to(LogIndex(3));
        assert!(log.hand_out(10).is_empty());
        let io = log.begin_io();
        log.on_durable(io);
        assert_eq!(log.hand_out(2).len(), 2);
        assert_eq!(log.hand_out(2).len(), 1);
        assert!(log.hand_out(2).is_empty());
    }

    fn snapshot(position: LogPosition, voter: u64) -> Snapshot {
        let voters = [(crate::types::NodeId(voter), crate::raft::Member::default())].into();
        let configuration = Arc::new(Configuration { voters, ..Configuration::default() });
        Snapshot { position, time: LogTime(7), configuration, configuration_index: LogIndex(1) }
    }

    /// A log of these terms in which everything is committed, durable and applied up to `applied`.
    fn applied_log(terms: &[u64], applied: u64) -> Log {
        let mut log = log_of(terms);
        let io = log.begin_io();
        log.on_durable(io);
        log.commit_to(LogIndex(applied));
        log.hand_out(usize::MAX);
        log.on_applied(LogIndex(applied));
        log
    }

    #[test]
    fn terms_below_the_beginning_are_not_known() {
        let mut log = applied_log(&[1, 1, 3, 3, 4], 4);
        log.compact(LogIndex(3));
        let terms: Vec<_> = (0..=6).map(|i| log.term_at(LogIndex(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [Some(0), None, None, Some(3), Some(3), Some(4), None]);
        assert_eq!((log.before(), log.window_first()), (at(3, 3), LogIndex(4)));
        assert!(log.matches(at(3, 3)) && log.matches(at(0, 0)) && !log.matches(at(2, 1)));
        assert_eq!(log.agreement_bound(at(9, 3)), at(4, 3));
        assert_eq!(log.agreement_bound(at(4, 2)), at(2, 0));
        assert_eq!(log.agreement_bound(at(1, 1)), at(1, 0));
        assert!(log.slice(LogIndex(3), 100).is_none());
    }

    #[test]
    fn a_log_is_recovered_with_its_beginning() {
        let recovered = Recovered {
            before: at(10, 3),
            last: at(12, 4),
            runs: vec![at(11, 3), at(12, 4)],
            applied: LogIndex(12),
            ..Recovered::default()
        };
        let log = Log::new(recovered, usize::MAX, Rules::default());
        let terms: Vec<_> = (9..=13).map(|i| log.term_at(LogIndex(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [None, Some(3), Some(3), Some(4), None]);
    }

    #[test]
    fn a_snapshot_that_the_log_holds_keeps_what_follows_it() {
        let mut log = applied_log(&[1, 1, 2, 2], 1);
        log.install(&snapshot(at(3, 2), 1), true);
        assert_eq!((log.before(), log.last(), log.commit()), (at(3, 2), at(4, 2), LogIndex(3)));
        assert_eq!((log.durable(), log.time()), (LogIndex(4), LogTime(7)));
        log.commit_to(LogIndex(4));
        assert!(log.hand_out(10).is_empty(), "the state is not that of the snapshot yet");
        assert!(!log.on_applied(LogIndex(1)));
        assert!(log.on_applied(LogIndex(3)));
        assert_eq!(log.hand_out(10).len(), 1);
    }

    /// The entry at the snapshot's place is of another term: nothing of the log stays, neither above nor at it
    /// (hashicorp/raft #697).
    #[test]
    fn a_snapshot_that_the_log_does_not_hold_discards_it() {
        let mut log = applied_log(&[1, 1, 1, 1], 1);
        let pending = log.begin_io();
        log.install(&snapshot(at(3, 2), 1), false);
        assert_eq!((log.before(), log.last(), log.commit()), (at(3, 2), at(3, 2), LogIndex(3)));
        assert_eq!(log.durable(), LogIndex(1));
        log.on_durable(pending);
        assert_eq!(log.durable(), LogIndex(1));
        let io = log.begin_io();
        log.on_durable(io);
        assert_eq!(log.durable(), LogIndex(3));
    }

    #[test]
    fn configurations_survive_compaction_and_come_with_snapshots() {
        let mut log = Log::new(Recovered::default(), usize::MAX, Rules::default());
        let configuration = |voter| snapshot(at(1, 1), voter).configuration;
        for index in 1..=6 {
            let payload = Payload::Configuration(configuration(index));
            log.push(Entry { term: Term(1), index: LogIndex(index), time: LogTime(0), payload });
        }
        let io = log.begin_io();
        log.on_durable(io);
        log.commit_to(LogIndex(3));
        log.hand_out(10);
        log.on_applied(LogIndex(3));
        log.compact(LogIndex(2));
        let indexes = |log: &Log| log.configurations.iter().map(|(index, _)| index.0).collect::<Vec<_>>();
        assert_eq!(indexes(&log), [2, 3, 4, 5, 6]);
        log.install(&snapshot(at(4, 1), 9), true);
        assert_eq!(indexes(&log), [1, 5, 6]);
        log.truncate_from(LogIndex(5));
        assert_eq!(log.configuration(), Some(&configuration(9)));
        log.install(&snapshot(at(8, 2), 7), false);
        assert_eq!(log.configuration(), Some(&configuration(7)));
    }

    #[test]
    fn truncation_takes_back_the_configuration() {
        let mut log = log_of(&[1]);
        let configuration = Arc::new(Configuration::default());
        log.push(Entry {
            term: Term(1),
            index: LogIndex(2),
            time: LogTime(0),
            payload: Payload::Configuration(configuration),
        });
        assert!(log.configuration().is_some());
        log.truncate_from(LogIndex(2));
        assert!(log.configuration().is_none());
        assert_eq!(log.last(), at(1, 1));
    }
}
