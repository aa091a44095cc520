//! The frontend table: which service a destination belongs to.
//!
//! Read by the data path for every packet, by plain loads from arrays and no helper call; written by
//! the agent alone, word by word, while it is read. One per address family:
//!
//! ```text
//! VIP_FILTER     64 Ki bits; the one that the address hashes to is clear: no VIP, look no further
//! HEADERS        one word: which half of the table counts, and the seed of its hash
//! FRONTENDS      2 halves x 32 Ki buckets x 4 entries of (key, value); a key has two buckets
//!                  (VIP, port, protocol)   a frontend of one port      -> service, flags
//!                  (VIP, 0, protocol)      the VIP's wide frontends    -> number of a port list
//!                  (VIP, 0, any)           the VIP itself              -> flags
//! PORT_LISTS     lists of 16 ranges, the narrowest first; all ports are the range from 1 to 65535
//! ```
//!
//! A single port wins over a range, a narrower range over a wider one, and of two that are equally
//! wide the one that begins first.
//!
//! # What a reader can see
//!
//! Every store is of one aligned word, and no entry ever moves within a half. An entry is published
//! by the last store of its key and withdrawn by the first, and its value says by itself whether it
//! counts, so a reader that sees some of the stores, in whatever order, finds the whole entry or
//! none. What a reader may still be looking at rests before it is used for something else
//! ([`Editor`] keeps the time): entries, lists, and the half that no longer counts. When both
//! buckets of a new key are full, everything is written to the other half with another seed, and one
//! store of the header makes that one count.

#[cfg(any(feature = "std", test))]
mod editor;
#[cfg(any(feature = "std", test))]
mod entry;
#[cfg(any(feature = "std", test))]
mod memory;
#[cfg(any(feature = "std", test))]
mod port_lists;
#[cfg(any(feature = "std", test))]
mod rebuild;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(any(feature = "std", test))]
pub use self::{
    editor::{Counts, EditError, Editor, Entry},
    memory::HostMaps,
};
use crate::abi::{
    FAMILY_V4, FAMILY_V6, FRONTEND_BUCKETS, FRONTEND_WAYS, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6,
    Frontend, FrontendHeader, FrontendKeyV4, FrontendKeyV6, FrontendState, FrontendValue, NetU16,
    PORT_LIST_RANGES, PROTOCOL_ANY, PROTOCOL_TCP, PROTOCOL_UDP, PortRange, VIP_FILTER_WORDS,
    ring_number,
};

const MULTIPLIER_A: u64 = 0xff51_afd7_ed55_8ccd;
const MULTIPLIER_B: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Entries of one bucket, of `W` words each.
pub type Bucket<const W: usize> = [[AtomicU64; W]; FRONTEND_WAYS];
/// The ranges of one list.
pub type PortList = [AtomicU64; PORT_LIST_RANGES];

/// The maps of one address family, as memory. `None` is for an index beyond the end.
pub trait FrontendMaps<const W: usize> {
    /// A word of `VIP_FILTER_*`.
    fn filter(&self, index: u32) -> Option<&AtomicU64>;
    /// The family's word of `FRONTEND_HEADERS`.
    fn header(&self) -> Option<&AtomicU64>;
    /// A bucket of `FRONTENDS_*`.
    fn bucket(&self, index: u32) -> Option<&Bucket<W>>;
    /// A list of `PORT_LISTS_*`.
    fn port_list(&self, index: u32) -> Option<&PortList>;

    /// Buckets of one half, a power of two.
    #[inline(always)]
    fn buckets(&self) -> u32 {
        FRONTEND_BUCKETS
    }

    /// Reads a word. Here so that a test can come between two loads.
    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }

    /// Writes a word. Here so that a test can come between two stores.
    #[inline(always)]
    fn store(&self, word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Release);
    }
}

/// A destination of one address family.
pub trait FrontendKey<const W: usize>: Copy + Eq + Ord + core::fmt::Debug {
    /// `FAMILY_*`.
    const FAMILY: u32;
    /// The words of an entry but for its value, in the order in which they are stored: the last one
    /// is zero only in an entry that is free.
    fn words(&self) -> [u64; W];
    /// The key of an entry.
    fn from_words(words: &[u64; W]) -> Self;
    /// A hash of the address, for the filter.
    fn address_hash(&self) -> u64;
    /// Destination port.
    fn port(&self) -> NetU16;
    /// `PROTOCOL_*`.
    fn protocol(&self) -> u8;
    /// The same address with another port and protocol.
    #[must_use]
    fn at(self, port: NetU16, protocol: u8) -> Self;

    /// The entry of the VIP itself.
    #[inline(always)]
    #[must_use]
    fn vip(self) -> Self {
        self.at(NetU16::new(0), PROTOCOL_ANY)
    }

    /// The entry of the VIP's ranges of this protocol.
    #[inline(always)]
    #[must_use]
    fn wide(self) -> Self {
        self.at(NetU16::new(0), self.protocol())
    }
}

impl FrontendKey<FRONTEND_WORDS_V4> for FrontendKeyV4 {
    const FAMILY: u32 = FAMILY_V4;

    #[inline(always)]
    fn words(&self) -> [u64; FRONTEND_WORDS_V4] {
        let (address, port) = (u64::from(self.vip.raw()), u64::from(self.port.raw()));
        let (protocol, scope) = (u64::from(self.protocol), u64::from(self.scope));
        [address | port << 32 | protocol << 48 | scope << 56, 0]
    }

    fn from_words(words: &[u64; FRONTEND_WORDS_V4]) -> Self {
        let [key, _] = *words;
        Self {
            vip: crate::abi::NetU32::from_raw(key as u32),
            port: NetU16::from_wire(((key >> 32) as u16).to_ne_bytes()),
            protocol: (key >> 48) as u8,
            scope: (key >> 56) as u8,
        }
    }

    #[inline(always)]
    fn address_hash(&self) -> u64 {
        u64::from(self.vip.raw()).wrapping_mul(MULTIPLIER_A)
    }

    #[inline(always)]
    fn port(&self) -> NetU16 {
        self.port
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn at(self, port: NetU16, protocol: u8) -> Self {
        Self { port, protocol, ..self }
    }
}

impl FrontendKey<FRONTEND_WORDS_V6> for FrontendKeyV6 {
    const FAMILY: u32 = FAMILY_V6;

    #[inline(always)]
    fn words(&self) -> [u64; FRONTEND_WORDS_V6] {
        let [one, two, three, four] = self.vip.raw().map(u64::from);
        let (port, protocol) = (u64::from(self.port.raw()), u64::from(self.protocol));
        let scope = u64::from(self.scope);
        [one | two << 32, three | four << 32, port | protocol << 16 | scope << 24, 0]
    }

    fn from_words(words: &[u64; FRONTEND_WORDS_V6]) -> Self {
        let [high, low, key, _] = *words;
        Self {
            vip: crate::abi::NetAddr6::from_raw([
                high as u32,
                (high >> 32) as u32,
                low as u32,
                (low >> 32) as u32,
            ]),
            port: NetU16::from_wire((key as u16).to_ne_bytes()),
            protocol: (key >> 16) as u8,
            scope: (key >> 24) as u8,
        }
    }

    #[inline(always)]
    fn address_hash(&self) -> u64 {
        let [high, low, ..] = self.words();
        let hash = (high ^ (high >> 32)).wrapping_mul(MULTIPLIER_A);
        (hash ^ (hash >> 32) ^ low).wrapping_mul(MULTIPLIER_B)
    }

    #[inline(always)]
    fn port(&self) -> NetU16 {
        self.port
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn at(self, port: NetU16, protocol: u8) -> Self {
        Self { port, protocol, ..self }
    }
}

/// The word of the filter that an address hashes to, and the bit in it.
#[inline(always)]
const fn filter_position(address_hash: u64) -> (u32, u64) {
    let bit = (address_hash >> 48) as u32;
    (bit / 64 % VIP_FILTER_WORDS, 1 << (bit % 64))
}

/// The two buckets of a key, in the half that the header names.
#[inline(always)]
fn buckets_of<const W: usize>(
    header: FrontendHeader,
    words: &[u64; W],
    buckets: u32,
) -> (u32, u32) {
    let mut hash = u64::from(header.seed());
    let mut index = 0;
    while index < W - 1 {
        hash = (hash ^ words[index]).wrapping_mul(MULTIPLIER_A);
        hash ^= hash >> 32;
        index += 1;
    }
    hash = hash.wrapping_mul(MULTIPLIER_B);
    let base = header.half() * buckets;
    let (first, second) = ((hash >> 48) as u32, (hash >> 32) as u32 & 0xffff);
    (base + (first & (buckets - 1)), base + (second & (buckets - 1)))
}

/// Whether an address may be a VIP; if not, it is none for sure.
#[inline(always)]
pub fn may_be_vip<const W: usize, K: FrontendKey<W>>(maps: &impl FrontendMaps<W>, key: &K) -> bool {
    let (index, bit) = filter_position(key.address_hash());
    maps.filter(index).is_some_and(|word| maps.load(word) & bit != 0)
}

/// Says what a destination is.
#[inline(always)]
pub fn lookup<const W: usize, K: FrontendKey<W>>(maps: &impl FrontendMaps<W>, key: &K) -> Frontend {
    if !may_be_vip(maps, key) {
        return Frontend::default();
    }
    let Some(header) = maps.header() else { return Frontend::default() };
    lookup_in(maps, FrontendHeader::from_raw(maps.load(header)), key)
}

/// [`lookup`] behind the filter, in the half that the header names.
#[inline(always)]
fn lookup_in<const W: usize, K: FrontendKey<W>>(
    maps: &impl FrontendMaps<W>,
    header: FrontendHeader,
    key: &K,
) -> Frontend {
    let (port, protocol) = (key.port().get(), key.protocol());
    if port != 0 {
        let value = find(maps, header, &key.words());
        if value.is_valid() {
            return served::<W, K>(value.number(), protocol, value.flags());
        }
        if protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP {
            let value = find(maps, header, &key.wide().words());
            if value.is_valid() {
                let range = find_range(maps, value.number(), port);
                if range.is_valid() {
                    return served::<W, K>(range.service(), protocol, range.flags());
                }
            }
        }
    }
    let value = find(maps, header, &key.vip().words());
    if !value.is_valid() {
        return Frontend::default();
    }
    Frontend { state: FrontendState::Unserved, flags: value.flags(), ..Frontend::default() }
}

#[inline(always)]
fn served<const W: usize, K: FrontendKey<W>>(service: u32, protocol: u8, flags: u32) -> Frontend {
    let ring = ring_number(service, K::FAMILY, protocol);
    Frontend { state: FrontendState::Served, service, ring, flags }
}

#[inline(always)]
fn find<const W: usize>(
    maps: &impl FrontendMaps<W>,
    header: FrontendHeader,
    words: &[u64; W],
) -> FrontendValue {
    let (first, second) = buckets_of(header, words, maps.buckets());
    let Some(bucket) = maps.bucket(first) else { return FrontendValue::default() };
    let value = find_in(maps, bucket, words);
    if value.is_valid() {
        return value;
    }
    if !FrontendValue::from_raw(maps.load(&bucket[0][W - 1])).is_overflowed() {
        return FrontendValue::default();
    }
    let Some(bucket) = maps.bucket(second) else { return FrontendValue::default() };
    find_in(maps, bucket, words)
}

#[inline(always)]
fn find_in<const W: usize>(
    maps: &impl FrontendMaps<W>,
    bucket: &Bucket<W>,
    words: &[u64; W],
) -> FrontendValue {
    for entry in bucket {
        // The word that differs most often first.
        if maps.load(&entry[W - 2]) != words[W - 2] {
            continue;
        }
        let mut difference = 0;
        for index in 0..W - 2 {
            difference |= maps.load(&entry[index]) ^ words[index];
        }
        let value = FrontendValue::from_raw(maps.load(&entry[W - 1]));
        if difference == 0 && value.is_valid() {
            return value;
        }
    }
    FrontendValue::default()
}

#[inline(always)]
fn find_range<const W: usize>(maps: &impl FrontendMaps<W>, list: u32, port: u16) -> PortRange {
    let Some(list) = maps.port_list(list) else { return PortRange::default() };
    for word in list {
        let range = PortRange::from_raw(maps.load(word));
        if !range.is_valid() {
            break;
        }
        if range.first() <= port && port <= range.last() {
            return range;
        }
    }
    PortRange::default()
}
