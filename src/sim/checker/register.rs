//! One key as a sequential object: which operations its state allows, and what they make of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Answer, Call, Operation};
use crate::kv::Condition;
use crate::types::Revision;

/// A value of this key, numbered from 2; [`NONE`] for no value, [`UNREAD`] for all that no read found.
pub(super) type ValueId = u32;

/// The key is not there.
pub(super) const NONE: ValueId = 0;

/// Some value that no read found: which one makes no difference, so there is less to search.
pub(super) const UNREAD: ValueId = 1;

/// An operation, reduced to what the state depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Get {
        found: ValueId,
        revision: Option<u64>,
    },
    Write {
        /// What the key holds afterwards.
        value: ValueId,
        condition: Condition,
        outcome: Outcome,
    },
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It took effect, at this revision if that is known.
    Took(Option<u64>),
    /// Its condition did not hold.
    Refused,
    /// There was nothing to delete.
    Missing,
    /// Nobody knows; if it took effect, then at this revision, if that is known.
    Unknown(Option<u64>),
}

/// What the key holds, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) value: ValueId,
    /// Revision of the last write: this one if `is_exact`, else this one or a later one.
    pub(super) revision: u64,
    pub(super) is_exact: bool,
    /// The last write is of unknown outcome. It need be placed only right before an operation that sees it: later
    /// than any other place is no worse, and one that nobody sees may as well never have happened.
    pub(super) must_be_seen: bool,
}

impl State {
    /// The key before its first write.
    pub(super) const EMPTY: Self = Self { value: NONE, revision: 0, is_exact: true, must_be_seen: false };

    /// The state after `step`, or `None` if the step cannot happen here.
    pub(super) fn after(self, step: &Step) -> Option<Self> {
        match step {
            Step::Get { found, revision } => (self.value == *found).then_some(self)?.seen(*revision),
            Step::Write { condition, outcome: Outcome::Refused, .. } => {
                let may_not_hold = match condition {
                    Condition::Always => false,
                    Condition::Absent => self.value != NONE,
                    Condition::Present => self.value == NONE,
                    Condition::ModRevision(wanted) => {
                        self.value == NONE || !self.is_exact || self.revision != wanted.0
                    }
                };
                may_not_hold.then_some(self)?.seen(None)
            }
            Step::Write { condition, outcome: Outcome::Missing, .. } => {
                let holds = matches!(condition, Condition::Always | Condition::Absent);
                (holds && self.value == NONE).then_some(self)?.seen(None)
            }
            Step::Write { value, condition, outcome: Outcome::Took(revision) } => {
                let is_blind = *condition == Condition::Always && *value != NONE;
                self.written(*value, *condition, *revision, is_blind, false)
            }
            Step::Write { value, condition, outcome: Outcome::Unknown(revision) } => {
                let is_blind = *condition == Condition::Always;
                self.written(*value, *condition, *revision, is_blind, true)
            }
        }
    }

    fn seen(self, revision: Option<u64>) -> Option<Self> {
        let mut next = Self { must_be_seen: false, ..self };
        if let Some(revision) = revision {
            if revision < self.revision || (self.is_exact && revision != self.revision) {
                return None;
            }
            (next.revision, next.is_exact) = (revision, true);
        }
        Some(next)
    }

    fn written(
        self,
        value: ValueId,
        condition: Condition,
        revision: Option<u64>,
        is_blind: bool,
        must_be_seen: bool,
    ) -> Option<Self> {
        if is_blind && self.must_be_seen {
            return None;
        }
        let is_there = self.value != NONE;
        let before = match condition {
            Condition::Always => self,
            Condition::Absent => (!is_there).then_some(self)?,
            Condition::Present => is_there.then_some(self)?,
            Condition::ModRevision(wanted) => is_there.then_some(self)?.seen(Some(wanted.0))?,
        };
        // A deletion takes effect only where there is something.
        if value == NONE && !is_there {
            return None;
        }
        let least = before.revision + 1;
        if revision.is_some_and(|revision| revision < least) {
            return None;
        }
        Some(Self { value, revision: revision.unwrap_or(least), is_exact: revision.is_some(), must_be_seen })
    }
}

impl Step {
    /// Whether it never changes what the key holds.
    pub(super) fn is_observation(&self) -> bool {
        match self {
            Self::Get { .. } => true,
            Self::Write { outcome, .. } => matches!(outcome, Outcome::Refused | Outcome::Missing),
        }
    }

    /// The revision it made, if it made one that is known.
    pub(super) fn revision_made(&self) -> Option<u64> {
        match self {
            Self::Write { outcome: Outcome::Took(revision) | Outcome::Unknown(revision), .. } => *revision,
            _ => None,
        }
    }
}

/// The steps of one key's operations, in their order; `None` for one that says nothing (a read without answer).
pub(super) fn steps(operations: &[Operation]) -> Vec<Option<Step>> {
    let mut ids: BTreeMap<&Bytes, ValueId> = BTreeMap::new();
    for returned in operations.iter().filter_map(|operation| operation.returned.as_ref()) {
        if let Answer::Found { value, .. } = &returned.answer {
            let next = ValueId::try_from(ids.len() + 2).expect("a history has fewer than 2^32 values");
            ids.entry(value).or_insert(next);
        }
    }
    let id = |value| ids.get(value).copied().unwrap_or(UNREAD);
    let number = |revision: &Option<Revision>| revision.map(|revision| revision.0);
    let mut steps: Vec<Option<Step>> = operations
        .iter()
        .map(|operation| {
            let answer = operation.returned.as_ref().map(|returned| &returned.answer);
            let (value, condition) = match &operation.call {
                Call::Get => {
                    return match answer? {
                        Answer::Found { value, mod_revision } => {
                            Some(Step::Get { found: id(value), revision: number(mod_revision) })
                        }
                        _ => Some(Step::Get { found: NONE, revision: None }),
                    };
                }
                Call::Put { value, condition } => (id(value), *condition),
                Call::Delete { condition } => (NONE, *condition),
            };
            let outcome = match answer {
                None => Outcome::Unknown(None),
                Some(Answer::Written { mod_revision }) => Outcome::Took(number(mod_revision)),
                Some(Answer::Refused) => Outcome::Refused,
                Some(_) => Outcome::Missing,
            };
            Some(Step::Write { value, condition, outcome })
        })
        .collect();
    learn_revisions(&mut steps);
    steps
}

/// A put whose own answer does not tell its revision has that of the reads of its value, if no other put
/// wrote the same.
fn learn_revisions(steps: &mut [Option<Step>]) {
    let mut read: BTreeMap<ValueId, u64> = BTreeMap::new();
    let mut writers: BTreeMap<ValueId, u32> = BTreeMap::new();
    for step in steps.iter().flatten() {
        match step {
            Step::Get { found, revision: Some(revision) } => drop(read.insert(*found, *revision)),
            Step::Get { .. } => {}
            Step::Write { value, .. } => *writers.entry(*value).or_default() += 1,
        }
    }
    for step in steps.iter_mut().flatten() {
        let Step::Write { value, outcome: Outcome::Took(made) | Outcome::Unknown(made), .. } = step else {
            continue;
        };
        if made.is_none() && *value != NONE && writers[value] == 1 {
            *made = read.get(value).copied();
        }
    }
}
