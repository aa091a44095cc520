//! What sockets remember. It is part of the socket: it ends with it, no other socket can push it out,
//! and its memory counts as the socket's own.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_socket_cookie,
        generated::{bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    },
    programs::{SockAddrContext, SockContext},
};
use lb_common::{
    abi::{
        BACKEND_NONE, FAMILY_V4, FAMILY_V6, NetAddr6, NetU16, NetU32, PROTOCOL_TCP, SOCKET_PEERS,
        SocketPeer, SocketPeers, connected_to,
    },
    engine::wire::Address as _,
    socket::{Call, Decision, find, is_at, is_behind, is_of, place_for, sender, translate_back},
};

use super::{
    address::{self, SocketFamily},
    tell,
};
use crate::maps::{
    BACKEND_IDENTITIES, CONNECTED, CONNECTED_DATAGRAMS, DATAGRAM_PEERS, HAS_MPTCP_SOCK,
};

/// Remembers whom a socket is connected to. False: there is no memory.
#[inline(always)]
pub fn remember_peer(ctx: &SockAddrContext, peer: &SocketPeer, protocol: u32) -> bool {
    // SAFETY: the socket is the context's own, and lives.
    let place = unsafe { CONNECTED.get_or_insert_ptr_mut(ctx, None) };
    if place.is_null() {
        return false;
    }
    if is_counted(ctx, protocol) {
        // SAFETY: as below.
        leave(unsafe { &*place });
        tell::count_socket(peer.backend, true);
    }
    // SAFETY: the socket's own storage, of this type. Another thread may write it at once: the seal
    // shows it.
    unsafe { *place = *peer };
    true
}

/// Whether the socket is counted among those of its backend: one of TCP whose end is seen, which that of
/// the kernel's own, under one of multipath TCP, is not.
#[inline(always)]
fn is_counted(ctx: &SockAddrContext, protocol: u32) -> bool {
    if protocol != u32::from(PROTOCOL_TCP) {
        return false;
    }
    if HAS_MPTCP_SOCK.load() == 0 {
        return true;
    }
    // SAFETY: the context is the kernel's.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: the context's socket lives.
    unsafe { bpf_skc_to_mptcp_sock(socket.cast()) }.is_null()
}

/// Counts a TCP socket no longer among those of its backend. The kernel holds the socket, so nobody else
/// writes what it remembers.
#[inline(always)]
fn leave(peer: &SocketPeer) {
    if peer.seal == 0 || peer.backend == BACKEND_NONE {
        return;
    }
    // With another generation the number's count began anew.
    if let Some(identity) = BACKEND_IDENTITIES.get(peer.backend)
        && identity.generation == peer.generation
    {
        tell::count_socket(peer.backend, false);
    }
}

/// Forgets whom a TCP socket was connected to, which is closed.
#[inline(always)]
pub fn forget_closed(ctx: &SockContext) {
    let map = (&raw const CONNECTED).cast_mut().cast();
    // SAFETY: a map of sockets and, as this kind of program has it, a socket for its context.
    let place = unsafe { bpf_sk_storage_get(map, ctx.as_ptr(), ptr::null_mut(), 0) };
    let place = place.cast::<SocketPeer>();
    if !place.is_null() {
        // SAFETY: the socket's own storage, of this type.
        leave(unsafe { &*place });
        // SAFETY: as above; without its seal it counts as nothing.
        unsafe { (&raw mut (*place).seal).write_volatile(0) };
    }
}

/// Lets the agent find the socket when its backend is gone.
#[inline(always)]
pub fn remember_connected(ctx: &SockAddrContext, backend: u32, generation: u32) {
    // SAFETY: the context is a socket's.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // The oldest makes room.
    let _ = CONNECTED_DATAGRAMS.insert(&socket, connected_to(backend, generation), 0);
}

/// Forgets whom a socket was connected to before.
#[inline(always)]
pub fn forget_peer(ctx: &SockAddrContext, protocol: u32) {
    // SAFETY: as above.
    let place = unsafe { CONNECTED.get_ptr_mut(ctx) };
    if !place.is_null() {
        if is_counted(ctx, protocol) {
            // SAFETY: as above.
            leave(unsafe { &*place });
        }
        // SAFETY: as above; without its seal it counts as nothing.
        unsafe { (&raw mut (*place).seal).write_volatile(0) };
        // Else it would be ended with a backend that it has left.
        // SAFETY: the context is a socket's.
        let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        let _ = CONNECTED_DATAGRAMS.remove(&socket);
    }
}

/// Whoever is asked for by this address itself answers as itself, although another address led there
/// before.
#[inline(always)]
pub fn forget_asked_for<A: SocketFamily>(ctx: &SockAddrContext, asked: A, port: NetU16) {
    let address = NetAddr6::from_raw(asked.words());
    // `connect` to nobody is seen by no program, and leaves what was remembered of the peer.
    if !address::is_connected(ctx) {
        // SAFETY: as above.
        let place = unsafe { CONNECTED.get_ptr_mut(ctx) };
        if !place.is_null() {
            // SAFETY: as above.
            forget_if_at::<A>(unsafe { &mut *place }, address, port);
        }
    }
    // SAFETY: as above.
    let place = unsafe { DATAGRAM_PEERS.get_ptr_mut(ctx) };
    if place.is_null() {
        return;
    }
    // SAFETY: as above.
    let peers: &mut SocketPeers = unsafe { &mut *place };
    let mut at = 0;
    while at < SOCKET_PEERS {
        forget_if_at::<A>(&mut peers.peers[at], address, port);
        at += 1;
    }
}

#[inline(always)]
fn forget_if_at<A: SocketFamily>(peer: &mut SocketPeer, address: NetAddr6, port: NetU16) {
    if is_at(peer, A::NUMBER, address, port) {
        // SAFETY: a place in the socket's storage; without its seal it counts as nothing.
        unsafe { (&raw mut peer.seal).write_volatile(0) };
    }
}

/// What a socket remembers of the address of a call.
pub struct Known {
    /// Whether it is anything.
    pub is_known: bool,
    /// Whether another address was asked for later and led to the same backend.
    pub is_behind: bool,
}

/// Copies what a socket remembers of the address of a call.
#[inline(always)]
pub fn known<A: SocketFamily>(
    ctx: &SockAddrContext,
    call: &Call<A>,
    known: &mut SocketPeer,
) -> Known {
    const NOTHING: Known = Known { is_known: false, is_behind: false };
    let vip = NetAddr6::from_raw(call.vip.words());
    // SAFETY: as above.
    let place = unsafe { CONNECTED.get_ptr_mut(ctx) };
    if !place.is_null() && address::is_connected(ctx) {
        // SAFETY: as above.
        let peer: &SocketPeer = unsafe { &*place };
        // The kernel takes answers of that backend alone.
        if is_of(peer, A::NUMBER, vip, call.port) && peer.is_whole() {
            *known = *peer;
            return Known { is_known: true, is_behind: false };
        }
    }
    // SAFETY: as above.
    let place = unsafe { DATAGRAM_PEERS.get_ptr_mut(ctx) };
    if place.is_null() {
        return NOTHING;
    }
    // SAFETY: as above.
    let peers: &SocketPeers = unsafe { &*place };
    let Some(peer) = find(peers, A::NUMBER, vip, call.port) else {
        return NOTHING;
    };
    *known = *peer;
    Known { is_known: true, is_behind: is_behind(peers, known) }
}

/// Remembers where a socket sends its datagrams to. False: there is no memory.
#[inline(always)]
pub fn remember_datagrams<A: SocketFamily>(
    ctx: &SockAddrContext,
    call: &Call<A>,
    decision: &Decision<A>,
) -> bool {
    // SAFETY: as above.
    let place = unsafe { DATAGRAM_PEERS.get_or_insert_ptr_mut(ctx, None) };
    if place.is_null() {
        return false;
    }
    // SAFETY: as above.
    let peers: &mut SocketPeers = unsafe { &mut *place };
    let vip = NetAddr6::from_raw(call.vip.words());
    let (index, turn) = place_for(peers, A::NUMBER, vip, call.port);
    let peer = decision.peer(call, turn);
    // Constant offsets, which any verifier follows.
    let mut at = 0;
    while at < SOCKET_PEERS {
        if at == index {
            peers.peers[at] = peer;
        }
        at += 1;
    }
    true
}

/// Shows the virtual address as the sender of a datagram.
#[inline(always)]
pub fn name_sender_v4(ctx: &SockAddrContext) {
    let (from, port) = (wide_v4(address::v4(ctx)), address::port(ctx));
    if let Some((vip, vip_port)) = asked_for(ctx, FAMILY_V4, from, port) {
        NetU32::write(ctx, NetU32::from_raw(vip.raw()[0]), vip_port, false);
    }
}

/// As [`name_sender_v4`], for a socket of IPv6.
#[inline(always)]
pub fn name_sender_v6(ctx: &SockAddrContext) {
    let (from, port) = (address::v6(ctx), address::port(ctx));
    match address::unmapped(from) {
        Some(from) => {
            if let Some((vip, vip_port)) = asked_for(ctx, FAMILY_V4, wide_v4(from), port) {
                NetU32::write(ctx, NetU32::from_raw(vip.raw()[0]), vip_port, true);
            }
        }
        None => {
            if let Some((vip, vip_port)) = asked_for(ctx, FAMILY_V6, from, port) {
                NetAddr6::write(ctx, vip, vip_port, true);
            }
        }
    }
}

/// Shows the virtual address as the peer of a socket.
#[inline(always)]
pub fn name_peer_v4(ctx: &SockAddrContext) {
    let (peer, port) = (wide_v4(address::v4(ctx)), address::port(ctx));
    if let Some((vip, vip_port)) = peer_of(ctx, FAMILY_V4, peer, port) {
        NetU32::write(ctx, NetU32::from_raw(vip.raw()[0]), vip_port, false);
    }
}

/// As [`name_peer_v4`], for a socket of IPv6.
#[inline(always)]
pub fn name_peer_v6(ctx: &SockAddrContext) {
    let (peer, port) = (address::v6(ctx), address::port(ctx));
    match address::unmapped(peer) {
        Some(peer) => {
            if let Some((vip, vip_port)) = peer_of(ctx, FAMILY_V4, wide_v4(peer), port) {
                NetU32::write(ctx, NetU32::from_raw(vip.raw()[0]), vip_port, true);
            }
        }
        None => {
            if let Some((vip, vip_port)) = peer_of(ctx, FAMILY_V6, peer, port) {
                NetAddr6::write(ctx, vip, vip_port, true);
            }
        }
    }
}

/// The address that a connected socket asked for.
#[inline(always)]
fn peer_of(
    ctx: &SockAddrContext,
    family: u32,
    peer: NetAddr6,
    port: NetU16,
) -> Option<(NetAddr6, NetU16)> {
    // SAFETY: as above.
    let place = unsafe { CONNECTED.get_ptr_mut(ctx) };
    if place.is_null() {
        return None;
    }
    // SAFETY: as above.
    translate_back(unsafe { &*place }, family, peer, port)
}

/// The address that a socket asked for when it sent to this one.
#[inline(always)]
fn asked_for(
    ctx: &SockAddrContext,
    family: u32,
    from: NetAddr6,
    port: NetU16,
) -> Option<(NetAddr6, NetU16)> {
    let peer = peer_of(ctx, family, from, port);
    if peer.is_some() && address::is_connected(ctx) {
        return peer;
    }
    // SAFETY: as above.
    let place = unsafe { DATAGRAM_PEERS.get_ptr_mut(ctx) };
    if place.is_null() {
        return peer;
    }
    // SAFETY: as above.
    let peers: &SocketPeers = unsafe { &*place };
    // What came from a former peer may still wait to be read.
    sender(peers, family, from, port).or(peer)
}

#[inline(always)]
fn wide_v4(address: NetU32) -> NetAddr6 {
    NetAddr6::from_raw(address.words())
}
