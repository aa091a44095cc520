//! The lists of what classes of clients reach of services: where each is in `REACH_ENTRIES`, and how one
//! takes the place of another.
//!
//! A list is written where nobody reads, then found by its key in one step, and what it leaves rests as
//! long as a program may still be reading it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use lb_common::abi::{CLASS_ALL, ReachEntry, ReachKey, ReachList, map_names};

use super::{
    mapped::MappedArray,
    tables::{Refusal, is_absent, map_refusal, mapped, take},
};
use crate::sockets::{Kept, Reach};

/// No program runs longer than this.
const REST: Duration = Duration::from_secs(1);

/// The maps.
pub(super) struct ReachTables {
    lists: HashMap<MapData, ReachKey, ReachList>,
    entries: MappedArray<u64>,
    space: Space,
    /// Where each list is.
    places: BTreeMap<ReachKey, ReachList>,
}

impl ReachTables {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let entries: MappedArray<u64> = mapped(ebpf, map_names::REACH_ENTRIES)?;
        Ok(Self {
            lists: HashMap::try_from(take(ebpf, map_names::REACH_LISTS)?)?,
            space: Space::new(entries.entries()),
            entries,
            places: BTreeMap::new(),
        })
    }

    /// What the kernel holds.
    pub(super) fn read(&mut self) -> anyhow::Result<BTreeMap<ReachKey, Reach>> {
        let mut held = BTreeMap::new();
        (self.space, self.places) = (Space::new(self.entries.entries()), BTreeMap::new());
        for entry in &self.lists {
            let (key, list) = entry.context("`REACH_LISTS` cannot be read")?;
            // One that lies beyond the table, or over another, is written anew.
            self.space.claim(list.start, length(&list));
            self.places.insert(key, list);
            held.insert(key, self.content(&list));
        }
        Ok(held)
    }

    /// Makes the lists what is wanted; `note` hears of each refusal, and says whether it was none.
    pub(super) fn set(
        &mut self,
        held: &mut BTreeMap<ReachKey, Reach>,
        wanted: &BTreeMap<ReachKey, Reach>,
        kept: &Kept,
        is_partial: bool,
        note: &mut dyn FnMut(Result<(), Refusal>) -> bool,
    ) {
        let stays = |key: &ReachKey| {
            kept.is_all
                || kept.services.contains(&key.service)
                || (is_partial && key.class != CLASS_ALL)
        };
        let is_over = |key: &&ReachKey| !wanted.contains_key(key) && !stays(key);
        let over: Vec<ReachKey> = held.keys().filter(is_over).copied().collect();
        for key in over {
            if note(self.remove(&key)) {
                held.remove(&key);
            }
        }
        for (key, reach) in wanted {
            if held.get(key) != Some(reach) && note(self.put(*key, reach)) {
                held.insert(*key, reach.clone());
            }
        }
    }

    fn put(&mut self, key: ReachKey, reach: &Reach) -> Result<(), Refusal> {
        let count = |part: &[ReachEntry]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        let mut list = ReachList {
            start: 0,
            slots: count(&reach.slots),
            near: count(&reach.near),
            far: count(&reach.far),
        };
        let say =
            |cause: &str| format!("what clients reach of service number {}: {cause}", key.service);
        list.start = self
            .space
            .allocate(length(&list), Instant::now())
            .ok_or_else(|| say("the table of lists is full; some calls look at few backends"))?;
        let all = [&reach.slots, &reach.near, &reach.far].into_iter().flatten();
        for (index, entry) in (list.start..).zip(all) {
            self.entries.store(index, &entry.raw(), 0).ok_or_else(|| say("it is too long"))?;
        }
        let done = self.lists.insert(key, list, 0).map_err(map_refusal);
        let over = match &done {
            Ok(()) => self.places.insert(key, list),
            Err(_) => Some(list),
        };
        self.rest(over);
        done.map_err(|cause| say(&cause))
    }

    fn remove(&mut self, key: &ReachKey) -> Result<(), Refusal> {
        match self.lists.remove(key) {
            Err(error) if !is_absent(&error) => return Err(map_refusal(error)),
            _ => {}
        }
        let over = self.places.remove(key);
        self.rest(over);
        Ok(())
    }

    fn rest(&mut self, over: Option<ReachList>) {
        if let Some(list) = over {
            self.space.release(list.start, Instant::now());
        }
    }

    fn content(&self, list: &ReachList) -> Reach {
        let near_at = list.start.saturating_add(list.slots);
        let far_at = near_at.saturating_add(list.near);
        let part = |start: u32, count: u32| {
            let end = start.saturating_add(count).min(self.entries.entries());
            let raw = (start..end).filter_map(|index| self.entries.load(index));
            raw.map(ReachEntry::from_raw).collect()
        };
        Reach {
            slots: part(list.start, list.slots),
            near: part(near_at, list.near),
            far: part(far_at, list.far),
        }
    }
}

fn length(list: &ReachList) -> u32 {
    list.slots.saturating_add(list.near).saturating_add(list.far)
}

/// Which parts of a table are in use, or rest.
#[derive(Debug)]
struct Space {
    size: u32,
    /// First entry -> number of entries.
    taken: BTreeMap<u32, u32>,
    /// Since when parts of them are left.
    resting: VecDeque<(Instant, u32)>,
    /// Where it is looked next, so that not all is looked through each time.
    next: u32,
}

impl Space {
    fn new(size: u32) -> Self {
        Self { size, taken: BTreeMap::new(), resting: VecDeque::new(), next: 0 }
    }

    fn claim(&mut self, start: u32, length: u32) {
        let known = self.taken.entry(start).or_default();
        *known = length.max(*known);
    }

    fn allocate(&mut self, length: u32, now: Instant) -> Option<u32> {
        while let Some((left, start)) = self.resting.front().copied()
            && now.duration_since(left) > REST
        {
            self.taken.remove(&start);
            self.resting.pop_front();
        }
        let found = self.gap(self.next, length).or_else(|| self.gap(0, length))?;
        self.taken.insert(found, length);
        self.next = found.saturating_add(length);
        Some(found)
    }

    /// The first gap at or behind `from`.
    fn gap(&self, from: u32, length: u32) -> Option<u32> {
        let before = self.taken.range(..from).next_back();
        let mut at = before.map_or(0, |(start, length)| start.saturating_add(*length)).max(from);
        for (start, taken) in self.taken.range(from..) {
            if start.checked_sub(at).is_some_and(|room| room >= length) {
                break;
            }
            at = at.max(start.saturating_add(*taken));
        }
        at.checked_add(length).filter(|end| *end <= self.size).map(|_| at)
    }

    fn release(&mut self, start: u32, now: Instant) {
        self.resting.push_back((now, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_rests_before_it_is_used_again() {
        let mut space = Space::new(10);
        let now = Instant::now();
        assert_eq!(space.allocate(4, now), Some(0));
        assert_eq!(space.allocate(4, now), Some(4));
        assert_eq!(space.allocate(4, now), None);
        assert_eq!(space.allocate(2, now), Some(8));
        space.release(4, now);
        assert_eq!(space.allocate(4, now + REST), None);
        assert_eq!(space.allocate(4, now + REST * 2), Some(4));
        assert_eq!(space.allocate(1, now + REST * 2), None);
    }

    #[test]
    fn parts_never_overlap() {
        let mut space = Space::new(1000);
        let mut now = Instant::now();
        let mut held: VecDeque<(u32, u32)> = VecDeque::new();
        for round in 0_u32..5000 {
            now += REST / 8;
            let length = 1 + round * 7919 % 97;
            if let Some(start) = space.allocate(length, now) {
                assert!(start + length <= 1000);
                let overlaps =
                    |&(other, size): &(u32, u32)| start < other + size && other < start + length;
                assert!(!held.iter().any(overlaps), "{start} {length} {held:?}");
                held.push_back((start, length));
            }
            if held.len() > 6
                && let Some((start, _)) = held.pop_front()
            {
                space.release(start, now);
            }
        }
        assert!(held.len() >= 5);
    }

    #[test]
    fn what_a_predecessor_left_is_taken() {
        let mut space = Space::new(100);
        space.claim(10, 20);
        // Two at one place, or beyond the end, which no agent writes.
        space.claim(10, 5);
        space.claim(90, 50);
        let now = Instant::now();
        assert_eq!(space.allocate(15, now), Some(30));
        assert_eq!(space.allocate(10, now), Some(45));
        assert_eq!(space.allocate(36, now), None);
        assert_eq!(space.allocate(35, now), Some(55));
        assert_eq!(space.allocate(10, now), Some(0));
    }
}
