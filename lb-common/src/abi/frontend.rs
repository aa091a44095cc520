//! Where clients connect: keys, words and sizes of the tables that say which service a destination
//! belongs to. How they are searched and changed is in [`crate::frontends`].

use super::net::{NetAddr6, NetU16, NetU32};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// With port 0: the entry of the VIP itself, which every VIP has. Packets that have no usable port
/// (fragments, broken headers) are recognised as ours by it.
pub const PROTOCOL_ANY: u8 = 0;
/// The node's front interfaces. Other scopes name a network and come with east-west balancing. Never
/// 0, so that no key is all zeros, which is an entry that is free.
pub const SCOPE_FRONT: u8 = 1;

/// Frontends per address family, the entries of VIPs and of port lists among them.
pub const MAX_FRONTENDS: u32 = 16_384;
/// Buckets of one half of `FRONTENDS_V4` or `FRONTENDS_V6`; the array has two halves. Eight times as
/// many entries as are ever in use: both buckets of a key are full in one of 300,000 cases.
pub const FRONTEND_BUCKETS: u32 = 32 * 1024;
/// Entries of a bucket.
pub const FRONTEND_WAYS: usize = 4;
/// Words of an entry of `FRONTENDS_V4`: key, value. A bucket is one cache line.
pub const FRONTEND_WORDS_V4: usize = 2;
/// Words of an entry of `FRONTENDS_V6`: address (two), port and protocol, value.
pub const FRONTEND_WORDS_V6: usize = 4;
/// Words of `VIP_FILTER_V4` and `VIP_FILTER_V6`, 64 bits each.
pub const VIP_FILTER_WORDS: u32 = 1024;
/// Port ranges of one VIP and protocol.
pub const PORT_LIST_RANGES: usize = 16;
/// Lists of port ranges that can be in use, per address family.
pub const MAX_PORT_LISTS: u32 = 1024;
/// Elements of `PORT_LISTS_V4` and `PORT_LISTS_V6`. A change writes a list anew elsewhere; number 0
/// is no list.
pub const PORT_LISTS: u32 = 2 * MAX_PORT_LISTS + 1;

/// [`Frontend`] flag: replies to flows of this frontend do not follow from the backend's port alone
/// (it is not the first frontend that leads there, or it has more than one port): record each flow.
pub const FRONTEND_RECORDS_REPLIES: u32 = 1;
/// Frontend flag, also of a VIP: who cannot be served is not told.
pub const FRONTEND_DROPS: u32 = 2;

const AFFINITY_SHIFT: u32 = 4;
const AFFINITY_MASK: u32 = 0xff;

/// Frontend flags for affinity by the first bits of the client's address.
#[must_use]
pub const fn affinity_flags(prefix_bits: u8) -> u32 {
    (prefix_bits as u32 + 1) << AFFINITY_SHIFT
}

/// The bits of the client's address that alone decide; `None`: the whole flow does.
#[inline(always)]
#[must_use]
pub const fn affinity_prefix_bits(frontend_flags: u32) -> Option<u32> {
    match (frontend_flags >> AFFINITY_SHIFT) & AFFINITY_MASK {
        0 => None,
        bits => Some(bits - 1),
    }
}

/// Flags that an entry has room for.
pub const FRONTEND_FLAGS_MASK: u32 = 0x3fff;

/// A destination in IPv4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FrontendKeyV4 {
    /// The virtual address.
    pub vip: NetU32,
    /// Destination port; 0 in the entry of the VIP itself, and with a protocol in that of its ranges.
    pub port: NetU16,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// `SCOPE_*`.
    pub scope: u8,
}

/// A destination in IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FrontendKeyV6 {
    /// The virtual address.
    pub vip: NetAddr6,
    /// Destination port; 0 in the entry of the VIP itself, and with a protocol in that of its ranges.
    pub port: NetU16,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// `SCOPE_*`.
    pub scope: u8,
}

/// What the tables say of a destination.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FrontendState {
    /// The address is no VIP: the packet is not ours.
    #[default]
    NotVip = 0,
    /// The address is a VIP, and nothing is served there by this protocol and port.
    Unserved = 1,
    /// There is a service.
    Served = 2,
}

/// What the tables say of a destination, in whole words: a variant with a payload would be carried
/// along in registers that the verifier refuses to see stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frontend {
    /// Which of the three it is.
    pub state: FrontendState,
    /// Number of the service, if [`FrontendState::Served`].
    pub service: u32,
    /// Index into `RINGS`, see [`super::ring_number`], if [`FrontendState::Served`].
    pub ring: u32,
    /// Flags of the frontend; of the VIP if [`FrontendState::Unserved`].
    pub flags: u32,
}

impl Frontend {
    /// There is a service.
    #[inline(always)]
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.state as u32 == FrontendState::Served as u32
    }

    /// The address is ours, served or not.
    #[inline(always)]
    #[must_use]
    pub const fn is_vip(&self) -> bool {
        self.state as u32 != FrontendState::NotVip as u32
    }
}

/// The word of `FRONTEND_HEADERS`: which half of the table counts, and how it is hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrontendHeader(u64);

impl FrontendHeader {
    const HALF: u64 = 1 << 32;

    /// Entries are in half 0 or 1, in buckets that this seed gives.
    #[must_use]
    pub const fn new(seed: u32, half: u32) -> Self {
        Self(seed as u64 | (half as u64 & 1) << 32)
    }

    /// From the word in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Seed of the hash.
    #[inline(always)]
    #[must_use]
    pub const fn seed(self) -> u32 {
        self.0 as u32
    }

    /// Which half counts.
    #[inline(always)]
    #[must_use]
    pub const fn half(self) -> u32 {
        (self.0 & Self::HALF != 0) as u32
    }
}

/// The last word of an entry of `FRONTENDS_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrontendValue(u64);

impl FrontendValue {
    /// Without it there is no entry, whatever the key says.
    const VALID: u64 = 1 << 63;
    /// In the first entry of a bucket, whether that entry is in use or not: some key whose first
    /// bucket is this one is in its second.
    const OVERFLOWED: u64 = 1 << 62;
    /// The entry has been in use, so that a reader may still be looking at it.
    const WAS_USED: u64 = 1 << 61;

    /// Number of a service or of a list, and flags.
    #[must_use]
    pub const fn new(number: u32, flags: u32) -> Self {
        let flags = (flags & FRONTEND_FLAGS_MASK) as u64;
        Self(Self::VALID | Self::WAS_USED | flags << 16 | (number & 0xffff) as u64)
    }

    /// What is left in an entry that was removed.
    pub const REMOVED: Self = Self(Self::WAS_USED);

    /// From the word in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether the entry counts.
    #[inline(always)]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether some key of the bucket is in its second one.
    #[inline(always)]
    #[must_use]
    pub const fn is_overflowed(self) -> bool {
        self.0 & Self::OVERFLOWED != 0
    }

    /// Whether the entry has ever been written.
    #[must_use]
    pub const fn was_used(self) -> bool {
        self.0 & (Self::WAS_USED | Self::VALID) != 0
    }

    /// The same, in a bucket with or without overflow.
    #[must_use]
    pub const fn with_overflow(self, is_overflowed: bool) -> Self {
        Self(self.0 & !Self::OVERFLOWED | if is_overflowed { Self::OVERFLOWED } else { 0 })
    }

    /// Number of the service, or of the list in the entry of a VIP's port ranges.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// Its flags.
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u32 {
        (self.0 >> 16) as u32 & FRONTEND_FLAGS_MASK
    }
}

/// A word of `PORT_LISTS_*`: a range of ports and its service. Zero ends a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortRange(u64);

impl PortRange {
    const VALID: u64 = 1 << 63;

    /// Ports from `first` to `last`, which are both in it, belong to a service.
    #[must_use]
    pub const fn new(first: u16, last: u16, service: u32, flags: u32) -> Self {
        Self(
            Self::VALID
                | (first as u64)
                | (last as u64) << 16
                | ((service & 0xffff) as u64) << 32
                | ((flags & FRONTEND_FLAGS_MASK) as u64) << 48,
        )
    }

    /// From the word in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether this is a range and not the end of a list.
    #[inline(always)]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// The first port.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u16 {
        self.0 as u16
    }

    /// The last port.
    #[inline(always)]
    #[must_use]
    pub const fn last(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Number of the service.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    /// Flags of the frontend.
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u32 {
        (self.0 >> 48) as u32 & FRONTEND_FLAGS_MASK
    }
}

const _: () = assert!(FRONTEND_WAYS * FRONTEND_WORDS_V4 * 8 == 64);
const _: () = assert!(FRONTEND_BUCKETS.is_power_of_two());
const _: () = assert!(super::MAX_SERVICES <= 1 << 16 && PORT_LISTS <= 1 << 16);
