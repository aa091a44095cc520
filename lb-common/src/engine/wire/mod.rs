//! From bytes to the few fields that decisions need, for both address families.
//!
//! [`link`] finds the IP header behind up to two VLAN tags, [`parse_v4`] and [`parse_v6`] read one
//! packet, [`embedded_v4`] and [`embedded_v6`] the packet that an ICMP error quotes. Results are
//! flat: a kind, a reason, and fields that mean something for some kinds only.
//!
//! Nothing here knows VIPs. A packet that is broken keeps its addresses as far as it has any, so that
//! the caller can tell whether it was for a VIP; [`Headers::source_fault`] is for packets that were.

mod address;
mod embedded;
mod ipv4;
mod ipv6;
mod link;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
mod transport;

pub use address::Address;
pub use embedded::{Embedded, embedded_v4, embedded_v6};
pub use ipv4::parse_v4;
pub use ipv6::{
    EXTENSION_BYTES_MAX, EXTENSION_HEADERS_MAX, FRAGMENT_EXTENSION_HEADERS_MAX, parse_network_v6,
    parse_v6,
};
pub use link::{Link, Network, link};
pub use transport::{TcpNumbers, parse_transport, tcp_numbers};

use super::ways::Tuple;
use crate::abi::{DropReason, NetU16, NetU32};

/// Length of an Ethernet header without tags.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// Length of a VLAN tag.
pub const VLAN_TAG_BYTES: usize = 4;
/// Length of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_HEADER_BYTES: usize = 40;
/// Length of a TCP header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Length of a UDP header.
pub const UDP_HEADER_BYTES: usize = 8;
/// Length of the part of an ICMP message that all types have.
pub const ICMP_HEADER_BYTES: usize = 8;

/// Bytes that must be readable to tell most packets: TCP over IPv4, or an IPv6 header, without tags. A
/// sender of this machine has no more than its headers at hand, and each byte more would be copied.
pub const USUAL_HEADER_BYTES: u32 =
    (ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + TCP_HEADER_BYTES) as u32;
const _: () = assert!(USUAL_HEADER_BYTES as usize >= ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES);
/// Bytes that must be readable for any packet that is understood.
pub const HEADER_BYTES_MAX: usize = ETHERNET_HEADER_BYTES
    + 2 * VLAN_TAG_BYTES
    + 2 * (IPV6_HEADER_BYTES + 2 * EXTENSION_BYTES_MAX + 8)
    + ICMP_HEADER_BYTES
    + TCP_HEADER_BYTES;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u32 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u32 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u32 = 17;
/// IP protocol number of the IPv6 fragment header.
pub const PROTOCOL_FRAGMENT: u32 = 44;
/// IP protocol number of `ICMPv6`.
pub const PROTOCOL_ICMPV6: u32 = 58;

/// TCP flag: no more data from the sender.
pub const TCP_FIN: u32 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const TCP_SYN: u32 = 0x02;
/// TCP flag: reset.
pub const TCP_RST: u32 = 0x04;
/// TCP flag: the acknowledgement field is valid.
pub const TCP_ACK: u32 = 0x10;

/// What a packet is.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A protocol or ICMP message that is not balanced, or too short to have addresses.
    Other = 0,
    /// TCP, whole or a first fragment: there are ports and flags.
    Tcp = 1,
    /// UDP, whole or a first fragment: there are ports.
    Udp = 2,
    /// An ICMP echo request.
    EchoRequest = 3,
    /// An ICMP error: there is an embedded packet.
    IcmpError = 4,
    /// A fragment that is not the first: there are no ports.
    LaterFragment = 5,
    /// To be dropped if it is for a VIP; there is a reason.
    Broken = 6,
}

/// Which part of an IP packet this is.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// All of it, also as an atomic fragment (RFC 6946).
    Whole = 0,
    /// The part with the transport header.
    First = 1,
    /// Another part.
    Later = 2,
}

/// The fields of a packet that decisions need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers<A> {
    /// What the packet is.
    pub kind: Kind,
    /// What is wrong with it; [`DropReason::None`] unless it is [`Kind::Broken`].
    pub reason: DropReason,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// The identification that all fragments of a packet have. They also share the addresses and
    /// [`Headers::fragment_protocol`]. 0 for a whole packet.
    pub fragment_id: u32,
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: NetU16,
    /// Destination port.
    pub destination_port: NetU16,
    /// Protocol of what follows the IP headers.
    pub protocol: u32,
    /// Flag byte of the TCP header.
    pub tcp_flags: u32,
    /// Sequence number of the TCP header.
    pub tcp_sequence: NetU32,
    /// Acknowledgement number of the TCP header; means nothing without the flag ACK.
    pub tcp_acknowledgement: NetU32,
    /// Bytes of the TCP header with options.
    pub tcp_header_bytes: u32,
    /// Type of service or traffic class.
    pub traffic_class: u32,
    /// Time to live or hop limit.
    pub hop_limit: u32,
    /// Where the IP header begins.
    pub l3_offset: usize,
    /// Where the transport header begins.
    pub l4_offset: usize,
    /// Bytes from the IP header to the end that the IP header states, or of the whole packet beyond
    /// 64 KiB (BIG TCP). Never more than there are. 0 if the IP header is broken.
    pub l3_bytes: u32,
}

impl<A: Address> Headers<A> {
    /// A packet without addresses.
    const NONE: Self = Self {
        kind: Kind::Other,
        reason: DropReason::None,
        fragment: Fragment::Whole,
        fragment_id: 0,
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: NetU16::new(0),
        destination_port: NetU16::new(0),
        protocol: 0,
        tcp_flags: 0,
        tcp_sequence: NetU32::new(0),
        tcp_acknowledgement: NetU32::new(0),
        tcp_header_bytes: 0,
        traffic_class: 0,
        hop_limit: 0,
        l3_offset: 0,
        l4_offset: 0,
        l3_bytes: 0,
    };

    /// The same packet, broken.
    #[inline(always)]
    const fn broken(self, reason: DropReason) -> Self {
        Self { kind: Kind::Broken, reason, ..self }
    }

    /// Where the packet ends; what follows is padding of the link.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.l3_offset + self.l3_bytes as usize
    }

    /// Bytes of the transport header and what follows it.
    #[inline(always)]
    #[must_use]
    pub const fn l4_bytes(&self) -> u32 {
        self.l3_bytes.saturating_sub(self.l3_header_bytes() as u32)
    }

    /// Bytes of the IP header with options or extension headers.
    #[inline(always)]
    #[must_use]
    pub const fn l3_header_bytes(&self) -> usize {
        self.l4_offset.wrapping_sub(self.l3_offset)
    }

    /// The protocol in the key of a fragment table: IPv6 does not tell it in later fragments.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_protocol(&self) -> u32 {
        if A::IS_V6 { PROTOCOL_FRAGMENT } else { self.protocol }
    }

    /// TCP or UDP, with ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_transport(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp)
    }

    /// The flow of a packet that a client sends; of one that a backend sends, reversed.
    #[inline(always)]
    #[must_use]
    pub const fn tuple(&self) -> Tuple<A> {
        let source = (self.source, self.source_port);
        Tuple::new(source, (self.destination, self.destination_port), self.protocol)
    }

    /// A first SYN: opens a connection, unlike the SYN+ACK of a simultaneous open.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
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

    /// An acknowledgement and nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn is_bare_ack(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_ACK
            && self.l4_bytes() <= self.tcp_header_bytes
    }

    /// Refuses a connection: RST and ACK with sequence number 0, which is how a closed port answers a
    /// SYN (RFC 9293, section 3.10.7.1). A reset in mid-stream has the number that its receiver expects.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_RST | TCP_ACK
            && self.tcp_sequence.raw() == 0
    }

    /// The sequence number behind a FIN: what acknowledges it acknowledges that.
    #[inline(always)]
    #[must_use]
    pub const fn tcp_end(&self) -> u32 {
        let payload_bytes = self.l4_bytes().saturating_sub(self.tcp_header_bytes);
        self.tcp_sequence.get().wrapping_add(payload_bytes).wrapping_add(1)
    }

    /// Why a packet to a VIP cannot have come from where it says: [`DropReason::Land`],
    /// [`DropReason::SourceImpossible`], or [`DropReason::None`].
    #[inline(always)]
    #[must_use]
    pub fn source_fault(&self) -> DropReason {
        if self.source.is_same(self.destination) {
            DropReason::Land
        } else if self.source.is_one_host() {
            DropReason::None
        } else {
            DropReason::SourceImpossible
        }
    }
}
