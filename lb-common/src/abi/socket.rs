//! Sockets of this node's own clients: who they are, what they may see, and what a socket remembers of
//! the address that it asked for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16};

/// Network namespaces whose clients are known; a node runs no more containers than that.
pub const MAX_CLIENTS: u32 = 8192;
/// Connected sockets of UDP that can be told that their backend is gone; of more, those that were
/// connected last.
pub const MAX_CONNECTED_DATAGRAMS: u32 = 64 * 1024;
/// Networks that one client is known to be on.
pub const CLIENT_NETWORKS: usize = 8;
/// Networks that one service can be visible to.
pub const SCOPE_NETWORKS: usize = 4;
/// Virtual addresses that one unconnected socket remembers; of more, the one that was asked for
/// longest ago is forgotten, and the next datagram to it is balanced anew.
pub const SOCKET_PEERS: usize = 4;

/// [`Client`]: the node's own processes, which reach every network of the node.
pub const CLIENT_NODE: u32 = 1;
/// [`Client`]: a container.
pub const CLIENT_CONTAINER: u32 = 2;

/// [`ServiceScope`]: visible to the node's own processes.
pub const VISIBLE_TO_NODE: u32 = 1;
/// [`ServiceScope`]: visible to every container.
pub const VISIBLE_TO_CONTAINERS: u32 = 2;
/// [`ServiceScope`]: visible to containers on one of its networks.
pub const VISIBLE_TO_NETWORKS: u32 = 4;
/// [`ServiceScope`]: a backend on this node is preferred.
pub const PREFERS_NODE: u32 = 8;

/// Value of `CONNECTED_DATAGRAMS`.
#[inline(always)]
#[must_use]
pub const fn connected_to(backend: u32, generation: u32) -> u64 {
    (backend as u64) << 32 | generation as u64
}

/// Who calls from a network namespace: value of `CLIENTS`, by namespace cookie.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Client {
    /// `CLIENT_*`.
    pub kind: u32,
    /// Written as 0.
    pub reserved: u32,
    /// The networks that it is on, by the hash of their names; 0: none.
    pub networks: [u64; CLIENT_NETWORKS],
}

/// Who may see a service by its sockets: element of the array `SERVICE_SCOPES`, by service number.
/// The word with the flags is written last when a scope is set, and zeroed first when it changes.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ServiceScope {
    /// `VISIBLE_*` and `PREFERS_*`; nothing visible: its sockets are left alone.
    pub flags: u32,
    /// Written as 0.
    pub reserved: u32,
    /// The networks that it names, by the hash of their names; 0: none.
    pub networks: [u64; SCOPE_NETWORKS],
}

/// What a socket remembers of one virtual address: the value of `CONNECTED`, and an element of that of
/// `DATAGRAM_PEERS`. Both live and end with the socket.
///
/// Threads that share a socket may write it at once, so it proves itself: what does not sum up to its
/// `seal` is half of one and half of another, and counts as nothing.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct SocketPeer {
    /// What was asked for; IPv4 in the first word, then zeros.
    pub vip: NetAddr6,
    /// What was used instead.
    pub address: NetAddr6,
    /// The port that was asked for.
    pub vip_port: NetU16,
    /// The port that was used instead.
    pub port: NetU16,
    /// `FAMILY_*`.
    pub family: u32,
    /// Number of the backend; [`super::BACKEND_NONE`]: nothing is remembered.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Number of the service.
    pub service: u32,
    /// Counts up with each that is written to the socket, so that the oldest can be told.
    pub turn: u32,
    /// Sum of all that is above.
    pub seal: u64,
}

/// Value of `DATAGRAM_PEERS`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct SocketPeers {
    /// In no order.
    pub peers: [SocketPeer; SOCKET_PEERS],
}

impl SocketPeer {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The same, sealed.
    #[inline(always)]
    #[must_use]
    pub const fn sealed(self) -> Self {
        let mut sealed = self;
        sealed.seal = self.sum();
        sealed
    }

    /// Whether it was written by one writer, and is something.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.backend != super::BACKEND_NONE && self.seal == self.sum()
    }

    #[inline(always)]
    const fn sum(&self) -> u64 {
        let (vip, address) = (self.vip.raw(), self.address.raw());
        let ports = (self.vip_port.raw() as u64) << 16 | self.port.raw() as u64;
        let words = [
            (vip[0] as u64) << 32 | vip[1] as u64,
            (vip[2] as u64) << 32 | vip[3] as u64,
            (address[0] as u64) << 32 | address[1] as u64,
            (address[2] as u64) << 32 | address[3] as u64,
            ports << 32 | self.family as u64,
            (self.backend as u64) << 32 | self.generation as u64,
            (self.service as u64) << 32 | self.turn as u64,
        ];
        let mut sum = Self::MULTIPLIER;
        let mut index = 0;
        while index < words.len() {
            sum = (sum ^ words[index]).wrapping_mul(Self::MULTIPLIER);
            sum ^= sum >> 32;
            index += 1;
        }
        sum
    }
}

const _: () = assert!(size_of::<Client>() == 72);
const _: () = assert!(size_of::<ServiceScope>() == 40);
const _: () = assert!(size_of::<SocketPeer>() == 64);
const _: () = assert!(size_of::<SocketPeers>() == 256);
