//! Translation: addresses, ports, hop limit and every checksum that covers them.
//!
//! A packet is never sent on half rewritten: all that is needed is found before the first byte is
//! written, so that an error leaves the packet as it was unless a helper of the kernel refuses.
//! Checksums change by arithmetic (RFC 1624) where the bytes tell all, and through [`Rewrite`] where
//! they do not: a TCP or UDP sum may be left for a device to finish, and a device may have delivered a
//! sum of all bytes, which every change has to leave true.
//!
//! - IPv4: the header's bytes sum to zero together with their checksum, so a consistent change leaves
//!   the device's sum as it was.
//! - IPv6 has no such checksum: the change of address and hop limit is told to the device's sum.
//! - An ICMP error's bytes, with the packet that it quotes, sum to zero together with its checksum.

mod icmp;
mod ip;
#[cfg(test)]
mod tests;

pub use icmp::{ErrorTranslation, translate_error};

use super::{
    EditError, Packet, Side, checksum,
    checksum::Change,
    wire::{Address, PROTOCOL_TCP, PROTOCOL_UDP, TCP_HEADER_BYTES, UDP_HEADER_BYTES},
};
use crate::abi::NetU16;

/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM_OFFSET: usize = 16;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECKSUM_OFFSET: usize = 6;
/// Offset of the checksum in an ICMP message.
pub const ICMP_CHECKSUM_OFFSET: usize = 2;

/// What a packet must be able to do, beyond windows, to be rewritten.
pub trait Rewrite: Packet {
    /// Brings the UDP checksum at `offset`, which is not 0, in line with bytes that were changed, and
    /// writes 0xffff for 0. Else like [`Packet::fix_l4_checksum`].
    fn fix_udp_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError>;

    /// Tells the sum that a device has delivered of the whole packet, if there is one, about bytes
    /// that were changed without a checksum in the packet that changed with them. Keeps windows valid.
    fn fix_device_sum(&mut self, difference: u32);
}

/// A translation of one end of a packet. The hop limit goes down by one, since we route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<A> {
    /// Which end.
    pub side: Side,
    /// Protocol of the transport header, [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`]; with anything else only
    /// the IP header is translated, as in later fragments.
    pub protocol: u32,
    /// The address before.
    pub old_address: A,
    /// The address after.
    pub address: A,
    /// The port before.
    pub old_port: NetU16,
    /// The port after.
    pub port: NetU16,
    /// Where the IP header begins.
    pub l3_offset: usize,
    /// Where the transport header begins.
    pub l4_offset: usize,
}

impl<A: Address> Translation<A> {
    /// What the translation does to the checksum of TCP or UDP.
    #[inline(always)]
    #[must_use]
    pub fn checksum_change(&self) -> Change {
        Change {
            pseudo: self.old_address.difference(self.address),
            payload: checksum::difference(
                u32::from(self.old_port.raw()),
                u32::from(self.port.raw()),
            ),
        }
    }
}

/// Carries out a translation. On error the packet must not be sent anywhere.
#[inline(always)]
pub fn translate<P: Rewrite, A: Address>(
    packet: &mut P,
    translation: &Translation<A>,
) -> Result<(), EditError> {
    let Translation { protocol, l3_offset, l4_offset, .. } = *translation;
    let change = translation.checksum_change();
    if protocol == PROTOCOL_TCP {
        packet.window::<TCP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        ip::rewrite(packet, l3_offset, translation.side, translation.address, change.pseudo)?;
        let tcp = packet.window_mut::<TCP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        write_port(tcp, translation.side, translation.port);
        packet.fix_l4_checksum(l4_offset + TCP_CHECKSUM_OFFSET, change)
    } else if protocol == PROTOCOL_UDP {
        let udp = packet.window::<UDP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        let has_checksum = udp[6] | udp[7] != 0;
        ip::rewrite(packet, l3_offset, translation.side, translation.address, change.pseudo)?;
        let udp = packet.window_mut::<UDP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        write_port(udp, translation.side, translation.port);
        if has_checksum {
            return packet.fix_udp_checksum(l4_offset + UDP_CHECKSUM_OFFSET, change);
        }
        // Nothing in the packet changed along with its addresses and ports.
        let ports = change.payload;
        packet.fix_device_sum(ports);
        Ok(())
    } else {
        ip::rewrite(packet, l3_offset, translation.side, translation.address, change.pseudo)
    }
}

#[inline(always)]
fn write_port<const N: usize>(header: &mut [u8; N], side: Side, port: NetU16) {
    let port = port.to_wire();
    match side {
        Side::Source => (header[0], header[1]) = (port[0], port[1]),
        Side::Destination => (header[2], header[3]) = (port[0], port[1]),
    }
}

/// A UDP checksum after a change: 0 would mean that there is none.
#[inline(always)]
#[must_use]
pub const fn udp_checksum_after(field: [u8; 2], difference: u32) -> [u8; 2] {
    match checksum::apply(u16::from_ne_bytes(field), difference) {
        0 => [0xff, 0xff],
        other => other.to_ne_bytes(),
    }
}

/// [`Rewrite::fix_udp_checksum`] by arithmetic, for packets whose checksums are complete.
#[inline(always)]
pub fn rewrite_udp_checksum<P: Packet>(
    packet: &mut P,
    offset: usize,
    change: Change,
) -> Result<(), EditError> {
    let field = packet.window_mut::<2>(offset).ok_or(EditError)?;
    *field = udp_checksum_after(*field, checksum::add(change.pseudo, change.payload));
    Ok(())
}

#[cfg(any(feature = "std", test))]
impl Rewrite for super::host::HostPacket {
    fn fix_udp_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        rewrite_udp_checksum(self, offset, change)
    }

    fn fix_device_sum(&mut self, _difference: u32) {}
}
