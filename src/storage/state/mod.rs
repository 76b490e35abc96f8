//! The applied state on disk: written behind the log by checkpoints, read back at start.
//!
//! The log is what counts: a checkpoint only spares the start from replaying it all. So a state that lost its
//! newest checkpoint is whole, as long as the log still holds the entries above the older one; a state that is
//! anything else than some checkpoint is damage. Every stored value has a checksum of its own, and each
//! checkpoint records how much there is and a digest of it, since sled itself drops what it cannot read.

mod blocks;
mod database;
mod sled_state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(super) use database::Database;
pub use sled_state::SledState;

use super::StorageError;
use crate::kv::Record;
use crate::raft::Configuration;
use crate::types::{LogIndex, LogPosition, Revision};

/// What a checkpoint covers. The default is the empty state, before any entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry whose effect it holds.
    pub applied: LogPosition,
    /// The store's revision after that entry.
    pub revision: Revision,
    /// The newest configuration at or below that entry.
    pub configuration: Arc<Configuration>,
    /// Index of that configuration's entry; 0 if there is none.
    pub configuration_index: LogIndex,
    /// It was received as a snapshot, so the log need not hold its entries. A later one of this node's own is not.
    pub installed: bool,
}

/// Holds the state as of a checkpoint. The simulator has its own.
pub trait StateStore: Send {
    /// The newest checkpoint that is durable.
    fn checkpoint(&self) -> &Checkpoint;

    /// What the state takes on disk, in bytes.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn size_bytes(&self) -> Result<u64, StorageError>;

    /// Hands out all records of the newest checkpoint, rows in rising order of revision, and verifies them. What `take`
    /// was given counts only if this returns without an error.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if the records are not those that the checkpoint covers; [`StorageError::Disk`].
    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError>;

    /// Adds records, rows in rising order of revision, all above what was written before. Durable after
    /// [`StateStore::commit`]; what was not committed is gone after a restart.
    ///
    /// # Errors
    /// [`StorageError::Disk`] or [`StorageError::Damaged`], after which the process must end.
    fn write(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Makes the records written so far, and what they are a checkpoint of, durable: one flush.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError>;
}

/// A checkpoint as recorded under `current` in the tree `meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    /// The rows are those of the tree `state-<generation>`.
    generation: u64,
    applied: LogPosition,
    revision: Revision,
    configuration: Configuration,
    configuration_index: LogIndex,
    #[serde(default)]
    installed: bool,
    contents: Contents,
}

/// How much a checkpoint holds, and of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    rows: u64,
    pieces: u64,
    /// Sum of the pieces' digests: pieces can be taken out again when history is compacted.
    digest: u64,
}
