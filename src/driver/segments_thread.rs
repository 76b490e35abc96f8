//! The segments' thread: makes room for the log ahead of need, removes what it no longer needs, and tells the core when there is little left.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::core_thread::Done;
use super::shutdown::Failure;
use crate::metrics::IntGauge;
use crate::raft::Event;
use crate::storage::StorageError;
use crate::storage::files::Files;
use crate::storage::space::{Space, SpaceChange};
use crate::storage::wal::{Preparation, Removal};

/// Time between two looks at free space.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the log leaves to this thread.
pub(super) enum SegmentJob<F> {
    /// The next segment is needed soon.
    Prepare(Preparation<F>),
    /// Segments are not needed any more.
    Remove(Removal<F>),
}

/// Asks the file system for the bytes that are free to the data directory.
pub type FreeBytes = Arc<dyn Fn() -> Result<u64, StorageError> + Send + Sync>;

/// Watches free space.
pub(super) struct Watch {
    pub(super) space: Space,
    pub(super) free_bytes: FreeBytes,
    pub(super) gauge: IntGauge,
    /// Jobs that wait for this thread.
    pub(super) waiting: IntGauge,
    /// The last look failed, and that was logged.
    pub(super) is_blind: bool,
}

impl Watch {
    /// What the core must be told, if anything.
    fn look(&mut self) -> Option<Event> {
        let free = match (self.free_bytes)() {
            Ok(free) => free,
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!(%error, "free space cannot be read; the node continues as if it had not changed");
                }
                return None;
            }
        };
        self.is_blind = false;
        self.gauge.set(i64::try_from(free).unwrap_or(i64::MAX));
        match self.space.observe(free)? {
            SpaceChange::Low => {
                tracing::warn!(
                    free_bytes = free,
                    "disk space is below the reserve: no more entries are taken"
                );
                Some(Event::SpaceLow)
            }
            SpaceChange::Freed => {
                tracing::info!(free_bytes = free, "there is disk space again");
                Some(Event::SpaceFreed)
            }
        }
    }
}

/// Writes the zeros of coming segments and removes old ones, off the write path, and looks at free space meanwhile. Runs until the log's
/// thread or the core's has ended.
pub(super) fn run<F: Files>(
    jobs: &Receiver<SegmentJob<F>>,
    mut watch: Watch,
    done: &Sender<Done>,
) -> Result<(), Failure> {
    loop {
        if let Some(event) = watch.look()
            && done.send(Done::Event(event)).is_err()
        {
            return Ok(());
        }
        let job = jobs.recv_timeout(LOOK_INTERVAL);
        watch.waiting.set(i64::try_from(jobs.len()).unwrap_or(i64::MAX));
        match job {
            Ok(SegmentJob::Prepare(preparation)) => prepare(&preparation)?,
            Ok(SegmentJob::Remove(removal)) => removal.run()?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn prepare<F: Files>(preparation: &Preparation<F>) -> Result<(), StorageError> {
    match preparation.run() {
        // Nothing is lost yet: the log tries itself when it needs the segment, and may find room by then.
        Err(error) if error.is_full() => {
            tracing::warn!("the disk is too full for the log's next segment");
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::sync::Mutex;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::metrics::Metrics;
    use crate::storage::files::OsFiles;

    #[test]
    fn the_core_is_told_of_changes_only() {
        let (jobs_in, jobs) = bounded::<SegmentJob<OsFiles>>(1);
        let (done_in, done) = unbounded();
        let found = Mutex::new(VecDeque::from([Some(99), None, Some(124), Some(10), Some(125), Some(500)]));
        let gauge = Metrics::new().storage_free_bytes;
        let mut watch = Watch {
            space: Space::new(100),
            free_bytes: Arc::new(move || {
                found.lock().unwrap().pop_front().flatten().ok_or(StorageError::Poisoned)
            }),
            gauge: gauge.clone(),
            waiting: Metrics::new().kv_keys,
            is_blind: false,
        };
        let told: Vec<_> = (0..5).filter_map(|_| watch.look()).collect();
        assert!(matches!(told[..], [Event::SpaceLow, Event::SpaceFreed]), "{told:?}");
        drop(jobs_in);
        run(&jobs, watch, &done_in).unwrap();
        assert!(done.try_recv().is_err(), "500 free bytes are no change");
        assert_eq!(gauge.get(), 500);
    }

    #[test]
    fn the_thread_ends_with_the_core() {
        let (_jobs_in, jobs) = bounded::<SegmentJob<OsFiles>>(1);
        let (done_in, done) = bounded(1);
        drop(done);
        let gauge = Metrics::new().storage_free_bytes;
        let free_bytes: FreeBytes =
            Arc::new(|| Err(StorageError::disk("statvfs", "x".as_ref())(io::Error::other("x"))));
        let waiting = Metrics::new().kv_keys;
        let mut watch = Watch { space: Space::new(1), free_bytes, gauge, waiting, is_blind: false };
        assert!(watch.look().is_none() && watch.is_blind);
        watch.free_bytes = Arc::new(|| Ok(0));
        run(&jobs, watch, &done_in).unwrap();
    }
}
