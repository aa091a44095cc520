//! Every answer is judged by `etherparse`, and compared with the packet that it answers.

use std::vec::Vec;

use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::engine::{
    checksum,
    host::HostPacket,
    testing::*,
    wire::{link, parse_v4, parse_v6},
};

fn answer_to(frame: &[u8], kind: AnswerKind, mtu: u32) -> Option<Vec<u8>> {
    rebuilt(HostPacket(frame.to_vec()), kind, mtu).map(|packet| packet.0)
}

/// The packet as its own answer; any packet that can be rebuilt.
fn rebuilt<P: Rebuild>(mut packet: P, kind: AnswerKind, mtu: u32) -> Option<P> {
    let link = link(&packet, 0);
    let is_v4 = packet.window::<1>(link.l3_offset)?[0] >> 4 == 4;
    if is_v4 {
        let answer = answer(&packet, &parse_v4(&packet, link.l3_offset), kind, mtu)?;
        write(&mut packet, &answer).expect("it fits");
    } else {
        let answer = answer(&packet, &parse_v6(&packet, link.l3_offset), kind, mtu)?;
        write(&mut packet, &answer).expect("it fits");
    }
    Some(packet)
}

const FAMILIES: [(&str, &str); 2] = [(CLIENT, VIP), (CLIENT6, VIP6)];
const ERRORS: [AnswerKind; 4] = [
    AnswerKind::PortUnreachable,
    AnswerKind::HostUnreachable,
    AnswerKind::TooBig,
    AnswerKind::TimeExceeded,
];

fn assert_goes_back(frame: &[u8], answer: &[u8]) {
    assert_eq!(answer[..6], frame[6..12], "to the sender's MAC address");
    assert_eq!(answer[6..12], frame[..6]);
    let tag_bytes = if frame[12] == 0x81 { 4 } else { 0 };
    assert_eq!(answer[12..14 + tag_bytes], frame[12..14 + tag_bytes], "same VLAN");
    let at = 14 + tag_bytes;
    let (source, bytes) = if frame[at] >> 4 == 4 { (at + 12, 4) } else { (at + 8, 16) };
    let destination = source + bytes;
    assert_eq!(answer[source..destination], frame[destination..destination + bytes]);
    assert_eq!(answer[destination..destination + bytes], frame[source..destination]);
}

#[test]
fn resets_have_the_numbers_of_rfc_9293() {
    let (syn, ack, fin) = (2, 0x10, 1);
    for (client, vip) in FAMILIES {
        for (flags, length, sequence, acknowledgement) in [
            (syn, 0, 0, Some(0x0102_0305)),
            (syn, 10, 0, Some(0x0102_030f)),
            (fin, 3, 0, Some(0x0102_0308)),
            (0, 7, 0, Some(0x0102_030b)),
            (ack, 100, 0x0506_0708, None),
            (syn | ack, 0, 0x0506_0708, None),
            (fin | ack, 0, 0x0506_0708, None),
        ] {
            for tags in [&[][..], &[(0x8100, 7)]] {
                let l4 = summed(client, vip, 6, tcp((40_000, 80), flags, &payload(length)));
                let before = frame(tags, &ip(client, vip, 6, &l4));
                let after = answer_to(&before, AnswerKind::Reset, 0).expect("a reset");
                assert_checksums(&after);
                assert_goes_back(&before, &after);
                let packet = SlicedPacket::from_ethernet(&after).expect("TCP");
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
                assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
                assert_eq!(tcp.sequence_number(), sequence, "flags {flags}");
                assert_eq!(tcp.ack(), acknowledgement.is_some());
                assert_eq!(tcp.acknowledgment_number(), acknowledgement.unwrap_or(0));
                assert_eq!(tcp.payload().len(), 0);
            }
        }
    }
}

#[test]
fn resets_lose_options_and_padding() {
    let l4 = summed(CLIENT, VIP, 6, tcp((40_000, 80), 2, &payload(9)));
    let mut before = frame(&[], &ipv4(CLIENT, VIP, 6, (3, 0), &[1; 40], &l4));
    before.extend([0; 20]);
    let after = answer_to(&before, AnswerKind::Reset, 0).expect("a reset");
    assert_checksums(&after);
    assert_eq!(after.len(), 14 + 40);
    assert_eq!(after[42..46], 0x0102_030e_u32.to_be_bytes());
    let extended = ipv6(
        CLIENT6,
        VIP6,
        6,
        &[(60, payload(24)); 1].map(|(kind, mut bytes)| {
            bytes[1] = 2;
            (kind, bytes)
        }),
        &tcp((40_000, 80), 2, &[]),
    );
    let after = answer_to(&frame(&[], &extended), AnswerKind::Reset, 0).expect("a reset");
    assert_checksums(&after);
    assert_eq!(after.len(), 14 + 60);
}

#[test]
fn errors_quote_what_they_are_about() {
    for (client, vip) in FAMILIES {
        let is_v4 = address(client).is_ipv4();
        for kind in ERRORS {
            for length in [0, 1, 30, 1400] {
                for tags in [&[][..], &[(0x8100, 7)]] {
                    let l4 = summed(client, vip, 17, udp((40_000, 53), &payload(length)));
                    let before = frame(tags, &ip(client, vip, 17, &l4));
                    let after = answer_to(&before, kind, 1280).expect("an error");
                    assert_checksums(&after);
                    assert_goes_back(&before, &after);
                    assert_is_error(kind, &after, is_v4);
                    let l3_at = 14 + tags.len() * 4;
                    let quoted = &after[l3_at + if is_v4 { 28 } else { 48 }..];
                    let bytes_max = if is_v4 { 80 } else { 120 };
                    let expected = ((before.len() - l3_at) & !3).min(bytes_max);
                    assert_eq!(quoted, &before[l3_at..l3_at + expected]);
                }
            }
        }
    }
}

fn assert_is_error(kind: AnswerKind, after: &[u8], is_v4: bool) {
    let packet = SlicedPacket::from_ethernet(after).expect("ICMP");
    let seen = match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            (icmp.type_u8(), icmp.code_u8(), u32::from_be_bytes(icmp.bytes5to8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            (icmp.type_u8(), icmp.code_u8(), u32::from_be_bytes(icmp.bytes5to8()))
        }
        other => panic!("no ICMP: {other:?}"),
    };
    let expected = match (kind, is_v4) {
        (AnswerKind::PortUnreachable, true) => (3, 3, 0),
        (AnswerKind::PortUnreachable, false) => (1, 4, 0),
        (AnswerKind::HostUnreachable, true) => (3, 1, 0),
        (AnswerKind::HostUnreachable, false) => (1, 3, 0),
        (AnswerKind::TooBig, true) => (3, 4, 1280),
        (AnswerKind::TooBig, false) => (2, 0, 1280),
        (AnswerKind::TimeExceeded, true) => (11, 0, 0),
        (AnswerKind::TimeExceeded, false) => (3, 0, 0),
        other => panic!("no error: {other:?}"),
    };
    assert_eq!(seen, expected);
}

#[test]
fn echo_is_answered() {
    for (client, vip) in FAMILIES {
        let is_v4 = address(client).is_ipv4();
        let (protocol, request) = if is_v4 { (1, 8) } else { (58, 128) };
        for length in [0, 1, 56, 1400] {
            let l4 = icmp((request, 0), 0x1234_0001, &payload(length));
            let before = plain(client, vip, protocol, l4);
            let after = answer_to(&before, AnswerKind::EchoReply, 0).expect("a reply");
            assert_checksums(&after);
            assert_goes_back(&before, &after);
            let at = if is_v4 { 34 } else { 54 };
            assert_eq!(after[at], if is_v4 { 0 } else { 129 });
            assert_eq!(after[at + 4..], before[at + 4..], "identifier, number and data");
        }
    }
    let options = ipv4(CLIENT, VIP, 1, (1, 0), &[1; 4], &icmp((8, 0), 1, &[]));
    assert_eq!(answer_to(&frame(&[], &options), AnswerKind::EchoReply, 0), None);
    let syn = plain(CLIENT, VIP, 6, tcp((1, 2), 2, &[]));
    assert_eq!(answer_to(&syn, AnswerKind::EchoReply, 0), None);
}

#[test]
fn some_packets_are_never_answered() {
    let syn = || tcp((40_000, 80), 2, &payload(40));
    let to_group = {
        let mut frame = plain(CLIENT, VIP, 6, syn());
        frame[0] |= 1;
        frame
    };
    for (name, before) in [
        ("multicast MAC address", to_group),
        ("multicast source", plain("224.0.0.1", VIP, 6, syn())),
        ("loopback source", plain("127.0.0.1", VIP, 6, syn())),
        ("no source", plain("::", VIP6, 6, syn())),
        ("its own source", plain(VIP, VIP, 6, syn())),
        ("multicast destination", plain(CLIENT, "224.0.0.1", 6, syn())),
        ("broadcast destination", plain(CLIENT, "255.255.255.255", 6, syn())),
        ("ICMP error", plain(CLIENT, VIP, 1, icmp((3, 3), 0, &payload(28)))),
        ("ICMPv6 error", plain(CLIENT6, VIP6, 58, icmp((1, 3), 0, &payload(48)))),
        ("redirect", plain(CLIENT, VIP, 1, icmp((5, 0), 0, &payload(28)))),
        ("later fragment", frame(&[], &ipv4(CLIENT, VIP, 17, (7, 5), &[], &payload(40)))),
        ("broken", frame(&[], &ip(CLIENT, VIP, 6, &payload(7)))),
    ] {
        for kind in ERRORS.into_iter().chain([AnswerKind::Reset]) {
            assert_eq!(answer_to(&before, kind, 1400), None, "{name}: {kind:?}");
        }
    }
    let reset = plain(CLIENT, VIP, 6, tcp((1, 2), 0x14, &[]));
    assert_eq!(answer_to(&reset, AnswerKind::Reset, 0), None, "a reset to a reset");
    let first = ipv4(CLIENT, VIP, 6, (7, 0x2000), &[], &tcp((1, 2), 2, &[0; 4]));
    assert_eq!(answer_to(&frame(&[], &first), AnswerKind::Reset, 0), None, "of unknown length");
    let first = ipv4(CLIENT, VIP, 17, (7, 0x2000), &[], &udp((1, 2), &[0; 8]));
    assert!(answer_to(&frame(&[], &first), AnswerKind::PortUnreachable, 0).is_some());
}

/// A packet whose checksum a device finishes when it is sent, as that of a sender on this machine.
struct Unfinished {
    packet: HostPacket,
    /// Where the device starts to sum, and where it writes, from the end of the frame's link and IP
    /// headers as they are now.
    start: usize,
    field: usize,
}

impl Packet for Unfinished {
    fn length_bytes(&self) -> usize {
        self.packet.length_bytes()
    }

    fn window<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.packet.window(offset)
    }

    fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.packet.window_mut(offset)
    }

    fn fix_l4_checksum(&mut self, _: usize, _: checksum::Change) -> Result<(), EditError> {
        Err(EditError)
    }
}

impl Rewrite for Unfinished {
    fn fix_udp_checksum(&mut self, _: usize, _: checksum::Change) -> Result<(), EditError> {
        Err(EditError)
    }

    fn fix_device_sum(&mut self, _: u32) {}
}

impl Rebuild for Unfinished {
    fn has_unfinished_checksum(&mut self, _: u32, l4_offset: usize) -> Result<bool, EditError> {
        assert_eq!(l4_offset, self.start);
        Ok(true)
    }

    fn resize(&mut self, l3: usize, kept: usize, added: usize) -> Result<(), EditError> {
        self.packet.resize(l3, kept, added)?;
        self.start += added;
        self.field += added;
        Ok(())
    }
}

impl Unfinished {
    fn new(source: &str, destination: &str, protocol: u8, l4: &[u8]) -> Self {
        let bytes = frame(&[], &ip(source, destination, protocol, l4));
        let start = bytes.len() - l4.len();
        let field = start + if protocol == 6 { 16 } else { 6 };
        let mut packet = HostPacket(bytes);
        let mut pseudo = checksum::sum(&octets(address(source)));
        pseudo = checksum::add(pseudo, checksum::sum(&octets(address(destination))));
        pseudo = checksum::add(pseudo, u32::from(protocol).to_be());
        pseudo = checksum::add(pseudo, (l4.len() as u32).to_be());
        packet.0[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        Self { packet, start, field }
    }

    /// What a network card does.
    fn finished(self) -> Vec<u8> {
        let mut bytes = self.packet.0;
        let sum = !checksum::fold(checksum::sum(&bytes[self.start..]));
        bytes[self.field..self.field + 2].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }
}

#[test]
fn checksums_that_a_device_finishes() {
    for (client, vip) in FAMILIES {
        for length in [0, 3, 1000] {
            let syn = tcp((40_000, 80), 2, &payload(length));
            let packet = Unfinished::new(client, vip, 6, &syn);
            let after = rebuilt(packet, AnswerKind::Reset, 0).expect("a reset").finished();
            assert_checksums(&after);
            for kind in ERRORS {
                let packet = Unfinished::new(client, vip, 6, &syn);
                assert_checksums(&rebuilt(packet, kind, 1400).expect("an error").finished());
                let datagram = udp((40_000, 53), &payload(length));
                let packet = Unfinished::new(client, vip, 17, &datagram);
                assert_checksums(&rebuilt(packet, kind, 1400).expect("an error").finished());
            }
        }
    }
}

proptest! {
    /// Whatever the bytes: no panic, and an answer that is right.
    #[test]
    fn any_bytes(
        mut bytes in proptest::collection::vec(any::<u8>(), 14..200),
        is_v4 in any::<bool>(),
        kind in 0_usize..6,
    ) {
        let kinds = [AnswerKind::EchoReply, AnswerKind::Reset].into_iter().chain(ERRORS);
        let kind = kinds.into_iter().nth(kind).expect("one of six");
        let ethertype = if is_v4 { [8, 0, 0x45] } else { [0x86, 0xdd, 0x60] };
        for (at, value) in (12..15).zip(ethertype) {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let length = bytes.len() - 14;
        if length > 40 {
            let length = if is_v4 { length } else { length - 40 } as u8;
            let at = if is_v4 { 16 } else { 18 };
            bytes[at..at + 2].copy_from_slice(&[0, length]);
        }
        if let Some(after) = answer_to(&bytes, kind, 1400)
            && kind != AnswerKind::EchoReply
        {
            assert_checksums(&after);
        }
    }
}
