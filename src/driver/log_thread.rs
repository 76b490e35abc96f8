//! The log's thread: group commit. Everything that waits is written and flushed at once.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::Send;
use super::checkpoint::Size;
use super::core_thread::Done;
use super::segments_thread::SegmentJob;
use super::shutdown::Failure;
use crate::metrics::{IntGauge, Metrics};
use crate::raft::Event;
use crate::replica::{Log, LogInput, LogOutput};
use crate::storage::StateStore;
use crate::storage::files::Files;
use crate::supervision::Beat;

/// Runs until the core drops the queue, or until the disk fails.
pub(super) fn run<F: Files, S: StateStore>(
    mut log: Log<F, S>,
    jobs: &Receiver<Vec<LogInput>>,
    done: &Sender<Done>,
    segments: &Sender<SegmentJob<F>>,
    send: &Send,
    metrics: &Metrics,
    beat: &Beat,
) -> Result<(), Failure> {
    let send = Arc::clone(send);
    let waiting = metrics.queue_length.with_label_values(&["segments"]);
    hand_out(&mut log, segments, &waiting);
    let mut size_bytes = Size::new(&metrics.storage_bytes);
    size_bytes.set(log.wal().size_bytes());
    while let Ok(mut inputs) = jobs.recv() {
        let mut count = 1;
        while let Ok(more) = jobs.try_recv() {
            inputs.extend(more);
            count += 1;
        }
        let started = Instant::now();
        let mut out = LogOutput::default();
        // A disk that does not answer is found out by the core, and no restart helps against it.
        beat.waits();
        if let Err(error) = log.handle(inputs, &mut out) {
            let _ = done.send(Done::LogFailed);
            return Err(error.into());
        }
        if let Some(flush) = out.flush.filter(|flush| flush.bytes > 0) {
            // Counted before anyone hears of it.
            metrics.storage_flush_duration_seconds.observe(started.elapsed().as_secs_f64());
            metrics
                .storage_flush_entries
                .observe(f64::from(u32::try_from(flush.entries).unwrap_or(u32::MAX)));
        }
        beat.works(Instant::now());
        let mut events = out.events;
        for (to, message) in out.sends {
            if !send(to, message) {
                events.push(Event::SendDropped { to, unsent: Vec::new() });
            }
        }
        if done.send(Done::Log { jobs: count, events }).is_err() {
            return Ok(());
        }
        size_bytes.set(log.wal().size_bytes());
        hand_out(&mut log, segments, &waiting);
        beat.waits();
    }
    Ok(())
}

/// Hands out the work of the segments thread, if there is some and that thread is free; otherwise later.
fn hand_out<F: Files, S: StateStore>(
    log: &mut Log<F, S>,
    segments: &Sender<SegmentJob<F>>,
    waiting: &IntGauge,
) {
    // Nobody else fills the queue: what is sent when there is room is taken.
    if !segments.is_full()
        && let Some(preparation) = log.wal().take_preparation()
    {
        let _ = segments.try_send(SegmentJob::Prepare(preparation));
    }
    if !segments.is_full()
        && let Some(removal) = log.wal().take_removal()
    {
        let _ = segments.try_send(SegmentJob::Remove(removal));
    }
    waiting.set(i64::try_from(segments.len()).unwrap_or(i64::MAX));
}
