//! Every kind of packet is translated and then judged by `etherparse`: checksums from zero, and no
//! byte changed but those that had to be.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{DropReason, NetAddr6, NetU32},
    engine::{
        host::HostPacket,
        testing::*,
        wire::{Embedded, Headers, Kind, embedded_v4, embedded_v6, parse_v4, parse_v6},
    },
};

fn net4(text: &str) -> NetU32 {
    text.parse::<core::net::Ipv4Addr>().expect("IPv4").into()
}

fn net6(text: &str) -> NetAddr6 {
    text.parse::<core::net::Ipv6Addr>().expect("IPv6").into()
}

fn translation<A: Address>(
    headers: &Headers<A>,
    side: Side,
    (address, port): (A, u16),
) -> Translation<A> {
    let (old_address, old_port) = match side {
        Side::Source => (headers.source, headers.source_port),
        Side::Destination => (headers.destination, headers.destination_port),
    };
    Translation {
        side,
        protocol: if headers.kind == Kind::LaterFragment { 0 } else { headers.protocol },
        old_address,
        address,
        old_port,
        port: NetU16::new(port),
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
    }
}

/// Translates one end of a frame that is untagged.
fn translated(frame: &[u8], side: Side, address: &str, port: u16) -> Result<Vec<u8>, EditError> {
    let mut packet = HostPacket(frame.to_vec());
    if frame[12] == 8 {
        let headers = parse_v4(&packet, 14);
        translate(&mut packet, &translation(&headers, side, (net4(address), port)))?;
    } else {
        let headers = parse_v6(&packet, 14);
        translate(&mut packet, &translation(&headers, side, (net6(address), port)))?;
    }
    Ok(packet.0)
}

/// The same packet as another sender would have sent it.
fn assert_becomes(before: &[u8], side: Side, to: (&str, u16), expected: &[u8]) {
    let mut expected = expected.to_vec();
    if expected[12] == 8 {
        expected[22] -= 1;
        expected[24..26].fill(0);
        let header_bytes = usize::from(expected[14] & 15) * 4;
        let checksum = !checksum::fold(checksum::sum(&expected[14..14 + header_bytes]));
        expected[24..26].copy_from_slice(&checksum.to_ne_bytes());
    } else {
        expected[21] -= 1;
    }
    assert_eq!(translated(before, side, to.0, to.1), Ok(expected));
}

const FAMILIES: [(&str, &str, &str); 2] = [(CLIENT, VIP, BACKEND), (CLIENT6, VIP6, BACKEND6)];

#[test]
fn tcp_and_udp_both_ways() {
    for (client, vip, backend) in FAMILIES {
        for length in [0, 1, 2, 999] {
            for (protocol, build) in
                [(6, tcp_data as fn((u16, u16), usize) -> Vec<u8>), (17, udp_data)]
            {
                let to_vip = plain(client, vip, protocol, build((40_000, 80), length));
                let to_backend = plain(client, backend, protocol, build((40_000, 8080), length));
                assert_becomes(&to_vip, Side::Destination, (backend, 8080), &to_backend);
                let from_backend = plain(backend, client, protocol, build((8080, 40_000), length));
                let from_vip = plain(vip, client, protocol, build((80, 40_000), length));
                assert_becomes(&from_backend, Side::Source, (vip, 80), &from_vip);
            }
        }
    }
}

fn tcp_data(ports: (u16, u16), length: usize) -> Vec<u8> {
    tcp(ports, 0x18, &payload(length))
}

fn udp_data(ports: (u16, u16), length: usize) -> Vec<u8> {
    udp(ports, &payload(length))
}

#[test]
fn udp_without_checksum_stays_without() {
    let packet = |destination, port| {
        frame(&[], &ip(CLIENT, destination, 17, &udp((40_000, port), b"hello")))
    };
    assert_becomes(&packet(VIP, 53), Side::Destination, (BACKEND, 5353), &packet(BACKEND, 5353));
}

/// Some source port gives a sum of zero, which has to be sent as 0xffff.
#[test]
fn udp_checksum_never_becomes_none() {
    for (client, vip, backend) in FAMILIES {
        let mut count = 0;
        for source_port in 1..=u16::MAX {
            let udp = |port| udp((source_port, port), &[]);
            let expected = plain(client, backend, 17, udp(8080));
            let at = expected.len() - 2;
            if expected[at..] == [0xff, 0xff] {
                count += 1;
                let before = plain(client, vip, 17, udp(80));
                assert_becomes(&before, Side::Destination, (backend, 8080), &expected);
            }
        }
        assert!(count > 0, "no port of {client} gives 0xffff");
    }
}

#[test]
fn fragments() {
    let whole = summed(CLIENT, VIP, 17, udp((40_000, 53), &payload(1000)));
    let after = summed(CLIENT, BACKEND, 17, udp((40_000, 5353), &payload(1000)));
    let parts = |destination, l4: &[u8]| {
        [(0x2000, 0..512), (64, 512..l4.len())].map(|(fragment, range)| {
            frame(&[], &ipv4(CLIENT, destination, 17, (7, fragment), &[], &l4[range]))
        })
    };
    for (before, after) in parts(VIP, &whole).iter().zip(parts(BACKEND, &after)) {
        assert_becomes(before, Side::Destination, (BACKEND, 5353), &after);
    }
    let whole = summed(CLIENT6, VIP6, 17, udp((40_000, 53), &payload(1000)));
    let after = summed(CLIENT6, BACKEND6, 17, udp((40_000, 5353), &payload(1000)));
    let parts = |destination, l4: &[u8]| {
        [(0, true, 0..512), (512, false, 512..l4.len())].map(|(offset, more, range)| {
            let header = [fragment_header(9, offset, more)];
            frame(&[], &ipv6(CLIENT6, destination, 17, &header, &l4[range]))
        })
    };
    for (before, after) in parts(VIP6, &whole).iter().zip(parts(BACKEND6, &after)) {
        assert_becomes(before, Side::Destination, (BACKEND6, 5353), &after);
    }
}

/// The packet is shorter than the translation says, or its hop limit used up: no byte changes.
#[test]
fn what_cannot_be_translated_stays_as_it_is() {
    for (client, vip, backend) in FAMILIES {
        let good = plain(client, vip, 6, tcp((40_000, 80), 2, &[]));
        let (hop_at, l3_bytes) = if good[12] == 8 { (22, 20) } else { (21, 40) };
        let mut used_up = good.clone();
        used_up[hop_at] = 1;
        let mut cases = vec![("hop limit", used_up.clone(), used_up)];
        for length in [14, 14 + l3_bytes, good.len() - 1] {
            cases.push(("cut off", good.clone(), good[..length].to_vec()));
        }
        for (name, parsed, carried_out) in cases {
            let mut packet = HostPacket(carried_out.clone());
            let parsed = HostPacket(parsed);
            let result = if good[12] == 8 {
                let headers = parse_v4(&parsed, 14);
                let change = translation(&headers, Side::Destination, (net4(backend), 8080));
                translate(&mut packet, &change)
            } else {
                let headers = parse_v6(&parsed, 14);
                let change = translation(&headers, Side::Destination, (net6(backend), 8080));
                translate(&mut packet, &change)
            };
            assert_eq!(result, Err(EditError), "{name}");
            assert_eq!(packet.0, carried_out, "{name}");
        }
    }
}

fn unreachable(source: &str) -> (u8, u8) {
    if address(source).is_ipv4() { (3, 4) } else { (2, 0) }
}

/// An error about a packet, of which it quotes so many bytes.
fn error(source: &str, destination: &str, quoted: &[u8], quoted_bytes: usize) -> Vec<u8> {
    let quoted = &quoted[14..quoted.len().min(14 + quoted_bytes)];
    let protocol = icmp_protocol(address(source));
    plain(source, destination, protocol, icmp(unreachable(source), 1400, quoted))
}

fn quoted_of(frame: &[u8]) -> &[u8] {
    if frame[12] == 8 { &frame[14 + 28..] } else { &frame[14 + 48..] }
}

fn assert_error_becomes(
    frame: &[u8],
    is_to_backend: bool,
    (address, port): (&str, u16),
    expected: &[u8],
) {
    let mut packet = HostPacket(frame.to_vec());
    let port = NetU16::new(port);
    let result = if frame[12] == 8 {
        let headers = parse_v4(&packet, 14);
        let quoted = embedded_v4(&packet, &headers);
        carry_out(&mut packet, &headers, &quoted, is_to_backend, (net4(address), port))
    } else {
        let headers = parse_v6(&packet, 14);
        let quoted = embedded_v6(&packet, &headers);
        carry_out(&mut packet, &headers, &quoted, is_to_backend, (net6(address), port))
    };
    assert_eq!(result, Ok(()));
    assert_checksums(&packet.0);
    assert_eq!(quoted_of(&packet.0), quoted_of(expected));
    let hop_at = if frame[12] == 8 { 22 } else { 21 };
    assert_eq!(packet.0[hop_at], frame[hop_at] - 1);
    let addresses = if frame[12] == 8 { 26..34 } else { 22..54 };
    assert_eq!(packet.0[addresses.clone()], expected[addresses]);
}

fn carry_out<A: Address>(
    packet: &mut HostPacket,
    headers: &Headers<A>,
    quoted: &Embedded<A>,
    is_to_backend: bool,
    (address, port): (A, NetU16),
) -> Result<(), EditError> {
    assert_eq!(headers.kind, Kind::IcmpError);
    assert_eq!(quoted.reason, DropReason::None);
    let translation = if is_to_backend {
        ErrorTranslation::to_backend(headers, quoted, address, port)
    } else {
        ErrorTranslation::to_client(headers, quoted, address, port)
    };
    translate_error(packet, &translation)
}

#[test]
fn icmp_errors_both_ways() {
    for (client, vip, backend) in FAMILIES {
        let header_bytes = if address(client).is_ipv4() { 20 } else { 40 };
        let router = if address(client).is_ipv4() { ROUTER } else { ROUTER6 };
        for (protocol, build) in [(6, tcp_data as fn((u16, u16), usize) -> Vec<u8>), (17, udp_data)]
        {
            // Eight bytes; up to the checksum of TCP; with it; all; an odd number.
            for l4_bytes in [8, 16, 18, 20, 41, 1000] {
                let quoted_bytes = header_bytes + l4_bytes;
                let sent_by_vip = plain(vip, client, protocol, build((80, 40_000), 33));
                let sent_by_backend = plain(backend, client, protocol, build((8080, 40_000), 33));
                for from in [router, client] {
                    let before = error(from, vip, &sent_by_vip, quoted_bytes);
                    let after = error(from, backend, &sent_by_backend, quoted_bytes);
                    assert_error_becomes(&before, true, (backend, 8080), &after);
                }
                let to_backend = plain(client, backend, protocol, build((40_000, 8080), 33));
                let to_vip = plain(client, vip, protocol, build((40_000, 80), 33));
                for (from, from_after) in [(router, router), (backend, vip)] {
                    let before = error(from, client, &to_backend, quoted_bytes);
                    let after = error(from_after, client, &to_vip, quoted_bytes);
                    assert_error_becomes(&before, false, (vip, 80), &after);
                }
            }
        }
    }
}

#[test]
fn errors_about_udp_without_checksum() {
    let quoted =
        |source, port| frame(&[], &ip(source, CLIENT, 17, &udp((port, 40_000), &payload(30))));
    let before = error(ROUTER, VIP, &quoted(VIP, 53), 100);
    let after = error(ROUTER, BACKEND, &quoted(BACKEND, 5353), 100);
    assert_error_becomes(&before, true, (BACKEND, 5353), &after);
}

#[test]
fn quoted_packets_that_cannot_be_served() {
    let invalid = DropReason::IcmpEmbeddedInvalid;
    let unserved = DropReason::IcmpEmbeddedUnserved;
    let of4 = |quoted: &[u8]| {
        let packet = HostPacket(plain(ROUTER, VIP, 1, icmp((3, 4), 1400, quoted)));
        embedded_v4(&packet, &parse_v4(&packet, 14)).reason
    };
    let sent = ip(VIP, CLIENT, 6, &tcp((80, 40_000), 16, &payload(10)));
    assert_eq!(of4(&sent[..28]), DropReason::None);
    assert_eq!(of4(&sent[..27]), invalid, "7 bytes of TCP");
    assert_eq!(of4(&sent[..10]), invalid, "half a header");
    assert_eq!(of4(&ip(BACKEND, CLIENT, 6, &[0; 20])), invalid, "not sent by the receiver");
    assert_eq!(of4(&ip(VIP, CLIENT, 1, &[0; 20])), unserved, "ICMP");
    assert_eq!(of4(&ipv4(VIP, CLIENT, 6, (1, 5), &[], &[0; 20])), unserved, "later fragment");
    assert_eq!(of4(&ipv4(VIP, CLIENT, 17, (1, 0x2000), &[], &[0; 20])), DropReason::None);
    assert_eq!(of4(&ipv4(VIP, CLIENT, 17, (1, 0), &[1; 40], &[0; 8])), DropReason::None);
    let mut wrong = sent.clone();
    wrong[0] = 0x44;
    assert_eq!(of4(&wrong), invalid, "header length");

    let of6 = |quoted: &[u8]| {
        let packet = HostPacket(plain(ROUTER6, VIP6, 58, icmp((2, 0), 1400, quoted)));
        embedded_v6(&packet, &parse_v6(&packet, 14)).reason
    };
    let extended =
        |count| ipv6(VIP6, CLIENT6, 6, &vec![(60, vec![0; 8]); count], &tcp((80, 40_000), 16, &[]));
    assert_eq!(of6(&extended(0)[..48]), DropReason::None);
    assert_eq!(of6(&extended(0)[..47]), invalid, "7 bytes of TCP");
    assert_eq!(of6(&extended(1)), DropReason::None);
    assert_eq!(of6(&extended(2)), invalid, "too deeply nested");
    assert_eq!(of6(&extended(1)[..46]), invalid, "cut off in the chain");
    assert_eq!(of6(&ip(BACKEND6, CLIENT6, 6, &[0; 20])), invalid, "not sent by the receiver");
    assert_eq!(of6(&ip(VIP6, CLIENT6, 58, &[0; 20])), unserved, "ICMPv6");
    let later = ipv6(VIP6, CLIENT6, 17, &[fragment_header(1, 64, true)], &[0; 20]);
    assert_eq!(of6(&later), unserved, "later fragment");
}

proptest! {
    #[test]
    fn any_addresses_and_ports(
        source in any::<[u8; 16]>(),
        destination in any::<[u8; 16]>(),
        new in any::<[u8; 16]>(),
        ports in any::<(u16, u16)>(),
        port in any::<u16>(),
        length in 0_usize..100,
        (is_v6, is_udp, is_source) in any::<(bool, bool, bool)>(),
    ) {
        let text = |bytes: [u8; 16]| if is_v6 {
            std::format!("{}", core::net::Ipv6Addr::from(bytes))
        } else {
            std::format!("{}", core::net::Ipv4Addr::from([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let (protocol, l4) =
            if is_udp { (17, udp_data(ports, length)) } else { (6, tcp_data(ports, length)) };
        let before = plain(&text(source), &text(destination), protocol, l4);
        let side = if is_source { Side::Source } else { Side::Destination };
        let after = translated(&before, side, &text(new), port).expect("a whole packet");
        assert_checksums(&after);
    }
}
