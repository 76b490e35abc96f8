//! How many seeds it takes until a rule is broken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::run::{Failure, Plan, run};

/// What a hunt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunt {
    /// Seeds up to the first that failed, this one included; all, if none did.
    pub seeds: u64,
    /// What went wrong in it.
    pub failure: Option<Failure>,
}

/// Runs at most `most` seeds from `start` on, `jobs` at once, until one fails. The answer does not depend on `jobs`.
#[must_use]
pub fn hunt(start: u64, most: u64, jobs: usize, plan: impl Fn(u64) -> Plan + Sync) -> Hunt {
    let (next, end) = (AtomicU64::new(start), AtomicU64::new(start + most));
    let first = Mutex::new(None::<(u64, Failure)>);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some(failure) = run(&plan(seed), false).failure {
                        // Seeds below this one are under way or done, and may still turn out to be the first.
                        end.fetch_min(seed, Ordering::Relaxed);
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        if first.as_ref().is_none_or(|(other, _)| seed < *other) {
                            *first = Some((seed, failure));
                        }
                    }
                }
            });
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((seed, failure)) => Hunt { seeds: seed - start + 1, failure: Some(failure) },
        None => Hunt { seeds: most, failure: None },
    }
}

#[cfg(all(test, feature = "planted-bugs"))]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::plant::{Plant, Planted};
    use crate::sim::lies::Wire;

    /// Those that few seeds catch; `kuberaft sim --plant all` hunts for all.
    #[test]
    fn planted_bugs_are_caught() {
        for plant in [
            Plant::VoteNotPersisted,
            Plant::TwoVotesATerm,
            Plant::CommitWithoutQuorum,
            Plant::CountUnflushed,
            Plant::ApplyBeforeCommit,
            Plant::AloneAppliesUnflushed,
            Plant::AcknowledgeBeforeFlush,
            Plant::TruncationNotWritten,
            Plant::NoFlush,
            Plant::UnboundedWrites,
            Plant::JointOneMajority,
            Plant::LeaveJointEarly,
            Plant::LeaverStepsDownEarly,
            Plant::ChangeBeforeNoop,
            Plant::PromoteBeforeCatchUp,
            Plant::TransferWithoutLogCheck,
            Plant::RemovedRejoins,
            Plant::WipedDiskSameId,
            Plant::ForgetOutcomes,
            Plant::SnapshotDropsConfiguration,
        ] {
            let plan = |seed| Plan {
                seed,
                nodes: 3,
                time: Duration::from_secs(10),
                clients: None,
                mix: None,
                wire: Wire::default(),
                without: BTreeSet::new(),
                planted: Planted::new(plant),
            };
            let caught = hunt(0, 200, 2, plan);
            assert!(caught.failure.is_some(), "{} is not caught", plant.name());
        }
    }
}
