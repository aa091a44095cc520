//! IPv6: header, extension headers, fragments, packets beyond 64 KiB.

use super::{
    Fragment, Headers, IPV6_HEADER_BYTES, Kind, PROTOCOL_FRAGMENT,
    transport::{fragment_fault, parse_transport},
};
use crate::{
    abi::{DropReason, NetAddr6},
    engine::{Packet, words::v6_at},
};

/// Extension headers that a packet may have before the fragment header. RFC 8200 section 4.1 has use
/// for three.
pub const EXTENSION_HEADERS_MAX: usize = 4;
/// Extension headers that a packet may have behind the fragment header. RFC 8200 section 4.1 has use for
/// one.
pub const FRAGMENT_EXTENSION_HEADERS_MAX: usize = 2;
/// Bytes of extension headers that a packet may have before the fragment header, and behind it.
pub const EXTENSION_BYTES_MAX: usize = 128;

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const DESTINATION_OPTIONS: u32 = 60;
/// Bytes that every extension header has.
const EXTENSION_BYTES_MIN: usize = 8;
/// Type and length of the jumbo payload option (RFC 2675).
const JUMBO_OPTION: [u8; 2] = [0xc2, 4];

/// What a chain of extension headers leads to.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    /// What is wrong with it.
    pub(super) reason: DropReason,
    /// Protocol of what follows the chain, or in later fragments the fragment header.
    pub(super) protocol: u32,
    /// Where that begins.
    pub(super) l4_offset: usize,
    /// Whether there is a fragment header of a packet with more than one fragment.
    pub(super) is_fragment: bool,
    /// Identification of the fragments.
    pub(super) fragment_id: u32,
    /// Where the fragmentable part begins: behind the fragment header.
    fragment_part_offset: usize,
    /// Protocol of the first header in the fragmentable part.
    fragment_protocol: u32,
    /// Offset of the fragment in the fragmentable part.
    pub(super) fragment_offset_bytes: u32,
    /// Whether more fragments follow.
    has_more: bool,
}

/// Parses the IPv6 packet at `l3_offset`.
#[inline(always)]
pub fn parse_v6<P: Packet>(packet: &P, l3_offset: usize) -> Headers<NetAddr6> {
    parse_transport(packet, parse_network_v6(packet, l3_offset))
}

/// The part of [`parse_v6`] before the transport header; [`parse_transport`] is the rest. Every chain of
/// extension headers is a way of its own for the verifier, unless these two are kept apart.
#[inline(always)]
pub fn parse_network_v6<P: Packet>(packet: &P, l3_offset: usize) -> Headers<NetAddr6> {
    let Some(ip) = packet.window::<IPV6_HEADER_BYTES>(l3_offset) else {
        // There is no destination that could be a VIP.
        return Headers::NONE;
    };
    let next_header = u32::from(ip[6]);
    let l4_offset = l3_offset + IPV6_HEADER_BYTES;
    let mut headers = Headers {
        source: v6_at(ip, 8),
        destination: v6_at(ip, 24),
        protocol: next_header,
        traffic_class: u32::from(ip[0] & 0x0f) << 4 | u32::from(ip[1] >> 4),
        hop_limit: u32::from(ip[7]),
        l3_offset,
        l4_offset,
        ..Headers::NONE
    };
    let rest_bytes = packet.length_bytes().saturating_sub(l4_offset);
    let mut payload_bytes = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let is_version_wrong = ip[0] >> 4 != 6;
    if payload_bytes == 0 && rest_bytes > 0xffff {
        payload_bytes = jumbo_bytes(packet, next_header, l4_offset, rest_bytes);
    }
    if is_version_wrong || payload_bytes > rest_bytes {
        return headers.broken(DropReason::Ipv6HeaderInvalid);
    }
    headers.l3_bytes = (IPV6_HEADER_BYTES + payload_bytes) as u32;
    let chain = walk::<P, EXTENSION_HEADERS_MAX, FRAGMENT_EXTENSION_HEADERS_MAX>(
        packet,
        next_header,
        l4_offset,
        headers.end(),
    );
    headers.protocol = chain.protocol;
    headers.l4_offset = chain.l4_offset;
    if chain.reason as u32 != DropReason::None as u32 {
        return headers.broken(chain.reason);
    }
    if chain.is_fragment {
        headers.fragment_id = chain.fragment_id;
        let part = Headers { l4_offset: chain.fragment_part_offset, ..headers };
        let offset_bytes = chain.fragment_offset_bytes;
        let fault = fragment_fault(&part, chain.fragment_protocol, offset_bytes, chain.has_more);
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
    headers
}

/// Payload of a packet whose length does not fit the field: IPv6 BIG TCP. Linux up to 6.18 says so in
/// a hop-by-hop header of exactly this form, later ones leave only the 0.
#[inline(always)]
fn jumbo_bytes<P: Packet>(
    packet: &P,
    next_header: u32,
    l4_offset: usize,
    rest_bytes: usize,
) -> usize {
    if next_header != HOP_BY_HOP {
        return rest_bytes;
    }
    match packet.window::<EXTENSION_BYTES_MIN>(l4_offset) {
        Some(options) if [options[2], options[3]] == JUMBO_OPTION => {
            u32::from_be_bytes([options[4], options[5], options[6], options[7]]) as usize
        }
        _ => rest_bytes,
    }
}

/// Follows extension headers from `start` on, as far as `end`: at most `BEFORE` before the fragment
/// header, and `BEHIND` behind it.
///
/// In three parts instead of one loop: with a choice of lengths in a loop, the verifier would follow
/// every sequence of choices.
#[inline(always)]
pub(super) fn walk<P: Packet, const BEFORE: usize, const BEHIND: usize>(
    packet: &P,
    first: u32,
    start: usize,
    end: usize,
) -> Chain {
    let chain = Chain {
        reason: DropReason::None,
        protocol: first,
        l4_offset: start,
        is_fragment: false,
        fragment_id: 0,
        fragment_part_offset: start,
        fragment_protocol: 0,
        fragment_offset_bytes: 0,
        has_more: false,
    };
    let chain = options::<P, BEFORE>(packet, chain, end, true);
    if chain.reason as u32 != DropReason::None as u32 || chain.protocol != PROTOCOL_FRAGMENT {
        return chain;
    }
    let chain = fragment_header(packet, chain, end);
    if chain.reason as u32 != DropReason::None as u32 || chain.fragment_offset_bytes != 0 {
        return chain;
    }
    let chain = options::<P, BEHIND>(packet, chain, end, false);
    if chain.protocol == PROTOCOL_FRAGMENT {
        return Chain { reason: DropReason::Ipv6ExtensionInvalid, ..chain };
    }
    chain
}

/// Follows extension headers that tell their length in units of eight bytes. Hop-by-hop options may only
/// be the first of all.
#[inline(always)]
fn options<P: Packet, const MAX: usize>(
    packet: &P,
    mut chain: Chain,
    end: usize,
    may_hop: bool,
) -> Chain {
    let start = chain.l4_offset;
    let mut options_bytes = 0;
    for position in 0..MAX {
        if !is_options(chain.protocol) {
            return chain;
        }
        let Some(extension) = packet.window::<EXTENSION_BYTES_MIN>(chain.l4_offset) else {
            return cut_off(chain);
        };
        options_bytes += EXTENSION_BYTES_MIN + usize::from(extension[1]) * 8;
        if start + options_bytes > end {
            return cut_off(chain);
        }
        if options_bytes > EXTENSION_BYTES_MAX {
            return Chain { reason: DropReason::Ipv6TooDeeplyNested, ..chain };
        }
        if chain.protocol == HOP_BY_HOP && !(position == 0 && may_hop) {
            return Chain { reason: DropReason::Ipv6ExtensionInvalid, ..chain };
        }
        // An address other than the destination's is still to come (RFC 8200, section 4.4).
        if chain.protocol == ROUTING && extension[3] != 0 {
            return Chain { reason: DropReason::Ipv6RoutingHeader, ..chain };
        }
        chain.protocol = u32::from(extension[0]);
        chain.l4_offset = start + options_bytes;
    }
    if is_options(chain.protocol) {
        chain.reason = DropReason::Ipv6TooDeeplyNested;
    }
    chain
}

#[inline(always)]
fn fragment_header<P: Packet>(packet: &P, chain: Chain, end: usize) -> Chain {
    let l4_offset = chain.l4_offset + EXTENSION_BYTES_MIN;
    let Some(header) = packet.window::<EXTENSION_BYTES_MIN>(chain.l4_offset) else {
        return cut_off(chain);
    };
    if l4_offset > end {
        return cut_off(chain);
    }
    let protocol = u32::from(header[0]);
    let field = u16::from_be_bytes([header[2], header[3]]);
    let fragment_offset_bytes = u32::from(field & 0xfff8);
    let has_more = field & 1 != 0;
    Chain {
        reason: DropReason::None,
        protocol,
        l4_offset,
        is_fragment: fragment_offset_bytes != 0 || has_more,
        fragment_id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        fragment_part_offset: l4_offset,
        fragment_protocol: protocol,
        fragment_offset_bytes,
        has_more,
    }
}

/// A first fragment must hold the whole chain (RFC 7112).
#[inline(always)]
const fn cut_off(chain: Chain) -> Chain {
    let reason =
        if chain.is_fragment { DropReason::FragmentTiny } else { DropReason::Ipv6ExtensionInvalid };
    Chain { reason, ..chain }
}

/// Headers of authentication (51) are none of these: they sign the addresses, so that what is behind
/// them cannot be translated.
#[inline(always)]
const fn is_options(protocol: u32) -> bool {
    protocol == DESTINATION_OPTIONS || protocol == HOP_BY_HOP || protocol == ROUTING
}
