//! What is told of a packet to whoever traces: the event, and whether a filter wants it.
//!
//! Who sends a packet is not always the client. An event is matched by client and VIP whichever way
//! the packet goes, so that one filter shows both directions of a flow.

use super::{
    Context, Decision, EditKind, Family, Side,
    wire::{Address, Headers},
};
use crate::abi::{
    Hook, NetAddr6, NetU16, TRACE_ANY_REASON, TRACE_EDIT_DESTINATION, TRACE_EDIT_NONE,
    TRACE_EDIT_SOURCE, TraceEvent, TraceFilter, Verdict,
};

/// Writes what there is to tell of a packet and of the decision on it, which is carried out.
#[inline(always)]
pub fn describe<A: Family>(
    hook: u32,
    time_ns: u64,
    context: &Context,
    headers: &Headers<A>,
    decision: &Decision<A>,
    event: &mut TraceEvent,
) {
    event.time_ns = time_ns;
    event.source = wide(headers.source);
    event.destination = wide(headers.destination);
    event.source_port = headers.source_port;
    event.destination_port = headers.destination_port;
    event.family = A::NUMBER;
    event.hook = hook;
    event.verdict = decision.verdict as u32;
    event.reason = decision.reason as u32;
    event.backend = decision.backend;
    event.protocol = headers.protocol;
    event.kind = headers.kind as u32;
    event.tcp_flags = headers.tcp_flags;
    event.ingress_ifindex = context.ingress_ifindex;
    event.egress_ifindex = decision.ifindex;
    event.length_bytes = headers.l3_bytes;
    event.flow_change = decision.record.flow_change as u32;
    event.reply_change = decision.record.reply_change as u32;
    event.filters = 0;
    let is_answered = decision.verdict as u32 == Verdict::Answer as u32;
    event.answer = if is_answered { decision.answer as u32 } else { 0 };
    // What does not count keeps the value that it had for an earlier packet.
    event.class = if event.flow_change == 0 { 0 } else { decision.record.flow_record.class };
    describe_edit(decision, event);
}

#[inline(always)]
fn describe_edit<A: Family>(decision: &Decision<A>, event: &mut TraceEvent) {
    let (edit, address, port) = match decision.edit {
        EditKind::Packet => {
            let translation = &decision.translation;
            (edit_of(translation.side), translation.address, translation.port)
        }
        EditKind::Error => {
            let error = &decision.error;
            // Of the error it is the other end.
            let edit = match error.quoted_side {
                Side::Source => TRACE_EDIT_DESTINATION,
                Side::Destination => TRACE_EDIT_SOURCE,
            };
            (edit, error.address, error.port)
        }
        EditKind::None => {
            event.edit = TRACE_EDIT_NONE;
            event.address = NetAddr6::from_raw([0; 4]);
            event.port = NetU16::new(0);
            return;
        }
    };
    event.edit = edit;
    event.address = wide(address);
    event.port = port;
}

/// Whether a filter wants an event.
#[inline(always)]
#[must_use]
pub fn matches(filter: &TraceFilter, event: &TraceEvent, now_tick: u32) -> bool {
    // What a container sends, and what a routed backend answers.
    let is_reply = event.hook == Hook::TcReply as u32 || event.verdict == Verdict::Reply as u32;
    let (client, vip, port) = if !is_reply {
        (&event.source, &event.destination, event.destination_port)
    } else if event.edit == TRACE_EDIT_SOURCE {
        (&event.destination, &event.address, event.port)
    } else {
        (&event.destination, &event.source, event.source_port)
    };
    let TraceEvent { family, verdict, reason, backend, .. } = *event;
    wants(filter, &Sought { client, vip, port, family, verdict, reason, backend }, now_tick)
}

/// What filters look at.
pub(crate) struct Sought<'a> {
    pub(crate) client: &'a NetAddr6,
    pub(crate) vip: &'a NetAddr6,
    pub(crate) port: NetU16,
    pub(crate) family: u32,
    pub(crate) verdict: u32,
    pub(crate) reason: u32,
    pub(crate) backend: u32,
}

/// Whether a filter wants what it looks at.
#[inline(always)]
pub(crate) fn wants(filter: &TraceFilter, sought: &Sought<'_>, now_tick: u32) -> bool {
    filter.until_tick != 0
        && now_tick <= filter.until_tick
        && filter.families & (1 << (sought.family & 1)) != 0
        && filter.verdicts & (1 << (sought.verdict & 31)) != 0
        && (filter.reason == TRACE_ANY_REASON || filter.reason == sought.reason)
        && (filter.backend == 0 || filter.backend == sought.backend)
        && (filter.port == 0 || filter.port == u32::from(sought.port.get()))
        && has_bits(sought.client, &filter.client, &filter.client_mask)
        && has_bits(sought.vip, &filter.vip, &filter.vip_mask)
}

#[inline(always)]
const fn edit_of(side: Side) -> u16 {
    match side {
        Side::Source => TRACE_EDIT_SOURCE,
        Side::Destination => TRACE_EDIT_DESTINATION,
    }
}

#[inline(always)]
fn wide<A: Address>(address: A) -> NetAddr6 {
    NetAddr6::from_raw(address.words())
}

#[inline(always)]
fn has_bits(address: &NetAddr6, bits: &NetAddr6, mask: &NetAddr6) -> bool {
    let (address, bits, mask) = (address.raw(), bits.raw(), mask.raw());
    let mut different = 0;
    for index in 0..4 {
        different |= (address[index] ^ bits[index]) & mask[index];
    }
    different == 0
}
