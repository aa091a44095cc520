//! Every kind and every reason by a named packet; `etherparse` as a second opinion on random ones.

use core::net::IpAddr;
use std::{vec, vec::Vec};

use super::*;
use crate::{
    abi::{NetAddr6, NetU32},
    engine::{host::HostPacket, testing::*},
};

/// What a test says about a packet of either family.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    kind: Kind,
    reason: DropReason,
    fragment: Fragment,
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    l4_offset: usize,
    l3_bytes: u32,
}

fn seen<A: Address>(headers: &Headers<A>, to_ip: impl Fn(A) -> IpAddr) -> Seen {
    Seen {
        kind: headers.kind,
        reason: headers.reason,
        fragment: headers.fragment,
        source: to_ip(headers.source),
        destination: to_ip(headers.destination),
        ports: (headers.source_port.get(), headers.destination_port.get()),
        l4_offset: headers.l4_offset,
        l3_bytes: headers.l3_bytes,
    }
}

fn v4(address: NetU32) -> IpAddr {
    IpAddr::V4(address.into())
}

fn v6(address: NetAddr6) -> IpAddr {
    IpAddr::V6(address.into())
}

fn parse(frame: &[u8]) -> Option<Seen> {
    let packet = HostPacket(frame.to_vec());
    let link = link(&packet, 0);
    match link.network {
        Network::Other => None,
        Network::V4 => Some(seen(&parse_v4(&packet, link.l3_offset), v4)),
        Network::V6 => Some(seen(&parse_v6(&packet, link.l3_offset), v6)),
    }
}

/// The kind and reason of an IP packet in an untagged frame.
fn kind_of(ip: &[u8]) -> (Kind, DropReason) {
    let seen = parse(&frame(&[], ip)).expect("an IP packet");
    (seen.kind, seen.reason)
}

fn check(name: &str, ip: &[u8], expected: Result<Kind, DropReason>) {
    let expected = match expected {
        Ok(kind) => (kind, DropReason::None),
        Err(reason) => (Kind::Broken, reason),
    };
    assert_eq!(kind_of(ip), expected, "{name}: {ip:02x?}");
}

/// An IPv4 packet changed at one place.
fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

fn cut(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.truncate(length);
    bytes
}

fn options(bytes: usize) -> (u8, Vec<u8>) {
    let mut header = vec![0; bytes];
    header[1] = (bytes / 8 - 1) as u8;
    (60, header)
}

#[test]
fn kinds_of_ipv4() {
    let tcp_syn = tcp((40_000, 80), 2, b"hello");
    let udp_data = udp((40_000, 53), b"hello");
    let of = |protocol, l4: &[u8]| ip(CLIENT, VIP, protocol, l4);
    check("tcp", &of(6, &tcp_syn), Ok(Kind::Tcp));
    check("udp", &of(17, &udp_data), Ok(Kind::Udp));
    check("udp with options behind it", &of(17, &[&udp_data[..], b"xx"].concat()), Ok(Kind::Udp));
    check("echo request", &of(1, &icmp((8, 0), 1, b"x")), Ok(Kind::EchoRequest));
    check("echo reply", &of(1, &icmp((0, 0), 1, b"x")), Ok(Kind::Other));
    check("redirect", &of(1, &icmp((5, 0), 1, b"x")), Ok(Kind::Other));
    for kind in [3, 11, 12] {
        check("icmp error", &of(1, &icmp((kind, 4), 1, b"x")), Ok(Kind::IcmpError));
    }
    check("ICMPv6 over IPv4", &of(58, &icmp((1, 4), 1, b"x")), Ok(Kind::Other));
    check("sctp", &of(132, &tcp_syn), Ok(Kind::Other));
    let nops = ipv4(CLIENT, VIP, 6, (0, 0), &[1; 40], &tcp_syn);
    check("options", &nops, Ok(Kind::Tcp));
    assert_eq!(parse(&frame(&[], &nops)).map(|seen| seen.ports), Some((40_000, 80)));
}

#[test]
fn broken_ipv4() {
    let tcp_syn = tcp((40_000, 80), 2, b"hello");
    let good = ip(CLIENT, VIP, 6, &tcp_syn);
    let header = Err(DropReason::Ipv4HeaderInvalid);
    let mut wrong = frame(&[], &good);
    wrong[14] = 0x65;
    assert_eq!(parse(&wrong).map(|seen| seen.reason), Some(DropReason::Ipv4HeaderInvalid));
    check("header length", &changed(good.clone(), 0, 0x44), header);
    check("total length beyond the packet", &changed(good.clone(), 3, 46), header);
    check("total length below the header", &changed(good.clone(), 3, 19), header);
    check("total length 0", &changed(good.clone(), 3, 0), header);
    let tcp_reason = Err(DropReason::TcpHeaderInvalid);
    check("tcp cut off", &ip(CLIENT, VIP, 6, &cut(tcp_syn.clone(), 19)), tcp_reason);
    check("data offset", &ip(CLIENT, VIP, 6, &changed(tcp_syn.clone(), 12, 0x40)), tcp_reason);
    check("tcp options cut", &ip(CLIENT, VIP, 6, &changed(tcp_syn, 12, 0x70)), tcp_reason);
    let udp_data = udp((40_000, 53), b"hello");
    let udp_reason = Err(DropReason::UdpHeaderInvalid);
    check("udp cut off", &ip(CLIENT, VIP, 17, &udp_data[..7]), udp_reason);
    check("udp length", &ip(CLIENT, VIP, 17, &changed(udp_data.clone(), 5, 14)), udp_reason);
    check("udp length 7", &ip(CLIENT, VIP, 17, &changed(udp_data, 5, 7)), udp_reason);
    let echo = icmp((8, 0), 1, &[]);
    check("icmp", &ip(CLIENT, VIP, 1, &echo[..7]), Err(DropReason::IcmpHeaderInvalid));
    // The header lies about a frame that goes on: padding is no header.
    let mut padded = frame(&[], &ip(CLIENT, VIP, 6, &[0; 10]));
    padded.extend([0; 40]);
    assert_eq!(parse(&padded).map(|seen| seen.reason), Some(DropReason::TcpHeaderInvalid));
}

#[test]
fn fragments_of_ipv4() {
    let more = 0x2000;
    let at = |protocol, fragment, l4: &[u8]| ipv4(CLIENT, VIP, protocol, (7, fragment), &[], l4);
    check("first", &at(17, more, &udp((1, 2), &[0; 1000])), Ok(Kind::Udp));
    check("first of longer udp", &at(17, more, &udp((1, 2), &[0; 1000])[..512]), Ok(Kind::Udp));
    check("later", &at(17, more | 64, &[0; 512]), Ok(Kind::LaterFragment));
    check("last", &at(17, 64, &[0; 7]), Ok(Kind::LaterFragment));
    check("udp at 8", &at(17, 1, &[0; 7]), Ok(Kind::LaterFragment));
    check("tcp at 24", &at(6, 3, &[0; 7]), Ok(Kind::LaterFragment));
    for offset in [1, 2] {
        check("overlap", &at(6, offset, &[0; 16]), Err(DropReason::FragmentOverlap));
    }
    check("tiny tcp", &at(6, more, &tcp((1, 2), 2, &[])[..16]), Err(DropReason::FragmentTiny));
    let long = changed(tcp((1, 2), 2, &[0; 4]), 12, 0x70);
    check("options in the second", &at(6, more, &long), Err(DropReason::FragmentTiny));
    check("odd", &at(17, more, &udp((1, 2), &[0; 5])), Err(DropReason::FragmentInvalid));
    check("empty", &at(17, more, &[]), Err(DropReason::FragmentInvalid));
    check("ping of death", &at(17, 0x1fff, &[0; 64]), Err(DropReason::FragmentInvalid));
    check("echo", &at(1, more, &icmp((8, 0), 1, &[0; 8])), Err(DropReason::IcmpFragmented));
    let packet = HostPacket(frame(&[], &at(17, more | 64, &[0; 512])));
    let headers = parse_v4(&packet, 14);
    assert_eq!((headers.fragment_id, headers.fragment_protocol()), (7, 17));
}

#[test]
fn kinds_and_faults_of_ipv6() {
    let syn = tcp((40_000, 80), 2, b"hello");
    let of = |protocol, extensions: &[_], l4: &[u8]| ipv6(CLIENT6, VIP6, protocol, extensions, l4);
    check("tcp", &of(6, &[], &syn), Ok(Kind::Tcp));
    check("udp", &of(17, &[], &udp((1, 2), b"x")), Ok(Kind::Udp));
    check("echo request", &of(58, &[], &icmp((128, 0), 1, b"x")), Ok(Kind::EchoRequest));
    check("neighbour solicitation", &of(58, &[], &icmp((135, 0), 1, b"x")), Ok(Kind::Other));
    for kind in 1..=4 {
        check("icmp error", &of(58, &[], &icmp((kind, 0), 1, b"x")), Ok(Kind::IcmpError));
    }
    check("ICMP over IPv6", &of(1, &[], &icmp((3, 0), 1, b"x")), Ok(Kind::Other));
    check("no next header", &of(59, &[], &[]), Ok(Kind::Other));

    let hop = (0, vec![0; 8]);
    let routed = (43, vec![0, 0, 2, 0, 0, 0, 0, 0]);
    let routing = (43, vec![0, 0, 2, 1, 0, 0, 0, 0]);
    let chain = [hop.clone(), options(16), routed, options(8)];
    check("chain", &of(6, &chain, &syn), Ok(Kind::Tcp));
    check("routing", &of(6, &[routing], &syn), Err(DropReason::Ipv6RoutingHeader));
    let signed = (51, vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    check("authentication", &of(6, &[signed], &syn), Ok(Kind::Other));
    let invalid = Err(DropReason::Ipv6ExtensionInvalid);
    check("hop by hop second", &of(6, &[options(8), hop.clone()], &syn), invalid);
    check("chain cut off", &of(6, &[(60, vec![0, 200, 0, 0, 0, 0, 0, 0])], &syn), invalid);
    check("chain ends", &of(60, &[], &[]), invalid);
    let deep = Err(DropReason::Ipv6TooDeeplyNested);
    check("4 headers", &of(6, &vec![options(8); 4], &syn), Ok(Kind::Tcp));
    check("5 headers", &of(6, &vec![options(8); 5], &syn), deep);
    let mut both = vec![options(8); 4];
    both.push(fragment_header(9, 0, false));
    both.extend(vec![options(8); 2]);
    check("4 and 2 headers", &of(6, &both, &syn), Ok(Kind::Tcp));
    both.push(options(8));
    check("4 and 3 headers", &of(6, &both, &syn), deep);
    check("128 bytes", &of(6, &[options(128)], &syn), Ok(Kind::Tcp));
    check("136 bytes", &of(6, &[options(136)], &syn), deep);
    let behind = [fragment_header(9, 0, false), hop];
    check("hop by hop behind a fragment header", &of(6, &behind, &syn), invalid);
    let header = Err(DropReason::Ipv6HeaderInvalid);
    check("payload length", &changed(of(6, &[], &syn), 5, 26), header);
    let mut wrong = frame(&[], &of(6, &[], &syn));
    wrong[14] = 0x42;
    assert_eq!(parse(&wrong).map(|seen| seen.reason), Some(DropReason::Ipv6HeaderInvalid));
    check("cut off", &changed(of(6, &[], &syn), 5, 19), Err(DropReason::TcpHeaderInvalid));
}

#[test]
fn fragments_of_ipv6() {
    let datagram = udp((1, 2), &[0; 1000]);
    let of = |protocol, (offset, more), l4: &[u8]| {
        ipv6(CLIENT6, VIP6, protocol, &[fragment_header(9, offset, more)], l4)
    };
    check("atomic", &of(17, (0, false), &datagram), Ok(Kind::Udp));
    let atomic = parse(&frame(&[], &of(17, (0, false), &datagram))).expect("IPv6");
    assert_eq!((atomic.fragment, atomic.ports), (Fragment::Whole, (1, 2)));
    check("first", &of(17, (0, true), &datagram[..512]), Ok(Kind::Udp));
    check("later", &of(17, (512, true), &[0; 64]), Ok(Kind::LaterFragment));
    check("last", &of(60, (512, false), &[0; 7]), Ok(Kind::LaterFragment));
    check("overlap", &of(6, (16, false), &[0; 16]), Err(DropReason::FragmentOverlap));
    check("tiny", &of(6, (0, true), &[0; 16]), Err(DropReason::FragmentTiny));
    check("odd", &of(17, (8, true), &[0; 9]), Err(DropReason::FragmentInvalid));
    check("too long", &of(17, (0xfff8, false), &[0; 9]), Err(DropReason::FragmentInvalid));
    check("echo", &of(58, (0, true), &icmp((128, 0), 1, &[0; 8])), Err(DropReason::IcmpFragmented));
    let twice = [fragment_header(9, 0, true), fragment_header(9, 0, true)];
    let twice = ipv6(CLIENT6, VIP6, 17, &twice, &datagram);
    check("twice", &twice, Err(DropReason::Ipv6ExtensionInvalid));
    let chain = [fragment_header(9, 0, true), options(16)];
    let first = ipv6(CLIENT6, VIP6, 17, &chain, &datagram[..64]);
    check("options in the fragmentable part", &first, Ok(Kind::Udp));
    let hidden =
        ipv6(CLIENT6, VIP6, 60, &[fragment_header(9, 0, true)], &[17, 3, 0, 0, 0, 0, 0, 0]);
    check("chain goes on in the second", &hidden, Err(DropReason::FragmentTiny));
    let headers = parse_v6(&HostPacket(frame(&[], &first)), 14);
    assert_eq!((headers.fragment_id, headers.fragment_protocol()), (9, 44));
}

#[test]
fn tags_in_bytes_and_beside() {
    let syn = ip(CLIENT, VIP, 6, &tcp((40_000, 80), 2, &[]));
    let (inner, outer) = ((0x8100, 7), (0x88a8, 9));
    for (tags, beside, expected) in [
        (&[][..], 0, Some(14)),
        (&[][..], 1, Some(14)),
        (&[inner], 0, Some(18)),
        (&[inner], 1, Some(18)),
        (&[outer, inner], 0, Some(22)),
        (&[outer, inner], 1, None),
        (&[outer, outer, inner], 0, None),
    ] {
        let packet = HostPacket(frame(tags, &syn));
        let link = link(&packet, beside);
        let offset = (link.network == Network::V4).then_some(link.l3_offset);
        assert_eq!(offset, expected, "{tags:?}, {beside} beside");
        if let Some(offset) = offset {
            assert_eq!(link.tags as usize, tags.len());
            assert_eq!(parse_v4(&packet, offset).kind, Kind::Tcp);
        }
    }
    assert_eq!(parse(&frame(&[], &syn)[..30]), None, "too short for an IP header");
}

#[test]
fn beyond_64_kib() {
    let payload = vec![0; 70_000];
    let mut packet = ip(CLIENT, VIP, 6, &tcp((1, 2), 16, &payload));
    packet[2..4].copy_from_slice(&[0, 0]);
    let length = packet.len() as u32;
    assert_eq!(
        parse(&frame(&[], &packet)).map(|seen| (seen.kind, seen.l3_bytes)),
        Some((Kind::Tcp, length))
    );
    check("udp has no such thing", &changed(packet, 9, 17), Err(DropReason::Ipv4HeaderInvalid));

    let segment = tcp((1, 2), 16, &payload);
    let mut jumbo = vec![0, 0, 0xc2, 4];
    jumbo.extend((segment.len() as u32 + 8).to_be_bytes());
    for extensions in [vec![(0, jumbo.clone())], vec![]] {
        let mut packet = ipv6(CLIENT6, VIP6, 6, &extensions, &segment);
        packet[4..6].copy_from_slice(&[0, 0]);
        let expected = (Kind::Tcp, packet.len() as u32);
        let seen = parse(&frame(&[], &packet)).expect("IPv6");
        assert_eq!((seen.kind, seen.l3_bytes), expected, "{extensions:?}");
    }
    jumbo[4] = 1;
    let mut packet = ipv6(CLIENT6, VIP6, 6, &[(0, jumbo)], &segment);
    packet[4..6].copy_from_slice(&[0, 0]);
    check("jumbo length lies", &packet, Err(DropReason::Ipv6HeaderInvalid));
}

#[test]
fn sources_that_can_not_be() {
    let (land, impossible) = (DropReason::Land, DropReason::SourceImpossible);
    for (source, expected) in [
        (CLIENT, DropReason::None),
        (VIP, land),
        ("0.1.2.3", impossible),
        ("127.0.0.1", impossible),
        ("224.0.0.1", impossible),
        ("240.0.0.1", impossible),
        ("255.255.255.255", impossible),
        (CLIENT6, DropReason::None),
        ("fe80::1", DropReason::None),
        (VIP6, land),
        ("::", impossible),
        ("::1", impossible),
        ("ff02::1", impossible),
        ("::ffff:198.51.100.7", impossible),
        ("::2", DropReason::None),
    ] {
        let is_v4 = address(source).is_ipv4();
        let vip = if is_v4 { VIP } else { VIP6 };
        let packet = HostPacket(frame(&[], &ip(source, vip, 6, &tcp((1, 2), 2, &[]))));
        let fault = if is_v4 {
            parse_v4(&packet, 14).source_fault()
        } else {
            parse_v6(&packet, 14).source_fault()
        };
        assert_eq!(fault, expected, "{source}");
    }
}

#[test]
fn tcp_numbers_are_read_when_wanted() {
    let packet = HostPacket(plain(CLIENT, VIP, 6, tcp((1, 2), 0x12, &[])));
    let numbers = tcp_numbers(&packet, &parse_v4(&packet, 14)).expect("TCP");
    assert_eq!(numbers.sequence.get(), 0x0102_0304);
    assert_eq!(numbers.acknowledgement.get(), 0x0506_0708);
    assert_eq!(numbers.header_bytes, 20);
    let packet = HostPacket(plain(CLIENT, VIP, 17, udp((1, 2), &[0; 30])));
    assert_eq!(tcp_numbers(&packet, &parse_v4(&packet, 14)), None);
}
