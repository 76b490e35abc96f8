//! Rewriting the state: the live records, then what was committed meanwhile.

use super::generation::Generation;
use super::sled_state::SledStaging;
use super::{LiveRecords, Staging};
use crate::storage::StorageError;

/// What one piece writes: some 20 ms, which is how long a checkpoint may be held up.
const PIECE_BYTES: u64 = 1 << 20;
/// Records taken from the live ones at once.
const RECORDS: usize = 512;

/// A rewrite under way.
pub(super) struct Rewrite {
    pub(super) staging: SledStaging,
    /// `None` once all are written.
    live: Option<LiveRecords>,
    /// The first block of the current generation that holds what was committed since.
    next_block: u64,
}

impl Rewrite {
    pub(super) fn new(staging: SledStaging, live: LiveRecords, next_block: u64) -> Self {
        Self { staging, live: Some(live), next_block }
    }

    /// Writes the next piece. False if the new generation durably holds all that `current` has committed, which are the
    /// blocks below `end`.
    pub(super) fn write_piece(&mut self, current: &Generation, end: u64) -> Result<bool, StorageError> {
        let before = self.staging.bytes();
        while let Some(live) = &mut self.live {
            let records: Vec<_> = live.take(RECORDS).collect();
            if records.is_empty() {
                self.live = None;
            }
            self.staging.write(&records)?;
            if self.staging.bytes() - before >= PIECE_BYTES {
                self.staging.flush()?;
                return Ok(true);
            }
        }
        if self.next_block < end {
            let mut records = Vec::new();
            let reader = current.read(self.next_block, PIECE_BYTES, &mut |record| records.push(record))?;
            self.next_block = reader.contents.blocks;
            self.staging.write(&records)?;
            self.staging.flush()?;
        }
        let has_more = self.next_block < end;
        if !has_more {
            self.staging.seal()?;
        }
        Ok(has_more)
    }
}
