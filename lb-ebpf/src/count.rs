//! Per-CPU counters. A program is not interrupted by another of its kind on its CPU, so plain
//! additions do.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};
use lb_common::{
    abi::{
        BACKEND_NONE, DropReason, Meta, OBSERVATION_REFUSED, OBSERVATION_SILENT, Observation,
        VERDICT_SLOTS, Verdict, moment_from_ns, ticks_from_ns,
    },
    engine::{Context, Decision, Family, observe, wire::Headers},
};

use crate::maps::{
    BACKEND_COUNTERS, BACKEND_IDENTITIES, DROPS, HAS_COARSE_CLOCK, META, OBSERVATIONS, VERDICTS,
};

/// Number of a [`lb_common::abi::Hook`]. Not that type: of a number that is handed from function to
/// function the verifier would follow each value on its own.
pub type HookNumber = u32;

/// What the agent has switched on.
#[inline(always)]
pub fn meta() -> Option<&'static Meta> {
    META.get(0)
}

/// Where and when.
#[inline(always)]
pub fn context(meta: &Meta, ingress_ifindex: u32, reply_ifindex: u32) -> Context {
    // A tick is a second: the last jiffy is good enough, and costs a tenth.
    // SAFETY: the helpers have no preconditions.
    let now_ns = unsafe {
        if HAS_COARSE_CLOCK.load() != 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() }
    };
    Context {
        now_tick: ticks_from_ns(now_ns),
        now_moment: moment_from_ns(now_ns),
        ingress_ifindex,
        reply_ifindex,
        hash_seed: meta.hash_seed,
        meta_flags: meta.flags,
    }
}

/// Counts a verdict.
#[inline(always)]
pub fn verdict(hook: HookNumber, verdict: Verdict) {
    increment(&VERDICTS, hook * VERDICT_SLOTS + verdict as u32);
}

/// Counts a dropped packet.
#[inline(always)]
pub fn drop(hook: HookNumber, reason: DropReason) {
    verdict(hook, Verdict::Drop);
    self::reason(reason);
}

/// Counts why a packet is not forwarded.
#[inline(always)]
pub fn reason(reason: DropReason) {
    increment(&DROPS, reason as u32);
}

/// Counts a packet that was forwarded to or came from a backend, and tells what is odd about it.
#[inline(always)]
pub fn forwarded<A: Family>(
    hook: HookNumber,
    context: &Context,
    headers: &Headers<A>,
    decision: &Decision<A>,
    length_bytes: u32,
) {
    verdict(hook, decision.verdict);
    let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(decision.backend) else { return };
    // SAFETY: the pointer is to this CPU's element.
    let counters = unsafe { &mut *counters };
    if decision.verdict as u32 == Verdict::Reply as u32 {
        counters.packets_out += 1;
        counters.bytes_out += length_bytes as u64;
        observe::note_reply(counters);
        if headers.is_refusal() {
            lb_note_refusal(decision.backend, context.now_moment);
        }
    } else {
        counters.packets_in += 1;
        counters.bytes_in += length_bytes as u64;
        counters.flows += u64::from(decision.opens_flow);
        if decision.opens_flow != 0 {
            lb_note_syn(decision.backend, context.now_moment);
        }
    }
}

/// Counts a container's connection that a backend refused, and tells of it.
#[inline(always)]
pub fn refused(context: &Context, backend: u32) {
    if backend != BACKEND_NONE {
        lb_note_refusal(backend, context.now_moment);
    }
}

/// Counts a SYN to a backend, and tells if it is silent. A function of its own for the verifier's sake.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_note_syn(backend: u32, now_moment: u32) -> i32 {
    let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(backend) else { return 0 };
    // SAFETY: as above.
    if observe::note_syn(unsafe { &mut *counters }, now_moment) {
        lb_observed(backend, OBSERVATION_SILENT);
    }
    0
}

/// Counts a refused connection, and tells of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_note_refusal(backend: u32, now_moment: u32) -> i32 {
    let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(backend) else { return 0 };
    // SAFETY: as above.
    if observe::note_refusal(unsafe { &mut *counters }, now_moment) {
        lb_observed(backend, OBSERVATION_REFUSED);
    }
    0
}

/// Tells of a backend.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_observed(backend: u32, sign: u32) -> i32 {
    let Some(identity) = BACKEND_IDENTITIES.get(backend) else { return 0 };
    let event = Observation { backend, generation: identity.generation, sign, reserved: 0 };
    // What finds no room is told again while it lasts.
    OBSERVATIONS.output(&event, 0).is_err() as i32
}

#[inline(always)]
fn increment<const N: usize>(map: &PerCpuArray<u64, N>, index: u32) {
    if let Some(counter) = map.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's element.
        unsafe { *counter += 1 };
    }
}
