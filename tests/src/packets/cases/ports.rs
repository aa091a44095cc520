//! Frontends of more than one port.

use std::net::{IpAddr, SocketAddr};

use lb_common::{abi::DropReason, engine::answer::AnswerKind};

use super::{ALIVE, answered, case, delivered};
use crate::packets::{BackendSpec, Case, Net, PacketSpec, World, at, tcp};

/// A backend that has every port.
fn world(net: &Net) -> World {
    let backend = BackendSpec { address: at(net.one, 0), ..net.backend_one(ALIVE) };
    World { backends: vec![(1, backend)], ..net.world() }
}

fn syn_to(net: &Net, vip: IpAddr, port: u16) -> PacketSpec {
    tcp(net.client, SocketAddr::new(vip, port), "S")
}

fn served(net: &Net, name: &'static str, vip: IpAddr, port: u16) -> Case {
    let packet = syn_to(net, vip, port);
    let backend = at(net.one, port);
    case(name, world(net), vec![delivered(&packet, backend)], vec![], vec![])
}

fn unserved(net: &Net, name: &'static str, vip: IpAddr, port: u16) -> Case {
    let packet = syn_to(net, vip, port).bytes();
    let steps = vec![answered(net, packet, AnswerKind::Reset, DropReason::NoFrontend)];
    case(name, world(net), steps, vec![], vec![])
}

pub(super) fn wide(net: &Net) -> Vec<Case> {
    vec![
        served(net, "the first port of a range is served, at the same port", net.range_vip, 8000),
        served(net, "a port within a range is served, at the same port", net.range_vip, 8443),
        served(net, "the last port of a range is served, at the same port", net.range_vip, 8999),
        unserved(net, "the port before a range is not served", net.range_vip, 7999),
        unserved(net, "the port behind a range is not served", net.range_vip, 9000),
        served(net, "the first of all ports is served", net.all_ports_vip, 1),
        served(net, "the last of all ports is served", net.all_ports_vip, u16::MAX),
        unserved(net, "port 0 is none of all ports", net.all_ports_vip, 0),
        case(
            "a range of ports may lead to one port",
            net.world(),
            vec![delivered(&syn_to(net, net.range_vip, 8100), net.one)],
            vec![],
            vec![],
        ),
    ]
}
