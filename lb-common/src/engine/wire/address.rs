//! What differs between IPv4 and IPv6 addresses.

use core::fmt::Debug;

use super::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::{
    abi::{NetAddr6, NetU32},
    engine::{checksum, words::from_words},
};

/// An address of either family.
pub trait Address: Copy + PartialEq + Debug {
    /// Whether it is of IPv6.
    const IS_V6: bool;
    /// `0.0.0.0` or `::`.
    const UNSPECIFIED: Self;
    /// Protocol number of the family's ICMP.
    const PROTOCOL_ICMP: u32;
    /// Length of the IP header without options and extension headers.
    const HEADER_BYTES: usize;

    /// Equality by whole words: `==` may become a byte loop in the kernel.
    #[must_use]
    fn is_same(self, other: Self) -> bool;

    /// Whether a packet can come from it over a network: not unspecified, loopback, multicast,
    /// broadcast, reserved, or an IPv4 address in IPv6 clothes.
    #[must_use]
    fn is_one_host(self) -> bool;

    /// What its replacement by `new` does to a checksum.
    #[must_use]
    fn difference(self, new: Self) -> u32;

    /// Sum of its words.
    #[must_use]
    fn sum(self) -> u32;

    /// Its words as they lie in memory; IPv4 has one, then zeros.
    #[must_use]
    fn words(self) -> [u32; 4];
}

impl Address for NetU32 {
    const IS_V6: bool = false;
    const UNSPECIFIED: Self = Self::from_raw(0);
    const PROTOCOL_ICMP: u32 = PROTOCOL_ICMP;
    const HEADER_BYTES: usize = IPV4_HEADER_BYTES;

    #[inline(always)]
    fn is_same(self, other: Self) -> bool {
        self.raw() == other.raw()
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        // 224/4 is multicast, 240/4 is reserved and ends with the broadcast address.
        let first = self.to_wire()[0];
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn difference(self, new: Self) -> u32 {
        checksum::difference(self.raw(), new.raw())
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        self.raw()
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.raw(), 0, 0, 0]
    }
}

impl Address for NetAddr6 {
    const IS_V6: bool = true;
    const UNSPECIFIED: Self = from_words([0; 4]);
    const PROTOCOL_ICMP: u32 = PROTOCOL_ICMPV6;
    const HEADER_BYTES: usize = IPV6_HEADER_BYTES;

    #[inline(always)]
    fn is_same(self, other: Self) -> bool {
        let (left, right) = (self.raw(), other.raw());
        // A sum, since of bits that are or-ed together LLVM makes a branch for each word.
        let difference = u64::from(left[0] ^ right[0])
            + u64::from(left[1] ^ right[1])
            + u64::from(left[2] ^ right[2])
            + u64::from(left[3] ^ right[3]);
        difference == 0
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        let words = self.raw();
        let is_multicast = words[0].to_ne_bytes()[0] == 0xff;
        let is_local = words[2] == 0 && u32::from_be(words[3]) <= 1;
        let is_mapped_v4 = u32::from_be(words[2]) == 0xffff;
        !is_multicast && (words[0] | words[1] != 0 || !(is_local || is_mapped_v4))
    }

    #[inline(always)]
    fn difference(self, new: Self) -> u32 {
        let (old, new) = (self.raw(), new.raw());
        let mut sum = 0;
        for index in 0..4 {
            sum += u64::from(!old[index]) + u64::from(new[index]);
        }
        checksum::fold_wide(sum)
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let words = self.raw();
        let mut sum = 0;
        for word in words {
            sum += u64::from(word);
        }
        checksum::fold_wide(sum)
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.raw()
    }
}
