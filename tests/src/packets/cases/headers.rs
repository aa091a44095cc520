//! VLAN tags, extension headers, and what is too big for the way ahead.

use std::net::SocketAddr;

use lb_common::{
    abi::{
        CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, META_ROUTED_BACKENDS, META_ROUTES_REPLIES,
        Verdict,
    },
    engine::answer::AnswerKind,
};

use super::{answered, answered_with, case, delivered, dropped, forwarded, hostile::TAG, passed};
use crate::packets::{
    Case, EGRESS_MACS, KnownReply, Net, PacketSpec, Program, Step, World, at, echo, tcp, udp,
};

const TWO_TAGS: [(u16, u16); 2] = [(0x88a8, 7), (0x8100, 5)];
const THREE_TAGS: [(u16, u16); 3] = [(0x88a8, 7), (0x8100, 5), (0x8100, 6)];

/// Tags in the bytes. Those that a device has taken out are beyond a test run.
pub(super) fn tags(net: &Net) -> Vec<Case> {
    let by_routes = |class| KnownReply { front_ifindex: 0, ..net.reply(class) };
    let reply = tcp(net.one, net.client, ".").payload(10);
    let no_frontend = tcp(net.client, at(net.vip, 81), "S").tags(&TAG).bytes();
    vec![
        case(
            "one tag, two tags: the container gets none",
            net.world(),
            vec![
                delivered(&net.syn().tags(&TAG), net.one),
                delivered(&net.syn().tags(&TWO_TAGS), net.one),
                delivered(&udp(net.client, net.vip).tags(&TWO_TAGS), net.one),
            ],
            vec![],
            vec![],
        ),
        case(
            "three tags are not understood",
            net.world(),
            vec![passed(Program::TcFront, net.syn().tags(&THREE_TAGS).bytes())],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves tagged packets to TC",
            net.world(),
            vec![passed(Program::XdpFront, net.syn().tags(&TAG).bytes())],
            vec![],
            vec![],
        ),
        case(
            "replies to a tagged client go by the routing table",
            net.recording(),
            vec![delivered(&net.syn().tags(&TAG), net.one)],
            vec![],
            vec![by_routes(CLASS_HALF_OPEN)],
        ),
        case(
            "a reply that goes by the routing table",
            World { replies: vec![by_routes(CLASS_ESTABLISHED)], ..net.recording() },
            vec![forwarded(
                Program::TcReply,
                Verdict::Reply,
                &reply,
                &reply.clone().routed_from(net.vip),
            )],
            vec![],
            vec![by_routes(CLASS_ESTABLISHED)],
        ),
        case(
            "resets and echo replies keep the tag",
            net.world(),
            vec![
                answered(net, no_frontend, AnswerKind::Reset, DropReason::NoFrontend),
                answered(
                    net,
                    echo(net.client.ip(), net.vip.ip()).tags(&TAG).bytes(),
                    AnswerKind::EchoReply,
                    DropReason::None,
                ),
            ],
            vec![],
            vec![],
        ),
    ]
}

/// So many words of eight bytes beyond the first.
fn header(words: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 + 8 * usize::from(words)];
    bytes[1] = words;
    bytes
}

/// Extension headers of IPv6.
pub(super) fn extensions(net: &Net) -> Vec<Case> {
    if !net.is_v6() {
        return Vec::new();
    }
    let refused = |name, packet: PacketSpec, reason| {
        case(name, net.world(), vec![dropped(packet.bytes(), reason)], vec![], vec![])
    };
    let (hop_by_hop, routing, options) = (0, 43, 60);
    let mut deep = net.syn();
    for _ in 0..5 {
        deep = deep.extension(options, &header(0));
    }
    let mut routed = header(2);
    (routed[2], routed[3]) = (0, 1);
    vec![
        case(
            "hop-by-hop and destination options",
            net.world(),
            vec![
                delivered(&net.syn().extension(hop_by_hop, &header(0)), net.one),
                delivered(&net.syn().extension(options, &header(3)).payload(9), net.one),
                delivered(
                    &udp(net.client, net.vip)
                        .extension(hop_by_hop, &header(1))
                        .extension(options, &header(0)),
                    net.one,
                ),
            ],
            vec![],
            vec![],
        ),
        refused("extension headers too deep", deep, DropReason::Ipv6TooDeeplyNested),
        refused(
            "extension headers too long",
            net.syn().extension(options, &header(20)),
            DropReason::Ipv6TooDeeplyNested,
        ),
        refused(
            "a routing header",
            net.syn().extension(routing, &routed),
            DropReason::Ipv6RoutingHeader,
        ),
        refused(
            "an extension header beyond the end",
            PacketSpec { payload: vec![], ..net.syn() }
                .extension(options, &[0, 9, 0, 0, 0, 0, 0, 0]),
            DropReason::Ipv6ExtensionInvalid,
        ),
    ]
}

/// Of the way ahead.
const MTU: u32 = 1400;

fn narrow(world: World) -> World {
    World { egress_mtu: MTU, ..world }
}

/// A packet with so many bytes more than the MTU.
fn filled(net: &Net, packet: PacketSpec, l4_header_bytes: usize, beyond: usize) -> PacketSpec {
    packet.payload(MTU as usize + beyond - (net.l4_offset() - 14) - l4_header_bytes)
}

fn told(net: &Net, packet: &PacketSpec) -> Step {
    answered_with(net, packet.bytes(), AnswerKind::TooBig, DropReason::TooBig, MTU)
}

/// A way to the client of 1,400 bytes.
pub(super) fn too_big_reply(net: &Net) -> Vec<Case> {
    let by_routes = KnownReply { front_ifindex: 0, ..net.reply(CLASS_ESTABLISHED) };
    let by_front = net.reply(CLASS_ESTABLISHED);
    let world = |reply, flags| narrow(World { replies: vec![reply], flags, ..net.recording() });
    let answer = |beyond| filled(net, tcp(net.one, net.client, "."), 20, beyond);
    let on_way_back = |step: Step| Step { program: Program::TcReply, ..step };
    let fits = |beyond| {
        let answer = answer(beyond);
        forwarded(Program::TcReply, Verdict::Reply, &answer, &answer.clone().routed_from(net.vip))
    };
    let steps = vec![fits(0), on_way_back(told(net, &answer(1)))];
    // The routing table knows no way to this client; the front that it came in on carries more.
    let far = SocketAddr::new(net.unroutable, 40_000);
    let of_far = KnownReply { client: far, ..by_front };
    let to_far = filled(net, tcp(net.one, far, "."), 20, 1);
    let back =
        forwarded(Program::TcReply, Verdict::Reply, &to_far, &to_far.clone().routed_from(net.vip));
    vec![
        case(
            "a byte too big for the way back",
            world(by_routes, 0),
            steps.clone(),
            vec![],
            vec![by_routes],
        ),
        case(
            "several fronts: the way back is that of the routing table, and its MTU",
            world(by_front, META_ROUTES_REPLIES),
            steps,
            vec![],
            vec![by_front],
        ),
        case(
            "one front: the way back is the way in",
            world(by_front, 0),
            vec![fits(1)],
            vec![],
            vec![by_front],
        ),
        case(
            "several fronts: where the routing table knows no way back it is the way in",
            world(of_far, META_ROUTES_REPLIES),
            vec![back],
            vec![],
            vec![of_far],
        ),
    ]
}

/// A way to a backend of 1,400 bytes.
pub(super) fn too_big(net: &Net) -> Vec<Case> {
    let routed = || narrow(World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..net.world() });
    let ack = |beyond| filled(net, tcp(net.client, net.vip, "."), 20, beyond);
    let datagram = |beyond| filled(net, udp(net.client, net.vip), 8, beyond);
    let there = |packet: &PacketSpec| packet.clone().routed_to(net.three);
    let local = |packet: &PacketSpec| delivered(packet, net.one);
    vec![
        case(
            "what fits the way to a backend exactly",
            routed(),
            vec![
                forwarded(Program::TcFront, Verdict::Route, &ack(0), &there(&ack(0))),
                forwarded(
                    Program::XdpFront,
                    Verdict::Route,
                    &ack(0),
                    &there(&ack(0)).macs(EGRESS_MACS),
                ),
                forwarded(Program::TcFront, Verdict::Route, &datagram(0), &there(&datagram(0))),
            ],
            vec![],
            vec![],
        ),
        case(
            "a byte too big for the way to a backend",
            routed(),
            vec![told(net, &ack(1)), told(net, &datagram(1)), told(net, &ack(100))],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves what is too big to TC",
            routed(),
            vec![
                passed(Program::XdpFront, ack(1).bytes()),
                passed(Program::XdpFront, datagram(1).bytes()),
            ],
            vec![],
            vec![],
        ),
        case(
            "containers are not asked for their MTU",
            narrow(net.world()),
            vec![local(&ack(0)), local(&ack(1)), local(&ack(100))],
            vec![],
            vec![],
        ),
    ]
}
