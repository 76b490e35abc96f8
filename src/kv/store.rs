//! The state: what every key holds now, and the rows that a checkpoint writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::digest::{digest_key, mix};
use super::{Answer, Command, Condition};
use crate::types::Revision;

/// One key's present content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The value.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create_revision: Revision,
    /// Revision of the last write to it.
    pub mod_revision: Revision,
    /// Writes since it came into being, from 1.
    pub version: u64,
}

/// One change, as the checkpoint stores it: the history is the list of rows by revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` for a deletion.
    pub value: Option<Bytes>,
    /// Of the key (0 for a deletion).
    pub create_revision: Revision,
    /// Of the key (0 for a deletion).
    pub version: u64,
}

/// The applied state.
///
/// Invariants: every key's `1 <= create_revision <= mod_revision <= revision`, no two keys have the same
/// `mod_revision`, and `digest` is the sum of all keys' digests.
#[derive(Debug, Default)]
pub struct Store {
    keys: BTreeMap<Box<[u8]>, Slot>,
    revision: Revision,
    digest: u64,
}

/// A key's content and what it adds to the store's digest.
#[derive(Debug)]
struct Slot {
    content: KeyValue,
    digest: u64,
}

impl Store {
    /// Applies a command and says what it did; pushes the change, if there was one, to `rows`.
    ///
    /// Keys and values are copied into the store, so that it never keeps a whole log record or network
    /// message alive for the sake of one value in it; the row shares the command's bytes.
    pub fn apply(&mut self, command: Command, rows: &mut Vec<Row>) -> Answer {
        let (Command::Put { key, condition, .. } | Command::Delete { key, condition }) = &command;
        let mod_revision = self.get(key).map(|content| content.mod_revision);
        if !holds(*condition, mod_revision) {
            return Answer::PreconditionFailed { mod_revision };
        }
        match command {
            Command::Put { key, value, .. } => self.put(key, value, rows),
            Command::Delete { .. } if mod_revision.is_none() => {
                Answer::KeyNotFound { revision: self.revision }
            }
            Command::Delete { key, .. } => self.delete(key, rows),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes, rows: &mut Vec<Row>) -> Answer {
        let revision = self.revision.next();
        let (create_revision, version) =
            self.get(&key).map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        let row = Row { revision, key, value: Some(value), create_revision, version };
        self.change(&row);
        rows.push(row);
        Answer::Put { revision, create_revision, version }
    }

    fn delete(&mut self, key: Bytes, rows: &mut Vec<Row>) -> Answer {
        let revision = self.revision.next();
        let row = Row { revision, key, value: None, create_revision: Revision(0), version: 0 };
        self.change(&row);
        rows.push(row);
        Answer::Deleted { revision }
    }

    /// Takes a row of a checkpoint; rows come in rising order of revision.
    ///
    /// # Panics
    /// Rows that do not rise.
    #[allow(clippy::needless_pass_by_value)] // as `apply` takes its command: the state may keep it
    pub fn restore(&mut self, row: Row) {
        assert!(row.revision > self.revision, "row of revision {} after {}", row.revision, self.revision);
        self.change(&row);
    }

    /// What each row does to the state, whether it is new or restored.
    fn change(&mut self, row: &Row) {
        self.revision = row.revision;
        let Some(value) = &row.value else {
            if let Some(old) = self.keys.remove(&row.key[..]) {
                self.digest = self.digest.wrapping_sub(old.digest);
            }
            return;
        };
        let content = KeyValue {
            value: Bytes::copy_from_slice(value),
            create_revision: row.create_revision,
            mod_revision: row.revision,
            version: row.version,
        };
        let slot = Slot { digest: digest_key(&row.key, &content), content };
        self.digest = self.digest.wrapping_add(slot.digest);
        // An overwrite is the common case and needs no new copy of the key.
        if let Some(old) = self.keys.get_mut(&row.key[..]) {
            self.digest = self.digest.wrapping_sub(old.digest);
            *old = slot;
        } else {
            self.keys.insert(row.key[..].into(), slot);
        }
    }

    /// What the key holds.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key).map(|slot| &slot.content)
    }

    /// One for each applied write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A digest of the whole state; equal on replicas that applied the same log. Costs nothing to ask
    /// for: it is kept up to date by every change. Finds divergence, not malice.
    #[must_use]
    pub fn hash(&self) -> u64 {
        mix(self.digest ^ mix(self.revision.0))
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
