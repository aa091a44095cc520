//! What a socket remembers of the addresses that it asked for.

use crate::{
    abi::{NetAddr6, NetU16, SOCKET_PEERS, SocketPeer, SocketPeers},
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
    let (mut place, mut oldest, mut latest) = (0, u32::MAX, 0);
    let mut index = 0;
    while index < SOCKET_PEERS {
        let peer = &peers.peers[index];
        if peer.turn > latest {
            latest = peer.turn;
        }
        let age = if is_of(peer, family, vip, vip_port) { 0 } else { peer.turn.saturating_add(1) };
        if age < oldest {
            oldest = age;
            place = index;
        }
        index += 1;
    }
    (place, latest.saturating_add(1))
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
    let is_it = peer.family == family
        && peer.port.raw() == port.raw()
        && peer.address.is_same(address)
        && peer.is_whole();
    is_it.then_some((peer.vip, peer.vip_port))
}

#[inline(always)]
fn is_of(peer: &SocketPeer, family: u32, vip: NetAddr6, vip_port: NetU16) -> bool {
    peer.family == family && peer.vip_port.raw() == vip_port.raw() && peer.vip.is_same(vip)
}
