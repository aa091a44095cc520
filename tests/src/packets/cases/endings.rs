//! Replies of connections that one side or both have closed, and of others from the same client port.

use lb_common::abi::{
    CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED,
    CLASS_LAST_ACK, CLASS_RESET,
};

use super::{
    case, delivered,
    outbound::{pass, replied},
};
use crate::packets::{Case, KnownReply, Net, World, tcp};

fn aged(net: &Net, class: u32, age_ticks: u32) -> KnownReply {
    KnownReply { age_ticks, ..net.reply(class) }
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
                replies: vec![net.reply(CLASS_CLOSING_BY_CLIENT)],
                ..net.recording()
            },
            vec![replied(net, &net.said_by_one("F."))],
            vec![net.flow(1, CLASS_CLOSED)],
            vec![net.reply(CLASS_LAST_ACK)],
        ),
        case(
            "FIN of the client after that of the backend: the last acknowledgement comes from the VIP",
            world(net, CLASS_CLOSING_BY_BACKEND, 20),
            vec![delivered(&said("F."), net.one), replied(net, &net.said_by_one("."))],
            vec![],
            vec![net.reply(CLASS_CLOSED)],
        ),
        case(
            "TIME_WAIT that answers a direct SYN at once is left alone, and the record goes",
            world(net, CLASS_LAST_ACK, 0),
            vec![replied(net, &net.said_by_one(".")), pass(&net.said_by_one("."))],
            vec![],
            vec![],
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
            vec![delivered(&said("F."), net.one), replied(net, &net.said_by_one("."))],
            vec![],
            vec![net.reply(CLASS_CLOSED)],
        ),
        case(
            "data that the client sends again is acknowledged again",
            world(net, CLASS_CLOSED, 10),
            vec![delivered(&said("P.").payload(9), net.one), replied(net, &net.said_by_one("."))],
            vec![],
            vec![net.reply(CLASS_CLOSED)],
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
            vec![pass(&net.said_by_one("."))],
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
            vec![net.reply(CLASS_RESET)],
        ),
        case(
            "after a RST that was not the client's its data opens the record again",
            world(net, CLASS_RESET, 0),
            vec![delivered(&said("P.").payload(9), net.one)],
            vec![],
            vec![net.reply(CLASS_ESTABLISHED)],
        ),
    ]
}
