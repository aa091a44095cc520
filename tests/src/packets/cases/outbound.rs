//! Replies, and backends on other machines.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::abi::{
    BackendV4, CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, FRONTEND_RECORDS_REPLIES, META_REPLY_DEFAULTS,
    META_ROUTED_BACKENDS, NetU16, PROTOCOL_TCP, REPLY_DEFAULT_AMBIGUOUS, ReplyDefaultKeyV4,
    ReplyDefaultV4, ReplyKeyV4, Verdict,
};

use super::{
    ALIVE, NEXT_HOP_MACS, SECOND_VIP, case, delivered, dropped, flow, forwarded, passed, recording,
    reply, reply_by, reply_key,
};
use crate::packets::{
    Case, INGRESS_IFINDEX, KnownReply, Program, SlotState, Step, World, backend_three,
    builder::{BACKEND_ONE, BACKEND_THREE, CLIENT, PacketSpec, VIP, syn, tcp},
};

fn from_one(flags: &'static str) -> PacketSpec {
    tcp(BACKEND_ONE, CLIENT, flags)
}

fn replied_by(vip: SocketAddrV4, input: &PacketSpec) -> Step {
    let output = input.clone().routed_from(vip);
    forwarded(Program::TcReply, Verdict::Reply, input, &output)
}

fn replied(input: &PacketSpec) -> Step {
    replied_by(VIP, input)
}

fn pass(input: &PacketSpec) -> Step {
    passed(Program::TcReply, input.bytes())
}

/// What packets of clients leave for their replies.
pub(super) fn recorded() -> Vec<Case> {
    let ack = tcp(CLIENT, VIP, ".");
    let second = World { frontend_flags: FRONTEND_RECORDS_REPLIES, ..World::default() };
    vec![
        case(
            "replies recorded: a SYN leaves a half-open record, on a plain slot too",
            recording(),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: also for the sake of the frontend",
            second,
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: a handshake ends with an established record",
            recording(),
            vec![
                delivered(&syn(), BACKEND_ONE),
                replied(&from_one("S.")),
                delivered(&ack, BACKEND_ONE),
            ],
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
        ),
        case(
            "replies recorded: acknowledgements that nobody answers stay half open",
            recording(),
            vec![delivered(&ack, BACKEND_ONE), delivered(&ack, BACKEND_ONE)],
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: a RST of the backend ends the record",
            recording(),
            vec![delivered(&ack, BACKEND_ONE), replied(&from_one("R"))],
            vec![],
            vec![],
        ),
        case(
            "replies recorded: the record does not choose the backend",
            World { ring: Some(1), replies: vec![reply(CLASS_ESTABLISHED)], ..recording() },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
        ),
        case(
            "replies recorded: a moving slot records both",
            World { slots: SlotState::Moving { old: 2, age_ticks: 0 }, ..recording() },
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: no room leaves an answered flow among the half open",
            World {
                replies: vec![
                    reply_by(VIP, reply_key(BACKEND_THREE, 0), 3, CLASS_ESTABLISHED),
                    reply(CLASS_ANSWERED),
                ],
                records_max: 1,
                ..recording()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![],
            vec![
                reply_by(VIP, reply_key(BACKEND_THREE, 0), 3, CLASS_ESTABLISHED),
                KnownReply { is_half: true, ..reply(CLASS_ESTABLISHED) },
            ],
        ),
    ]
}

pub(super) fn replies() -> Vec<Case> {
    let world =
        |class| World { flows: vec![flow(1, class)], replies: vec![reply(class)], ..recording() };
    let open = || world(CLASS_ESTABLISHED);
    let elsewhere = KnownReply {
        key: ReplyKeyV4 { ifindex: INGRESS_IFINDEX + 1, ..reply(CLASS_ESTABLISHED).key },
        ..reply(CLASS_ESTABLISHED)
    };
    let kept = vec![reply(CLASS_ESTABLISHED)];
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
            vec![reply(CLASS_ANSWERED)],
        ),
        case(
            "a reply with IPv4 options",
            open(),
            vec![replied(&from_one(".").options(&[1; 12]))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "FIN of the backend makes both records closing",
            open(),
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSING_BY_BACKEND)],
            vec![reply(CLASS_CLOSING_BY_BACKEND)],
        ),
        case(
            "RST of the backend ends both records",
            open(),
            vec![replied(&from_one("R."))],
            vec![],
            vec![],
        ),
        case(
            "a connection that the container opens itself is left alone",
            open(),
            vec![pass(&from_one("S"))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "answers to anybody else are left alone",
            open(),
            vec![
                pass(&tcp(BACKEND_ONE, SocketAddrV4::new(*CLIENT.ip(), 40_001), ".")),
                pass(&tcp(SocketAddrV4::new(*BACKEND_ONE.ip(), 81), CLIENT, ".")),
            ],
            established.clone(),
            kept.clone(),
        ),
        case(
            "a container with the same address on another network is left alone",
            World { replies: vec![elsewhere], ..open() },
            vec![pass(&from_one("."))],
            established.clone(),
            vec![elsewhere],
        ),
        case(
            "a SYN+ACK after the flow has ended answers direct access, and the record goes",
            world(CLASS_CLOSING_BY_CLIENT),
            vec![pass(&from_one("S.")), pass(&from_one("."))],
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
    let closed = |age_ticks| KnownReply { age_ticks, ..reply(CLASS_CLOSED) };
    let world = |age_ticks| World { replies: vec![closed(age_ticks)], ..recording() };
    vec![
        case(
            "FIN of the backend after that of the client closes both records",
            World {
                flows: vec![flow(1, CLASS_CLOSING_BY_CLIENT)],
                replies: vec![reply(CLASS_CLOSING_BY_CLIENT)],
                ..recording()
            },
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSED)],
            vec![closed(0)],
        ),
        case(
            "the last acknowledgement still comes from the VIP",
            world(0),
            vec![replied(&from_one("."))],
            vec![],
            vec![closed(0)],
        ),
        case(
            "a FIN that is sent again comes from the VIP",
            world(20),
            vec![replied(&from_one("F."))],
            vec![],
            vec![closed(20)],
        ),
        case(
            "TIME_WAIT that answers a direct SYN is left alone, and the record goes",
            world(20),
            vec![pass(&from_one("."))],
            vec![],
            vec![],
        ),
    ]
}

fn with_default(ifindex: u32, flags: u16) -> World {
    World {
        flags: META_REPLY_DEFAULTS,
        reply_defaults: vec![(
            ReplyDefaultKeyV4 {
                ifindex: INGRESS_IFINDEX,
                backend: (*BACKEND_ONE.ip()).into(),
                backend_port: NetU16::new(BACKEND_ONE.port()),
                pad: 0,
                protocol: u32::from(PROTOCOL_TCP),
            },
            ReplyDefaultV4 {
                vip: (*VIP.ip()).into(),
                vip_port: NetU16::new(VIP.port()),
                flags,
                backend: 1,
                ifindex,
            },
        )],
        local: vec![(Ipv4Addr::new(172, 17, 0, 0), 16), (Ipv4Addr::new(192, 0, 2, 1), 32)],
        ..World::default()
    }
}

/// Replies of ports that one frontend leads to first, or only.
pub(super) fn defaults() -> Vec<Case> {
    let simple = || with_default(INGRESS_IFINDEX, 0);
    let local = |address: [u8; 4]| SocketAddrV4::new(address.into(), 5000);
    let stateless = |name, world, step| case(name, world, vec![step], vec![], vec![]);
    vec![
        stateless(
            "default: data comes from the VIP",
            simple(),
            replied(&from_one("P.").payload(99)),
        ),
        stateless("default: a SYN+ACK comes from the VIP", simple(), replied(&from_one("S."))),
        stateless("default: a RST comes from the VIP", simple(), replied(&from_one("R"))),
        stateless(
            "default: several front interfaces, the routing table knows",
            with_default(0, 0),
            replied(&from_one(".")),
        ),
        stateless(
            "default: a container's own connection is left alone",
            simple(),
            pass(&from_one("S")),
        ),
        stateless(
            "default: another port of the container is left alone",
            simple(),
            pass(&tcp(SocketAddrV4::new(*BACKEND_ONE.ip(), 81), CLIENT, ".")),
        ),
        stateless(
            "default: answers to another container are left alone",
            simple(),
            pass(&tcp(BACKEND_ONE, local([172, 17, 3, 4]), ".")),
        ),
        stateless(
            "default: answers to the node itself are left alone",
            simple(),
            pass(&tcp(BACKEND_ONE, local([192, 0, 2, 1]), ".")),
        ),
        stateless(
            "default: not when there are none on the node",
            World { flags: 0, ..simple() },
            pass(&from_one(".")),
        ),
        case(
            "default: a FIN of the backend makes the flow's record closing",
            World { flows: vec![flow(1, CLASS_ESTABLISHED)], ..simple() },
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSING_BY_BACKEND)],
            vec![],
        ),
        case(
            "default: a RST of another backend leaves the flow's record",
            World { flows: vec![flow(2, CLASS_ESTABLISHED)], ..simple() },
            vec![replied(&from_one("R"))],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ]
}

/// Replies of ports that a second frontend leads to.
pub(super) fn two_frontends() -> Vec<Case> {
    let second = |class| reply_by(SECOND_VIP, reply_key(BACKEND_ONE, INGRESS_IFINDEX), 1, class);
    let ambiguous = |class| World {
        replies: vec![second(class)],
        ..with_default(INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS)
    };
    vec![
        case(
            "two frontends: a recorded flow's replies go by its own",
            ambiguous(CLASS_ESTABLISHED),
            vec![replied_by(SECOND_VIP, &from_one("."))],
            vec![],
            vec![second(CLASS_ESTABLISHED)],
        ),
        case(
            "two frontends: what is not recorded goes by the first",
            with_default(INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS),
            vec![replied(&from_one("P.").payload(10))],
            vec![],
            vec![],
        ),
        case(
            "two frontends: a SYN to the second does not take the first's flow of the same port",
            ambiguous(CLASS_HALF_OPEN),
            vec![replied(&from_one("P.").payload(10))],
            vec![],
            vec![second(CLASS_HALF_OPEN)],
        ),
        case(
            "two frontends: the SYN+ACK of the second is the second's",
            ambiguous(CLASS_HALF_OPEN),
            vec![replied_by(SECOND_VIP, &from_one("S."))],
            vec![],
            vec![second(CLASS_ANSWERED)],
        ),
    ]
}

pub(super) fn routed() -> Vec<Case> {
    let world = || World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..recording() };
    let reply = |class| reply_by(VIP, reply_key(BACKEND_THREE, 0), 3, class);
    let known = || World { replies: vec![reply(CLASS_ESTABLISHED)], ..world() };
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
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
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
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
        ),
        case(
            "without routed backends nobody looks for their replies",
            World { flags: 0, ..known() },
            vec![passed(Program::TcFront, answer.bytes())],
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
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
            vec![],
            vec![reply(CLASS_HALF_OPEN)],
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
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
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
