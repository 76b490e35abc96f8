//! A node's own clock: it may start anywhere, run fast or slow, and jump forward.

use crate::types::Instant;

const MILLION: u64 = 1_000_000;

/// A clock as a function of the simulation's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Local time at `since`.
    base: Instant,
    since: Instant,
    /// Local microseconds in a million of the simulation's.
    rate: u64,
}

impl Clock {
    /// A clock that shows `offset` at the simulation's begin.
    #[must_use]
    pub(super) fn new(offset: Instant) -> Self {
        Self { base: offset, since: Instant(0), rate: MILLION }
    }

    /// What it shows at `now`.
    #[must_use]
    pub(super) fn local(&self, now: Instant) -> Instant {
        let passed = now.0.saturating_sub(self.since.0);
        if self.rate == MILLION {
            return Instant(self.base.0 + passed);
        }
        let scaled = u128::from(passed) * u128::from(self.rate) / u128::from(MILLION);
        Instant(self.base.0 + u64::try_from(scaled).unwrap_or(u64::MAX / 2))
    }

    /// When it will show `local`; not before.
    #[must_use]
    pub(super) fn when(&self, local: Instant) -> Instant {
        let wait = local.0.saturating_sub(self.base.0);
        if self.rate == MILLION {
            return Instant(self.since.0 + wait);
        }
        let scaled = (u128::from(wait) * u128::from(MILLION)).div_ceil(u128::from(self.rate));
        Instant(self.since.0.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX / 2)))
    }

    /// From `now` on it runs at `rate` local microseconds in a million.
    pub(super) fn set_rate(&mut self, now: Instant, rate: u64) {
        *self = Self { base: self.local(now), since: now, rate: rate.max(1) };
    }

    /// It jumps forward.
    pub(super) fn jump(&mut self, micros: u64) {
        self.base = Instant(self.base.0 + micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_at_a_time_when_it_says_so_and_never_goes_back() {
        let mut clock = Clock::new(Instant(5_000));
        let mut before = Instant(0);
        for (now, rate) in [(0, 1_000_000), (10_000, 333_333), (20_001, 2_000_000), (30_000, 999_999)] {
            clock.set_rate(Instant(now), rate);
            for later in [0, 1, 7, 999, 9_999] {
                let local = clock.local(Instant(now + later));
                assert!(local >= before, "{local:?} after {before:?}");
                before = local;
                let target = local.after(std::time::Duration::from_micros(12_345));
                let at = clock.when(target);
                assert!(clock.local(at) >= target && clock.local(Instant(at.0 - 1)) < target);
            }
        }
        clock.jump(77);
        assert_eq!(clock.local(Instant(39_999)).0, before.0 + 77);
    }
}
