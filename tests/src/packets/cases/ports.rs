//! Frontends of more than one port.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    abi::{BackendV4, DropReason, NetU16},
    engine::answer::AnswerKind,
};

use super::{ALIVE, answered, case, delivered};
use crate::packets::{
    Case, PacketSpec, World, backend_one,
    builder::{BACKEND_ONE, CLIENT, tcp},
    frontends::{ALL_PORTS_VIP, RANGE_VIP},
};

/// A backend that has every port.
fn world() -> World {
    let backend = BackendV4 { port: NetU16::new(0), ..backend_one(ALIVE) };
    World { backends: vec![(1, backend)], ..World::default() }
}

fn syn_to(vip: Ipv4Addr, port: u16) -> PacketSpec {
    tcp(CLIENT, SocketAddrV4::new(vip, port), "S")
}

fn served(name: &'static str, vip: Ipv4Addr, port: u16) -> Case {
    let packet = syn_to(vip, port);
    let backend = SocketAddrV4::new(*BACKEND_ONE.ip(), port);
    case(name, world(), vec![delivered(&packet, backend)], vec![], vec![])
}

fn unserved(name: &'static str, vip: Ipv4Addr, port: u16) -> Case {
    let packet = syn_to(vip, port).bytes();
    let steps = vec![answered(packet, AnswerKind::Reset, DropReason::NoFrontend)];
    case(name, world(), steps, vec![], vec![])
}

pub(super) fn wide() -> Vec<Case> {
    vec![
        served("the first port of a range is served, at the same port", RANGE_VIP, 8000),
        served("a port within a range is served, at the same port", RANGE_VIP, 8443),
        served("the last port of a range is served, at the same port", RANGE_VIP, 8999),
        unserved("the port before a range is not served", RANGE_VIP, 7999),
        unserved("the port behind a range is not served", RANGE_VIP, 9000),
        served("the first of all ports is served", ALL_PORTS_VIP, 1),
        served("the last of all ports is served", ALL_PORTS_VIP, u16::MAX),
        unserved("port 0 is none of all ports", ALL_PORTS_VIP, 0),
        case(
            "a range of ports may lead to one port",
            World::default(),
            vec![delivered(&syn_to(RANGE_VIP, 8100), BACKEND_ONE)],
            vec![],
            vec![],
        ),
    ]
}
