//! Tells whoever traces of packets and the decisions on them.
//!
//! While nobody does, that is one test of a flag that has been read already. Otherwise a function of
//! its own looks at the filters; it reads what the stages have left in [`Scratch`].

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::{
    abi::{META_TRACES, NetAddr6, NetU32, TRACE_FILTERS as FILTERS, TraceState},
    engine::{rate::Rate, trace},
};

use crate::{
    maps::{Scratch, TRACE, TRACE_EVENT, TRACE_FILTERS, TRACE_STATE},
    tables::FamilyMaps,
};

/// Events per CPU: as many as somebody can make use of.
pub const RATE: Rate = Rate::per_second(5_000, 1_000);

/// Whether somebody traces.
#[inline(always)]
pub const fn is_on(meta_flags: u32) -> bool {
    meta_flags & META_TRACES != 0
}

/// A family whose packets can be told of.
pub trait Traced: FamilyMaps {
    /// Tells of this CPU's packet, whose decision is carried out.
    fn tell(hook: u32);
}

impl Traced for NetU32 {
    #[inline(always)]
    fn tell(hook: u32) {
        lb_trace_v4(hook);
    }
}

impl Traced for NetAddr6 {
    #[inline(always)]
    fn tell(hook: u32) {
        lb_trace_v6(hook);
    }
}

/// [`Traced::tell`] of IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_trace_v4(hook: u32) -> i32 {
    tell::<NetU32>(hook)
}

/// [`Traced::tell`] of IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_trace_v6(hook: u32) -> i32 {
    tell::<NetAddr6>(hook)
}

#[inline(always)]
fn tell<A: FamilyMaps>(hook: u32) -> i32 {
    let Some(Scratch { context, headers, decision, .. }) = A::scratch() else { return 0 };
    let Some(event) = TRACE_EVENT.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, which nothing else uses while the program runs; the helper has no
    // preconditions.
    let (event, now_ns) = unsafe { (&mut *event, bpf_ktime_get_ns()) };
    trace::describe(hook, now_ns, context, headers, decision, event);
    let mut filters = 0;
    for index in 0..FILTERS {
        let Some(filter) = TRACE_FILTERS.get(index) else { continue };
        if trace::matches(filter, event, context.now_tick) {
            filters |= 1 << index;
        }
    }
    if filters == 0 {
        return 0;
    }
    event.filters = filters;
    let Some(state) = TRACE_STATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above.
    let state: &mut TraceState = unsafe { &mut *state };
    let Some(full_at_ns) = RATE.take(state.full_at_ns, now_ns) else {
        state.lost += 1;
        return 0;
    };
    state.full_at_ns = full_at_ns;
    if TRACE.output(&*event, 0).is_err() {
        state.lost += 1;
    }
    0
}
