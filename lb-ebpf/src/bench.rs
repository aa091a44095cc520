//! Programs that time the others: they restore the packet, choose a flow, and tail-call the program
//! under test; beside them the floors to compare with. `BPF_PROG_TEST_RUN` does not restore what a
//! program has changed, so that without this only the first of many rounds would be what it seems.
//!
//! For `cargo xtask bench`; no part of what is installed.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    },
    btf_maps::{Array, PerCpuArray, ProgramArray},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Bytes that are restored; the packet has at least as many.
const TEMPLATE_BYTES: usize = 56;

/// How packets follow each other.
#[repr(C)]
pub struct Sequence {
    /// The packet.
    pub template: [u64; TEMPLATE_BYTES / 8],
    /// Number of flows less one, a power of two less one.
    pub flow_mask: u32,
    /// 1: the client is the receiver, as in replies.
    pub is_reply: u32,
}

#[btf_map]
static SEQUENCE: Array<Sequence, 1> = Array::new();
#[btf_map]
static COUNTER: PerCpuArray<u64, 1> = PerCpuArray::new();
// One each: a program array belongs to the first program type that uses it.
#[btf_map]
static XDP_UNDER_TEST: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static TC_UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Restores a frame and goes on with the program under test.
#[xdp]
pub fn bench_xdp(ctx: XdpContext) -> u32 {
    if restore(ctx.data(), ctx.data_end()).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: nothing is left to drop here.
    unsafe { XDP_UNDER_TEST.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// Restores a socket buffer's packet and goes on with the program under test.
#[classifier]
pub fn bench_tc(ctx: TcContext) -> i32 {
    if restore(ctx.data(), ctx.data_end()).is_none() {
        return -2;
    }
    // SAFETY: nothing is left to drop here.
    unsafe { TC_UNDER_TEST.tail_call(&ctx, 0) };
    -2
}

/// The least that an XDP program does.
#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// The least that a TC program does.
#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The least that a forwarder does: look at the headers, swap the MAC addresses, send.
#[xdp]
pub fn floor_xdp(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 54 > end {
        return XDP_PASS;
    }
    // SAFETY: 54 bytes were checked.
    unsafe {
        let packet = data as *mut u8;
        if packet.add(12).cast::<u16>().read() != 0x0008 || packet.add(23).read() != 6 {
            return XDP_PASS;
        }
        let words = data as *mut u16;
        for index in 0..3 {
            let (left, right) = (words.add(index).read(), words.add(index + 3).read());
            words.add(index).write(right);
            words.add(index + 3).write(left);
        }
    }
    XDP_TX
}

#[inline(always)]
fn restore(data: usize, end: usize) -> Option<()> {
    if data + TEMPLATE_BYTES > end {
        return None;
    }
    let sequence = SEQUENCE.get(0)?;
    let counter = COUNTER.get_ptr_mut(0)?;
    // SAFETY: this CPU's counter; `TEMPLATE_BYTES` of the packet were checked.
    unsafe {
        *counter += 1;
        let words = data as *mut u64;
        for (index, word) in sequence.template.iter().enumerate() {
            words.add(index).write(*word);
        }
        // An odd multiplier walks through all flows in an order that no prefetcher follows.
        let flow = (*counter as u32).wrapping_mul(0x9e37_79b1) & sequence.flow_mask;
        let (address_at, port_at) = if sequence.is_reply == 0 { (28, 34) } else { (32, 36) };
        let packet = data as *mut u8;
        packet.add(address_at).cast::<u16>().write((flow >> 14) as u16);
        packet.add(port_at).cast::<u16>().write(((flow & 0x3fff) as u16 + 1024).to_be());
    }
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
