//! The kernel programs: maps, entry points, and the engine's two traits. No decisions are made here.
//!
//! | program | hook |
//! |---|---|
//! | `lb_tc_front` | TC ingress of the front interfaces |
//! | `lb_tc_reply` | TC ingress of the host-side veths of backends |
//! | `lb_xdp_front` | XDP on the front interfaces |
//! | `lb_connect4`, `lb_connect6`, `lb_sendmsg4`, … | socket calls of a cgroup's processes |
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "whether an offset is a constant decides what the verifier is told"
)]
#![no_std]
#![no_main]

mod count;
mod fib;
mod frontends;
mod log;
mod maps;
mod socket;
mod tables;
mod tc;
mod trace;
mod window;
mod xdp;

/// Never called: a reachable panic leaves a function that cannot end, which the build refuses and
/// the verifier would refuse too.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers like `bpf_redirect_neigh` are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
