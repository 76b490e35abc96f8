//! The state store on sled: trees `meta` and `state-<generation>`.

use std::sync::Arc;

use super::blocks::{Block, Reader, first_key_above};
use super::database::{Database, guarded};
use super::{Checkpoint, Contents, Current, StateStore};
use crate::kv::Record;
use crate::storage::StorageError;
use crate::types::Revision;

const CURRENT: &str = "current";

/// The state store on sled.
pub struct SledState {
    database: Database,
    tree: sled::Tree,
    checkpoint: Checkpoint,
    generation: u64,
    /// Of what the newest checkpoint holds.
    committed: Contents,
    /// Of what was written, including what is not committed.
    written: Contents,
    last: Revision,
    block: Block,
}

impl SledState {
    /// Reads the newest checkpoint and removes what was written above it.
    pub(in crate::storage) fn open(database: Database) -> Result<Self, StorageError> {
        let current: Current = database.get(CURRENT)?.unwrap_or_default();
        let tree = database.tree(&format!("state-{}", current.generation))?;
        let state = Self {
            database,
            tree,
            checkpoint: Checkpoint {
                applied: current.applied,
                revision: current.revision,
                configuration: Arc::new(current.configuration),
                configuration_index: current.configuration_index,
                installed: current.installed,
            },
            generation: current.generation,
            committed: current.contents,
            written: current.contents,
            last: current.revision,
            block: Block::default(),
        };
        state.remove_uncommitted()?;
        Ok(state)
    }

    /// Rows above the newest checkpoint are of one that a crash cut short; the log has their entries.
    fn remove_uncommitted(&self) -> Result<(), StorageError> {
        let mut is_changed = false;
        for key in self.tree.range(first_key_above(self.checkpoint.revision)..).keys() {
            let path = self.database.path();
            guarded(path, || key.and_then(|key| self.tree.remove(key)))?;
            is_changed = true;
        }
        if is_changed { self.database.flush() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), StorageError> {
        for piece in self.block.take_pieces(&mut self.written) {
            guarded(self.database.path(), || self.tree.insert(piece.key, piece.value))?;
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> StorageError {
        let what = format!("{what} in the state of revision {}", self.checkpoint.revision);
        StorageError::damaged(self.database.path(), what)
    }
}

impl StateStore for SledState {
    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        self.database.size_bytes()
    }

    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        let mut reader = Reader::default();
        let mut pieces = self.tree.range::<&[u8], _>(..);
        while let Some((key, value)) = guarded(self.database.path(), || pieces.next().transpose())? {
            reader
                .piece(&key, &value, &mut |row| take(Record::Row(row)))
                .map_err(|what| self.damaged(what))?;
            if reader.is_at_end() && reader.last() > self.checkpoint.revision {
                return Err(self.damaged("a row above the checkpoint"));
            }
        }
        if !reader.is_at_end() || reader.contents != self.committed {
            let what = format!("{:?} instead of {:?}", reader.contents, self.committed);
            return Err(self.damaged(&what));
        }
        Ok(())
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        for record in records {
            // The one place where outcomes do not reach the disk.
            let Record::Row(row) = record else { continue };
            assert!(row.revision > self.last, "row {} after {}", row.revision, self.last);
            if self.block.is_full_for(row) {
                self.write_block()?;
            }
            self.block.push(row);
            self.last = row.revision;
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        assert!(self.last <= checkpoint.revision, "row {} in {checkpoint:?}", self.last);
        self.write_block()?;
        let current = Current {
            generation: self.generation,
            applied: checkpoint.applied,
            revision: checkpoint.revision,
            configuration: (*checkpoint.configuration).clone(),
            configuration_index: checkpoint.configuration_index,
            installed: checkpoint.installed,
            contents: self.written,
        };
        self.database.put(CURRENT, &current)?;
        self.database.flush()?;
        self.committed = self.written;
        self.checkpoint = checkpoint;
        Ok(())
    }
}
