//! The state store on sled.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::database::{Database, SEGMENT_BYTES};
use super::generation::{self, Generation};
use super::rewrite::Rewrite;
use super::{Checkpoint, Contents, Current, LiveRecords, Recorded, Staging, StateStore, records};
use crate::kv::Record;
use crate::storage::StorageError;
use crate::storage::space::free_bytes;
use crate::types::LogPosition;

const CURRENT: &str = "current";
/// A generation is not rewritten before it has grown by this much, in bytes of records.
const REWRITE_FLOOR_BYTES: u64 = 64 << 20;
/// What must stay free during a rewrite.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// A staged generation is flushed each time this much was written to it, so that no flush is long.
const FLUSH_BYTES: u64 = 4 << 20;

/// What a staged generation takes in addition to its records: two of sled's segments.
const STAGING_FIXED_BYTES: u64 = 2 * SEGMENT_BYTES as u64;
/// What a checkpoint takes in addition to its records: sled fills its current segment before it begins the next one.
const CHECKPOINT_FIXED_BYTES: u64 = SEGMENT_BYTES as u64;

/// The state store on sled.
pub struct SledState {
    /// The directory that holds the generations.
    data: PathBuf,
    meta: Database,
    generation: Generation,
    checkpoint: Checkpoint,
    /// Of what the newest checkpoint holds.
    committed: Contents,
    /// Bytes of records in the generation when it was made current: all live then.
    live_bytes: u64,
    rewrite: Option<Rewrite>,
    pub(super) rewrite_floor_bytes: u64,
    /// Number of the next generation.
    next: AtomicU64,
}

/// A staged generation of [`SledState`]. Dropping it removes it.
pub struct SledStaging {
    /// `None` once it is on its way to be current.
    generation: Option<Generation>,
    flushed_bytes: u64,
}

impl SledState {
    /// Makes the empty state of a new data directory. Durable once `data` is.
    pub(in crate::storage) fn create(meta: &Database, data: &Path) -> Result<(), StorageError> {
        let mut generation = Generation::create(data, 1)?;
        generation.seal()?;
        meta.put(CURRENT, &Current { generation: generation.number, since: Recorded::default() })?;
        meta.flush()
    }

    /// Reads the newest checkpoint and removes what was written above it.
    pub(in crate::storage) fn open(meta: Database, data: &Path) -> Result<Self, StorageError> {
        let current = Self::current(&meta)?;
        let live_bytes = current.since.contents.bytes;
        let (generation, newest) = Generation::open(data, current.generation, &current.since)?;
        let last = generation::list(data)?.last().copied().unwrap_or_default();
        Ok(Self {
            data: data.to_owned(),
            meta,
            generation,
            checkpoint: newest.checkpoint(),
            committed: newest.contents,
            live_bytes,
            rewrite: None,
            rewrite_floor_bytes: REWRITE_FLOOR_BYTES,
            next: AtomicU64::new(last + 1),
        })
    }

    fn current(meta: &Database) -> Result<Current, StorageError> {
        let missing = || StorageError::damaged(meta.path(), "the record of the current state is missing");
        meta.get(CURRENT)?.ok_or_else(missing)
    }

    /// The number of the generation that counts.
    pub(in crate::storage) fn current_generation(meta: &Database) -> Result<u64, StorageError> {
        Self::current(meta).map(|current| current.generation)
    }

    /// Removes generations that a crash left unfinished, or not yet removed. Called once log and state are known to
    /// fit together, so that nothing is removed of a directory that is damaged.
    pub(in crate::storage) fn remove_others(&self) -> Result<(), StorageError> {
        generation::remove_others(&self.data, self.generation.number)
    }

    /// Makes `generation` current, with one durable record, and removes the old one.
    fn switch(&mut self, mut generation: Generation, checkpoint: Checkpoint) -> Result<(), StorageError> {
        generation.seal()?;
        let since = Recorded::new(&checkpoint, generation.written);
        generation.begin_behind(&since);
        self.committed = generation.written;
        self.live_bytes = generation.written.bytes;
        self.meta.put(CURRENT, &Current { generation: generation.number, since })?;
        self.meta.flush()?;
        self.checkpoint = checkpoint;
        std::mem::replace(&mut self.generation, generation).remove()
    }

    fn covers(&self, position: LogPosition) -> bool {
        position.index <= self.checkpoint.applied.index
    }
}

impl StateStore for SledState {
    type Staging = SledStaging;

    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.meta.size_bytes()? + self.generation.size_bytes()?)
    }

    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        let reader = self.generation.read(0, u64::MAX, take)?;
        let (last, checkpoint) = (reader.last, &self.checkpoint);
        if last.revision > checkpoint.revision || last.outcome > checkpoint.applied.index {
            return Err(self.generation.damaged("a record above the checkpoint"));
        }
        if reader.contents != self.committed {
            let what = format!(
                "{:?} instead of {:?} in the state of revision {}",
                reader.contents, self.committed, checkpoint.revision
            );
            return Err(self.generation.damaged(&what));
        }
        Ok(())
    }

    fn make_room(&mut self, records: &[Record]) -> Result<bool, StorageError> {
        let bytes = records.iter().map(|record| records::bytes_max(record) as u64).sum();
        self.generation.make_room(sled_bytes_max(bytes) + CHECKPOINT_FIXED_BYTES)
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let Checkpoint { revision, applied, .. } = self.checkpoint;
        for record in records {
            let is_late = match record {
                Record::Row(row) => row.revision <= revision,
                Record::Outcome(outcome) => outcome.index <= applied.index,
            };
            let in_order = is_late || self.generation.push(record)?;
            assert!(in_order, "{} after {:?}", place(record), self.generation.last);
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        let last = self.generation.last;
        if self.covers(checkpoint.applied) {
            assert!(last.revision <= self.checkpoint.revision, "{last:?} is beyond {checkpoint:?}");
            return Ok(());
        }
        assert!(last.revision <= checkpoint.revision, "{last:?} is beyond {checkpoint:?}");
        let recorded = self.generation.commit(Recorded::new(&checkpoint, self.committed))?;
        self.committed = recorded.contents;
        self.checkpoint = checkpoint;
        Ok(())
    }

    fn stage(&self) -> Result<SledStaging, StorageError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let generation = Generation::create(&self.data, number)?;
        Ok(SledStaging { generation: Some(generation), flushed_bytes: 0 })
    }

    fn install(&mut self, staging: SledStaging, checkpoint: Checkpoint) -> Result<(), StorageError> {
        let last = staging.generation().last;
        let is_covered = last.revision <= checkpoint.revision && last.outcome <= checkpoint.applied.index;
        if !is_covered || self.covers(checkpoint.applied) {
            let what = format!("{last:?} as {checkpoint:?} in place of {:?}", self.checkpoint);
            return Err(StorageError::Disorder { path: staging.generation().path().to_owned(), what });
        }
        self.rewrite = None;
        self.switch(staging.into_generation(), Checkpoint { installed: true, ..checkpoint })
    }

    fn needs_rewrite(&self, live_rows: u64) -> Result<bool, StorageError> {
        let Contents { rows, outcomes, bytes, .. } = self.committed;
        let has_history = rows > live_rows || outcomes > 0;
        if self.rewrite.is_some() || !has_history || bytes <= 2 * self.live_bytes + self.rewrite_floor_bytes {
            return Ok(false);
        }
        // At most as much again is written, and sled takes up to twice that.
        Ok(free_bytes(&self.data)? > 2 * bytes + FREE_BYTES_MIN)
    }

    fn begin_rewrite(&mut self, at: LogPosition, live: LiveRecords) -> Result<(), StorageError> {
        if self.rewrite.is_none() && at == self.checkpoint.applied {
            let staging = self.stage().map(Some).or_else(unless_full)?;
            self.rewrite = staging.map(|staging| Rewrite::new(staging, live, self.committed.blocks));
        }
        Ok(())
    }

    fn continue_rewrite(&mut self) -> Result<bool, StorageError> {
        let Some(mut rewrite) = self.rewrite.take() else { return Ok(false) };
        let written = rewrite.write_piece(&self.generation, self.committed.blocks);
        match written.map(Some).or_else(unless_full)? {
            Some(true) => self.rewrite = Some(rewrite),
            Some(false) => self.switch(rewrite.staging.into_generation(), self.checkpoint.clone())?,
            None => {}
        }
        Ok(self.rewrite.is_some())
    }
}

/// What sled's log takes for so many bytes of records, whole segments aside. Measured, with values of 100 bytes to 1 MB:
/// up to 2.3 times as much.
fn sled_bytes_max(record_bytes: u64) -> u64 {
    record_bytes.saturating_mul(5) / 2
}

/// A rewrite that fills the disk is cancelled, and its space is free again: nothing depends on it.
fn unless_full<T>(error: StorageError) -> Result<Option<T>, StorageError> {
    if error.is_full() { Ok(None) } else { Err(error) }
}

/// What to call a record in a message.
fn place(record: &Record) -> String {
    match record {
        Record::Row(row) => format!("row of revision {}", row.revision),
        Record::Outcome(outcome) => format!("outcome of entry {}", outcome.index),
    }
}

impl SledStaging {
    fn generation(&self) -> &Generation {
        self.generation.as_ref().expect("it is there until it is taken out")
    }

    fn generation_mut(&mut self) -> &mut Generation {
        self.generation.as_mut().expect("it is there until it is taken out")
    }

    /// From here on it stays, whatever happens: a record that makes it current may be on the disk.
    fn into_generation(mut self) -> Generation {
        self.generation.take().expect("it is there until it is taken out")
    }

    /// Bytes of records written so far, whole blocks only.
    pub(super) fn bytes(&self) -> u64 {
        self.generation().written.bytes
    }

    /// Makes what was written durable, without the directory.
    pub(super) fn flush(&mut self) -> Result<(), StorageError> {
        self.flushed_bytes = self.bytes();
        self.generation_mut().flush()
    }
}

impl Staging for SledStaging {
    fn disk_bytes_max(record_bytes: u64) -> u64 {
        sled_bytes_max(record_bytes).saturating_add(STAGING_FIXED_BYTES)
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        for record in records {
            let before = self.generation().last;
            if !self.generation_mut().push(record)? {
                let what = format!("{} after {before:?}", place(record));
                return Err(StorageError::Disorder { path: self.generation().path().to_owned(), what });
            }
        }
        if self.bytes() - self.flushed_bytes >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        self.generation_mut().seal()
    }
}

impl Drop for SledStaging {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = self.generation.take().map(Generation::remove);
    }
}
