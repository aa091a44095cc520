//! Replies of connections that one side or both have closed, and of others from the same client port.

use lb_common::abi::{
    CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
    CLASS_LAST_ACK, CLASS_RESET, reply_end,
};

use super::{
    case, delivered,
    outbound::{pass, replied},
};
use crate::packets::{Case, KnownReply, Net, PacketSpec, World, tcp};

/// Sequence number behind a FIN of the client that has the builder's number and no data.
const END: u32 = 0x0002_0305;

/// A record of a flow in which the client has sent its FIN.
fn ended(net: &Net, class: u32) -> KnownReply {
    KnownReply { client_end: reply_end(END), ..net.reply(class) }
}

/// A record of a flow in which the backend, too, has sent its FIN, with this number.
fn ended_both(net: &Net, class: u32, fin: u32) -> KnownReply {
    KnownReply { backend_end: reply_end(fin + 1), ..ended(net, class) }
}

/// The same, so long ago.
fn aged(net: &Net, class: u32, age_ticks: u32) -> KnownReply {
    KnownReply { age_ticks, ..ended(net, class) }
}

/// The backend's acknowledgement of all that the client has sent, and of `missing` bytes less.
fn acknowledged(net: &Net, missing: u32) -> PacketSpec {
    net.said_by_one(".").numbers(7, END - missing)
}

/// A reply recorded so long ago.
fn world(net: &Net, class: u32, age_ticks: u32) -> World {
    World { replies: vec![aged(net, class, age_ticks)], ..net.recording() }
}

/// Both sides close.
pub(super) fn endings(net: &Net) -> Vec<Case> {
    let said = |flags: &'static str| tcp(net.client, net.vip, flags);
    vec![
        case(
            "FIN of the backend after that of the client closes both records",
            World {
                flows: vec![net.flow(1, CLASS_CLOSING_BY_CLIENT)],
                replies: vec![ended(net, CLASS_CLOSING_BY_CLIENT)],
                ..net.recording()
            },
            vec![replied(net, &net.said_by_one("F.").numbers(7, END - 1))],
            vec![net.flow(1, CLASS_CLOSED)],
            vec![ended_both(net, CLASS_LAST_ACK, 7)],
        ),
        case(
            "FIN of the backend that acknowledges that of the client leaves nothing to acknowledge",
            world(net, CLASS_CLOSING_BY_CLIENT, 0),
            vec![replied(net, &net.said_by_one("F.").numbers(7, END))],
            vec![],
            vec![ended_both(net, CLASS_CLOSED, 7)],
        ),
        case(
            "FIN of the client after that of the backend: the last acknowledgement comes from the VIP",
            world(net, CLASS_CLOSING_BY_BACKEND, 20),
            vec![delivered(&said("F."), net.one), replied(net, &acknowledged(net, 0))],
            vec![],
            vec![ended(net, CLASS_CLOSED)],
        ),
        case(
            "TIME_WAIT that answers a direct SYN at once is left alone, and the record goes",
            world(net, CLASS_LAST_ACK, 0),
            vec![replied(net, &acknowledged(net, 0)), pass(&acknowledged(net, 0))],
            vec![],
            vec![],
        ),
    ]
}

/// Both sides close at once, each on a CPU that does not see the other's FIN: of the classes the last one
/// stays, of the ends both.
pub(super) fn crossing(net: &Net) -> Vec<Case> {
    let crossed = |class| World { replies: vec![ended_both(net, class, 7)], ..net.recording() };
    let last = replied(net, &acknowledged(net, 0));
    vec![
        case(
            "FINs that cross, the client's class last: TIME_WAIT may answer a direct SYN",
            crossed(CLASS_CLOSING_BY_CLIENT),
            vec![last.clone(), pass(&acknowledged(net, 0))],
            vec![],
            vec![],
        ),
        case(
            "FINs that cross, the backend's class last: TIME_WAIT may answer a direct SYN",
            crossed(CLASS_CLOSING_BY_BACKEND),
            vec![last, pass(&acknowledged(net, 0))],
            vec![],
            vec![],
        ),
        case(
            "FINs that cross: the client acknowledges first and writes no class",
            crossed(CLASS_CLOSING_BY_CLIENT),
            vec![delivered(&tcp(net.client, net.vip, "."), net.one)],
            vec![],
            vec![ended_both(net, CLASS_CLOSING_BY_CLIENT, 7)],
        ),
    ]
}

/// Packets that are sent again after the end, and resets.
pub(super) fn after_the_end(net: &Net) -> Vec<Case> {
    let said = |flags: &'static str| tcp(net.client, net.vip, flags);
    vec![
        case(
            "a FIN that the client sends again is acknowledged again",
            world(net, CLASS_CLOSED, 10),
            vec![delivered(&said("F."), net.one), replied(net, &acknowledged(net, 0))],
            vec![],
            vec![ended(net, CLASS_CLOSED)],
        ),
        case(
            "data that the client sends again is acknowledged again",
            world(net, CLASS_CLOSED, 10),
            vec![delivered(&said("P.").payload(9), net.one), replied(net, &acknowledged(net, 0))],
            vec![],
            vec![ended(net, CLASS_CLOSED)],
        ),
        case(
            "a FIN that the backend sends again comes from the VIP",
            world(net, CLASS_LAST_ACK, 10),
            vec![replied(net, &net.said_by_one("F."))],
            vec![],
            vec![aged(net, CLASS_LAST_ACK, 10)],
        ),
        case(
            "data that the backend sends again comes from the VIP",
            world(net, CLASS_CLOSED, 10),
            vec![replied(net, &net.said_by_one(".").payload(99))],
            vec![],
            vec![aged(net, CLASS_CLOSED, 10)],
        ),
        case(
            "TIME_WAIT that answers a direct SYN is left alone, and the record goes",
            world(net, CLASS_CLOSED, 10),
            vec![pass(&acknowledged(net, 0))],
            vec![],
            vec![],
        ),
        case(
            "after a RST of the client the backend's data still comes from the VIP",
            world(net, CLASS_ESTABLISHED, 0),
            vec![
                delivered(&said("R"), net.one),
                replied(net, &net.said_by_one("P.").payload(9)),
                replied(net, &net.said_by_one(".")),
            ],
            vec![],
            vec![ended(net, CLASS_RESET)],
        ),
        case(
            "after a RST that was not the client's its data opens the record again",
            world(net, CLASS_RESET, 0),
            vec![delivered(&said("P.").payload(9), net.one)],
            vec![],
            vec![ended(net, CLASS_ESTABLISHED)],
        ),
    ]
}

/// What the client sent last is acknowledged bit by bit.
pub(super) fn last_acknowledgements(net: &Net) -> Vec<Case> {
    let said = |flags, missing: u32| tcp(net.client, net.vip, flags).numbers(END - 1 - missing, 8);
    let acknowledge = |missing| replied(net, &acknowledged(net, missing));
    let data = |missing| delivered(&said("P.", missing).payload(100), net.one);
    let fin = || delivered(&said("F.", 0), net.one);
    vec![
        case(
            "a half-closed backend acknowledges each segment, and all from the VIP",
            World { replies: vec![net.reply(CLASS_ESTABLISHED)], ..net.recording() },
            vec![
                replied(net, &net.said_by_one("F.").numbers(6, END - 301)),
                data(300),
                data(200),
                data(100),
                fin(),
                acknowledge(201),
                acknowledge(101),
                acknowledge(1),
                acknowledge(0),
                pass(&acknowledged(net, 0)),
            ],
            vec![],
            vec![],
        ),
        case(
            "a FIN with data ends behind it",
            world(net, CLASS_CLOSING_BY_BACKEND, 0),
            vec![
                delivered(&said("FP.", 100).payload(100), net.one),
                acknowledge(1),
                acknowledge(0),
                pass(&acknowledged(net, 0)),
            ],
            vec![],
            vec![],
        ),
        case(
            "an earlier acknowledgement that comes late is from the VIP, too",
            world(net, CLASS_CLOSED, 0),
            vec![acknowledge(101)],
            vec![],
            vec![ended(net, CLASS_CLOSED)],
        ),
        case(
            "a FIN that comes twice before it is acknowledged",
            world(net, CLASS_CLOSING_BY_BACKEND, 0),
            vec![fin(), fin(), acknowledge(1), acknowledge(0)],
            vec![],
            vec![ended(net, CLASS_CLOSED)],
        ),
    ]
}
