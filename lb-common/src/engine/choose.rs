//! Which backend gets a packet of a client, and what is remembered of it.
//!
//! A slot has a default, which owns every flow that has no record: `old` while it is moving, else
//! `cur`. On a plain slot that is all. On the others a live record comes first, and on a moving one
//! new flows are recorded, since they go to `cur`.

use super::{
    Backend, Context, Family, FlowChange, Tables, is_live,
    record::{closed_by, reset_from},
    wire::{Address, Headers, PROTOCOL_UDP, TCP_ACK, TCP_SYN},
};
use crate::{
    abi::{
        BACKEND_NONE, CLASS_CLOSING_BY_CLIENT, CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN,
        CLASS_RESET, DropReason, FlowRecord, Limits, Refusals, SLOT_MOVING, SLOT_PLAIN, Slot,
        TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS, is_closing,
    },
    rules::{Rule, is_broken},
};

/// What a packet is to its flow.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketKind {
    /// A first SYN, or its retransmission: opens a connection.
    Syn,
    /// An acknowledgement or data: a connection is alive.
    Data,
    /// The client ends its direction.
    Fin,
    /// The client ends the connection, or knows nothing of it.
    Reset,
    /// A SYN+ACK or a packet without any of the flags that a connection has: belongs to a flow but
    /// proves nothing.
    Stray,
    /// An ICMP error about a packet of the flow: not from its client.
    Aside,
    /// UDP.
    Datagram,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice<A> {
    /// Number of the backend, or [`BACKEND_NONE`]: dropped.
    pub number: u32,
    /// Why it is dropped.
    pub reason: DropReason,
    /// The backend.
    pub backend: Backend<A>,
    /// What happens to the flow's record.
    pub change: FlowChange,
    /// The class of the flow's record from now on.
    pub class: u32,
    /// Not 0: the flow should have a record and gets none.
    pub is_refused: u32,
}

impl<A: Address> Choice<A> {
    /// Nothing chosen.
    pub(super) const NONE: Self = dropped(DropReason::None);

    /// The flow's record from now on.
    #[inline(always)]
    #[must_use]
    pub const fn record(&self, now_tick: u32) -> FlowRecord {
        FlowRecord {
            backend: self.number,
            generation: self.backend.generation,
            last_seen_tick: now_tick,
            class: self.class,
        }
    }
}

/// A backend by number only, before it is looked up. Words only: the kernel's stack is small.
#[derive(Clone, Copy)]
struct Pick {
    number: u32,
    /// A state bit that the backend needs, since its ring may be about to follow its state; 0: it has
    /// been looked at.
    needs: u32,
    change: FlowChange,
    class: u32,
    is_refused: u32,
}

/// Ticks for which a table that had no room counts as full.
const FULL_TICKS: u32 = 3;

/// What a TCP or UDP packet is to its flow.
#[inline(always)]
#[must_use]
pub const fn packet_kind<A: Address>(headers: &Headers<A>) -> PacketKind {
    if headers.protocol == PROTOCOL_UDP {
        PacketKind::Datagram
    } else if headers.is_reset() {
        PacketKind::Reset
    } else if headers.is_closing() {
        PacketKind::Fin
    } else if headers.is_syn() {
        PacketKind::Syn
    } else if headers.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_ACK {
        PacketKind::Data
    } else {
        PacketKind::Stray
    }
}

/// Chooses the backend for a packet of `flow`, which has this hash and falls on `ring`.
#[inline(always)]
pub fn choose<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    ring: u32,
    hash: u32,
    flow: &A::FlowKey,
    kind: PacketKind,
) -> Choice<A> {
    let Some(descriptor) = tables.ring(ring) else {
        return dropped(DropReason::TablesInconsistent);
    };
    if descriptor.size() == 0 {
        return dropped(DropReason::NoBackend);
    }
    let index = descriptor.slot_index(hash);
    let Some(slot) = tables.slot(index) else { return dropped(DropReason::TablesInconsistent) };
    let pick = if slot.state() == SLOT_PLAIN {
        by_cur(slot, kind, FlowChange::Keep)
    } else {
        consult::<A, T>(tables, context, ring, slot, flow, kind)
    };
    let Some(backend) = tables.backend(pick.number) else {
        return dropped(DropReason::TablesInconsistent);
    };
    if pick.number == BACKEND_NONE
        || (pick.needs != 0 && u32::from(backend.state) & pick.needs == 0)
    {
        return dropped(DropReason::NoBackend);
    }
    let Pick { number, change, class, is_refused, .. } = pick;
    Choice { number, reason: DropReason::None, backend, change, class, is_refused }
}

/// Chooses on a slot that is moving or settled.
#[inline(always)]
fn consult<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    ring: u32,
    slot: Slot,
    flow: &A::FlowKey,
    kind: PacketKind,
) -> Pick {
    let limits = tables.limits();
    let known = known::<A, T>(tables, context, &limits, flow);
    if known.is_live != 0 && follows(&known, kind) {
        return by_record(context, &known, kind);
    }
    // A SYN is another connection than the one that the record is about; datagrams that go elsewhere
    // while their backend is unhealthy must not come back when it is not.
    let is_elsewhere = (kind as u32 == PacketKind::Syn as u32
        && !is_broken(Rule::SynForgetsEarlierRecord))
        || (kind as u32 == PacketKind::Datagram as u32
            && !is_broken(Rule::DatagramsForgetDeadRecord));
    let forgets = is_elsewhere && known.is_present != 0;
    let change = if forgets { FlowChange::Forget } else { FlowChange::Keep };
    if slot.state() == SLOT_MOVING {
        moving::<A, T>(tables, context, &limits, ring, slot, kind, change)
    } else if is_broken(Rule::SettledRecordsNothing) {
        recorded(by_cur(slot, kind, change), kind)
    } else {
        by_cur(slot, kind, change)
    }
}

#[inline(always)]
const fn dropped<A: Address>(reason: DropReason) -> Choice<A> {
    Choice {
        number: BACKEND_NONE,
        reason,
        backend: Backend::NONE,
        change: FlowChange::Keep,
        class: 0,
        is_refused: 0,
    }
}

/// A backend that has shown that it takes the packet.
#[inline(always)]
const fn chosen(number: u32, change: FlowChange) -> Pick {
    Pick { number, needs: 0, change, class: 0, is_refused: 0 }
}

/// Gives the packet to `cur`, if that takes it.
#[inline(always)]
const fn by_cur(slot: Slot, kind: PacketKind, change: FlowChange) -> Pick {
    let needs = wanted_state(kind) as u32;
    Pick { number: slot.cur(), needs, change, class: 0, is_refused: 0 }
}

/// The bit that a backend needs for such a packet when no record speaks for it.
#[inline(always)]
const fn wanted_state(kind: PacketKind) -> u8 {
    match kind {
        PacketKind::Syn => TAKES_NEW,
        PacketKind::Datagram => TAKES_OLD_DATAGRAMS,
        _ => TAKES_OLD,
    }
}

/// What the tables know of a flow.
struct Known {
    number: u32,
    class: u32,
    last_seen_tick: u32,
    /// State of the record's backend.
    state: u8,
    /// Not 0: there is a record, of whatever kind.
    is_present: u32,
    /// Not 0: the record counts.
    is_live: u32,
    /// Not 0: it is among the half open.
    is_half: u32,
}

#[inline(always)]
fn known<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    limits: &Limits,
    flow: &A::FlowKey,
) -> Known {
    let mut known = Known {
        number: BACKEND_NONE,
        class: 0,
        last_seen_tick: 0,
        state: 0,
        is_present: 0,
        is_live: 0,
        is_half: 0,
    };
    if let Some(record) = tables.flow(flow) {
        known.is_present = 1;
        consider::<A, T>(tables, context, limits, record, &mut known);
    }
    if known.is_live == 0
        && let Some(record) = tables.half_flow(flow)
    {
        known.is_present = 1;
        known.is_half = 1;
        consider::<A, T>(tables, context, limits, record, &mut known);
    }
    known
}

#[inline(always)]
fn consider<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    limits: &Limits,
    record: FlowRecord,
    known: &mut Known,
) {
    let Some(backend) = tables.backend(record.backend) else { return };
    known.is_live = u32::from(is_live(&record, &backend, limits, context.now_tick));
    known.number = record.backend;
    known.class = record.class;
    known.last_seen_tick = record.last_seen_tick;
    known.state = backend.state;
}

/// Whether a packet follows a live record. A SYN opens a new connection: it does so only while that
/// is a retransmission, or the backend takes new flows and the old connection is not being closed.
#[inline(always)]
fn follows(known: &Known, kind: PacketKind) -> bool {
    kind as u32 != PacketKind::Syn as u32
        || ((known.state & TAKES_NEW != 0 || is_broken(Rule::SynHitsNeedTakesNew))
            && !is_closing(known.class))
}

#[inline(always)]
fn by_record(context: &Context, known: &Known, kind: PacketKind) -> Pick {
    let class = class_after(known.class, kind);
    let is_stale = known.last_seen_tick != context.now_tick;
    let is_half = known.is_half != 0;
    let change = if kind as u32 == PacketKind::Aside as u32 {
        FlowChange::Keep
    } else if is_end(kind) && is_broken(Rule::FinKeepsRecord) {
        FlowChange::Forget
    } else if class == known.class && !is_stale {
        FlowChange::Keep
    } else if is_half && is_long(class) {
        FlowChange::Promote
    } else if is_half {
        FlowChange::TouchHalf
    } else {
        FlowChange::Touch
    };
    Pick { class, ..chosen(known.number, change) }
}

#[inline(always)]
const fn is_end(kind: PacketKind) -> bool {
    matches!(kind, PacketKind::Fin | PacketKind::Reset)
}

/// Whether a record of this class may have to live for hours.
#[inline(always)]
const fn is_long(class: u32) -> bool {
    class == CLASS_ESTABLISHED || class == CLASS_CLOSING_BY_CLIENT
}

/// Class of a flow's record after a packet of the client.
#[inline(always)]
const fn class_after(before: u32, kind: PacketKind) -> u32 {
    match kind {
        PacketKind::Fin => closed_by(before, CLASS_CLOSING_BY_CLIENT),
        PacketKind::Reset => reset_from(before),
        // The RST was not the client's, or not in its window.
        PacketKind::Data if before == CLASS_RESET => CLASS_ESTABLISHED,
        _ if is_closing(before) => before,
        PacketKind::Data => CLASS_ESTABLISHED,
        _ => before,
    }
}

/// A packet on a moving slot that no record speaks for.
#[inline(always)]
fn moving<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    limits: &Limits,
    ring: u32,
    slot: Slot,
    kind: PacketKind,
    change: FlowChange,
) -> Pick {
    // Backend 0 is none, and has no state.
    let number = slot.old();
    let state = tables.backend(number).map_or(0, |old| old.state);
    if kind as u32 == PacketKind::Syn as u32 {
        let yields = number == BACKEND_NONE || state & TAKES_NEW != 0;
        let is_refused = u32::from(yields && is_pressed::<A, T>(tables, context, limits, ring));
        // Unrecorded, the flow belongs to `old`: while there is no room, that is where it goes.
        if is_refused != 0 && number != BACKEND_NONE {
            return Pick { is_refused, ..chosen(number, change) };
        }
        // Without `old` it belongs to nobody: its record may not last, so the agent settles the slot.
        let pick = Pick { is_refused, ..by_cur(slot, kind, change) };
        return if is_broken(Rule::NewFlowsAreRecorded) { pick } else { recorded(pick, kind) };
    }
    let owns = state & wanted_state(kind) != 0
        || (number != BACKEND_NONE && is_broken(Rule::GoneOldOwnsNothing));
    if !owns || is_broken(Rule::MissesGoToOld) {
        return by_cur(slot, kind, change);
    }
    // The agent waits as much longer before the slot settles.
    let is_young = slot.age_ticks(context.now_tick) < limits.grace_ticks;
    let proves_life = match kind {
        PacketKind::Data => !is_young,
        PacketKind::Datagram => true,
        _ => is_broken(Rule::OnlyLiveFlowsAreRecorded),
    };
    let pick = chosen(number, change);
    if !proves_life || is_broken(Rule::OldFlowsAreRecorded) {
        pick
    } else if tables.flow_room() == 0 && !is_broken(Rule::HandshakesHaveRoom) {
        // Unrecorded it stays where it is; a new connection does not.
        Pick { is_refused: 1, ..pick }
    } else {
        recorded(pick, kind)
    }
}

#[inline(always)]
const fn recorded(pick: Pick, kind: PacketKind) -> Pick {
    let (change, class) = match kind {
        PacketKind::Syn => (FlowChange::PutHalf, CLASS_HALF_OPEN),
        PacketKind::Datagram => (FlowChange::Put, CLASS_DATAGRAM),
        _ => (FlowChange::Put, CLASS_ESTABLISHED),
    };
    Pick { change, class, ..pick }
}

/// Whether a half-open record would not live long enough for its handshake, or would find no room
/// when the handshake is over.
#[inline(always)]
fn is_pressed<A: Family, T: Tables<A>>(
    tables: &T,
    context: &Context,
    limits: &Limits,
    ring: u32,
) -> bool {
    if tables.half_open_count(context.now_tick) >= limits.half_open_per_tick {
        return true;
    }
    let Refusals { full_tick, .. } = tables.refusals(ring);
    full_tick != 0 && context.now_tick.wrapping_sub(full_tick) <= FULL_TICKS
}
