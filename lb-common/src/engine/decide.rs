//! Which backend a packet goes to, and where a reply goes.

use super::{
    Context, Decision, Edit, HeadersV4, Packet, Parsed, Record, Side, Tables, choose, parse_v4,
    reply,
};
use crate::abi::{
    BACKEND_NONE, DropReason, FRONTEND_RECORDS_REPLIES, FlowKeyV4, Frontend, FrontendKeyV4,
    META_ROUTED_BACKENDS, NetU16, NetU32, PROTOCOL_ANY, PROTOCOL_TCP, ReplyKeyV4, SCOPE_FRONT,
    Verdict,
};

/// Decides on a packet that came in on a front interface: from a client, or a reply of a backend
/// that is routed.
#[inline(always)]
pub fn front_v4<P: Packet, T: Tables>(packet: &P, tables: &T, context: &Context) -> Decision {
    let headers = match parse_v4(packet) {
        Parsed::NotOurs => return Decision::PASS,
        Parsed::Broken { destination, reason } => return broken(tables, destination, reason),
        Parsed::Tcp(headers) => headers,
    };
    let key = FrontendKeyV4 {
        vip: headers.destination,
        port: headers.destination_port,
        protocol: PROTOCOL_TCP,
        scope: SCOPE_FRONT,
    };
    match tables.frontend_v4(&key) {
        Some(frontend) => forward(tables, context, &headers, &frontend),
        None if context.meta_flags & META_ROUTED_BACKENDS != 0 => {
            reply::translate(tables, context, &headers, 0)
        }
        None => Decision::PASS,
    }
}

/// Decides on a packet that a container sends through its host-side veth.
#[inline(always)]
pub fn reply_v4<P: Packet, T: Tables>(packet: &P, tables: &T, context: &Context) -> Decision {
    match parse_v4(packet) {
        // What cannot be parsed has no record either: the container's own business.
        Parsed::NotOurs | Parsed::Broken { .. } => Decision::PASS,
        Parsed::Tcp(headers) => {
            reply::translate(tables, context, &headers, context.ingress_ifindex)
        }
    }
}

#[inline(always)]
fn broken<T: Tables>(tables: &T, destination: NetU32, reason: DropReason) -> Decision {
    let vip = FrontendKeyV4 {
        vip: destination,
        port: NetU16::new(0),
        protocol: PROTOCOL_ANY,
        scope: SCOPE_FRONT,
    };
    match tables.frontend_v4(&vip) {
        Some(_) => Decision::drop(reason, BACKEND_NONE),
        None => Decision::PASS,
    }
}

#[inline(always)]
fn forward<T: Tables>(
    tables: &T,
    context: &Context,
    headers: &HeadersV4,
    frontend: &Frontend,
) -> Decision {
    let flow = FlowKeyV4 {
        client: headers.source,
        vip: headers.destination,
        client_port: headers.source_port,
        vip_port: headers.destination_port,
        protocol: u32::from(PROTOCOL_TCP),
    };
    let kind = headers.kind();
    let choice = choose(tables, context, frontend.ring, &flow, kind);
    let (number, backend) = (choice.number, choice.backend);
    if number == BACKEND_NONE {
        return Decision::drop(choice.reason, BACKEND_NONE);
    }
    if headers.ttl <= 1 {
        return Decision::drop(DropReason::TtlExceeded, number);
    }
    let is_local = backend.is_local();
    let port = if backend.port.raw() == 0 { flow.vip_port } else { backend.port };
    let ifindex = if is_local { backend.ifindex } else { 0 };
    let mut record = Record {
        flow_change: choice.change,
        ring: frontend.ring,
        is_refused: choice.is_refused,
        flow,
        flow_record: choice.record(context.now_tick),
        ..Record::KEEP
    };
    if backend.records_replies() || frontend.flags & FRONTEND_RECORDS_REPLIES != 0 {
        record.reply = ReplyKeyV4 {
            ifindex,
            backend: backend.address,
            client: headers.source,
            backend_port: port,
            client_port: headers.source_port,
            protocol: u32::from(PROTOCOL_TCP),
            reserved: 0,
        };
        let (change, reply_record, reason) =
            reply::remember(tables, context, kind, &flow, &record.reply, &choice);
        if reason as u32 != DropReason::None as u32 {
            return Decision::drop(reason, number);
        }
        record.reply_change = change;
        record.reply_record = reply_record;
    }
    Decision {
        verdict: if is_local { Verdict::Deliver } else { Verdict::Route },
        reason: DropReason::None,
        backend: number,
        ifindex,
        opens_flow: u64::from(headers.is_syn()),
        edit: Some(Edit {
            side: Side::Destination,
            old_address: headers.destination,
            address: backend.address,
            old_port: headers.destination_port,
            port,
            l4_offset: headers.l4_offset,
        }),
        record,
    }
}
