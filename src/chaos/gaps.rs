//! The longest time without an acknowledged write.

use std::time::Duration;

use crate::types::Instant;

/// Follows one writer through a round. Acknowledgements come in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gaps {
    last: Instant,
    longest: Gap,
}

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// When it began: the acknowledgement before it, or the round's begin.
    pub(super) from: Instant,
    pub(super) length: Duration,
}

impl Gaps {
    /// A round that begins now.
    pub(super) fn new(begin: Instant) -> Self {
        Self { last: begin, longest: Gap { from: begin, length: Duration::ZERO } }
    }

    /// A write was acknowledged.
    pub(super) fn acknowledge(&mut self, at: Instant) {
        let length = at.since(self.last);
        if length > self.longest.length {
            self.longest = Gap { from: self.last, length };
        }
        self.last = self.last.max(at);
    }

    /// The round is over; what has lasted since the last acknowledgement counts, too.
    pub(super) fn close(mut self, end: Instant) -> Gap {
        self.acknowledge(end);
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(begin: u64, acknowledged: &[u64], end: u64) -> (u64, u128) {
        let mut gaps = Gaps::new(Instant(begin));
        for at in acknowledged {
            gaps.acknowledge(Instant(*at));
        }
        let gap = gaps.close(Instant(end));
        (gap.from.0, gap.length.as_micros())
    }

    #[test]
    fn the_longest_silence_counts_wherever_it_is() {
        assert_eq!(longest(100, &[110, 150, 160], 165), (110, 40));
        assert_eq!(longest(100, &[150, 160], 165), (100, 50), "from the begin to the first");
        assert_eq!(longest(100, &[110, 120], 190), (120, 70), "from the last to the end");
        assert_eq!(longest(100, &[], 190), (100, 90), "nothing acknowledged at all");
    }

    #[test]
    fn of_two_equal_silences_the_first_is_told() {
        assert_eq!(longest(0, &[10, 20, 30], 30), (0, 10));
    }
}
