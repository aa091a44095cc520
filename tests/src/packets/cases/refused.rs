//! Connections that a backend refuses: whose are counted, and of whom.

use std::net::SocketAddr;

use super::{
    case,
    outbound::{pass, replied, with_default},
};
use crate::packets::{Case, INGRESS_IFINDEX, Net, PacketSpec, Step, World, at, tcp};

pub(super) fn counted(step: Step) -> Step {
    Step { refusals: 1, ..step }
}

/// Where a port has a default it is known whose it is, also of what nobody translates.
pub(super) fn by_default(net: &Net) -> Vec<Case> {
    let simple = || with_default(net, INGRESS_IFINDEX, 0);
    let said = |from: SocketAddr, to, flags, sequence| {
        tcp(from, SocketAddr::new(to, 5000), flags).numbers(sequence, 1)
    };
    let to_container = |flags, sequence| said(net.one, net.container, flags, sequence);
    let refused = |packet: PacketSpec| counted(pass(&packet));
    let of_client = net.said_by_one("R.").numbers(0, 1);
    [
        ("a client's", simple(), counted(replied(net, &of_client))),
        ("another container's", simple(), refused(to_container("R.", 0))),
        (
            "not the node's, which may be a probe",
            simple(),
            pass(&said(net.one, net.own.0, "R.", 0)),
        ),
        ("not a reset in mid-stream", simple(), pass(&to_container("R.", 77))),
        ("not a reset of what nobody knows", simple(), pass(&to_container("R", 0))),
        ("not a connection that is taken", simple(), pass(&to_container("S.", 0))),
        (
            "not at a port that is not the backend's",
            simple(),
            pass(&said(at(net.one, 81), net.container, "R.", 0)),
        ),
        (
            "not where no port has a default",
            World { flags: 0, ..simple() },
            pass(&to_container("R.", 0)),
        ),
    ]
    .into_iter()
    .map(|(name, world, step)| {
        case(format!("refused connections: {name}"), world, vec![step], vec![], vec![])
    })
    .collect()
}
