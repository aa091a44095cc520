//! How many slots of its rings each backend holds, counted again only when a ring changes.

use std::collections::{BTreeMap, HashMap};

use lb_common::abi::RINGS_PER_SERVICE;

use crate::plan::KernelState;

/// Slots by ring and backend number.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    rings: BTreeMap<u32, RingShares>,
}

#[derive(Clone, Debug)]
struct RingShares {
    /// Start and epoch of the ring that was counted.
    version: (u32, u32),
    size: u32,
    slots: HashMap<u32, u32>,
}

impl Shares {
    /// Counts what changed since the last time.
    pub(super) fn update(&mut self, kernel: &KernelState) {
        self.rings.retain(|number, _| kernel.rings.contains_key(number));
        for (number, ring) in &kernel.rings {
            let version = (ring.start, ring.epoch);
            if self.rings.get(number).is_some_and(|counted| counted.version == version) {
                continue;
            }
            let mut slots = HashMap::new();
            for slot in &ring.slots {
                *slots.entry(slot.cur()).or_default() += 1;
            }
            let size = u32::try_from(ring.slots.len()).unwrap_or(u32::MAX);
            self.rings.insert(*number, RingShares { version, size, slots });
        }
    }

    /// The largest share that a backend has of a ring of its service, in percent.
    pub(super) fn percent(&self, service: u32, backend: u32) -> f64 {
        let of_ring = |ring: &RingShares| {
            let slots = ring.slots.get(&backend).copied().unwrap_or(0);
            if ring.size == 0 { 0.0 } else { f64::from(slots) * 100.0 / f64::from(ring.size) }
        };
        self.rings_of(service).map(of_ring).fold(0.0, f64::max)
    }

    /// The size of the largest ring of a service.
    pub(super) fn ring_size(&self, service: u32) -> Option<u32> {
        self.rings_of(service).map(|ring| ring.size).max()
    }

    fn rings_of(&self, service: u32) -> impl Iterator<Item = &RingShares> {
        let first = service * RINGS_PER_SERVICE;
        self.rings.range(first..first + RINGS_PER_SERVICE).map(|(_, ring)| ring)
    }
}
