//! The packet that an ICMP error is about, as much of it as the error quotes.
//!
//! At least the IP header and eight bytes of what follows it must be there (RFC 792), so ports always
//! are, the checksum of TCP often not.

use super::{
    Address, Headers, ICMP_HEADER_BYTES, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, PROTOCOL_TCP,
    PROTOCOL_UDP, ipv6::walk,
};
use crate::{
    abi::{DropReason, NetAddr6, NetU16, NetU32},
    engine::{
        Packet, Tuple,
        words::{v4_at, v6_at},
    },
};

/// Bytes behind the embedded IP header that are needed.
const L4_BYTES_MIN: usize = 8;
/// Extension headers that an embedded packet may have beside its fragment header. Our own backends have
/// sent it, and each one more doubles the work of the verifier.
const EXTENSION_HEADERS_MAX: usize = 1;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// The fields of an embedded packet that decisions need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Embedded<A> {
    /// Why it cannot be served; [`DropReason::None`] if it can.
    pub reason: DropReason,
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: NetU16,
    /// Destination port.
    pub destination_port: NetU16,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u32,
    /// Where its IP header begins.
    pub l3_offset: usize,
    /// Where its transport header begins.
    pub l4_offset: usize,
    /// Bytes from its transport header on that are there.
    pub l4_bytes: u32,
}

impl<A: Address> Embedded<A> {
    const NONE: Self = Self {
        reason: DropReason::None,
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: NetU16::new(0),
        destination_port: NetU16::new(0),
        protocol: 0,
        l3_offset: 0,
        l4_offset: 0,
        l4_bytes: 0,
    };

    /// The flow of a packet that a client has sent; of one that a backend has sent, reversed.
    #[inline(always)]
    #[must_use]
    pub const fn tuple(&self) -> Tuple<A> {
        let source = (self.source, self.source_port);
        Tuple::new(source, (self.destination, self.destination_port), self.protocol)
    }

    #[inline(always)]
    const fn refused(self, reason: DropReason) -> Self {
        Self { reason, ..self }
    }
}

/// Parses the packet that the IPv4 error quotes.
#[inline(always)]
pub fn embedded_v4<P: Packet>(packet: &P, error: &Headers<NetU32>) -> Embedded<NetU32> {
    let l3_offset = error.l4_offset + ICMP_HEADER_BYTES;
    let Some(ip) = packet.window::<IPV4_HEADER_BYTES>(l3_offset) else {
        return Embedded::NONE.refused(DropReason::IcmpEmbeddedInvalid);
    };
    let header_bytes = usize::from(ip[0] & 0x0f) * 4;
    let embedded = Embedded {
        source: v4_at(ip, 12),
        destination: v4_at(ip, 16),
        protocol: u32::from(ip[9]),
        l3_offset,
        l4_offset: l3_offset + header_bytes,
        ..Embedded::NONE
    };
    if ip[0] >> 4 != 4 || header_bytes < IPV4_HEADER_BYTES {
        return embedded.refused(DropReason::IcmpEmbeddedInvalid);
    }
    if u16::from_be_bytes([ip[6], ip[7]]) & FRAGMENT_OFFSET_MASK != 0 {
        return embedded.refused(DropReason::IcmpEmbeddedUnserved);
    }
    ports(packet, error, embedded)
}

/// Parses the packet that the IPv6 error quotes.
#[inline(always)]
pub fn embedded_v6<P: Packet>(packet: &P, error: &Headers<NetAddr6>) -> Embedded<NetAddr6> {
    let l3_offset = error.l4_offset + ICMP_HEADER_BYTES;
    let Some(ip) = packet.window::<IPV6_HEADER_BYTES>(l3_offset) else {
        return Embedded::NONE.refused(DropReason::IcmpEmbeddedInvalid);
    };
    let next_header = u32::from(ip[6]);
    let is_version_wrong = ip[0] >> 4 != 6;
    let mut embedded =
        Embedded { source: v6_at(ip, 8), destination: v6_at(ip, 24), l3_offset, ..Embedded::NONE };
    let start = l3_offset + IPV6_HEADER_BYTES;
    let chain = walk::<P, EXTENSION_HEADERS_MAX, 0>(packet, next_header, start, error.end());
    embedded.protocol = chain.protocol;
    embedded.l4_offset = chain.l4_offset;
    if is_version_wrong || chain.reason as u32 != DropReason::None as u32 {
        return embedded.refused(DropReason::IcmpEmbeddedInvalid);
    }
    if chain.fragment_offset_bytes != 0 {
        return embedded.refused(DropReason::IcmpEmbeddedUnserved);
    }
    ports(packet, error, embedded)
}

#[inline(always)]
fn ports<P: Packet, A: Address>(
    packet: &P,
    error: &Headers<A>,
    embedded: Embedded<A>,
) -> Embedded<A> {
    let Some(l4) = packet.window::<L4_BYTES_MIN>(embedded.l4_offset) else {
        return embedded.refused(DropReason::IcmpEmbeddedInvalid);
    };
    let l4_bytes = error.end().saturating_sub(embedded.l4_offset);
    // An error about a packet goes to its sender.
    if l4_bytes < L4_BYTES_MIN || !embedded.source.is_same(error.destination) {
        return embedded.refused(DropReason::IcmpEmbeddedInvalid);
    }
    if embedded.protocol != PROTOCOL_TCP && embedded.protocol != PROTOCOL_UDP {
        return embedded.refused(DropReason::IcmpEmbeddedUnserved);
    }
    Embedded {
        source_port: NetU16::from_wire([l4[0], l4[1]]),
        destination_port: NetU16::from_wire([l4[2], l4[3]]),
        l4_bytes: l4_bytes as u32,
        ..embedded
    }
}
