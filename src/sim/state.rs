//! A node's applied state on disk: what a checkpoint made durable, and a prefix of what was on its way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::random::Random;
use crate::kv::Row;
use crate::storage::{Checkpoint, StateStore, StorageError};
use crate::types::Instant;

/// What is kept of a node's state when its process ends.
#[derive(Default)]
pub(super) struct StateDisk {
    rows: Vec<Row>,
    current: Checkpoint,
    /// A checkpoint under way: its rows are behind those of `current`.
    pending: Option<Pending>,
}

struct Pending {
    rows_before: usize,
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
        let (rows_before, before) = (disk.rows.len(), disk.current.clone());
        disk.pending = Some(Pending { rows_before, before, begun, done_at });
    }

    /// The process ended at `now`: a checkpoint that was not done may be there or not; one not begun is not.
    pub(super) fn crash(&self, now: Instant, random: &mut Random) {
        let mut disk = self.disk();
        let is_lost =
            |pending: &Pending| pending.begun > now || (pending.done_at > now && random.chance(500));
        let lost = disk.pending.take().filter(is_lost);
        if let Some(Pending { rows_before, before, .. }) = lost {
            disk.rows.truncate(rows_before);
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
        let size = |row: &Row| row.key.len() + row.value.as_ref().map_or(0, Bytes::len);
        Ok(disk.rows.iter().map(size).sum::<usize>() as u64)
    }

    fn restore(&self, take: &mut dyn FnMut(Row)) -> Result<(), StorageError> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.rows.iter().cloned().for_each(take);
        Ok(())
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), StorageError> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).rows.extend_from_slice(rows);
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        self.checkpoint = checkpoint.clone();
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).current = checkpoint;
        Ok(())
    }
}
