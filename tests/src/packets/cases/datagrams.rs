//! UDP.

use lb_common::abi::{
    CLASS_DATAGRAM, CLASS_HALF_OPEN, META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, PROTOCOL_UDP,
    TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS, Verdict,
};

use super::{ALIVE, case, delivered, forwarded, passed};
use crate::packets::{
    Case, EGRESS_MACS, INGRESS_IFINDEX, KnownFlow, KnownReply, Net, PacketSpec, Program,
    ReplyDefaultSpec, SlotState, Step, World, udp,
};

impl Net {
    fn datagram(&self) -> PacketSpec {
        udp(self.client, self.vip)
    }

    fn datagram_flow(&self, backend: u32) -> KnownFlow {
        KnownFlow { protocol: PROTOCOL_UDP, ..self.flow(backend, CLASS_DATAGRAM) }
    }

    fn datagram_reply(&self, class: u32) -> KnownReply {
        KnownReply { protocol: PROTOCOL_UDP, ..self.reply(class) }
    }

    /// Slots that move from backend 2, which is in this state, to backend 1.
    fn moving_from(&self, state: u8, flows: Vec<KnownFlow>) -> World {
        World {
            slots: SlotState::Moving { old: 2, age_ticks: 10 },
            backends: vec![(1, self.backend_one(ALIVE)), (2, self.backend_two(state))],
            flows,
            ..self.world()
        }
    }
}

fn replied(net: &Net, input: &PacketSpec) -> Step {
    let output = input.clone().routed_from(net.vip);
    forwarded(Program::TcReply, Verdict::Reply, input, &output)
}

/// Datagrams of clients.
pub(super) fn inbound(net: &Net) -> Vec<Case> {
    let packet = net.datagram();
    let sent = |name, world, to, after| {
        case(name, world, vec![delivered(&net.datagram(), to)], after, vec![])
    };
    let one = || net.datagram_flow(1);
    let stale = KnownFlow { age_ticks: 50, ..one() };
    let settled = |flows| World { slots: SlotState::Settled, flows, ..net.world() };
    vec![
        sent("UDP: plain slots record nothing", net.world(), net.one, vec![]),
        case(
            "UDP: lengths odd and even, an empty datagram, a full one",
            net.world(),
            [0, 1, 2, 3, 1400, 1401]
                .map(|length| delivered(&packet.clone().payload(length), net.one))
                .to_vec(),
            vec![],
            vec![],
        ),
        case(
            "UDP: no checksum stays no checksum",
            net.world(),
            vec![delivered(&packet.clone().unsummed(), net.one)],
            vec![],
            vec![],
        ),
        sent(
            "UDP: an unrecorded flow is the old owner's, and recorded at once",
            net.moving_from(ALIVE, vec![]),
            net.two,
            vec![net.datagram_flow(2)],
        ),
        sent(
            "UDP: a record counts, and is renewed",
            net.moving_from(ALIVE, vec![KnownFlow { age_ticks: 20, ..one() }]),
            net.one,
            vec![one()],
        ),
        sent(
            "UDP: a record of 50 ticks does not count",
            net.moving_from(ALIVE, vec![stale]),
            net.two,
            vec![net.datagram_flow(2)],
        ),
        sent(
            "UDP: an unhealthy old owner keeps no datagrams",
            net.moving_from(TAKES_OLD, vec![]),
            net.one,
            vec![],
        ),
        sent(
            "UDP: a draining old owner keeps them",
            net.moving_from(TAKES_OLD | TAKES_OLD_DATAGRAMS, vec![]),
            net.two,
            vec![net.datagram_flow(2)],
        ),
        sent(
            "UDP: a record of an unhealthy backend is forgotten, and does not come back",
            net.moving_from(TAKES_OLD, vec![net.datagram_flow(2)]),
            net.one,
            vec![],
        ),
        sent("UDP: settled slots honour records", settled(vec![net.datagram_flow(2)]), net.two, {
            vec![net.datagram_flow(2)]
        }),
        sent("UDP: settled slots record nothing", settled(vec![]), net.one, vec![]),
        sent(
            "UDP: a record of TCP is of another flow",
            settled(vec![KnownFlow { protocol: 6, ..net.datagram_flow(2) }]),
            net.one,
            vec![KnownFlow { protocol: 6, ..net.datagram_flow(2) }],
        ),
    ]
}

/// Datagrams of backends.
pub(super) fn outbound(net: &Net) -> Vec<Case> {
    let answer = udp(net.one, net.client).payload(99);
    let known = |class, age_ticks| KnownReply { age_ticks, ..net.datagram_reply(class) };
    let with = |reply| World { replies: vec![reply], ..net.recording() };
    let default = ReplyDefaultSpec {
        ifindex: INGRESS_IFINDEX,
        address: net.one,
        protocol: PROTOCOL_UDP,
        vip: net.vip,
        flags: 0,
        backend: 1,
        front_ifindex: INGRESS_IFINDEX,
    };
    let by_default =
        World { flags: META_REPLY_DEFAULTS, reply_defaults: vec![default], ..net.world() };
    vec![
        case(
            "UDP: question, answer, question",
            net.recording(),
            vec![
                delivered(&net.datagram(), net.one),
                replied(net, &answer),
                delivered(&net.datagram(), net.one),
            ],
            vec![],
            vec![known(CLASS_DATAGRAM, 0)],
        ),
        case(
            "UDP: a question that nobody answers stays half open",
            net.recording(),
            vec![delivered(&net.datagram(), net.one), delivered(&net.datagram(), net.one)],
            vec![],
            vec![known(CLASS_HALF_OPEN, 0)],
        ),
        case(
            "UDP: answers keep their record alive",
            with(known(CLASS_DATAGRAM, 20)),
            vec![replied(net, &answer), replied(net, &answer.clone().unsummed())],
            vec![],
            vec![known(CLASS_DATAGRAM, 0)],
        ),
        case(
            "UDP: after 50 ticks the container talks for itself",
            with(known(CLASS_DATAGRAM, 50)),
            vec![passed(Program::TcReply, answer.bytes())],
            vec![],
            vec![],
        ),
        case("UDP: by default", by_default, vec![replied(net, &answer)], vec![], vec![]),
        case(
            "UDP: without record and default the container talks for itself",
            net.recording(),
            vec![passed(Program::TcReply, answer.bytes())],
            vec![],
            vec![],
        ),
    ]
}

/// Datagrams to and from backends on other machines.
pub(super) fn routed(net: &Net) -> Vec<Case> {
    let backends = vec![(3, net.backend_three(TAKES_NEW | TAKES_OLD_DATAGRAMS))];
    let world = || World {
        ring: Some(3),
        flags: META_ROUTED_BACKENDS,
        backends: backends.clone(),
        ..net.recording()
    };
    let record = KnownReply {
        protocol: PROTOCOL_UDP,
        ..net.reply_by(net.vip, net.three, 0, 3, CLASS_DATAGRAM)
    };
    let known = || World { replies: vec![record], ..world() };
    let packet = net.datagram();
    let unsummed = packet.clone().unsummed();
    let answer = udp(net.three, net.client).payload(33);
    let hop = |packet: PacketSpec| packet.macs(EGRESS_MACS);
    let there = |packet: &PacketSpec| packet.clone().routed_to(net.three);
    let back = |packet: &PacketSpec| packet.clone().routed_from(net.vip);
    let (tc, xdp) = (Program::TcFront, Program::XdpFront);
    vec![
        case(
            "UDP: to a backend on another machine",
            world(),
            vec![
                forwarded(tc, Verdict::Route, &packet, &there(&packet)),
                forwarded(xdp, Verdict::Route, &packet, &hop(there(&packet))),
                forwarded(tc, Verdict::Route, &unsummed, &there(&unsummed)),
                forwarded(xdp, Verdict::Route, &unsummed, &hop(there(&unsummed))),
            ],
            vec![],
            vec![],
        ),
        case(
            "UDP: from a backend on another machine",
            known(),
            vec![
                forwarded(tc, Verdict::Reply, &answer, &back(&answer)),
                forwarded(xdp, Verdict::Reply, &answer, &hop(back(&answer))),
            ],
            vec![],
            vec![record],
        ),
    ]
}
