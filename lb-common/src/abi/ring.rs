//! Rings: descriptors, slots, and their sizes.
//!
//! Slots of all rings lie in one array, `RING_SLOTS`; a descriptor says which extent of it is a
//! service's ring. Both are one aligned word, so that one store through the mapping publishes them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sizes that a ring can have: primes, as Maglev wants them.
pub const RING_SIZES: [u32; 8] = [1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/// Rings of one service: two families, two protocols.
pub const RINGS_PER_SERVICE: u32 = 4;
/// Family part of a ring number.
pub const FAMILY_V4: u32 = 0;
/// Family part of a ring number.
pub const FAMILY_V6: u32 = 1;

/// Index into `RINGS` of the ring of a service for a family (`FAMILY_*`) and a protocol.
#[must_use]
pub const fn ring_number(service: u32, family: u32, protocol: u8) -> u32 {
    let protocol = if protocol == super::PROTOCOL_UDP { 1 } else { 0 };
    service * RINGS_PER_SERVICE + family * 2 + protocol
}

const START_BITS: u32 = 28;
const SIZE_BITS: u32 = 18;
const EPOCH_BITS: u32 = 64 - START_BITS - SIZE_BITS;

/// Value of the array `RINGS`: the extent of `RING_SLOTS` that a ring occupies; zero: no ring.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingDescriptor(u64);

impl RingDescriptor {
    /// No ring.
    pub const NONE: Self = Self(0);

    /// A ring of `size` slots from index `start`; `epoch` counts its publications and wraps.
    #[must_use]
    pub const fn new(start: u32, size: u32, epoch: u32) -> Self {
        debug_assert!(start < 1 << START_BITS && size < 1 << SIZE_BITS);
        Self(
            (start as u64)
                | (size as u64) << START_BITS
                | ((epoch & ((1 << EPOCH_BITS) - 1)) as u64) << (START_BITS + SIZE_BITS),
        )
    }

    /// From the word in the map.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Index of the first slot.
    #[must_use]
    pub const fn start(self) -> u32 {
        (self.0 & ((1 << START_BITS) - 1)) as u32
    }

    /// Number of slots; 0: no ring.
    #[must_use]
    pub const fn size(self) -> u32 {
        ((self.0 >> START_BITS) & ((1 << SIZE_BITS) - 1)) as u32
    }

    /// Count of publications, wrapping.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> (START_BITS + SIZE_BITS)) as u32
    }

    /// Index in `RING_SLOTS` of the slot that `hash` falls on. Multiply and shift: uniform for any
    /// size, without a division.
    #[must_use]
    pub const fn slot_index(self, hash: u32) -> u32 {
        self.start() + ((hash as u64 * self.size() as u64) >> 32) as u32
    }
}

impl core::fmt::Debug for RingDescriptor {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "ring {}+{} epoch {}", self.start(), self.size(), self.epoch())
    }
}

/// Slot state: `cur` is the default of every flow, no table is read.
pub const SLOT_PLAIN: u8 = 0;
/// Slot state: `cur` takes new flows, which are recorded; `old` owns what is not recorded.
pub const SLOT_MOVING: u8 = 1;
/// Slot state: `cur` is the default, records are still honoured, nothing is inserted.
pub const SLOT_SETTLED: u8 = 2;

const NUMBER_BITS: u32 = 20;
const STATE_BITS: u32 = 2;
const SINCE_BITS: u32 = 64 - 2 * NUMBER_BITS - STATE_BITS;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// Value of the array `RING_SLOTS`: `cur` and `old` (backend numbers), state, and the low bits of
/// the tick in which it became so.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(u64);

impl Slot {
    /// A slot whose flows all belong to `cur`.
    #[must_use]
    pub const fn plain(cur: u32) -> Self {
        Self::new(cur, super::BACKEND_NONE, SLOT_PLAIN, 0)
    }

    /// A slot in any state; of `since_tick` only the low 22 bits are kept.
    #[must_use]
    pub const fn new(cur: u32, old: u32, state: u8, since_tick: u32) -> Self {
        debug_assert!(cur <= super::MAX_BACKENDS && old <= super::MAX_BACKENDS);
        Self(
            (cur as u64)
                | (old as u64) << NUMBER_BITS
                | (state as u64) << (2 * NUMBER_BITS)
                | ((since_tick as u64) & ((1 << SINCE_BITS) - 1)) << (2 * NUMBER_BITS + STATE_BITS),
        )
    }

    /// From the word in the map.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Backend number that takes new flows, or [`super::BACKEND_NONE`].
    #[must_use]
    pub const fn cur(self) -> u32 {
        (self.0 & NUMBER_MASK) as u32
    }

    /// Backend number that owns unrecorded flows while the slot is moving.
    #[must_use]
    pub const fn old(self) -> u32 {
        ((self.0 >> NUMBER_BITS) & NUMBER_MASK) as u32
    }

    /// `SLOT_*`.
    #[must_use]
    pub const fn state(self) -> u8 {
        ((self.0 >> (2 * NUMBER_BITS)) & ((1 << STATE_BITS) - 1)) as u8
    }

    /// Low 22 bits of the tick in which the slot became what it is; about 52 days until it wraps.
    #[must_use]
    pub const fn since_tick(self) -> u32 {
        (self.0 >> (2 * NUMBER_BITS + STATE_BITS)) as u32
    }
}

impl core::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.state() {
            SLOT_PLAIN => write!(formatter, "plain({})", self.cur()),
            SLOT_MOVING => write!(formatter, "moving({} -> {})", self.old(), self.cur()),
            SLOT_SETTLED => write!(formatter, "settled({})", self.cur()),
            state => write!(formatter, "state {state}({}, {})", self.cur(), self.old()),
        }
    }
}

const _: () = assert!(size_of::<RingDescriptor>() == 8);
const _: () = assert!(size_of::<Slot>() == 8);
const _: () = assert!(super::MAX_BACKENDS < 1 << NUMBER_BITS);
const _: () = assert!(RING_SIZES[RING_SIZES.len() - 1] < 1 << SIZE_BITS);
const _: () = assert!(super::DEFAULT_RING_SLOTS <= 1 << START_BITS);
