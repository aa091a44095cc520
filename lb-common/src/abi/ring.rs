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

const NUMBER_BITS: u32 = 17;
const STATE_BITS: u32 = 2;
const SINCE_BITS: u32 = 22;
const CHANGED_BITS: u32 = 64 - 2 * NUMBER_BITS - STATE_BITS - SINCE_BITS;
const OLD_SHIFT: u32 = NUMBER_BITS;
const STATE_SHIFT: u32 = 2 * NUMBER_BITS;
const SINCE_SHIFT: u32 = STATE_SHIFT + STATE_BITS;
const CHANGED_SHIFT: u32 = SINCE_SHIFT + SINCE_BITS;

/// Unit of [`Slot::ticks_since_change`], in ticks.
pub const SLOT_CHANGE_UNIT_TICKS: u32 = 16;

/// Value of the array `RING_SLOTS`: `cur` and `old` (backend numbers), the state, the tick in which
/// it became so, and roughly when `cur` changed last.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(u64);

impl Slot {
    /// A slot whose flows all belong to `cur`.
    #[must_use]
    pub const fn plain(cur: u32) -> Self {
        Self::new(cur, super::BACKEND_NONE, SLOT_PLAIN, 0)
    }

    /// A slot in any state, whose `cur` is as old as the state.
    #[must_use]
    pub const fn new(cur: u32, old: u32, state: u8, since_tick: u32) -> Self {
        debug_assert!(cur <= super::MAX_BACKENDS && old <= super::MAX_BACKENDS);
        let since = since_tick as u64 & mask(SINCE_BITS);
        Self(
            cur as u64
                | (old as u64) << OLD_SHIFT
                | (state as u64) << STATE_SHIFT
                | since << SINCE_SHIFT,
        )
        .with_cur(cur, since_tick)
    }

    /// The same slot with another `cur`.
    #[must_use]
    pub const fn with_cur(self, cur: u32, changed_tick: u32) -> Self {
        let changed = (changed_tick / SLOT_CHANGE_UNIT_TICKS) as u64 & mask(CHANGED_BITS);
        let kept = self.0 & !mask(NUMBER_BITS) & !(mask(CHANGED_BITS) << CHANGED_SHIFT);
        Self(kept | cur as u64 | changed << CHANGED_SHIFT)
    }

    /// The same slot with the `cur` of another, which is as old as it is there.
    #[must_use]
    pub const fn with_cur_of(self, other: Self) -> Self {
        let bits = mask(NUMBER_BITS) | mask(CHANGED_BITS) << CHANGED_SHIFT;
        Self(self.0 & !bits | other.0 & bits)
    }

    /// The same slot with another `old`.
    #[must_use]
    pub const fn with_old(self, old: u32) -> Self {
        Self(self.0 & !(mask(NUMBER_BITS) << OLD_SHIFT) | (old as u64) << OLD_SHIFT)
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
        (self.0 & mask(NUMBER_BITS)) as u32
    }

    /// Backend number that owns unrecorded flows while the slot is moving, or
    /// [`super::BACKEND_NONE`] once it is gone.
    #[must_use]
    pub const fn old(self) -> u32 {
        ((self.0 >> OLD_SHIFT) & mask(NUMBER_BITS)) as u32
    }

    /// `SLOT_*`.
    #[must_use]
    pub const fn state(self) -> u8 {
        ((self.0 >> STATE_SHIFT) & mask(STATE_BITS)) as u8
    }

    /// Low 22 bits of the tick in which the slot became what it is.
    #[must_use]
    pub const fn since_tick(self) -> u32 {
        ((self.0 >> SINCE_SHIFT) & mask(SINCE_BITS)) as u32
    }

    /// Ticks since the slot became what it is. Wraps after 52 days, to an age that is too small:
    /// then everything that waits for an age waits once more.
    #[must_use]
    pub const fn age_ticks(self, now_tick: u32) -> u32 {
        now_tick.wrapping_sub(self.since_tick()) & mask(SINCE_BITS) as u32
    }

    /// Ticks since `cur` changed last: at most one unit of [`SLOT_CHANGE_UNIT_TICKS`] too many, and
    /// from [`SLOT_CHANGE_TICKS_MAX`] on starting again.
    #[must_use]
    pub const fn ticks_since_change(self, now_tick: u32) -> u32 {
        let changed = (self.0 >> CHANGED_SHIFT) as u32 * SLOT_CHANGE_UNIT_TICKS;
        now_tick.wrapping_sub(changed) & (SLOT_CHANGE_TICKS_MAX - 1)
    }
}

/// What [`Slot::ticks_since_change`] stays below: about 18 minutes.
pub const SLOT_CHANGE_TICKS_MAX: u32 = SLOT_CHANGE_UNIT_TICKS << CHANGED_BITS;

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
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
