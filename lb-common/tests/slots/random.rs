//! Random numbers from a seed (SplitMix64): the same on every machine, and one stream per purpose, so
//! that leaving out a part of a history leaves the others as they were.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream for a purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Self(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number from `low` up to, not including, `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    /// Mostly near `low`, sometimes up to `high`: uniform in the logarithm.
    pub(crate) fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let (mut low, high) = (low.max(1), high);
        while low * 2 < high && self.percent(70) {
            low *= 2;
        }
        self.between(low, (low * 2).min(high).max(low + 1))
    }
}
