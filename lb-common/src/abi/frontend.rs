//! Where clients connect: (scope, VIP, protocol, port) -> service and ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16, NetU32};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// With port 0: the entry that says only that the address is a VIP. It has no ring; packets that
/// have no usable port (fragments, broken headers) are recognised as ours by it.
pub const PROTOCOL_ANY: u8 = 0;
/// The node's front interfaces. Other scopes name a network and come with east-west balancing.
pub const SCOPE_FRONT: u8 = 0;

/// [`Frontend`] flag: replies to flows of this frontend do not follow from the backend's port alone
/// (it is not the first frontend that leads there, or it has more than one port): record each flow.
pub const FRONTEND_RECORDS_REPLIES: u32 = 1;

/// Key of the map `FRONTENDS_V4`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FrontendKeyV4 {
    /// The virtual address.
    pub vip: NetU32,
    /// Destination port; 0 in the entry of the VIP itself.
    pub port: NetU16,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// `SCOPE_*`.
    pub scope: u8,
}

/// Key of the map `FRONTENDS_V6`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FrontendKeyV6 {
    /// The virtual address.
    pub vip: NetAddr6,
    /// Destination port; 0 in the entry of the VIP itself.
    pub port: NetU16,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// `SCOPE_*`.
    pub scope: u8,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the maps `FRONTENDS_V4` and `FRONTENDS_V6`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Frontend {
    /// Number of the service; meaningless in the entry of a VIP itself.
    pub service: u32,
    /// Index into `RINGS`, see [`super::ring_number`].
    pub ring: u32,
    /// `FRONTEND_*`.
    pub flags: u32,
    /// Written as 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FrontendKeyV4>() == 8);
const _: () = assert!(size_of::<FrontendKeyV6>() == 24);
const _: () = assert!(size_of::<Frontend>() == 16);
