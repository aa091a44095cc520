//! Which backend a packet goes to, and where a reply goes.

use super::{
    Context, Decision, Edit, HeadersV4, Packet, Parsed, Record, RecordChange, Side, Tables,
    flow_hash_v4,
    parse::ETHERTYPE_IPV4,
    parse_v4,
    record::{class_after_client, closed_by, is_live},
};
use crate::abi::{
    BACKEND_NONE, BackendV4, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_HALF_OPEN, DropReason,
    FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, META_ROUTED_BACKENDS, NetU16, NetU32,
    PATH_LOCAL, PROTOCOL_ANY, PROTOCOL_TCP, REPLY_OF_CLOSED_FLOW, ReplyKeyV4, ReplyRecordV4,
    SCOPE_FRONT, TAKES_NEW, TAKES_OLD, Verdict, is_closing,
};

/// Whether [`front_v4`] may do something with a packet. For those that it leaves alone, which on most
/// nodes are most, this spares the rest: parsing, the time, and a whole [`Decision`].
#[inline(always)]
pub fn may_concern_front_v4<P: Packet, T: Tables>(packet: &P, tables: &T, meta_flags: u32) -> bool {
    if meta_flags & META_ROUTED_BACKENDS != 0 {
        return true;
    }
    let Some(start) = packet.window::<34>(0) else { return false };
    let destination = NetU32::from_wire([start[30], start[31], start[32], start[33]]);
    [start[12], start[13]] == ETHERTYPE_IPV4 && tables.may_be_vip_v4(destination)
}

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
    let frontend = tables.frontend_v4(&key);
    if frontend.is_served() {
        return forward(tables, context, &headers, &frontend);
    }
    if !frontend.is_vip() && context.meta_flags & META_ROUTED_BACKENDS != 0 {
        return translate_reply(tables, context, &headers, 0);
    }
    Decision::PASS
}

/// Decides on a packet that a container sends through its host-side veth.
#[inline(always)]
pub fn reply_v4<P: Packet, T: Tables>(packet: &P, tables: &T, context: &Context) -> Decision {
    match parse_v4(packet) {
        // What cannot be parsed has no record either: the container's own business.
        Parsed::NotOurs | Parsed::Broken { .. } => Decision::PASS,
        Parsed::Tcp(headers) => translate_reply(tables, context, &headers, context.ingress_ifindex),
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
    if tables.frontend_v4(&vip).is_vip() {
        return Decision::drop(reason, BACKEND_NONE);
    }
    Decision::PASS
}

/// A backend that a packet may go to.
struct Choice {
    number: u32,
    backend: BackendV4,
    class: u32,
    /// When the record was last written, if there is a live one.
    recorded_at_tick: Option<u32>,
    class_before: u32,
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
    let choice = match recorded(tables, context, headers, &flow) {
        Some(choice) => choice,
        None => match by_ring(tables, context, headers, frontend, &flow) {
            Ok(choice) => choice,
            Err(reason) => return Decision::drop(reason, BACKEND_NONE),
        },
    };
    let Choice { number, backend, .. } = choice;
    if headers.ttl <= 1 {
        return Decision::drop(DropReason::TtlExceeded, number);
    }
    let is_local = backend.path == PATH_LOCAL;
    let reply = ReplyKeyV4 {
        ifindex: if is_local { backend.ifindex } else { 0 },
        backend: backend.address,
        client: headers.source,
        backend_port: if backend.port.raw() == 0 { flow.vip_port } else { backend.port },
        client_port: headers.source_port,
        protocol: u32::from(PROTOCOL_TCP),
        reserved: 0,
    };
    let record = match remember(tables, context, &flow, &reply, &choice) {
        Ok(record) => record,
        Err(reason) => return Decision::drop(reason, number),
    };
    Decision {
        verdict: if is_local { Verdict::Deliver } else { Verdict::Route },
        reason: DropReason::None,
        backend: number,
        ifindex: reply.ifindex,
        edit: Some(Edit {
            side: Side::Destination,
            old_address: headers.destination,
            address: backend.address,
            old_port: headers.destination_port,
            port: reply.backend_port,
            l4_offset: headers.l4_offset,
        }),
        record,
    }
}

/// The backend that a live record names. A SYN opens a new connection: it follows a record only
/// while that is a retransmission, or the backend takes new flows and the old connection is not
/// being closed.
#[inline(always)]
fn recorded<T: Tables>(
    tables: &T,
    context: &Context,
    headers: &HeadersV4,
    flow: &FlowKeyV4,
) -> Option<Choice> {
    let record = tables.flow_v4(flow)?;
    let backend = tables.backend_v4(record.backend)?;
    if !is_live(&record, &backend, context) {
        return None;
    }
    if headers.is_syn() && (backend.state & TAKES_NEW == 0 || is_closing(record.class)) {
        return None;
    }
    Some(Choice {
        number: record.backend,
        backend,
        class: class_after_client(record.class, headers),
        recorded_at_tick: Some(record.last_seen_tick),
        class_before: record.class,
    })
}

/// The backend that the ring names.
#[inline(always)]
fn by_ring<T: Tables>(
    tables: &T,
    context: &Context,
    headers: &HeadersV4,
    frontend: &Frontend,
    flow: &FlowKeyV4,
) -> Result<Choice, DropReason> {
    let ring = tables.ring(frontend.ring).ok_or(DropReason::TablesInconsistent)?;
    if ring.size() == 0 {
        return Err(DropReason::NoBackend);
    }
    let index = ring.slot_index(flow_hash_v4(context.hash_seed, flow));
    let slot = tables.slot(index).ok_or(DropReason::TablesInconsistent)?;
    let number = slot.cur();
    if number == BACKEND_NONE {
        return Err(DropReason::NoBackend);
    }
    let backend = tables.backend_v4(number).ok_or(DropReason::TablesInconsistent)?;
    let wanted = if headers.is_syn() { TAKES_NEW } else { TAKES_OLD };
    if backend.state & wanted == 0 {
        return Err(DropReason::NoBackend);
    }
    let class = class_after_client(CLASS_HALF_OPEN, headers);
    Ok(Choice { number, backend, class, recorded_at_tick: None, class_before: class })
}

/// What to write for a packet of the client. A known flow is written again when its class changes or
/// a tick has passed, which also renews the way of its replies.
#[inline(always)]
fn remember<T: Tables>(
    tables: &T,
    context: &Context,
    flow: &FlowKeyV4,
    reply: &ReplyKeyV4,
    choice: &Choice,
) -> Result<Record, DropReason> {
    let change = match choice.recorded_at_tick {
        None if collides(tables, context, flow, reply) => return Err(DropReason::TupleCollision),
        None => RecordChange::Insert,
        Some(tick) if tick == context.now_tick && choice.class == choice.class_before => {
            RecordChange::Keep
        }
        Some(_) => RecordChange::Renew,
    };
    Ok(Record {
        change,
        flow: *flow,
        flow_record: FlowRecord {
            backend: choice.number,
            generation: choice.backend.generation,
            last_seen_tick: context.now_tick,
            class: choice.class,
        },
        reply: *reply,
        reply_record: ReplyRecordV4 {
            vip: flow.vip,
            vip_port: flow.vip_port,
            flags: reply_flags(choice.class),
            backend: choice.number,
            ifindex: context.ingress_ifindex,
        },
    })
}

/// Whether another live flow of this client port has the same backend port, by another VIP or VIP
/// port: their replies could not be told apart.
#[inline(always)]
fn collides<T: Tables>(
    tables: &T,
    context: &Context,
    flow: &FlowKeyV4,
    reply: &ReplyKeyV4,
) -> bool {
    let Some(known) = tables.reply_v4(reply) else { return false };
    if known.vip == flow.vip && known.vip_port == flow.vip_port {
        return false;
    }
    let other = FlowKeyV4 { vip: known.vip, vip_port: known.vip_port, ..*flow };
    let Some(record) = tables.flow_v4(&other) else { return false };
    let Some(backend) = tables.backend_v4(record.backend) else { return false };
    !is_closing(record.class) && is_live(&record, &backend, context)
}

#[inline(always)]
fn translate_reply<T: Tables>(
    tables: &T,
    context: &Context,
    headers: &HeadersV4,
    scope_ifindex: u32,
) -> Decision {
    // A container that opens a connection answers nobody, whatever ports it uses.
    if headers.is_syn() {
        return Decision::PASS;
    }
    let key = ReplyKeyV4 {
        ifindex: scope_ifindex,
        backend: headers.source,
        client: headers.destination,
        backend_port: headers.source_port,
        client_port: headers.destination_port,
        protocol: u32::from(PROTOCOL_TCP),
        reserved: 0,
    };
    let Some(reply) = tables.reply_v4(&key) else { return Decision::PASS };
    let record = reply_record(tables, context, headers, &key, &reply);
    if matches!(record.change, RecordChange::ForgetReply) {
        return Decision { record, ..Decision::PASS };
    }
    if headers.ttl <= 1 {
        return Decision::drop(DropReason::TtlExceeded, reply.backend);
    }
    Decision {
        verdict: Verdict::Reply,
        reason: DropReason::None,
        backend: reply.backend,
        ifindex: reply.ifindex,
        edit: Some(Edit {
            side: Side::Source,
            old_address: headers.source,
            address: reply.vip,
            old_port: headers.source_port,
            port: reply.vip_port,
            l4_offset: headers.l4_offset,
        }),
        record,
    }
}

/// What a reply changes in the records. Only handshake, end, and what comes after the end look at
/// the flow, so that data costs one lookup.
#[inline(always)]
fn reply_record<T: Tables>(
    tables: &T,
    context: &Context,
    headers: &HeadersV4,
    key: &ReplyKeyV4,
    reply: &ReplyRecordV4,
) -> Record {
    let is_after_end = reply.flags & REPLY_OF_CLOSED_FLOW != 0;
    if !headers.is_syn_ack() && !headers.is_closing() && !is_after_end {
        return Record::KEEP;
    }
    let flow = FlowKeyV4 {
        client: key.client,
        vip: reply.vip,
        client_port: key.client_port,
        vip_port: reply.vip_port,
        protocol: u32::from(PROTOCOL_TCP),
    };
    let known = tables.flow_v4(&flow).unwrap_or_default();
    let is_same = known.backend == reply.backend;
    let class = closed_by(known.class, CLASS_CLOSING_BY_BACKEND, headers);
    let change = if headers.is_closing() {
        if is_same && class != known.class { RecordChange::Renew } else { RecordChange::Keep }
    } else if is_same && !is_stranger(context, headers, &known) {
        RecordChange::Keep
    } else {
        RecordChange::ForgetReply
    };
    Record {
        change,
        flow,
        flow_record: FlowRecord { class, last_seen_tick: context.now_tick, ..known },
        reply: *key,
        reply_record: ReplyRecordV4 { flags: reply_flags(class), ..*reply },
    }
}

/// Whether what the backend sends (no FIN or RST) is not for the client of this flow but for somebody
/// with the same address and port who reaches the backend directly. A SYN+ACK is, once the flow is
/// closing. When both sides have closed the backend only answers packets of the client, so anything
/// is unless the client was heard of just now: above all the acknowledgement with which a socket in
/// `TIME_WAIT` answers a SYN (RFC 9293, section 3.10.7.4); a client that does not get it hangs.
#[inline(always)]
const fn is_stranger(context: &Context, headers: &HeadersV4, known: &FlowRecord) -> bool {
    if headers.is_syn_ack() {
        return is_closing(known.class);
    }
    known.class == CLASS_CLOSED && context.now_tick.wrapping_sub(known.last_seen_tick) > 1
}

#[inline(always)]
const fn reply_flags(class: u32) -> u16 {
    if class == CLASS_CLOSED { REPLY_OF_CLOSED_FLOW } else { 0 }
}
