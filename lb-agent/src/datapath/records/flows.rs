//! The sweep of the recorded flows of one family.

use std::{
    mem::{offset_of, size_of},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;
use lb_common::{
    abi::{
        BackendIdentity, FlowKeyV4, FlowKeyV6, FlowRecord, Frontend, Limits, Refusals,
        RingDescriptor, SCOPE_FRONT, Slot, ring_number,
    },
    engine::{Backend, Family, is_spent, slot_hash},
    slots::{self, Sweep},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::{
    mapped::MappedArray,
    record_table::{Kept, Pass, RecordTable},
};
use crate::plan::Scan;

/// What a sweep of flows knows.
pub(super) struct Sweeper<'a> {
    pub(super) headers: &'a MappedArray<u64>,
    pub(super) ring_slots: &'a MappedArray<u64>,
    pub(super) refusals: &'a MappedArray<Refusals>,
    pub(super) identities: &'a MappedArray<BackendIdentity>,
    pub(super) hash_seed: u64,
    pub(super) limits: Limits,
    pub(super) clock: &'a dyn Fn() -> u32,
}

/// The same of one family.
pub(super) struct SweptFamily<'a, A: Family> {
    pub(super) sweeper: &'a Sweeper<'a>,
    /// `FAMILY_*`.
    pub(super) family: u32,
    pub(super) backend: &'a dyn Fn(u32) -> Backend<A>,
    pub(super) frontend: &'a dyn Fn(&A::FrontendKey) -> Frontend,
}

/// Where a flow falls.
struct Place {
    ring: u32,
    /// Within the ring.
    index: u32,
    slot: Slot,
}

impl<A: Family<FlowKey: SweptKey>> SweptFamily<'_, A> {
    /// Goes on in one of the family's tables, unless all of it is done. From a crowded one flows go
    /// that have ended, as far as was seen.
    pub(super) fn sweep(
        &self,
        table: &mut RecordTable<A::FlowKey, FlowRecord>,
        is_crowded: bool,
        is_done: &mut bool,
        scan: &mut Scan,
    ) -> anyhow::Result<Pass> {
        if *is_done {
            return Ok(Pass::default());
        }
        let pass = table.sweep(
            self.sweeper.clock,
            |key, flow, now_tick| {
                let limits = &self.sweeper.limits;
                if is_crowded && is_spent(flow.class, flow.last_seen_tick, limits, now_tick, true) {
                    return Sweep::Delete;
                }
                let slot = self.place(key).map(|place| place.slot);
                slots::sweep(flow, &(self.backend)(flow.backend), slot, limits, now_tick)
            },
            |kept, key, flow| self.note(kept, key, flow, scan),
        )?;
        *is_done = pass.is_whole;
        Ok(pass)
    }

    fn note(&self, kept: Kept, key: &A::FlowKey, flow: &FlowRecord, scan: &mut Scan) {
        let place = self.place(key);
        // A flow without a frontend falls, when it has one again, on the ring that it has now.
        let ring = place.as_ref().map_or_else(|| self.ring_of(key, flow), |place| place.ring);
        match (kept, place) {
            (Kept::Found, Some(place)) => scan.note_other(ring, place.index),
            (Kept::Found, None) => scan.note_others(ring),
            (Kept::Rewritten, _) => {
                let word = self.sweeper.refusals.shared::<AtomicU64>(ring);
                if let Some(word) = word {
                    note_refusal(word, (self.sweeper.clock)());
                }
            }
        }
    }

    /// The ring of the service that a record's backend has.
    fn ring_of(&self, key: &A::FlowKey, flow: &FlowRecord) -> u32 {
        let service = self.sweeper.identities.load(flow.backend).unwrap_or_default().service;
        let protocol = u8::try_from(A::tuple(key).protocol).unwrap_or_default();
        ring_number(service, self.family, protocol)
    }

    /// Finds a flow's slot as the data path does; `None`: it has no frontend, or that no ring.
    fn place(&self, flow: &A::FlowKey) -> Option<Place> {
        let flow = A::tuple(flow);
        let protocol = u8::try_from(flow.protocol).ok()?;
        let key = A::frontend_key(flow.server, flow.server_port, protocol, SCOPE_FRONT);
        let frontend = (self.frontend)(&key);
        if !frontend.is_served() {
            return None;
        }
        let Sweeper { headers, ring_slots, hash_seed, .. } = self.sweeper;
        let ring = frontend.ring;
        let descriptor = RingDescriptor::from_raw(headers.load(ring).unwrap_or_default());
        if descriptor.size() == 0 {
            return None;
        }
        let index = descriptor.slot_index(slot_hash(*hash_seed, frontend.flags, &flow));
        let slot = ring_slots.load(index).map(Slot::from_raw)?;
        Some(Place { ring, index: index - descriptor.start(), slot })
    }
}

/// Stores [`Refusals::refused_tick`] and leaves the other half of the word, which the data path may be
/// storing.
fn note_refusal(word: &AtomicU64, tick: u32) {
    const OFFSET: usize = offset_of!(Refusals, refused_tick);
    let mut known = word.load(Ordering::Acquire);
    loop {
        let mut bytes = known.to_ne_bytes();
        bytes[OFFSET..OFFSET + size_of::<u32>()].copy_from_slice(&tick.to_ne_bytes());
        let noted = u64::from_ne_bytes(bytes);
        match word.compare_exchange(known, noted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(stored) => known = stored,
        }
    }
}

/// A key that is read from a table of the kernel.
pub(super) trait SweptKey: Pod + FromBytes + IntoBytes + Immutable {}
impl SweptKey for FlowKeyV4 {}
impl SweptKey for FlowKeyV6 {}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::{AtomicU64, FromBytes as _, Ordering, Refusals, note_refusal};

    #[test]
    fn a_refusal_is_noted_beside_what_the_data_path_stores() {
        let before = Refusals { refused_tick: 5, full_tick: 7 };
        let word = AtomicU64::new(u64::read_from_bytes(before.as_bytes()).expect("eight bytes"));
        note_refusal(&word, 9);
        let after = word.load(Ordering::Acquire);
        let after = Refusals::read_from_bytes(after.as_bytes()).expect("eight bytes");
        assert_eq!(after, Refusals { refused_tick: 9, full_tick: 7 });
    }
}
