//! Replies, and backends on other machines.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::abi::{
    BackendV4, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
    CLASS_HALF_OPEN, DropReason, META_ROUTED_BACKENDS, PROTOCOL_TCP, REPLY_OF_CLOSED_FLOW,
    ReplyKeyV4, ReplyRecordV4, Verdict,
};

use super::{
    ALIVE, NEXT_HOP_MACS, case, dropped, flow, forwarded, passed, reply_key, reply_of_one,
    reply_record,
};
use crate::packets::{
    Case, INGRESS_IFINDEX, KnownFlow, Program, Step, World, backend_three,
    builder::{BACKEND_ONE, BACKEND_THREE, CLIENT, PacketSpec, VIP, syn, tcp},
};

pub(super) fn replies() -> Vec<Case> {
    let world = |class| World {
        flows: vec![flow(1, class)],
        replies: vec![(reply_of_one(), reply_record(VIP, 1))],
        ..World::default()
    };
    let open = || world(CLASS_ESTABLISHED);
    let from_one = |flags| tcp(BACKEND_ONE, CLIENT, flags);
    let replied = |input: &PacketSpec| {
        let output = input.clone().routed_from(VIP);
        forwarded(Program::TcReply, Verdict::Reply, input, &output)
    };
    let pass = |input: PacketSpec| passed(Program::TcReply, input.bytes());
    let elsewhere = ReplyKeyV4 { ifindex: INGRESS_IFINDEX + 1, ..reply_of_one() };
    let kept = vec![reply_of_one()];
    let established = vec![flow(1, CLASS_ESTABLISHED)];
    vec![
        case(
            "data and acknowledgements come from the VIP",
            open(),
            vec![replied(&from_one(".")), replied(&from_one("P.").payload(1399))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "the SYN+ACK of a handshake comes from the VIP",
            world(CLASS_HALF_OPEN),
            vec![replied(&from_one("S."))],
            vec![flow(1, CLASS_HALF_OPEN)],
            kept.clone(),
        ),
        case(
            "a reply with IPv4 options",
            open(),
            vec![replied(&from_one(".").options(&[1; 12]))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "FIN of the backend makes the record closing",
            open(),
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSING_BY_BACKEND)],
            kept.clone(),
        ),
        case(
            "RST of the backend closes the record",
            open(),
            vec![replied(&from_one("R."))],
            vec![flow(1, CLASS_CLOSED)],
            kept.clone(),
        ),
        case(
            "a connection that the container opens itself is left alone",
            open(),
            vec![pass(from_one("S"))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "answers to anybody else are left alone",
            open(),
            vec![
                pass(tcp(BACKEND_ONE, SocketAddrV4::new(*CLIENT.ip(), 40_001), ".")),
                pass(tcp(SocketAddrV4::new(*BACKEND_ONE.ip(), 81), CLIENT, ".")),
            ],
            established.clone(),
            kept.clone(),
        ),
        case(
            "a container with the same address on another network is left alone",
            World { replies: vec![(elsewhere, reply_record(VIP, 1))], ..open() },
            vec![pass(from_one("."))],
            established.clone(),
            vec![elsewhere],
        ),
        case(
            "a SYN+ACK after the flow has ended answers direct access, and the record goes",
            world(CLASS_CLOSING_BY_CLIENT),
            vec![pass(from_one("S.")), pass(from_one("."))],
            vec![flow(1, CLASS_CLOSING_BY_CLIENT)],
            vec![],
        ),
        case(
            "the TTL of a reply is used up",
            open(),
            vec![Step {
                program: Program::TcReply,
                ..dropped(from_one(".").ttl(1).bytes(), DropReason::TtlExceeded)
            }],
            established,
            kept,
        ),
    ]
}

/// Replies of flows that both sides have closed.
pub(super) fn after_the_end() -> Vec<Case> {
    let world = |age_ticks| World {
        flows: vec![KnownFlow { age_ticks, ..flow(1, CLASS_CLOSED) }],
        replies: vec![(
            reply_of_one(),
            ReplyRecordV4 { flags: REPLY_OF_CLOSED_FLOW, ..reply_record(VIP, 1) },
        )],
        ..World::default()
    };
    let from_one = |flags| tcp(BACKEND_ONE, CLIENT, flags);
    let replied = |input: &PacketSpec| {
        let output = input.clone().routed_from(VIP);
        forwarded(Program::TcReply, Verdict::Reply, input, &output)
    };
    vec![
        case(
            "FIN of the backend after that of the client closes the record",
            World {
                flows: vec![flow(1, CLASS_CLOSING_BY_CLIENT)],
                replies: vec![(reply_of_one(), reply_record(VIP, 1))],
                ..World::default()
            },
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSED)],
            vec![reply_of_one()],
        ),
        case(
            "the last acknowledgement still comes from the VIP",
            world(0),
            vec![replied(&from_one("."))],
            vec![flow(1, CLASS_CLOSED)],
            vec![reply_of_one()],
        ),
        case(
            "a FIN that is sent again comes from the VIP",
            world(20),
            vec![replied(&from_one("F."))],
            vec![KnownFlow { age_ticks: 20, ..flow(1, CLASS_CLOSED) }],
            vec![reply_of_one()],
        ),
        case(
            "TIME_WAIT that answers a direct SYN is left alone, and the record goes",
            world(20),
            vec![passed(Program::TcReply, from_one(".").bytes())],
            vec![KnownFlow { age_ticks: 20, ..flow(1, CLASS_CLOSED) }],
            vec![],
        ),
    ]
}

pub(super) fn routed() -> Vec<Case> {
    let world = || World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..World::default() };
    let reply = reply_key(BACKEND_THREE, 0);
    let known = || World {
        flows: vec![flow(3, CLASS_ESTABLISHED)],
        replies: vec![(reply, reply_record(VIP, 3))],
        ..world()
    };
    let answer = tcp(BACKEND_THREE, CLIENT, "P.").payload(100);
    let at_next_hop = |packet: PacketSpec| packet.macs(NEXT_HOP_MACS);
    let unroutable =
        BackendV4 { address: Ipv4Addr::new(203, 0, 113, 1).into(), ..backend_three(ALIVE) };
    vec![
        case(
            "TC sends a flow to a backend on another machine",
            world(),
            vec![forwarded(
                Program::TcFront,
                Verdict::Route,
                &syn(),
                &syn().routed_to(BACKEND_THREE),
            )],
            vec![flow(3, CLASS_HALF_OPEN)],
            vec![reply],
        ),
        case(
            "TC translates the reply of a backend on another machine",
            known(),
            vec![forwarded(
                Program::TcFront,
                Verdict::Reply,
                &answer,
                &answer.clone().routed_from(VIP),
            )],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "without routed backends nobody looks for their replies",
            World { flags: 0, ..known() },
            vec![passed(Program::TcFront, answer.bytes())],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "XDP sends a flow to a backend on another machine",
            world(),
            vec![forwarded(
                Program::XdpFront,
                Verdict::Route,
                &syn().payload(11),
                &at_next_hop(syn().payload(11).routed_to(BACKEND_THREE)),
            )],
            vec![flow(3, CLASS_HALF_OPEN)],
            vec![reply],
        ),
        case(
            "XDP translates the reply of a backend on another machine",
            known(),
            vec![forwarded(
                Program::XdpFront,
                Verdict::Reply,
                &answer,
                &at_next_hop(answer.clone().routed_from(VIP)),
            )],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "XDP leaves local backends to TC, without a trace",
            World::default(),
            vec![passed(Program::XdpFront, syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves a checksum that a device would finish to TC, without a trace",
            world(),
            vec![passed(Program::XdpFront, with_partial_checksum(&syn()))],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves interfaces that it must not send to to TC, without a trace",
            World { xdp_may_send: false, ..world() },
            vec![passed(Program::XdpFront, syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "a backend that no route leads to",
            World { backends: vec![(3, unroutable)], ..world() },
            vec![dropped(syn().bytes(), DropReason::NoRoute)],
            vec![],
            vec![],
        ),
    ]
}

/// The packet as a local sender hands it to a device that computes checksums: the field holds the
/// sum of the pseudo header, not inverted.
fn with_partial_checksum(packet: &PacketSpec) -> Vec<u8> {
    let mut bytes = packet.bytes();
    let tcp_length = (bytes.len() - 34) as u16;
    let mut sum: u32 = u32::from(PROTOCOL_TCP) + u32::from(tcp_length);
    for pair in bytes[26..34].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}
