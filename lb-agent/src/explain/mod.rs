//! What the data path would decide on a packet or a socket call, step by step.
//!
//! The steps are not told beside the decision: the engine itself decides, on tables that write down
//! what it asks of them. Pure; where the tables are is `datapath`'s to know. Changes nothing.

mod call;
#[cfg(test)]
mod call_tests;
mod recorder;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{
        BACKEND_NONE, DropReason, META_REPLY_DEFAULTS, NetU16, NetU32, PROTOCOL_TCP, PROTOCOL_UDP,
        Verdict,
    },
    engine::{
        Context, Decision, EditKind, Family, Tables, Tuple, front_transport, reply_transport,
        wire::{
            ETHERNET_HEADER_BYTES, Fragment, Headers, Kind, TCP_ACK, TCP_FIN, TCP_HEADER_BYTES,
            TCP_RST, TCP_SYN,
        },
    },
};

pub use self::call::{Caller, explain_call};
use self::recorder::{Recorder, UNSERVED};
use crate::{
    api::{
        explain::{ExplainQuery, Explanation, Outcome, PacketWord, Step},
        names,
        trace::BackendName,
    },
    model::Protocol,
};

/// Decides on a packet of `query`, whose two addresses are of the family `A`: of the client to the VIP,
/// or of a backend, in place of the VIP, to the client. A container's comes in on the interface of the
/// context, that of a backend on another machine on none.
pub fn explain<A: Family + Into<IpAddr>, T: Tables<A>>(
    query: &ExplainQuery,
    client: A,
    vip: A,
    tables: &T,
    context: &Context,
) -> Explanation {
    let headers = headers(query, client, vip);
    let flow = Tuple {
        client,
        server: vip,
        client_port: NetU16::new(query.client.port()),
        server_port: NetU16::new(query.vip.port()),
        protocol: headers.protocol,
    };
    let recorder = Recorder::new(tables, context, flow);
    let mut decision = Decision::pass();
    if query.is_reply && context.ingress_ifindex != 0 {
        reply_transport(&headers, &recorder, context, &mut decision);
        if decision.has_doubt() {
            decision.settle_doubt(false);
        }
    } else {
        front_transport(&headers, &recorder, context, &mut decision);
    }
    let is_forwarded = matches!(decision.verdict, Verdict::Deliver | Verdict::Route);
    let replies = is_forwarded.then(|| replies(&recorder, context, &decision, &flow));
    let steps = recorder.into_steps();
    Explanation {
        question: query.clone(),
        notes: notes(query, &decision, replies, &steps),
        steps,
        outcome: outcome(&decision, replies),
    }
}

/// The packet, as the parser would have found it.
fn headers<A: Family>(query: &ExplainQuery, client: A, vip: A) -> Headers<A> {
    let (kind, protocol, tcp_flags) = match (query.protocol, query.packet) {
        (Protocol::Udp, _) => (Kind::Udp, PROTOCOL_UDP, 0),
        (Protocol::Tcp, PacketWord::Syn) => (Kind::Tcp, PROTOCOL_TCP, TCP_SYN),
        (Protocol::Tcp, PacketWord::SynAck) => (Kind::Tcp, PROTOCOL_TCP, TCP_SYN | TCP_ACK),
        (Protocol::Tcp, PacketWord::Data) => (Kind::Tcp, PROTOCOL_TCP, TCP_ACK),
        (Protocol::Tcp, PacketWord::Fin) => (Kind::Tcp, PROTOCOL_TCP, TCP_FIN | TCP_ACK),
        (Protocol::Tcp, PacketWord::Rst) => (Kind::Tcp, PROTOCOL_TCP, TCP_RST),
    };
    let (mut source, mut destination) = ((client, query.client.port()), (vip, query.vip.port()));
    if query.is_reply {
        (source, destination) = (destination, source);
    }
    Headers {
        kind,
        reason: DropReason::None,
        fragment: Fragment::Whole,
        fragment_id: 0,
        source: source.0,
        destination: destination.0,
        source_port: NetU16::new(source.1),
        destination_port: NetU16::new(destination.1),
        protocol: protocol.into(),
        tcp_flags,
        tcp_sequence: NetU32::new(1),
        tcp_acknowledgement: NetU32::new(0),
        tcp_header_bytes: TCP_HEADER_BYTES as u32,
        traffic_class: 0,
        hop_limit: 64,
        l3_offset: ETHERNET_HEADER_BYTES,
        l4_offset: ETHERNET_HEADER_BYTES + A::HEADER_BYTES,
        l3_bytes: (A::HEADER_BYTES + TCP_HEADER_BYTES) as u32,
    }
}

/// How what the backend answers finds its way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Replies {
    Recorded,
    ByDefault,
    /// Neither a record nor a default: they would leave as the backend's own.
    Nothing,
}

fn replies<A: Family + Into<IpAddr>, T: Tables<A>>(
    recorder: &Recorder<'_, A, T>,
    context: &Context,
    decision: &Decision<A>,
    flow: &Tuple<A>,
) -> Replies {
    // The engine has looked for a record if there is to be one.
    if recorder.has_asked_for_replies() {
        return Replies::Recorded;
    }
    let translation = &decision.translation;
    let answer = Tuple { server: translation.address, server_port: translation.port, ..*flow };
    let default = recorder.reply_default(&A::reply_default_key(&answer, decision.ifindex));
    if default.is_some() && context.meta_flags & META_REPLY_DEFAULTS != 0 {
        Replies::ByDefault
    } else {
        Replies::Nothing
    }
}

fn outcome<A: Family + Into<IpAddr>>(decision: &Decision<A>, replies: Option<Replies>) -> Outcome {
    let Decision { verdict, reason, backend, translation, record, .. } = decision;
    let other = SocketAddr::new(translation.address.into(), translation.port.get());
    let flow_record = names::flow_change(record.flow_change as u32)
        .map(|change| format!("{change} {}", names::class(record.flow_record.class)));
    let is_edited = decision.edit == EditKind::Packet;
    let is_forwarded = matches!(verdict, Verdict::Deliver | Verdict::Route);
    Outcome {
        verdict: verdict.name().to_owned(),
        reason: (*reason != DropReason::None).then(|| reason.name().to_owned()),
        answer: (*verdict == Verdict::Answer)
            .then(|| names::answer(decision.answer as u32).to_owned()),
        backend: (*backend != BACKEND_NONE).then(|| BackendName::of(*backend)),
        to: (is_edited && is_forwarded).then_some(other),
        from: (is_edited && *verdict == Verdict::Reply).then_some(other),
        ifindex: decision.ifindex,
        flow_record,
        reply_record: names::reply_change(record.reply_change as u32).map(str::to_owned),
        replies: match replies {
            Some(Replies::Recorded) => Some("recorded".to_owned()),
            Some(Replies::ByDefault) => Some("by_default".to_owned()),
            Some(Replies::Nothing) | None => None,
        },
    }
}

fn notes<A: Family>(
    query: &ExplainQuery,
    decision: &Decision<A>,
    replies: Option<Replies>,
    steps: &[Step],
) -> Vec<String> {
    let is_unserved =
        |step: &Step| matches!(step, Step::Frontend { state, .. } if state == UNSERVED);
    let mut notes = Vec::new();
    match decision.verdict {
        Verdict::Pass if query.is_reply => notes.push(
            "it is no reply to a client of a virtual address: the packet leaves as the backend's \
             own"
            .to_owned(),
        ),
        Verdict::Pass if steps.iter().any(is_unserved) => notes.push(
            "the address is the node's own, too, and no frontend takes this port of it: the packet is \
             the system's own"
                .to_owned(),
        ),
        Verdict::Pass => notes.push(
            "the destination is no virtual address of this node: the packet is the system's own"
                .to_owned(),
        ),
        Verdict::Route => notes.push(
            "whether there is a way to the backend, and how large a packet it carries, is the \
             routing table's to say: `ip route get`"
                .to_owned(),
        ),
        _ => {}
    }
    if replies == Some(Replies::Nothing) {
        notes.push(
            "nothing says how replies are translated: a defect of the agent, please report it"
                .to_owned(),
        );
    }
    notes
}

/// A backend's state in words.
fn takes(state: u8) -> Vec<String> {
    use lb_common::abi::{TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS};
    let bits = [(TAKES_NEW, "new"), (TAKES_OLD, "old"), (TAKES_OLD_DATAGRAMS, "old_datagrams")];
    bits.iter().filter(|(bit, _)| state & bit != 0).map(|(_, name)| (*name).to_owned()).collect()
}

/// Whole seconds of a time in ticks.
fn seconds(ticks: u32) -> u64 {
    u64::from(ticks) * lb_common::abi::TICK_NS / 1_000_000_000
}

impl Step {
    /// Whether it is about replies.
    fn is_about_replies(&self) -> bool {
        matches!(self, Self::ReplyRecord { .. })
    }
}
