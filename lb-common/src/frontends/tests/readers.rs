//! What readers see while the table changes.

use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicU64, Ordering},
};
use std::{boxed::Box, ops::RangeInclusive, vec::Vec};

use proptest::prelude::*;

use super::*;

/// Looks at the maps.
type Look<'a, const W: usize> = dyn FnMut(&HostMaps<W>) + 'a;

/// Maps that look at themselves after every store.
struct Watched<'a, const W: usize> {
    maps: HostMaps<W>,
    after_store: RefCell<Box<Look<'a, W>>>,
}

impl<const W: usize> FrontendMaps<W> for Watched<'_, W> {
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        self.maps.filter(index)
    }

    fn header(&self) -> Option<&AtomicU64> {
        FrontendMaps::header(&self.maps)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<W>> {
        self.maps.bucket(index)
    }

    fn port_list(&self, index: u32) -> Option<&PortList> {
        self.maps.port_list(index)
    }

    fn buckets(&self) -> u32 {
        self.maps.buckets()
    }

    fn store(&self, word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Relaxed);
        (self.after_store.borrow_mut())(&self.maps);
    }
}

/// Between any two stores every destination has its answer of before or of after the change, and
/// each changes at most once; and after a rebuild also in the half that no longer counts.
fn readers_see_whole_changes<const W: usize, K: FrontendKey<W> + core::hash::Hash>(
    key: fn(u32, u8, u16) -> K,
    buckets: u32,
    changes: &[Change<K>],
) {
    let destinations = destinations(key);
    // Answers before and after, and whether the later one has been seen.
    let answers: RefCell<Vec<(Frontend, Frontend, bool)>> = RefCell::default();
    let stale: Cell<Option<(FrontendHeader, u64)>> = Cell::new(None);
    let look = |maps: &HostMaps<W>| {
        for (key, (before, after, is_after)) in
            destinations.iter().zip(answers.borrow_mut().iter_mut())
        {
            let seen = lookup(maps, key);
            let expected = if *is_after || seen != *before { *after } else { *before };
            assert_eq!(seen, expected, "{key:?}");
            *is_after |= seen != *before;
        }
    };
    let maps = Watched {
        maps: HostMaps::with_buckets(buckets),
        after_store: RefCell::new(Box::new(look)),
    };
    let mut bed = Bed::new(&maps.maps);
    // What a reader of the half that counted before may still answer.
    let mut stale_answers: Vec<Vec<Frontend>> = std::vec![Vec::new(); destinations.len()];
    for change in changes {
        let after = bed.after(change);
        *answers.borrow_mut() = destinations
            .iter()
            .map(|key| (bed.model.answer(key), after.answer(key), false))
            .collect();
        let header = entry::header(&maps.maps).unwrap();
        let result = bed.make(&maps, change);
        for (key, answers) in destinations.iter().zip(&mut stale_answers) {
            answers.push(bed.model.answer(key));
            assert_eq!(lookup(&maps.maps, key), bed.model.answer(key), "{change:?}: {key:?}");
        }
        if result.is_err() {
            let restless = matches!(result, Err(EditError::Busy));
            assert!(restless || result == Err(EditError::Full), "{result:?}");
        }
        if entry::header(&maps.maps).unwrap() != header {
            stale.set(Some((header, bed.now_ms)));
            for (key, answers) in destinations.iter().zip(&mut stale_answers) {
                *answers = std::vec![bed.model.answer(key)];
                // The one change that made it necessary is not in the old half.
                answers.push(lookup_in(&maps.maps, header, key));
            }
        }
        match stale.get() {
            Some((header, since_ms)) if bed.now_ms < since_ms + QUARANTINE_MS => {
                for (key, answers) in destinations.iter().zip(&stale_answers) {
                    let seen = lookup_in(&maps.maps, header, key);
                    assert!(answers.contains(&seen), "stale {key:?}: {seen:?}");
                }
            }
            _ => stale.set(None),
        }
        bed.check_contents(&maps.maps);
    }
}

/// Maps whose writer makes its next changes between two loads of the reader.
struct Overtaken<'a, const W: usize> {
    maps: &'a HostMaps<W>,
    loads_before: Cell<u32>,
    change: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl<const W: usize> FrontendMaps<W> for Overtaken<'_, W> {
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        self.maps.filter(index)
    }

    fn header(&self) -> Option<&AtomicU64> {
        FrontendMaps::header(self.maps)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<W>> {
        self.maps.bucket(index)
    }

    fn port_list(&self, index: u32) -> Option<&PortList> {
        self.maps.port_list(index)
    }

    fn buckets(&self) -> u32 {
        self.maps.buckets()
    }

    fn load(&self, word: &AtomicU64) -> u64 {
        match self.loads_before.get().checked_sub(1) {
            Some(left) => self.loads_before.set(left),
            None => {
                if let Some(change) = self.change.take() {
                    change();
                }
            }
        }
        word.load(Ordering::Relaxed)
    }
}

/// A reader that is interrupted for several changes, at any load, answers what was so at some moment
/// in between, or what the ranges were at a later one than that at which there was no frontend of the
/// port alone. Both are frontends that the service asked for and had.
fn readers_survive_interruption<const W: usize, K: FrontendKey<W> + core::hash::Hash>(
    key: fn(u32, u8, u16) -> K,
    buckets: u32,
    changes: &[Change<K>],
) {
    let maps = HostMaps::with_buckets(buckets);
    let bed = RefCell::new(Bed::new(&maps));
    let destinations = destinations(key);
    let reads = destinations.iter().cycle();
    for (turn, (changes, key)) in changes.chunks(3).zip(reads).enumerate() {
        let moments = RefCell::new(std::vec![bed.borrow().model.clone()]);
        let overtaken = Overtaken {
            maps: &maps,
            loads_before: Cell::new(turn as u32 % 13),
            change: RefCell::new(Some(Box::new(|| {
                // All at one instant: no quarantine is over.
                for change in changes.iter().filter(|it| !matches!(it, Change::Pause(_))) {
                    // What is refused changes nothing.
                    bed.borrow_mut().make(&maps, change).unwrap_or_default();
                    moments.borrow_mut().push(bed.borrow().model.clone());
                }
            }))),
        };
        let seen = lookup(&overtaken, key);
        drop(overtaken);
        // Changes come between the lookups of the port, of the ranges and of the VIP.
        let moments = moments.into_inner();
        let is_whole = moments.iter().any(|model| model.answer(key) == seen);
        let mut since_unlisted =
            moments.iter().skip_while(|model| model.answer(key) != model.answer_of_ranges(key));
        let is_later_range = since_unlisted.any(|model| model.answer_of_ranges(key) == seen);
        assert!(is_whole || is_later_range || !seen.is_served(), "{key:?}: {seen:?}");
        let pauses = changes.iter().filter_map(|change| match change {
            Change::Pause(ms) => Some(*ms),
            _ => None,
        });
        bed.borrow_mut().now_ms += pauses.sum::<u64>();
    }
}

fn changes<K: core::fmt::Debug + Clone + 'static>(
    key: fn(u32, u8, u16) -> K,
    length: RangeInclusive<usize>,
) -> impl Strategy<Value = Vec<Change<K>>> {
    prop::collection::vec(change(key), length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    // Eight buckets have room for 32 entries, so that rebuilds are frequent and full tables happen.
    #[test]
    fn readers_see_whole_changes_v4(changes in changes(v4, 1..=120)) {
        readers_see_whole_changes::<V4, _>(v4, 8, &changes);
    }

    #[test]
    fn readers_see_whole_changes_v6(changes in changes(v6, 1..=120)) {
        readers_see_whole_changes::<V6, _>(v6, 8, &changes);
    }

    #[test]
    fn readers_survive_interruption_v4(changes in changes(v4, 30..=300)) {
        readers_survive_interruption::<V4, _>(v4, 8, &changes);
    }

    #[test]
    fn readers_survive_interruption_v6(changes in changes(v6, 30..=300)) {
        readers_survive_interruption::<V6, _>(v6, 8, &changes);
    }
}
