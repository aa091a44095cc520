//! IPv4: header, options, fragments, packets beyond 64 KiB.

use super::{
    Fragment, Headers, IPV4_HEADER_BYTES, Kind, PROTOCOL_TCP,
    transport::{fragment_fault, transport},
};
use crate::{
    abi::{DropReason, NetU32},
    engine::{Packet, words::v4_at},
};

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// Parses the IPv4 packet at `l3_offset`.
#[inline(always)]
pub fn parse_v4<P: Packet>(packet: &P, l3_offset: usize) -> Headers<NetU32> {
    let Some(ip) = packet.window::<IPV4_HEADER_BYTES>(l3_offset) else {
        // There is no destination that could be a VIP.
        return Headers::NONE;
    };
    let header_bytes = usize::from(ip[0] & 0x0f) * 4;
    let mut headers = Headers {
        source: v4_at(ip, 12),
        destination: v4_at(ip, 16),
        protocol: u32::from(ip[9]),
        traffic_class: u32::from(ip[1]),
        hop_limit: u32::from(ip[8]),
        l3_offset,
        l4_offset: l3_offset + header_bytes,
        ..Headers::NONE
    };
    let fragment_field = u16::from_be_bytes([ip[6], ip[7]]);
    let fragment_id = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
    let rest_bytes = packet.length_bytes() - l3_offset;
    let mut l3_bytes = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    // IPv4 BIG TCP (Linux 6.3, b1a78b9b9886) leaves 0 in packets that do not fit the field.
    if l3_bytes == 0 && rest_bytes > 0xffff && headers.protocol == PROTOCOL_TCP {
        l3_bytes = rest_bytes;
    }
    if ip[0] >> 4 != 4
        || header_bytes < IPV4_HEADER_BYTES
        || l3_bytes < header_bytes
        || l3_bytes > rest_bytes
    {
        return headers.broken(DropReason::Ipv4HeaderInvalid);
    }
    headers.l3_bytes = l3_bytes as u32;
    if fragment_field & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) != 0 {
        headers.fragment_id = fragment_id;
        let offset_bytes = u32::from(fragment_field & FRAGMENT_OFFSET_MASK) * 8;
        let has_more = fragment_field & MORE_FRAGMENTS != 0;
        let fault = fragment_fault(&headers, headers.protocol, offset_bytes, has_more);
        if fault as u32 != DropReason::None as u32 {
            return headers.broken(fault);
        }
        if offset_bytes != 0 {
            headers.kind = Kind::LaterFragment;
            headers.fragment = Fragment::Later;
            return headers;
        }
        headers.fragment = Fragment::First;
    }
    transport(packet, headers)
}
