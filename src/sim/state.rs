//! A node's applied state on disk: what a checkpoint made durable, and a prefix of what was on its way.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use crate::kv::Record;
use crate::storage::state::{LiveRecords, records};
use crate::storage::{Checkpoint, Staging, StateStore, StorageError};
use crate::types::{Instant, LogPosition};

/// A state is rewritten when it holds this many records more than twice the live rows: soon, so that it happens often.
const REWRITE_FLOOR: usize = 16;

/// What is kept of a node's state when its process ends.
#[derive(Default)]
pub(super) struct StateDisk {
    records: Vec<Record>,
    current: Checkpoint,
    /// A checkpoint under way: its records are behind those of `current`.
    pending: Option<Pending>,
    /// Nothing more can be staged.
    is_full: bool,
}

/// What is there again if the checkpoint under way is lost.
struct Pending {
    records: Before,
    checkpoint: Checkpoint,
    begun: Instant,
    done_at: Instant,
}

enum Before {
    /// The first ones of the records that are there now.
    First(usize),
    /// Those of another generation.
    Generation(Vec<Record>),
}

/// The state store of one process.
pub(super) struct SimState {
    disk: Arc<Mutex<StateDisk>>,
    /// The newest checkpoint, as the process sees it.
    checkpoint: Checkpoint,
    /// The live records of a rewrite that was begun, and how many records were there then.
    rewrite: Option<(LiveRecords, usize)>,
}

/// A generation next to the current one; a crash leaves nothing of it.
pub(super) struct SimStaging {
    disk: Arc<Mutex<StateDisk>>,
    records: Vec<Record>,
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
        SimState { disk: Arc::clone(&self.0), checkpoint, rewrite: None }
    }

    /// Whether there is room for nothing more.
    pub(super) fn set_full(&self, is_full: bool) {
        self.disk().is_full = is_full;
    }

    /// What the process is about to write is on its way from `begun` on, and durable only at `done_at`.
    pub(super) fn begin(&self, begun: Instant, done_at: Instant) {
        let mut disk = self.disk();
        let (records, checkpoint) = (Before::First(disk.records.len()), disk.current.clone());
        disk.pending = Some(Pending { records, checkpoint, begun, done_at });
    }

    /// The process ended at `now`: a checkpoint that was not done may be there or not; one not begun is not.
    pub(super) fn crash(&self, now: Instant, random: &mut Random) {
        let mut disk = self.disk();
        let is_lost =
            |pending: &Pending| pending.begun > now || (pending.done_at > now && random.chance(500));
        let lost = disk.pending.take().filter(is_lost);
        if let Some(Pending { records, checkpoint, .. }) = lost {
            match records {
                Before::First(count) => disk.records.truncate(count),
                Before::Generation(records) => disk.records = records,
            }
            disk.current = checkpoint;
        }
    }
}

impl StateDisk {
    /// Another generation takes the place of the current one.
    fn switch(&mut self, records: Vec<Record>) {
        let old = mem::replace(&mut self.records, records);
        if let Some(pending) = &mut self.pending
            && let Before::First(count) = pending.records
        {
            pending.records = Before::Generation(old[..count].to_vec());
        }
    }
}

impl SimState {
    fn disk(&self) -> MutexGuard<'_, StateDisk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn covers(&self, position: LogPosition) -> bool {
        position.index <= self.checkpoint.applied.index
    }
}

impl StateStore for SimState {
    type Staging = SimStaging;

    fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.disk().records.iter().map(records::bytes_max).sum::<usize>() as u64)
    }

    fn restore(&self, take: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        self.disk().records.iter().cloned().for_each(take);
        Ok(())
    }

    fn make_room(&mut self, _: &[Record]) -> Result<bool, StorageError> {
        Ok(!self.disk().is_full)
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let Checkpoint { revision, applied, .. } = self.checkpoint;
        let is_late = |record: &&Record| match record {
            Record::Row(row) => row.revision <= revision,
            Record::Outcome(outcome) => outcome.index <= applied.index,
        };
        let records = records.iter().filter(|record| !is_late(record)).cloned();
        self.disk().records.extend(records);
        Ok(())
    }

    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), StorageError> {
        if !self.covers(checkpoint.applied) {
            self.disk().current = checkpoint.clone();
            self.checkpoint = checkpoint;
        }
        Ok(())
    }

    fn stage(&self) -> Result<SimStaging, StorageError> {
        Ok(SimStaging { disk: Arc::clone(&self.disk), records: Vec::new() })
    }

    /// Durable at once, with any checkpoint that was under way: nothing may be lost that an acknowledgement depends on.
    fn install(&mut self, staging: SimStaging, checkpoint: Checkpoint) -> Result<(), StorageError> {
        assert!(!self.covers(checkpoint.applied), "{checkpoint:?} in place of {:?}", self.checkpoint);
        let checkpoint = Checkpoint { installed: true, ..checkpoint };
        self.rewrite = None;
        let mut disk = self.disk();
        disk.pending = None;
        disk.records = staging.records;
        disk.current = checkpoint.clone();
        drop(disk);
        self.checkpoint = checkpoint;
        Ok(())
    }

    fn needs_rewrite(&self, live_rows: u64) -> Result<bool, StorageError> {
        let live_rows = usize::try_from(live_rows).unwrap_or(usize::MAX);
        Ok(self.disk().records.len() > live_rows.saturating_mul(2).saturating_add(REWRITE_FLOOR))
    }

    fn begin_rewrite(&mut self, at: LogPosition, live: LiveRecords) -> Result<(), StorageError> {
        if at == self.checkpoint.applied {
            let count = self.disk().records.len();
            self.rewrite = Some((live, count));
        }
        Ok(())
    }

    fn continue_rewrite(&mut self) -> Result<bool, StorageError> {
        if let Some((live, since)) = self.rewrite.take() {
            let mut disk = self.disk();
            let records = live.chain(disk.records[since..].to_vec()).collect();
            disk.switch(records);
        }
        Ok(false)
    }
}

impl Staging for SimStaging {
    fn disk_bytes_max(record_bytes: u64) -> u64 {
        record_bytes
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.records.extend_from_slice(records);
        self.seal()
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        let is_full = self.disk.lock().unwrap_or_else(PoisonError::into_inner).is_full;
        let full = || StorageError::disk("write", Path::new("staging"))(io::ErrorKind::StorageFull.into());
        if is_full { Err(full()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::Row;
    use crate::types::{LogIndex, Revision, Term};

    fn row(revision: u64) -> Record {
        let (key, value) = (Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")));
        let (revision, version) = (Revision(revision), revision);
        Record::Row(Row { revision, key, value, create_revision: Revision(1), version })
    }

    fn checkpoint(index: u64) -> Checkpoint {
        let applied = LogPosition { index: LogIndex(index), term: Term(1) };
        Checkpoint { applied, revision: Revision(index), ..Checkpoint::default() }
    }

    fn found(disk: &SharedState) -> (u64, usize) {
        let state = disk.open();
        let mut records = 0;
        state.restore(&mut |_| records += 1).unwrap();
        (state.checkpoint().applied.index.0, records)
    }

    /// A checkpoint of entry 40, behind which a rewrite that began at entry 30 ends.
    fn rewritten() -> SharedState {
        let disk = SharedState::default();
        let mut state = disk.open();
        disk.begin(Instant(5), Instant(10));
        state.write(&(1..=30).map(row).collect::<Vec<_>>()).unwrap();
        state.commit(checkpoint(30)).unwrap();
        assert!(state.needs_rewrite(1).unwrap());
        state.begin_rewrite(checkpoint(30).applied, Box::new([row(30)].into_iter())).unwrap();
        disk.begin(Instant(15), Instant(20));
        state.write(&(31..=40).map(row).collect::<Vec<_>>()).unwrap();
        state.commit(checkpoint(40)).unwrap();
        while state.continue_rewrite().unwrap() {}
        disk
    }

    #[test]
    fn a_rewrite_is_lost_with_the_checkpoint_under_way_or_not_at_all() {
        let mut random = Random::new(1, 1);
        let after_a_crash = |at, random: &mut Random| {
            let disk = rewritten();
            disk.crash(Instant(at), random);
            found(&disk)
        };
        assert_eq!(after_a_crash(20, &mut random), (40, 11));
        let outcomes: Vec<_> = (0..50).map(|_| after_a_crash(19, &mut random)).collect();
        assert!(outcomes.contains(&(40, 11)) && outcomes.contains(&(30, 30)), "{outcomes:?}");
        assert!(outcomes.iter().all(|found| [(40, 11), (30, 30)].contains(found)), "{outcomes:?}");
    }

    #[test]
    fn what_was_installed_outlives_a_crash_and_what_was_staged_does_not() {
        let disk = rewritten();
        let mut state = disk.open();
        let mut staging = state.stage().unwrap();
        staging.write(&[row(50)]).unwrap();
        drop(staging);
        let mut staging = state.stage().unwrap();
        staging.write(&[row(50), row(60)]).unwrap();
        staging.seal().unwrap();
        disk.begin(Instant(0), Instant(30));
        state.install(staging, checkpoint(60)).unwrap();
        state.write(&[row(41)]).unwrap();
        state.commit(checkpoint(41)).unwrap();
        assert_eq!(state.checkpoint(), &Checkpoint { installed: true, ..checkpoint(60) });
        disk.crash(Instant(0), &mut Random::new(1, 1));
        assert_eq!(found(&disk), (60, 2));
    }
}
