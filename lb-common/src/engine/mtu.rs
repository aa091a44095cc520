//! Whether a packet fits the way ahead.
//!
//! No hook can fragment, and redirecting skips the kernel's own check. So a packet that is too big is
//! dropped and its sender told the MTU ([`super::answer::AnswerKind::TooBig`]), whether or not it set
//! DF: a sender without path MTU discovery would lose the packet all the same, and Linux heeds the
//! message in either case. Translation changes no length, so the question can be asked before it.
//! What is delivered to a local container is not asked: receivers do not enforce their MTU.

use super::{
    Packet,
    wire::{Address, Fragment, Headers, Kind, UDP_HEADER_BYTES, tcp_numbers},
};

/// Length of the hop-by-hop header that Linux puts into IPv6 packets beyond 64 KiB and takes out again
/// when it cuts them into segments.
const JUMBO_HEADER_BYTES: u32 = 8;
const IPV6_BYTES_MAX: u32 = 40 + 0xffff;

/// Bytes of the largest IP packet that will be on the wire. `gso_bytes` is the payload of one segment
/// (`gso_size` of a socket buffer), 0 for a packet that is sent as it is.
#[inline(always)]
pub fn wire_bytes<P: Packet, A: Address>(packet: &P, headers: &Headers<A>, gso_bytes: u32) -> u32 {
    let is_whole = headers.fragment as u32 == Fragment::Whole as u32;
    if gso_bytes == 0 || !is_whole {
        return headers.l3_bytes;
    }
    let l4_header_bytes = match headers.kind {
        Kind::Tcp => tcp_numbers(packet, headers).map_or(0, |numbers| numbers.header_bytes),
        Kind::Udp => UDP_HEADER_BYTES as u32,
        _ => return headers.l3_bytes,
    };
    let mut l3_header_bytes = headers.l3_header_bytes() as u32;
    if A::IS_V6 && headers.l3_bytes > IPV6_BYTES_MAX && l3_header_bytes > A::HEADER_BYTES as u32 {
        l3_header_bytes -= JUMBO_HEADER_BYTES;
    }
    let segment_bytes = l3_header_bytes + l4_header_bytes + gso_bytes;
    // The last segment may be the only one.
    if segment_bytes < headers.l3_bytes { segment_bytes } else { headers.l3_bytes }
}

/// Whether a packet fits an MTU.
#[inline(always)]
pub fn fits<P: Packet, A: Address>(
    packet: &P,
    headers: &Headers<A>,
    gso_bytes: u32,
    mtu: u32,
) -> bool {
    // Nearly all do at the first look.
    headers.l3_bytes <= mtu || wire_bytes(packet, headers, gso_bytes) <= mtu
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::engine::{
        host::HostPacket,
        testing::*,
        wire::{parse_v4, parse_v6},
    };

    fn check(frame: Vec<u8>, gso_bytes: u32, expected: u32) {
        let packet = HostPacket(frame);
        let is_v4 = packet.0[12] == 8;
        let bytes = if is_v4 {
            wire_bytes(&packet, &parse_v4(&packet, 14), gso_bytes)
        } else {
            wire_bytes(&packet, &parse_v6(&packet, 14), gso_bytes)
        };
        assert_eq!(bytes, expected, "{} bytes, gso {gso_bytes}", packet.0.len());
        if is_v4 {
            let headers = parse_v4(&packet, 14);
            assert!(fits(&packet, &headers, gso_bytes, expected));
            assert!(!fits(&packet, &headers, gso_bytes, expected - 1));
        }
    }

    #[test]
    fn segments_count_not_the_whole() {
        let long = payload(4000);
        check(plain(CLIENT, VIP, 6, tcp((1, 2), 16, &long)), 0, 4040);
        check(plain(CLIENT, VIP, 6, tcp((1, 2), 16, &long)), 1460, 1500);
        check(plain(CLIENT, VIP, 6, tcp((1, 2), 16, &payload(100))), 1460, 140);
        check(plain(CLIENT, VIP, 17, udp((1, 2), &long)), 1200, 1228);
        check(plain(CLIENT6, VIP6, 6, tcp((1, 2), 16, &long)), 1440, 1500);
        let mut options = tcp((1, 2), 16, &long);
        options[12] = 0x80;
        check(plain(CLIENT, VIP, 6, options), 1448, 1500);
        let fragment = ipv4(CLIENT, VIP, 17, (7, 0x2000), &[], &udp((1, 2), &payload(1992)));
        check(frame(&[], &fragment), 100, 2020);
        let segment = tcp((1, 2), 16, &vec![0; 70_000]);
        let mut jumbo = vec![0, 0, 0xc2, 4];
        jumbo.extend((segment.len() as u32 + 8).to_be_bytes());
        let mut big = ipv6(CLIENT6, VIP6, 6, &[(0, jumbo)], &segment);
        big[4..6].copy_from_slice(&[0, 0]);
        check(frame(&[], &big), 1440, 1500);
    }
}
