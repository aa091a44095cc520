//! Packets of clients that are forwarded.

use lb_common::abi::{
    CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
    CLASS_HALF_OPEN, TAKES_OLD,
};

use super::{ALIVE, case, delivered, flow, reply_key, reply_of_one};
use crate::packets::{
    Case, INGRESS_IFINDEX, KnownFlow, World, backend_one, backend_two,
    builder::{BACKEND_ONE, BACKEND_TWO, CLIENT, VIP, syn, tcp},
};

pub(super) fn new_flows() -> Vec<Case> {
    let half_open = vec![flow(1, CLASS_HALF_OPEN)];
    let established = vec![flow(1, CLASS_ESTABLISHED)];
    let mut cases = vec![
        case(
            "a first SYN goes to the ring's backend and is recorded half open",
            World::default(),
            vec![delivered(&syn(), BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ),
        case(
            "the same port on both sides needs no port change",
            World { ring: Some(2), ..World::default() },
            vec![delivered(&syn(), BACKEND_TWO)],
            vec![flow(2, CLASS_HALF_OPEN)],
            vec![reply_key(BACKEND_TWO, INGRESS_IFINDEX)],
        ),
        case(
            "SYN, ACK and data of one connection go to one backend",
            World::default(),
            vec![
                delivered(&syn(), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "."), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "P.").payload(1), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "P.").payload(1400), BACKEND_ONE),
            ],
            established.clone(),
            vec![reply_of_one()],
        ),
        case(
            "a FIN of an unknown flow is forwarded and recorded as closing",
            World::default(),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_ONE)],
            vec![flow(1, CLASS_CLOSING_BY_CLIENT)],
            vec![reply_of_one()],
        ),
        case(
            "an unknown flow in mid-stream is adopted as established",
            World::default(),
            vec![delivered(&tcp(CLIENT, VIP, "P.").payload(33), BACKEND_ONE)],
            established.clone(),
            vec![reply_of_one()],
        ),
        case(
            "a draining backend keeps what falls on its slots in mid-stream",
            World { backends: vec![(1, backend_one(TAKES_OLD))], ..World::default() },
            vec![delivered(&tcp(CLIENT, VIP, "."), BACKEND_ONE)],
            established,
            vec![reply_of_one()],
        ),
        case(
            "TTL 2 is enough for one hop",
            World::default(),
            vec![delivered(&syn().ttl(2), BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ),
    ];
    for (name, length) in [
        ("IPv4 options of one word", 4),
        ("IPv4 options of five words", 20),
        ("as many IPv4 options as fit", 40),
    ] {
        // No-operation options.
        let packet = syn().options(&vec![1; length]);
        cases.push(case(
            name,
            World::default(),
            vec![delivered(&packet, BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ));
    }
    cases
}

pub(super) fn known_flows() -> Vec<Case> {
    let on_two = |class| World { flows: vec![flow(2, class)], ..World::default() };
    let two = reply_key(BACKEND_TWO, INGRESS_IFINDEX);
    let draining_two = |class| World {
        backends: vec![(1, backend_one(ALIVE)), (2, backend_two(TAKES_OLD))],
        ..on_two(class)
    };
    let ack = tcp(CLIENT, VIP, ".");
    vec![
        case(
            "a recorded flow keeps its backend although the ring has another",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "the ACK of the handshake establishes the record",
            on_two(CLASS_HALF_OPEN),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![two],
        ),
        case(
            "a record that was not seen for a while is renewed",
            World {
                flows: vec![KnownFlow { age_ticks: 500, ..flow(2, CLASS_ESTABLISHED) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![two],
        ),
        case(
            "a retransmitted SYN goes where the first one went",
            on_two(CLASS_HALF_OPEN),
            vec![delivered(&syn(), BACKEND_TWO)],
            vec![flow(2, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "a draining backend keeps its recorded flows",
            draining_two(CLASS_ESTABLISHED),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "a SYN on a draining backend's record decides anew",
            draining_two(CLASS_ESTABLISHED),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![reply_of_one()],
        ),
        case(
            "a SYN on a closing record decides anew",
            on_two(CLASS_CLOSING_BY_BACKEND),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![reply_of_one()],
        ),
        case(
            "FIN makes a record closing, and data afterwards does not open it again",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_TWO), delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_CLOSING_BY_CLIENT)],
            vec![two],
        ),
        case(
            "FIN of the client after that of the backend closes the record",
            on_two(CLASS_CLOSING_BY_BACKEND),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_TWO)],
            vec![flow(2, CLASS_CLOSED)],
            vec![two],
        ),
        case(
            "RST closes a record",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&tcp(CLIENT, VIP, "R"), BACKEND_TWO)],
            vec![flow(2, CLASS_CLOSED)],
            vec![two],
        ),
    ]
}

/// Records that are not alive: the ring decides.
pub(super) fn dead_records() -> Vec<Case> {
    let ack = tcp(CLIENT, VIP, ".");
    vec![
        case(
            "a record of an earlier generation does not count",
            World {
                flows: vec![KnownFlow { generation: 4, ..flow(2, CLASS_ESTABLISHED) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
        case(
            "a record of a gone backend does not count",
            World {
                backends: vec![(1, backend_one(ALIVE)), (2, backend_two(0))],
                flows: vec![flow(2, CLASS_ESTABLISHED)],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
        case(
            "a record older than its class allows does not count",
            World {
                flows: vec![KnownFlow { age_ticks: 90, ..flow(2, CLASS_HALF_OPEN) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
    ]
}
