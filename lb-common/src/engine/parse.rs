//! From bytes to the few fields that decisions need.
//!
//! Only Ethernet, IPv4 with options and TCP are understood; anything else is not ours. A packet that
//! is IPv4 and TCP but broken keeps its destination, so that the caller can tell whether it was for
//! a VIP.

use super::{Packet, PacketKind};
use crate::abi::{DropReason, NetU16, NetU32, PROTOCOL_TCP};

/// Length of an Ethernet header without tags.
pub const ETHERNET_HEADER_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const IPV4_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;
/// More-fragments flag and fragment offset.
const FRAGMENT_MASK: u16 = 0x3fff;

/// TCP flag: no more data from the sender.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag: reset.
pub const TCP_RST: u8 = 0x04;
/// TCP flag: the acknowledgement field is valid.
pub const TCP_ACK: u8 = 0x10;

/// The fields of an IPv4 TCP packet that decisions need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadersV4 {
    /// Where the TCP header begins.
    pub l4_offset: usize,
    /// Source address.
    pub source: NetU32,
    /// Destination address.
    pub destination: NetU32,
    /// Source port.
    pub source_port: NetU16,
    /// Destination port.
    pub destination_port: NetU16,
    /// Total length that the IP header states; 0 for a packet beyond 64 KiB (IPv4 BIG TCP).
    pub total_length: u16,
    /// Type of service byte.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Flag byte of the TCP header.
    pub tcp_flags: u8,
}

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// Nothing that is balanced.
    NotOurs,
    /// IPv4 and TCP, but it cannot be balanced: to be dropped if it is for a VIP.
    Broken {
        /// Destination address.
        destination: NetU32,
        /// What is wrong.
        reason: DropReason,
    },
    /// A TCP packet.
    Tcp(HeadersV4),
}

impl HeadersV4 {
    /// A first SYN: opens a connection, unlike the SYN+ACK of a simultaneous open.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
    }

    /// What the packet is to its flow.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> PacketKind {
        if self.is_reset() {
            PacketKind::Reset
        } else if self.is_closing() {
            PacketKind::Fin
        } else if self.is_syn() {
            PacketKind::Syn
        } else if self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_ACK {
            PacketKind::Data
        } else {
            PacketKind::Stray
        }
    }

    /// The answer to a SYN.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn_ack(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN | TCP_ACK
    }

    /// The sender ends the connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_reset(&self) -> bool {
        self.tcp_flags & TCP_RST != 0
    }

    /// The sender ends its direction or the connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        self.tcp_flags & (TCP_RST | TCP_FIN) != 0
    }
}

/// Parses an untagged Ethernet packet.
#[inline(always)]
pub fn parse_v4<P: Packet>(packet: &P) -> Parsed {
    let Some(start) = packet.window::<{ ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES }>(0) else {
        // Too short for an IPv4 header: there is no destination that could be ours.
        return Parsed::NotOurs;
    };
    if [start[12], start[13]] != ETHERTYPE_IPV4 || start[23] != PROTOCOL_TCP {
        return Parsed::NotOurs;
    }
    let source = NetU32::from_wire([start[26], start[27], start[28], start[29]]);
    let destination = NetU32::from_wire([start[30], start[31], start[32], start[33]]);
    let broken = |reason| Parsed::Broken { destination, reason };

    let header_bytes = usize::from(start[14] & 0x0f) * 4;
    let total_length = u16::from_be_bytes([start[16], start[17]]);
    let end = ETHERNET_HEADER_BYTES + usize::from(total_length);
    let length_bytes = packet.length_bytes();
    // IPv4 BIG TCP (Linux 6.3, b1a78b9b9886) leaves 0 in packets that do not fit the field.
    let is_beyond_field = total_length == 0 && length_bytes > 0xffff;
    if start[14] >> 4 != 4
        || header_bytes < IPV4_HEADER_BYTES
        || (end > length_bytes && !is_beyond_field)
        || (usize::from(total_length) < header_bytes && !is_beyond_field)
    {
        return broken(DropReason::Ipv4HeaderInvalid);
    }
    if u16::from_be_bytes([start[20], start[21]]) & FRAGMENT_MASK != 0 {
        return broken(DropReason::Fragment);
    }

    let (tos, ttl) = (start[15], start[22]);
    let l4_offset = ETHERNET_HEADER_BYTES + header_bytes;
    let Some(tcp) = packet.window::<TCP_HEADER_BYTES>(l4_offset) else {
        return broken(DropReason::TcpHeaderInvalid);
    };
    let tcp_bytes = usize::from(tcp[12] >> 4) * 4;
    if tcp_bytes < TCP_HEADER_BYTES || (l4_offset + tcp_bytes > end && !is_beyond_field) {
        return broken(DropReason::TcpHeaderInvalid);
    }
    Parsed::Tcp(HeadersV4 {
        l4_offset,
        source,
        destination,
        source_port: NetU16::from_wire([tcp[0], tcp[1]]),
        destination_port: NetU16::from_wire([tcp[2], tcp[3]]),
        total_length,
        tos,
        ttl,
        tcp_flags: tcp[13],
    })
}
