//! The cases, and the small vocabulary that they are written in.

mod choice;
mod datagrams;
mod endings;
mod errors;
mod foreign;
mod fragments;
mod handshakes;
mod headers;
mod hostile;
mod inbound;
mod midstream;
mod outbound;
mod ports;
mod primary;
mod refused;

use std::net::SocketAddr;

use lb_common::{
    abi::{
        CLASS_ANSWERED, CLASS_HALF_OPEN, CLASS_REOPENED, CLASS_RESUMED, DropReason,
        PATH_RECORDS_REPLIES, PROTOCOL_TCP, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS, Verdict,
    },
    engine::{
        Family,
        answer::{AnswerKind, answer, write},
        host::HostPacket,
        wire::link,
    },
};

use super::{
    BackendSpec, Case, INGRESS_IFINDEX, KnownFlow, KnownReply, NETS, Net, NetAddr6, NetU32,
    PacketSpec, Program, Step, World, tcp,
};

const ALIVE: u8 = TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS;

/// Every case, in both families.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for net in NETS {
        let cases = [
            inbound::plain(net),
            inbound::moving(net),
            inbound::known_flows(net),
            inbound::dead_records(net),
            inbound::settled(net),
            inbound::full_tables(net),
            inbound::reserve(net),
            hostile::not_ours(net),
            hostile::broken(net),
            hostile::from_ourselves(net),
            hostile::told(net),
            hostile::refusals(net),
            hostile::senders(net),
            outbound::recorded(net),
            outbound::replies(net),
            outbound::defaults(net),
            outbound::two_frontends(net),
            refused::by_default(net),
            primary::left_alone(net),
            primary::balanced(net),
            endings::endings(net),
            endings::crossing(net),
            endings::after_the_end(net),
            endings::last_acknowledgements(net),
            handshakes::forged(net),
            handshakes::unanswered(net),
            handshakes::expired(net),
            midstream::direct(net),
            midstream::of_two_frontends(net),
            midstream::proven(net),
            outbound::routed(net),
            foreign::own(net),
            foreign::own_and_others(net),
            foreign::other_ways(net),
            foreign::both_ways(net),
            ports::wide(net),
            datagrams::forms(net),
            datagrams::inbound(net),
            datagrams::outbound(net),
            datagrams::routed(net),
            errors::to_vip(net),
            errors::refused(net),
            errors::to_client(net),
            errors::echoes(net),
            fragments::inbound(net),
            fragments::broken(net),
            fragments::outbound(net),
            headers::tags(net),
            headers::extensions(net),
            headers::too_big(net),
            headers::too_big_reply(net),
            choice::rings(net),
        ];
        for mut case in cases.concat() {
            case.name = format!("{}: {}", net.name, case.name);
            all.push(case);
        }
    }
    all
}

impl Net {
    /// The client's first SYN to the frontend.
    fn syn(&self) -> PacketSpec {
        tcp(self.client, self.vip, "S")
    }

    /// A record of the client's flow, of generation 5, just seen.
    fn flow(&self, backend: u32, class: u32) -> KnownFlow {
        KnownFlow {
            client: self.client,
            vip: self.vip,
            protocol: PROTOCOL_TCP,
            backend,
            generation: 5,
            age_ticks: 0,
            class,
            is_half: class == CLASS_HALF_OPEN,
        }
    }

    /// A record of the replies of backend 1.
    fn reply(&self, class: u32) -> KnownReply {
        self.reply_by(self.vip, self.one, INGRESS_IFINDEX, 1, class)
    }

    fn reply_by(
        &self,
        vip: SocketAddr,
        address: SocketAddr,
        ifindex: u32,
        backend: u32,
        class: u32,
    ) -> KnownReply {
        KnownReply {
            ifindex,
            address,
            client: self.client,
            protocol: PROTOCOL_TCP,
            vip,
            class,
            backend,
            generation: 5,
            front_ifindex: INGRESS_IFINDEX,
            age_ticks: 0,
            is_half: matches!(
                class,
                CLASS_HALF_OPEN | CLASS_ANSWERED | CLASS_RESUMED | CLASS_REOPENED
            ),
            client_end: 0,
            backend_end: 0,
        }
    }

    /// Backends whose replies are recorded.
    fn recording(&self) -> World {
        let recording = |mut backend: BackendSpec| {
            backend.path |= PATH_RECORDS_REPLIES;
            backend
        };
        World {
            backends: vec![
                (1, recording(self.backend_one(ALIVE))),
                (2, recording(self.backend_two(ALIVE))),
                (3, recording(self.backend_three(ALIVE))),
            ],
            ..self.world()
        }
    }
}

fn forwarded(program: Program, verdict: Verdict, input: &PacketSpec, output: &PacketSpec) -> Step {
    Step {
        program,
        input: input.bytes(),
        verdict,
        reason: DropReason::None,
        refusals: 0,
        output: Some(output.bytes()),
    }
}

/// From the client to a container.
fn delivered(input: &PacketSpec, to: SocketAddr) -> Step {
    forwarded(Program::TcFront, Verdict::Deliver, input, &input.clone().routed_to(to))
}

fn passed(program: Program, input: Vec<u8>) -> Step {
    let (verdict, reason) = (Verdict::Pass, DropReason::None);
    Step { program, input, verdict, reason, refusals: 0, output: None }
}

fn dropped(input: Vec<u8>, reason: DropReason) -> Step {
    let (program, verdict) = (Program::TcFront, Verdict::Drop);
    Step { program, input, verdict, reason, refusals: 0, output: None }
}

/// A packet that is answered. What answers say is for the engine's own tests; here the kernel must say
/// the same as the host.
fn answered(net: &Net, input: Vec<u8>, kind: AnswerKind, reason: DropReason) -> Step {
    answered_with(net, input, kind, reason, 0)
}

/// The same, with the MTU that the answer tells.
fn answered_with(
    net: &Net,
    input: Vec<u8>,
    kind: AnswerKind,
    reason: DropReason,
    mtu: u32,
) -> Step {
    let output = Some(if net.is_v6() {
        answer_of::<NetAddr6>(&input, kind, mtu)
    } else {
        answer_of::<NetU32>(&input, kind, mtu)
    });
    let (program, verdict) = (Program::TcFront, Verdict::Answer);
    Step { program, input, verdict, reason, refusals: 0, output }
}

fn answer_of<A: Family>(input: &[u8], kind: AnswerKind, mtu: u32) -> Vec<u8> {
    let mut packet = HostPacket(input.to_vec());
    let headers = A::parse(&packet, link(&packet, 0).l3_offset);
    let answer = answer(&packet, &headers, kind, mtu).expect("may be answered");
    write(&mut packet, &answer).expect("fits");
    packet.0
}

fn case(
    name: impl Into<String>,
    world: World,
    steps: Vec<Step>,
    flows_after: Vec<KnownFlow>,
    replies_after: Vec<KnownReply>,
) -> Case {
    Case { name: name.into(), world, steps, flows_after, replies_after }
}
