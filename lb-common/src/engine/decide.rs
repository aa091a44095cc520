//! Which backend a packet goes to, and where a reply goes.

use super::{
    Context, Decision, Family, Side, Tables, Translation, Tuple, choose,
    choose::packet_kind,
    reply as replies,
    wire::{Headers, Kind},
};
use crate::abi::{
    BACKEND_NONE, DropReason, FRONTEND_RECORDS_REPLIES, Frontend, META_ROUTED_BACKENDS, NetU16,
    PROTOCOL_ANY, SCOPE_FRONT, Verdict,
};

/// Decides on a packet that came in on a front interface: from a client, or a reply of a backend
/// that is routed.
#[inline(always)]
pub fn front<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    match headers.kind {
        Kind::Tcp | Kind::Udp => {
            let protocol = headers.protocol as u8;
            match frontend(tables, headers, headers.destination_port, protocol) {
                Some(frontend) => forward(headers, tables, context, &frontend, decision),
                None if context.meta_flags & META_ROUTED_BACKENDS != 0 => {
                    replies::translate(tables, context, headers, 0, decision);
                }
                None => {}
            }
        }
        Kind::Broken if frontend(tables, headers, NetU16::new(0), PROTOCOL_ANY).is_some() => {
            decision.drop(headers.reason, BACKEND_NONE);
        }
        _ => {}
    }
}

/// Decides on a packet that a container sends through its host-side veth.
#[inline(always)]
pub fn reply<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    decision: &mut Decision<A>,
) {
    decision.reset();
    // What cannot be parsed has no record either: the container's own business.
    if let Kind::Tcp | Kind::Udp = headers.kind {
        replies::translate(tables, context, headers, context.ingress_ifindex, decision);
    }
}

#[inline(always)]
fn frontend<A: Family, T: Tables<A>>(
    tables: &T,
    headers: &Headers<A>,
    port: NetU16,
    protocol: u8,
) -> Option<Frontend> {
    tables.frontend(&A::frontend_key(headers.destination, port, protocol, SCOPE_FRONT))
}

#[inline(always)]
fn forward<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    frontend: &Frontend,
    decision: &mut Decision<A>,
) {
    let flow = Tuple {
        client: headers.source,
        server: headers.destination,
        client_port: headers.source_port,
        server_port: headers.destination_port,
        protocol: headers.protocol,
    };
    let kind = packet_kind(headers);
    let hash = A::flow_hash(context.hash_seed, &flow);
    decision.record.flow = A::flow_key(&flow);
    let choice = choose(tables, context, frontend.ring, hash, &decision.record.flow, kind);
    let (number, backend) = (choice.number, choice.backend);
    if number == BACKEND_NONE {
        decision.drop(choice.reason, BACKEND_NONE);
        return;
    }
    if headers.hop_limit <= 1 {
        decision.drop(DropReason::TtlExceeded, number);
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
    if backend.records_replies() || frontend.flags & FRONTEND_RECORDS_REPLIES != 0 {
        let reason = replies::remember(tables, context, kind, &flow, ifindex, &choice, decision);
        if reason as u32 != DropReason::None as u32 {
            decision.drop(reason, number);
            return;
        }
    }
    decision.verdict = if backend.is_local() { Verdict::Deliver } else { Verdict::Route };
    decision.backend = number;
    decision.ifindex = ifindex;
    decision.opens_flow = u32::from(headers.is_syn());
    decision.record.flow_change = choice.change;
    decision.record.ring = frontend.ring;
    decision.record.is_refused = choice.is_refused;
    decision.record.flow_record = choice.record(context.now_tick);
}
