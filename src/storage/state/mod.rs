//! The applied state on disk: written behind the log by checkpoints, read back at start.
//!
//! The log is what counts: a checkpoint only spares the start from replaying it all. So a state that lost its
//! newest checkpoint is whole, as long as the log still holds the entries above the older one; a state that is
//! anything else than some checkpoint is damage. Every stored value has a checksum of its own, and each
//! checkpoint records how much there is and a digest of it, since sled itself drops what it cannot read.
//!
//! # Generations
//! ```text
//! <data>/sled/              `current`: which generation counts, and the checkpoint it was made current with
//! <data>/state-<number>/    blocks of records, and the newest checkpoint since
//! ```
//! A generation grows by what was applied: rows, the history of the keys, and outcomes that are remembered for
//! idempotency keys, in the order of the log. Another one takes its place when a snapshot was received, or when it
//! holds much more than what is live: the new one is written next to it, flushed, and made current by one record of
//! `current`; then the old one is removed. Whenever a crash comes, exactly one is current, and the others are removed
//! at the next start, as soon as log and state are known to fit together. Outcomes that no longer count are not taken
//! out one by one: the store drops them again as it is restored, and rewriting leaves them out.

mod blocks;
mod database;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod generation;
pub mod records;
mod rewrite;
mod sled_state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(super) use database::Database;
pub(super) use generation::{list as generations, path as generation_path};
pub use sled_state::{SledStaging, SledState};

use super::StorageError;
use crate::kv::Record;
use crate::raft::Configuration;
use crate::types::{LogIndex, LogPosition, LogTime, Revision};

/// What a checkpoint covers. The default is the empty state, before any entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry whose effect it holds.
    pub applied: LogPosition,
    /// The log's clock at that entry.
    pub time: LogTime,
    /// The store's revision after that entry.
    pub revision: Revision,
    /// The newest configuration at or below that entry.
    pub configuration: Arc<Configuration>,
    /// Index of that configuration's entry; 0 if there is none.
    pub configuration_index: LogIndex,
    /// It came by [`StateStore::install`], and nothing was committed since. If the log does not hold the entry then, it
    /// did not lose its end: a crash came before the log was restarted behind the entry, which the start completes.
    pub installed: bool,
}

/// What a rewritten state consists of, see [`StateStore::begin_rewrite`].
pub type LiveRecords = Box<dyn Iterator<Item = Record> + Send>;

/// Holds the state as of a checkpoint. The simulator has its own.
pub trait StateStore: Send {
    /// A generation that is written next to the current one.
    type Staging: Staging;

    /// The newest checkpoint that is durable.
    fn checkpoint(&self) -> &Checkpoint;

    /// What the state takes on disk, in bytes.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn size_bytes(&self) -> Result<u64, StorageError>;

    /// Hands out all records of the newest checkpoint, rows in rising order of revision and outcomes in rising order
    /// of index, and verifies them. What `take` was given counts only if this returns without an error.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if the records are not those that the checkpoint covers; [`StorageError::Disk`].
    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError>;

    /// Takes the disk space of a checkpoint with these records before it is begun. False if there is not so much: the
    /// checkpoint must wait then, which it can, since the log has its entries.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    fn make_room(&mut self, records: &[Record]) -> Result<bool, StorageError>;

    /// Adds records in the order of the log. Those that the newest checkpoint covers are ignored: they are late changes
    /// of a generation that another one took the place of. Durable after [`StateStore::commit`], which must follow
    /// before anything else is done; what was not committed is gone after a restart.
    ///
    /// # Errors
    /// [`StorageError::Disk`] or [`StorageError::Damaged`], after which the process must end.
    fn write(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Makes the records written so far, and what they are a checkpoint of, durable: one flush. Ignored if the newest
    /// checkpoint covers as much.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError>;

    /// Begins a generation next to the current one. If it is dropped and not installed, nothing is left of it.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn stage(&self) -> Result<Self::Staging, StorageError>;

    /// Makes a staged generation current, as the checkpoint `checkpoint`, which covers more than the present one: all of
    /// it or, if a crash comes in between, nothing. The old generation is removed; a rewrite under way is cancelled.
    ///
    /// # Errors
    /// As [`StateStore::write`]; [`StorageError::Disorder`] if the checkpoint does not cover what was staged, or less
    /// than the present one: then nothing has changed.
    fn install(&mut self, staging: Self::Staging, checkpoint: Checkpoint) -> Result<(), StorageError>;

    /// Whether so much of what is stored is history that the live state, of which `live_rows` are rows, should be
    /// written again.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn needs_rewrite(&self, live_rows: u64) -> Result<bool, StorageError>;

    /// Begins to rewrite the state, which is `live` as of the entry `at`. Ignored if that is not what the newest
    /// checkpoint covers.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn begin_rewrite(&mut self, at: LogPosition, live: LiveRecords) -> Result<(), StorageError>;

    /// Does the next piece of a rewrite, of some milliseconds, or the last one: what was committed since it began, and
    /// the switch to the new generation. Returns whether there is more to do.
    ///
    /// # Errors
    /// As [`StateStore::write`].
    fn continue_rewrite(&mut self) -> Result<bool, StorageError>;
}

/// A generation that is not current.
pub trait Staging: Send {
    /// The disk space that one with so many bytes of records takes, at most.
    fn disk_bytes_max(record_bytes: u64) -> u64;

    /// Adds records, rows in rising order of revision and outcomes in rising order of index. What memory they take does
    /// not grow with their number.
    ///
    /// # Errors
    /// [`StorageError::Disorder`] if they do not rise; [`StorageError::Disk`], [`StorageError::Damaged`].
    fn write(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`StorageError::Disk`], [`StorageError::Damaged`].
    fn seal(&mut self) -> Result<(), StorageError>;
}

/// The item `current` of the node's tree `meta`: which generation counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    generation: u64,
    /// What it was made current with; it may have recorded newer ones since.
    since: Recorded,
}

/// A checkpoint as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    applied: LogPosition,
    time: LogTime,
    revision: Revision,
    configuration: Configuration,
    configuration_index: LogIndex,
    installed: bool,
    contents: Contents,
}

impl Recorded {
    fn new(checkpoint: &Checkpoint, contents: Contents) -> Self {
        Self {
            applied: checkpoint.applied,
            time: checkpoint.time,
            revision: checkpoint.revision,
            configuration: (*checkpoint.configuration).clone(),
            configuration_index: checkpoint.configuration_index,
            installed: checkpoint.installed,
            contents,
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            applied: self.applied,
            time: self.time,
            revision: self.revision,
            configuration: Arc::new(self.configuration.clone()),
            configuration_index: self.configuration_index,
            installed: self.installed,
        }
    }
}

/// How much a checkpoint holds, and of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    rows: u64,
    outcomes: u64,
    blocks: u64,
    /// Of the records as they are written.
    bytes: u64,
    /// Sum of the pieces' digests.
    digest: u64,
}
