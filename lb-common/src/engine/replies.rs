//! Replies: how they are translated, and what is recorded so that they can be.
//!
//! A backend's port has a default: the frontend that led there first. What else leads there is
//! recorded flow by flow, and where clients also come without us (a published port, a routed network)
//! there is no default, only records. So whoever comes later never changes where the replies of those
//! before go. Where a port has a default all the same, flows that are not ours have records, too
//! ([`foreign`]).

use super::{
    Choice, Context, Decision, EditKind, ErrorTranslation, Family, FlowChange, Packet, PacketKind,
    ReplyChange, ReplyTable, Side, Tables, Translation, Tuple, Way, afresh,
    choose::packet_kind,
    foreign, fragments,
    record::{closed_by, is_fresh},
    wire::{Address, Fragment, Headers, PROTOCOL_UDP},
};
use crate::abi::{
    BACKEND_NONE, CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_LAST_ACK, CLASS_RESET, DropReason,
    FlowRecord, META_REPLY_DEFAULTS, REPLY_DEFAULT_OTHER_WAYS, Verdict, is_closing,
};

/// A record of replies and which table it is in.
#[derive(Clone, Copy)]
struct Known<A> {
    way: Way<A>,
    /// Not 0: there is one.
    is_present: u32,
    /// Not 0: it is among the half open.
    is_half: u32,
}

impl<A> Known<A> {
    #[inline(always)]
    const fn table(&self) -> ReplyTable {
        if self.is_half != 0 { ReplyTable::HalfOpen } else { ReplyTable::Established }
    }
}

#[inline(always)]
fn known<A: Family, T: Tables<A>>(tables: &T, key: &A::ReplyKey) -> Known<A> {
    if let Some(record) = tables.reply(key) {
        return Known { way: A::way(&record), is_present: 1, is_half: 0 };
    }
    match tables.half_reply(key) {
        Some(record) => Known { way: A::way(&record), is_present: 1, is_half: 1 },
        None => Known { way: Way::NONE, is_present: 0, is_half: 0 },
    }
}

/// Remembers how the replies to a packet of the client are translated. On error the packet must be
/// dropped.
#[inline(always)]
pub(super) fn remember<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    flow: &Tuple<A>,
    ifindex: u32,
    choice: &Choice<A>,
    decision: &mut Decision<A>,
) -> DropReason {
    let translation = &decision.translation;
    let answer = Tuple { server: translation.address, server_port: translation.port, ..*flow };
    decision.record.reply = A::reply_key(&answer, ifindex);
    let Known { way, is_present, is_half } = known(tables, &decision.record.reply);
    let is_alive = is_present != 0
        && is_fresh(way.class.into(), way.last_seen_tick, &tables.limits(), context.now_tick)
        // It may have ended without our seeing it.
        && !(way.is_foreign() && headers.is_syn());
    decision.record.reply_record = A::reply_record(&way);
    decision.record.reply_table = match (is_alive, is_half) {
        (false, _) => ReplyTable::None,
        (true, 0) => ReplyTable::Established,
        (true, _) => ReplyTable::HalfOpen,
    };

    let record = &mut afresh(decision).record;
    let way = A::way(&record.reply_record);
    let before = u32::from(way.class);
    let is_alive = record.reply_table as u32 != ReplyTable::None as u32;
    let is_same_vip = way.vip.is_same(flow.server) && way.vip_port == flow.server_port;
    // Another flow of this client port has the same backend port, by another VIP or VIP port: their
    // replies could not be told apart.
    if is_alive && !is_same_vip && !is_closing(before) {
        return DropReason::TupleCollision;
    }
    let is_known = is_alive
        && is_same_vip
        && way.backend == choice.number
        && way.generation == choice.backend.generation;
    let kind = packet_kind(afresh(headers));
    let is_new = !is_known || (is_closing(before) && kind as u32 == PacketKind::Syn as u32);
    record.reply_change = if is_new { ReplyChange::PutHalf } else { ReplyChange::Keep };
    record.reply_record = A::reply_record(&Way {
        vip: flow.server,
        vip_port: flow.server_port,
        class: class_after_client(before, is_new, kind, headers) as u16,
        backend: choice.number,
        generation: choice.backend.generation,
        ifindex: context.reply_ifindex,
        last_seen_tick: context.now_tick,
    });

    let record = afresh(record);
    let class = A::way(&record.reply_record).class;
    let is_stale = class != way.class || way.last_seen_tick != context.now_tick;
    if record.reply_change as u32 == ReplyChange::Keep as u32 && is_stale {
        record.reply_change = touched(u32::from(class), record.reply_table);
    }
    DropReason::None
}

/// What happens to a record that gets another time or class.
#[inline(always)]
pub(super) const fn touched(class: u32, table: ReplyTable) -> ReplyChange {
    match table {
        ReplyTable::HalfOpen => match class {
            CLASS_ESTABLISHED | CLASS_CLOSING_BY_CLIENT | CLASS_DATAGRAM => ReplyChange::Put,
            _ => ReplyChange::TouchHalf,
        },
        _ => ReplyChange::Touch,
    }
}

/// Class of a record of replies after a packet of the client.
#[inline(always)]
const fn class_after_client<A: Address>(
    before: u32,
    is_new: bool,
    kind: PacketKind,
    headers: &Headers<A>,
) -> u32 {
    match kind {
        PacketKind::Reset => CLASS_RESET,
        PacketKind::Fin if is_new => CLASS_CLOSING_BY_CLIENT,
        PacketKind::Fin => acknowledged_by(closed_by(before, CLASS_CLOSING_BY_CLIENT)),
        _ if is_new => CLASS_HALF_OPEN,
        PacketKind::Data if before == CLASS_ANSWERED || before == CLASS_RESET => CLASS_ESTABLISHED,
        PacketKind::Data if before == CLASS_CLOSED && !headers.is_bare_ack() => CLASS_LAST_ACK,
        PacketKind::Datagram if before == CLASS_ANSWERED => CLASS_DATAGRAM,
        _ => before,
    }
}

/// Class of a record of replies after a FIN: if both sides have sent one now, the backend may have to
/// acknowledge the client's.
#[inline(always)]
const fn acknowledged_by(class: u32) -> u32 {
    if class == CLASS_CLOSED { CLASS_LAST_ACK } else { class }
}

/// How a reply goes.
#[derive(Clone, Copy)]
pub(super) struct Found<A> {
    /// Not 0: it is translated.
    pub(super) is_ours: u32,
    /// To what.
    pub(super) way: Way<A>,
}

impl<A: Family> Found<A> {
    /// It stays as it is.
    const NONE: Self = Self { is_ours: 0, way: Way::NONE };
}

/// Looks for the way of what a backend sends, and for what that changes in its record.
#[inline(always)]
fn find<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    answer: &Tuple<A>,
    scope_ifindex: u32,
    mut found: Found<A>,
    decision: &mut Decision<A>,
) -> Found<A> {
    if found.is_ours != 0 && found.way.class == 0 {
        return found;
    }
    decision.record.reply = A::reply_key(answer, scope_ifindex);
    let known = known(tables, &decision.record.reply);
    if known.is_present == 0 {
        return unrecorded(context, headers, found, decision);
    }
    // Who answers a SYN begins another flow.
    if known.way.is_foreign() && !headers.is_syn_ack() {
        foreign::follow(context, headers, &known.way, known.table(), decision);
        return Found::NONE;
    }
    if known.way.is_foreign() || is_stranger(tables, context, headers, &known.way) {
        decision.record.reply_change = ReplyChange::Forget;
        return unrecorded(context, headers, found, decision);
    }
    // The backend has not accepted the recorded connection: what it says it says to the default's.
    let is_unanswered = u32::from(known.way.class) == CLASS_HALF_OPEN
        && headers.protocol != PROTOCOL_UDP
        && !headers.is_syn_ack();
    if is_unanswered && found.is_ours != 0 {
        return found;
    }
    found = Found { is_ours: 1, way: known.way };
    note_reply(context, headers, &known, decision);
    found
}

/// The way of what has no record that counts. Where clients come without us, too, what comes through us
/// is recorded: a SYN+ACK answers one of the others. So does a datagram; if one of ours was asked for
/// before it was recorded, its answer is lost.
#[inline(always)]
fn unrecorded<A: Family>(
    context: &Context,
    headers: &Headers<A>,
    found: Found<A>,
    decision: &mut Decision<A>,
) -> Found<A> {
    let has_other_ways = found.is_ours != 0 && found.way.class & REPLY_DEFAULT_OTHER_WAYS != 0;
    if !has_other_ways || !(headers.is_syn_ack() || headers.protocol == PROTOCOL_UDP) {
        return found;
    }
    if headers.is_syn_ack() {
        foreign::remember(context, decision);
    }
    Found::NONE
}

/// The way of what has no record.
#[inline(always)]
fn by_default<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    answer: &Tuple<A>,
    scope_ifindex: u32,
) -> Found<A> {
    if context.meta_flags & META_REPLY_DEFAULTS != 0
        && let Some(default) = tables.reply_default(&A::reply_default_key(answer, scope_ifindex))
        && !tables.is_local(answer.client)
    {
        return Found { is_ours: 1, way: A::default_way(&default) };
    }
    Found::NONE
}

/// Decides on a TCP or UDP packet that a backend sends; `scope_ifindex` is its veth, or 0 for one that
/// is routed.
#[inline(always)]
pub(super) fn translate<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    scope_ifindex: u32,
    decision: &mut Decision<A>,
) {
    let answer = Tuple {
        client: headers.destination,
        server: headers.source,
        client_port: headers.destination_port,
        server_port: headers.source_port,
        protocol: headers.protocol,
    };
    // A container that opens a connection answers nobody, whatever ports it uses; what follows may
    // look otherwise.
    let default = by_default(tables, context, &answer, scope_ifindex);
    if headers.is_syn() {
        if default.is_ours != 0 {
            decision.record.reply = A::reply_key(&answer, scope_ifindex);
            foreign::remember(context, decision);
        }
        return;
    }
    let found = find(tables, context, headers, &answer, scope_ifindex, default, decision);
    if found.is_ours == 0 {
        return;
    }
    let way = found.way;
    if headers.hop_limit <= 1 {
        decision.drop(DropReason::TtlExceeded, way.backend);
        return;
    }
    decision.verdict = Verdict::Reply;
    decision.backend = way.backend;
    decision.ifindex = way.ifindex;
    decision.translate(Translation {
        side: Side::Source,
        protocol: headers.protocol,
        old_address: headers.source,
        address: way.vip,
        old_port: headers.source_port,
        port: way.vip_port,
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
    });
    let (headers, decision) = (afresh(headers), afresh(decision));
    if headers.is_closing() {
        end_flow(tables, headers, decision);
    }
    if headers.fragment as u32 == Fragment::First as u32 {
        fragments::remember(headers, context, 0, decision);
    }
}

/// Decides on an ICMP error about a packet that a client sent: of the backend, or of a router on the
/// way to one that is routed.
#[inline(always)]
pub(super) fn translate_error<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    scope_ifindex: u32,
    decision: &mut Decision<A>,
) {
    let quoted = A::embedded(packet, headers);
    if quoted.reason as u32 != DropReason::None as u32 {
        return;
    }
    let answer = Tuple {
        client: quoted.source,
        server: quoted.destination,
        client_port: quoted.source_port,
        server_port: quoted.destination_port,
        protocol: quoted.protocol,
    };
    let mut found = by_default(tables, context, &answer, scope_ifindex);
    if found.is_ours == 0 || found.way.class != 0 {
        decision.record.reply = A::reply_key(&answer, scope_ifindex);
        let known = known(tables, &decision.record.reply);
        if known.is_present != 0 {
            found = Found { is_ours: u32::from(!known.way.is_foreign()), way: known.way };
        }
    }
    if found.is_ours == 0 {
        return;
    }
    let way = found.way;
    if headers.hop_limit <= 1 {
        decision.drop(DropReason::TtlExceeded, way.backend);
        return;
    }
    decision.verdict = Verdict::Reply;
    decision.backend = way.backend;
    decision.ifindex = way.ifindex;
    decision.edit = EditKind::Error;
    decision.error = ErrorTranslation::to_client(headers, &quoted, way.vip, way.vip_port);
}

/// Whether what the backend sends is not for the client of the recorded flow but for somebody with
/// the same address and port who comes by another way. A SYN+ACK is, once the flow is closing. When
/// both sides have closed and the backend has acknowledged that, another bare acknowledgement is: with
/// it a socket in `TIME_WAIT` answers a SYN (RFC 9293, section 3.10.7.4), and a client that does not
/// get it waits in vain. A datagram is, once neither side has sent any for the time of a record.
#[inline(always)]
fn is_stranger<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    way: &Way<A>,
) -> bool {
    let class = u32::from(way.class);
    if headers.protocol == PROTOCOL_UDP {
        return !is_fresh(class, way.last_seen_tick, &tables.limits(), context.now_tick);
    }
    if headers.is_syn_ack() {
        return is_closing(class);
    }
    class == CLASS_CLOSED && headers.is_bare_ack()
}

/// What a reply changes in its record. The time of a connection is its client's: a backend alone keeps
/// none alive. That of datagrams is either side's.
#[inline(always)]
fn note_reply<A: Family>(
    context: &Context,
    headers: &Headers<A>,
    known: &Known<A>,
    decision: &mut Decision<A>,
) {
    if headers.is_reset() {
        decision.record.reply_change = ReplyChange::Forget;
        return;
    }
    let before = u32::from(known.way.class);
    let class = if headers.is_closing() {
        acknowledged_by(closed_by(before, CLASS_CLOSING_BY_BACKEND))
    } else if before == CLASS_LAST_ACK && headers.is_bare_ack() {
        CLASS_CLOSED
    } else if before == CLASS_HALF_OPEN {
        CLASS_ANSWERED
    } else {
        before
    };
    let is_datagram = headers.protocol == PROTOCOL_UDP;
    let last_seen_tick = if is_datagram { context.now_tick } else { known.way.last_seen_tick };
    if class == before && last_seen_tick == known.way.last_seen_tick {
        return;
    }
    decision.record.reply_change =
        if known.is_half != 0 { ReplyChange::TouchHalf } else { ReplyChange::Touch };
    decision.record.reply_record =
        A::reply_record(&Way { class: class as u16, last_seen_tick, ..known.way });
}

/// The backend ends a connection or its direction: so the record of the way in says, if there is one.
/// After a RST nothing is left that a record could keep: so a flood of acknowledgements leaves none.
#[inline(always)]
fn end_flow<A: Family, T: Tables<A>>(tables: &T, headers: &Headers<A>, decision: &mut Decision<A>) {
    let Decision { translation, record, backend, .. } = decision;
    record.flow = A::flow_key(&Tuple {
        client: headers.destination,
        server: translation.address,
        client_port: headers.destination_port,
        server_port: translation.port,
        protocol: headers.protocol,
    });
    let mut known = FlowRecord::default();
    let mut touch = FlowChange::Touch;
    if let Some(found) = tables.flow(&record.flow) {
        known = found;
    } else if let Some(found) = tables.half_flow(&record.flow) {
        known = found;
        touch = FlowChange::TouchHalf;
    }
    if known.backend == BACKEND_NONE || known.backend != *backend {
        return;
    }
    record.flow_change = if headers.is_reset() { FlowChange::Forget } else { touch };
    let class = closed_by(known.class, CLASS_CLOSING_BY_BACKEND);
    record.flow_record = FlowRecord { class, ..known };
}
