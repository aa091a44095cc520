//! Numbers of services and backends: which one is next, and how long a retired one has been out of
//! every reader's sight.
//!
//! A number stays taken in the kernel until nothing has referred to it for the whole quarantine; so
//! whatever is free there is free for every reader, also for a successor of this agent.

use std::{collections::BTreeMap, ops::RangeInclusive};

use lb_common::abi::{MAX_BACKENDS, Slot};

/// Hands out numbers in turn, so that one that became free is used again as late as possible.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    range: RangeInclusive<u32>,
    last: Option<u32>,
}

impl Turn {
    pub(super) fn new(range: RangeInclusive<u32>) -> Self {
        Self { range, last: None }
    }

    /// Goes on behind the greatest number that was ever used.
    pub(super) fn start_behind(&mut self, used: impl Iterator<Item = u32>) {
        if self.last.is_none() {
            self.last = used.max();
        }
    }

    /// The next number that is not taken.
    pub(super) fn next(&mut self, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
        let (first, end) = (*self.range.start(), *self.range.end());
        let begin = self.last.map_or(first, |last| last.saturating_add(1)).clamp(first, end);
        let found = (begin..=end).chain(first..begin).find(|number| !is_taken(*number))?;
        self.last = Some(found);
        Some(found)
    }
}

/// Since when each retired number has been unused. A number that is used again, or is not asked for
/// in one pass, starts anew.
#[derive(Clone, Debug)]
pub(super) struct Clocks<K = u32> {
    quarantine_ms: u64,
    previous: BTreeMap<K, u64>,
    current: BTreeMap<K, u64>,
}

impl<K: Ord> Clocks<K> {
    pub(super) fn new(quarantine_ms: u64) -> Self {
        Self { quarantine_ms, previous: BTreeMap::new(), current: BTreeMap::new() }
    }

    /// Opens a pass.
    pub(super) fn begin(&mut self) {
        self.previous = std::mem::take(&mut self.current);
    }

    /// Says that a number is unused, and hears whether it has been for the whole quarantine.
    pub(super) fn is_over(&mut self, number: K, now_ms: u64) -> bool {
        let since_ms = self.previous.get(&number).copied().unwrap_or(now_ms);
        self.current.insert(number, since_ms);
        now_ms.saturating_sub(since_ms) >= self.quarantine_ms
    }

    /// When the next quarantine is over, of those that are not.
    pub(super) fn next_over_ms(&self, now_ms: u64) -> Option<u64> {
        let ends = self.current.values().map(|since_ms| since_ms + self.quarantine_ms);
        ends.filter(|end_ms| *end_ms > now_ms).min()
    }
}

/// The generation after this one; 0 is never used.
pub(super) fn next_generation(last: Option<u32>) -> u32 {
    match last.unwrap_or(0).wrapping_add(1) {
        0 => 1,
        generation => generation,
    }
}

/// A set of backend numbers.
#[derive(Debug)]
pub(super) struct NumberSet(Vec<u64>);

impl NumberSet {
    pub(super) fn new() -> Self {
        Self(vec![0; MAX_BACKENDS as usize / 64 + 1])
    }

    /// Whether the number was not in the set. Numbers that no backend can have are not kept.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let Some(word) = self.0.get_mut(number as usize / 64) else { return false };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn remove(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// The numbers that slots refer to, each once, without "none". Leaves the set as it was: empty.
    pub(super) fn of_slots(&mut self, slots: &[Slot]) -> Vec<u32> {
        let mut numbers = Vec::new();
        for slot in slots {
            for number in [slot.cur(), slot.old()] {
                if number != lb_common::abi::BACKEND_NONE && self.insert(number) {
                    numbers.push(number);
                }
            }
        }
        for number in &numbers {
            self.remove(*number);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Slot;

    use super::{Clocks, NumberSet, Turn, next_generation};

    #[test]
    fn numbers_come_in_turn() {
        let mut turn = Turn::new(1..=4);
        let mut next = |taken: &[u32]| turn.next(|number| taken.contains(&number));
        assert_eq!(next(&[]), Some(1));
        assert_eq!(next(&[]), Some(2));
        assert_eq!(next(&[3]), Some(4));
        assert_eq!(next(&[1, 4]), Some(2));
        assert_eq!(next(&[1, 2, 3, 4]), None);
        assert_eq!(next(&[1, 2, 4]), Some(3));
    }

    #[test]
    fn after_a_restart_the_turn_goes_on() {
        let mut turn = Turn::new(0..=9);
        turn.start_behind([3, 7, 5].into_iter());
        turn.start_behind([0].into_iter());
        assert_eq!(turn.next(|_| false), Some(8));
        let mut turn = Turn::new(0..=9);
        turn.start_behind([9].into_iter());
        assert_eq!(turn.next(|number| number == 9), Some(0));
    }

    #[test]
    fn generations_wrap_without_zero() {
        assert_eq!(next_generation(None), 1);
        assert_eq!(next_generation(Some(1)), 2);
        assert_eq!(next_generation(Some(u32::MAX)), 1);
    }

    #[test]
    fn a_clock_starts_anew_after_use() {
        let mut clocks = Clocks::new(2000);
        let mut pass = |now_ms, numbers: &[u32]| {
            clocks.begin();
            let over: Vec<bool> = numbers.iter().map(|it| clocks.is_over(*it, now_ms)).collect();
            (over, clocks.next_over_ms(now_ms))
        };
        assert_eq!(pass(100, &[1, 2]), (vec![false, false], Some(2100)));
        assert_eq!(pass(2099, &[1]), (vec![false], Some(2100)));
        assert_eq!(pass(2100, &[1, 2]), (vec![true, false], Some(4100)));
        assert_eq!(pass(4100, &[2]), (vec![true], None));
    }

    #[test]
    fn slots_are_looked_through_once() {
        let mut set = NumberSet::new();
        let slots = [Slot::plain(3), Slot::new(3, 65_536, 1, 0), Slot::plain(0), Slot::plain(7)];
        assert_eq!(set.of_slots(&slots), [3, 65_536, 7]);
        assert_eq!(set.of_slots(&slots), [3, 65_536, 7]);
        assert!(!set.contains(3));
    }
}
