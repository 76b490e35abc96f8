//! The threads of a replica: how they fail, and how they stop.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::sync::mpsc;

use super::core_thread::Request;
use crate::replica::Unappliable;
use crate::storage::StorageError;
use crate::supervision::{Beat, Pulse};
use crate::types::LogIndex;

/// Why a replica stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk failed, or what it holds is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log lacks entries that this node acknowledged to its leader.
    #[error(
        "the log lacks entries that this node acknowledged: its disk lost what was flushed. Nothing was overwritten; remove this node from the cluster and let it join again with an empty data directory"
    )]
    DataLost,
    /// The state differs from that of a majority of the voters after the same entry.
    #[error(
        "the state of this node differs from that of a majority of the members after the same entry. Start it again; if it stops again, remove this node from the cluster and let it join with an empty data directory, and keep the old one to find the cause"
    )]
    Diverged,
    /// A committed entry that this program cannot apply.
    #[error(transparent)]
    Unappliable(#[from] Unappliable),
    /// A state that cannot be was met; the message was printed by the panic.
    #[error("the {0} thread stopped on a state that cannot be; see the message above")]
    Panicked(&'static str),
    /// A thread ended in order although nothing asked it to.
    #[error("the {0} thread ended unexpectedly")]
    Ended(&'static str),
    /// Not a failure of anything: the cluster continues without this node, permanently.
    #[error("this node was removed from its cluster by entry {index}")]
    Removed {
        /// The entry.
        index: LogIndex,
    },
}

impl Failure {
    /// The exit code for the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(error) => error.exit_code(),
            Self::DataLost | Self::Diverged | Self::Unappliable(_) => EXIT_DAMAGED,
            Self::Panicked(_) | Self::Ended(_) | Self::Removed { .. } => 1,
        }
    }
}

/// As of a damaged data directory: starting again does not help.
const EXIT_DAMAGED: u8 = 3;

/// A thread that ended because of another one reports this much before it, at most.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(5);

type Outcome = Result<(), Failure>;

/// Threads being started; later ones feed earlier ones.
pub(super) struct Threads {
    pub(super) pulse: Pulse,
    started: Vec<(&'static str, JoinHandle<()>)>,
    outcomes_in: mpsc::UnboundedSender<(&'static str, Outcome)>,
    outcomes: mpsc::UnboundedReceiver<(&'static str, Outcome)>,
}

impl Default for Threads {
    fn default() -> Self {
        let (outcomes_in, outcomes) = mpsc::unbounded_channel();
        Self { pulse: Pulse::default(), started: Vec::new(), outcomes_in, outcomes }
    }
}

/// Reports what must end the process although no thread of the replica met it.
pub(super) struct Reporter(mpsc::UnboundedSender<(&'static str, Outcome)>);

impl Reporter {
    pub(super) fn report(&self, failure: Failure) {
        // Fails only if the replica was stopped already.
        let _ = self.0.send(("replica", Err(failure)));
    }
}

/// Reports a thread's end even if it panics.
struct Report {
    name: &'static str,
    beat: Arc<Beat>,
    outcome: Option<Outcome>,
    outcomes: mpsc::UnboundedSender<(&'static str, Outcome)>,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.beat.ends();
        let outcome = self.outcome.take().unwrap_or(Err(Failure::Panicked(self.name)));
        let _ = self.outcomes.send((self.name, outcome));
    }
}

impl Threads {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&Beat) -> Outcome + std::marker::Send + 'static,
    ) -> io::Result<()> {
        let (outcomes, beat) = (self.outcomes_in.clone(), self.pulse.thread(name));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut report = Report { name, beat, outcome: None, outcomes };
            let outcome = run(&report.beat);
            report.outcome = Some(outcome);
        })?;
        self.started.push((name, thread));
        Ok(())
    }

    /// For failures outside the threads.
    pub(super) fn reporter(&self) -> Reporter {
        Reporter(self.outcomes_in.clone())
    }

    pub(super) fn running(self, requests: Sender<Request>) -> Running {
        let mut threads = self.started;
        threads.reverse();
        Running { threads, pulse: self.pulse, outcomes: self.outcomes, requests }
    }
}

/// A running replica's threads.
pub struct Running {
    /// The core first, the checkpoint last: each ends when the one before it has dropped its queue.
    threads: Vec<(&'static str, JoinHandle<()>)>,
    pulse: Pulse,
    outcomes: mpsc::UnboundedReceiver<(&'static str, Outcome)>,
    requests: Sender<Request>,
}

impl Running {
    /// What the threads are at.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Waits until a thread ends that was not told to, and says why. Those that end because of another one may report
    /// before it does.
    pub async fn failed(&mut self) -> Failure {
        let first = match self.outcomes.recv().await {
            Some((_, Err(failure))) => return failure,
            Some((name, Ok(()))) => name,
            None => "replica",
        };
        let cause = async {
            while let Some((_, outcome)) = self.outcomes.recv().await {
                if let Err(failure) = outcome {
                    return failure;
                }
            }
            Failure::Ended(first)
        };
        tokio::time::timeout(CAUSE_TIMEOUT, cause).await.unwrap_or(Failure::Ended(first))
    }

    /// Finishes what is in flight, flushes log and checkpoint, and ends the threads. Blocks.
    ///
    /// # Errors
    /// The first thread that failed.
    pub fn stop(mut self) -> Result<(), Failure> {
        // Fails only if the core has stopped already.
        let _ = self.requests.send(Request::Stop);
        drop(self.requests);
        for (name, thread) in self.threads {
            if thread.join().is_err() {
                tracing::error!(thread = name, "a thread panicked");
            }
        }
        let mut result = Ok(());
        while let Ok((_, outcome)) = self.outcomes.try_recv() {
            result = result.and(outcome);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kv::CommandError;
    use crate::types::{LogPosition, Term};

    #[test]
    fn lost_data_is_damage_that_a_restart_does_not_mend() {
        assert_eq!(Failure::DataLost.exit_code(), 3);
        assert!(Failure::DataLost.to_string().contains("Nothing was overwritten"));
    }

    #[test]
    fn every_failure_has_its_exit_code() {
        let unappliable = Unappliable {
            position: LogPosition { index: LogIndex(7), term: Term(2) },
            source: CommandError("unknown version"),
        };
        let failures = [
            (Failure::from(StorageError::damaged(Path::new("/data"), "odd")), 3),
            (Failure::from(StorageError::Poisoned), 4),
            (Failure::DataLost, 3),
            (Failure::Diverged, 3),
            (Failure::from(unappliable), 3),
            (Failure::Panicked("core"), 1),
            (Failure::Ended("core"), 1),
            (Failure::Removed { index: LogIndex(7) }, 1),
        ];
        for (failure, code) in failures {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }
}
