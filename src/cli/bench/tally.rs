//! What came back: latencies, errors, the longest time without an acknowledged write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest latency told apart, in microseconds; longer ones count as this.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

/// The two kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Write a key.
    Put,
    /// Read a key.
    Get,
}

/// The results of one thread's clients.
pub(super) struct Tally {
    /// Latencies of acknowledged writes in microseconds.
    pub(super) writes: Histogram<u64>,
    /// Latencies of answered reads in microseconds.
    pub(super) reads: Histogram<u64>,
    /// Failed operations by code.
    pub(super) errors: BTreeMap<String, u64>,
    /// The longest time without an acknowledged write.
    pub(super) gap: Gap,
}

/// A stretch of time between two acknowledged writes, or from the beginning or to the end of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gap {
    /// How long.
    pub(super) length: Duration,
    /// When it ended, from the start of the measurement.
    pub(super) until: Duration,
}

/// What the threads share while they run.
pub(super) struct Shared {
    /// Number of the next operation.
    pub(super) next: AtomicU64,
    /// Operations done, for the progress line.
    pub(super) done: AtomicU64,
    /// Operations failed, for the progress line.
    pub(super) failed: AtomicU64,
    /// Set to end early.
    pub(super) stop: AtomicBool,
    /// When the latest write was acknowledged, in microseconds from the start of the measurement.
    latest_write_micros: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            latest_write_micros: AtomicU64::new(0),
        }
    }

    /// Notes a write acknowledged `at` (from the start of the measurement) and returns the gap that it ends.
    fn on_write(&self, at: Duration) -> Gap {
        let at_micros = micros(at);
        let before = self.latest_write_micros.fetch_max(at_micros, Ordering::Relaxed);
        Gap { length: Duration::from_micros(at_micros.saturating_sub(before)), until: at }
    }

    /// The gap from the latest write to the end of the run.
    pub(super) fn last_gap(&self, end: Duration) -> Gap {
        let before = Duration::from_micros(self.latest_write_micros.load(Ordering::Relaxed));
        Gap { length: end.saturating_sub(before), until: end }
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are constant and valid")
        };
        Self { writes: histogram(), reads: histogram(), errors: BTreeMap::new(), gap: Gap::default() }
    }

    /// Counts an operation that was answered. `measured_from` is when the measurement began.
    pub(super) fn on_done(
        &mut self,
        shared: &Shared,
        op: Op,
        begin: Instant,
        end: Instant,
        measured_from: Instant,
    ) {
        let latency = micros(end.saturating_duration_since(begin));
        match op {
            Op::Put => {
                self.writes.saturating_record(latency);
                self.gap = self.gap.max(shared.on_write(end.saturating_duration_since(measured_from)));
            }
            Op::Get => self.reads.saturating_record(latency),
        }
    }

    /// Counts an operation that failed.
    pub(super) fn on_failed(&mut self, code: &str) {
        match self.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(self.errors.insert(code.to_owned(), 1)),
        }
    }

    /// Adds the results of another thread.
    pub(super) fn add(&mut self, other: &Self) {
        self.writes.add(&other.writes).expect("all histograms have the same bounds");
        self.reads.add(&other.reads).expect("all histograms have the same bounds");
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        self.gap = self.gap.max(other.gap);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_longest_gap_is_the_one_between_neighbours() {
        let (shared, mut tally, start) = (Shared::new(), Tally::new(), Instant::now());
        for at in [10, 20, 170, 180] {
            tally.on_done(&shared, Op::Put, after(start, at - 5), after(start, at), start);
        }
        // Reads acknowledge no write.
        tally.on_done(&shared, Op::Get, start, after(start, 900), start);
        let millis = Duration::from_millis;
        assert_eq!(tally.gap, Gap { length: millis(150), until: millis(170) });
        assert_eq!(shared.last_gap(millis(1000)), Gap { length: millis(820), until: millis(1000) });
    }

    #[test]
    fn a_write_seen_late_by_another_thread_is_no_gap() {
        let shared = Shared::new();
        shared.on_write(Duration::from_millis(50));
        assert_eq!(shared.on_write(Duration::from_millis(40)).length, Duration::ZERO);
    }

    #[test]
    fn tallies_add_up() {
        let (shared, start) = (Shared::new(), Instant::now());
        let (mut one, mut two) = (Tally::new(), Tally::new());
        one.on_done(&shared, Op::Put, start, after(start, 1), start);
        two.on_done(&shared, Op::Put, start, after(start, 1000), start);
        two.on_done(&shared, Op::Get, start, start, start);
        one.on_failed("no_leader");
        two.on_failed("no_leader");
        two.on_failed("timeout");
        one.add(&two);
        assert_eq!((one.writes.len(), one.reads.len()), (2, 1));
        assert_eq!(one.errors, BTreeMap::from([("no_leader".to_owned(), 2), ("timeout".to_owned(), 1)]));
        assert_eq!(one.gap.length, Duration::from_millis(999));
    }

    #[test]
    fn a_latency_beyond_the_bounds_counts_as_the_largest() {
        let (shared, start) = (Shared::new(), Instant::now());
        let mut tally = Tally::new();
        tally.on_done(&shared, Op::Get, start, start + Duration::from_secs(500), start);
        assert_eq!(tally.reads.len(), 1);
        assert!(tally.reads.max() >= LATENCY_MICROS_MAX);
    }
}
