//! Which part of `RING_SLOTS` is free to be filled.
//!
//! A reader of the previous descriptor may still be on its way through an extent that is no longer
//! published, so an extent rests for the quarantine before it is filled again. What is in use is
//! always read from the kernel's state; only the resting times are kept here.

use std::collections::BTreeMap;

use super::KernelRing;

/// How long everything free rests after a start.
pub(super) const ADOPTION_REST_MS: u64 = 50;

/// Part of `RING_SLOTS`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) size: u32,
}

impl Extent {
    pub(super) fn of(ring: &KernelRing) -> Self {
        Self { start: ring.start, size: u32::try_from(ring.slots.len()).unwrap_or(u32::MAX) }
    }

    fn end(self) -> u32 {
        self.start.saturating_add(self.size)
    }
}

/// The resting times.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    pool: u32,
    quarantine_ms: u64,
    /// Extents that are no longer used, with the time until which they rest.
    resting: Vec<(Extent, u64)>,
    /// Extents that were in use, or were about to be, when this was last asked, in their order.
    used: Vec<Extent>,
    is_first: bool,
}

impl Extents {
    pub(super) fn new(pool: u32, quarantine_ms: u64) -> Self {
        Self { pool, quarantine_ms, resting: Vec::new(), used: Vec::new(), is_first: true }
    }

    /// Looks at what the kernel has now: what is no longer in use begins to rest. What a
    /// predecessor freed shortly before it ended nobody knows, so at first everything free rests,
    /// unless the tables were `never_used`; for a shorter time, since its process has ended and ours
    /// has started since then, and a program runs for microseconds. A backend that died while no
    /// agent was there has its slots as long as this lasts.
    pub(super) fn observe(
        &mut self,
        rings: &BTreeMap<u32, KernelRing>,
        never_used: bool,
        now_ms: u64,
    ) {
        self.resting.retain(|(_, until_ms)| *until_ms > now_ms);
        let until_ms = now_ms + self.quarantine_ms;
        let mut in_use: Vec<Extent> = rings.values().map(Extent::of).collect();
        in_use.sort_unstable();
        in_use.dedup();
        if std::mem::take(&mut self.is_first) && !never_used {
            let free = self.gaps(in_use.clone());
            let until_ms = now_ms + self.quarantine_ms.min(ADOPTION_REST_MS);
            self.resting.extend(free.into_iter().map(|extent| (extent, until_ms)));
        }
        if self.used != in_use {
            let freed = self.used.iter().filter(|extent| in_use.binary_search(extent).is_err());
            self.resting.extend(freed.map(|extent| (*extent, until_ms)));
            self.used = in_use;
        }
    }

    /// What can be filled now.
    pub(super) fn free(&self) -> FreeExtents {
        let resting = self.resting.iter().map(|(extent, _)| *extent);
        FreeExtents(self.gaps(self.used.iter().copied().chain(resting).collect()))
    }

    /// An extent is going to be filled: whether or not this succeeds, it is used from now on.
    pub(super) fn mark_used(&mut self, extent: Extent) {
        if let Err(place) = self.used.binary_search(&extent) {
            self.used.insert(place, extent);
        }
    }

    /// It has not been filled after all, and nobody was told of it: it need not rest.
    pub(super) fn mark_unused(&mut self, extent: Extent) {
        if let Ok(place) = self.used.binary_search(&extent) {
            self.used.remove(place);
        }
    }

    /// When the next resting extent becomes free.
    pub(super) fn next_free_ms(&self) -> Option<u64> {
        self.resting.iter().map(|(_, until_ms)| *until_ms).min()
    }

    /// What none of `taken` covers.
    fn gaps(&self, mut taken: Vec<Extent>) -> Vec<Extent> {
        taken.sort_unstable();
        taken.push(Extent { start: self.pool, size: 0 });
        let mut gaps = Vec::new();
        let mut end = 0;
        for extent in taken {
            if extent.start > end {
                gaps.push(Extent { start: end, size: extent.start - end });
            }
            end = end.max(extent.end());
        }
        gaps
    }
}

/// Free extents in the order of their place, for first-fit.
#[derive(Debug)]
pub(super) struct FreeExtents(Vec<Extent>);

impl FreeExtents {
    /// The first place that is large enough.
    pub(super) fn take(&mut self, size: u32) -> Option<Extent> {
        let index = self.0.iter().position(|extent| extent.size >= size)?;
        let free = &mut self.0[index];
        let taken = Extent { start: free.start, size };
        free.start += size;
        free.size -= size;
        if free.size == 0 {
            self.0.remove(index);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::abi::Slot;

    use super::{Extent, Extents};
    use crate::plan::KernelRing;

    fn rings(extents: &[(u32, u32)]) -> BTreeMap<u32, KernelRing> {
        let ring = |(start, size): &(u32, u32)| KernelRing {
            start: *start,
            epoch: 1,
            slots: vec![Slot::default(); *size as usize].into(),
        };
        (0..).zip(extents.iter().map(ring)).collect()
    }

    fn take(extents: &mut Extents, size: u32) -> Option<u32> {
        let extent = extents.free().take(size)?;
        extents.mark_used(extent);
        Some(extent.start)
    }

    #[test]
    fn a_fresh_pool_is_free_at_once() {
        let mut extents = Extents::new(100, 2000);
        extents.observe(&rings(&[]), true, 5);
        assert_eq!(take(&mut extents, 60), Some(0));
        assert_eq!(take(&mut extents, 60), None);
        assert_eq!(take(&mut extents, 40), Some(60));
        assert_eq!(take(&mut extents, 1), None);
    }

    #[test]
    fn after_a_restart_everything_free_rests() {
        let mut extents = Extents::new(100, 2000);
        extents.observe(&rings(&[(10, 20)]), false, 5);
        assert_eq!(take(&mut extents, 1), None);
        assert_eq!(extents.next_free_ms(), Some(5 + super::ADOPTION_REST_MS));
        extents.observe(&rings(&[(10, 20)]), false, 5 + super::ADOPTION_REST_MS);
        assert_eq!(take(&mut extents, 10), Some(0));
        assert_eq!(take(&mut extents, 10), Some(30));
    }

    #[test]
    fn what_is_replaced_rests() {
        let mut extents = Extents::new(100, 2000);
        extents.observe(&rings(&[]), true, 0);
        assert_eq!(take(&mut extents, 50), Some(0));
        extents.observe(&rings(&[(0, 50)]), false, 10);
        assert_eq!(take(&mut extents, 50), Some(50));
        extents.observe(&rings(&[(50, 50)]), false, 20);
        assert_eq!(take(&mut extents, 50), None);
        extents.observe(&rings(&[(50, 50)]), false, 2019);
        assert_eq!(take(&mut extents, 50), None);
        extents.observe(&rings(&[(50, 50)]), false, 2020);
        assert_eq!(take(&mut extents, 50), Some(0));
    }

    #[test]
    fn what_could_not_be_published_rests_too() {
        let mut extents = Extents::new(100, 2000);
        extents.observe(&rings(&[]), true, 0);
        assert_eq!(take(&mut extents, 100), Some(0));
        extents.observe(&rings(&[]), true, 10);
        assert_eq!(take(&mut extents, 1), None);
        extents.observe(&rings(&[]), true, 2010);
        assert_eq!(take(&mut extents, 1), Some(0));
    }

    #[test]
    fn what_was_not_tried_does_not_rest() {
        let mut extents = Extents::new(100, 2000);
        extents.observe(&rings(&[]), true, 0);
        assert_eq!(take(&mut extents, 100), Some(0));
        extents.mark_unused(Extent { start: 0, size: 100 });
        extents.observe(&rings(&[]), true, 10);
        assert_eq!(take(&mut extents, 100), Some(0));
    }

    #[test]
    fn first_fit_joins_neighbours() {
        let mut extents = Extents::new(100, 0);
        extents.observe(&rings(&[(0, 10), (20, 10), (90, 10)]), true, 0);
        let mut free = extents.free();
        assert_eq!(free.take(30), Some(Extent { start: 30, size: 30 }));
        assert_eq!(free.take(10), Some(Extent { start: 10, size: 10 }));
        assert_eq!(free.take(31), None);
        assert_eq!(free.take(30), Some(Extent { start: 60, size: 30 }));
    }
}
