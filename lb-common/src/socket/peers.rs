//! What a socket remembers of the addresses that it asked for.

use crate::{
    abi::{BACKEND_NONE, NetAddr6, NetU16, SOCKET_PEERS, SocketPeer, SocketPeers},
    engine::wire::Address as _,
};

/// What is remembered of an address that is asked for.
#[inline(always)]
pub fn find(
    peers: &SocketPeers,
    family: u32,
    vip: NetAddr6,
    vip_port: NetU16,
) -> Option<&SocketPeer> {
    let mut index = 0;
    while index < SOCKET_PEERS {
        let peer = &peers.peers[index];
        if is_of(peer, family, vip, vip_port) && peer.is_whole() {
            return Some(peer);
        }
        index += 1;
    }
    None
}

/// Where an address is to be remembered, and its turn: in the place that it has, or else in that of
/// the one that was written longest ago.
#[inline(always)]
#[must_use]
pub fn place_for(
    peers: &SocketPeers,
    family: u32,
    vip: NetAddr6,
    vip_port: NetU16,
) -> (usize, u32) {
    let mut latest = peers.peers[0].turn;
    let mut index = 1;
    while index < SOCKET_PEERS {
        latest = later(latest, peers.peers[index].turn);
        index += 1;
    }
    let (mut place, mut oldest) = (0, 0);
    index = 0;
    while index < SOCKET_PEERS {
        let peer = &peers.peers[index];
        let age = if is_of(peer, family, vip, vip_port) {
            u64::MAX
        } else if peer.backend == BACKEND_NONE {
            u64::MAX - 1
        } else {
            u64::from(latest.wrapping_sub(peer.turn))
        };
        if age > oldest {
            oldest = age;
            place = index;
        }
        index += 1;
    }
    (place, latest.wrapping_add(1))
}

/// The later of two turns, which come round.
#[inline(always)]
const fn later(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one).cast_signed() > 0 { other } else { one }
}

/// Whether another address, led to the same backend, was written later: then an answer would be taken
/// for that one's, see [`sender`].
#[inline(always)]
#[must_use]
pub fn is_behind(peers: &SocketPeers, peer: &SocketPeer) -> bool {
    let mut is_behind = false;
    let mut index = 0;
    while index < SOCKET_PEERS {
        let other = &peers.peers[index];
        let is_same = other.family == peer.family
            && other.port.raw() == peer.port.raw()
            && other.address.is_same(peer.address);
        is_behind |= is_same && later(peer.turn, other.turn) != peer.turn;
        index += 1;
    }
    is_behind
}

/// The address that a socket asked for when it sent to this one. Where two are led to one backend, its
/// answers do not tell for which they are: the one that was asked for last stands for both.
#[inline(always)]
#[must_use]
pub fn sender(
    peers: &SocketPeers,
    family: u32,
    address: NetAddr6,
    port: NetU16,
) -> Option<(NetAddr6, NetU16)> {
    let (mut found, mut turn) = (SOCKET_PEERS, 0);
    let mut index = 0;
    while index < SOCKET_PEERS {
        let peer = &peers.peers[index];
        if translate_back(peer, family, address, port).is_some()
            && (found == SOCKET_PEERS || later(turn, peer.turn) != turn)
        {
            (found, turn) = (index, peer.turn);
        }
        index += 1;
    }
    // Constant offsets, which any verifier follows.
    index = 0;
    while index < SOCKET_PEERS {
        if index == found {
            return Some((peers.peers[index].vip, peers.peers[index].vip_port));
        }
        index += 1;
    }
    None
}

/// The address that was asked for, of a peer that is at this address in fact.
#[inline(always)]
#[must_use]
pub fn translate_back(
    peer: &SocketPeer,
    family: u32,
    address: NetAddr6,
    port: NetU16,
) -> Option<(NetAddr6, NetU16)> {
    let is_it = is_at(peer, family, address, port) && peer.is_whole();
    is_it.then_some((peer.vip, peer.vip_port))
}

/// Whether this is remembered of an address that led to this one.
#[inline(always)]
#[must_use]
pub fn is_at(peer: &SocketPeer, family: u32, address: NetAddr6, port: NetU16) -> bool {
    peer.family == family && peer.port.raw() == port.raw() && peer.address.is_same(address)
}

/// Whether this is what is remembered of an address that is asked for.
#[inline(always)]
#[must_use]
pub fn is_of(peer: &SocketPeer, family: u32, vip: NetAddr6, vip_port: NetU16) -> bool {
    peer.family == family && peer.vip_port.raw() == vip_port.raw() && peer.vip.is_same(vip)
}
