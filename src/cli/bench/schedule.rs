//! When each operation is due: at once (closed loop), or at a fixed rate (open loop).

use std::time::{Duration, Instant};

/// The plan that all clients share. Operations have numbers from 0; clients draw them one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When the run begins.
    pub(super) start: Instant,
    /// No operation begins at or after this.
    pub(super) deadline: Option<Instant>,
    /// How many operations there are at most.
    pub(super) requests: Option<u64>,
    /// Operations a second in an open loop, above zero; `None` is a closed loop.
    pub(super) rate: Option<f64>,
}

/// What a client is to do about the operation it drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Begin now; the latency counts from this instant, which in an open loop may have passed: a client that is late
    /// because an earlier answer was must not hide that (coordinated omission).
    Begin(Instant),
    /// Wait until this instant, then begin. The latency then counts from the true beginning, since a timer's lag is
    /// not the server's.
    Wait(Instant),
    /// All is done.
    Over,
}

impl Schedule {
    /// What to do about the operation of this number, as of `now`.
    pub(super) fn turn(&self, number: u64, now: Instant) -> Turn {
        if self.requests.is_some_and(|requests| number >= requests) {
            return Turn::Over;
        }
        let due = self.rate.map_or(now, |rate| self.start + offset(number, rate));
        if self.deadline.is_some_and(|deadline| now.max(due) >= deadline) {
            Turn::Over
        } else if due > now {
            Turn::Wait(due)
        } else {
            Turn::Begin(due)
        }
    }
}

/// When an operation is due after the start.
#[expect(clippy::cast_precision_loss, reason = "numbers of operations stay far below 2^52")]
fn offset(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: Option<f64>, requests: Option<u64>, seconds: Option<u64>) -> Schedule {
        let start = Instant::now();
        let deadline = seconds.map(|seconds| start + Duration::from_secs(seconds));
        Schedule { start, deadline, requests, rate }
    }

    #[test]
    fn a_closed_loop_begins_at_once_until_time_or_requests_are_over() {
        let plan = schedule(None, Some(2), Some(1));
        let later = plan.start + Duration::from_millis(999);
        assert_eq!(plan.turn(0, plan.start), Turn::Begin(plan.start));
        assert_eq!(plan.turn(1, later), Turn::Begin(later));
        assert_eq!(plan.turn(2, later), Turn::Over);
        assert_eq!(plan.turn(1, plan.start + Duration::from_secs(1)), Turn::Over);
    }

    #[test]
    fn an_open_loop_waits_for_its_beat() {
        let plan = schedule(Some(1000.0), None, None);
        assert_eq!(plan.turn(5, plan.start), Turn::Wait(plan.start + Duration::from_millis(5)));
    }

    #[test]
    fn being_late_counts_from_when_it_was_due() {
        let plan = schedule(Some(1000.0), None, None);
        let late = plan.start + Duration::from_millis(20);
        assert_eq!(plan.turn(5, late), Turn::Begin(plan.start + Duration::from_millis(5)));
    }

    #[test]
    fn an_open_loop_ends_with_its_last_beat() {
        let plan = schedule(Some(1000.0), None, Some(1));
        assert_eq!(plan.turn(999, plan.start), Turn::Wait(plan.start + Duration::from_millis(999)));
        assert_eq!(plan.turn(1000, plan.start), Turn::Over);
    }
}
