//! Acknowledgements that anybody may have sent: with the addresses and ports of a connection that goes
//! another way, but without its sequence numbers.

use lb_common::abi::{
    CLASS_ANSWERED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_RESET, CLASS_RESUMED, DropReason,
    FRONTEND_RECORDS_REPLIES, REPLY_DEFAULT_AMBIGUOUS, REPLY_DEFAULT_OTHER_WAYS, reply_place,
};
use lb_common::engine::answer::AnswerKind;

use super::{
    answered, case, delivered,
    outbound::{pass, replied, with_default},
};
use crate::packets::{Case, INGRESS_IFINDEX, KnownReply, Net, World, tcp};

/// A sequence number that is no connection's here.
const FORGED: u32 = 0x5000_0000;

impl Net {
    fn by_second(&self, class: u32) -> KnownReply {
        self.reply_by(self.second_vip, self.one, INGRESS_IFINDEX, 1, class)
    }

    /// What an acknowledgement of nothing that is known leaves.
    fn resumed(&self, sequence: u32) -> KnownReply {
        KnownReply {
            class: CLASS_RESUMED | u32::from(reply_place(sequence)),
            ..self.reply(CLASS_RESUMED)
        }
    }
}

/// Connections that come without us to the same port.
pub(super) fn direct(net: &Net) -> Vec<Case> {
    let said = |flags| net.said_by_one(flags);
    let forged = delivered(&tcp(net.client, net.vip, ".").numbers(FORGED, 1), net.one);
    let opened =
        with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS | REPLY_DEFAULT_OTHER_WAYS);
    vec![
        case(
            "a forged acknowledgement through us does not take a direct connection",
            net.recording(),
            vec![
                forged.clone(),
                pass(&said("P.").payload(9)),
                pass(&said(".")),
                pass(&said("F.")),
                forged.clone(),
            ],
            vec![],
            vec![net.resumed(FORGED)],
        ),
        case(
            "a forged acknowledgement does not keep a direct connection from opening",
            net.recording(),
            vec![forged.clone(), pass(&said("S.")), pass(&said("."))],
            vec![],
            vec![net.resumed(FORGED)],
        ),
        case(
            "nor where those before had a default",
            World { backends: net.recording().backends, ..opened },
            vec![forged, pass(&said("S.")), pass(&said("P.").payload(9))],
            vec![],
            vec![net.foreign(CLASS_ESTABLISHED)],
        ),
    ]
}

/// Connections to another VIP of the same backend.
pub(super) fn of_two_frontends(net: &Net) -> Vec<Case> {
    let said = |flags| net.said_by_one(flags);
    let forged = tcp(net.client, net.second_vip, ".").numbers(FORGED, 1);
    let ambiguous = |replies| World {
        frontend_flags: FRONTEND_RECORDS_REPLIES,
        replies,
        ..with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS)
    };
    let collides = |world: World, after| {
        let step = answered(net, forged.bytes(), AnswerKind::Reset, DropReason::TupleCollision);
        case(
            "one client port, two VIPs: nothing but a SYN takes the place of a closing flow",
            world,
            vec![step, replied(net, &said("P.").payload(9))],
            vec![],
            vec![after],
        )
    };
    vec![
        case(
            "a forged acknowledgement to the second VIP does not take a flow of the first",
            ambiguous(vec![]),
            vec![
                delivered(&forged, net.one),
                replied(net, &said("P.").payload(9)),
                replied(net, &said(".")),
            ],
            vec![],
            vec![KnownReply {
                class: CLASS_RESUMED | u32::from(reply_place(FORGED)),
                ..net.by_second(CLASS_RESUMED)
            }],
        ),
        case(
            "a forged acknowledgement to the second VIP does not refuse a SYN to the first",
            World { frontend_flags: 0, ..ambiguous(vec![net.by_second(CLASS_RESUMED)]) },
            vec![delivered(&net.syn(), net.one), replied(net, &said("S."))],
            vec![],
            vec![],
        ),
        case(
            "nor where both are recorded",
            World { replies: vec![net.by_second(CLASS_RESUMED)], ..net.recording() },
            vec![delivered(&net.syn(), net.one), replied(net, &said("S."))],
            vec![],
            vec![net.reply(CLASS_ANSWERED)],
        ),
        collides(
            World { replies: vec![net.reply(CLASS_RESET)], ..net.recording() },
            net.reply(CLASS_RESET),
        ),
    ]
}

/// Records that were lost, and come back with what the client says next.
pub(super) fn proven(net: &Net) -> Vec<Case> {
    // What the client sends, and what the backend acknowledges.
    let resumed = |name, sequence, acknowledged, is_answer: bool| {
        let data = tcp(net.client, net.vip, "P.").payload(9).numbers(sequence, 1);
        let answer = net.said_by_one("P.").payload(9).numbers(1, acknowledged);
        let step = if is_answer { replied(net, &answer) } else { pass(&answer) };
        let after = if is_answer { net.reply(CLASS_ESTABLISHED) } else { net.resumed(sequence) };
        case(name, net.recording(), vec![delivered(&data, net.one), step], vec![], vec![after])
    };
    vec![
        resumed("lost record: all of it acknowledged", 0x0fff_fff0, 0x0fff_fff9, true),
        resumed("lost record: into the next part", 0x0fff_fffc, 0x1000_0005, true),
        resumed("lost record: around zero", 0xffff_fffc, 5, true),
        resumed("lost record: what is on its way is not", 0x1000_0000, 0x0ff1_0000, true),
        resumed("lost record: not more than that", 0x1000_0000, 0x0fef_ffff, false),
        resumed("lost record: nor what the client has not sent", 0x1000_0000, 0x1020_0000, false),
        case(
            "lost record: the next packet says where the client is",
            World { replies: vec![net.resumed(FORGED)], ..net.recording() },
            vec![
                delivered(&tcp(net.client, net.vip, "."), net.one),
                replied(net, &net.said_by_one(".")),
            ],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "lost record: a SYN after it is another connection, and half open",
            World { replies: vec![net.reply(CLASS_HALF_OPEN)], ..net.recording() },
            vec![delivered(&net.syn(), net.one), pass(&net.said_by_one("P.").payload(9))],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
    ]
}
