//! How many probes of one container are under way, and which of its targets wait for others to end.
//! Pure.
//!
//! Whoever may start a container may ask for hundreds of probes that never answer. Without this they
//! would take all places there are, and nobody else would be probed.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::schedule::TargetNumber;

/// Probes of one container under way at once.
pub(super) const UNDER_WAY_MAX: usize = 16;

/// Whose probes count together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Party(u64);

impl Party {
    /// All targets of one run of a container; `None` for what is no container.
    pub(super) fn of(instance: &str) -> Option<Self> {
        if instance.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        instance.hash(&mut hasher);
        Some(Self(hasher.finish()))
    }
}

/// Who has how many turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    parties: HashMap<Party, Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    under_way: usize,
    /// Who waits, and since when it is due. Nobody waits while nothing is under way.
    waiting: VecDeque<(TargetNumber, u64)>,
    is_waiting: HashSet<TargetNumber>,
}

impl Turns {
    /// A target is due. False: it has to wait for another of its party to end.
    pub(super) fn begin(&mut self, party: Party, target: TargetNumber, due_ms: u64) -> bool {
        let turn = self.parties.entry(party).or_default();
        if turn.under_way < UNDER_WAY_MAX {
            turn.under_way += 1;
            return true;
        }
        if turn.is_waiting.insert(target) {
            turn.waiting.push_back((target, due_ms));
        }
        false
    }

    /// A probe has ended. Returns who has waited longest for that, and since when: as many as may
    /// begin. Some may be targets no longer, so with the last probe all are returned.
    pub(super) fn end(&mut self, party: Party) -> Vec<(TargetNumber, u64)> {
        let Some(turn) = self.parties.get_mut(&party) else { return Vec::new() };
        turn.under_way = turn.under_way.saturating_sub(1);
        if turn.under_way == 0 {
            let turn = self.parties.remove(&party);
            return turn.map(|turn| turn.waiting.into()).unwrap_or_default();
        }
        let free = UNDER_WAY_MAX - turn.under_way;
        let next: Vec<_> = turn.waiting.drain(..free.min(turn.waiting.len())).collect();
        for (target, _) in &next {
            turn.is_waiting.remove(target);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With ten thousand who wait, each end is about a few of them; and all get their turn, whoever
    /// is a target no longer.
    #[test]
    fn everybody_gets_a_turn_and_an_end_costs_little() {
        const ALL: u64 = 10_000;
        let party = Party::of("web").expect("a container");
        for is_target in
            [|_: u64| true, |target: u64| target.is_multiple_of(3), |target: u64| target > 9000]
        {
            let mut turns = Turns::default();
            let mut under_way: VecDeque<u64> = VecDeque::new();
            let (mut begun, mut woken) = (Vec::new(), 0);
            for target in 0..ALL {
                for _ in 0..2 {
                    if turns.begin(party, target, target) {
                        under_way.push_back(target);
                        begun.push(target);
                        break;
                    }
                }
            }
            assert_eq!(under_way.len(), UNDER_WAY_MAX);
            while under_way.pop_front().is_some() {
                let next = turns.end(party);
                woken += next.len();
                for (target, due_ms) in next.into_iter().filter(|(target, _)| is_target(*target)) {
                    assert_eq!(due_ms, target);
                    if turns.begin(party, target, due_ms) {
                        under_way.push_back(target);
                        begun.push(target);
                    }
                }
                assert!(under_way.len() <= UNDER_WAY_MAX);
            }
            begun.sort_unstable();
            let expected = (0..ALL).filter(|it| *it < UNDER_WAY_MAX as u64 || is_target(*it));
            assert!(begun.iter().copied().eq(expected), "{}", begun.len());
            assert!(woken < 2 * ALL as usize, "{woken}");
            assert!(turns.parties.is_empty());
        }
    }
}
