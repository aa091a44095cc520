//! Packets that are not ours, broken, or refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::abi::{CLASS_CLOSED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, TAKES_OLD};

use super::{SECOND_VIP, case, delivered, dropped, passed, recording, reply, reply_by};
use crate::packets::{
    Case, Program, Step, World, backend_one,
    builder::{BACKEND_ONE, CLIENT, VIP, syn, tcp},
};

pub(super) fn not_ours() -> Vec<Case> {
    let other = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 99), 80);
    let other_port = SocketAddrV4::new(*VIP.ip(), 81);
    let with = |at: usize, value: u8| {
        let mut bytes = syn().bytes();
        bytes[at] = value;
        bytes
    };
    // Only by XDP: a test run refuses such a frame as a socket buffer.
    let too_short = case(
        "a frame too short for an address passes",
        World::default(),
        vec![passed(Program::XdpFront, syn().bytes()[..33].to_vec())],
        vec![],
        vec![],
    );
    let foreign = syn().macs(([2, 0, 0, 0, 0, 99], [2, 0, 0, 0, 0, 2]));
    let other_machine = case(
        "a frame for another machine passes",
        World::default(),
        vec![passed(Program::TcFront, foreign.bytes())],
        vec![],
        vec![],
    );
    let mut tagged = syn().bytes();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    [
        ("another address passes", tcp(CLIENT, other, "S").bytes()),
        ("another port of a VIP passes", tcp(CLIENT, other_port, "S").bytes()),
        ("UDP passes", with(23, 17)),
        ("ICMP passes", with(23, 1)),
        ("ARP passes", with(13, 6)),
        ("IPv6 passes", with(12, 0x86)),
        ("a tag in the bytes passes", tagged),
        ("a fragment for another address passes", {
            let mut bytes = tcp(CLIENT, other, "S").bytes();
            bytes[20] = 0x20;
            bytes
        }),
    ]
    .into_iter()
    .map(|(name, input)| {
        let steps = vec![
            passed(Program::TcFront, input.clone()),
            passed(Program::TcReply, input.clone()),
            passed(Program::XdpFront, input),
        ];
        case(name, World::default(), steps, vec![], vec![])
    })
    .chain([too_short, other_machine])
    .collect()
}

pub(super) fn broken() -> Vec<Case> {
    use DropReason::{Fragment, Ipv4HeaderInvalid, TcpHeaderInvalid};

    let with = |changes: &[(usize, u8)]| {
        let mut bytes = syn().bytes();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    let cut = |length: usize| {
        let mut bytes = syn().bytes();
        bytes.truncate(length);
        // The stated length agrees with what is left.
        let total = (length - 14) as u16;
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        bytes
    };
    [
        ("IP version 5", with(&[(14, 0x55)]), Ipv4HeaderInvalid),
        ("a header length below 5 words", with(&[(14, 0x44)]), Ipv4HeaderInvalid),
        ("a header length of 0", with(&[(14, 0x40)]), Ipv4HeaderInvalid),
        ("a total length beyond the packet", with(&[(16, 0x10)]), Ipv4HeaderInvalid),
        ("a total length below the header", with(&[(17, 19)]), Ipv4HeaderInvalid),
        ("a total length of 0", with(&[(16, 0), (17, 0)]), Ipv4HeaderInvalid),
        ("a header longer than the packet", with(&[(14, 0x4f)]), Ipv4HeaderInvalid),
        ("a first fragment", with(&[(20, 0x20)]), Fragment),
        ("a later fragment", with(&[(21, 0x10)]), Fragment),
        ("a TCP header that is cut off", cut(14 + 20 + 19), TcpHeaderInvalid),
        ("no TCP header at all", cut(14 + 20), TcpHeaderInvalid),
        ("a data offset below 5 words", with(&[(46, 0x40)]), TcpHeaderInvalid),
        ("a data offset beyond the packet", with(&[(46, 0xf0)]), TcpHeaderInvalid),
    ]
    .into_iter()
    .map(|(name, input, reason)| {
        let xdp = Step { program: Program::XdpFront, ..dropped(input.clone(), reason) };
        case(name, World::default(), vec![dropped(input, reason), xdp], vec![], vec![])
    })
    .collect()
}

pub(super) fn refusals() -> Vec<Case> {
    let key = reply(CLASS_ESTABLISHED).key;
    let by_second = |class| reply_by(SECOND_VIP, key, 1, class);
    let with_one = |state| World { backends: vec![(1, backend_one(state))], ..World::default() };
    let no_backend = |name, world| {
        let steps = vec![dropped(syn().bytes(), DropReason::NoBackend)];
        case(name, world, steps, vec![], vec![])
    };
    vec![
        no_backend("a service without a ring", World { ring: None, ..World::default() }),
        no_backend("a ring without backends", World { ring: Some(0), ..World::default() }),
        no_backend("a SYN for a draining backend", with_one(TAKES_OLD)),
        no_backend("a SYN for a gone backend", with_one(0)),
        case(
            "the TTL is used up",
            World::default(),
            vec![
                dropped(syn().ttl(1).bytes(), DropReason::TtlExceeded),
                dropped(syn().ttl(0).bytes(), DropReason::TtlExceeded),
            ],
            vec![],
            vec![],
        ),
        case(
            "one client port, two VIPs, one backend: the second connection is refused",
            World { replies: vec![by_second(CLASS_ESTABLISHED)], ..recording() },
            vec![dropped(syn().bytes(), DropReason::TupleCollision)],
            vec![],
            vec![by_second(CLASS_ESTABLISHED)],
        ),
        case(
            "one client port, two VIPs, one backend: a closing connection makes room",
            World { replies: vec![by_second(CLASS_CLOSED)], ..recording() },
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
        ),
    ]
}
