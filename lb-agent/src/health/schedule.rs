//! When which probe is due: a queue by time, with bounded concurrency. Pure; time is an argument.
//!
//! A target whose state is settled is probed at moments of its own, which its number decides: so
//! thousands of probes are spread evenly over their interval however they came to be, and stay so.

use std::collections::{BTreeSet, HashMap};

use siphasher::sip::SipHasher13;

/// Probes under way at once, unless told otherwise.
pub const IN_FLIGHT_MAX: usize = 4096;
/// Shares of an interval: by how much a single probe may differ from its moment.
const JITTER_SHARE: u64 = 16;
/// Shares of an interval: how soon to look again while a state is in doubt.
const DOUBT_SHARE: u64 = 8;
/// No probe is repeated sooner than this.
const PAUSE_MS: u64 = 50;

/// Number of a target, never used twice.
pub type TargetNumber = u64;

/// What is due when.
#[derive(Debug)]
pub struct Schedule {
    queue: BTreeSet<(u64, TargetNumber)>,
    due: HashMap<TargetNumber, u64>,
    in_flight: usize,
    in_flight_max: usize,
}

impl Schedule {
    /// Nothing is due, and no more than `in_flight_max` (at least one) will ever be under way.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            queue: BTreeSet::new(),
            due: HashMap::new(),
            in_flight: 0,
            in_flight_max: in_flight_max.max(1),
        }
    }

    /// Replaces the moment at which a target is due.
    pub fn set(&mut self, target: TargetNumber, due_ms: u64) {
        self.cancel(target);
        self.queue.insert((due_ms, target));
        self.due.insert(target, due_ms);
    }

    /// The target is not to be probed.
    pub fn cancel(&mut self, target: TargetNumber) {
        if let Some(due_ms) = self.due.remove(&target) {
            self.queue.remove(&(due_ms, target));
        }
    }

    /// When [`Self::take`] has something; `None`: nothing waits, or it waits for others to end.
    pub fn next_due_ms(&self) -> Option<u64> {
        let has_room = self.in_flight < self.in_flight_max;
        self.queue.first().filter(|_| has_room).map(|(due_ms, _)| *due_ms)
    }

    /// A target that is due, and since when. It counts as under way until [`Self::ended`].
    pub fn take(&mut self, now_ms: u64) -> Option<(TargetNumber, u64)> {
        let due_ms = self.next_due_ms().filter(|due_ms| *due_ms <= now_ms)?;
        let (_, target) = self.queue.pop_first()?;
        self.due.remove(&target);
        self.in_flight += 1;
        Some((target, due_ms))
    }

    /// A probe that was taken has ended, however.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Probes under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Targets that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// Chooses moments.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    seed: u64,
}

impl Pace {
    /// Moments that depend on nothing but this.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The first probe of a target that is known already: its own moment within an interval.
    pub fn first(self, target: TargetNumber, interval_ms: u64, now_ms: u64) -> u64 {
        self.own_moment(target, interval_ms.max(PAUSE_MS), now_ms)
    }

    /// The next probe of a target whose state is settled: one interval after the previous one, at its
    /// own moment.
    pub fn settled(self, target: TargetNumber, interval_ms: u64, now_ms: u64) -> u64 {
        let interval_ms = interval_ms.max(PAUSE_MS);
        let due_ms = self.own_moment(target, interval_ms, now_ms + interval_ms / 2);
        due_ms + self.random(target, now_ms) % (interval_ms / JITTER_SHARE).max(1)
    }

    /// The next probe of a target whose state is in doubt: soon.
    pub fn in_doubt(self, target: TargetNumber, interval_ms: u64, now_ms: u64) -> u64 {
        let pause_ms = (interval_ms / DOUBT_SHARE).max(PAUSE_MS);
        now_ms + pause_ms + self.random(target, now_ms) % (pause_ms / JITTER_SHARE).max(1)
    }

    /// The first moment from `from_ms` on that is the target's own.
    fn own_moment(self, target: TargetNumber, interval_ms: u64, from_ms: u64) -> u64 {
        let phase_ms = self.random(target, u64::MAX) % interval_ms;
        let passed_ms = (from_ms + interval_ms - phase_ms) % interval_ms;
        if passed_ms == 0 { from_ms } else { from_ms + interval_ms - passed_ms }
    }

    fn random(self, target: TargetNumber, salt: u64) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&target.to_le_bytes());
        bytes[8..].copy_from_slice(&salt.to_le_bytes());
        SipHasher13::new_with_keys(self.seed, 0x7072_6f62_6573).hash(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_due_first_comes_first() {
        let mut schedule = Schedule::new(2);
        for (target, due_ms) in [(1, 30), (2, 10), (3, 20)] {
            schedule.set(target, due_ms);
        }
        assert_eq!(schedule.next_due_ms(), Some(10));
        assert_eq!(schedule.take(9), None);
        assert_eq!(schedule.take(25), Some((2, 10)));
        schedule.set(1, 5);
        assert_eq!(schedule.take(25), Some((1, 5)));
        // No room: the third waits until one has ended, and asks for no timer meanwhile.
        assert_eq!((schedule.next_due_ms(), schedule.take(25)), (None, None));
        schedule.ended();
        assert_eq!(schedule.take(25), Some((3, 20)));
        schedule.set(4, 1);
        schedule.cancel(4);
        schedule.cancel(4);
        schedule.ended();
        schedule.ended();
        schedule.ended();
        assert_eq!(
            (schedule.next_due_ms(), schedule.waiting(), schedule.in_flight()),
            (None, 0, 0)
        );
    }

    /// Probes of `targets` for ten intervals after the first, in virtual time; per 10 ms.
    fn simulate(targets: u64, interval_ms: u64, seed: u64, is_known: bool) -> Vec<u32> {
        let mut schedule = Schedule::new(usize::MAX);
        let pace = Pace::new(seed);
        for target in 0..targets {
            let first = if is_known { pace.first(target, interval_ms, 0) } else { 0 };
            schedule.set(target, first);
        }
        let end_ms = interval_ms * 11;
        let mut buckets = vec![0; usize::try_from(end_ms / 10).expect("small") + 1];
        while let Some(now_ms) = schedule.next_due_ms().filter(|due_ms| *due_ms < end_ms) {
            let (target, _) = schedule.take(now_ms).expect("it is due");
            buckets[usize::try_from(now_ms / 10).expect("small")] += 1;
            schedule.ended();
            schedule.set(target, pace.settled(target, interval_ms, now_ms));
        }
        buckets.split_off(usize::try_from(interval_ms / 10).expect("small") * 2)
    }

    #[test]
    fn ten_thousand_probes_are_spread_evenly_whether_they_came_at_once_or_not() {
        for is_known in [true, false] {
            let buckets = simulate(10_000, 2000, 7, is_known);
            let total: u32 = buckets.iter().sum();
            let intervals = buckets.len() as f64 / 200.0;
            let per_interval = f64::from(total) / intervals;
            // The jitter makes each interval a little longer or shorter, never the mean.
            assert!((9_800.0..10_200.0).contains(&per_interval), "{per_interval}");
            // 50 on average, of independent targets: a deviation of six sigma is a defect.
            let most = buckets.iter().max().copied().unwrap_or_default();
            assert!(most < 100, "{most} in 10 ms");
        }
    }

    proptest! {
        #[test]
        fn moments_are_neither_early_nor_late(
            seed: u64, target: u64, interval_ms in 0_u64..100_000, now_ms in 0_u64..1 << 40,
        ) {
            let pace = Pace::new(seed);
            let least_ms = interval_ms.max(PAUSE_MS);
            let first = pace.first(target, interval_ms, now_ms);
            prop_assert!((now_ms..now_ms + least_ms).contains(&first));
            let next = pace.settled(target, interval_ms, now_ms);
            prop_assert!(next >= now_ms + least_ms / 2);
            prop_assert!(next <= now_ms + 2 * least_ms);
            let soon = pace.in_doubt(target, interval_ms, now_ms);
            prop_assert!(soon >= now_ms + PAUSE_MS);
            prop_assert!(soon <= now_ms + (interval_ms / DOUBT_SHARE).max(PAUSE_MS) * 2);
        }

        #[test]
        fn the_schedule_agrees_with_a_list(
            steps in prop::collection::vec((0_u8..4, 0_u64..8, 0_u64..50), 1..200),
        ) {
            let mut schedule = Schedule::new(3);
            let mut list: Vec<(u64, u64)> = Vec::new();
            let mut under_way = 0_usize;
            for (step, target, time) in steps {
                match step {
                    0 => {
                        schedule.set(target, time);
                        list.retain(|(_, other)| *other != target);
                        list.push((time, target));
                    }
                    1 => {
                        schedule.cancel(target);
                        list.retain(|(_, other)| *other != target);
                    }
                    2 => {
                        let expected = list.iter().min().copied().filter(|(due, _)| *due <= time);
                        let expected = expected.filter(|_| under_way < 3);
                        let taken = schedule.take(time).map(|(target, due)| (due, target));
                        prop_assert_eq!(taken, expected);
                        if let Some(taken) = taken {
                            list.retain(|other| *other != taken);
                            under_way += 1;
                        }
                    }
                    _ => {
                        schedule.ended();
                        under_way = under_way.saturating_sub(1);
                    }
                }
                prop_assert_eq!(schedule.waiting(), list.len());
                prop_assert_eq!(schedule.in_flight(), under_way);
            }
        }
    }
}
