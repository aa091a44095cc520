//! Random packets: what is whole parses as `etherparse` says, and whatever the bytes, nothing panics and
//! no offset leads out of the packet.

use std::{format, string::String, vec, vec::Vec};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::engine::{Packet as _, host::HostPacket, testing::*};

/// What both parsers say of a packet.
#[derive(PartialEq, Eq, Debug)]
struct View {
    source: Vec<u8>,
    destination: Vec<u8>,
    is_fragment: bool,
    l4: L4,
}

#[derive(PartialEq, Eq, Debug)]
enum L4 {
    Tcp { ports: (u16, u16), flags: u32, numbers: (u32, u32) },
    Udp { ports: (u16, u16) },
    Icmp { kind: u8 },
    None,
}

fn bytes_of<A: Address>(address: A) -> Vec<u8> {
    let bytes: Vec<u8> = address.words().into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes[..if A::IS_V6 { 16 } else { 4 }].to_vec()
}

fn ours<A: Address>(packet: &HostPacket, headers: &Headers<A>) -> View {
    let ports = (headers.source_port.get(), headers.destination_port.get());
    let l4 = match headers.kind {
        Kind::Tcp => {
            let numbers = tcp_numbers(packet, headers).expect("TCP");
            let numbers = (numbers.sequence.get(), numbers.acknowledgement.get());
            L4::Tcp { ports, flags: headers.tcp_flags, numbers }
        }
        Kind::Udp => L4::Udp { ports },
        Kind::EchoRequest | Kind::IcmpError => L4::Icmp { kind: packet.0[headers.l4_offset] },
        Kind::Other if headers.protocol == A::PROTOCOL_ICMP => {
            L4::Icmp { kind: packet.0[headers.l4_offset] }
        }
        _ => L4::None,
    };
    View {
        source: bytes_of(headers.source),
        destination: bytes_of(headers.destination),
        is_fragment: headers.fragment != Fragment::Whole,
        // `etherparse` takes no fragment's payload apart, not even a first one's.
        l4: if headers.fragment == Fragment::Whole { l4 } else { L4::None },
    }
}

fn theirs(frame: &[u8]) -> View {
    let packet = SlicedPacket::from_ethernet(frame).expect("it is whole");
    let (source, destination, is_fragment) = match packet.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let is_fragment = header.is_fragmenting_payload();
            (header.source().to_vec(), header.destination().to_vec(), is_fragment)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let is_fragment = ip.is_payload_fragmented();
            (header.source().to_vec(), header.destination().to_vec(), is_fragment)
        }
        other @ NetSlice::Arp(_) => panic!("not IP: {other:?}"),
    };
    let l4 = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => L4::Tcp {
            ports: (tcp.source_port(), tcp.destination_port()),
            flags: u32::from(tcp.slice()[13]),
            numbers: (tcp.sequence_number(), tcp.acknowledgment_number()),
        },
        Some(TransportSlice::Udp(udp)) => {
            L4::Udp { ports: (udp.source_port(), udp.destination_port()) }
        }
        Some(TransportSlice::Icmpv4(icmp)) => L4::Icmp { kind: icmp.type_u8() },
        Some(TransportSlice::Icmpv6(icmp)) => L4::Icmp { kind: icmp.type_u8() },
        _ => L4::None,
    };
    View { source, destination, is_fragment, l4 }
}

fn parse_both(frame: &[u8]) -> (View, View) {
    let packet = HostPacket(frame.to_vec());
    let link = link(&packet, 0);
    let ours = match link.network {
        Network::V4 => ours(&packet, &parse_v4(&packet, link.l3_offset)),
        Network::V6 => ours(&packet, &parse_v6(&packet, link.l3_offset)),
        Network::Other => panic!("IP was not seen in {frame:02x?}"),
    };
    (ours, theirs(frame))
}

/// A transport header of every kind, with its protocol number for each family.
fn l4() -> impl Strategy<Value = ((u8, u8), Vec<u8>)> {
    let ports = any::<(u16, u16)>();
    (0..4, ports, any::<u8>(), 0_usize..60, 5_u8..16).prop_map(
        |(which, ports, byte, length, words)| match which {
            0 => {
                let options = usize::from(words - 5) * 4;
                let mut bytes = tcp(ports, byte, &payload(options + length));
                bytes[12] = words << 4;
                ((6, 6), bytes)
            }
            1 => ((17, 17), udp(ports, &payload(length))),
            2 => {
                // `etherparse` looks into timestamps, of which nothing is said here.
                let kind = if byte == 13 || byte == 14 { 8 } else { byte };
                ((1, 58), icmp((kind, 0), u32::from(ports.0), &payload(length)))
            }
            _ => ((132, 132), payload(length)),
        },
    )
}

/// Extension headers in an order that RFC 8200 allows; the last may be a fragment header.
fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let options = (0_u8..4).prop_map(|length| {
        let mut bytes = vec![0; 8 + usize::from(length) * 8];
        bytes[1] = length;
        bytes
    });
    (
        proptest::option::of(options.clone()),
        proptest::option::of(options.clone()),
        any::<bool>(),
        proptest::option::of((any::<u32>(), 0_u16..100, any::<bool>())),
    )
        .prop_map(|(hop, destination, is_routed, fragment)| {
            let mut headers = Vec::new();
            headers.extend(hop.map(|bytes| (0, bytes)));
            headers.extend(destination.map(|bytes| (60, bytes)));
            if is_routed {
                headers.push((43, vec![0, 0, 2, 0, 0, 0, 0, 0]));
            }
            headers.extend(fragment.map(|(id, offset, more)| {
                // Clear of overlap and of "odd": those are not whole.
                fragment_header(id, if offset < 4 { 0 } else { offset * 8 }, more && offset >= 4)
            }));
            headers
        })
}

fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let tag = |kind: u16| (Just(kind), any::<u16>());
    prop_oneof![
        Just(vec![]),
        tag(0x8100).prop_map(|tag| vec![tag]),
        (tag(0x88a8), tag(0x8100)).prop_map(|(outer, inner)| vec![outer, inner]),
    ]
}

fn text_v4(bytes: [u8; 4]) -> String {
    format!("{}", core::net::Ipv4Addr::from(bytes))
}

fn text_v6(bytes: [u8; 16]) -> String {
    format!("{}", core::net::Ipv6Addr::from(bytes))
}

/// Offsets that lead out of the packet, or kinds without what they promise.
fn assert_inside<A: Address>(packet: &HostPacket, headers: &Headers<A>) {
    let length = packet.length_bytes();
    assert!(headers.end() <= length.max(headers.l3_offset), "{headers:?}");
    let l4_bytes_min = match headers.kind {
        Kind::Tcp => 20,
        Kind::Udp | Kind::EchoRequest | Kind::IcmpError => 8,
        Kind::LaterFragment => 1,
        Kind::Other | Kind::Broken => return,
    };
    assert!(headers.l4_offset + l4_bytes_min <= headers.end(), "{headers:?}");
    assert!(headers.l4_offset >= headers.l3_offset + A::HEADER_BYTES, "{headers:?}");
    assert_eq!(headers.reason, DropReason::None);
}

fn assert_embedded_inside<A: Address>(headers: &Headers<A>, embedded: &Embedded<A>) {
    if embedded.reason == DropReason::None {
        assert!(embedded.l4_bytes >= 8);
        assert_eq!(embedded.l4_offset + embedded.l4_bytes as usize, headers.end());
        assert!(embedded.l4_offset >= embedded.l3_offset + A::HEADER_BYTES);
    }
}

fn assert_harmless(bytes: &[u8], tags_beside: u32) {
    let packet = HostPacket(bytes.to_vec());
    let link = link(&packet, tags_beside);
    // Also the family that the frame does not name: nothing may depend on it.
    let headers = parse_v4(&packet, link.l3_offset);
    assert_inside(&packet, &headers);
    assert_embedded_inside(&headers, &embedded_v4(&packet, &headers));
    let headers = parse_v6(&packet, link.l3_offset);
    assert_inside(&packet, &headers);
    assert_embedded_inside(&headers, &embedded_v6(&packet, &headers));
}

proptest! {
    #[test]
    fn ipv4_as_etherparse_says(
        source in any::<[u8; 4]>(),
        destination in any::<[u8; 4]>(),
        ((protocol, _), l4) in l4(),
        options in 0_usize..11,
        id in any::<u16>(),
        fragment in prop_oneof![Just(0_u16), Just(0x4000), 5_u16..1000],
        tags in tags(),
        padding in 0_usize..20,
    ) {
        let payload = if l4.is_empty() { vec![0] } else { l4 };
        let options = vec![1; options * 4];
        let ip = ipv4(
            &text_v4(source), &text_v4(destination), protocol, (id, fragment), &options, &payload,
        );
        let mut frame = frame(&tags, &ip);
        frame.resize(frame.len() + padding, 0xee);
        let (ours, theirs) = parse_both(&frame);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn ipv6_as_etherparse_says(
        source in any::<[u8; 16]>(),
        destination in any::<[u8; 16]>(),
        ((_, protocol), l4) in l4(),
        extensions in extensions(),
        tags in tags(),
        padding in 0_usize..20,
    ) {
        let mut payload = if l4.is_empty() { vec![0] } else { l4 };
        if extensions.iter().any(|(kind, bytes)| *kind == 44 && bytes[3] & 1 != 0) {
            payload.resize(payload.len().next_multiple_of(8), 0);
        }
        let ip = ipv6(&text_v6(source), &text_v6(destination), protocol, &extensions, &payload);
        let mut frame = frame(&tags, &ip);
        frame.resize(frame.len() + padding, 0xee);
        let (ours, theirs) = parse_both(&frame);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn any_bytes_are_harmless(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        tags_beside in 0_u32..3,
    ) {
        assert_harmless(&bytes, tags_beside);
    }

    /// A good packet with a few bytes changed, and cut off somewhere.
    #[test]
    fn nearly_good_packets_are_harmless(
        is_v6 in any::<bool>(),
        is_error in any::<bool>(),
        (protocols, l4) in l4(),
        extensions in extensions(),
        tags in tags(),
        changes in proptest::collection::vec((0_usize..120, any::<u8>()), 0..4),
        cut in 0_usize..200,
    ) {
        let mut ip = if is_v6 {
            ipv6(VIP6, CLIENT6, protocols.1, &extensions, &l4)
        } else {
            ipv4(VIP, CLIENT, protocols.0, (1, 0), &[1; 8], &l4)
        };
        if is_error {
            let (kind, router, vip) =
                if is_v6 { ((2, 0), ROUTER6, VIP6) } else { ((3, 4), ROUTER, VIP) };
            let message = icmp(kind, 1400, &ip);
            ip = if is_v6 {
                ipv6(router, vip, 58, &extensions, &message)
            } else {
                ipv4(router, vip, 1, (1, 0), &[1; 4], &message)
            };
        }
        let mut bytes = frame(&tags, &ip);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().min(40 + cut));
        assert_harmless(&bytes, 0);
    }
}
