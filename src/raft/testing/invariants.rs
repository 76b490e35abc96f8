//! What must hold whatever happens (paper, figure 3), checked against the whole history of a run.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Payload;
use super::disk::StoredLog;
use crate::types::{LogIndex, LogPosition, NodeId, Term};

/// The history of one run, as far as later steps are checked against it.
#[derive(Default)]
pub(super) struct History {
    /// Election safety: who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Log matching: what every entry ever written holds, and the position before it.
    entries: BTreeMap<LogPosition, (LogPosition, Payload)>,
    /// State machine safety: every committed entry, and the term in which that became known.
    committed: Vec<(LogPosition, Term)>,
    /// The latest committed configuration, and everybody whom one has removed.
    configuration: LogPosition,
    removed: BTreeSet<NodeId>,
}

impl History {
    /// At most one node leads a term, ever.
    pub(super) fn on_leader(&mut self, term: Term, id: NodeId) -> Result<(), String> {
        match self.leaders.insert(term, id) {
            Some(other) if other != id => Err(format!("n{} and n{} both lead term {term}", other.0, id.0)),
            _ => Ok(()),
        }
    }

    /// An entry of one index and term has one content and one predecessor: so two logs that share an entry are
    /// equal up to it. No entry has an earlier time than the one before it.
    pub(super) fn on_written(&mut self, log: &StoredLog) -> Result<(), String> {
        for (i, entry) in log.entries.iter().enumerate().rev() {
            let prev = i.checked_sub(1).map(|prev| &log.entries[prev]);
            // The time of the entry that the log begins behind is not known.
            let (prev, time) = prev.map_or((log.before, entry.time), |prev| (prev.position(), prev.time));
            if entry.index != prev.index.next() || entry.term < prev.term {
                return Err(format!("{} follows {prev} in a log", entry.position()));
            }
            if entry.time < time {
                return Err(format!(
                    "{} of time {} follows one of time {time}",
                    entry.position(),
                    entry.time
                ));
            }
            let known = self.entries.get(&entry.position());
            if known.is_some_and(|known| *known == (prev, entry.payload.clone())) {
                return Ok(());
            }
            if known.is_some() {
                return Err(format!("two different entries {} were written", entry.position()));
            }
            self.entries.insert(entry.position(), (prev, entry.payload.clone()));
        }
        Ok(())
    }

    /// The latest committed configuration; 0 before the first entry that holds one.
    pub(super) fn configuration(&self) -> LogPosition {
        self.configuration
    }

    /// Nobody takes itself for removed unless a committed entry removed it.
    pub(super) fn check_removed(&self, id: NodeId) -> Result<(), String> {
        if self.removed.contains(&id) {
            Ok(())
        } else {
            Err(format!("n{} takes itself for removed, but no committed entry says so", id.0))
        }
    }

    pub(super) fn committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// What a log begins behind is committed.
    pub(super) fn check_before(&self, before: LogPosition) -> Result<(), String> {
        let Some(place) = before.index.0.checked_sub(1) else { return Ok(()) };
        let place = usize::try_from(place).expect("a test's log is short");
        match self.committed.get(place) {
            Some((committed, _)) if *committed == before => Ok(()),
            other => Err(format!("a log begins behind {before}, but {other:?} is committed")),
        }
    }

    /// A committed entry is the same for everybody. True if it was not known to be committed before.
    pub(super) fn on_committed(&mut self, position: LogPosition, term: Term) -> Result<bool, String> {
        let known = self.committed().0;
        if position.index.0 > known + 1 {
            return Err(format!("{position} is committed, but only {known} entries before it are"));
        }
        let place = usize::try_from(position.index.0 - 1).expect("a test's log is short");
        match self.committed.get(place) {
            None => {
                self.committed.push((position, term));
                if let Some((_, Payload::Configuration(configuration))) = self.entries.get(&position) {
                    self.configuration = position;
                    self.removed.extend(configuration.removed.keys());
                }
            }
            Some((other, _)) if *other != position => {
                return Err(format!("{other} and {position} are both committed"));
            }
            Some(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Leader completeness: a leader's log holds what was committed in earlier terms.
    pub(super) fn check_leader(&self, term: Term, id: NodeId, log: &StoredLog) -> Result<(), String> {
        for (position, committed_in) in self.committed.iter().rev() {
            if *committed_in < term && !log.covers(*position) {
                return Err(format!(
                    "n{} leads term {term} without {position}, committed in {committed_in}",
                    id.0
                ));
            }
            if *committed_in < term {
                // Logs that share an entry are equal up to it.
                break;
            }
        }
        Ok(())
    }
}
