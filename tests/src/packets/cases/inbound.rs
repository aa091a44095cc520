//! Packets of clients that are forwarded.

use lb_common::abi::{
    CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
    CLASS_HALF_OPEN, DropReason, TAKES_OLD,
};

use super::{ALIVE, SECOND_VIP, case, delivered, dropped, flow, flow_key};
use crate::packets::{
    Case, KnownFlow, SlotState, World, backend_one, backend_two,
    builder::{BACKEND_ONE, BACKEND_TWO, CLIENT, PacketSpec, VIP, syn, tcp},
};

fn ack() -> PacketSpec {
    tcp(CLIENT, VIP, ".")
}

/// Slots that move from backend 2 to backend 1, so long ago.
fn from_two(age_ticks: u32) -> World {
    World { slots: SlotState::Moving { old: 2, age_ticks }, ..World::default() }
}

fn with_flow(flow: KnownFlow) -> World {
    World { flows: vec![flow], ..from_two(1000) }
}

pub(super) fn plain() -> Vec<Case> {
    let plain = |name, world, packet: PacketSpec, to| {
        case(name, world, vec![delivered(&packet, to)], vec![], vec![])
    };
    let mut cases = vec![
        plain("a first SYN leaves no record", World::default(), syn(), BACKEND_ONE),
        plain("data leaves no record", World::default(), ack().payload(1400), BACKEND_ONE),
        plain("a FIN leaves no record", World::default(), tcp(CLIENT, VIP, "F."), BACKEND_ONE),
        plain("TTL 2 is enough for one hop", World::default(), syn().ttl(2), BACKEND_ONE),
        plain(
            "the same port on both sides needs no port change",
            World { ring: Some(2), ..World::default() },
            syn(),
            BACKEND_TWO,
        ),
        plain(
            "a draining backend keeps what falls on its slots in mid-stream",
            World { backends: vec![(1, backend_one(TAKES_OLD))], ..World::default() },
            ack(),
            BACKEND_ONE,
        ),
        case(
            "a plain slot does not look for records",
            World { flows: vec![flow(2, CLASS_ESTABLISHED)], ..World::default() },
            vec![delivered(&ack(), BACKEND_ONE)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ];
    for (name, length) in [
        ("IPv4 options of one word", 4),
        ("IPv4 options of five words", 20),
        ("as many IPv4 options as fit", 40),
    ] {
        // No-operation options.
        cases.push(plain(name, World::default(), syn().options(&vec![1; length]), BACKEND_ONE));
    }
    cases
}

/// Slots that are moving, and flows that have no record.
pub(super) fn moving() -> Vec<Case> {
    let two_is = |state| World {
        backends: vec![(1, backend_one(ALIVE)), (2, backend_two(state))],
        ..from_two(1000)
    };
    let unrecorded = |name, flags| {
        let steps = vec![delivered(&tcp(CLIENT, VIP, flags), BACKEND_TWO)];
        case(name, from_two(1000), steps, vec![], vec![])
    };
    vec![
        case(
            "moving: a first SYN goes to the new owner and is recorded half open",
            from_two(0),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "moving: SYN, ACK and data of one connection go to one backend",
            from_two(0),
            vec![
                delivered(&syn(), BACKEND_ONE),
                delivered(&ack(), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "P.").payload(1400), BACKEND_ONE),
            ],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: an unrecorded flow is the old owner's, and recorded now",
            from_two(1000),
            vec![delivered(&ack(), BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: in the first minute flows of the old owner are not recorded",
            from_two(10),
            vec![delivered(&ack(), BACKEND_TWO)],
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
            vec![delivered(&ack(), BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving: what a gone owner leaves goes to the new one, unrecorded",
            two_is(0),
            vec![delivered(&ack(), BACKEND_ONE)],
            vec![],
            vec![],
        ),
        case(
            "moving from nobody: new flows are recorded, others are not",
            World { slots: SlotState::Moving { old: 0, age_ticks: 1000 }, ..World::default() },
            vec![delivered(&ack(), BACKEND_ONE), delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "moving to nobody: the old owner keeps its flows and gets no new ones",
            World { ring: Some(0), ..from_two(1000) },
            vec![delivered(&ack(), BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "moving to nobody: a SYN is refused",
            World { ring: Some(0), ..from_two(1000) },
            vec![dropped(syn().bytes(), DropReason::NoBackend)],
            vec![],
            vec![],
        ),
    ]
}

pub(super) fn known_flows() -> Vec<Case> {
    let on_two = |class| with_flow(flow(2, class));
    let on_one = |class| with_flow(flow(1, class));
    let draining_two = |class| World {
        backends: vec![(1, backend_one(ALIVE)), (2, backend_two(TAKES_OLD))],
        ..on_two(class)
    };
    let checked = |name, world, packet: PacketSpec, to, after| {
        case(name, world, vec![delivered(&packet, to)], vec![after], vec![])
    };
    vec![
        checked(
            "a recorded flow keeps its backend although the slot's default is another",
            on_one(CLASS_ESTABLISHED),
            ack(),
            BACKEND_ONE,
            flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "the ACK of the handshake establishes the record",
            on_one(CLASS_HALF_OPEN),
            ack(),
            BACKEND_ONE,
            flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "a record that was not seen for a while is renewed",
            with_flow(KnownFlow { age_ticks: 500, ..flow(1, CLASS_ESTABLISHED) }),
            ack(),
            BACKEND_ONE,
            flow(1, CLASS_ESTABLISHED),
        ),
        checked(
            "a retransmitted SYN goes where the first one went",
            on_two(CLASS_HALF_OPEN),
            syn(),
            BACKEND_TWO,
            flow(2, CLASS_HALF_OPEN),
        ),
        checked(
            "a draining backend keeps its recorded flows",
            draining_two(CLASS_ESTABLISHED),
            ack(),
            BACKEND_TWO,
            flow(2, CLASS_ESTABLISHED),
        ),
        checked(
            "a SYN on a draining backend's record decides anew",
            draining_two(CLASS_ESTABLISHED),
            syn(),
            BACKEND_ONE,
            flow(1, CLASS_HALF_OPEN),
        ),
        checked(
            "a SYN on a closing record decides anew",
            on_two(CLASS_CLOSING_BY_BACKEND),
            syn(),
            BACKEND_ONE,
            flow(1, CLASS_HALF_OPEN),
        ),
        checked(
            "RST closes a record",
            on_one(CLASS_ESTABLISHED),
            tcp(CLIENT, VIP, "R"),
            BACKEND_ONE,
            flow(1, CLASS_CLOSED),
        ),
        checked(
            "FIN of the client after that of the backend closes the record",
            on_one(CLASS_CLOSING_BY_BACKEND),
            tcp(CLIENT, VIP, "F."),
            BACKEND_ONE,
            flow(1, CLASS_CLOSED),
        ),
        case(
            "FIN makes a record closing, and data afterwards does not open it again",
            on_one(CLASS_ESTABLISHED),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_ONE), delivered(&ack(), BACKEND_ONE)],
            vec![flow(1, CLASS_CLOSING_BY_CLIENT)],
            vec![],
        ),
    ]
}

/// Records that are not alive: the slot decides.
pub(super) fn dead_records() -> Vec<Case> {
    let old_owner = |name, record| {
        let steps = vec![delivered(&ack(), BACKEND_TWO)];
        case(name, with_flow(record), steps, vec![flow(2, CLASS_ESTABLISHED)], vec![])
    };
    vec![
        old_owner(
            "a record of an earlier generation does not count",
            KnownFlow { generation: 4, ..flow(1, CLASS_ESTABLISHED) },
        ),
        old_owner(
            "a half-open record of 90 ticks does not count",
            KnownFlow { age_ticks: 90, ..flow(1, CLASS_HALF_OPEN) },
        ),
        old_owner(
            "a closing record of 150 ticks does not count",
            KnownFlow { age_ticks: 150, ..flow(1, CLASS_CLOSING_BY_BACKEND) },
        ),
        old_owner(
            "an established record of 8000 ticks does not count",
            KnownFlow { age_ticks: 8000, ..flow(1, CLASS_ESTABLISHED) },
        ),
        case(
            "a record of a gone backend does not count",
            World {
                backends: vec![(1, backend_one(0)), (2, backend_two(ALIVE))],
                ..with_flow(flow(1, CLASS_ESTABLISHED))
            },
            vec![delivered(&ack(), BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
    ]
}

pub(super) fn settled() -> Vec<Case> {
    let settled = |flows| World { slots: SlotState::Settled, flows, ..World::default() };
    vec![
        case(
            "settled: nothing is recorded",
            settled(vec![]),
            vec![delivered(&syn(), BACKEND_ONE), delivered(&ack(), BACKEND_ONE)],
            vec![],
            vec![],
        ),
        case(
            "settled: records are honoured",
            settled(vec![flow(2, CLASS_ESTABLISHED)]),
            vec![delivered(&ack(), BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "settled: a SYN that decides anew ends the record",
            settled(vec![flow(2, CLASS_CLOSED)]),
            vec![delivered(&syn(), BACKEND_ONE), delivered(&ack(), BACKEND_ONE)],
            vec![],
            vec![],
        ),
    ]
}

/// No room for another established record.
pub(super) fn full_tables() -> Vec<Case> {
    let other = KnownFlow { key: flow_key(CLIENT, SECOND_VIP), ..flow(1, CLASS_ESTABLISHED) };
    let full = |flows: &[KnownFlow]| World {
        flows: [&[other], flows].concat(),
        records_max: 1,
        ..from_two(1000)
    };
    vec![
        case(
            "full: a flow of the old owner stays its, unrecorded",
            full(&[]),
            vec![delivered(&ack(), BACKEND_TWO), delivered(&ack(), BACKEND_TWO)],
            vec![other],
            vec![],
        ),
        case(
            "full: a handshake that finds no room stays among the half open",
            full(&[flow(1, CLASS_HALF_OPEN)]),
            vec![delivered(&ack(), BACKEND_ONE), delivered(&ack(), BACKEND_ONE)],
            vec![other, KnownFlow { is_half: true, ..flow(1, CLASS_ESTABLISHED) }],
            vec![],
        ),
        case(
            "full: new flows go to the old owner, where they need no record",
            full(&[]),
            vec![delivered(&ack(), BACKEND_TWO), delivered(&syn(), BACKEND_TWO)],
            vec![other],
            vec![],
        ),
    ]
}
