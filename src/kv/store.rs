//! The state: what every key holds now, and the rows that a checkpoint writes.

use bytes::Bytes;

use super::{Answer, Command};
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
#[derive(Debug, Default)]
pub struct Store {}

impl Store {
    /// Applies a command and says what it did; pushes the change, if there was one, to `rows`.
    pub fn apply(&mut self, _command: Command, _rows: &mut Vec<Row>) -> Answer {
        todo!()
    }

    /// Takes a row of a checkpoint; rows come in rising order of revision.
    pub fn restore(&mut self, _row: Row) {
        todo!()
    }

    /// What the key holds.
    #[must_use]
    pub fn get(&self, _key: &[u8]) -> Option<&KeyValue> {
        todo!()
    }

    /// One for each applied write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// A digest of the whole state; equal on replicas that applied the same log.
    #[must_use]
    pub fn hash(&self) -> u64 {
        todo!()
    }
}
