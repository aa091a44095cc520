//! Packets for tests, byte by byte, and the judgement of `etherparse` on them.

use core::net::IpAddr;
use std::{vec, vec::Vec};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::checksum::{add, fold, sum};

pub(crate) const CLIENT: &str = "198.51.100.7";
pub(crate) const VIP: &str = "192.0.2.10";
pub(crate) const BACKEND: &str = "10.9.1.1";
pub(crate) const ROUTER: &str = "203.0.113.1";
pub(crate) const CLIENT6: &str = "2001:db8:c::7";
pub(crate) const VIP6: &str = "2001:db8::10";
pub(crate) const BACKEND6: &str = "fd00:9::1:1";
pub(crate) const ROUTER6: &str = "2001:db8:f::1";

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Protocol numbers that differ between the families.
pub(crate) fn icmp_protocol(source: IpAddr) -> u8 {
    if source.is_ipv4() { 1 } else { 58 }
}

/// An IPv4 header with options and a right checksum. The fragment field is as on the wire.
pub(crate) fn ipv4(
    source: &str,
    destination: &str,
    protocol: u8,
    (id, fragment): (u16, u16),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let mut bytes = vec![0x40 | (header_bytes / 4) as u8, 0x28];
    bytes.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(octets(address(source)));
    bytes.extend(octets(address(destination)));
    bytes.extend(options);
    let checksum = !fold(sum(&bytes));
    bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv6 header with extension headers: `(protocol, bytes)`, whose first byte is filled in.
pub(crate) fn ipv6(
    source: &str,
    destination: &str,
    protocol: u8,
    extensions: &[(u8, Vec<u8>)],
    payload: &[u8],
) -> Vec<u8> {
    let first = extensions.first().map_or(protocol, |(kind, _)| *kind);
    let length: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut bytes = vec![0x62, 0x8a, 0xbc, 0xde];
    bytes.extend(((length + payload.len()) as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(octets(address(source)));
    bytes.extend(octets(address(destination)));
    for (index, (_, extension)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(protocol, |(kind, _)| *kind);
        bytes.push(next);
        bytes.extend(&extension[1..]);
    }
    bytes.extend(payload);
    bytes
}

/// A plain packet of the family of its addresses, not fragmented and with DF on IPv4.
pub(crate) fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if address(source).is_ipv4() {
        ipv4(source, destination, protocol, (0, 0x4000), &[], payload)
    } else {
        ipv6(source, destination, protocol, &[], payload)
    }
}

/// A fragment header of IPv6.
pub(crate) fn fragment_header(id: u32, offset_bytes: u16, has_more: bool) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 0];
    bytes.extend((offset_bytes | u16::from(has_more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    (44, bytes)
}

/// Bytes 7 * n modulo 251.
pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 % 251) as u8).collect()
}

/// A TCP header without checksum and what follows it.
pub(crate) fn tcp(ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 0xff, 0xfe, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// A UDP header without checksum and what follows it.
pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// An ICMP message without checksum: type, code, the second word, and what follows.
pub(crate) fn icmp(kind: (u8, u8), word: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(word.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The transport bytes with the right checksum for these addresses.
pub(crate) fn summed(source: &str, destination: &str, protocol: u8, mut l4: Vec<u8>) -> Vec<u8> {
    let at = match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    l4[at..at + 2].copy_from_slice(&[0, 0]);
    let mut total = sum(&l4);
    if protocol != 1 {
        total = add(total, sum(&octets(address(source))));
        total = add(total, sum(&octets(address(destination))));
        total = add(total, sum(&[0, protocol]));
        total = add(total, sum(&(l4.len() as u32).to_be_bytes()));
    }
    let checksum = match !fold(total) {
        0 if protocol == 17 => 0xffff,
        other => other,
    };
    l4[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    l4
}

/// A frame around an IP packet, with VLAN tags.
pub(crate) fn frame(tags: &[(u16, u16)], ip: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (kind, tag) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
    }
    let ethertype: u16 = if ip[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(ip);
    bytes
}

/// A frame with a plain TCP, UDP or ICMP packet whose checksums are right.
pub(crate) fn plain(source: &str, destination: &str, protocol: u8, l4: Vec<u8>) -> Vec<u8> {
    let l4 = summed(source, destination, protocol, l4);
    frame(&[], &ip(source, destination, protocol, &l4))
}

/// Has `etherparse` parse a frame and compute every checksum from zero. A UDP checksum that is not
/// used is right.
pub(crate) fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).expect("etherparse understands it");
    let (source, destination) = match packet.net.as_ref().expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header");
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        other @ NetSlice::Arp(_) => panic!("not IP: {other:?}"),
    };
    let right = match (packet.transport.expect("a transport header"), source, destination) {
        (TransportSlice::Tcp(tcp), IpAddr::V4(from), IpAddr::V4(to)) => {
            tcp.checksum() == tcp.calc_checksum_ipv4(from.octets(), to.octets()).expect("short")
        }
        (TransportSlice::Tcp(tcp), IpAddr::V6(from), IpAddr::V6(to)) => {
            tcp.checksum() == tcp.calc_checksum_ipv6(from.octets(), to.octets()).expect("short")
        }
        (TransportSlice::Udp(udp), IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = udp.to_header();
            header.checksum == 0
                || header.checksum
                    == header
                        .calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                        .expect("short")
        }
        (TransportSlice::Udp(udp), IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = udp.to_header();
            header.checksum
                == header
                    .calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                    .expect("short")
        }
        (TransportSlice::Icmpv4(icmp), _, _) => {
            icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
        }
        (TransportSlice::Icmpv6(icmp), IpAddr::V6(from), IpAddr::V6(to)) => {
            icmp.is_checksum_valid(from.octets(), to.octets())
        }
        (other, ..) => panic!("families do not fit: {other:?}"),
    };
    assert!(right, "transport checksum of {frame:02x?}");
}
