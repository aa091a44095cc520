//! Sockets of this node's own clients: who they are, what they may see, and what a socket remembers of
//! the address that it asked for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16};

/// Network namespaces whose clients are known; a node runs no more containers than that.
pub const MAX_CLIENTS: u32 = 8192;
/// Connected sockets of UDP that can be told that their backend is gone; of more, those that were
/// connected last.
pub const MAX_CONNECTED_DATAGRAMS: u32 = 64 * 1024;
/// Pairs of a class of clients and a network that those are on. A class has one for each of its
/// networks, however many that are.
pub const MAX_CLASS_NETWORKS: u32 = 64 * 1024;
/// Lists of what is reached of a service.
pub const MAX_REACH_LISTS: u32 = 16 * 1024;
/// Entries of all lists together (4 MiB).
pub const MAX_REACH_ENTRIES: u32 = 512 * 1024;
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
/// [`ServiceScope`]: a backend on this node is preferred. What follows is in the lists.
pub const PREFERS_NODE: u32 = 8;
/// [`ServiceScope`]: visible to nobody of this node: its sockets are left alone.
pub const VISIBLE_TO_NOBODY: u32 = 16;
/// [`ServiceScope`]: the second half of the networks counts.
pub const SCOPE_SECOND_HALF: u32 = 32;
/// [`ServiceScope`]: some clients have slots of their own, since they do not reach all backends or
/// prefer some.
pub const SCOPE_HAS_SLOTS: u32 = 64;

/// The class of clients that reach every backend: the node, whoever is not known, and everybody where
/// the host leads from network to network.
pub const CLASS_ALL: u64 = 0;

/// Value of `CONNECTED_DATAGRAMS`.
#[inline(always)]
#[must_use]
pub const fn connected_to(backend: u32, generation: u32) -> u64 {
    (backend as u64) << 32 | generation as u64
}

/// Number and generation in a value of `CONNECTED_DATAGRAMS`.
#[must_use]
pub const fn connected_backend(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
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
    /// Whoever is on the same networks is of the same class. Which those are is in `CLASS_NETWORKS`.
    pub class: u64,
}

/// Key of `CLASS_NETWORKS`: a class of clients is on a network.
#[repr(C, align(8))]
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
)]
pub struct ClassNetwork {
    /// The class.
    pub class: u64,
    /// The network, by the hash of its name.
    pub network: u64,
}

/// Key of `REACH_LISTS`: what a class of clients reaches of a service.
#[repr(C, align(8))]
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
)]
pub struct ReachKey {
    /// The class.
    pub class: u64,
    /// Number of the service.
    pub service: u32,
    /// `FAMILY_*`.
    pub family: u32,
}

/// Where the entries of a list are: value of `REACH_LISTS`.
///
/// First come `slots`, as those of a ring, from which calls are led instead of the service's ring; none:
/// the ring is right. Then every member once, those that are preferred first, for the moments in which
/// no slot that was tried leads to a backend that takes the call.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReachList {
    /// First entry.
    pub start: u32,
    /// Number of slots.
    pub slots: u32,
    /// Number of members that are preferred.
    pub near: u32,
    /// Number of the others.
    pub far: u32,
}

/// An element of `REACH_ENTRIES`: a backend, and for whom that is written. It proves itself, so whoever
/// reads a list while another is written in its place takes no wrong backend for one of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReachEntry(u64);

impl ReachEntry {
    const FAMILY_SHIFT: u32 = 17;
    const SERVICE_SHIFT: u32 = 18;
    const GENERATION_SHIFT: u32 = 32;

    /// A backend of a service.
    #[inline(always)]
    #[must_use]
    pub const fn new(service: u32, family: u32, backend: u32, generation: u32) -> Self {
        let mark = service << Self::SERVICE_SHIFT | family << Self::FAMILY_SHIFT;
        Self((generation as u64) << Self::GENERATION_SHIFT | (mark | backend) as u64)
    }

    /// As it is in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// For the map.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The backend's number and generation; if it is of another service or family, none.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self, service: u32, family: u32) -> (u32, u32) {
        let mark = service << (Self::SERVICE_SHIFT - Self::FAMILY_SHIFT) | family;
        let low = self.0 as u32;
        if low >> Self::FAMILY_SHIFT != mark {
            return (super::BACKEND_NONE, 0);
        }
        (low & ((1 << Self::FAMILY_SHIFT) - 1), (self.0 >> Self::GENERATION_SHIFT) as u32)
    }
}

/// Who may see a service by its sockets: element of the array `SERVICE_SCOPES`, by service number.
///
/// Networks that change are written into the half that does not count, and one store of the word with
/// the flags makes it count: nobody sees half of a scope.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ServiceScope {
    /// `VISIBLE_*`, `PREFERS_*`, `SCOPE_*`; nothing: not known yet, and calls are refused, since they
    /// would go anywhere.
    pub flags: u32,
    /// Written as 0.
    pub reserved: u32,
    /// The networks that it names, by the hash of their names, twice; 0: none.
    pub networks: [[u64; SCOPE_NETWORKS]; 2],
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

const _: () = assert!(size_of::<Client>() == 16);
const _: () = assert!(size_of::<ClassNetwork>() == 16);
const _: () = assert!(size_of::<ReachKey>() == 16);
const _: () = assert!(size_of::<ReachList>() == 16);
const _: () = assert!(size_of::<ServiceScope>() == 72);
const _: () = assert!(
    super::MAX_BACKENDS < 1 << ReachEntry::FAMILY_SHIFT
        && super::MAX_SERVICES <= 1 << (ReachEntry::GENERATION_SHIFT - ReachEntry::SERVICE_SHIFT)
);
const _: () = assert!(size_of::<SocketPeer>() == 64);
const _: () = assert!(size_of::<SocketPeers>() == 256);
