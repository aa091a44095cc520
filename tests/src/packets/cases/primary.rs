//! A VIP that is the node's own primary address: what no frontend takes is the node's.

use std::net::SocketAddr;

use lb_common::{
    abi::{DropReason, LOCAL_NODE, LOCAL_PRIMARY, Verdict},
    engine::answer::AnswerKind,
};

use super::{answered, case, delivered, dropped, forwarded, passed};
use crate::packets::{
    Body, Case, Net, PacketSpec, Program, World, at, echo, icmp_error, packet, tcp, udp,
};

/// A world in which the VIP is an address of the node, of this kind.
fn own(net: &Net, kind: u32) -> World {
    let whole = if net.is_v6() { 128 } else { 32 };
    World { local: vec![(net.vip.ip(), whole, kind)], ..net.world() }
}

fn ssh(net: &Net) -> PacketSpec {
    tcp(net.client, at(net.vip, 22), "S")
}

/// An error about a connection that the node has begun, with so much of its packet.
fn error(net: &Net, kept_bytes: usize) -> PacketSpec {
    let said = tcp(at(net.vip, 50_000), net.client, "S");
    icmp_error(net.client.ip(), net.vip.ip(), &said, kept_bytes)
}

/// What the node gets as if there were no balancer.
pub(super) fn left_alone(net: &Net) -> Vec<Case> {
    let of_node = |name, packets: Vec<PacketSpec>| {
        let both = |packet: PacketSpec| {
            [Program::TcFront, Program::XdpFront].map(|program| passed(program, packet.bytes()))
        };
        let steps = packets.into_iter().flat_map(both).collect();
        case(name, own(net, LOCAL_PRIMARY), steps, vec![], vec![])
    };
    let large = udp(net.client, at(net.vip, 53)).payload(1992);
    let forged = SocketAddr::new(net.impossible, 4000);
    vec![
        of_node(
            "own address: ports without frontend, and answers to what it has sent",
            vec![
                ssh(net),
                tcp(at(net.client, 443), at(net.vip, 50_000), "S."),
                tcp(net.client, at(net.vip, 22), "P.").payload(40),
                udp(at(net.client, 53), at(net.vip, 50_000)),
            ],
        ),
        of_node(
            "own address: echo, other protocols, and errors about what it has sent",
            vec![
                echo(net.client.ip(), net.vip.ip()),
                packet(net.client, net.vip, Body::Other(132)).payload(50),
                error(net, 100),
                error(net, net.l4_offset() - 14 + 7),
            ],
        ),
        of_node(
            "own address: fragments of what no frontend takes",
            vec![
                large.clone().fragment(7, 0, 800),
                large.clone().fragment(7, 800, 1600),
                large.fragment(7, 1600, 2000),
            ],
        ),
        of_node(
            "own address: senders that there cannot be are the node's to judge",
            vec![
                tcp(at(net.second_vip, 4000), at(net.vip, 22), "S"),
                tcp(forged, at(net.vip, 22), "S"),
            ],
        ),
    ]
}

/// What is as for every other VIP.
pub(super) fn balanced(net: &Net) -> Vec<Case> {
    let large = udp(net.client, net.vip).payload(1992);
    let parts = [(0, 800), (800, 2000)].map(|(from, to)| large.clone().fragment(7, from, to));
    let said = tcp(net.vip, net.client, "P.").payload(50);
    let meant = tcp(net.one, net.client, "P.").payload(50);
    let about = |address: SocketAddr, quoted: &PacketSpec| {
        icmp_error(net.client.ip(), address.ip(), quoted, 100)
    };
    let mut steps = vec![delivered(&net.syn(), net.one)];
    steps.extend(parts.iter().map(|part| delivered(part, net.one)));
    steps.push(forwarded(
        Program::TcFront,
        Verdict::Deliver,
        &about(net.vip, &said),
        &about(net.one, &meant).ttl(63),
    ));
    // From outside nobody comes from it.
    steps.push(dropped(tcp(at(net.vip, 4000), net.vip, "S").bytes(), DropReason::Land));
    let refused = answered(net, ssh(net).bytes(), AnswerKind::Reset, DropReason::NoFrontend);
    let aside = dropped(error(net, 100).bytes(), DropReason::NoFrontend);
    vec![
        case("own address: its frontend", own(net, LOCAL_PRIMARY), steps, vec![], vec![]),
        case(
            "an address that the node has for others is a VIP in all",
            own(net, LOCAL_NODE),
            vec![refused, aside],
            vec![],
            vec![],
        ),
    ]
}
