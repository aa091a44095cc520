//! Packets of clients that are forwarded.

use lb_common::{
    abi::{
        CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
        CLASS_HALF_OPEN, CLASS_RESET, DropReason, ESTABLISHED_SECONDS, TAKES_OLD,
        ticks_from_seconds,
    },
    engine::answer::AnswerKind,
};

use super::{ALIVE, answered, case, delivered};
use crate::packets::{Case, KnownFlow, Net, PacketSpec, SlotState, World, tcp};

impl Net {
    fn ack(&self) -> PacketSpec {
        tcp(self.client, self.vip, ".")
    }

    /// Slots that move from backend 2 to backend 1, so long ago.
    fn moving_from_two(&self, age_ticks: u32) -> World {
        World { slots: SlotState::Moving { old: 2, age_ticks }, ..self.world() }
    }

    fn with_flow(&self, flow: KnownFlow) -> World {
        World { flows: vec![flow], ..self.moving_from_two(1000) }
    }
}

pub(super) fn plain(net: &Net) -> Vec<Case> {
    let plain = |name, world, packet: PacketSpec, to| {
        case(name, world, vec![delivered(&packet, to)], vec![], vec![])
    };
    let mut cases = vec![
        plain("a first SYN leaves no record", net.world(), net.syn(), net.one),
        plain("data leaves no record", net.world(), net.ack().payload(1400), net.one),
        plain("a FIN leaves no record", net.world(), tcp(net.client, net.vip, "F."), net.one),
        plain("TTL 2 is enough for one hop", net.world(), net.syn().ttl(2), net.one),
        plain(
            "the same port on both sides needs no port change",
            World { ring: Some(2), ..net.world() },
            net.syn(),
            net.two,
        ),
        plain(
            "a draining backend keeps what falls on its slots in mid-stream",
            World { backends: vec![(1, net.backend_one(TAKES_OLD))], ..net.world() },
            net.ack(),
            net.one,
        ),
        case(
            "a plain slot does not look for records",
            World { flows: vec![net.flow(2, CLASS_ESTABLISHED)], ..net.world() },
            vec![delivered(&net.ack(), net.one)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ];
    for (name, length) in [
        ("IPv4 options of one word", 4),
        ("IPv4 options of five words", 20),
        ("as many IPv4 options as fit", 40),
    ] {
        // No-operation options.
        cases.push(plain(name, net.world(), net.syn().options(&vec![1; length]), net.one));
    }
    cases
}

/// Slots that are moving, and flows that have no record.
pub(super) fn moving(net: &Net) -> Vec<Case> {
    let two_is = |state| World {
        backends: vec![(1, net.backend_one(ALIVE)), (2, net.backend_two(state))],
        ..net.moving_from_two(1000)
    };
    let unrecorded = |name, flags| {
        let steps = vec![delivered(&tcp(net.client, net.vip, flags), net.two)];
        case(name, net.moving_from_two(1000), steps, vec![], vec![])
    };
    vec![
        case(
            "moving: a first SYN goes to the new owner and is recorded half open",
            net.moving_from_two(0),
            vec![delivered(&net.syn(), net.one)],
            vec![net.flow(1, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "moving: SYN, ACK and data of one connection go to one backend",
            net.moving_from_two(0),
            vec![
                delivered(&net.syn(), net.one),
                delivered(&net.ack(), net.one),
                delivered(&tcp(net.client, net.vip, "P.").payload(1400), net.one),
            ],
            vec![net.flow(1, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: an unrecorded flow is the old owner's, and recorded now",
            net.moving_from_two(1000),
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: in the first minute flows of the old owner are not recorded",
            net.moving_from_two(10),
            vec![delivered(&net.ack(), net.two)],
            vec![],
            vec![],
        ),
        unrecorded("moving: a FIN goes to the old owner, unrecorded", "F."),
        unrecorded("moving: a RST goes to the old owner, unrecorded", "R"),
        unrecorded("moving: a SYN+ACK goes to the old owner, unrecorded", "S."),
        unrecorded("moving: a packet without flags goes to the old owner, unrecorded", ""),
        case(
            "moving: a draining old owner keeps its flows",
            two_is(TAKES_OLD),
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: what a gone owner leaves goes to the new one, unrecorded",
            two_is(0),
            vec![delivered(&net.ack(), net.one)],
            vec![],
            vec![],
        ),
        case(
            "moving from nobody: new flows are recorded, others are not",
            World { slots: SlotState::Moving { old: 0, age_ticks: 1000 }, ..net.world() },
            vec![delivered(&net.ack(), net.one), delivered(&net.syn(), net.one)],
            vec![net.flow(1, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "moving to nobody: the old owner keeps its flows and gets no new ones",
            World { ring: Some(0), ..net.moving_from_two(1000) },
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving to nobody: a SYN is refused",
            World { ring: Some(0), ..net.moving_from_two(1000) },
            vec![answered(net, net.syn().bytes(), AnswerKind::Reset, DropReason::NoBackend)],
            vec![],
            vec![],
        ),
    ]
}

pub(super) fn known_flows(net: &Net) -> Vec<Case> {
    let on_two = |class| net.with_flow(net.flow(2, class));
    let on_one = |class| net.with_flow(net.flow(1, class));
    let draining_two = |class| World {
        backends: vec![(1, net.backend_one(ALIVE)), (2, net.backend_two(TAKES_OLD))],
        ..on_two(class)
    };
    let checked = |name, world, packet: PacketSpec, to, after| {
        case(name, world, vec![delivered(&packet, to)], vec![after], vec![])
    };
    vec![
        checked(
            "a recorded flow keeps its backend although the slot's default is another",
            on_one(CLASS_ESTABLISHED),
            net.ack(),
            net.one,
            net.flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "the ACK of the handshake establishes the record",
            on_one(CLASS_HALF_OPEN),
            net.ack(),
            net.one,
            net.flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "a record that was not seen for a while is renewed",
            net.with_flow(KnownFlow { age_ticks: 500, ..net.flow(1, CLASS_ESTABLISHED) }),
            net.ack(),
            net.one,
            net.flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "a retransmitted SYN goes where the first one went",
            on_two(CLASS_HALF_OPEN),
            net.syn(),
            net.two,
            net.flow(2, CLASS_HALF_OPEN),
        ),
        checked(
            "a draining backend keeps its recorded flows",
            draining_two(CLASS_ESTABLISHED),
            net.ack(),
            net.two,
            net.flow(2, CLASS_ESTABLISHED),
        ),
        checked(
            "a SYN on a draining backend's record decides anew",
            draining_two(CLASS_ESTABLISHED),
            net.syn(),
            net.one,
            net.flow(1, CLASS_HALF_OPEN),
        ),
        checked(
            "a SYN on a closing record decides anew",
            on_two(CLASS_CLOSING_BY_BACKEND),
            net.syn(),
            net.one,
            net.flow(1, CLASS_HALF_OPEN),
        ),
        checked(
            "RST of the client is noted",
            on_one(CLASS_ESTABLISHED),
            tcp(net.client, net.vip, "R"),
            net.one,
            net.flow(1, CLASS_RESET),
        ),
        checked(
            "data after a RST: that was somebody else's",
            on_one(CLASS_RESET),
            net.ack(),
            net.one,
            net.flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "a SYN after a RST decides anew",
            on_two(CLASS_RESET),
            net.syn(),
            net.one,
            net.flow(1, CLASS_HALF_OPEN),
        ),
        checked(
            "FIN of the client after that of the backend closes the record",
            on_one(CLASS_CLOSING_BY_BACKEND),
            tcp(net.client, net.vip, "F."),
            net.one,
            net.flow(1, CLASS_CLOSED),
        ),
        case(
            "FIN makes a record closing, and data afterwards does not open it again",
            on_one(CLASS_ESTABLISHED),
            vec![
                delivered(&tcp(net.client, net.vip, "F."), net.one),
                delivered(&net.ack(), net.one),
            ],
            vec![net.flow(1, CLASS_CLOSING_BY_CLIENT)],
            vec![],
        ),
    ]
}

/// Records that are not alive: the slot decides.
pub(super) fn dead_records(net: &Net) -> Vec<Case> {
    let old_owner = |name, record| {
        let steps = vec![delivered(&net.ack(), net.two)];
        case(name, net.with_flow(record), steps, vec![net.flow(2, CLASS_ESTABLISHED)], vec![])
    };
    vec![
        old_owner(
            "a record of an earlier generation does not count",
            KnownFlow { generation: 4, ..net.flow(1, CLASS_ESTABLISHED) },
        ),
        old_owner(
            "a half-open record of 90 ticks does not count",
            KnownFlow { age_ticks: 90, ..net.flow(1, CLASS_HALF_OPEN) },
        ),
        old_owner(
            "a closing record of 150 ticks does not count",
            KnownFlow { age_ticks: 150, ..net.flow(1, CLASS_CLOSING_BY_BACKEND) },
        ),
        old_owner(
            "an established record of 8000 ticks does not count",
            KnownFlow { age_ticks: 8000, ..net.flow(1, CLASS_ESTABLISHED) },
        ),
        case(
            "a record of a gone backend does not count",
            World {
                backends: vec![(1, net.backend_one(0)), (2, net.backend_two(ALIVE))],
                ..net.with_flow(net.flow(1, CLASS_ESTABLISHED))
            },
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ]
}

/// `tcp_keepalive_time`, what the timer wheel rounds it up by at 1,000 Hz, and nine probes 75 s apart.
const KEEPALIVE_SECONDS: u32 = 7200 + 262 + 9 * 75;

pub(super) fn settled(net: &Net) -> Vec<Case> {
    let settled = |flows| World { slots: SlotState::Settled, flows, ..net.world() };
    let aged = |age_ticks| KnownFlow { age_ticks, ..net.flow(2, CLASS_ESTABLISHED) };
    // Ages are compared by tens.
    let too_old = aged(ticks_from_seconds(ESTABLISHED_SECONDS).next_multiple_of(10) + 10);
    vec![
        case(
            "settled: nothing is recorded",
            settled(vec![]),
            vec![delivered(&net.syn(), net.one), delivered(&net.ack(), net.one)],
            vec![],
            vec![],
        ),
        case(
            "settled: records are honoured",
            settled(vec![net.flow(2, CLASS_ESTABLISHED)]),
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "settled: a keep-alive after two hours, the slack of its timer and nine lost probes",
            settled(vec![aged(ticks_from_seconds(KEEPALIVE_SECONDS))]),
            vec![delivered(&net.ack(), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "settled: a record that is older than that is none",
            settled(vec![too_old]),
            vec![delivered(&net.ack(), net.one)],
            vec![too_old],
            vec![],
        ),
        case(
            "settled: a SYN that decides anew ends the record",
            settled(vec![net.flow(2, CLASS_CLOSED)]),
            vec![delivered(&net.syn(), net.one), delivered(&net.ack(), net.one)],
            vec![],
            vec![],
        ),
    ]
}

/// No room for another established record.
pub(super) fn full_tables(net: &Net) -> Vec<Case> {
    let other = KnownFlow { vip: net.second_vip, ..net.flow(1, CLASS_ESTABLISHED) };
    let full = |flows: &[KnownFlow]| World {
        flows: [&[other], flows].concat(),
        records_max: 1,
        ..net.moving_from_two(1000)
    };
    vec![
        case(
            "full: a flow of the old owner stays its, unrecorded",
            full(&[]),
            vec![delivered(&net.ack(), net.two), delivered(&net.ack(), net.two)],
            vec![other],
            vec![],
        ),
        case(
            "full: a handshake that finds no room stays among the half open",
            full(&[net.flow(1, CLASS_HALF_OPEN)]),
            vec![delivered(&net.ack(), net.one), delivered(&net.ack(), net.one)],
            vec![other, KnownFlow { is_half: true, ..net.flow(1, CLASS_ESTABLISHED) }],
            vec![],
        ),
        case(
            "full: new flows go to the old owner, where they need no record",
            full(&[]),
            vec![delivered(&net.ack(), net.two), delivered(&net.syn(), net.two)],
            vec![other],
            vec![],
        ),
    ]
}

/// No room but what is for handshakes.
pub(super) fn reserve(net: &Net) -> Vec<Case> {
    let crowded = |flow_room, flows| World { flows, flow_room, ..net.moving_from_two(1000) };
    let other = std::net::SocketAddr::new(net.client.ip(), net.client.port() + 1);
    let none = || crowded(0, vec![]);
    vec![
        case(
            "reserve: a flow of the old owner stays its, unrecorded",
            none(),
            vec![delivered(&net.ack(), net.two), delivered(&net.ack(), net.two)],
            vec![],
            vec![],
        ),
        case(
            "reserve: what is recorded is honoured",
            crowded(0, vec![net.flow(1, CLASS_ESTABLISHED)]),
            vec![delivered(&net.ack(), net.one)],
            vec![net.flow(1, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "reserve: a handshake takes of it, also after a flow that was refused",
            none(),
            vec![
                delivered(&tcp(other, net.vip, "P."), net.two),
                delivered(&net.syn(), net.one),
                delivered(&net.ack(), net.one),
            ],
            vec![net.flow(1, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "reserve: handshakes count for what is left",
            crowded(1, vec![net.flow(1, CLASS_HALF_OPEN)]),
            vec![delivered(&net.ack(), net.one), delivered(&tcp(other, net.vip, "P."), net.two)],
            vec![net.flow(1, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "reserve: flows of the old owner are recorded up to it",
            crowded(1, vec![]),
            vec![delivered(&net.ack(), net.two), delivered(&tcp(other, net.vip, "P."), net.two)],
            vec![net.flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ]
}
