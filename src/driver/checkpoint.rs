//! The checkpoint's thread: writes what was applied to the state store, behind, so that a start need not replay the log.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::shutdown::Failure;
use crate::kv::Record;
use crate::metrics::{IntGauge, Metrics};
use crate::storage::{Checkpoint, StateStore};

/// Written earlier than the interval says when this many changes wait.
const RECORDS_MAX: usize = 65_536;

/// One store's part in the gauge of all that is stored.
pub(super) struct Size<'a> {
    gauge: &'a IntGauge,
    bytes: i64,
}

impl<'a> Size<'a> {
    pub(super) fn new(gauge: &'a IntGauge) -> Self {
        Self { gauge, bytes: 0 }
    }

    pub(super) fn set(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(bytes - self.bytes);
        self.bytes = bytes;
    }
}

/// What one batch changed, and what a checkpoint after it covers.
pub(super) struct Changes {
    pub(super) records: Vec<Record>,
    pub(super) checkpoint: Checkpoint,
}

/// Runs until apply lets go of the queue; then writes what is left.
pub(super) fn run<S: StateStore>(
    mut state: S,
    changes: &Receiver<Changes>,
    interval: Duration,
    metrics: &Metrics,
) -> Result<(), Failure> {
    let mut records: Vec<Record> = Vec::new();
    let mut checkpoint: Option<Checkpoint> = None;
    let mut due = Instant::now() + interval;
    let mut size_bytes = Size::new(&metrics.storage_bytes);
    loop {
        size_bytes.set(state.size_bytes()?);
        let open = match changes.recv_deadline(due) {
            Ok(mut change) => {
                records.append(&mut change.records);
                checkpoint = Some(change.checkpoint);
                if records.len() < RECORDS_MAX {
                    continue;
                }
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        };
        if let Some(checkpoint) = checkpoint.take() {
            state.write(&records)?;
            records.clear();
            let index = checkpoint.applied.index;
            state.commit(checkpoint)?;
            metrics.raft_snapshot_index.set(i64::try_from(index.0).unwrap_or(i64::MAX));
        }
        if !open {
            return Ok(());
        }
        due = Instant::now() + interval;
    }
}
