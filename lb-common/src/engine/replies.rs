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
    classes, foreign, fragments,
    record::{closed_by, is_fresh},
    wire::{Address, Fragment, Headers, PROTOCOL_UDP},
};
use crate::abi::{
    BACKEND_NONE, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT, CLASS_DATAGRAM,
    CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_REOPENED, CLASS_RESUMED, DropReason, FlowRecord,
    LOCAL_NODE, LOCAL_PRIMARY, META_REPLY_DEFAULTS, REPLY_DEFAULT_AMBIGUOUS,
    REPLY_DEFAULT_OTHER_WAYS, Verdict, is_closing, is_near_reply_place, reply_end, reply_place,
    reply_place_of,
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
        && is_fresh(way.record_class(), way.last_seen_tick, &tables.limits(), context.now_tick)
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
    let before = way.record_class();
    let is_alive = record.reply_table as u32 != ReplyTable::None as u32;
    let is_same_vip = way.vip.is_same(flow.server) && way.vip_port == flow.server_port;
    let kind = packet_kind(afresh(headers));
    let is_syn = kind as u32 == PacketKind::Syn as u32;
    // Another flow of this client port has the same backend port, by another VIP or VIP port: their
    // replies could not be told apart. What may be nobody's yields to a SYN, and to nothing else.
    let yields = (is_closing(before) | is_waiting(before)) & is_syn;
    if is_alive && !is_same_vip && !yields {
        return DropReason::TupleCollision;
    }
    let is_known = is_alive
        && is_same_vip
        && way.backend == choice.number
        && way.generation == choice.backend.generation;
    let is_again = is_closing(before) & is_syn;
    let is_new = !is_known | is_again;
    record.reply_change = if is_new { ReplyChange::PutHalf } else { ReplyChange::Keep };
    let class = classes::after_client(if is_known { before } else { classes::NONE }, kind, headers);
    // By masks: fewer ways for the verifier to follow.
    let kept = mask(!is_new);
    let ended = mask(kind as u32 == PacketKind::Fin as u32);
    record.reply_record = A::reply_record(&Way {
        vip: flow.server,
        vip_port: flow.server_port,
        class: class as u16
            | reply_place(headers.tcp_sequence.get()) & mask(class == CLASS_RESUMED),
        backend: choice.number,
        generation: choice.backend.generation,
        ifindex: context.reply_ifindex,
        last_seen_tick: context.now_tick,
        client_end: reply_end(headers.tcp_end()) & ended | way.client_end & kept & !ended,
        backend_end: way.backend_end & kept,
    });

    let record = afresh(record);
    let now = A::way(&record.reply_record);
    let is_stale = now.class != reply_place_of(way.class) | before as u16
        || way.last_seen_tick != context.now_tick;
    if record.reply_change as u32 == ReplyChange::Keep as u32 && is_stale {
        record.reply_change = touched(now.record_class(), record.reply_table);
    }
    DropReason::None
}

/// A SYN for a flow that needs no record, since it has the default: whether it collides with one of the
/// same client port that has a record. On error the packet must be dropped.
#[inline(always)]
pub(super) fn meet<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    flow: &Tuple<A>,
    ifindex: u32,
    decision: &mut Decision<A>,
) -> DropReason {
    let translation = &decision.translation;
    let answer = Tuple { server: translation.address, server_port: translation.port, ..*flow };
    let is_ambiguous = context.meta_flags & META_REPLY_DEFAULTS != 0
        && tables
            .reply_default(&A::reply_default_key(&answer, ifindex))
            .is_some_and(|default| A::default_way(&default).class & REPLY_DEFAULT_AMBIGUOUS != 0);
    if !is_ambiguous {
        return DropReason::None;
    }
    decision.record.reply = A::reply_key(&answer, ifindex);
    let Known { way, is_present, .. } = known(tables, &decision.record.reply);
    let is_same_vip = way.vip.is_same(flow.server) && way.vip_port == flow.server_port;
    let class = way.record_class();
    // What has ended goes when the backend accepts this one.
    if is_present == 0 || is_same_vip || way.is_foreign() || is_closing(class) {
        return DropReason::None;
    }
    if is_waiting(class) {
        decision.record.reply_change = ReplyChange::Forget;
        return DropReason::None;
    }
    if is_fresh(class, way.last_seen_tick, &tables.limits(), context.now_tick) {
        return DropReason::TupleCollision;
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

/// All bits, or none.
#[inline(always)]
const fn mask(is_set: bool) -> u16 {
    0_u16.wrapping_sub(is_set as u16)
}

/// Whether the backend has said nothing to what is known of the flow, which may be nobody's.
#[inline(always)]
const fn is_waiting(class: u32) -> bool {
    const WAITING: u32 = 1 << CLASS_HALF_OPEN | 1 << CLASS_REOPENED | 1 << CLASS_RESUMED;
    (WAITING >> (class & 31)) & 1 != 0
}

/// Whether a packet acknowledges the client's FIN, and so all that the client has sent. One in 65,536
/// does by chance.
#[inline(always)]
fn acknowledges_end<A: Address>(headers: &Headers<A>, way: &Way<A>) -> bool {
    reply_end(headers.tcp_acknowledgement.get()) == way.client_end
}

/// Whether a record is of something in mid-stream that what the backend says does not fit: then it may
/// be of anybody, who does not know the sequence numbers of the connection that the backend has.
#[inline(always)]
fn is_unproven<A: Address>(headers: &Headers<A>, way: &Way<A>) -> bool {
    (way.record_class() == CLASS_RESUMED)
        & !is_near_reply_place(way.class, headers.tcp_acknowledgement.get())
        & !headers.is_reset()
}

/// How a reply goes.
#[derive(Clone, Copy)]
pub(super) struct Found<A> {
    /// Not 0: it is translated; [`PERHAPS`]: depending on who sends it.
    pub(super) is_ours: u32,
    /// To what; of what is for a container of this node, whose port it comes from.
    pub(super) way: Way<A>,
}

/// As [`Found::is_ours`]: unless a connection sends it that was there before.
const PERHAPS: u32 = 2;

impl<A: Family> Found<A> {
    /// It stays as it is.
    const NONE: Self = Self { is_ours: 0, way: Way::NONE };
}

/// Looks for the way of what a backend sends, and for what that changes in its record.
#[expect(clippy::needless_bitwise_bool, reason = "fewer ways for the verifier to follow")]
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
    if (known.is_present == 0) | is_unproven(headers, &known.way) {
        return unrecorded(context, headers, found, decision);
    }
    // Who answers a SYN begins another flow.
    if known.way.is_foreign() && !headers.is_syn_ack() {
        foreign::follow(context, headers, &known.way, known.table(), decision);
        return Found::NONE;
    }
    decision.record.reply_record = A::reply_record(&known.way);
    decision.record.reply_table = known.table();
    if known.way.is_foreign() || is_stranger(tables, context, headers, &known.way) {
        decision.record.reply_change = ReplyChange::Forget;
        return unrecorded(context, headers, found, decision);
    }
    // The backend has neither accepted nor refused the recorded connection: what it says it says to
    // another of the same client port, which a SYN from anybody must not take away.
    let decision = afresh(decision);
    let way = A::way(&decision.record.reply_record);
    let is_unanswered = (way.record_class() == CLASS_HALF_OPEN)
        & (headers.protocol != PROTOCOL_UDP)
        & !headers.is_syn_ack()
        & !headers.is_refusal();
    if is_unanswered {
        // From TIME_WAIT it answers the SYN with an acknowledgement, whoever was there before. So does
        // a connection that lives; if that reached who sent the SYN, a RST would end it.
        if (found.is_ours == 0) & headers.is_bare_ack() {
            found = Found { is_ours: PERHAPS, way };
        }
        return found;
    }
    found = Found { is_ours: 1, way };
    note_reply(context, headers, &way, decision);
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
    {
        let way = A::default_way(&default);
        return match tables.local(answer.client) {
            0 => Found { is_ours: 1, way },
            // Also to the agent, whose attempts are no signs of their own.
            LOCAL_NODE | LOCAL_PRIMARY => Found::NONE,
            _ => Found { is_ours: 0, way },
        };
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
    let answer = headers.tuple().reversed();
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
        // A container of this node comes to the backend itself, and is refused as others are.
        if headers.is_refusal() {
            decision.refusing = found.way.backend;
        }
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
        fragments::remember(headers, context, 0, scope_ifindex, decision);
    }
    if found.is_ours == PERHAPS {
        decision.doubt();
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
    let answer = quoted.tuple();
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
/// get it waits in vain. A SYN+ACK also is for a flow whose record is too old, whoever deletes it; a
/// datagram is, once neither side has sent any for the time of a record.
#[inline(always)]
fn is_stranger<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    headers: &Headers<A>,
    way: &Way<A>,
) -> bool {
    let class = way.record_class();
    if headers.is_syn_ack() && is_closing(class) {
        return true;
    }
    if headers.is_syn_ack() || headers.protocol == PROTOCOL_UDP {
        return !is_fresh(class, way.last_seen_tick, &tables.limits(), context.now_tick);
    }
    (class == CLASS_CLOSED) & headers.is_bare_ack() & acknowledges_end(headers, way)
}

/// What a reply changes in its record. The time of a connection is its client's: a backend alone keeps
/// none alive. That of datagrams is either side's.
#[inline(always)]
fn note_reply<A: Family>(
    context: &Context,
    headers: &Headers<A>,
    way: &Way<A>,
    decision: &mut Decision<A>,
) {
    if headers.is_reset() {
        decision.record.reply_change = ReplyChange::Forget;
        return;
    }
    let before = way.record_class();
    let acknowledges_end = acknowledges_end(headers, way);
    let class = classes::after_backend(before, headers, acknowledges_end);
    let is_datagram = headers.protocol == PROTOCOL_UDP;
    let last_seen_tick = if is_datagram { context.now_tick } else { way.last_seen_tick };
    if class == before && last_seen_tick == way.last_seen_tick {
        return;
    }
    decision.record.reply_change = touched(class, decision.record.reply_table);
    let ended = mask(headers.is_closing());
    let backend_end = reply_end(headers.tcp_end()) & ended | way.backend_end & !ended;
    let class = class as u16;
    decision.record.reply_record =
        A::reply_record(&Way { class, last_seen_tick, backend_end, ..*way });
}

/// The backend ends a connection or its direction: so the record of the way in says, if there is one.
/// After a RST nothing is left that a record could keep: so a flood of acknowledgements leaves none.
#[inline(always)]
fn end_flow<A: Family, T: Tables<A>>(tables: &T, headers: &Headers<A>, decision: &mut Decision<A>) {
    let Decision { translation, record, backend, .. } = decision;
    let answer = headers.tuple().reversed();
    let (server, server_port) = (translation.address, translation.port);
    record.flow = A::flow_key(&Tuple { server, server_port, ..answer });
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
