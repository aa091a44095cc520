//! Numbers and addresses in network order, aligned, so that the BPF stack allows whole loads.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit number whose bytes in memory are in network order, as in a packet.
#[repr(transparent)]
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
)]
pub struct NetU16(u16);

/// A 32-bit number, often an IPv4 address, whose bytes in memory are in network order.
#[repr(transparent)]
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
)]
pub struct NetU32(u32);

/// An IPv6 address as four words in network order.
#[repr(transparent)]
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
)]
pub struct NetAddr6([u32; 4]);

impl NetU16 {
    /// From a number of the host.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From the bytes of a packet.
    #[must_use]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// As a number of the host.
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From a word as it lies in memory.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The word as it lies in memory, for checksums and hashes.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The bytes for a packet.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }
}

impl NetU32 {
    /// From a number of the host.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be())
    }

    /// From the bytes of a packet.
    #[must_use]
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// As a number of the host.
    #[must_use]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The word as it lies in memory, for checksums and hashes.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// From a word as it lies in memory.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The bytes for a packet.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl NetAddr6 {
    /// From four words as they lie in memory.
    #[must_use]
    pub const fn from_raw(raw: [u32; 4]) -> Self {
        Self(raw)
    }

    /// The four words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> [u32; 4] {
        self.0
    }
}

impl From<Ipv4Addr> for NetU32 {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_wire(address.octets())
    }
}

impl From<NetU32> for Ipv4Addr {
    fn from(address: NetU32) -> Self {
        Self::from(address.to_wire())
    }
}

impl From<NetU32> for IpAddr {
    fn from(address: NetU32) -> Self {
        Self::V4(address.into())
    }
}

impl From<NetAddr6> for IpAddr {
    fn from(address: NetAddr6) -> Self {
        Self::V6(address.into())
    }
}

impl From<Ipv6Addr> for NetAddr6 {
    fn from(address: Ipv6Addr) -> Self {
        let bytes = address.octets();
        let mut words = [0; 4];
        for (index, word) in words.iter_mut().enumerate() {
            let start = index * 4;
            *word = u32::from_ne_bytes([
                bytes[start],
                bytes[start + 1],
                bytes[start + 2],
                bytes[start + 3],
            ]);
        }
        Self(words)
    }
}

impl From<NetAddr6> for Ipv6Addr {
    fn from(address: NetAddr6) -> Self {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(address.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self::from(bytes)
    }
}

impl core::fmt::Debug for NetU16 {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}", self.get())
    }
}

impl core::fmt::Debug for NetU32 {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}", Ipv4Addr::from(*self))
    }
}

impl core::fmt::Debug for NetAddr6 {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}", Ipv6Addr::from(*self))
    }
}
