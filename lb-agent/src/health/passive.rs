//! Failures that the data path sees in the traffic: which are looked into, and what is made of them.
//! Pure; time is an argument.
//!
//! An observation takes nobody out by itself: clients can provoke it (`lb_common::engine::observe`
//! says how). It opens a case, in which this node tries to connect by itself, at once; a failure is
//! what both have seen. So one refused client is enough, and a thousand forged ones are not.

use std::collections::HashMap;

use super::{
    outcome::{Failure, FailureKind, Outcome},
    target::TargetKey,
};

/// Cases that are open at once; what is observed meanwhile is observed again.
const OPEN_MAX: usize = 64;
/// Time for which a backend is left in peace after a case: by provoking cases, nobody makes this node
/// a nuisance to it.
const REST_MS: u64 = 100;
/// Cases that are remembered.
const CASES_MAX: usize = 4096;

/// What the data path tells of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Whose.
    pub key: TargetKey,
    /// Its number in the data path.
    pub backend: u32,
    /// What was seen.
    pub sign: Sign,
}

/// What may be a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Sign {
    /// A SYN was answered by a reset.
    Refused,
    /// Several SYNs were not answered, and nothing else came either.
    Silent,
}

impl Sign {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Refused, Self::Silent];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
        }
    }
}

/// What is found out about a backend in a case.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What it began with.
    pub sign: Sign,
    /// What came of this node's own attempts to connect.
    pub outcomes: Vec<Outcome>,
    /// Packets of the backend to its clients before and after; `None`: nobody knows.
    pub packets: [Option<u64>; 2],
    /// Whether this node had time to do all that when it was to be done.
    pub is_timely: bool,
}

/// What is made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ruling {
    /// It has failed.
    Failed {
        /// Nobody listens at its port.
        is_refusing: bool,
    },
    /// Nothing that would be clear enough.
    Dismissed,
}

impl Ruling {
    /// What is said of who is taken out by it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Failed { is_refusing: true } => "refused connections, as the data path saw",
            Self::Failed { is_refusing: false } => "does not answer SYNs, as the data path saw",
            Self::Dismissed => "nothing",
        }
    }
}

/// Decides a case.
#[must_use]
pub fn judge(findings: &Findings) -> Ruling {
    let kinds = findings.outcomes.iter().map(|outcome| match outcome {
        Outcome::Failed(Failure { kind, .. }) => Some(*kind),
        Outcome::Passed(_) | Outcome::Inconclusive(_) => None,
    });
    let Some(kinds) = kinds.collect::<Option<Vec<_>>>() else { return Ruling::Dismissed };
    if kinds.contains(&FailureKind::Refused) {
        return Ruling::Failed { is_refusing: true };
    }
    let is_unanswered =
        |kind: &FailureKind| matches!(kind, FailureKind::Late | FailureKind::Unreachable);
    // A full backlog leaves SYNs unanswered while those who are in are served.
    let is_mute = matches!(findings.packets, [Some(before), Some(after)] if before == after);
    let is_silent = findings.sign == Sign::Silent
        && findings.is_timely
        && is_mute
        && !kinds.is_empty()
        && kinds.iter().all(is_unanswered);
    if is_silent { Ruling::Failed { is_refusing: false } } else { Ruling::Dismissed }
}

/// The cases there are.
#[derive(Debug, Default)]
pub struct Docket {
    cases: HashMap<TargetKey, Case>,
    open: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    Open,
    Rests { until_ms: u64 },
}

impl Docket {
    /// Whether a case is opened now; it has to be [`Self::close`]d, whatever comes of it.
    pub fn open(&mut self, key: TargetKey, now_ms: u64) -> bool {
        match self.cases.get(&key) {
            Some(Case::Open) => return false,
            Some(Case::Rests { until_ms }) if now_ms < *until_ms => return false,
            _ => {}
        }
        if self.cases.len() >= CASES_MAX {
            let is_over =
                |case: &Case| matches!(case, Case::Rests { until_ms } if *until_ms <= now_ms);
            self.cases.retain(|_, case| !is_over(case));
        }
        if self.open >= OPEN_MAX || self.cases.len() >= CASES_MAX {
            return false;
        }
        self.open += 1;
        self.cases.insert(key, Case::Open);
        true
    }

    /// The case is decided.
    pub fn close(&mut self, key: TargetKey, now_ms: u64) {
        if self.cases.insert(key, Case::Rests { until_ms: now_ms + REST_MS }) == Some(Case::Open) {
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts: `c` connected, `r` refused, `l` late, `u` unreachable, `w` reset, `?` not made.
    #[track_caller]
    fn check(
        sign: Sign,
        attempts: &str,
        packets: [Option<u64>; 2],
        is_timely: bool,
        expected: &str,
    ) {
        let outcomes = attempts.chars().map(|letter| match letter {
            'c' => Outcome::Passed("connected".into()),
            'r' => Outcome::failed(FailureKind::Refused, "connection refused"),
            'l' => Outcome::failed(FailureKind::Late, "no answer"),
            'u' => Outcome::failed(FailureKind::Unreachable, "no route to host"),
            'w' => Outcome::failed(FailureKind::Wrong, "connection reset"),
            _ => Outcome::Inconclusive("no descriptors".to_owned()),
        });
        let outcomes = outcomes.collect();
        let ruling = judge(&Findings { sign, outcomes, packets, is_timely });
        let word = ruling.text().split_once(',').map_or(ruling.text(), |(words, _)| words);
        assert_eq!(word, expected, "{sign:?} {attempts} {packets:?} {is_timely}");
    }

    const REFUSED: &str = "refused connections";
    const SILENT: &str = "does not answer SYNs";
    const MUTE: [Option<u64>; 2] = [Some(7), Some(7)];

    #[test]
    fn a_refusal_counts_when_this_node_is_refused_too() {
        check(Sign::Refused, "r", [None; 2], true, REFUSED);
        // Late or not: who refuses has answered.
        check(Sign::Refused, "r", MUTE, false, REFUSED);
        // Provoked by a client on a connection of its own.
        check(Sign::Refused, "c", MUTE, true, "nothing");
        for attempt in ["l", "u", "w", "?", ""] {
            check(Sign::Refused, attempt, MUTE, true, "nothing");
        }
    }

    #[test]
    fn silence_counts_when_nobody_hears_anything() {
        check(Sign::Silent, "lll", MUTE, true, SILENT);
        check(Sign::Silent, "ulu", MUTE, true, SILENT);
        check(Sign::Silent, "lrl", MUTE, true, REFUSED);
        // A firewall in the container for some clients, or forged SYNs.
        check(Sign::Silent, "c", MUTE, true, "nothing");
        check(Sign::Silent, "llc", MUTE, true, "nothing");
        check(Sign::Silent, "ll?", MUTE, true, "nothing");
        check(Sign::Silent, "llw", MUTE, true, "nothing");
        check(Sign::Silent, "", MUTE, true, "nothing");
        // A full backlog: those who are in are served.
        check(Sign::Silent, "lll", [Some(7), Some(8)], true, "nothing");
        check(Sign::Silent, "lll", [Some(7), None], true, "nothing");
        check(Sign::Silent, "lll", [None, None], true, "nothing");
        // This node had no time.
        check(Sign::Silent, "lll", MUTE, false, "nothing");
    }

    #[test]
    fn one_case_at_a_time_and_then_a_rest() {
        let mut docket = Docket::default();
        assert!(docket.open([1, 1], 1000));
        assert!(!docket.open([1, 1], 900_000), "it is open");
        assert!(docket.open([2, 1], 1000));
        docket.close([1, 1], 1100);
        assert!(!docket.open([1, 1], 1100 + REST_MS - 1));
        assert!(docket.open([1, 1], 1100 + REST_MS));
        assert_eq!(docket.open, 2);
        docket.close([3, 1], 1);
        assert_eq!(docket.open, 2, "that was none");
    }

    #[test]
    fn cases_are_bounded() {
        let mut docket = Docket::default();
        let opened = (0..1000).filter(|number| docket.open([*number, 1], 0)).count();
        assert_eq!(opened, OPEN_MAX);
        for number in 0..1000 {
            docket.close([number, 1], 0);
        }
        for number in 0..100_000 {
            let now_ms = number / 16;
            if docket.open([number, 2], now_ms) {
                docket.close([number, 2], now_ms);
            }
            assert!(docket.cases.len() <= CASES_MAX && docket.open == 0);
        }
        assert!(docket.open([1, 3], 100_000), "what has rested is forgotten");
    }
}
