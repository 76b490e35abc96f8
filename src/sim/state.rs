//! A node's applied state on disk: what a checkpoint made durable, and a prefix of what was on its way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::random::Random;
use crate::kv::Record;
use crate::storage::{Checkpoint, StateStore, StorageError};
use crate::types::Instant;

/// What is kept of a node's state when its process ends.
#[derive(Default)]
pub(super) struct StateDisk {
    records: Vec<Record>,
    current: Checkpoint,
    /// A checkpoint under way: its records are behind those of `current`.
    pending: Option<Pending>,
}

struct Pending {
    records_before: usize,
    before: Checkpoint,
    begun: Instant,
    done_at: Instant,
}

/// The state store of one process.
pub(super) struct SimState {
    disk: Arc<Mutex<StateDisk>>,
    /// The newest checkpoint, as the process sees it.
    checkpoint: Checkpoint,
}

/// Shared by a machine and the process on it.
#[derive(Clone, Default)]
pub(super) struct SharedState(Arc<Mutex<StateDisk>>);

impl SharedState {
    fn disk(&self) -> MutexGuard<'_, StateDisk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it for a process.
    #[must_use]
    pub(super) fn open(&self) -> SimState {
        let checkpoint = self.disk().current.clone();
        SimState { disk: Arc::clone(&self.0), checkpoint }
    }

    /// What the process is about to write is on its way from `begun` on, and durable only at `done_at`.
    pub(super) fn begin(&self, begun: Instant, done_at: Instant) {
        let mut disk = self.disk();
        let (records_before, before) = (disk.records.len(), disk.current.clone());
        disk.pending = Some(Pending { records_before, before, begun, done_at });
    }

    /// The process ended at `now`: a checkpoint that was not done may be there or not; one not begun is not.
    pub(super) fn crash(&self, now: Instant, random: &mut Random) {
        let mut disk = self.disk();
        let is_lost =
            |pending: &Pending| pending.begun > now || (pending.done_at > now && random.chance(500));
        let lost = disk.pending.take().filter(is_lost);
        if let Some(Pending { records_before, before, .. }) = lost {
            disk.records.truncate(records_before);
            disk.current = before;
        }
    }
}

impl StateStore for SimState {
    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |record: &Record| match record {
            Record::Row(row) => row.key.len() + row.value.as_ref().map_or(0, Bytes::len),
            Record::Outcome(outcome) => outcome.key.len(),
        };
        Ok(disk.records.iter().map(size).sum::<usize>() as u64)
    }

    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.records.iter().cloned().for_each(take);
        Ok(())
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).records.extend_from_slice(records);
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        self.checkpoint = checkpoint.clone();
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).current = checkpoint;
        Ok(())
    }
}
