//! Which ring holds which part of `RING_SLOTS`. Two rings that share slots would send clients to
//! backends of another service, so a claim that overlaps is refused, whoever planned it.

use std::collections::BTreeMap;

use lb_common::abi::{RING_SIZES, RingDescriptor};

use super::mapped::MappedArray;

/// The longest ring.
const SIZE_MAX: u32 = RING_SIZES[RING_SIZES.len() - 1];

/// Extents of the published rings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Extents {
    /// First slot -> (size, ring). They do not overlap.
    by_start: BTreeMap<u32, (u32, u32)>,
    /// Ring -> first slot.
    by_ring: BTreeMap<u32, u32>,
}

impl Extents {
    /// As the descriptors in the kernel have them.
    pub(super) fn read(rings: &MappedArray<u64>) -> Self {
        let mut extents = Self::default();
        for ring in 0..rings.entries() {
            let descriptor = RingDescriptor::from_raw(rings.load(ring).unwrap_or_default());
            if descriptor.size() == 0 {
                continue;
            }
            if let Some((other, _, _)) =
                extents.overlap(ring, descriptor.start(), descriptor.size())
            {
                tracing::error!(ring, other, "two rings share slots");
            }
            extents.insert(ring, descriptor.start(), descriptor.size());
        }
        extents
    }

    /// Takes an extent of a table of `slots` for a ring, in exchange for the one that it had.
    pub(super) fn claim(
        &mut self,
        ring: u32,
        start: u32,
        size: u32,
        slots: u32,
    ) -> Result<(), String> {
        if size == 0 || size > SIZE_MAX {
            return Err(format!("a ring has 1 to {SIZE_MAX} slots, not {size}"));
        }
        if start.checked_add(size).is_none_or(|end| end > slots) {
            return Err(format!("{size} slots from {start} do not fit in a table of {slots}"));
        }
        if let Some((other, other_start, other_size)) = self.overlap(ring, start, size) {
            return Err(format!(
                "{size} slots from {start} overlap with the {other_size} from {other_start} of \
                 ring {other}"
            ));
        }
        self.insert(ring, start, size);
        Ok(())
    }

    /// Gives the extent of a ring back.
    pub(super) fn release(&mut self, ring: u32) {
        if let Some(start) = self.by_ring.remove(&ring) {
            self.by_start.remove(&start);
        }
    }

    fn insert(&mut self, ring: u32, start: u32, size: u32) {
        self.release(ring);
        self.by_start.insert(start, (size, ring));
        self.by_ring.insert(ring, start);
    }

    /// A (ring, start, size) of another ring that shares slots.
    fn overlap(&self, ring: u32, start: u32, size: u32) -> Option<(u32, u32, u32)> {
        let end = start.saturating_add(size);
        // Extents do not overlap one another, so only the last ones before `end` can reach here: the
        // ring's own, and one more.
        self.by_start
            .range(..end)
            .rev()
            .take(2)
            .find(|&(&other_start, &(other_size, other))| {
                other != ring && other_start + other_size > start
            })
            .map(|(&other_start, &(other_size, other))| (other, other_start, other_size))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn claims_are_judged() {
        let mut extents = Extents::default();
        assert_eq!(extents.claim(1, 10, 10, 100), Ok(()));
        let refused = |extents: &mut Extents, ring, start, size, expected: &str| {
            let refusal = extents.claim(ring, start, size, 100).unwrap_err();
            assert!(refusal.contains(expected), "{refusal}");
        };
        refused(&mut extents, 2, 19, 5, "overlap with the 10 from 10 of ring 1");
        refused(&mut extents, 2, 5, 6, "overlap");
        refused(&mut extents, 2, 0, 100, "overlap");
        refused(&mut extents, 2, 91, 10, "do not fit");
        refused(&mut extents, 2, 50, 0, "1 to 131071");
        assert_eq!(extents.claim(2, 20, 5, 100), Ok(()));
        assert_eq!(extents.claim(1, 12, 8, 100), Ok(()));
        assert_eq!(extents.claim(3, 10, 2, 100), Ok(()));
        extents.release(2);
        assert_eq!(extents.claim(1, 12, 88, 100), Ok(()));
    }

    proptest! {
        /// As sets of slots would have it.
        #[test]
        fn no_slot_has_two_rings(
            claims in prop::collection::vec((0_u32..6, 0_u32..50, 1_u32..20, any::<bool>()), 1..60),
        ) {
            let mut extents = Extents::default();
            let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (ring, start, size, releases) in claims {
                if releases {
                    extents.release(ring);
                    model.remove(&ring);
                    continue;
                }
                let slots: BTreeSet<u32> = (start..start + size).collect();
                let is_free = model
                    .iter()
                    .all(|(&other, taken)| other == ring || taken.is_disjoint(&slots));
                prop_assert_eq!(extents.claim(ring, start, size, 100).is_ok(), is_free);
                if is_free {
                    model.insert(ring, slots);
                }
            }
        }
    }
}
