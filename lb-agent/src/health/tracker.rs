//! One backend's health: which results in a row make it healthy or unhealthy. Pure.
//!
//! Only *consecutive* results count: one result of the other kind begins anew. A backend that has
//! just become healthy and fails again is flapping, and each time it has to pass twice as often as
//! before to come back.

/// A backend that fails this soon after it has become healthy is flapping.
const FLAP_WINDOW_MS: u64 = 60_000;
/// Failures in a row after which a backend that has never been healthy is looked at no more often
/// than others: until then it may just be slow to start.
const EAGER_RESULTS: u16 = 100;
/// Most doublings of the successes that a flapping backend needs.
const FLAP_DOUBLINGS_MAX: u8 = 4;

/// Whether a backend may get traffic, as far as probes know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Health {
    /// Has neither passed nor failed often enough yet.
    Starting,
    /// Passes.
    Healthy,
    /// Fails.
    Unhealthy,
}

/// Consecutive results that change the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Successes that make a backend healthy; 0 is 1.
    pub rise: u16,
    /// Failures that make a backend unhealthy; 0 is 1.
    pub fall: u16,
}

/// One backend's health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracker {
    health: Health,
    /// Whether the latest result was a success, and how many like it came in a row.
    latest: bool,
    run: u16,
    was_healthy: bool,
    rose_at_ms: Option<u64>,
    flap_doublings: u8,
}

impl Tracker {
    /// Begins with a state that was known before, or [`Health::Starting`]. Who is known to be unhealthy
    /// was healthy once.
    pub fn new(health: Health) -> Self {
        Self {
            health,
            latest: false,
            run: 0,
            was_healthy: health != Health::Starting,
            rose_at_ms: None,
            flap_doublings: 0,
        }
    }

    /// The state.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether it has ever been healthy.
    pub fn was_healthy(&self) -> bool {
        self.was_healthy
    }

    /// Whether the latest results speak against the state: look again soon.
    pub fn is_in_doubt(&self) -> bool {
        match self.health {
            Health::Starting => true,
            Health::Healthy => self.run > 0 && !self.latest,
            Health::Unhealthy => {
                let is_eagerly_awaited = !self.was_healthy && self.run < EAGER_RESULTS;
                is_eagerly_awaited || (self.run > 0 && self.latest)
            }
        }
    }

    /// Successes that an unhealthy backend needs in a row.
    pub fn rise_needed(&self, rules: Rules) -> u16 {
        rules.rise.max(1).saturating_mul(1 << self.flap_doublings)
    }

    /// Takes a result in. True: the state has changed.
    pub fn take(&mut self, passed: bool, rules: Rules, now_ms: u64) -> bool {
        self.run = if self.latest == passed { self.run.saturating_add(1) } else { 1 };
        self.latest = passed;
        let needed = if passed { self.rise_needed(rules) } else { rules.fall.max(1) };
        let next = if passed { Health::Healthy } else { Health::Unhealthy };
        self.run >= needed && self.change(next, now_ms)
    }

    /// Knows the state from elsewhere, at once. True: it has changed.
    pub fn set(&mut self, health: Health, now_ms: u64) -> bool {
        self.run = 0;
        self.change(health, now_ms)
    }

    /// Keeps the state, and begins to count anew: the probe is another one.
    pub fn restart(&mut self) {
        self.run = 0;
        self.flap_doublings = 0;
    }

    fn change(&mut self, health: Health, now_ms: u64) -> bool {
        if self.health == health {
            return false;
        }
        match health {
            Health::Healthy => {
                self.rose_at_ms = Some(now_ms);
                self.was_healthy = true;
            }
            Health::Unhealthy => {
                let stayed_ms = self.rose_at_ms.map(|rose| now_ms.saturating_sub(rose));
                let is_flap = stayed_ms.is_some_and(|stayed_ms| stayed_ms < FLAP_WINDOW_MS);
                self.flap_doublings =
                    if is_flap { (self.flap_doublings + 1).min(FLAP_DOUBLINGS_MAX) } else { 0 };
            }
            Health::Starting => {}
        }
        self.health = health;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { rise: 2, fall: 3 };

    /// Results as `+` and `-`, a second apart; the states after each.
    #[track_caller]
    fn check(first: Health, results: &str, expected: &str) {
        let mut tracker = Tracker::new(first);
        let mut states = String::new();
        for (second, result) in (0..).zip(results.chars()) {
            tracker.take(result == '+', RULES, second * 1000);
            states.push(match tracker.health() {
                Health::Starting => 's',
                Health::Healthy => 'H',
                Health::Unhealthy => 'u',
            });
        }
        assert_eq!(states, expected, "{first:?} {results}");
    }

    #[test]
    fn consecutive_results_count() {
        use Health::{Healthy, Starting, Unhealthy};
        check(Starting, "++", "sH");
        check(Starting, "---", "ssu");
        check(Starting, "+-+-+-++", "sssssssH");
        check(Starting, "--+--+---", "ssssssssu");
        check(Healthy, "--+--+--+", "HHHHHHHHH");
        check(Healthy, "---+-++", "HHuuuuH");
        check(Unhealthy, "+-+-+-", "uuuuuu");
        check(Unhealthy, "-------++", "uuuuuuuuH");
    }

    #[test]
    fn who_flaps_has_to_pass_twice_as_often_each_time() {
        use Health::{Healthy, Starting};
        check(Starting, "++---++++---++++++++", "sHHHuuuuHHHuuuuuuuuH");
        // Not a flap: healthy for longer than the window.
        let long = "+".repeat(70);
        let expected = format!("HHu{}{}uuH", "u", "H".repeat(69) + "HH");
        check(Healthy, &format!("---{long}---++"), &expected);
    }

    #[test]
    fn doubt_is_a_result_against_the_state() {
        let mut tracker = Tracker::new(Health::Healthy);
        assert!(!tracker.is_in_doubt());
        for (passed, doubt) in [(true, false), (false, true), (true, false), (false, true)] {
            tracker.take(passed, RULES, 0);
            assert_eq!(tracker.is_in_doubt(), doubt);
        }
        tracker.take(false, RULES, 0);
        assert!(tracker.take(false, RULES, 0));
        assert!(!tracker.is_in_doubt(), "it is known to be unhealthy");
        assert!(Tracker::new(Health::Starting).is_in_doubt());
    }

    #[test]
    fn who_has_never_been_healthy_is_awaited_for_a_while() {
        let mut tracker = Tracker::new(Health::Starting);
        for _ in 1..EAGER_RESULTS {
            tracker.take(false, RULES, 0);
            assert!(tracker.is_in_doubt());
        }
        tracker.take(false, RULES, 0);
        assert!(!tracker.is_in_doubt());
        assert_eq!(tracker.health(), Health::Unhealthy);
    }

    #[test]
    fn no_number_is_too_small_or_too_large() {
        for (rise, fall) in [(0, 0), (1, 1)] {
            let mut tracker = Tracker::new(Health::Starting);
            assert!(tracker.take(true, Rules { rise, fall }, 0));
            assert!(tracker.take(false, Rules { rise, fall }, u64::MAX));
        }
        let mut tracker = Tracker::new(Health::Starting);
        let rules = Rules { rise: u16::MAX, fall: u16::MAX };
        for _ in 1..u16::MAX {
            assert!(!tracker.take(true, rules, 0));
        }
        assert!(tracker.take(true, rules, 0));
        assert!(!tracker.take(true, rules, 0), "already healthy");
    }

    /// All results so far, looked at anew each time.
    fn naive(first: Health, results: &[(bool, u64)], rules: Rules) -> Vec<Health> {
        let mut states = Vec::new();
        let (mut health, mut rose_at_ms, mut doublings) = (first, None, 0);
        for (index, (passed, now_ms)) in results.iter().enumerate() {
            let same = results[..=index].iter().rev().take_while(|it| it.0 == *passed).count();
            let rise = usize::from(rules.rise.max(1)) << doublings;
            let fall = usize::from(rules.fall.max(1));
            match (health, *passed) {
                (Health::Starting | Health::Unhealthy, true) if same >= rise => {
                    (health, rose_at_ms) = (Health::Healthy, Some(*now_ms));
                }
                (Health::Starting | Health::Healthy, false) if same >= fall => {
                    let is_flap = rose_at_ms.is_some_and(|rose| now_ms - rose < FLAP_WINDOW_MS);
                    doublings = if is_flap { (doublings + 1).min(FLAP_DOUBLINGS_MAX) } else { 0 };
                    health = Health::Unhealthy;
                }
                _ => {}
            }
            states.push(health);
        }
        states
    }

    proptest! {
        #[test]
        fn tracker_agrees_with_the_naive_model(
            first in prop_oneof![
                Just(Health::Starting), Just(Health::Healthy), Just(Health::Unhealthy)
            ],
            results in prop::collection::vec((prop::bool::weighted(0.6), 0_u64..20_000), 0..200),
            rise in 0_u16..5,
            fall in 0_u16..5,
        ) {
            let rules = Rules { rise, fall };
            let mut now_ms = 0;
            let timed: Vec<(bool, u64)> = results
                .into_iter()
                .map(|(passed, wait_ms)| { now_ms += wait_ms; (passed, now_ms) })
                .collect();
            let mut tracker = Tracker::new(first);
            let mut before = first;
            for ((passed, now_ms), expected) in timed.iter().zip(naive(first, &timed, rules)) {
                let changed = tracker.take(*passed, rules, *now_ms);
                prop_assert_eq!(tracker.health(), expected);
                prop_assert_eq!(changed, before != expected);
                before = expected;
            }
        }
    }
}
