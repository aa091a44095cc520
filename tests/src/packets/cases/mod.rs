//! The cases, and the small vocabulary that they are written in.

mod hostile;
mod inbound;
mod outbound;

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::abi::{
    BackendV4, CLASS_ANSWERED, CLASS_HALF_OPEN, DropReason, FlowKeyV4, FrontendKeyV4, NetU16,
    PATH_RECORDS_REPLIES, PROTOCOL_ANY, PROTOCOL_TCP, ReplyKeyV4, ReplyRecordV4, SCOPE_FRONT,
    TAKES_NEW, TAKES_OLD, Verdict,
};

use super::{
    Case, INGRESS_IFINDEX, KnownFlow, KnownReply, Program, Step, World, backend_one, backend_three,
    backend_two,
    builder::{BACKEND_ONE, CLIENT, PacketSpec, VIP},
};

const SECOND_VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 11), 80);
const ALIVE: u8 = TAKES_NEW | TAKES_OLD;

/// MAC addresses that the routing table of the kernel's bed gives to backend 3.
pub(super) const NEXT_HOP_MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 9, 1]);

/// Keys that lead to the ring of service 0: two VIPs with port 80, and their own entries.
pub(super) fn frontend_keys() -> Vec<FrontendKeyV4> {
    let key = |vip: &SocketAddrV4, port, protocol| FrontendKeyV4 {
        vip: (*vip.ip()).into(),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    [VIP, SECOND_VIP]
        .iter()
        .flat_map(|vip| [key(vip, 80, PROTOCOL_TCP), key(vip, 0, PROTOCOL_ANY)])
        .collect()
}

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        inbound::plain(),
        inbound::moving(),
        inbound::known_flows(),
        inbound::dead_records(),
        inbound::settled(),
        inbound::full_tables(),
        hostile::not_ours(),
        hostile::broken(),
        hostile::refusals(),
        outbound::recorded(),
        outbound::replies(),
        outbound::defaults(),
        outbound::two_frontends(),
        outbound::after_the_end(),
        outbound::routed(),
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
    KnownFlow {
        key: flow_key(CLIENT, VIP),
        backend,
        generation: 5,
        age_ticks: 0,
        class,
        is_half: class == CLASS_HALF_OPEN,
    }
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

/// A record of the replies of backend 1.
fn reply(class: u32) -> KnownReply {
    reply_by(VIP, reply_key(BACKEND_ONE, INGRESS_IFINDEX), 1, class)
}

fn reply_by(vip: SocketAddrV4, key: ReplyKeyV4, backend: u32, class: u32) -> KnownReply {
    let record = ReplyRecordV4 {
        vip: (*vip.ip()).into(),
        vip_port: NetU16::new(vip.port()),
        class: class as u16,
        backend,
        generation: 5,
        ifindex: INGRESS_IFINDEX,
        last_seen_tick: 0,
    };
    KnownReply {
        key,
        record,
        age_ticks: 0,
        is_half: class == CLASS_HALF_OPEN || class == CLASS_ANSWERED,
    }
}

/// Backends whose replies are recorded.
fn recording() -> World {
    let recording = |mut backend: BackendV4| {
        backend.path |= PATH_RECORDS_REPLIES;
        backend
    };
    World {
        backends: vec![
            (1, recording(backend_one(ALIVE))),
            (2, recording(backend_two(ALIVE))),
            (3, recording(backend_three(ALIVE))),
        ],
        ..World::default()
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
    replies_after: Vec<KnownReply>,
) -> Case {
    Case { name, world, steps, flows_after, replies_after }
}
