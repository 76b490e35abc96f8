//! What is remembered of requests with an idempotency key, so that a repeated one is answered and not applied.
//!
//! An outcome counts for ten minutes of the log's clock and is pushed out by 100,000 later ones. Outcomes are dropped
//! only when another one is added, so that what is held depends on the outcomes alone and not on what else was applied
//! in between: a store that takes the same outcomes in order, or only the later ones, holds the same afterwards.

use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, Vector};

use super::Remembered;
use super::digest::digest_outcome;
use crate::types::LogTime;

/// How long an outcome counts, in microseconds of the log's clock.
pub(super) const REMEMBERED_MICROS: u64 = 10 * 60 * 1_000_000;
/// Most outcomes that are held.
pub(super) const REMEMBERED_MAX: usize = 100_000;

/// The outcomes; a clone costs nothing and is not changed by what is added later.
///
/// Invariants: indexes rise and times do not fall, all are within the last one's ten minutes, no key is there twice,
/// and `digest` is the sum of all outcomes' digests.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    by_index: Vector<Arc<Remembered>>,
    by_key: OrdMap<Bytes, Arc<Remembered>>,
    digest: u64,
}

impl Outcomes {
    /// What is remembered of a key at a time.
    pub(super) fn get(&self, key: &[u8], now: LogTime) -> Option<&Remembered> {
        let outcome = self.by_key.get(key)?;
        counts(outcome, now).then_some(outcome)
    }

    /// Adds an outcome, and drops those that are too old or too many.
    ///
    /// # Panics
    /// Outcomes that do not rise, or a key whose outcome still counts.
    pub(super) fn add(&mut self, outcome: &Remembered) {
        if let Some(last) = self.by_index.last() {
            assert!(
                outcome.index > last.index && outcome.time >= last.time,
                "outcome of entry {} at {} after {} at {}",
                outcome.index,
                outcome.time,
                last.index,
                last.time
            );
        }
        while self
            .by_index
            .front()
            .is_some_and(|first| self.by_index.len() >= REMEMBERED_MAX || !counts(first, outcome.time))
        {
            self.drop_first();
        }
        // Copied, so that it does not keep a whole log record or network message alive.
        let outcome = Arc::new(Remembered { key: Bytes::copy_from_slice(&outcome.key), ..outcome.clone() });
        self.digest = self.digest.wrapping_add(digest_outcome(&outcome));
        let earlier = self.by_key.insert(outcome.key.clone(), Arc::clone(&outcome));
        assert!(earlier.is_none(), "a second outcome of one idempotency key: {outcome:?} after {earlier:?}");
        self.by_index.push_back(outcome);
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.by_index.pop_front() {
            self.by_key.remove(&first.key);
            self.digest = self.digest.wrapping_sub(digest_outcome(&first));
        }
    }

    /// All, by rising index.
    pub(super) fn records(&self) -> impl Iterator<Item = Remembered> + Send + use<> {
        self.by_index.clone().into_iter().map(|outcome| Remembered::clone(&outcome))
    }

    /// When the last one was made.
    pub(super) fn last_time(&self) -> LogTime {
        self.by_index.last().map_or(LogTime(0), |last| last.time)
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Sum of the outcomes' digests.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }
}

/// Whether an outcome still counts.
fn counts(outcome: &Remembered, now: LogTime) -> bool {
    now.0.saturating_sub(outcome.time.0) < REMEMBERED_MICROS
}

#[cfg(test)]
#[path = "outcomes_tests.rs"]
mod tests;
