//! Replies of connections that the backend has not accepted, or whose record was lost or is too old.

use lb_common::abi::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_REOPENED,
    REPLY_DEFAULT_AMBIGUOUS,
};

use super::{
    case, delivered,
    outbound::{pass, replied, with_default},
};
use crate::packets::{Case, INGRESS_IFINDEX, KnownReply, Net, World, tcp};

/// Records of connections that the backend has not accepted, and those of connections that were lost.
pub(super) fn unanswered(net: &Net) -> Vec<Case> {
    let said = |flags| net.said_by_one(flags);
    let known = |class| World { replies: vec![net.reply(class)], ..net.recording() };
    let data = tcp(net.client, net.vip, "P.").payload(9);
    vec![
        case(
            "a SYN through us does not take a direct connection of the same client port",
            net.recording(),
            vec![delivered(&net.syn(), net.one), pass(&said("P.").payload(9)), pass(&said("R."))],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "TIME_WAIT of a direct connection that answers a SYN through us answers that",
            net.recording(),
            vec![delivered(&net.syn(), net.one), replied(net, &said(".")), pass(&said("F."))],
            vec![],
            vec![net.reply(CLASS_HALF_OPEN)],
        ),
        case(
            "a SYN that is refused: the refusal comes from the VIP",
            net.recording(),
            vec![delivered(&net.syn(), net.one), replied(net, &said("R.").numbers(0, 1))],
            vec![],
            vec![],
        ),
        case(
            "a connection whose record was lost goes on when the client speaks",
            net.recording(),
            vec![delivered(&data, net.one), replied(net, &said("P.").payload(50))],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "a connection whose record was lost: a SYN does not silence it",
            net.recording(),
            vec![
                delivered(&data, net.one),
                delivered(&net.syn(), net.one),
                replied(net, &said(".")),
            ],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "a connection whose record was lost: nor does one from before",
            known(CLASS_HALF_OPEN),
            vec![delivered(&data, net.one), replied(net, &said("."))],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
        case(
            "TIME_WAIT that answers a SYN of the same client through us comes from the VIP",
            known(CLASS_CLOSED),
            vec![delivered(&net.syn(), net.one), replied(net, &said("."))],
            vec![],
            vec![net.reply(CLASS_REOPENED)],
        ),
        case(
            "a flow that was closing is opened again",
            known(CLASS_REOPENED),
            vec![replied(net, &said("S.")), delivered(&tcp(net.client, net.vip, "."), net.one)],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
    ]
}

/// Records that are too old and have not been deleted.
pub(super) fn expired(net: &Net) -> Vec<Case> {
    let old = |class, age_ticks| KnownReply { age_ticks, ..net.reply(class) };
    let known = |reply| World { replies: vec![reply], ..net.recording() };
    let second = KnownReply {
        age_ticks: 100,
        ..net.reply_by(net.second_vip, net.one, INGRESS_IFINDEX, 1, CLASS_ANSWERED)
    };
    let said = |flags| net.said_by_one(flags);
    let passes = |name, reply| case(name, known(reply), vec![pass(&said("S."))], vec![], vec![]);
    vec![
        passes("long after a SYN, a SYN+ACK is somebody else's", old(CLASS_HALF_OPEN, 100)),
        passes("long after a handshake broke off, so is a SYN+ACK", old(CLASS_ANSWERED, 100)),
        passes(
            "long after a connection was last heard of, so is one",
            old(CLASS_ESTABLISHED, 9000),
        ),
        case(
            "a SYN+ACK within the time comes from the VIP",
            known(old(CLASS_ANSWERED, 60)),
            vec![replied(net, &said("S."))],
            vec![],
            vec![old(CLASS_ANSWERED, 60)],
        ),
        case(
            "long after a handshake with the second broke off, the first opens a connection",
            World {
                replies: vec![second],
                ..with_default(net, INGRESS_IFINDEX, REPLY_DEFAULT_AMBIGUOUS)
            },
            vec![delivered(&net.syn(), net.one), replied(net, &said("S."))],
            vec![],
            vec![],
        ),
    ]
}
