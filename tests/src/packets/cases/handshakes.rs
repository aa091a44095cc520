//! Replies of connections that the backend has not accepted, or whose record was lost or is too old.

use lb_common::abi::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_REOPENED,
    CLASS_RESUMED, REPLY_DEFAULT_AMBIGUOUS, reply_end,
};

use super::{
    case, delivered,
    outbound::{pass, replied, with_default},
    refused::counted,
};
use crate::packets::{Case, INGRESS_IFINDEX, KnownReply, Net, World, tcp};

/// An acknowledgement number that has nothing to do with what the clients of the cases send.
const FAR: u32 = 0x9000_0000;

/// What anybody may have sent in the name of a client who is connected without us: it takes nothing of
/// what the backend says there.
pub(super) fn forged(net: &Net) -> Vec<Case> {
    let sent = |flags| delivered(&tcp(net.client, net.vip, flags).numbers(0, 8), net.one);
    let direct = pass(&net.said_by_one("P.").numbers(7, FAR).payload(9));
    let answered = replied(net, &net.said_by_one(".").numbers(7, 1));
    let ending = |class| KnownReply { client_end: reply_end(1), ..net.reply(class) };
    [
        (
            "a forged RST takes no direct connection",
            vec![sent("R"), direct.clone()],
            net.reply(CLASS_HALF_OPEN),
        ),
        (
            "nor do a SYN and a RST",
            vec![sent("S"), sent("R"), direct.clone()],
            net.reply(CLASS_HALF_OPEN),
        ),
        (
            "a forged FIN takes no direct connection",
            vec![sent("F."), direct.clone()],
            ending(CLASS_RESUMED),
        ),
        (
            "nor do a SYN and a FIN",
            vec![sent("S"), sent("F."), direct.clone()],
            ending(CLASS_RESUMED),
        ),
        (
            "nor do data and a FIN",
            vec![sent("."), sent("F."), direct.clone()],
            net.reply(CLASS_RESUMED),
        ),
        ("nor do data and a RST", vec![sent("."), sent("R"), direct], net.reply(CLASS_RESUMED)),
        (
            "a FIN of a connection whose record was lost is acknowledged",
            vec![sent("F."), answered],
            ending(CLASS_ESTABLISHED),
        ),
    ]
    .map(|(name, steps, left)| case(name, net.recording(), steps, vec![], vec![left]))
    .into()
}

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
            vec![delivered(&net.syn(), net.one), counted(replied(net, &said("R.").numbers(0, 1)))],
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
