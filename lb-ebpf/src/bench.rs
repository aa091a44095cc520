//! Programs that time the others: they restore the packet, choose a flow, and tail-call the program
//! under test; beside them the floors to compare with, and the same with a table of flows as other
//! balancers have it. `BPF_PROG_TEST_RUN` does not restore what a program has changed, so that
//! without this only the first of many rounds would be what it seems.
//!
//! For `cargo xtask bench`; no part of what is installed.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    },
    btf_maps::{Array, LruHashMap, PerCpuArray, ProgramArray},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Bytes that are restored of a packet of IPv4: the headers up to TCP's.
const V4_BYTES: usize = 54;
/// Bytes that are restored of a packet of IPv6: the headers up to TCP's checksum, and whole words.
const V6_BYTES: usize = 72;
/// Flows that the table of flows has room for.
const TRACKED_FLOWS: usize = 1 << 18;

/// How packets follow each other.
#[repr(C)]
pub struct Sequence {
    /// The packet.
    pub template: [u64; V6_BYTES / 8],
    /// Number of flows less one, a power of two less one.
    pub flow_mask: u32,
    /// Not 0: it is of IPv6.
    pub is_v6: u32,
    /// Where the last two bytes of the client's address are.
    pub address_offset: u32,
    /// Where the client's port is.
    pub port_offset: u32,
}

/// A flow as a balancer that tracks every flow knows it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct TrackedFlow {
    /// Addresses, of IPv6 the last word.
    addresses: [u32; 2],
    /// Ports.
    ports: u32,
    /// IP protocol number.
    protocol: u32,
}

#[btf_map]
static SEQUENCE: Array<Sequence, 1> = Array::new();
#[btf_map]
static COUNTER: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static TRACKED: LruHashMap<TrackedFlow, u64, TRACKED_FLOWS> = LruHashMap::new();
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

/// [`bench_xdp`], and what a table of all flows costs on the way.
#[xdp]
pub fn bench_tracked_xdp(ctx: XdpContext) -> u32 {
    let Some(number) = restore(ctx.data(), ctx.data_end()) else { return XDP_ABORTED };
    if track(ctx.data(), ctx.data_end(), number).is_none() {
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

/// [`bench_tc`], and what a table of all flows costs on the way.
#[classifier]
pub fn bench_tracked_tc(ctx: TcContext) -> i32 {
    let Some(number) = restore(ctx.data(), ctx.data_end()) else { return -2 };
    if track(ctx.data(), ctx.data_end(), number).is_none() {
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
        let is_v4 = packet.add(12).cast::<u16>().read() == 0x0008 && packet.add(23).read() == 6;
        let is_v6 = packet.add(12).cast::<u16>().read() == 0xdd86 && packet.add(20).read() == 6;
        if !is_v4 && !is_v6 {
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

/// Restores the packet and makes it the next flow's; returns the packet's number.
#[inline(always)]
fn restore(data: usize, end: usize) -> Option<u64> {
    let sequence = SEQUENCE.get(0)?;
    let counter = COUNTER.get_ptr_mut(0)?;
    // SAFETY: this CPU's counter.
    let number = unsafe {
        *counter += 1;
        *counter
    };
    // An odd multiplier walks through all flows in an order that no prefetcher follows.
    let flow = (number as u32).wrapping_mul(0x9e37_79b1) & sequence.flow_mask;
    let words = data as *mut u64;
    if sequence.is_v6 != 0 {
        if data + V6_BYTES > end {
            return None;
        }
        for index in 0..V6_BYTES / 8 {
            // SAFETY: so many bytes were checked; as below.
            unsafe { words.add(index).write(sequence.template[index]) };
        }
    } else {
        if data + V4_BYTES > end {
            return None;
        }
        for index in 0..V4_BYTES / 8 {
            // SAFETY: as above.
            unsafe { words.add(index).write(sequence.template[index]) };
        }
        let rest = sequence.template[V4_BYTES / 8];
        // SAFETY: as above.
        unsafe {
            words.add(V4_BYTES / 8).cast::<u32>().write(rest as u32);
            words.add(V4_BYTES / 8).cast::<u16>().add(2).write((rest >> 32) as u16);
        }
    }
    let (address_at, port_at) = (sequence.address_offset as usize, sequence.port_offset as usize);
    put(data, end, address_at, (flow >> 14) as u16)?;
    put(data, end, port_at, ((flow & 0x3fff) as u16 + 1024).to_be())?;
    Some(number)
}

/// Writes two bytes of the packet's headers.
#[inline(always)]
fn put(data: usize, end: usize, at: usize, value: u16) -> Option<()> {
    let field = data + (at & 0x7f);
    if field + 2 > end {
        return None;
    }
    // SAFETY: two bytes were checked.
    unsafe { (field as *mut u16).write(value) };
    Some(())
}

/// Looks the flow up and remembers it.
#[inline(always)]
fn track(data: usize, end: usize, number: u64) -> Option<()> {
    if data + V4_BYTES > end {
        return None;
    }
    let packet = data as *const u8;
    // SAFETY: so many bytes were checked, or are before they are read.
    let flow = unsafe {
        let word = |at: usize| packet.add(at).cast::<u32>().read();
        if packet.add(12).cast::<u16>().read() == 0x0008 {
            TrackedFlow {
                addresses: [word(26), word(30)],
                ports: word(34),
                protocol: u32::from(packet.add(23).read()),
            }
        } else {
            if data + V6_BYTES > end {
                return None;
            }
            TrackedFlow {
                addresses: [word(34), word(50)],
                ports: word(54),
                protocol: u32::from(packet.add(20).read()),
            }
        }
    };
    if let Some(seen) = TRACKED.get_ptr_mut(&flow) {
        // SAFETY: an element stays readable and writable until the program ends.
        unsafe { *seen = number };
        return Some(());
    }
    // The oldest makes room.
    let _ = TRACKED.insert(&flow, &number, 0);
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
