//! Apply's thread: changes the state, answers clients, passes changes to the checkpoint.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::checkpoint::{Changes, ChangesIn, ViewWanted};
use super::core_thread::Done;
use super::shutdown::Failure;
use super::snapshots::SendSnapshot;
use crate::kv;
use crate::metrics::Metrics;
use crate::raft::{Event, Refusal};
use crate::replica::snapshot::Cut;
use crate::replica::{Apply, ApplyInput, ApplyOutput};
use crate::supervision::Beat;
use crate::types::{ProposalId, ReadId};

/// What to apply, and who waits for it, in the same order.
#[derive(Default)]
pub(super) struct ApplyJob {
    pub(super) inputs: Vec<ApplyInput>,
    pub(super) writers: Vec<(ProposalId, oneshot::Sender<Result<kv::Answer, Refusal>>)>,
    pub(super) readers: Vec<(ReadId, oneshot::Sender<Result<(), Refusal>>)>,
    pub(super) cuts: Vec<oneshot::Sender<Result<Cut, Refusal>>>,
}

pub(super) struct Queues {
    pub(super) jobs: Receiver<ApplyJob>,
    pub(super) done: Sender<Done>,
    pub(super) changes: ChangesIn,
}

/// Runs until the core drops the queue, or until an entry cannot be applied.
pub(super) fn run(
    mut apply: Apply,
    queues: Queues,
    view_wanted: &ViewWanted,
    send_snapshot: &SendSnapshot,
    metrics: &Metrics,
    beat: &Beat,
) -> Result<(), Failure> {
    metrics.kv_keys.set(i64::try_from(apply.keys()).unwrap_or(i64::MAX));
    let Queues { jobs, done, mut changes } = queues;
    let waiting = metrics.queue_length.with_label_values(&["checkpoint"]);
    while let Ok(job) = jobs.recv() {
        let started = Instant::now();
        beat.works(started);
        let mut out = ApplyOutput::default();
        apply.handle(job.inputs, &mut out)?;
        metrics.raft_apply_duration_seconds.observe(started.elapsed().as_secs_f64());
        metrics.kv_keys.set(i64::try_from(apply.keys()).unwrap_or(i64::MAX));
        let mut answers = out.answers.into_iter().peekable();
        for (id, reply) in job.writers {
            // Both are in the order of the entries; an answer may find its client gone, never the reverse.
            if let Some((_, answer)) = answers.find(|(answered, _)| *answered == id) {
                let _ = reply.send(Ok(answer));
            }
        }
        for (_, reply) in job.readers {
            let _ = reply.send(Ok(()));
        }
        for reply in job.cuts {
            let _ = reply.send(Ok(apply.cut()));
        }
        let marks = std::mem::take(&mut out.marks);
        let event = Event::Applied { index: apply.applied(), digest: Some(out.digest), marks };
        if done.send(Done::Apply { jobs: 1, event }).is_err() {
            return Ok(());
        }
        out.cuts.into_iter().for_each(|cut| send_snapshot(cut));
        let change = Changes {
            records: out.records,
            checkpoint: apply.checkpoint(),
            installed: out.installed,
            keys: apply.keys(),
            view: view_wanted.take().then(|| apply.view()),
        };
        // The checkpoint may be waiting for the disk.
        beat.waits();
        if !changes.send(change) {
            return Ok(());
        }
        waiting.set(i64::try_from(changes.len()).unwrap_or(i64::MAX));
    }
    Ok(())
}
