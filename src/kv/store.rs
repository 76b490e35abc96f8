//! The state machine: what a command does to the state, and what a checkpoint writes of it.

use super::digest::{DIGEST_SCHEME, digest_request};
use super::view::deletion;
use super::{Answer, Command, Condition, KeyValue, Operation, Record, Remembered, Row, View};
use crate::types::{LogIndex, LogTime, Revision, StateDigest};

/// The applied state.
#[derive(Debug, Default)]
pub struct Store {
    now: View,
}

impl Store {
    /// Applies a command, which came with the entry at `at` and was made at `time`, and says what it did; pushes the
    /// changes, if there were any, to `records`. They share the command's bytes.
    ///
    /// A command with an idempotency key whose outcome is remembered changes nothing: it is answered as it was the
    /// first time or, if it asks for something else, with [`Answer::IdempotencyConflict`].
    ///
    /// # Panics
    /// Entries with idempotency keys whose indexes do not rise.
    pub fn apply(
        &mut self,
        at: LogIndex,
        time: LogTime,
        command: Command,
        records: &mut Vec<Record>,
    ) -> Answer {
        let Command { operation, idempotency_key } = command;
        let Some(idempotency_key) = idempotency_key else { return self.carry_out(operation, records) };
        let key = idempotency_key.as_bytes();
        // A leader that errs may stamp an entry with an earlier time than the one before it. Every replica has the same
        // entries, so that all correct it in the same way.
        let time = time.max(self.now.outcomes.last_time());
        let request_hash = digest_request(&operation);
        if let Some(earlier) = self.now.outcomes.get(key, time) {
            return if earlier.request_hash == request_hash {
                earlier.answer.clone()
            } else {
                Answer::IdempotencyConflict
            };
        }
        let answer = self.carry_out(operation, records);
        let outcome = Remembered { index: at, time, key: key.clone(), request_hash, answer: answer.clone() };
        self.now.outcomes.add(&outcome);
        records.push(Record::Outcome(outcome));
        answer
    }

    fn carry_out(&mut self, operation: Operation, records: &mut Vec<Record>) -> Answer {
        let (Operation::Put { key, condition, .. } | Operation::Delete { key, condition }) = &operation;
        let there = self.get(key).map(|there| (there.mod_revision, there.create_revision, there.version));
        let mod_revision = there.map(|(mod_revision, ..)| mod_revision);
        if !holds(*condition, mod_revision) {
            return Answer::PreconditionFailed { mod_revision };
        }
        let revision = self.revision().next();
        let (row, answer) = match operation {
            Operation::Put { key, value, .. } => {
                let (create_revision, version) = there
                    .map_or((revision, 1), |(_, create_revision, version)| (create_revision, version + 1));
                let row = Row { revision, key, value: Some(value), create_revision, version };
                (row, Answer::Put { revision, create_revision, version })
            }
            Operation::Delete { .. } if there.is_none() => {
                return Answer::KeyNotFound { revision: self.revision() };
            }
            Operation::Delete { key, .. } => (deletion(revision, key), Answer::Deleted { revision }),
        };
        self.now.change(&row, there.is_some());
        records.push(Record::Row(row));
        answer
    }

    /// Takes a record of a checkpoint or a snapshot: rows in rising order of revision, outcomes in rising order of
    /// index.
    ///
    /// # Panics
    /// Records that do not rise.
    #[allow(clippy::needless_pass_by_value)] // as `apply` takes its command: the state may keep it
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Row(row) => {
                let last = self.revision();
                assert!(row.revision > last, "row of revision {} after {last}", row.revision);
                let is_there = self.get(&row.key).is_some();
                self.now.change(&row, is_there);
            }
            Record::Outcome(outcome) => self.now.outcomes.add(&outcome),
        }
    }

    /// The state as it is now, unaffected by later writes. Costs the same for any number of keys.
    #[must_use]
    pub fn view(&self) -> View {
        self.now.clone()
    }

    /// What a key holds now.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.now.get(key)
    }

    /// One for each applied write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.now.revision()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.now.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// [`View::hash`], to be compared with other replicas'.
    #[must_use]
    pub fn digest(&self) -> StateDigest {
        StateDigest { scheme: DIGEST_SCHEME, value: self.now.hash() }
    }

    /// See [`View::hash`].
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.now.hash()
    }
}

/// Whether a key with this `mod_revision` (`None`: not there) meets the condition.
fn holds(condition: Condition, mod_revision: Option<Revision>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => mod_revision.is_none(),
        Condition::Present => mod_revision.is_some(),
        Condition::ModRevision(wanted) => mod_revision == Some(wanted),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
