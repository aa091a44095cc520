//! Addresses in the context of a socket call.
//!
//! The verifier translates each access to the context by itself, so each is one volatile load or store
//! of a whole word.

use aya_ebpf::programs::SockAddrContext;
use lb_common::abi::{Frontend, FrontendKeyV4, FrontendKeyV6, NetAddr6, NetU16, NetU32};

use super::{
    choice::{
        lb_fallback_v4, lb_fallback_v6, lb_judge_entry_v4, lb_judge_entry_v6, lb_judge_v4,
        lb_judge_v6, lb_pick_v4, lb_pick_v6, lb_scan_v4, lb_scan_v6,
    },
    destination,
    tell::{lb_socket_tell_v4, lb_socket_tell_v6},
};
use crate::tables::FamilyMaps;

/// The third word of an IPv4 address in IPv6 clothes; the first two are zero.
const MAPPED: u32 = 0xffff_u32.to_be();

macro_rules! load {
    ($ctx:expr, $field:ident) => {
        // SAFETY: the kernel's context, which lives as long as the program runs.
        unsafe { (&raw const (*$ctx.sock_addr).$field).read_volatile() }
    };
}

/// Whether the socket of a call has a peer.
#[inline(always)]
pub fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context's own socket, which lives as long as the program runs.
    unsafe {
        let socket = (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile();
        (&raw const (*socket).dst_port).read_volatile() != 0
    }
}

/// An address that a context can hold.
pub trait SocketFamily: FamilyMaps {
    /// Looks up a destination.
    fn look_up(key: &Self::FrontendKey) -> Frontend;
    /// Goes through the members of a service, see [`super::choice`].
    fn fall_back(service: u32, class: u64, hash: u32) -> u64;
    /// Looks for a backend, see [`super::choice`].
    fn pick(ring: u32, has_slots: u32, class: u64, hash: u32) -> u64;
    /// Goes through a part of a list, see [`super::choice`].
    fn scan(start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64;
    /// What becomes of a call that falls on a backend, see [`super::choice`].
    fn judge(number: u32, generation: u64, class: u64) -> u32;
    /// The same for an entry of a list.
    fn judge_entry(index: u32, service: u32, class: u64) -> u64;
    /// Tells of a call to an address; `word` is the rest of it, see [`super::tell`].
    fn tell(ctx: &SockAddrContext, vip: Self, address: Self, word: u64);
    /// Writes address and port into the context; `is_v6`: the context is one of IPv6.
    fn write(ctx: &SockAddrContext, address: Self, port: NetU16, is_v6: bool);
}

impl SocketFamily for NetU32 {
    #[inline(always)]
    fn look_up(key: &FrontendKeyV4) -> Frontend {
        destination::v4(key)
    }

    #[inline(always)]
    fn pick(ring: u32, has_slots: u32, class: u64, hash: u32) -> u64 {
        lb_pick_v4(ring, has_slots, class, hash)
    }

    #[inline(always)]
    fn scan(start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64 {
        lb_scan_v4(start, count, service, class, hash)
    }

    #[inline(always)]
    fn judge_entry(index: u32, service: u32, class: u64) -> u64 {
        lb_judge_entry_v4(index, service, class)
    }

    #[inline(always)]
    fn judge(number: u32, generation: u64, class: u64) -> u32 {
        lb_judge_v4(number, generation, class)
    }

    #[inline(always)]
    fn fall_back(service: u32, class: u64, hash: u32) -> u64 {
        lb_fallback_v4(service, class, hash)
    }

    #[inline(always)]
    fn tell(ctx: &SockAddrContext, vip: Self, address: Self, word: u64) {
        lb_socket_tell_v4(ctx.sock_addr, vip.raw(), address.raw(), word);
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, address: Self, port: NetU16, is_v6: bool) {
        if is_v6 {
            write_v6(ctx, [0, 0, MAPPED, address.raw()]);
        } else {
            // SAFETY: as above; the kernel lets these programs write the address.
            unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address.raw()) };
        }
        write_port(ctx, port);
    }
}

impl SocketFamily for NetAddr6 {
    #[inline(always)]
    fn look_up(key: &FrontendKeyV6) -> Frontend {
        destination::v6(key)
    }

    #[inline(always)]
    fn pick(ring: u32, has_slots: u32, class: u64, hash: u32) -> u64 {
        lb_pick_v6(ring, has_slots, class, hash)
    }

    #[inline(always)]
    fn scan(start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64 {
        lb_scan_v6(start, count, service, class, hash)
    }

    #[inline(always)]
    fn judge_entry(index: u32, service: u32, class: u64) -> u64 {
        lb_judge_entry_v6(index, service, class)
    }

    #[inline(always)]
    fn judge(number: u32, generation: u64, class: u64) -> u32 {
        lb_judge_v6(number, generation, class)
    }

    #[inline(always)]
    fn fall_back(service: u32, class: u64, hash: u32) -> u64 {
        lb_fallback_v6(service, class, hash)
    }

    #[inline(always)]
    fn tell(ctx: &SockAddrContext, vip: Self, _address: Self, word: u64) {
        let [first, second] = destination::halves(vip);
        lb_socket_tell_v6(ctx.sock_addr, first, second, word);
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, address: Self, port: NetU16, _is_v6: bool) {
        write_v6(ctx, address.raw());
        write_port(ctx, port);
    }
}

#[inline(always)]
fn write_v6(ctx: &SockAddrContext, words: [u32; 4]) {
    // SAFETY: as above.
    unsafe {
        let place = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
        place.write_volatile(words[0]);
        place.add(1).write_volatile(words[1]);
        place.add(2).write_volatile(words[2]);
        place.add(3).write_volatile(words[3]);
    }
}

#[inline(always)]
fn write_port(ctx: &SockAddrContext, port: NetU16) {
    // SAFETY: as above.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.raw())) };
}

/// The IPv4 address.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> NetU32 {
    NetU32::from_raw(load!(ctx, user_ip4))
}

/// The IPv6 address.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> NetAddr6 {
    // SAFETY: as above.
    unsafe {
        let place = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        NetAddr6::from_raw([
            place.read_volatile(),
            place.add(1).read_volatile(),
            place.add(2).read_volatile(),
            place.add(3).read_volatile(),
        ])
    }
}

/// The IPv4 address in an IPv6 one.
#[inline(always)]
pub fn unmapped(address: NetAddr6) -> Option<NetU32> {
    let words = address.raw();
    (words[0] == 0 && words[1] == 0 && words[2] == MAPPED).then_some(NetU32::from_raw(words[3]))
}

/// The port.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> NetU16 {
    NetU16::from_raw(load!(ctx, user_port) as u16)
}

/// IP protocol number of the socket.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u32 {
    load!(ctx, protocol)
}
