//! The clock that drives the core.

use rustix::time::{ClockId, clock_gettime};

use crate::types::Instant;

/// Monotonic time that continues while the machine is suspended, so that a leader notices that it was suspended.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Instant(seconds * 1_000_000 + nanos / 1_000)
}
