//! The choice of a backend, as functions that the kernel verifies by themselves, once for a program:
//! behind them all ways through the choice are one.

use lb_common::{
    abi::{NetAddr6, NetU32},
    socket::{fallback, judge, judge_entry, pick, scan},
};

use crate::tables::Maps;

/// [`pick`] for IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_pick_v4(ring: u32, has_slots: u32, class: u64, hash: u32) -> u64 {
    pick::<NetU32>(&Maps, ring, has_slots, class, hash)
}

/// [`judge`] for IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_judge_v4(number: u32, generation: u64, class: u64) -> u32 {
    judge::<NetU32>(&Maps, number, generation, class)
}

/// [`fallback`] for IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_fallback_v4(service: u32, class: u64, hash: u32) -> u64 {
    fallback::<NetU32>(&Maps, service, class, hash)
}

/// [`pick`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_pick_v6(ring: u32, has_slots: u32, class: u64, hash: u32) -> u64 {
    pick::<NetAddr6>(&Maps, ring, has_slots, class, hash)
}

/// [`judge`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_judge_v6(number: u32, generation: u64, class: u64) -> u32 {
    judge::<NetAddr6>(&Maps, number, generation, class)
}

/// [`fallback`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_fallback_v6(service: u32, class: u64, hash: u32) -> u64 {
    fallback::<NetAddr6>(&Maps, service, class, hash)
}

/// [`scan`] for IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_scan_v4(start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64 {
    scan::<NetU32>(&Maps, start, count, service, class, hash)
}

/// [`scan`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_scan_v6(start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64 {
    scan::<NetAddr6>(&Maps, start, count, service, class, hash)
}

/// [`judge_entry`] for IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_judge_entry_v4(index: u32, service: u32, class: u64) -> u64 {
    judge_entry::<NetU32>(&Maps, index, service, class)
}

/// [`judge_entry`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_judge_entry_v6(index: u32, service: u32, class: u64) -> u64 {
    judge_entry::<NetAddr6>(&Maps, index, service, class)
}
