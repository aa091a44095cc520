//! A token bucket in one word, for answers: whoever floods must not make us flood others.
//!
//! The word is the time at which the bucket will be full again. A full bucket holds `burst` tokens and
//! gets one every `interval_ns`. The owner keeps one word per CPU, so rates are per CPU as well.

/// How many answers there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Nanoseconds until there is another token.
    pub interval_ns: u64,
    /// Tokens that a full bucket holds.
    pub burst: u64,
}

impl Rate {
    /// So many per second, and so many at once.
    #[must_use]
    pub const fn per_second(count: u32, burst: u32) -> Self {
        let count = if count == 0 { 1 } else { count as u64 };
        Self { interval_ns: 1_000_000_000 / count, burst: burst as u64 }
    }

    /// Takes a token: the bucket's word from now on, or `None` if there is no token.
    #[inline(always)]
    #[must_use]
    pub const fn take(self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        let start_ns = if full_at_ns > now_ns { full_at_ns } else { now_ns };
        let next_ns = start_ns.wrapping_add(self.interval_ns);
        if next_ns.wrapping_sub(now_ns) > self.interval_ns.wrapping_mul(self.burst) {
            return None;
        }
        Some(next_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes at the given times; how often there was a token.
    fn taken(rate: Rate, times_ns: impl IntoIterator<Item = u64>) -> u64 {
        let mut full_at_ns = 0;
        let mut count = 0;
        for now_ns in times_ns {
            if let Some(next) = rate.take(full_at_ns, now_ns) {
                full_at_ns = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn bursts_and_rates() {
        let rate = Rate::per_second(100, 10);
        for (name, step_ns, steps, expected) in [
            ("at once: the burst", 0, 1000, 10),
            ("slower than the rate: all", 10_000_000, 1000, 1000),
            ("ten times the rate for a second: burst and rate", 1_000_000, 1000, 109),
        ] {
            let times = (0..steps).map(|step| 5_000_000_000 + step * step_ns);
            assert_eq!(taken(rate, times), expected, "{name}");
        }
        assert_eq!(taken(Rate::per_second(100, 0), 0..10), 0, "no burst, no answers");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            steps in proptest::collection::vec(0_u64..30_000_000, 1..200),
            per_second in 1_u32..1000,
            burst in 0_u32..20,
        ) {
            let rate = Rate::per_second(per_second, burst);
            let mut now_ns = 1_000_000_000;
            let times: Vec<u64> =
                steps.iter().map(|step| { now_ns += step; now_ns }).collect();
            let passed_ns = now_ns - times[0];
            let bound = u64::from(burst) + passed_ns / rate.interval_ns;
            prop_assert!(taken(rate, times) <= bound);
        }
    }
}
