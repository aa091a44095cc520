//! Replies, and backends on other machines.

use std::net::SocketAddr;

use lb_common::abi::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_RESUMED, DropReason, FRONTEND_RECORDS_REPLIES,
    META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, PROTOCOL_TCP, REPLY_DEFAULT_AMBIGUOUS, Verdict,
    reply_end,
};
use lb_common::engine::answer::AnswerKind;

use super::{ALIVE, answered, case, delivered, dropped, forwarded, passed};
use crate::packets::{
    BackendSpec, Case, EGRESS_MACS, INGRESS_IFINDEX, KnownReply, Net, PacketSpec, Program,
    ReplyDefaultSpec, SlotState, Step, World, at, tcp,
};

impl Net {
    pub(super) fn said_by_one(&self, flags: &'static str) -> PacketSpec {
        tcp(self.one, self.client, flags)
    }
}

fn replied_by(vip: SocketAddr, input: &PacketSpec) -> Step {
    let output = input.clone().routed_from(vip);
    forwarded(Program::TcReply, Verdict::Reply, input, &output)
}

pub(super) fn replied(net: &Net, input: &PacketSpec) -> Step {
    replied_by(net.vip, input)
}

pub(super) fn pass(input: &PacketSpec) -> Step {
    passed(Program::TcReply, input.bytes())
}

/// What packets of clients leave for their replies.
pub(super) fn recorded(net: &Net) -> Vec<Case> {
    let ack = tcp(net.client, net.vip, ".");
    let second = World { frontend_flags: FRONTEND_RECORDS_REPLIES, ..net.world() };
    vec![
        case(
            "replies recorded: a SYN leaves a half-open record, on a plain slot too",
            net.recording(),
            vec![delivered(&net.syn(), net.one)],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: also for the sake of the frontend",
            second,
            vec![delivered(&net.syn(), net.one)],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: a handshake ends with an established record",
            net.recording(),
            vec![
                delivered(&net.syn(), net.one),
                replied(net, &net.said_by_one("S.")),
                delivered(&ack, net.one),
            ],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "replies recorded: acknowledgements that nobody answers stay among the half open",
            net.recording(),
            vec![delivered(&ack, net.one), delivered(&ack, net.one)],
            vec![],
            vec![net.reply(CLASS_RESUMED)],
        ),
        case(
            "replies recorded: a RST of the backend ends the record",
            net.recording(),
            vec![delivered(&ack, net.one), replied(net, &net.said_by_one("R"))],
            vec![],
            vec![],
        ),
        case(
            "replies recorded: the record does not choose the backend",
            World { ring: Some(1), replies: vec![net.reply(CLASS_ESTABLISHED)], ..net.recording() },
            vec![delivered(&ack, net.one)],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "replies recorded: a moving slot records both",
            World { slots: SlotState::Moving { old: 2, age_ticks: 0 }, ..net.recording() },
            vec![delivered(&net.syn(), net.one)],
            vec![net.flow(1, CLASS_HALF_OPEN)],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "replies recorded: no room leaves an answered flow among the half open",
            World {
                replies: vec![
                    net.reply_by(net.vip, net.three, 0, 3, CLASS_ESTABLISHED),
                    net.reply(CLASS_ANSWERED),
                ],
                records_max: 1,
                ..net.recording()
            },
            vec![delivered(&ack, net.one)],
            vec![],
            vec![
                net.reply_by(net.vip, net.three, 0, 3, CLASS_ESTABLISHED),
                KnownReply { is_half: true, ..net.reply(CLASS_ESTABLISHED) },
            ],
        ),
    ]
}

pub(super) fn replies(net: &Net) -> Vec<Case> {
    let world = |class| World {
        flows: vec![net.flow(1, class)],
        replies: vec![net.reply(class)],
        ..net.recording()
    };
    let open = || world(CLASS_ESTABLISHED);
    let elsewhere = KnownReply { ifindex: INGRESS_IFINDEX + 1, ..net.reply(CLASS_ESTABLISHED) };
    let kept = vec![net.reply(CLASS_ESTABLISHED)];
    let established = vec![net.flow(1, CLASS_ESTABLISHED)];
    vec![
        case(
            "data and acknowledgements come from the VIP",
            open(),
            vec![
                replied(net, &net.said_by_one(".")),
                replied(net, &net.said_by_one("P.").payload(1399)),
            ],
            established.clone(),
            kept.clone(),
        ),
        case(
            "the SYN+ACK of a handshake comes from the VIP",
            world(CLASS_HALF_OPEN),
            vec![replied(net, &net.said_by_one("S."))],
            vec![net.flow(1, CLASS_HALF_OPEN)],
            vec![net.reply(CLASS_ANSWERED)],
        ),
        case(
            "a reply with IPv4 options",
            open(),
            vec![replied(net, &net.said_by_one(".").options(&[1; 12]))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "FIN of the backend makes both records closing",
            open(),
            vec![replied(net, &net.said_by_one("F.").numbers(7, 8))],
            vec![net.flow(1, CLASS_CLOSING_BY_BACKEND)],
            vec![KnownReply { backend_end: reply_end(8), ..net.reply(CLASS_CLOSING_BY_BACKEND) }],
        ),
        case(
            "RST of the backend ends both records",
            open(),
            vec![replied(net, &net.said_by_one("R."))],
            vec![],
            vec![],
        ),
        case(
            "a connection that the container opens itself is left alone",
            open(),
            vec![pass(&net.said_by_one("S"))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "answers to anybody else are left alone",
            open(),
            vec![
                pass(&tcp(net.one, at(net.client, 40_001), ".")),
                pass(&tcp(at(net.one, 81), net.client, ".")),
            ],
            established.clone(),
            kept.clone(),
        ),
        case(
            "a container with the same address on another network is left alone",
            World { replies: vec![elsewhere], ..open() },
            vec![pass(&net.said_by_one("."))],
            established.clone(),
            vec![elsewhere],
        ),
        case(
            "a SYN+ACK after the flow has ended answers direct access, and the record goes",
            world(CLASS_CLOSING_BY_CLIENT),
            vec![pass(&net.said_by_one("S.")), pass(&net.said_by_one("."))],
            vec![net.flow(1, CLASS_CLOSING_BY_CLIENT)],
            vec![],
        ),
        case(
            "the TTL of a reply is used up",
            open(),
            vec![Step {
                program: Program::TcReply,
                ..dropped(net.said_by_one(".").ttl(1).bytes(), DropReason::TtlExceeded)
            }],
            established,
            kept,
        ),
    ]
}

pub(super) fn with_default(net: &Net, front_ifindex: u32, flags: u16) -> World {
    World {
        flags: META_REPLY_DEFAULTS,
        reply_defaults: vec![ReplyDefaultSpec {
            ifindex: INGRESS_IFINDEX,
            address: net.one,
            protocol: PROTOCOL_TCP,
            vip: net.vip,
            flags,
            backend: 1,
            front_ifindex,
        }],
        local: vec![net.containers, net.own],
        ..net.world()
    }
}

/// Replies of ports that one frontend leads to first, or only.
pub(super) fn defaults(net: &Net) -> Vec<Case> {
    let simple = || with_default(net, INGRESS_IFINDEX, 0);
    let local = |address| SocketAddr::new(address, 5000);
    let stateless = |name, world, step| case(name, world, vec![step], vec![], vec![]);
    vec![
        stateless(
            "default: data comes from the VIP",
            simple(),
            replied(net, &net.said_by_one("P.").payload(99)),
        ),
        stateless(
            "default: a SYN+ACK comes from the VIP",
            simple(),
            replied(net, &net.said_by_one("S.")),
        ),
        stateless(
            "default: a RST comes from the VIP",
            simple(),
            replied(net, &net.said_by_one("R")),
        ),
        stateless(
            "default: several front interfaces, the routing table knows",
            with_default(net, 0, 0),
            replied(net, &net.said_by_one(".")),
        ),
        stateless(
            "default: another port of the container is left alone",
            simple(),
            pass(&tcp(at(net.one, 81), net.client, ".")),
        ),
        stateless(
            "default: answers to another container are left alone",
            simple(),
            pass(&tcp(net.one, local(net.container), ".")),
        ),
        stateless(
            "default: answers to the node itself are left alone",
            simple(),
            pass(&tcp(net.one, local(net.own.0), ".")),
        ),
        stateless(
            "default: not when there are none on the node",
            World { flags: 0, ..simple() },
            pass(&net.said_by_one(".")),
        ),
        case(
            "default: a FIN of the backend makes the flow's record closing",
            World { flows: vec![net.flow(1, CLASS_ESTABLISHED)], ..simple() },
            vec![replied(net, &net.said_by_one("F."))],
            vec![net.flow(1, CLASS_CLOSING_BY_BACKEND)],
            vec![],
        ),
        case(
            "default: a RST of another backend leaves the flow's record",
            World { flows: vec![net.flow(2, CLASS_ESTABLISHED)], ..simple() },
            vec![replied(net, &net.said_by_one("R"))],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ]
}

/// Replies of ports that a second frontend leads to.
pub(super) fn two_frontends(net: &Net) -> Vec<Case> {
    let second = |class| net.reply_by(net.second_vip, net.one, INGRESS_IFINDEX, 1, class);
    let ambiguous = |class| World {
        replies: vec![second(class)],
        ..with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS)
    };
    vec![
        case(
            "two frontends: a recorded flow's replies go by its own",
            ambiguous(CLASS_ESTABLISHED),
            vec![replied_by(net.second_vip, &net.said_by_one("."))],
            vec![],
            vec![second(CLASS_ESTABLISHED)],
        ),
        case(
            "two frontends: what is not recorded goes by the first",
            with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS),
            vec![replied(net, &net.said_by_one("P.").payload(10))],
            vec![],
            vec![],
        ),
        case(
            "two frontends: a SYN to the second does not take the first's flow of the same port",
            ambiguous(CLASS_HALF_OPEN),
            vec![replied(net, &net.said_by_one("P.").payload(10))],
            vec![],
            vec![second(CLASS_HALF_OPEN)],
        ),
        case(
            "two frontends: the SYN+ACK of the second is the second's",
            ambiguous(CLASS_HALF_OPEN),
            vec![replied_by(net.second_vip, &net.said_by_one("S."))],
            vec![],
            vec![second(CLASS_ANSWERED)],
        ),
        case(
            "two frontends: the second's lost record comes back with the client's next packet",
            World {
                frontend_flags: FRONTEND_RECORDS_REPLIES,
                ..with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS)
            },
            vec![
                delivered(&tcp(net.client, net.second_vip, "P.").payload(9), net.one),
                replied_by(net.second_vip, &net.said_by_one(".")),
            ],
            vec![],
            vec![second(CLASS_ESTABLISHED)],
        ),
        case(
            "two frontends: a SYN to the first is refused while the second has the client's port",
            ambiguous(CLASS_ESTABLISHED),
            vec![answered(net, net.syn().bytes(), AnswerKind::Reset, DropReason::TupleCollision)],
            vec![],
            vec![second(CLASS_ESTABLISHED)],
        ),
        case(
            "two frontends: nothing else to the first is",
            ambiguous(CLASS_ESTABLISHED),
            vec![delivered(&tcp(net.client, net.vip, "."), net.one)],
            vec![],
            vec![second(CLASS_ESTABLISHED)],
        ),
        case(
            "two frontends: a SYN to the second that nobody answered yields to the first's",
            ambiguous(CLASS_HALF_OPEN),
            vec![delivered(&net.syn(), net.one), replied(net, &net.said_by_one("S."))],
            vec![],
            vec![],
        ),
        case(
            "two frontends: what the second's client has closed yields to the first's SYN",
            ambiguous(CLASS_CLOSED),
            vec![delivered(&net.syn(), net.one), replied(net, &net.said_by_one("S."))],
            vec![],
            vec![],
        ),
    ]
}

pub(super) fn routed(net: &Net) -> Vec<Case> {
    let world = || World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..net.recording() };
    let reply = |class| net.reply_by(net.vip, net.three, 0, 3, class);
    let known = || World { replies: vec![reply(CLASS_ESTABLISHED)], ..world() };
    let answer = tcp(net.three, net.client, "P.").payload(100);
    let at_next_hop = |packet: PacketSpec| packet.macs(EGRESS_MACS);
    let unroutable =
        BackendSpec { address: SocketAddr::new(net.unroutable, 8080), ..net.backend_three(ALIVE) };
    vec![
        case(
            "TC sends a flow to a backend on another machine",
            world(),
            vec![forwarded(
                Program::TcFront,
                Verdict::Route,
                &net.syn(),
                &net.syn().routed_to(net.three),
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
                &answer.clone().routed_from(net.vip),
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
                &net.syn().payload(11),
                &at_next_hop(net.syn().payload(11).routed_to(net.three)),
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
                &at_next_hop(answer.clone().routed_from(net.vip)),
            )],
            vec![],
            vec![reply(CLASS_ESTABLISHED)],
        ),
        case(
            "XDP leaves local backends to TC, without a trace",
            net.world(),
            vec![passed(Program::XdpFront, net.syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves a checksum that a device would finish to TC, without a trace",
            world(),
            vec![passed(Program::XdpFront, with_partial_checksum(&net.syn()))],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves interfaces that it must not send to to TC, without a trace",
            World { xdp_may_send: false, ..world() },
            vec![passed(Program::XdpFront, net.syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "a backend that no route leads to",
            World { backends: vec![(3, unroutable)], ..world() },
            vec![dropped(net.syn().bytes(), DropReason::NoRoute)],
            vec![],
            vec![],
        ),
    ]
}

/// The packet as a local sender hands it to a device that computes checksums: the field holds the
/// sum of the pseudo header, not inverted.
fn with_partial_checksum(packet: &PacketSpec) -> Vec<u8> {
    let mut bytes = packet.bytes();
    let (addresses, l4) = if packet.source.is_ipv4() { (26..34, 34) } else { (22..54, 54) };
    let mut sum: u32 = u32::from(PROTOCOL_TCP) + (bytes.len() - l4) as u32;
    for pair in bytes[addresses].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[l4 + 16..l4 + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}
