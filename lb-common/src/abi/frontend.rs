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
/// Frontend flag, also of a VIP: who cannot be served is not told.
pub const FRONTEND_DROPS: u32 = 2;

const AFFINITY_SHIFT: u32 = 4;
const AFFINITY_MASK: u32 = 0xff;

/// Frontend flags for affinity by the first bits of the client's address.
#[must_use]
pub const fn affinity_flags(prefix_bits: u8) -> u32 {
    (prefix_bits as u32 + 1) << AFFINITY_SHIFT
}

/// The bits of the client's address that alone decide; `None`: the whole flow does.
#[inline(always)]
#[must_use]
pub const fn affinity_prefix_bits(frontend_flags: u32) -> Option<u32> {
    match (frontend_flags >> AFFINITY_SHIFT) & AFFINITY_MASK {
        0 => None,
        bits => Some(bits - 1),
    }
}

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
    /// What a lookup says; 0 in the map.
    pub state: u32,
}

/// Of a lookup: the address is a VIP, and nothing is served there by this protocol and port.
pub const FRONTEND_UNSERVED: u32 = 1;
/// Of a lookup: there is a service.
pub const FRONTEND_SERVED: u32 = 2;

impl Frontend {
    /// There is a service.
    #[inline(always)]
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.state == FRONTEND_SERVED
    }

    /// The address is ours, served or not.
    #[inline(always)]
    #[must_use]
    pub const fn is_vip(&self) -> bool {
        self.state != 0
    }
}

const _: () = assert!(size_of::<FrontendKeyV4>() == 8);
const _: () = assert!(size_of::<FrontendKeyV6>() == 24);
const _: () = assert!(size_of::<Frontend>() == 16);
