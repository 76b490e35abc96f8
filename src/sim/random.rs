//! The simulator's randomness: one seeded stream for each purpose, so that switching one purpose off leaves the
//! draws of the others as they were.

/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of `seed` for `purpose`.
    #[must_use]
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Self(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self(random.next_u64())
    }

    /// Any number.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `limit` - 1; 0 if `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product: even enough for limits far below 2^64, without a division.
        let product = u128::from(self.next_u64()) * u128::from(limit);
        (product >> 64) as u64
    }

    /// From 0 to `limit` - 1, as an index.
    pub(crate) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("below a usize")
    }

    /// From `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True in `of_thousand` of 1000 cases.
    pub(crate) fn chance(&mut self, of_thousand: u32) -> bool {
        self.below(1000) < u64::from(of_thousand)
    }

    /// One of the items.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// Waiting time of a process that happens every `mean` on average: short ones often, long ones seldom.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        // The sum of a geometric number of halves: close enough to exponential, and in whole numbers.
        let halvings = self.next_u64().trailing_zeros().min(6);
        let part = self.between(mean / 4, mean);
        part.saturating_mul(1 + u64::from(halvings)) / 2 + 1
    }
}
