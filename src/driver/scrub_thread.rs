//! The thread that reads the log's older segments again, slowly.
//!
//! Damage that the state covers does not end the node: it serves and votes without that segment, and a second damaged
//! member at the same time must not cost the cluster its majority. It is reported until the segment is gone, since
//! neither a start nor a follower that lags can do without it. Damage that the state does not cover ends the node.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::shutdown::{Failure, Threads};
use crate::metrics::Metrics;
use crate::storage::files::Files;
use crate::storage::wal::{DamagedSegment, Scrub};
use crate::storage::{StateStore, StorageError};
use crate::types::LogIndex;

/// Most bytes that are read in a second.
const BYTES_PER_SECOND: u32 = 4 << 20;

/// Starts the thread; it ends once what is returned is dropped.
pub(super) fn start<F: Files, S: StateStore + 'static>(
    threads: &mut Threads,
    scrub: Scrub<F>,
    state: &Arc<Mutex<S>>,
    interval: Duration,
    metrics: &Metrics,
) -> io::Result<Sender<()>> {
    let (lives, stop) = bounded(0);
    let (state, metrics) = (Arc::clone(state), metrics.clone());
    threads.spawn("scrub", move |_| run(&scrub, &state, interval, &stop, &metrics))?;
    Ok(lives)
}

/// Reads all closed segments once in each `interval`, until the other side of `stop` is gone.
fn run<F: Files, S: StateStore>(
    scrub: &Scrub<F>,
    state: &Mutex<S>,
    interval: Duration,
    stop: &Receiver<()>,
    metrics: &Metrics,
) -> Result<(), Failure> {
    let waits = |time| stop.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if interval.is_zero() {
        // Only for its end.
        let _ = stop.recv();
        return Ok(());
    }
    while waits(interval) {
        let mut pace = |bytes: usize| {
            metrics.storage_scrubbed_bytes_total.inc_by(bytes as u64);
            let time = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES_PER_SECOND;
            if waits(time) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        match scrub.pass(&mut pace) {
            Ok(None) => return Ok(()),
            Ok(Some(damaged)) => {
                let covered = state.lock().unwrap_or_else(PoisonError::into_inner).checkpoint().applied.index;
                report(damaged, covered, metrics)?;
            }
            Err(error) => tracing::warn!(%error, "older segments of the log could not be read again"),
        }
    }
    Ok(())
}

fn report(damaged: Vec<DamagedSegment>, covered: LogIndex, metrics: &Metrics) -> Result<(), Failure> {
    let count = damaged.len();
    metrics.storage_damaged_segments.set(i64::try_from(count).unwrap_or(i64::MAX));
    for DamagedSegment { damage, through } in damaged {
        if through > covered {
            return Err(Failure::Storage(StorageError::Damaged(damage)));
        }
        tracing::error!(
            %damage,
            "an old segment of the log is damaged. This node runs without it, but cannot start again: replace this \
             member by one with an empty data directory while the others are well"
        );
    }
    if count == 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.storage_scrub_end_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::storage::Damage;

    fn damaged(through: u64) -> Vec<DamagedSegment> {
        let damage =
            Damage { path: PathBuf::from("wal/1"), offset: Some(9), index: None, what: "gone".into() };
        vec![DamagedSegment { damage, through: LogIndex(through) }]
    }

    #[test]
    fn damage_ends_the_node_only_where_its_state_needs_the_segment() {
        let metrics = Metrics::new();
        assert!(report(damaged(10), LogIndex(10), &metrics).is_ok());
        assert_eq!(metrics.storage_damaged_segments.get(), 1);
        assert_eq!(metrics.storage_scrub_end_seconds.get(), 0);
        let failure = report(damaged(11), LogIndex(10), &metrics).unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        assert!(report(Vec::new(), LogIndex(10), &metrics).is_ok());
        assert_eq!(metrics.storage_damaged_segments.get(), 0);
        assert!(metrics.storage_scrub_end_seconds.get() > 0);
    }
}
