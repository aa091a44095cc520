//! Counters of socket calls, and what whoever traces is told of them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::{
    abi::{BACKEND_NONE, DropReason, Hook, TRACE_FILTERS as FILTERS, VERDICT_SLOTS, ticks_from_ns},
    engine::trace,
    socket::{Call, Decision, describe},
};

use super::address::SocketFamily;
use crate::maps::{BACKEND_COUNTERS, DROPS, TRACE, TRACE_FILTERS, VERDICTS};

/// Counts a decision.
#[inline(always)]
pub fn count<A: SocketFamily>(decision: &Decision<A>) {
    let index = Hook::Socket as u32 * VERDICT_SLOTS + decision.verdict as u32;
    if let Some(place) = VERDICTS.get_ptr_mut(index) {
        add_one(place);
    }
    if decision.reason as u32 != DropReason::None as u32
        && let Some(place) = DROPS.get_ptr_mut(decision.reason as u32)
    {
        add_one(place);
    }
    if decision.backend != BACKEND_NONE
        && let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(decision.backend)
    {
        // SAFETY: an element of this CPU, of this type.
        add_one(unsafe { &raw mut (*counters).flows });
    }
}

/// One instruction, in whose middle nothing of this CPU comes.
#[inline(always)]
fn add_one(place: *mut u64) {
    // SAFETY: an aligned word of a map, which stays where it is.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(place, 1) };
}

/// Tells of a decision. Calls are rarer than packets, and the buffer bounds what waits in it. The event
/// is made where it is read: of one on the stack LLVM merges stores, which the verifier refuses there.
#[inline(always)]
pub fn tell<A: SocketFamily>(call: &Call<A>, decision: &Decision<A>) {
    // Full: one who traces sees fewer events than there were.
    let Some(mut place) = TRACE.reserve(0) else { return };
    // SAFETY: `describe` writes all of it before anything is read; the helper has no preconditions.
    let (event, now_ns) = unsafe { (&mut *place.as_mut_ptr(), bpf_ktime_get_ns()) };
    describe(now_ns, call, decision, event);
    // Read again from memory that the verifier does not follow: all ways through the program meet.
    let event = core::hint::black_box(event);
    let now_tick = ticks_from_ns(now_ns);
    let mut filters = 0;
    for index in 0..FILTERS {
        let Some(filter) = TRACE_FILTERS.get(index) else { continue };
        if trace::matches(filter, event, now_tick) {
            filters |= 1 << index;
        }
    }
    event.filters = filters;
    if filters != 0 {
        place.submit(0);
    } else {
        place.discard(0);
    }
}
