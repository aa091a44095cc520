//! ICMP errors: the error goes to whoever sent the packet that it quotes, so the quoted packet is
//! translated at the opposite end.
//!
//! From the client's side, an error about a packet of the VIP: outer destination and quoted source
//! become the backend's. From the backend's side, an error about a packet of the client: the quoted
//! destination becomes the VIP's, and the outer source, too, if it is the backend itself.

use super::{
    ICMP_CHECKSUM_OFFSET, Rewrite, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET, ip,
    udp_checksum_after, write_port,
};
use crate::{
    abi::NetU16,
    engine::{
        EditError, Side, checksum,
        checksum::Change,
        wire::{Address, Embedded, Headers, ICMP_HEADER_BYTES, PROTOCOL_TCP, PROTOCOL_UDP},
    },
};

/// Bytes of TCP up to the end of its checksum.
const TCP_BYTES_TO_CHECKSUM: usize = TCP_CHECKSUM_OFFSET + 2;
/// Bytes of TCP or UDP that every error quotes.
const QUOTED_BYTES_MIN: usize = 8;

/// A translation of an ICMP error and of the packet that it quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorTranslation<A> {
    /// Which end of the quoted packet; of the error itself it is the other one.
    pub quoted_side: Side,
    /// Whether the error's own address is translated; that of a router on the way is left. A word, as
    /// all of a decision.
    pub is_outer_translated: u32,
    /// The address before, in both.
    pub old_address: A,
    /// The address after, in both.
    pub address: A,
    /// The port of the quoted packet before.
    pub old_port: NetU16,
    /// The port of the quoted packet after.
    pub port: NetU16,
    /// Protocol of the quoted packet.
    pub protocol: u32,
    /// Where the error's IP header begins.
    pub l3_offset: usize,
    /// Where the ICMP message begins.
    pub l4_offset: usize,
    /// Where the quoted IP header begins.
    pub quoted_l3_offset: usize,
    /// Where the quoted transport header begins.
    pub quoted_l4_offset: usize,
    /// Bytes of the quoted transport header and what follows it.
    pub quoted_l4_bytes: u32,
}

impl<A: Address> ErrorTranslation<A> {
    /// An error about a packet of the VIP, on its way to the backend that sent the packet.
    #[inline(always)]
    #[must_use]
    pub fn to_backend(
        error: &Headers<A>,
        quoted: &Embedded<A>,
        backend: A,
        backend_port: NetU16,
    ) -> Self {
        Self {
            quoted_side: Side::Source,
            is_outer_translated: 1,
            old_address: quoted.source,
            address: backend,
            old_port: quoted.source_port,
            port: backend_port,
            ..Self::places(error, quoted)
        }
    }

    /// An error about a packet of the client, from the backend or from behind it.
    #[inline(always)]
    #[must_use]
    pub fn to_client(error: &Headers<A>, quoted: &Embedded<A>, vip: A, vip_port: NetU16) -> Self {
        Self {
            quoted_side: Side::Destination,
            is_outer_translated: u32::from(error.source.is_same(quoted.destination)),
            old_address: quoted.destination,
            address: vip,
            old_port: quoted.destination_port,
            port: vip_port,
            ..Self::places(error, quoted)
        }
    }

    /// No translation.
    pub const NONE: Self = Self {
        quoted_side: Side::Source,
        is_outer_translated: 0,
        old_address: A::UNSPECIFIED,
        address: A::UNSPECIFIED,
        old_port: NetU16::new(0),
        port: NetU16::new(0),
        protocol: 0,
        l3_offset: 0,
        l4_offset: 0,
        quoted_l3_offset: 0,
        quoted_l4_offset: 0,
        quoted_l4_bytes: 0,
    };

    #[inline(always)]
    fn places(error: &Headers<A>, quoted: &Embedded<A>) -> Self {
        Self {
            protocol: quoted.protocol,
            l3_offset: error.l3_offset,
            l4_offset: error.l4_offset,
            quoted_l3_offset: quoted.l3_offset,
            quoted_l4_offset: quoted.l4_offset,
            quoted_l4_bytes: quoted.l4_bytes,
            ..Self::NONE
        }
    }
}

/// Carries out a translation of an ICMP error. On error the packet must not be sent anywhere.
#[inline(always)]
pub fn translate_error<P: Rewrite, A: Address>(
    packet: &mut P,
    translation: &ErrorTranslation<A>,
) -> Result<(), EditError> {
    let ErrorTranslation { l3_offset, l4_offset, quoted_l4_offset, .. } = *translation;
    let address = translation.old_address.difference(translation.address);
    let (old_port, port) = (translation.old_port.raw(), translation.port.raw());
    let port = checksum::difference(u32::from(old_port), u32::from(port));

    packet.window::<ICMP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
    packet.window::<QUOTED_BYTES_MIN>(quoted_l4_offset).ok_or(EditError)?;
    let has_tcp_checksum = translation.protocol == PROTOCOL_TCP
        && translation.quoted_l4_bytes as usize >= TCP_BYTES_TO_CHECKSUM;
    if has_tcp_checksum {
        packet.window::<TCP_BYTES_TO_CHECKSUM>(quoted_l4_offset).ok_or(EditError)?;
    }
    if A::IS_V6 {
        packet.window::<40>(translation.quoted_l3_offset).ok_or(EditError)?;
    } else {
        packet.window::<20>(translation.quoted_l3_offset).ok_or(EditError)?;
    }

    // The hop limit goes down in any case, and is checked before the first write.
    let outer_side = opposite(translation.quoted_side);
    let is_outer_translated = translation.is_outer_translated != 0;
    if is_outer_translated {
        ip::rewrite(packet, l3_offset, outer_side, translation.address, address)?;
    } else {
        ip::lower_hop_limit_only::<P, A>(packet, l3_offset)?;
    }

    let quoted_l3_offset = translation.quoted_l3_offset;
    let side = translation.quoted_side;
    let header =
        ip::rewrite_embedded(packet, quoted_l3_offset, side, translation.address, address)?;
    let l4 = packet.window_mut::<QUOTED_BYTES_MIN>(quoted_l4_offset).ok_or(EditError)?;
    write_port(l4, side, translation.port);
    let mut payload = checksum::add(header, port);
    let both = checksum::add(address, port);
    if translation.protocol == PROTOCOL_UDP && l4[6] | l4[7] != 0 {
        let old = [l4[UDP_CHECKSUM_OFFSET], l4[UDP_CHECKSUM_OFFSET + 1]];
        let new = udp_checksum_after(old, both);
        (l4[UDP_CHECKSUM_OFFSET], l4[UDP_CHECKSUM_OFFSET + 1]) = (new[0], new[1]);
        payload = checksum::add(payload, field_difference(old, new));
    } else if has_tcp_checksum {
        let tcp = packet.window_mut::<TCP_BYTES_TO_CHECKSUM>(quoted_l4_offset).ok_or(EditError)?;
        let old = [tcp[TCP_CHECKSUM_OFFSET], tcp[TCP_CHECKSUM_OFFSET + 1]];
        let new = checksum::apply(u16::from_ne_bytes(old), both).to_ne_bytes();
        (tcp[TCP_CHECKSUM_OFFSET], tcp[TCP_CHECKSUM_OFFSET + 1]) = (new[0], new[1]);
        payload = checksum::add(payload, field_difference(old, new));
    }
    // Only ICMPv6 has a pseudo header.
    let pseudo = if A::IS_V6 && is_outer_translated { address } else { 0 };
    packet.fix_l4_checksum(l4_offset + ICMP_CHECKSUM_OFFSET, Change { pseudo, payload })
}

#[inline(always)]
const fn field_difference(old: [u8; 2], new: [u8; 2]) -> u32 {
    checksum::difference(u16::from_ne_bytes(old) as u32, u16::from_ne_bytes(new) as u32)
}

#[inline(always)]
const fn opposite(side: Side) -> Side {
    match side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    }
}
