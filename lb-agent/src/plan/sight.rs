//! What a plan is made from beside the tables and the snapshot: the time, and what the data path and
//! the scan of its records have to say about slots that are not plain.

use std::collections::{BTreeMap, HashMap, HashSet};

use lb_common::{
    abi::{HOLD_SECONDS, Limits, PROTOCOL_TCP, TICK_NS, ring_number, ticks_from_seconds},
    slots::{Finding, SlotTimes},
};

use crate::model::LocalPrefixes;

/// Times of slots, by the protocol of their ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// For rings of TCP.
    pub tcp: SlotTimes,
    /// For rings of UDP.
    pub datagrams: SlotTimes,
}

impl Default for Times {
    fn default() -> Self {
        let limits = Limits::with_cpus(1);
        Self {
            tcp: SlotTimes::tcp(&limits, ticks_from_seconds(HOLD_SECONDS)),
            datagrams: SlotTimes::datagrams(&limits),
        }
    }
}

impl Times {
    pub(super) fn of_ring(&self, ring: u32) -> SlotTimes {
        if is_of_datagrams(ring) { self.datagrams } else { self.tcp }
    }
}

/// Whether a ring is one of UDP.
pub(super) fn is_of_datagrams(ring: u32) -> bool {
    ring % 2 != ring_number(0, 0, PROTOCOL_TCP)
}

/// What is seen when a plan is made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// Monotonic milliseconds, from any moment on.
    pub now_ms: u64,
    /// Ticks since boot, as the data path counts them.
    pub now_tick: u32,
    /// Ring number -> tick in which a flow was last left without a record; rings where that never
    /// happened may be left out.
    pub refused_ticks: BTreeMap<u32, u32>,
    /// The latest whole scan of all records.
    pub scan: Option<Scan>,
    /// Addresses of the node and subnets of its containers; `None`: not known.
    pub local: Option<LocalPrefixes>,
    /// The front interface when there is exactly one, else 0.
    pub front_ifindex: u32,
}

impl Sight {
    /// When so many ticks will have passed, in monotonic milliseconds.
    pub(super) fn ms_after(&self, ticks: u32) -> u64 {
        self.now_ms + (u64::from(ticks) * TICK_NS).div_ceil(1_000_000)
    }

    pub(super) fn refused_tick(&self, ring: u32) -> u32 {
        self.refused_ticks.get(&ring).copied().unwrap_or(0)
    }

    pub(super) fn scan_begun_tick(&self) -> Option<u32> {
        self.scan.as_ref().map(|scan| scan.begun_tick)
    }
}

/// What a scan of all records found: the slots that still need one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    begun_tick: u32,
    /// Ring number -> a bit per slot with a live record of another backend than its `cur`.
    others: HashMap<u32, Vec<u64>>,
    /// Rings with live records of which nobody can say on which slot they fall.
    vague: HashSet<u32>,
}

impl Scan {
    /// A scan that begins now. It is to read half-open records before established ones, since
    /// records move from there to here.
    #[must_use]
    pub fn begin(now_tick: u32) -> Self {
        Self { begun_tick: now_tick, ..Self::default() }
    }

    /// Notes a record that keeps its slot from becoming plain.
    pub fn note_other(&mut self, ring: u32, slot: u32) {
        let words = self.others.entry(ring).or_default();
        let word = slot as usize / 64;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << (slot % 64);
    }

    /// Notes a record that may fall on any slot of a ring.
    pub fn note_others(&mut self, ring: u32) {
        self.vague.insert(ring);
    }

    /// What it says about a slot.
    #[must_use]
    pub fn finding(&self, ring: u32, slot: usize) -> Finding {
        let word = self.others.get(&ring).and_then(|words| words.get(slot / 64));
        let has_other =
            self.vague.contains(&ring) || word.is_some_and(|word| word >> (slot % 64) & 1 == 1);
        Finding { begun_tick: self.begun_tick, has_other }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{FAMILY_V4, FAMILY_V6, PROTOCOL_TCP, PROTOCOL_UDP, ring_number};

    use super::{Scan, Sight, is_of_datagrams};

    #[test]
    fn rings_know_their_protocol() {
        for family in [FAMILY_V4, FAMILY_V6] {
            assert!(!is_of_datagrams(ring_number(7, family, PROTOCOL_TCP)));
            assert!(is_of_datagrams(ring_number(7, family, PROTOCOL_UDP)));
        }
    }

    #[test]
    fn a_scan_finds_what_was_noted() {
        let mut scan = Scan::begin(5);
        for slot in [0, 63, 64, 1000] {
            scan.note_other(8, slot);
        }
        let found: Vec<usize> = (0..1021).filter(|it| scan.finding(8, *it).has_other).collect();
        assert_eq!(found, [0, 63, 64, 1000]);
        assert!(!scan.finding(9, 0).has_other);
        assert_eq!(scan.finding(8, 1).begun_tick, 5);
    }

    #[test]
    fn a_record_without_a_slot_counts_for_all() {
        let mut scan = Scan::begin(5);
        scan.note_others(8);
        assert!(scan.finding(8, 0).has_other && scan.finding(8, 500).has_other);
        assert!(!scan.finding(9, 0).has_other);
    }

    #[test]
    fn a_tick_is_over_no_sooner_than_it_is_due() {
        let sight = Sight { now_ms: 100, ..Sight::default() };
        assert_eq!(sight.ms_after(1), 100 + 1074);
        assert_eq!(sight.ms_after(1_000_000), 100 + 1_073_741_824);
    }
}
