//! Packets that are not ours, broken, or refused.

use std::net::SocketAddr;

use lb_common::{
    abi::{
        CLASS_ANSWERED, CLASS_CLOSED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason,
        FRONTEND_DROPS, META_ROUTED_BACKENDS, TAKES_OLD,
    },
    engine::answer::AnswerKind,
};

use super::{answered, case, delivered, dropped, passed};
use crate::packets::{
    Body, Case, INGRESS_IFINDEX, Net, PacketSpec, Program, Step, World, at, echo, icmp, packet,
    tcp, udp,
};

pub(super) fn not_ours(net: &Net) -> Vec<Case> {
    let to_stranger = tcp(net.client, net.stranger, "S");
    let changed = |at: usize, value: u8| {
        let mut bytes = net.syn().bytes();
        bytes[at] = value;
        bytes
    };
    let ip_header_bytes = if net.is_v6() { 40 } else { 20 };
    // Only by XDP: a test run refuses such a frame as a socket buffer.
    let too_short = case(
        "a frame too short for an address passes",
        net.world(),
        vec![passed(Program::XdpFront, net.syn().bytes()[..13 + ip_header_bytes].to_vec())],
        vec![],
        vec![],
    );
    // Which both programs forward when it is for this one.
    let to = |mac| net.syn().payload(11).macs((mac, [2, 0, 0, 0, 0, 2])).bytes();
    let routed = || World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..net.recording() };
    let others = [
        ("a frame for another machine passes", to([2, 0, 0, 0, 0, 99])),
        ("a frame for every machine passes", to([0xff; 6])),
        ("a frame for a group of machines passes", to([1, 0, 0x5e, 0, 0, 1])),
    ]
    .map(|(name, input)| {
        let steps = [Program::TcFront, Program::XdpFront].map(|it| passed(it, input.clone()));
        case(name, routed(), steps.into(), vec![], vec![])
    });
    let discovery = icmp(net.client.ip(), net.vip.ip(), (135, 0), 0).payload(24);
    let discovered = case(
        "neighbour discovery of a VIP is the node's own",
        net.world(),
        vec![passed(Program::TcFront, discovery.bytes())],
        vec![],
        vec![],
    );
    [
        ("another address passes", to_stranger.bytes()),
        ("UDP to another address passes", udp(net.client, net.stranger).bytes()),
        ("echo to another address passes", icmp_to_stranger(net).bytes()),
        ("a frame that says nothing of IP passes", changed(13, 6)),
        ("a tagged packet to another address passes", to_stranger.clone().tags(&TAG).bytes()),
        (
            "a fragment for another address passes",
            to_stranger.payload(200).fragment(7, 0, 96).bytes(),
        ),
    ]
    .into_iter()
    .map(|(name, input)| {
        let steps = vec![
            passed(Program::TcFront, input.clone()),
            passed(Program::TcReply, input.clone()),
            passed(Program::XdpFront, input),
        ];
        case(name, net.world(), steps, vec![], vec![])
    })
    .chain([too_short])
    .chain(others)
    .chain(net.is_v6().then_some(discovered))
    .collect()
}

/// VLAN 5.
pub(super) const TAG: [(u16, u16); 1] = [(0x8100, 5)];

fn icmp_to_stranger(net: &Net) -> PacketSpec {
    echo(net.client.ip(), net.stranger.ip())
}

/// Dropped by TC and, where XDP looks at such packets, by XDP.
fn broken_case(name: &str, net: &Net, input: Vec<u8>, reason: DropReason) -> Case {
    let xdp = passed(Program::XdpFront, input.clone());
    case(name, net.world(), vec![dropped(input, reason), xdp], vec![], vec![])
}

pub(super) fn broken(net: &Net) -> Vec<Case> {
    let l4 = net.l4_offset();
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = net.syn().bytes();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    // The stated length agrees with what is left.
    let cut = |length: usize| {
        let mut bytes = net.syn().bytes();
        bytes.truncate(length);
        let (field, total) = if net.is_v6() { (18, length - 54) } else { (16, length - 14) };
        bytes[field..field + 2].copy_from_slice(&(total as u16).to_be_bytes());
        bytes
    };
    let mut short_udp = udp(net.client, net.vip).bytes();
    short_udp[l4 + 5] = 7;
    let mut long_udp = udp(net.client, net.vip).bytes();
    long_udp[l4 + 4] = 9;
    let short_icmp = packet(net.client, net.vip, Body::Other(net.icmp())).payload(7).bytes();
    let mut cases = vec![
        ("a TCP header that is cut off", cut(l4 + 19), DropReason::TcpHeaderInvalid),
        ("no TCP header at all", cut(l4), DropReason::TcpHeaderInvalid),
        ("a data offset below 5 words", with(&[(l4 + 12, 0x40)]), DropReason::TcpHeaderInvalid),
        ("a data offset beyond the packet", with(&[(l4 + 12, 0xf0)]), DropReason::TcpHeaderInvalid),
        ("a UDP length below the header", short_udp, DropReason::UdpHeaderInvalid),
        ("a UDP length beyond the packet", long_udp, DropReason::UdpHeaderInvalid),
        ("an ICMP header that is cut off", short_icmp, DropReason::IcmpHeaderInvalid),
        (
            "a protocol that is not balanced",
            packet(net.client, net.vip, Body::Other(132)).payload(40).bytes(),
            DropReason::ProtocolNotBalanced,
        ),
    ];
    if net.is_v6() {
        let reason = DropReason::Ipv6HeaderInvalid;
        cases.extend([
            ("IP version 5", with(&[(14, 0x50)]), reason),
            ("a payload length beyond the packet", with(&[(18, 0x10)]), reason),
            ("no payload", with(&[(18, 0), (19, 0)]), DropReason::TcpHeaderInvalid),
        ]);
    } else {
        let reason = DropReason::Ipv4HeaderInvalid;
        cases.extend([
            ("IP version 5", with(&[(14, 0x55)]), reason),
            ("a header length below 5 words", with(&[(14, 0x44)]), reason),
            ("a header length of 0", with(&[(14, 0x40)]), reason),
            ("a total length beyond the packet", with(&[(16, 0x10)]), reason),
            ("a total length below the header", with(&[(17, 19)]), reason),
            ("a total length of 0", with(&[(16, 0), (17, 0)]), reason),
            ("a header longer than the packet", with(&[(14, 0x4f)]), reason),
        ]);
    }
    cases.into_iter().map(|(name, input, reason)| broken_case(name, net, input, reason)).collect()
}

/// Senders that there cannot be.
pub(super) fn senders(net: &Net) -> Vec<Case> {
    let impossible = at(SocketAddr::new(net.impossible, 0), 40_000);
    [
        ("a SYN from the VIP to itself", tcp(net.vip, net.vip, "S"), DropReason::Land),
        ("UDP from the VIP to itself", udp(net.vip, net.vip), DropReason::Land),
        ("a SYN from a group", tcp(impossible, net.vip, "S"), DropReason::SourceImpossible),
        ("UDP from a group", udp(impossible, net.vip), DropReason::SourceImpossible),
        ("a SYN from another VIP", tcp(net.second_vip, net.vip, "S"), DropReason::SourceIsVip),
        ("UDP from another VIP", udp(net.second_vip, net.vip), DropReason::SourceIsVip),
    ]
    .into_iter()
    .map(|(name, packet, reason)| {
        let front = dropped(packet.bytes(), reason);
        let xdp = Step { program: Program::XdpFront, ..front.clone() };
        case(name, net.world(), vec![front, xdp], vec![], vec![])
    })
    .chain([case(
        "echo from another VIP",
        net.world(),
        vec![dropped(echo(net.second_vip.ip(), net.vip.ip()).bytes(), DropReason::SourceIsVip)],
        vec![],
        vec![],
    )])
    .collect()
}

/// From an address of the node or of its containers, but by a front.
pub(super) fn from_ourselves(net: &Net) -> Vec<Case> {
    let local = vec![net.containers, net.own];
    let world = || World { local: local.clone(), ..net.world() };
    let recording = || World { local: local.clone(), ..net.recording() };
    let impossible = |packet: PacketSpec| dropped(packet.bytes(), DropReason::SourceImpossible);
    let port = |address| SocketAddr::new(address, 40_000);
    let (container, own) = (port(net.container), port(net.own.0));
    vec![
        case(
            "a SYN from outside with an address of the node or of a container",
            world(),
            vec![impossible(tcp(container, net.vip, "S")), impossible(tcp(own, net.vip, "S"))],
            vec![],
            vec![],
        ),
        case(
            "a datagram from outside with such an address",
            world(),
            vec![impossible(udp(container, net.vip)), impossible(udp(own, net.vip))],
            vec![],
            vec![],
        ),
        case(
            "a datagram from outside with such an address, where replies are recorded",
            recording(),
            vec![impossible(udp(container, net.vip)), impossible(udp(own, net.vip))],
            vec![],
            vec![],
        ),
        case(
            "XDP drops them as well",
            world(),
            [tcp(own, net.vip, "S"), udp(container, net.vip)]
                .map(|packet| Step { program: Program::XdpFront, ..impossible(packet) })
                .into(),
            vec![],
            vec![],
        ),
    ]
}

/// Told at once, or dropped if the service wants that.
pub(super) fn told(net: &Net) -> Vec<Case> {
    let no_frontend = tcp(net.client, at(net.vip, 81), "S").bytes();
    let silent = || World { frontend_flags: FRONTEND_DROPS, ..net.world() };
    let unreachable = |packet: PacketSpec, reason| {
        answered(net, packet.bytes(), AnswerKind::PortUnreachable, reason)
    };
    let xdp_leaves = |packet: Vec<u8>| passed(Program::XdpFront, packet);
    vec![
        case(
            "a port of a VIP without frontend: TCP is reset",
            net.world(),
            vec![
                answered(net, no_frontend.clone(), AnswerKind::Reset, DropReason::NoFrontend),
                xdp_leaves(no_frontend.clone()),
            ],
            vec![],
            vec![],
        ),
        case(
            "a port of a VIP without frontend: UDP is told",
            net.world(),
            vec![unreachable(udp(net.client, at(net.vip, 81)), DropReason::NoFrontend)],
            vec![],
            vec![],
        ),
        case(
            "no backend: UDP is told",
            World { ring: None, ..net.world() },
            vec![unreachable(udp(net.client, net.vip), DropReason::NoBackend)],
            vec![],
            vec![],
        ),
        case(
            "a service that drops instead: no frontend",
            silent(),
            vec![dropped(no_frontend, DropReason::NoFrontend)],
            vec![],
            vec![],
        ),
        case(
            "a service that drops instead: no backend",
            World { ring: None, ..silent() },
            vec![
                dropped(net.syn().bytes(), DropReason::NoBackend),
                dropped(udp(net.client, net.vip).bytes(), DropReason::NoBackend),
            ],
            vec![],
            vec![],
        ),
    ]
}

pub(super) fn refusals(net: &Net) -> Vec<Case> {
    let by_second = |class| net.reply_by(net.second_vip, net.one, INGRESS_IFINDEX, 1, class);
    let with_one = |state| World { backends: vec![(1, net.backend_one(state))], ..net.world() };
    let no_backend = |name, world| {
        let steps =
            vec![answered(net, net.syn().bytes(), AnswerKind::Reset, DropReason::NoBackend)];
        case(name, world, steps, vec![], vec![])
    };
    vec![
        no_backend("a service without a ring", World { ring: None, ..net.world() }),
        no_backend("a ring without backends", World { ring: Some(0), ..net.world() }),
        no_backend("a SYN for a draining backend", with_one(TAKES_OLD)),
        no_backend("a SYN for a gone backend", with_one(0)),
        case(
            "the TTL is used up",
            net.world(),
            vec![
                answered(
                    net,
                    net.syn().ttl(1).bytes(),
                    AnswerKind::TimeExceeded,
                    DropReason::TtlExceeded,
                ),
                answered(
                    net,
                    net.syn().ttl(0).bytes(),
                    AnswerKind::TimeExceeded,
                    DropReason::TtlExceeded,
                ),
            ],
            vec![],
            vec![],
        ),
        case(
            "one client port, two VIPs, one backend: the second connection is refused",
            World { replies: vec![by_second(CLASS_ESTABLISHED)], ..net.recording() },
            vec![answered(net, net.syn().bytes(), AnswerKind::Reset, DropReason::TupleCollision)],
            vec![],
            vec![by_second(CLASS_ESTABLISHED)],
        ),
        case(
            "one client port, two VIPs, one backend: a SYN that nobody answered makes room for another",
            World { replies: vec![by_second(CLASS_HALF_OPEN)], ..net.recording() },
            vec![delivered(&net.syn(), net.one)],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "one client port, two VIPs, one backend: an answered one does not",
            World { replies: vec![by_second(CLASS_ANSWERED)], ..net.recording() },
            vec![answered(net, net.syn().bytes(), AnswerKind::Reset, DropReason::TupleCollision)],
            vec![],
            vec![by_second(CLASS_ANSWERED)],
        ),
        case(
            "one client port, two VIPs, one backend: a closing connection makes room",
            World { replies: vec![by_second(CLASS_CLOSED)], ..net.recording() },
            vec![delivered(&net.syn(), net.one)],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
    ]
}
