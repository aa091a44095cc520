//! Whether the made-up daemon misbehaves, from one seed.

/// How often the daemon misbehaves: of 100 answers, so many.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) percent: u64,
    pub(crate) random: u64,
}

impl Faults {
    /// `SplitMix64`: the same faults for the same seed.
    pub(super) fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn happens(&mut self) -> bool {
        self.next() % 100 < self.percent
    }
}
