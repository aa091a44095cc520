//! Socket calls of the processes of a cgroup: the address in the call is translated, and nothing else.
//!
//! | program | call | what it does |
//! |---|---|---|
//! | `lb_connect4`, `lb_connect6` | `connect`, TCP fast open | VIP -> backend |
//! | `lb_sendmsg4`, `lb_sendmsg6` | a datagram to an address | VIP -> backend |
//! | `lb_recvmsg4`, `lb_recvmsg6` | the sender of a datagram | backend -> VIP |
//! | `lb_getpeername4`, `lb_getpeername6` | `getpeername` | backend -> VIP |
//! | `lb_sock_release` | the end of a socket | forgets it, and counts it no longer |
//!
//! Unlike those of packets these programs may be interrupted by another on their CPU, and on some
//! kernels preempted, so they keep everything on their stack and count by atomic additions.

mod address;
mod choice;
mod destination;
mod release;
mod storage;
mod tell;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{
    abi::{
        ClassNetwork, Client, FAMILY_V4, FAMILY_V6, Frontend, META_TRACES, Meta, NetAddr6, NetU16,
        NetU32, PROTOCOL_TCP, PROTOCOL_UDP, ReachEntry, ReachKey, ReachList, ServiceScope,
        SocketPeer, Verdict,
    },
    socket::{Call, Decision, Membership, SocketTables, decide, socket_hash, tell_cookie},
};

use crate::{
    count,
    maps::{
        BACKEND_NETWORKS, CLASS_NETWORKS, CLIENTS, COOKIE_ADDRESS, COOKIE_PORT, HAS_SET_RETVAL,
        REACH_ENTRIES, REACH_LISTS, ROUTES_ACROSS, SERVICE_SCOPES,
    },
    socket::address::SocketFamily,
    tables::Maps,
};

/// The call goes on.
const GO_ON: i32 = 1;
/// The caller gets an error.
const REFUSE: i32 = 0;
/// A socket of multipath TCP, which is TCP to its peer.
const PROTOCOL_MPTCP: u32 = 262;

impl<A: SocketFamily> SocketTables<A> for Maps {
    #[inline(always)]
    fn destination(&self, key: &A::FrontendKey) -> Frontend {
        A::look_up(key)
    }

    #[inline(always)]
    fn client(&self, cookie: u64) -> Option<&Client> {
        // SAFETY: only the agent writes; elements of a hash map are swapped.
        unsafe { CLIENTS.get(&cookie) }
    }

    #[inline(always)]
    fn scope(&self, service: u32) -> Option<&ServiceScope> {
        SERVICE_SCOPES.get(service)
    }

    #[inline(always)]
    fn network(&self, backend: u32) -> u64 {
        BACKEND_NETWORKS.get(backend).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn reach_list(&self, key: &ReachKey) -> Option<ReachList> {
        // SAFETY: as above.
        unsafe { REACH_LISTS.get(key) }.copied()
    }

    #[inline(always)]
    fn reach_entry(&self, index: u32) -> ReachEntry {
        ReachEntry::from_raw(REACH_ENTRIES.get(index).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn judge(&self, number: u32, generation: u64, class: u64) -> u32 {
        A::judge(number, generation, class)
    }

    #[inline(always)]
    fn pick(&self, ring: u32, has_slots: u32, class: u64, hash: u32) -> u64 {
        A::pick(ring, has_slots, class, hash)
    }

    #[inline(always)]
    fn judge_entry(&self, index: u32, service: u32, class: u64) -> u64 {
        A::judge_entry(index, service, class)
    }

    #[inline(always)]
    fn scan(&self, start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64 {
        A::scan(start, count, service, class, hash)
    }

    #[inline(always)]
    fn fallback(&self, service: u32, class: u64, hash: u32) -> u64 {
        A::fall_back(service, class, hash)
    }
}

impl Membership for Maps {
    #[inline(always)]
    fn is_on(&self, class: u64, network: u64) -> bool {
        // SAFETY: as above; nothing of the element is read.
        unsafe { CLASS_NETWORKS.get(ClassNetwork { class, network }) }.is_some()
    }
}

/// `connect` with an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn lb_connect4(ctx: SockAddrContext) -> i32 {
    let asked = address::v4(&ctx);
    if COOKIE_ADDRESS.load() != 0 && asked.raw() == COOKIE_ADDRESS.load() {
        tell_cookie_to(&ctx);
    }
    connect::<NetU32>(&ctx, asked, false)
}

/// Tells the agent in which namespace it is, by the address that it is connected to. No VIP is told:
/// all addresses of this kind are loopback addresses, which are none.
#[inline(always)]
fn tell_cookie_to(ctx: &SockAddrContext) {
    if u32::from(address::port(ctx).raw()) != COOKIE_PORT.load() {
        return;
    }
    // SAFETY: the context is a socket's.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if let Some((address, port)) = tell_cookie(cookie) {
        NetU32::write(ctx, NetU32::new(address), NetU16::new(port), false);
    }
}

/// `connect` with an IPv6 address, which may be one of IPv4 in disguise.
#[cgroup_sock_addr(connect6)]
pub fn lb_connect6(ctx: SockAddrContext) -> i32 {
    let asked = address::v6(&ctx);
    match address::unmapped(asked) {
        Some(asked) => connect::<NetU32>(&ctx, asked, true),
        None => connect::<NetAddr6>(&ctx, asked, true),
    }
}

/// A datagram to an IPv4 address, also by a socket of IPv6.
#[cgroup_sock_addr(sendmsg4)]
pub fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<NetU32>(&ctx, address::v4(&ctx), false)
}

/// A datagram to an IPv6 address. The kernel takes one of IPv4 in disguise for IPv4.
#[cgroup_sock_addr(sendmsg6)]
pub fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<NetAddr6>(&ctx, address::v6(&ctx), true)
}

/// The sender of a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    storage::name_sender_v4(&ctx);
    GO_ON
}

/// The sender of a datagram.
#[cgroup_sock_addr(recvmsg6)]
pub fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    storage::name_sender_v6(&ctx);
    GO_ON
}

/// The peer of a socket.
#[cgroup_sock_addr(getpeername4)]
pub fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    storage::name_peer_v4(&ctx);
    GO_ON
}

/// The peer of a socket.
#[cgroup_sock_addr(getpeername6)]
pub fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    storage::name_peer_v6(&ctx);
    GO_ON
}

/// `connect`, of TCP or UDP. `is_v6`: the address in the call is one of IPv6.
#[inline(always)]
fn connect<A: SocketFamily>(ctx: &SockAddrContext, asked: A, is_v6: bool) -> i32 {
    let Some(meta) = count::meta() else { return GO_ON };
    let Some(protocol) = protocol(ctx) else { return GO_ON };
    let mut call = call(ctx, meta, asked, protocol);
    // SAFETY: the helper has no preconditions.
    call.hash = unsafe { bpf_get_prandom_u32() };
    let decision = decide(&Maps, &call, None);
    let action = match decision.verdict {
        Verdict::Deliver | Verdict::Route => {
            // When there is no memory for it, the peer is shown as the backend.
            storage::remember_peer(ctx, &decision.peer(&call, 1), protocol);
            if protocol == u32::from(PROTOCOL_UDP) {
                storage::remember_connected(ctx, decision.backend, decision.generation);
            }
            A::write(ctx, decision.address, decision.port, is_v6);
            GO_ON
        }
        Verdict::Drop => refuse(decision.errno),
        _ => {
            // A socket may have had another peer before.
            storage::forget_peer(ctx, protocol);
            if protocol == u32::from(PROTOCOL_UDP) {
                storage::forget_asked_for(ctx, asked, call.port);
            }
            GO_ON
        }
    };
    finish(ctx, meta, &call, &decision, action)
}

/// A datagram to an address.
#[inline(always)]
fn send<A: SocketFamily>(ctx: &SockAddrContext, asked: A, is_v6: bool) -> i32 {
    let Some(meta) = count::meta() else { return GO_ON };
    let Some(protocol) = protocol(ctx) else { return GO_ON };
    let mut call = call(ctx, meta, asked, protocol);
    // SAFETY: the context is a socket's.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    call.hash = socket_hash(meta.hash_seed, socket, call.port);
    let mut known = SocketPeer::default();
    let storage::Known { is_known, is_behind } = storage::known(ctx, &call, &mut known);
    let decision = decide(&Maps, &call, if is_known { Some(&known) } else { None });
    let action = match decision.verdict {
        Verdict::Deliver | Verdict::Route => {
            if (decision.is_new != 0 || is_behind)
                && !storage::remember_datagrams(ctx, &call, &decision)
            {
                // Its answer would come from a stranger.
                refuse(NO_MEMORY)
            } else {
                A::write(ctx, decision.address, decision.port, is_v6);
                GO_ON
            }
        }
        Verdict::Drop => refuse(decision.errno),
        _ => {
            storage::forget_asked_for(ctx, asked, call.port);
            GO_ON
        }
    };
    // Of datagrams that follow others nothing is told.
    if decision.is_new == 0 && decision.verdict as u32 != Verdict::Drop as u32 {
        return action;
    }
    finish(ctx, meta, &call, &decision, action)
}

/// `ENOMEM`.
const NO_MEMORY: i32 = 12;

/// TCP or UDP.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<u32> {
    match address::protocol(ctx) {
        PROTOCOL_MPTCP => Some(PROTOCOL_TCP as u32),
        protocol if protocol == PROTOCOL_TCP as u32 || protocol == PROTOCOL_UDP as u32 => {
            Some(protocol)
        }
        _ => None,
    }
}

#[inline(always)]
fn call<A: SocketFamily>(ctx: &SockAddrContext, meta: &Meta, vip: A, protocol: u32) -> Call<A> {
    Call {
        vip,
        port: address::port(ctx),
        protocol,
        // SAFETY: the context is a socket's.
        client: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        hash: 0,
        hash_seed: meta.hash_seed,
        routes_across: ROUTES_ACROSS.load(),
    }
}

/// Gives the caller an error; on old kernels that is always `EPERM`.
#[inline(always)]
fn refuse(errno: i32) -> i32 {
    if HAS_SET_RETVAL.load() != 0 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_set_retval(-errno) };
    }
    REFUSE
}

/// Counts, and tells whoever traces.
#[inline(always)]
fn finish<A: SocketFamily>(
    ctx: &SockAddrContext,
    meta: &Meta,
    call: &Call<A>,
    decision: &Decision<A>,
    action: i32,
) -> i32 {
    tell::count(decision);
    if meta.flags & META_TRACES != 0 {
        tell::tell(ctx, call, decision);
    }
    action
}

const _: () = assert!(FAMILY_V4 == 0 && FAMILY_V6 == 1);
const _: () = assert!(size_of::<NetU16>() == 2);
