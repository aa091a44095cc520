//! The cases, and the small vocabulary that they are written in.

mod hostile;
mod inbound;
mod outbound;
mod ports;

use std::net::SocketAddrV4;

use lb_common::abi::{
    DropReason, FlowKeyV4, NetU16, PROTOCOL_TCP, ReplyKeyV4, ReplyRecordV4, TAKES_NEW, TAKES_OLD,
    Verdict,
};

use super::{
    Case, INGRESS_IFINDEX, KnownFlow, Program, Step, World,
    builder::{BACKEND_ONE, CLIENT, PacketSpec, VIP},
    frontends::SECOND_VIP,
};

const ALIVE: u8 = TAKES_NEW | TAKES_OLD;

/// MAC addresses that the routing table of the kernel's bed gives to backend 3.
pub(super) const NEXT_HOP_MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 9, 1]);

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        inbound::new_flows(),
        inbound::known_flows(),
        inbound::dead_records(),
        hostile::not_ours(),
        hostile::broken(),
        hostile::refusals(),
        outbound::replies(),
        outbound::after_the_end(),
        outbound::routed(),
        ports::wide(),
    ]
    .concat()
}

fn flow_key(client: SocketAddrV4, vip: SocketAddrV4) -> FlowKeyV4 {
    FlowKeyV4 {
        client: (*client.ip()).into(),
        vip: (*vip.ip()).into(),
        client_port: NetU16::new(client.port()),
        vip_port: NetU16::new(vip.port()),
        protocol: u32::from(PROTOCOL_TCP),
    }
}

/// A record of the client's flow, of generation 5, just seen.
fn flow(backend: u32, class: u32) -> KnownFlow {
    KnownFlow { key: flow_key(CLIENT, VIP), backend, generation: 5, age_ticks: 0, class }
}

fn reply_key(backend: SocketAddrV4, ifindex: u32) -> ReplyKeyV4 {
    ReplyKeyV4 {
        ifindex,
        backend: (*backend.ip()).into(),
        client: (*CLIENT.ip()).into(),
        backend_port: NetU16::new(backend.port()),
        client_port: NetU16::new(CLIENT.port()),
        protocol: u32::from(PROTOCOL_TCP),
        reserved: 0,
    }
}

fn reply_of_one() -> ReplyKeyV4 {
    reply_key(BACKEND_ONE, INGRESS_IFINDEX)
}

fn reply_record(vip: SocketAddrV4, backend: u32) -> ReplyRecordV4 {
    ReplyRecordV4 {
        vip: (*vip.ip()).into(),
        vip_port: NetU16::new(vip.port()),
        flags: 0,
        backend,
        ifindex: INGRESS_IFINDEX,
    }
}

fn forwarded(program: Program, verdict: Verdict, input: &PacketSpec, output: &PacketSpec) -> Step {
    Step {
        program,
        input: input.bytes(),
        verdict,
        reason: DropReason::None,
        output: Some(output.bytes()),
    }
}

/// From the client to a container.
fn delivered(input: &PacketSpec, to: SocketAddrV4) -> Step {
    forwarded(Program::TcFront, Verdict::Deliver, input, &input.clone().routed_to(to))
}

fn passed(program: Program, input: Vec<u8>) -> Step {
    Step { program, input, verdict: Verdict::Pass, reason: DropReason::None, output: None }
}

fn dropped(input: Vec<u8>, reason: DropReason) -> Step {
    Step { program: Program::TcFront, input, verdict: Verdict::Drop, reason, output: None }
}

fn case(
    name: &'static str,
    world: World,
    steps: Vec<Step>,
    flows_after: Vec<KnownFlow>,
    replies_after: Vec<ReplyKeyV4>,
) -> Case {
    Case { name, world, steps, flows_after, replies_after }
}
