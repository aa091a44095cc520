//! What came of the probes of one kind, and whether that is what is asked for. Pure.

use std::time::Duration;

use lb_agent::health::stats::{BUCKETS_MS, Histogram, ProbeStats, ScheduleStats};

/// Probes per second that are to take one core at most: 10,000 every 2 s.
const GOAL_PER_SECOND: f64 = 5000.0;
/// Share of the probes that were due which are to have been made: those at the ends of the time that is
/// measured may be on either side.
const MADE_MIN: f64 = 0.99;
/// A probe that begins later is late. It is less than a sixteenth of two seconds, by which moments differ
/// on purpose.
const LATE_MS: f64 = 100.0;

/// What the prober has counted so far.
pub(super) type Total = (ProbeStats, ScheduleStats);

/// Of the time that is measured.
pub(super) struct Figures {
    per_second: f64,
    wanted_per_second: f64,
    failed: u64,
    /// Could not be made.
    lost: u64,
    late: u64,
    percent_of_core: f64,
    micros_per_probe: f64,
    durations: Histogram,
    lateness: Histogram,
}

impl Figures {
    /// Of what was counted between two moments, and of the processor time that was used meanwhile.
    pub(super) fn new(
        [before, after]: [&Total; 2],
        used: Duration,
        seconds: f64,
        wanted_per_second: f64,
    ) -> Self {
        let failed = after.0.failed - before.0.failed;
        let lost = after.0.inconclusive - before.0.inconclusive;
        let probes = (after.0.passed - before.0.passed + failed + lost) as f64;
        let lateness = since(&before.1.lateness, &after.1.lateness);
        Self {
            per_second: probes / seconds,
            wanted_per_second,
            failed,
            lost,
            late: later_than(&lateness, LATE_MS),
            percent_of_core: used.as_secs_f64() / seconds * 100.0,
            micros_per_probe: used.as_secs_f64() * 1e6 / probes,
            durations: since(&before.0.durations, &after.0.durations),
            lateness,
        }
    }

    /// The names of the columns.
    pub(super) fn heads() -> String {
        format!(
            "{:>9} {:>7} {:>6} {:>6} {:>9} {:>9} {:>11} {:>12}",
            "probes/s",
            "failed",
            "lost",
            "late",
            "% of core",
            "us/probe",
            "p99 time",
            "p99 lateness"
        )
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:>9.0} {:>7} {:>6} {:>6} {:>9.1} {:>9.1} {:>11} {:>12}",
            self.per_second,
            self.failed,
            self.lost,
            self.late,
            self.percent_of_core,
            self.micros_per_probe,
            p99(&self.durations),
            p99(&self.lateness),
        )
    }

    /// Whether all probes were made in time, by one core at most, where as many were asked for as there
    /// is a goal for.
    pub(super) fn verdict(&self) -> String {
        if self.wanted_per_second < GOAL_PER_SECOND {
            return format!("the goal is of {GOAL_PER_SECOND} probes/s");
        }
        let wanted = self.wanted_per_second;
        let is_slow = self.per_second < wanted * MADE_MIN;
        let missed = [
            is_slow.then(|| format!("{:.0} of {wanted:.0} probes/s", self.per_second)),
            (self.percent_of_core > 100.0).then(|| "more than a core".to_owned()),
            (self.late > 0).then(|| format!("{} late", self.late)),
            (self.failed > 0).then(|| format!("{} failed", self.failed)),
            (self.lost > 0).then(|| format!("{} lost", self.lost)),
        ];
        let missed: Vec<String> = missed.into_iter().flatten().collect();
        if missed.is_empty() { "met".to_owned() } else { format!("MISSED: {}", missed.join(", ")) }
    }
}

/// What was counted in between.
fn since(before: &Histogram, after: &Histogram) -> Histogram {
    let mut between = after.clone();
    for (bucket, earlier) in between.buckets.iter_mut().zip(before.buckets) {
        *bucket -= earlier;
    }
    between.sum = after.sum.saturating_sub(before.sum);
    between
}

/// How many exceed the bound of a bucket.
fn later_than(histogram: &Histogram, bound_ms: f64) -> u64 {
    let first = BUCKETS_MS.partition_point(|bound| *bound <= bound_ms);
    histogram.buckets[first..].iter().sum()
}

/// The bucket that 99 of 100 do not exceed.
fn p99(histogram: &Histogram) -> String {
    let total: u64 = histogram.buckets.iter().sum();
    let mut sum = 0;
    for (bucket, bound) in histogram.buckets.iter().zip(BUCKETS_MS) {
        sum += bucket;
        if sum * 100 >= total * 99 {
            return format!("<= {bound} ms");
        }
    }
    "more".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lateness(ms: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for ms in ms {
            histogram.observe(Duration::from_millis(*ms));
        }
        histogram
    }

    /// Of ten seconds: `made` are passed, failed and lost probes, `late` how late some of them were.
    #[track_caller]
    fn check(name: &str, made: [u64; 3], late: &[u64], cpu_ms: u64, wanted: f64, expected: &str) {
        let total = |made: [u64; 3], late: &[u64]| {
            let [passed, failed, inconclusive] = made;
            let probes = ProbeStats { passed, failed, inconclusive, ..ProbeStats::default() };
            (probes, ScheduleStats { lateness: lateness(late), ..ScheduleStats::default() })
        };
        // What was before does not count.
        let earlier = [7, 8, 9];
        let before = total(earlier, &[4000]);
        let after = total(
            std::array::from_fn(|index| earlier[index] + made[index]),
            &[late, &[4000]].concat(),
        );
        let used = Duration::from_millis(cpu_ms);
        let figures = Figures::new([&before, &after], used, 10.0, wanted);
        assert_eq!(figures.verdict(), expected, "{name}");
    }

    #[test]
    fn the_goal_is_all_of_them_in_time_by_one_core() {
        check("in time", [50_000, 0, 0], &[0, 1, 100], 9_000, 5000.0, "met");
        check("some at the end", [49_600, 0, 0], &[], 10_000, 5000.0, "met");
        check("more than the goal asks for", [80_000, 0, 0], &[], 9_000, 8000.0, "met");
        check("too few made", [40_000, 0, 0], &[], 9_000, 5000.0, "MISSED: 4000 of 5000 probes/s");
        check("two cores", [50_000, 0, 0], &[], 10_100, 5000.0, "MISSED: more than a core");
        check("late", [50_000, 0, 0], &[99, 101, 6000], 9_000, 5000.0, "MISSED: 2 late");
        check("failed", [49_999, 1, 0], &[], 9_000, 5000.0, "MISSED: 1 failed");
        let all = "MISSED: 2000 of 5000 probes/s, more than a core, 1 late, 2 failed, 3 lost";
        check("all at once", [19_995, 2, 3], &[200], 11_000, 5000.0, all);
        check("fewer", [500, 0, 0], &[200], 9, 50.0, "the goal is of 5000 probes/s");
    }

    #[test]
    fn ninety_nine_of_a_hundred_do_not_exceed_it() {
        let mostly = |rest: u64| lateness(&[vec![3; 99], vec![rest]].concat());
        for (name, histogram, expected) in [
            ("one is longer", mostly(5001), "<= 5 ms"),
            ("the others, too", lateness(&[5001]), "more"),
            ("exactly a bound", lateness(&[50]), "<= 50 ms"),
        ] {
            assert_eq!(p99(&histogram), expected, "{name}");
        }
    }
}
