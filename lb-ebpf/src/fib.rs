//! The next hop, by the kernel's routing table.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
    },
    helpers::bpf_fib_lookup,
};
use lb_common::{
    abi::{DropReason, NetAddr6, NetU32},
    engine::{Context, wire::Headers},
};

/// `AF_INET`.
const ADDRESS_FAMILY_INET: u8 = 2;
/// `AF_INET6`.
const ADDRESS_FAMILY_INET6: u8 = 10;

/// No MTU is so small, and no packet: what was asked with comes back.
pub const MTU_UNKNOWN: u32 = 1;

/// Where a packet goes next.
pub struct NextHop {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Destination and source MAC address, when the neighbour is known.
    pub macs: Option<[u16; 6]>,
    /// MTU of the way, which a route may say; [`MTU_UNKNOWN`], since the neighbour is or the kernel is
    /// older than 5.12.
    pub mtu: u32,
}

/// An address that routes are looked up for.
pub trait FibAddress: Sized {
    /// Writes the family's part of a lookup.
    fn write(lookup: &mut FibLookup, source: Self, destination: Self, traffic_class: u32);
}

impl FibAddress for NetU32 {
    #[inline(always)]
    fn write(lookup: &mut FibLookup, source: Self, destination: Self, traffic_class: u32) {
        lookup.family = ADDRESS_FAMILY_INET;
        lookup.__bindgen_anon_2.tos = traffic_class as u8;
        lookup.__bindgen_anon_3.ipv4_src = source.raw();
        lookup.__bindgen_anon_4.ipv4_dst = destination.raw();
    }
}

impl FibAddress for NetAddr6 {
    #[inline(always)]
    fn write(lookup: &mut FibLookup, source: Self, destination: Self, traffic_class: u32) {
        lookup.family = ADDRESS_FAMILY_INET6;
        lookup.__bindgen_anon_2.flowinfo = (traffic_class << 20).to_be();
        lookup.__bindgen_anon_3.ipv6_src = source.raw();
        lookup.__bindgen_anon_4.ipv6_dst = destination.raw();
    }
}

/// Looks up the way from `source` to `destination` for a packet that came in where `place` says.
///
/// With `l3_bytes` a packet that exceeds the MTU finds no way; XDP leaves it to TC then. 0 finds it: TC
/// compares with the MTU itself, since a packet that is yet to be segmented may be larger.
///
/// # Minimum kernel version
///
/// 4.18.
#[inline(always)]
pub fn next_hop<C, A: FibAddress>(
    context: *mut C,
    place: &Context,
    headers: &Headers<A>,
    source: A,
    destination: A,
    l3_bytes: u32,
) -> Result<NextHop, DropReason> {
    // SAFETY: plain data, for which zero is valid.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = headers.protocol as u8;
    lookup.ifindex = place.ingress_ifindex;
    A::write(&mut lookup, source, destination, headers.traffic_class);
    // The kernel tells the MTU to who asks whether a packet fits; the shortest one always does.
    lookup.__bindgen_anon_1.tot_len = match l3_bytes {
        0 => MTU_UNKNOWN as u16,
        1..0xffff => l3_bytes as u16,
        _ => 0xffff,
    };
    let length = size_of::<FibLookup>() as i32;
    // SAFETY: `context` is the program's own, `lookup` is `length` bytes.
    let result = unsafe { bpf_fib_lookup(context.cast(), &raw mut lookup, length, 0) };
    // SAFETY: any bytes are a number.
    let mtu = u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result });
    // Before 5.12 the kernel compares the length of a socket buffer all the same, when all is found.
    let is_found = result == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || (result == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) && l3_bytes == 0);
    if is_found {
        return Ok(NextHop { ifindex: lookup.ifindex, macs: Some(macs(&lookup)), mtu });
    }
    if result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return Ok(NextHop { ifindex: lookup.ifindex, macs: None, mtu });
    }
    if result == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED) {
        return Err(DropReason::ForwardingDisabled);
    }
    Err(DropReason::NoRoute)
}

/// The two addresses as words, destination first. Read one by one: merged into wider loads they would
/// be misaligned, which the verifier refuses for the stack.
#[inline(always)]
fn macs(lookup: &FibLookup) -> [u16; 6] {
    let mut words = [0; 6];
    for (at, mac) in [(0, &raw const lookup.dmac), (3, &raw const lookup.smac)] {
        for index in 0..3 {
            // SAFETY: three words of a six byte array, at an even offset.
            words[at + index] = unsafe { mac.cast::<u16>().add(index).read_volatile() };
        }
    }
    words
}
