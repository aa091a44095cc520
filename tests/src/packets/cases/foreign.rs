//! Flows of a served port that are not ours, where replies have a default: connections that the
//! container dials from it, and clients that come without us to a port that had a default before.

use std::net::SocketAddr;

use lb_common::abi::{
    CLASS_CLOSING_BY_BACKEND, CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, META_REPLY_DEFAULTS,
    PROTOCOL_UDP, REPLY_DEFAULT_AMBIGUOUS, REPLY_DEFAULT_FOREIGN, REPLY_DEFAULT_OTHER_WAYS,
};

use lb_common::engine::answer::AnswerKind;

use super::{
    answered, case, delivered,
    outbound::{pass, replied, with_default},
};
use crate::packets::{
    Case, INGRESS_IFINDEX, KnownReply, Net, ReplyDefaultSpec, World, at, icmp_error, tcp, udp,
};

/// Flags of a default where clients come without us.
const OPENED: u16 = REPLY_DEFAULT_AMBIGUOUS | REPLY_DEFAULT_OTHER_WAYS;

impl Net {
    /// A record of a flow of backend 1 with the client that is not ours.
    pub(super) fn foreign(&self, class: u32) -> KnownReply {
        KnownReply {
            vip: self.nobody(),
            backend: 0,
            generation: 0,
            front_ifindex: 0,
            ..self.reply(class)
        }
    }
}

fn marked(net: &Net, flags: u16, reply: KnownReply) -> World {
    World {
        replies: vec![reply],
        ..with_default(net, INGRESS_IFINDEX, flags | REPLY_DEFAULT_FOREIGN)
    }
}

/// What a container dials from the port that it serves.
pub(super) fn own(net: &Net) -> Vec<Case> {
    let simple = || with_default(net, INGRESS_IFINDEX, 0);
    let said = |flags| tcp(net.one, net.client, flags);
    let known = |class| marked(net, 0, net.foreign(class));
    vec![
        case(
            "own connection from a served port: all of it stays as it is",
            simple(),
            vec![pass(&said("S")), pass(&said(".")), pass(&said("P.").payload(99))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
        case(
            "own connection: a SYN that nobody answers stays half open",
            simple(),
            vec![pass(&said("S")), pass(&said("S"))],
            vec![],
            vec![net.foreign(CLASS_HALF_OPEN)],
        ),
        case(
            "own connection: a FIN leaves it closing",
            known(CLASS_ESTABLISHED),
            vec![pass(&said("F.")), pass(&said("."))],
            vec![],
            vec![net.foreign(CLASS_CLOSING_BY_BACKEND)],
        ),
        case(
            "own connection: a RST ends it, and what follows is a reply again",
            known(CLASS_ESTABLISHED),
            vec![pass(&said("R.")), replied(net, &said("."))],
            vec![],
            vec![],
        ),
        case(
            "own connection: another client's replies come from the VIP meanwhile",
            known(CLASS_ESTABLISHED),
            vec![replied(net, &tcp(net.one, at(net.client, 40_001), "."))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
    ]
}

/// And what becomes of it where there is no room, and what needs no record.
pub(super) fn own_and_others(net: &Net) -> Vec<Case> {
    let simple = || with_default(net, INGRESS_IFINDEX, 0);
    let said = |flags| tcp(net.one, net.client, flags);
    let known = |class| marked(net, 0, net.foreign(class));
    let stateless = |name, world, step| case(name, world, vec![step], vec![], vec![]);
    vec![
        case(
            "own connection: no room leaves it among the half open",
            World {
                replies: vec![
                    net.reply_by(net.vip, net.three, 0, 3, CLASS_ESTABLISHED),
                    net.foreign(CLASS_HALF_OPEN),
                ],
                records_max: 1,
                ..known(CLASS_HALF_OPEN)
            },
            vec![pass(&said(".")), pass(&said("P.").payload(9))],
            vec![],
            vec![
                net.reply_by(net.vip, net.three, 0, 3, CLASS_ESTABLISHED),
                KnownReply { is_half: true, ..net.foreign(CLASS_ESTABLISHED) },
            ],
        ),
        stateless(
            "own connection: who answers a SYN of the same client later speaks for the VIP",
            known(CLASS_ESTABLISHED),
            replied(net, &said("S.")),
        ),
        stateless(
            "own connection to a neighbour needs no record",
            simple(),
            pass(&tcp(net.one, SocketAddr::new(net.container, 5000), "S")),
        ),
        stateless(
            "own connection from a port without default needs no record",
            simple(),
            pass(&tcp(at(net.one, 81), net.client, "S")),
        ),
        case(
            "own connection: an ICMP error about it stays as it is",
            known(CLASS_ESTABLISHED),
            vec![pass(&icmp_error(
                net.one.ip(),
                net.client.ip(),
                &tcp(net.client, net.one, "."),
                100,
            ))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
    ]
}

/// Clients that come without us to a port whose replies had a default before they could.
pub(super) fn other_ways(net: &Net) -> Vec<Case> {
    let said = |flags| tcp(net.one, net.client, flags);
    let opened = || with_default(net, INGRESS_IFINDEX, OPENED);
    let recording = || World { backends: net.recording().backends, ..opened() };
    let ack = tcp(net.client, net.vip, ".");
    vec![
        case(
            "opened later: a connection without us stays as it is",
            opened(),
            vec![pass(&said("S.")), pass(&said(".")), pass(&said("P.").payload(99))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
        case(
            "opened later: the flows from before still go by the default",
            opened(),
            vec![replied(net, &said("P.").payload(10)), replied(net, &said("F."))],
            vec![],
            vec![],
        ),
        case(
            "opened later: a connection through us is recorded, and comes from the VIP",
            recording(),
            vec![
                delivered(&net.syn(), net.one),
                replied(net, &said("S.")),
                delivered(&ack, net.one),
                replied(net, &said("P.").payload(10)),
            ],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
    ]
}

/// The same client and port by both ways, and datagrams.
pub(super) fn both_ways(net: &Net) -> Vec<Case> {
    let said = |flags| tcp(net.one, net.client, flags);
    let known = |class| marked(net, OPENED, net.foreign(class));
    let ack = tcp(net.client, net.vip, ".");
    let of_datagrams = |flags| World {
        flags: META_REPLY_DEFAULTS,
        reply_defaults: vec![ReplyDefaultSpec {
            protocol: PROTOCOL_UDP,
            ..with_default(net, INGRESS_IFINDEX, flags).reply_defaults[0]
        }],
        ..net.world()
    };
    let datagram = udp(net.one, net.client).payload(20);
    vec![
        case(
            "opened later: a SYN through us ends what is known of one that came without us",
            World { backends: net.recording().backends, ..known(CLASS_ESTABLISHED) },
            vec![delivered(&net.syn(), net.one), replied(net, &said("S."))],
            vec![],
            vec![net.reply(lb_common::abi::CLASS_ANSWERED)],
        ),
        case(
            "opened later: nothing else through us does",
            World { backends: net.recording().backends, ..known(CLASS_ESTABLISHED) },
            vec![answered(net, ack.bytes(), AnswerKind::Reset, DropReason::TupleCollision)],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
        case(
            "opened later: a SYN+ACK for a flow of ours that has ended is somebody else's",
            marked(net, OPENED, net.reply(CLASS_CLOSING_BY_BACKEND)),
            vec![pass(&said("S.")), pass(&said("."))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
        case(
            "opened later: a SYN+ACK that is sent again",
            known(CLASS_HALF_OPEN),
            vec![pass(&said("S."))],
            vec![],
            vec![net.foreign(CLASS_HALF_OPEN)],
        ),
        case(
            "opened later: a datagram that nobody asked for through us stays as it is",
            of_datagrams(OPENED),
            vec![pass(&datagram)],
            vec![],
            vec![],
        ),
        case(
            "two frontends: a datagram without a record goes by the first",
            of_datagrams(REPLY_DEFAULT_AMBIGUOUS),
            vec![replied(net, &datagram)],
            vec![],
            vec![],
        ),
    ]
}
