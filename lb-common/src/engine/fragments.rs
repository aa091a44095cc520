//! Packets that travel in fragments: only the first has ports, the others follow it.

use super::{Context, Decision, Family, FragmentWay, Side, Tables, Translation, wire::Headers};
use crate::abi::{
    DropReason, FRAGMENT_SECONDS, TAKES_OLD, TAKES_OLD_DATAGRAMS, Verdict, ticks_from_seconds,
};

/// Remembers what was decided on a first fragment; `scope_ifindex` is the veth of the container that
/// sends it, else 0.
#[inline(always)]
pub(super) fn remember<A: Family>(
    headers: &Headers<A>,
    context: &Context,
    generation: u32,
    scope_ifindex: u32,
    decision: &mut Decision<A>,
) {
    decision.record.has_fragments = 1;
    decision.record.fragment = A::fragment_key(headers, scope_ifindex);
    decision.record.fragment_record = A::fragment_record(&FragmentWay {
        address: decision.translation.address,
        backend: decision.backend,
        generation,
        ifindex: decision.ifindex,
        seen_tick: context.now_tick,
        verdict: decision.verdict as u32,
    });
}

/// Decides on another fragment as on the first; leaves it alone if that was not ours or not seen, or
/// went the other way: what a container sends follows replies alone, whatever it looks like.
#[inline(always)]
pub(super) fn follow<A: Family, T: Tables<A>>(
    headers: &Headers<A>,
    tables: &T,
    context: &Context,
    side: Side,
    scope_ifindex: u32,
    decision: &mut Decision<A>,
) {
    decision.record.fragment = A::fragment_key(headers, scope_ifindex);
    let Some(record) = tables.fragment(&decision.record.fragment) else { return };
    let way = A::fragment_way(&record);
    let age_ticks = context.now_tick.wrapping_sub(way.seen_tick);
    // The first may have been seen by another CPU, whose clock was read later.
    if age_ticks > const { ticks_from_seconds(FRAGMENT_SECONDS) } && age_ticks != u32::MAX {
        return;
    }
    let is_reply = way.verdict == Verdict::Reply as u32;
    if is_reply != (side as u32 == Side::Source as u32) {
        return;
    }
    if !is_reply {
        let Some(backend) = tables.backend(way.backend) else { return };
        let is_alive = backend.state & (TAKES_OLD | TAKES_OLD_DATAGRAMS) != 0;
        if !is_alive || backend.generation != way.generation {
            return;
        }
    }
    if headers.hop_limit <= 1 {
        decision.drop(DropReason::TtlExceeded, way.backend);
        return;
    }
    decision.verdict = if is_reply {
        Verdict::Reply
    } else if way.verdict == Verdict::Deliver as u32 {
        Verdict::Deliver
    } else {
        Verdict::Route
    };
    decision.backend = way.backend;
    decision.ifindex = way.ifindex;
    decision.translate(Translation {
        side: if is_reply { Side::Source } else { Side::Destination },
        // Only the IP header: there is no other.
        protocol: 0,
        old_address: if is_reply { headers.source } else { headers.destination },
        address: way.address,
        old_port: headers.source_port,
        port: headers.source_port,
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
    });
}
