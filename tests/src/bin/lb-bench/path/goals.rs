//! What calls by a VIP are to reach against direct ones, and whether they did. Pure.
//!
//! A goal leaves less room than a busy machine makes noise. So each figure comes with another: what the
//! same measurement finds between rows that all are direct, and that says how much to believe.

use std::fmt;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// A ratio to the direct way, which is 1 where the VIP costs nothing.
    RatioAtLeast(f64),
    /// Microseconds more than on the direct way.
    AddedAtMost(f64),
}

/// Of whatever is carried in a second.
pub(super) const CARRIED: Goal = Goal::RatioAtLeast(0.98);
/// Of a `connect`.
pub(super) const CONNECT: Goal = Goal::AddedAtMost(1.0);

impl Goal {
    fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::RatioAtLeast(least) => figure >= least,
            Self::AddedAtMost(most) => figure <= most,
        }
    }

    /// How far a figure is from the one of a way that costs nothing.
    fn deviation(self, figure: f64) -> f64 {
        let ideal = match self {
            Self::RatioAtLeast(_) => 1.0,
            Self::AddedAtMost(_) => 0.0,
        };
        // What was not measured bounds nothing.
        if figure.is_nan() { f64::INFINITY } else { (figure - ideal).abs() }
    }

    /// Whether a figure of which nothing but chance decides is further off than the goal allows.
    fn is_beyond(self, noise: f64) -> bool {
        let (Self::RatioAtLeast(margin) | Self::AddedAtMost(margin)) = self;
        self.deviation(noise) > self.deviation(margin)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtLeast(least) => write!(formatter, ">= {least}"),
            Self::AddedAtMost(most) => write!(formatter, "<= {most} µs"),
        }
    }
}

/// A figure that has a goal.
pub(super) struct Judged {
    /// Of what.
    pub(super) name: String,
    /// What it is by the VIP.
    pub(super) figure: f64,
    /// What it is for other direct rows, by their names: the noise.
    pub(super) controls: Vec<(&'static str, f64)>,
    /// What it is to be.
    pub(super) goal: Goal,
}

impl fmt::Display for Judged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, figure, controls, goal } = self;
        let verdict = if goal.is_met_by(*figure) { "met" } else { "MISSED" };
        let goal_text = goal.to_string();
        write!(formatter, "{name:<36} {figure:>7.3}  goal {goal_text:<8}  {verdict}")?;
        let by_deviation = |one: &&(&str, f64), other: &&(&str, f64)| {
            goal.deviation(one.1).total_cmp(&goal.deviation(other.1))
        };
        match controls.iter().max_by(by_deviation) {
            Some((row, noise)) if goal.is_beyond(*noise) => {
                let known = "the noise alone is more than the goal allows";
                write!(formatter, "; {known}, `{row}` is {noise:.3}")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(goal: Goal, figure: f64, noise: f64, expected: &str) {
        check_all(goal, figure, &[("direct again", noise)], expected);
    }

    #[track_caller]
    fn check_all(goal: Goal, figure: f64, controls: &[(&'static str, f64)], expected: &str) {
        let judged = Judged { name: "row".to_owned(), figure, controls: controls.to_vec(), goal };
        let line = judged.to_string();
        let said = line.split_once("  goal ").map(|(_, rest)| rest);
        let words: Option<Vec<&str>> = said.map(|it| it.split_whitespace().collect());
        assert_eq!(words.map(|it| it.join(" ")).as_deref(), Some(expected), "{line}");
    }

    #[test]
    fn a_verdict_names_the_noise_that_is_larger_than_the_goal_allows() {
        let noisy = |noise: &str| {
            format!("; the noise alone is more than the goal allows, `direct again` is {noise}")
        };
        let ratio = |figure, noise, expected: &str| check(CARRIED, figure, noise, expected);
        ratio(1.0, 1.0, ">= 0.98 met");
        ratio(0.98, 1.0, ">= 0.98 met");
        ratio(0.9799, 1.0, ">= 0.98 MISSED");
        ratio(1.2, 1.019, ">= 0.98 met");
        ratio(0.99, 0.98, ">= 0.98 met");
        ratio(0.97, 0.98, ">= 0.98 MISSED");
        ratio(0.97, 0.979, &format!(">= 0.98 MISSED{}", noisy("0.979")));
        ratio(0.97, 1.021, &format!(">= 0.98 MISSED{}", noisy("1.021")));
        ratio(0.99, 0.9, &format!(">= 0.98 met{}", noisy("0.900")));
        ratio(f64::NAN, 1.0, ">= 0.98 MISSED");
        ratio(1.0, f64::NAN, &format!(">= 0.98 met{}", noisy("NaN")));

        let added = |figure, noise, expected: &str| check(CONNECT, figure, noise, expected);
        added(0.4, 0.0, "<= 1 µs met");
        added(-0.4, 0.9, "<= 1 µs met");
        added(1.0, -1.0, "<= 1 µs met");
        added(1.001, 1.0, "<= 1 µs MISSED");
        added(7.0, 0.1, "<= 1 µs MISSED");
        added(1.5, 1.4, &format!("<= 1 µs MISSED{}", noisy("1.400")));
        added(0.5, -3.0, &format!("<= 1 µs met{}", noisy("-3.000")));
        added(f64::NAN, 0.0, "<= 1 µs MISSED");
    }

    #[test]
    fn of_several_controls_the_one_that_is_furthest_off_counts() {
        let check = |again: f64, backend: f64, noisy: Option<&str>| {
            let noisy = noisy.map_or_else(String::new, |noisy| {
                format!("; the noise alone is more than the goal allows, {noisy}")
            });
            let expected = format!(">= 0.98 MISSED{noisy}");
            check_all(CARRIED, 0.97, &[("again", again), ("a backend", backend)], &expected);
        };
        check(1.0, 1.0, None);
        check(0.98, 1.019, None);
        check(1.0, 0.97, Some("`a backend` is 0.970"));
        check(1.04, 1.0, Some("`again` is 1.040"));
        check(1.03, 0.96, Some("`a backend` is 0.960"));
        check(1.04, 0.97, Some("`again` is 1.040"));
        check(1.0, f64::NAN, Some("`a backend` is NaN"));
        check(f64::NAN, 0.9, Some("`again` is NaN"));
    }

    #[test]
    fn a_line_says_what_it_is_about() {
        let name = "down Gbit/s, ratio to direct".to_owned();
        let controls = vec![("direct again", 1.004)];
        let judged = Judged { name, figure: 0.9914, controls, goal: CARRIED };
        assert_eq!(
            judged.to_string(),
            "down Gbit/s, ratio to direct           0.991  goal >= 0.98   met"
        );
    }
}
