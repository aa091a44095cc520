//! Counters of socket calls, and what whoever traces is told of them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use lb_common::{
    abi::{
        BACKEND_NONE, DROP_REASON_SLOTS, DropReason, Hook, MAX_BACKENDS, NetAddr6, NetU16, NetU32,
        TRACE_FILTERS as FILTERS, VERDICT_SLOTS, ticks_from_ns,
    },
    socket::{Call, Decision, Told, describe, is_wanted},
};

use super::address::{self, SocketFamily};
use crate::{
    maps::{BACKEND_COUNTERS, DROPS, TRACE, TRACE_FILTERS, TRACE_STATE, VERDICTS},
    trace::RATE,
};

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

/// Counts a TCP socket among those of its backend, or no longer.
#[inline(always)]
pub fn count_socket(backend: u32, is_one_more: bool) {
    if let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(backend) {
        let difference = if is_one_more { 1 } else { u32::MAX };
        // SAFETY: an aligned word of a map, as below.
        unsafe {
            let place = &raw mut (*counters).sockets;
            atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(place, difference)
        };
    }
}

/// One instruction, in whose middle nothing of this CPU comes.
#[inline(always)]
fn add_one(place: *mut u64) {
    // SAFETY: an aligned word of a map, which stays where it is.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(place, 1) };
}

/// Tells of a decision that was carried out: what the port became, and the address of IPv6, for which
/// a function takes too few words, is in the context.
#[inline(always)]
pub fn tell<A: SocketFamily>(ctx: &SockAddrContext, call: &Call<A>, decision: &Decision<A>) {
    let word = u64::from(call.port.raw())
        | u64::from(decision.backend) << BACKEND_SHIFT
        | (decision.verdict as u64) << VERDICT_SHIFT
        | (decision.reason as u64) << REASON_SHIFT
        | u64::from(call.protocol) << PROTOCOL_SHIFT;
    A::tell(ctx, call.vip, decision.address, word);
}

const BACKEND_SHIFT: u32 = 16;
const VERDICT_SHIFT: u32 = 36;
const REASON_SHIFT: u32 = 40;
const PROTOCOL_SHIFT: u32 = 48;

/// Tells of a call to an IPv4 address, from the words of [`tell`]. A function that the kernel verifies
/// by itself: its filters would be followed anew for each way on which a call is decided.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_socket_tell_v4(
    ctx: *mut bpf_sock_addr,
    vip: u32,
    address: u32,
    word: u64,
) -> i32 {
    let ctx = SockAddrContext::new(ctx);
    publish(&ctx, NetU32::from_raw(vip), NetU32::from_raw(address), word)
}

/// [`lb_socket_tell_v4`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_socket_tell_v6(
    ctx: *mut bpf_sock_addr,
    first: u64,
    second: u64,
    word: u64,
) -> i32 {
    let ctx = SockAddrContext::new(ctx);
    let vip = [(first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32];
    publish(&ctx, NetAddr6::from_raw(vip), address::v6(&ctx), word)
}

/// Calls take from the bucket of packets: what is told of both is for the same reader. Nothing is reserved
/// before somebody wants it: what is reserved and not wanted would keep its place in the buffer.
#[inline(always)]
fn publish<A: SocketFamily>(ctx: &SockAddrContext, vip: A, address: A, word: u64) -> i32 {
    let told = Told {
        // SAFETY: the context is a socket's.
        client: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        vip,
        vip_port: NetU16::from_raw(word as u16),
        protocol: (word >> PROTOCOL_SHIFT) as u32 & 0xff,
        verdict: (word >> VERDICT_SHIFT) as u32 & 0xf,
        reason: (word >> REASON_SHIFT) as u32 & 0xff,
        backend: (word >> BACKEND_SHIFT) as u32 & 0xf_ffff,
        address,
        port: address::port(ctx),
    };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let now_tick = ticks_from_ns(now_ns);
    let mut filters = 0;
    for index in 0..FILTERS {
        let Some(filter) = TRACE_FILTERS.get(index) else { continue };
        if is_wanted(filter, &told, now_tick) {
            filters |= 1 << index;
        }
    }
    if filters == 0 {
        return 0;
    }
    let Some(state) = TRACE_STATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: an element of this CPU, of this type.
    let (full_at_ns, lost) = unsafe { (&raw mut (*state).full_at_ns, &raw mut (*state).lost) };
    // SAFETY: a whole word. Packets may take a token in between, which is then taken once for two.
    let Some(next_ns) = RATE.take(unsafe { full_at_ns.read_volatile() }, now_ns) else {
        add_one(lost);
        return 0;
    };
    // SAFETY: as above.
    unsafe { full_at_ns.write_volatile(next_ns) };
    // The event is made where it is read: of one on the stack LLVM merges stores, which the verifier
    // refuses there.
    let Some(mut place) = TRACE.reserve(0) else {
        add_one(lost);
        return 0;
    };
    // SAFETY: `describe` writes all of it before anything is read.
    let event = unsafe { &mut *place.as_mut_ptr() };
    describe(now_ns, &told, event);
    event.filters = filters;
    place.submit(0);
    0
}

const _: () = assert!(MAX_BACKENDS <= 0xf_ffff && VERDICT_SLOTS <= 16 && DROP_REASON_SLOTS <= 256);
