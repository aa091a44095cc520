//! TCP, UDP and ICMP headers, whatever carries them, and what fragments must not do to them.

use super::{
    Address, Fragment, Headers, ICMP_HEADER_BYTES, Kind, PROTOCOL_ICMP, PROTOCOL_ICMPV6,
    PROTOCOL_TCP, PROTOCOL_UDP, TCP_HEADER_BYTES, UDP_HEADER_BYTES,
};
use crate::{
    abi::{DropReason, NetU16, NetU32},
    engine::Packet,
};

/// Longest IP packet that can be put together from fragments.
const REASSEMBLED_BYTES_MAX: u32 = 0xffff;

/// Sequence and acknowledgement number of a TCP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpNumbers {
    /// Sequence number of the first byte, or of the SYN.
    pub sequence: NetU32,
    /// Acknowledgement number; means nothing without the flag ACK.
    pub acknowledgement: NetU32,
    /// Length of the TCP header with options.
    pub header_bytes: u32,
}

/// Reads what only few decisions need; `None` if the packet is no TCP packet with a header.
#[inline(always)]
pub fn tcp_numbers<P: Packet, A: Address>(packet: &P, headers: &Headers<A>) -> Option<TcpNumbers> {
    if headers.kind as u32 != Kind::Tcp as u32 {
        return None;
    }
    let tcp = packet.window::<TCP_HEADER_BYTES>(headers.l4_offset)?;
    Some(TcpNumbers {
        sequence: NetU32::from_wire([tcp[4], tcp[5], tcp[6], tcp[7]]),
        acknowledgement: NetU32::from_wire([tcp[8], tcp[9], tcp[10], tcp[11]]),
        header_bytes: u32::from(tcp[12] >> 4) * 4,
    })
}

/// Parses what follows the IP headers, if they are whole and this is where it begins.
#[inline(always)]
pub fn parse_transport<P: Packet, A: Address>(packet: &P, headers: Headers<A>) -> Headers<A> {
    if headers.kind as u32 == Kind::Other as u32 && headers.l3_bytes != 0 {
        transport(packet, headers)
    } else {
        headers
    }
}

/// Parses what follows the IP headers of a whole packet or first fragment.
#[inline(always)]
pub(super) fn transport<P: Packet, A: Address>(packet: &P, headers: Headers<A>) -> Headers<A> {
    if headers.protocol == PROTOCOL_TCP {
        tcp(packet, headers)
    } else if headers.protocol == PROTOCOL_UDP {
        udp(packet, headers)
    } else if headers.protocol == A::PROTOCOL_ICMP {
        icmp(packet, headers)
    } else {
        headers
    }
}

#[inline(always)]
fn tcp<P: Packet, A: Address>(packet: &P, headers: Headers<A>) -> Headers<A> {
    let cut_off = cut_off(&headers, DropReason::TcpHeaderInvalid);
    let l4_bytes = headers.l4_bytes();
    let Some(tcp) = packet.window::<TCP_HEADER_BYTES>(headers.l4_offset) else {
        return headers.broken(cut_off);
    };
    let tcp_bytes = u32::from(tcp[12] >> 4) * 4;
    if tcp_bytes > l4_bytes {
        return headers.broken(cut_off);
    }
    if tcp_bytes < TCP_HEADER_BYTES as u32 {
        return headers.broken(DropReason::TcpHeaderInvalid);
    }
    Headers {
        kind: Kind::Tcp,
        source_port: NetU16::from_wire([tcp[0], tcp[1]]),
        destination_port: NetU16::from_wire([tcp[2], tcp[3]]),
        tcp_flags: u32::from(tcp[13]),
        tcp_sequence: NetU32::from_wire([tcp[4], tcp[5], tcp[6], tcp[7]]),
        tcp_acknowledgement: NetU32::from_wire([tcp[8], tcp[9], tcp[10], tcp[11]]),
        tcp_header_bytes: tcp_bytes,
        ..headers
    }
}

#[inline(always)]
fn udp<P: Packet, A: Address>(packet: &P, headers: Headers<A>) -> Headers<A> {
    let cut_off = cut_off(&headers, DropReason::UdpHeaderInvalid);
    let l4_bytes = headers.l4_bytes();
    let Some(udp) = packet.window::<UDP_HEADER_BYTES>(headers.l4_offset) else {
        return headers.broken(cut_off);
    };
    if l4_bytes < UDP_HEADER_BYTES as u32 {
        return headers.broken(cut_off);
    }
    let udp_bytes = u32::from(u16::from_be_bytes([udp[4], udp[5]]));
    let is_whole = headers.fragment as u32 == Fragment::Whole as u32;
    // Bytes after the datagram are its options (RFC 9868) and travel with it.
    if udp_bytes < UDP_HEADER_BYTES as u32 || (is_whole && udp_bytes > l4_bytes) {
        return headers.broken(DropReason::UdpHeaderInvalid);
    }
    Headers {
        kind: Kind::Udp,
        source_port: NetU16::from_wire([udp[0], udp[1]]),
        destination_port: NetU16::from_wire([udp[2], udp[3]]),
        ..headers
    }
}

#[inline(always)]
fn icmp<P: Packet, A: Address>(packet: &P, headers: Headers<A>) -> Headers<A> {
    // No error is ever fragmented, and an echo cannot be answered piecewise.
    if headers.fragment as u32 != Fragment::Whole as u32 {
        return headers.broken(DropReason::IcmpFragmented);
    }
    let Some(icmp) = packet.window::<ICMP_HEADER_BYTES>(headers.l4_offset) else {
        return headers.broken(DropReason::IcmpHeaderInvalid);
    };
    if headers.l4_bytes() < ICMP_HEADER_BYTES as u32 {
        return headers.broken(DropReason::IcmpHeaderInvalid);
    }
    let kind = match (A::IS_V6, icmp[0], icmp[1]) {
        (false, 8, 0) | (true, 128, 0) => Kind::EchoRequest,
        // Destination unreachable, time exceeded, parameter problem; IPv6: and packet too big.
        (false, 3 | 11 | 12, _) | (true, 1..=4, _) => Kind::IcmpError,
        _ => Kind::Other,
    };
    Headers { kind, ..headers }
}

/// Why a header does not fit: a sender who cuts a first fragment inside the transport header wants to
/// hide it (RFC 1858, section 3).
#[inline(always)]
const fn cut_off<A: Address>(headers: &Headers<A>, of_whole: DropReason) -> DropReason {
    match headers.fragment {
        Fragment::Whole => of_whole,
        _ => DropReason::FragmentTiny,
    }
}

/// What is wrong with a fragment's place in its packet. `protocol` is that of the first header in the
/// fragmentable part.
#[inline(always)]
pub(super) const fn fragment_fault<A: Address>(
    headers: &Headers<A>,
    protocol: u32,
    offset_bytes: u32,
    has_more: bool,
) -> DropReason {
    let part_bytes = headers.l4_bytes();
    if part_bytes == 0
        || (has_more && !part_bytes.is_multiple_of(8))
        || offset_bytes + part_bytes > REASSEMBLED_BYTES_MAX
    {
        return DropReason::FragmentInvalid;
    }
    // A first fragment has the whole fixed header, so this one would overwrite its end
    // (RFC 1858, section 4; RFC 3128).
    let fixed_bytes = match protocol {
        PROTOCOL_TCP => TCP_HEADER_BYTES as u32,
        PROTOCOL_UDP => UDP_HEADER_BYTES as u32,
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => ICMP_HEADER_BYTES as u32,
        _ => 0,
    };
    if offset_bytes != 0 && offset_bytes < fixed_bytes {
        return DropReason::FragmentOverlap;
    }
    DropReason::None
}
