//! The lists of what classes of clients reach of services: where each is in `REACH_ENTRIES`, and how one
//! takes the place of another.
//!
//! A list is written where nobody reads, then found by its key in one step, and what it leaves rests as
//! long as a program may still be reading it. Equal lists are written once. One that cannot be written
//! takes the one before it along: those behind it, of all and the ring, are right, and that may name
//! nobody who is left.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use lb_common::abi::{CLASS_ALL, MAX_REACH_LISTS, ReachEntry, ReachKey, ReachList, map_names};

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
    shelf: Shelf,
    /// Where each list is.
    places: BTreeMap<ReachKey, ReachList>,
}

impl ReachTables {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let entries: MappedArray<u64> = mapped(ebpf, map_names::REACH_ENTRIES)?;
        Ok(Self {
            lists: HashMap::try_from(take(ebpf, map_names::REACH_LISTS)?)?,
            shelf: Shelf::new(entries.entries()),
            entries,
            places: BTreeMap::new(),
        })
    }

    /// What the kernel holds, whoever wrote it.
    pub(super) fn read(&mut self) -> anyhow::Result<BTreeMap<ReachKey, Arc<Reach>>> {
        let (mut held, mut places) = (BTreeMap::new(), BTreeMap::new());
        let mut anew = Shelf::new(self.entries.entries());
        for entry in &self.lists {
            let (key, list) = entry.context("`REACH_LISTS` cannot be read")?;
            // One that lies beyond the table, or over another, is written anew.
            let known = anew.known(&list);
            let reach = known.unwrap_or_else(|| Arc::new(self.content(&list)));
            anew.adopt(list, &reach);
            places.insert(key, list);
            held.insert(key, reach);
        }
        self.entries.trim();
        anew.space.rest_as(&self.shelf.space, Instant::now());
        (self.shelf, self.places) = (anew, places);
        Ok(held)
    }

    /// Makes the lists what is wanted; `note` hears of each refusal, and says whether it was none.
    pub(super) fn set(
        &mut self,
        held: &mut BTreeMap<ReachKey, Arc<Reach>>,
        wanted: &BTreeMap<ReachKey, Arc<Reach>>,
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
            let before = held.get(key);
            let reach = match before {
                // Those that are held are right until the plan is done.
                Some(before) if kept.is_all => Arc::new(before.and(reach)),
                _ => Arc::clone(reach),
            };
            if before == Some(&reach) {
                continue;
            }
            if note(self.put(*key, &reach)) {
                held.insert(*key, reach);
            } else if !kept.is_all && held.contains_key(key) && note(self.remove(key)) {
                held.remove(key);
            }
        }
    }

    fn put(&mut self, key: ReachKey, reach: &Arc<Reach>) -> Result<(), Refusal> {
        let say =
            |cause: &str| format!("what clients reach of service number {}: {cause}", key.service);
        if !self.places.contains_key(&key) && self.places.len() >= MAX_REACH_LISTS as usize {
            return Err(say("there are too many lists; some calls look at few backends"));
        }
        let (list, is_new) = self
            .shelf
            .take(reach, Instant::now())
            .ok_or_else(|| say("the table of lists is full; some calls look at few backends"))?;
        let all = [&reach.slots, &reach.near, &reach.far].into_iter().flatten();
        let mut entries = (list.start..).zip(all.filter(|_| is_new));
        let done = if entries.all(|(index, it)| self.entries.store(index, &it.raw(), 0).is_some()) {
            self.lists.insert(key, list, 0).map_err(map_refusal)
        } else {
            Err("it is too long".to_owned())
        };
        let over = match &done {
            Ok(()) => self.places.insert(key, list),
            Err(_) => Some(list),
        };
        self.leave(over);
        done.map_err(|cause| say(&cause))
    }

    fn remove(&mut self, key: &ReachKey) -> Result<(), Refusal> {
        match self.lists.remove(key) {
            Err(error) if !is_absent(&error) => return Err(map_refusal(error)),
            _ => {}
        }
        let over = self.places.remove(key);
        self.leave(over);
        Ok(())
    }

    fn leave(&mut self, over: Option<ReachList>) {
        if let Some(list) = over {
            self.shelf.leave(list.start, Instant::now());
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

/// Where lists are, each for all keys that have an equal one.
#[derive(Debug)]
struct Shelf {
    space: Space,
    by_start: BTreeMap<u32, Shelved>,
    by_content: std::collections::HashMap<Arc<Reach>, u32>,
}

#[derive(Debug)]
struct Shelved {
    list: ReachList,
    reach: Arc<Reach>,
    keys: u32,
}

impl Shelf {
    fn new(size: u32) -> Self {
        let (by_start, by_content) = <_>::default();
        Self { space: Space::new(size), by_start, by_content }
    }

    /// A list that is in the table already.
    fn adopt(&mut self, list: ReachList, reach: &Arc<Reach>) {
        self.space.claim(list.start, length(&list));
        let new = || Shelved { list, reach: Arc::clone(reach), keys: 0 };
        let shelved = self.by_start.entry(list.start).or_insert_with(new);
        shelved.keys += 1;
        if shelved.reach == *reach {
            self.by_content.insert(Arc::clone(reach), list.start);
        }
    }

    /// What a list says that another key has, too.
    fn known(&self, list: &ReachList) -> Option<Arc<Reach>> {
        let shelved = self.by_start.get(&list.start).filter(|it| it.list == *list)?;
        Some(Arc::clone(&shelved.reach))
    }

    /// A place for one more key; true: its entries are to be written.
    fn take(&mut self, reach: &Arc<Reach>, now: Instant) -> Option<(ReachList, bool)> {
        let start = self.by_content.get(reach);
        if let Some(shelved) = start.and_then(|start| self.by_start.get_mut(start)) {
            shelved.keys += 1;
            return Some((shelved.list, false));
        }
        let count = |part: &[ReachEntry]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        let (slots, near, far) = (count(&reach.slots), count(&reach.near), count(&reach.far));
        let mut list = ReachList { start: 0, slots, near, far };
        list.start = self.space.allocate(length(&list), now)?;
        self.by_content.insert(Arc::clone(reach), list.start);
        self.by_start.insert(list.start, Shelved { list, reach: Arc::clone(reach), keys: 1 });
        Some((list, true))
    }

    /// One key less has the list there; what the last one leaves rests.
    fn leave(&mut self, start: u32, now: Instant) {
        let Some(shelved) = self.by_start.get_mut(&start) else { return };
        shelved.keys -= 1;
        if shelved.keys == 0 {
            if self.by_content.get(&shelved.reach) == Some(&start) {
                self.by_content.remove(&shelved.reach);
            }
            self.by_start.remove(&start);
            self.space.release(start, now);
        }
    }
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

    /// What was in use or rested before, and no list names now, rests: programs may still be reading it.
    fn rest_as(&mut self, before: &Self, now: Instant) {
        let resting: BTreeMap<u32, Instant> =
            before.resting.iter().map(|(left, start)| (*start, *left)).collect();
        let left = before.taken.iter().filter(|(start, _)| !self.taken.contains_key(start));
        let since = |start: &u32| resting.get(start).copied().unwrap_or(now);
        let mut left: Vec<_> =
            left.map(|(start, length)| (since(start), *start, *length)).collect();
        // The first to be used again is the one that has rested longest.
        left.sort_unstable();
        for (since, start, length) in left {
            self.taken.insert(start, length);
            self.resting.push_back((since, start));
        }
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
    fn equal_lists_are_one_until_the_last_key_leaves() {
        let list = |numbers: [u32; 3]| {
            let far = numbers.map(|number| ReachEntry::new(4, 0, number, 1)).to_vec();
            Arc::new(Reach { far, ..Reach::default() })
        };
        let start = |taken: Option<(ReachList, bool)>| taken.map(|(it, new)| (it.start, new));
        let (one, other) = (list([1, 2, 3]), list([1, 2, 4]));
        let mut shelf = Shelf::new(6);
        let now = Instant::now();
        assert_eq!(start(shelf.take(&one, now)), Some((0, true)));
        assert_eq!(start(shelf.take(&list([1, 2, 3]), now)), Some((0, false)));
        assert_eq!(start(shelf.take(&other, now)), Some((3, true)));
        assert_eq!(start(shelf.take(&list([7, 8, 9]), now)), None);
        shelf.leave(0, now);
        assert_eq!(start(shelf.take(&list([7, 8, 9]), now + REST * 2)), None, "one has it yet");
        shelf.leave(0, now);
        // What rests is not taken again, not even for an equal list.
        assert_eq!(start(shelf.take(&one, now + REST)), None);
        assert_eq!(start(shelf.take(&one, now + REST * 2)), Some((0, true)));
        // What a predecessor left is found by what it says.
        let mut next = Shelf::new(6);
        let held = ReachList { start: 3, far: 3, ..ReachList::default() };
        next.adopt(held, &other);
        next.adopt(held, &other);
        assert_eq!(start(next.take(&other, now)), Some((3, false)));
    }

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
    fn what_is_no_longer_named_rests_after_a_new_reading_as_well() {
        let mut before = Space::new(12);
        let now = Instant::now();
        let all: Vec<_> = (0..3).filter_map(|_| before.allocate(4, now)).collect();
        assert_eq!(all, [0, 4, 8]);
        before.release(4, now);
        // The list at 8 was deleted by somebody; the one at 0 is there.
        let mut space = Space::new(12);
        space.claim(0, 4);
        let later = now + REST / 2;
        space.rest_as(&before, later);
        assert_eq!(space.allocate(4, now + REST), None);
        assert_eq!(space.allocate(4, later + REST), Some(4), "it rests since it was left");
        assert_eq!(space.allocate(4, later + REST), None, "it rests since it was missed");
        assert_eq!(space.allocate(4, later + REST * 2), Some(8));
        // One that a list names again is not taken from it.
        let mut again = Space::new(12);
        again.claim(4, 4);
        let mut left = Space::new(12);
        left.claim(4, 4);
        left.release(4, now);
        again.rest_as(&left, now);
        assert_eq!(again.allocate(8, now + REST * 2), None);
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
