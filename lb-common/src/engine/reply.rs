//! Replies: how they are translated, and what is recorded so that they can be.
//!
//! A backend's port has a default: the frontend that led there first. What else leads there is
//! recorded flow by flow, and where clients also come without us (a published port, a routed network)
//! there is no default, only records. So whoever comes later never changes where the replies of those
//! before go.

use super::{
    Choice, Context, Decision, Edit, FlowChange, HeadersV4, PacketKind, Record, ReplyChange, Side,
    Tables,
    record::{closed_by, is_fresh},
};
use crate::abi::{
    BACKEND_NONE, CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, FlowKeyV4, FlowRecord, META_REPLY_DEFAULTS,
    PROTOCOL_TCP, REPLY_DEFAULT_AMBIGUOUS, ReplyDefaultKeyV4, ReplyKeyV4, ReplyRecordV4, Verdict,
    is_closing,
};

/// A record of replies and which table it is in.
#[derive(Clone, Copy)]
struct Known {
    record: ReplyRecordV4,
    /// Not 0: there is one.
    is_present: u32,
    /// Not 0: it is among the half open.
    is_half: u32,
}

#[inline(always)]
fn known<T: Tables>(tables: &T, key: &ReplyKeyV4) -> Known {
    if let Some(record) = tables.reply_v4(key) {
        return Known { record, is_present: 1, is_half: 0 };
    }
    match tables.half_reply_v4(key) {
        Some(record) => Known { record, is_present: 1, is_half: 1 },
        None => Known { record: ReplyRecordV4::default(), is_present: 0, is_half: 0 },
    }
}

/// What a packet of the client changes in the record of its replies; [`DropReason::None`], or why it
/// must be dropped.
#[inline(always)]
pub(super) fn remember<T: Tables>(
    tables: &T,
    context: &Context,
    kind: PacketKind,
    flow: &FlowKeyV4,
    key: &ReplyKeyV4,
    choice: &Choice,
) -> (ReplyChange, ReplyRecordV4, DropReason) {
    let limits = tables.limits();
    let Known { record, is_present, is_half } = known(tables, key);
    let before = u32::from(record.class);
    let is_alive =
        is_present != 0 && is_fresh(before, record.last_seen_tick, &limits, context.now_tick);
    let is_same_vip = record.vip == flow.vip && record.vip_port == flow.vip_port;
    // Another flow of this client port has the same backend port, by another VIP or VIP port: their
    // replies could not be told apart.
    if is_alive && !is_same_vip && !is_closing(before) {
        return (ReplyChange::Keep, record, DropReason::TupleCollision);
    }
    let is_known = is_alive
        && is_same_vip
        && record.backend == choice.number
        && record.generation == choice.backend.generation;
    let is_new = !is_known || (is_closing(before) && kind as u32 == PacketKind::Syn as u32);
    let class = match kind {
        PacketKind::Reset => CLASS_CLOSED,
        PacketKind::Fin if is_new => CLASS_CLOSING_BY_CLIENT,
        PacketKind::Fin => closed_by(before, CLASS_CLOSING_BY_CLIENT),
        _ if is_new => CLASS_HALF_OPEN,
        PacketKind::Data | PacketKind::Datagram if before == CLASS_ANSWERED => CLASS_ESTABLISHED,
        _ => before,
    };
    let is_stale = class != before || record.last_seen_tick != context.now_tick;
    let change = if is_new {
        ReplyChange::PutHalf
    } else if !is_stale {
        ReplyChange::Keep
    } else if is_half == 0 {
        ReplyChange::Touch
    } else if class == CLASS_ESTABLISHED || class == CLASS_CLOSING_BY_CLIENT {
        ReplyChange::Put
    } else {
        ReplyChange::TouchHalf
    };
    let record = ReplyRecordV4 {
        vip: flow.vip,
        vip_port: flow.vip_port,
        class: class as u16,
        backend: choice.number,
        generation: choice.backend.generation,
        ifindex: context.ingress_ifindex,
        last_seen_tick: context.now_tick,
    };
    (change, record, DropReason::None)
}

/// Decides on a packet that a backend sends; `scope_ifindex` is its veth, or 0 for one that is
/// routed.
#[inline(always)]
pub(super) fn translate<T: Tables>(
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
    let mut way = ReplyRecordV4::default();
    let mut has_default = false;
    let mut looks_for_record = true;
    if context.meta_flags & META_REPLY_DEFAULTS != 0
        && let Some(default) = tables.reply_default_v4(&default_key(&key))
        && !tables.is_local_v4(headers.destination)
    {
        has_default = true;
        looks_for_record = default.flags & REPLY_DEFAULT_AMBIGUOUS != 0;
        way.vip = default.vip;
        way.vip_port = default.vip_port;
        way.backend = default.backend;
        way.ifindex = default.ifindex;
    }
    let mut reply_change = ReplyChange::Keep;
    let mut reply_record = way;
    if looks_for_record {
        let known = known(tables, &key);
        let class = u32::from(known.record.class);
        let is_over = is_stranger(context, headers, &known.record);
        // The backend has not accepted the recorded flow: what it says it says to the default's.
        let is_unanswered = class == CLASS_HALF_OPEN && has_default && !headers.is_syn_ack();
        if known.is_present != 0 && !is_over && !is_unanswered {
            way = known.record;
            (reply_change, reply_record) = after_reply(headers, &known);
        } else if known.is_present != 0 && is_over {
            reply_change = ReplyChange::Forget;
        }
        if !has_default && (known.is_present == 0 || is_over) {
            let record = Record { reply_change, reply: key, ..Record::KEEP };
            return Decision { record, ..Decision::PASS };
        }
    }
    if headers.ttl <= 1 {
        return Decision::drop(DropReason::TtlExceeded, way.backend);
    }
    let mut record = Record { reply_change, reply: key, reply_record, ..Record::KEEP };
    if headers.is_closing() {
        end_flow(tables, headers, &key, &way, &mut record);
    }
    Decision {
        verdict: Verdict::Reply,
        reason: DropReason::None,
        backend: way.backend,
        ifindex: way.ifindex,
        opens_flow: 0,
        edit: Some(Edit {
            side: Side::Source,
            old_address: headers.source,
            address: way.vip,
            old_port: headers.source_port,
            port: way.vip_port,
            l4_offset: headers.l4_offset,
        }),
        record,
    }
}

#[inline(always)]
const fn default_key(key: &ReplyKeyV4) -> ReplyDefaultKeyV4 {
    ReplyDefaultKeyV4 {
        ifindex: key.ifindex,
        backend: key.backend,
        backend_port: key.backend_port,
        pad: 0,
        protocol: key.protocol,
    }
}

/// Whether what the backend sends is not for the client of the recorded flow but for somebody with
/// the same address and port who comes by another way. A SYN+ACK is, once the flow is closing. When
/// both sides have closed the backend only answers packets of the client, so anything is unless the
/// client was heard of just now: above all the acknowledgement with which a socket in `TIME_WAIT`
/// answers a SYN (RFC 9293, section 3.10.7.4); a client that does not get it hangs.
#[inline(always)]
fn is_stranger(context: &Context, headers: &HeadersV4, record: &ReplyRecordV4) -> bool {
    let class = u32::from(record.class);
    if headers.is_syn_ack() {
        return is_closing(class);
    }
    class == CLASS_CLOSED
        && !headers.is_closing()
        && context.now_tick.wrapping_sub(record.last_seen_tick) > 1
}

/// What a reply changes in its record. Time is the client's: a backend alone keeps no flow alive.
#[inline(always)]
fn after_reply(headers: &HeadersV4, known: &Known) -> (ReplyChange, ReplyRecordV4) {
    let before = u32::from(known.record.class);
    if headers.is_reset() {
        return (ReplyChange::Forget, known.record);
    }
    let class = if headers.is_closing() {
        closed_by(before, CLASS_CLOSING_BY_BACKEND)
    } else if before == CLASS_HALF_OPEN {
        CLASS_ANSWERED
    } else {
        before
    };
    let change = if class == before {
        ReplyChange::Keep
    } else if known.is_half != 0 {
        ReplyChange::TouchHalf
    } else {
        ReplyChange::Touch
    };
    (change, ReplyRecordV4 { class: class as u16, ..known.record })
}

/// The backend ends a connection or its direction: so the record of the way in says, if there is one.
/// After a RST nothing is left that a record could keep: so a flood of acknowledgements leaves none.
#[inline(always)]
fn end_flow<T: Tables>(
    tables: &T,
    headers: &HeadersV4,
    key: &ReplyKeyV4,
    way: &ReplyRecordV4,
    record: &mut Record,
) {
    let flow = FlowKeyV4 {
        client: key.client,
        vip: way.vip,
        client_port: key.client_port,
        vip_port: way.vip_port,
        protocol: key.protocol,
    };
    let mut known = FlowRecord::default();
    let mut touch = FlowChange::Touch;
    if let Some(found) = tables.flow_v4(&flow) {
        known = found;
    } else if let Some(found) = tables.half_flow_v4(&flow) {
        known = found;
        touch = FlowChange::TouchHalf;
    }
    if known.backend == BACKEND_NONE || known.backend != way.backend {
        return;
    }
    record.flow_change = if headers.is_reset() { FlowChange::Forget } else { touch };
    record.flow = flow;
    let class = closed_by(known.class, CLASS_CLOSING_BY_BACKEND);
    record.flow_record = FlowRecord { class, ..known };
}
