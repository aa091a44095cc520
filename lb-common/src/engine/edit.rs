//! Edits: what is changed in a packet, and the change itself.
//!
//! Address, port and TTL are written and the IPv4 header checksum is updated here, by arithmetic.
//! That is right in TC too: the IPv4 header's bytes always sum to zero with their checksum, so a
//! consistent change leaves the sum that a device may have put in the skb (`CHECKSUM_COMPLETE`) as
//! it was, and no device offloads the header checksum on the way we act. The checksum of TCP is the
//! packet's own business ([`Packet::fix_l4_checksum`]).

use super::{Packet, checksum, checksum::Change, parse::ETHERNET_HEADER_BYTES};
use crate::abi::{NetU16, NetU32};

/// Which end of the packet is translated.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// A translation of one end; the TTL goes down by one, since we route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edit {
    /// Which end.
    pub side: Side,
    /// The address before.
    pub old_address: NetU32,
    /// The address after.
    pub address: NetU32,
    /// The port before.
    pub old_port: NetU16,
    /// The port after.
    pub port: NetU16,
    /// Where the TCP header begins.
    pub l4_offset: usize,
}

/// The packet could not be changed; it may be half changed and must be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EditError;

const TTL_OFFSET: usize = 8;
const HEADER_CHECKSUM_OFFSET: usize = 10;
const SOURCE_OFFSET: usize = 12;
const DESTINATION_OFFSET: usize = 16;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM_OFFSET: usize = 16;

impl Edit {
    /// What the edit does to the checksum of TCP or UDP.
    #[inline(always)]
    #[must_use]
    pub const fn checksum_change(&self) -> Change {
        Change {
            pseudo: checksum::difference(self.old_address.raw(), self.address.raw()),
            payload: checksum::difference(self.old_port.raw() as u32, self.port.raw() as u32),
        }
    }
}

/// Carries out a translation. On error the packet must not be sent anywhere.
#[inline(always)]
pub fn translate_v4<P: Packet>(packet: &mut P, edit: &Edit) -> Result<(), EditError> {
    let change = edit.checksum_change();
    write_ipv4(packet, edit, change.pseudo).ok_or(EditError)?;
    let ports = packet.window_mut::<4>(edit.l4_offset).ok_or(EditError)?;
    let port = edit.port.to_wire();
    match edit.side {
        Side::Source => (ports[0], ports[1]) = (port[0], port[1]),
        Side::Destination => (ports[2], ports[3]) = (port[0], port[1]),
    }
    packet.fix_l4_checksum(edit.l4_offset + TCP_CHECKSUM_OFFSET, change)
}

#[inline(always)]
fn write_ipv4<P: Packet>(packet: &mut P, edit: &Edit, pseudo: u32) -> Option<()> {
    let header = packet.window_mut::<20>(ETHERNET_HEADER_BYTES)?;
    let address = edit.address.to_wire();
    match edit.side {
        Side::Source => write_at::<SOURCE_OFFSET>(header, address),
        Side::Destination => write_at::<DESTINATION_OFFSET>(header, address),
    }
    let before = u16::from_ne_bytes([header[TTL_OFFSET], header[TTL_OFFSET + 1]]);
    header[TTL_OFFSET] = header[TTL_OFFSET].wrapping_sub(1);
    let after = u16::from_ne_bytes([header[TTL_OFFSET], header[TTL_OFFSET + 1]]);
    let ttl = checksum::difference(u32::from(before), u32::from(after));
    let old =
        u16::from_ne_bytes([header[HEADER_CHECKSUM_OFFSET], header[HEADER_CHECKSUM_OFFSET + 1]]);
    let new = checksum::apply(old, checksum::add(pseudo, ttl)).to_ne_bytes();
    (header[HEADER_CHECKSUM_OFFSET], header[HEADER_CHECKSUM_OFFSET + 1]) = (new[0], new[1]);
    Some(())
}

#[inline(always)]
fn write_at<const OFFSET: usize>(header: &mut [u8; 20], address: [u8; 4]) {
    header[OFFSET] = address[0];
    header[OFFSET + 1] = address[1];
    header[OFFSET + 2] = address[2];
    header[OFFSET + 3] = address[3];
}
