//! How a weight grows.

/// Part of the weight that a backend begins with, in percent.
const FIRST_PERCENT: u64 = 10;
/// Steps from there to the full weight.
const STEPS: u64 = 9;
/// Shortest time between two steps: each costs a ring.
const STEP_MS_MIN: u64 = 1000;

/// A weight that grows in steps, at moments that are the same for all backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ramp {
    length_ms: u64,
    step_ms: u64,
}

impl Ramp {
    /// `None`: weights do not grow.
    pub(super) fn new(seconds: u32) -> Option<Self> {
        let length_ms = u64::from(seconds) * 1000;
        let step_ms = (length_ms / STEPS).max(STEP_MS_MIN);
        (seconds > 0).then_some(Self { length_ms, step_ms })
    }

    /// What there is at this moment of the weight of a backend that is healthy since then.
    pub(super) fn weight(self, full: u16, since_ms: u64, now_ms: u64) -> u16 {
        let grown_ms = self.steps(since_ms, now_ms).saturating_mul(self.step_ms);
        let grown = (100 - FIRST_PERCENT).saturating_mul(grown_ms) / self.length_ms;
        let percent = (FIRST_PERCENT + grown).min(100);
        let weight = (u64::from(full) * percent).div_ceil(100);
        u16::try_from(weight).unwrap_or(full)
    }

    /// When there is more; `None`: it is the full weight.
    pub(super) fn next_step_ms(self, since_ms: u64, now_ms: u64) -> Option<u64> {
        let is_full = self.weight(100, since_ms, now_ms) == 100;
        (!is_full).then(|| (now_ms / self.step_ms + 1) * self.step_ms)
    }

    /// Whole steps between two moments.
    fn steps(self, since_ms: u64, now_ms: u64) -> u64 {
        (now_ms / self.step_ms).saturating_sub(since_ms.div_ceil(self.step_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::Ramp;

    /// The weights of a backend over time, and the moments at which they change.
    #[track_caller]
    fn check(seconds: u32, since_ms: u64, full: u16, expected: &[(u64, u16)]) {
        let ramp = Ramp::new(seconds).expect("it grows");
        let mut now_ms = since_ms;
        let mut steps = vec![(now_ms, ramp.weight(full, since_ms, now_ms))];
        while let Some(next_ms) = ramp.next_step_ms(since_ms, now_ms) {
            assert!(next_ms > now_ms);
            let before = ramp.weight(full, since_ms, next_ms - 1);
            assert_eq!(before, ramp.weight(full, since_ms, now_ms), "nothing changes between");
            now_ms = next_ms;
            steps.push((now_ms, ramp.weight(full, since_ms, now_ms)));
        }
        assert_eq!(steps, expected);
        assert_eq!(ramp.weight(full, since_ms, u64::MAX), full);
    }

    #[test]
    fn weight_grows_to_all_of_it() {
        let tens = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
        let steps: Vec<(u64, u16)> = (0..).map(|it| it * 10_000).zip(tens).collect();
        check(90, 0, 100, &steps);
        // On moments that all share: none of them early.
        let late: Vec<(u64, u16)> = [(5000, 10), (10_000, 10)]
            .into_iter()
            .chain((2..).map(|it| it * 10_000).zip(tens.into_iter().skip(1)))
            .collect();
        check(90, 5000, 100, &late);
        check(2, 0, 100, &[(0, 10), (1000, 55), (2000, 100)]);
        check(1, 0, 65_535, &[(0, 6554), (1000, 65_535)]);
        check(1, 0, 1, &[(0, 1), (1000, 1)]);
        check(1, 0, 0, &[(0, 0), (1000, 0)]);
        assert_eq!(Ramp::new(0), None);
    }

    #[test]
    fn no_number_is_too_large() {
        let ramp = Ramp::new(u32::MAX).expect("it grows");
        assert_eq!(ramp.weight(u16::MAX, 0, u64::MAX), u16::MAX);
        assert_eq!(ramp.weight(100, u64::MAX, 0), 10);
    }
}
