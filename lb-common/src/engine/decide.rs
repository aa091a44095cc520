//! Which backend a packet goes to, and where a reply goes.

use super::{
    Choice, Context, Decision, EditKind, ErrorTranslation, Family, Packet, PacketKind, Side,
    Tables, Translation, Tuple, afresh,
    answer::AnswerKind,
    choose,
    choose::packet_kind,
    fragments, replies,
    wire::{Address, Fragment, Headers, Kind, PROTOCOL_TCP, PROTOCOL_UDP},
};
use crate::abi::{
    BACKEND_NONE, DropReason, FRONTEND_DROPS, FRONTEND_RECORDS_REPLIES, Frontend, LOCAL_PRIMARY,
    META_ROUTED_BACKENDS, NetU16, PROTOCOL_ANY, SCOPE_FRONT, Verdict, affinity_prefix_bits,
};

/// Whether [`front`] may do something with a packet whose IP header begins at `l3_offset`. For those
/// that it leaves alone, which on most nodes are most, this spares all the rest.
#[inline(always)]
pub fn may_concern_front<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    l3_offset: usize,
    tables: &T,
    meta_flags: u32,
) -> bool {
    if meta_flags & META_ROUTED_BACKENDS != 0 {
        return true;
    }
    A::destination(packet, l3_offset).is_some_and(|address| tables.may_be_vip(address))
}

/// Decides on a packet that came in on a front interface: from a client, or a reply of a backend
/// that is routed.
#[inline(always)]
pub fn front<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    if headers.is_transport() {
        front_transport(headers, tables, context, decision);
    } else {
        front_other(packet, headers, tables, context, decision);
    }
}

/// Decides on a packet that a container sends through its host-side veth.
#[inline(always)]
pub fn reply<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    if headers.is_transport() {
        reply_transport(headers, tables, context, decision);
    } else {
        reply_other(packet, headers, tables, context, decision);
    }
}

/// The part of [`front`] for packets with ports.
#[inline(always)]
pub fn front_transport<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    let frontend = find(tables, headers, headers.destination_port, headers.protocol);
    if frontend.is_vip() {
        if !frontend.is_served() && is_primary(tables, headers) {
            return;
        }
        let fault = source_fault(tables, headers);
        if fault as u32 != DropReason::None as u32 {
            decision.drop(fault, BACKEND_NONE);
        } else if opens(headers) && tables.is_local(headers.source) {
            // From outside nobody comes with an address of ours; and the answer would not come from
            // the VIP. Only where something may begin: looking costs.
            decision.drop(DropReason::SourceImpossible, BACKEND_NONE);
        } else if frontend.is_served() {
            forward(headers, tables, context, &frontend, decision);
        } else {
            reject(headers, frontend.flags, DropReason::NoFrontend, BACKEND_NONE, decision);
        }
    } else if context.meta_flags & META_ROUTED_BACKENDS != 0 {
        replies::translate(tables, context, headers, 0, decision);
    }
}

/// Whether a packet may be the first of its flow.
#[inline(always)]
const fn opens<A: Address>(headers: &Headers<A>) -> bool {
    headers.is_syn() || headers.protocol == PROTOCOL_UDP
}

/// The part of [`reply`] for packets with ports.
#[inline(always)]
pub fn reply_transport<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    replies::translate(tables, context, headers, context.ingress_ifindex, decision);
}

/// The part of [`reply`] for packets without ports.
#[inline(always)]
pub fn reply_other<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    follow_reply(packet, headers, tables, context, context.ingress_ifindex, decision);
}

/// What cannot be parsed has no record either: the container's own business.
#[inline(always)]
fn follow_reply<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    scope_ifindex: u32,
    decision: &mut Decision<A>,
) {
    match headers.kind {
        Kind::IcmpError => {
            replies::translate_error(packet, tables, context, headers, scope_ifindex, decision);
        }
        Kind::LaterFragment => {
            fragments::follow(headers, tables, context, Side::Source, scope_ifindex, decision);
        }
        _ => {}
    }
}

/// The part of [`front`] for packets without ports. A VIP is answered for, whatever is sent to it:
/// nothing reaches the node's own sockets, unless it is the node's primary address.
#[inline(always)]
pub fn front_other<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    let vip = find(tables, headers, NetU16::new(0), u32::from(PROTOCOL_ANY));
    if !vip.is_vip() {
        if context.meta_flags & META_ROUTED_BACKENDS != 0 {
            follow_reply(packet, headers, tables, context, 0, decision);
        }
        return;
    }
    let is_primary = is_primary(tables, headers);
    let fault = source_fault(tables, headers);
    let has_fault = fault as u32 != DropReason::None as u32;
    match headers.kind {
        // What may belong to a flow of a frontend is looked at; of a primary address the rest is the node's.
        Kind::IcmpError if !has_fault => {
            front_error(packet, headers, tables, context, is_primary, decision);
        }
        Kind::LaterFragment if !has_fault => {
            fragments::follow(headers, tables, context, Side::Destination, 0, decision);
            if decision.verdict as u32 == Verdict::Pass as u32 && !is_primary {
                decision.drop(DropReason::Fragment, BACKEND_NONE);
            }
        }
        _ if is_primary => {}
        Kind::Broken => decision.drop(headers.reason, BACKEND_NONE),
        _ if has_fault => decision.drop(fault, BACKEND_NONE),
        Kind::EchoRequest => {
            decision.answer(AnswerKind::EchoReply, DropReason::None, BACKEND_NONE);
        }
        // Neighbour discovery is the node's own, also for an address that is a VIP.
        _ if A::IS_V6 && headers.protocol == A::PROTOCOL_ICMP => {}
        _ => decision.drop(DropReason::ProtocolNotBalanced, BACKEND_NONE),
    }
}

/// An ICMP error about a packet that the VIP is to have sent goes to the backend that sent it.
#[inline(always)]
fn front_error<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    is_primary: bool,
    decision: &mut Decision<A>,
) {
    let quoted = A::embedded(packet, headers);
    if quoted.reason as u32 != DropReason::None as u32 {
        if !is_primary {
            decision.drop(quoted.reason, BACKEND_NONE);
        }
        return;
    }
    let frontend = find(tables, headers, quoted.source_port, quoted.protocol);
    if !frontend.is_served() {
        // Of a primary address it is about what the node itself has sent.
        if !is_primary {
            decision.drop(DropReason::NoFrontend, BACKEND_NONE);
        }
        return;
    }
    let flow = quoted.tuple().reversed();
    let choice = choice(tables, context, &frontend, &flow, PacketKind::Aside, decision);
    let backend = &choice.backend;
    if choice.number == BACKEND_NONE {
        decision.drop(choice.reason, BACKEND_NONE);
        return;
    }
    if headers.hop_limit <= 1 {
        decision.drop(DropReason::TtlExceeded, choice.number);
        return;
    }
    let port = if backend.port.raw() == 0 { flow.server_port } else { backend.port };
    decision.edit = EditKind::Error;
    decision.error = ErrorTranslation::to_backend(headers, &quoted, backend.address, port);
    go_to(&choice, decision);
}

/// Whether a packet's destination is an address that the node calls from and is reached at.
#[inline(always)]
fn is_primary<A: Family, T: Tables<A>>(tables: &T, headers: &Headers<A>) -> bool {
    tables.local(headers.destination) == LOCAL_PRIMARY
}

/// What the tables say of a destination.
#[inline(always)]
fn find<A: Family, T: Tables<A>>(
    tables: &T,
    headers: &Headers<A>,
    port: NetU16,
    protocol: u32,
) -> Frontend {
    tables.frontend(&A::frontend_key(headers.destination, port, protocol as u8, SCOPE_FRONT))
}

/// Why a packet to a VIP cannot have come from where it says. What comes from a VIP is our own output
/// that came back, or forged; answered, it would come back again.
#[inline(always)]
fn source_fault<A: Family, T: Tables<A>>(tables: &T, headers: &Headers<A>) -> DropReason {
    let fault = headers.source_fault();
    if fault as u32 != DropReason::None as u32 || !tables.may_be_vip(headers.source) {
        return fault;
    }
    let key = A::frontend_key(headers.source, NetU16::new(0), PROTOCOL_ANY, SCOPE_FRONT);
    if tables.frontend(&key).is_vip() { DropReason::SourceIsVip } else { fault }
}

/// Tells a client at once that it cannot be served.
#[inline(always)]
fn reject<A: Family>(
    headers: &Headers<A>,
    frontend_flags: u32,
    reason: DropReason,
    backend: u32,
    decision: &mut Decision<A>,
) {
    if frontend_flags & FRONTEND_DROPS != 0 {
        decision.drop(reason, backend);
    } else if headers.protocol == PROTOCOL_TCP {
        decision.answer(AnswerKind::Reset, reason, backend);
    } else {
        decision.answer(AnswerKind::PortUnreachable, reason, backend);
    }
}

/// The hash that says which slot of a ring a flow falls on.
#[inline(always)]
#[must_use]
pub fn slot_hash<A: Family>(hash_seed: u64, frontend_flags: u32, flow: &Tuple<A>) -> u32 {
    match affinity_prefix_bits(frontend_flags) {
        Some(bits) => A::client_hash(hash_seed, flow.client, bits),
        None => A::flow_hash(hash_seed, flow),
    }
}

/// The backend of a flow.
#[inline(always)]
fn choice<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    frontend: &Frontend,
    flow: &Tuple<A>,
    kind: PacketKind,
    decision: &mut Decision<A>,
) -> Choice<A> {
    let hash = slot_hash(context.hash_seed, frontend.flags, flow);
    decision.record.flow = A::flow_key(flow);
    choose(tables, context, frontend.ring, hash, &decision.record.flow, kind)
}

#[inline(always)]
fn go_to<A: Family>(choice: &Choice<A>, decision: &mut Decision<A>) {
    let is_local = choice.backend.is_local();
    decision.verdict = if is_local { Verdict::Deliver } else { Verdict::Route };
    decision.backend = choice.number;
    decision.ifindex = if is_local { choice.backend.ifindex } else { 0 };
}

#[inline(always)]
fn forward<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    frontend: &Frontend,
    decision: &mut Decision<A>,
) {
    let flow = headers.tuple();
    let kind = packet_kind(headers);
    decision.choice = choice(tables, context, frontend, &flow, kind, decision);
    let decision = afresh(decision);
    let choice = decision.choice;
    let (number, backend) = (choice.number, choice.backend);
    if number == BACKEND_NONE {
        reject(headers, frontend.flags, choice.reason, BACKEND_NONE, decision);
        return;
    }
    if headers.hop_limit <= 1 {
        decision.answer(AnswerKind::TimeExceeded, DropReason::TtlExceeded, number);
        return;
    }
    let ifindex = if backend.is_local() { backend.ifindex } else { 0 };
    decision.translate(Translation {
        side: Side::Destination,
        protocol: headers.protocol,
        old_address: headers.destination,
        address: backend.address,
        old_port: headers.destination_port,
        port: if backend.port.raw() == 0 { flow.server_port } else { backend.port },
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
    });
    let reason = if backend.records_replies() || frontend.flags & FRONTEND_RECORDS_REPLIES != 0 {
        replies::remember(tables, context, headers, &flow, ifindex, &choice, decision)
    } else if headers.is_syn() {
        replies::meet(tables, context, &flow, ifindex, decision)
    } else {
        DropReason::None
    };
    if reason as u32 != DropReason::None as u32 {
        reject(headers, frontend.flags, reason, number, decision);
        return;
    }
    go_to(&choice, decision);
    decision.opens_flow = u32::from(headers.is_syn());
    decision.record.flow_change = choice.change;
    decision.record.ring = frontend.ring;
    decision.record.is_refused = choice.is_refused;
    decision.record.flow_record = choice.record(context.now_tick);
    if headers.fragment as u32 == Fragment::First as u32 {
        fragments::remember(headers, context, backend.generation, 0, decision);
    }
}
