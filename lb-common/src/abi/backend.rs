//! One record per backend, read for every packet that is forwarded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16, NetU32};

/// The backend number that stands for "none".
pub const BACKEND_NONE: u32 = 0;

/// State bit: the backend may get new flows (it is healthy).
pub const TAKES_NEW: u8 = 1;
/// State bit: the backend keeps its TCP flows (healthy, draining, or unhealthy but alive).
pub const TAKES_OLD: u8 = 2;
/// State bit: the backend keeps its UDP flows (healthy or draining). A datagram needs no connection,
/// so one that its backend does not answer is better off elsewhere.
pub const TAKES_OLD_DATAGRAMS: u8 = 4;

/// The backend is behind `ifindex`, the host-side end of a container's veth pair.
pub const PATH_LOCAL: u8 = 0;
/// The backend is reached by the node's routing table; its replies come back through this node.
pub const PATH_ROUTED: u8 = 1;
/// Added to the path: clients reach the backend's port in other ways than through us (published by
/// Docker, global or routed addresses, several ports), so only replies of recorded flows are ours.
pub const PATH_RECORDS_REPLIES: u8 = 0x80;

/// Value of the array `BACKENDS_V4`, indexed by backend number.
///
/// A record is written while nothing refers to its number; afterwards only `state` changes, by a
/// store of that one byte.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct BackendV4 {
    /// Address of the backend.
    pub address: NetU32,
    /// Port of the backend; 0 keeps the port that the client used.
    pub port: NetU16,
    /// `TAKES_*` bits; 0: gone.
    pub state: u8,
    /// `PATH_LOCAL` or `PATH_ROUTED`, with or without `PATH_RECORDS_REPLIES`.
    pub path: u8,
    /// Index of the host-side veth for `PATH_LOCAL`, else 0.
    pub ifindex: u32,
    /// Raised each time the number is given to another backend, so that old records do not count.
    pub generation: u32,
}

/// Value of the array `BACKENDS_V6`, indexed by backend number. A number is in use in one family.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct BackendV6 {
    /// Address of the backend.
    pub address: NetAddr6,
    /// Port of the backend; 0 keeps the port that the client used.
    pub port: NetU16,
    /// `TAKES_*` bits; 0: gone.
    pub state: u8,
    /// `PATH_LOCAL` or `PATH_ROUTED`, with or without `PATH_RECORDS_REPLIES`.
    pub path: u8,
    /// Index of the host-side veth for `PATH_LOCAL`, else 0.
    pub ifindex: u32,
    /// Raised each time the number is given to another backend, so that old records do not count.
    pub generation: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the array `BACKEND_IDENTITIES`, indexed by backend number: lets a restarted agent find
/// its backends again. Not read by the data path.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct BackendIdentity {
    /// Hash of the backend instance (service, place, container and its start, address, path); zero
    /// when the number is free.
    pub instance_hash: [u64; 2],
    /// Number of the service it belongs to.
    pub service: u32,
    /// The generation that the number had last, also while it is free.
    pub generation: u32,
}

impl BackendV4 {
    /// Whether the backend is a container behind `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.path & !PATH_RECORDS_REPLIES == PATH_LOCAL
    }

    /// Whether each of its flows is recorded for the sake of its replies.
    #[inline(always)]
    #[must_use]
    pub const fn records_replies(&self) -> bool {
        self.path & PATH_RECORDS_REPLIES != 0
    }
}

const _: () = assert!(size_of::<BackendV4>() == 16);
const _: () = assert!(size_of::<BackendV6>() == 32);
const _: () = assert!(size_of::<BackendIdentity>() == 24);
// The agent stores the state byte through the mapping.
const _: () = assert!(core::mem::offset_of!(BackendV4, state) == 6);
const _: () = assert!(core::mem::offset_of!(BackendV6, state) == 18);
