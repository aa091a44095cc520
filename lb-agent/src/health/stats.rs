//! What the probes of each backend came to, for `lbctl` and metrics.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    outcome::Outcome,
    passive::{Ruling, Sign},
    target::TargetKey,
};
use crate::api::types::{BucketView, HistogramView, ProbesView};

/// Upper bounds of the buckets of durations; one more bucket takes the rest.
pub const BUCKETS_MS: [f64; 12] =
    [0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0];

/// Durations, of probes above all. Buckets are not cumulative.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Probes per bucket of [`BUCKETS_MS`]; the last one: longer than all.
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    /// Sum of all.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, duration: Duration) {
        let ms = duration.as_secs_f64() * 1000.0;
        let bucket = BUCKETS_MS.partition_point(|bound| *bound < ms);
        self.buckets[bucket] += 1;
        self.sum += duration;
    }

    /// Counts all that the other has counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own += others;
        }
        self.sum += other.sum;
    }

    /// With cumulative buckets, in seconds.
    pub fn view(&self) -> HistogramView {
        let mut count = 0;
        let bounds = BUCKETS_MS.iter().map(|bound| bound / 1000.0);
        let buckets = bounds.zip(self.buckets).map(|(up_to_seconds, here)| {
            count += here;
            BucketView { up_to_seconds, count }
        });
        HistogramView {
            buckets: buckets.collect(),
            count: self.buckets.iter().sum(),
            sum_seconds: self.sum.as_secs_f64(),
        }
    }
}

/// What the probes of one backend came to.
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeStats {
    /// Successes.
    pub passed: u64,
    /// Failures.
    pub failed: u64,
    /// Probes that could not be made.
    pub inconclusive: u64,
    /// What the latest probe, or the report of a failure, said.
    pub latest: Cow<'static, str>,
    /// Durations of successes and failures.
    pub durations: Histogram,
    /// Times that the state changed.
    pub changes: u64,
    /// When it changed last, in milliseconds since health began.
    pub since_ms: u64,
}

impl Default for ProbeStats {
    fn default() -> Self {
        Self {
            passed: 0,
            failed: 0,
            inconclusive: 0,
            latest: Cow::Borrowed("not probed yet"),
            durations: Histogram::default(),
            changes: 0,
            since_ms: 0,
        }
    }
}

/// Figures of the scheduler as a whole.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ScheduleStats {
    /// Targets that are probed.
    pub targets: u64,
    /// Probes under way.
    pub in_flight: u64,
    /// How much later than due probes were begun.
    pub lateness: Histogram,
}

/// What came of signs of one kind that the data path saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PassiveStats {
    /// Observations: each sign is told now and then while it lasts.
    pub observations: u64,
    /// Cases in which a backend had failed.
    pub failures: u64,
    /// Cases that came to nothing.
    pub dismissed: u64,
}

/// The figures of all backends: written by health, read by API and metrics.
#[derive(Debug, Default)]
pub struct Stats {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    targets: HashMap<TargetKey, ProbeStats>,
    /// Of all targets that there ever were.
    total: ProbeStats,
    schedule: ScheduleStats,
    passive: BTreeMap<Sign, PassiveStats>,
}

impl Stats {
    /// Figures of one backend.
    pub fn of(&self, key: TargetKey) -> Option<ProbeStats> {
        self.lock().targets.get(&key).cloned()
    }

    /// Figures of all backends that there ever were together, and of the scheduler.
    pub fn total(&self) -> (ProbeStats, ScheduleStats) {
        let inner = self.lock();
        (inner.total.clone(), inner.schedule.clone())
    }

    /// The same, for people and metrics.
    pub fn view(&self) -> ProbesView {
        let (total, schedule) = self.total();
        ProbesView {
            targets: schedule.targets,
            in_flight: schedule.in_flight,
            passed: total.passed,
            failed: total.failed,
            inconclusive: total.inconclusive,
            changes: total.changes,
            durations: total.durations.view(),
            lateness: schedule.lateness.view(),
        }
    }

    /// Figures of what the data path saw, by sign.
    pub fn passive(&self) -> BTreeMap<Sign, PassiveStats> {
        self.lock().passive.clone()
    }

    /// Counts an observation.
    pub(super) fn observed(&self, sign: Sign) {
        self.lock().passive.entry(sign).or_default().observations += 1;
    }

    /// Counts a case.
    pub(super) fn ruled(&self, sign: Sign, ruling: Ruling) {
        let mut inner = self.lock();
        let stats = inner.passive.entry(sign).or_default();
        match ruling {
            Ruling::Failed { .. } => stats.failures += 1,
            Ruling::Dismissed => stats.dismissed += 1,
        }
    }

    /// Counts a result.
    pub(super) fn count(&self, key: TargetKey, outcome: &Outcome, duration: Duration) {
        let inner = &mut *self.lock();
        let stats = inner.targets.entry(key).or_default();
        for stats in [&mut *stats, &mut inner.total] {
            match outcome {
                Outcome::Passed(_) => stats.passed += 1,
                Outcome::Failed(_) => stats.failed += 1,
                Outcome::Inconclusive(_) => stats.inconclusive += 1,
            }
            if !matches!(outcome, Outcome::Inconclusive(_)) {
                stats.durations.observe(duration);
            }
        }
        if stats.latest != outcome.text() {
            stats.latest = match outcome {
                Outcome::Passed(text) => text.clone(),
                Outcome::Failed(failure) => failure.text.clone(),
                Outcome::Inconclusive(text) => Cow::Owned(text.clone()),
            };
        }
    }

    /// Notes a change of state, and what caused it.
    pub(super) fn changed(&self, key: TargetKey, cause: &str, now_ms: u64) {
        let inner = &mut *self.lock();
        inner.total.changes += 1;
        let stats = inner.targets.entry(key).or_default();
        stats.changes += 1;
        stats.since_ms = now_ms;
        if stats.latest != cause {
            stats.latest = Cow::Owned(cause.to_owned());
        }
    }

    /// Counts how much later than due a probe was begun.
    pub(super) fn begun(&self, lateness: Duration) {
        self.lock().schedule.lateness.observe(lateness);
    }

    /// Notes how many probes are under way.
    pub(super) fn set_in_flight(&self, in_flight: usize) {
        self.lock().schedule.in_flight = in_flight as u64;
    }

    /// Forgets all but these.
    pub(super) fn retain(&self, targets: usize, is_kept: impl Fn(TargetKey) -> bool) {
        let mut inner = self.lock();
        inner.targets.retain(|key, _| is_kept(*key));
        inner.schedule.targets = targets as u64;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters are right whatever happened between two of them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::outcome::FailureKind;

    #[test]
    fn durations_fall_into_their_buckets() {
        let mut histogram = Histogram::default();
        for micros in [1, 250, 251, 999_000, 5_000_000, 5_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.buckets.iter().sum::<u64>(), 12);
        assert_eq!(twice.sum, histogram.sum * 2);
    }

    #[test]
    fn what_could_not_be_probed_is_counted_apart() {
        let stats = Stats::default();
        let second = Duration::from_secs(1);
        stats.count([1, 1], &Outcome::Passed("200 OK".into()), second);
        stats.count([1, 1], &Outcome::failed(FailureKind::Late, "no answer"), second);
        stats.count([1, 1], &Outcome::Inconclusive("no sockets".to_owned()), second);
        stats.count([2, 2], &Outcome::Passed("200 OK".into()), second);
        let one = stats.of([1, 1]).expect("it was counted");
        assert_eq!((one.passed, one.failed, one.inconclusive), (1, 1, 1));
        assert_eq!((one.latest.as_ref(), one.durations.sum), ("no sockets", 2 * second));
        assert_eq!(stats.total().0.passed, 2);
        stats.retain(1, |key| key == [2, 2]);
        assert_eq!(stats.of([1, 1]), None);
        // What was counted stays counted.
        assert_eq!((stats.total().0.passed, stats.total().1.targets), (2, 1));
        let view = stats.view().durations;
        let bucket = view.buckets.iter().find(|bucket| bucket.up_to_seconds >= 1.0);
        assert_eq!(bucket, Some(&BucketView { up_to_seconds: 1.0, count: 3 }));
        assert_eq!((view.count, view.sum_seconds), (3, 3.0));
    }
}
