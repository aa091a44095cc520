//! Records of flows, and of how their replies are translated back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16, NetU32};

/// Record class: the client has sent its SYN only.
pub const CLASS_HALF_OPEN: u32 = 0;
/// Record class: the client has sent more than a SYN.
pub const CLASS_ESTABLISHED: u32 = 1;
/// Record class: the client has sent a FIN.
pub const CLASS_CLOSING_BY_CLIENT: u32 = 2;
/// Record class: the backend has sent a FIN.
pub const CLASS_CLOSING_BY_BACKEND: u32 = 3;
/// Record class: both sides have sent a FIN, or one a RST.
pub const CLASS_CLOSED: u32 = 4;

/// Whether a record of this class opens no more: some side has sent a FIN or RST.
#[inline(always)]
#[must_use]
pub const fn is_closing(class: u32) -> bool {
    class >= CLASS_CLOSING_BY_CLIENT
}

/// [`ReplyRecordV4::flags`]: the flow has [`CLASS_CLOSED`]. What the backend sends now answers the
/// client's last packets, or somebody who uses the same client port to reach the backend directly.
pub const REPLY_OF_CLOSED_FLOW: u16 = 1;

/// Key of the map `FLOWS_V4`: a flow as its client sends it.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FlowKeyV4 {
    /// Address of the client.
    pub client: NetU32,
    /// Address that the client sends to.
    pub vip: NetU32,
    /// Port of the client.
    pub client_port: NetU16,
    /// Port that the client sends to.
    pub vip_port: NetU16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
}

/// Key of the map `FLOWS_V6`: a flow as its client sends it.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FlowKeyV6 {
    /// Address of the client.
    pub client: NetAddr6,
    /// Address that the client sends to.
    pub vip: NetAddr6,
    /// Port of the client.
    pub client_port: NetU16,
    /// Port that the client sends to.
    pub vip_port: NetU16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
}

/// Value of the maps `FLOWS_V4` and `FLOWS_V6`: which backend has the flow.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct FlowRecord {
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation; a record of another generation is dead.
    pub generation: u32,
    /// Tick of the last packet from the client.
    pub last_seen_tick: u32,
    /// `CLASS_*`.
    pub class: u32,
}

/// Key of the map `REPLIES_V4`: a reply as the backend sends it.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct ReplyKeyV4 {
    /// Index of the backend's host-side veth, since container subnets may repeat; 0 for a backend
    /// that is routed.
    pub ifindex: u32,
    /// Address of the backend.
    pub backend: NetU32,
    /// Address of the client.
    pub client: NetU32,
    /// Port of the backend.
    pub backend_port: NetU16,
    /// Port of the client.
    pub client_port: NetU16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Key of the map `REPLIES_V6`: a reply as the backend sends it.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct ReplyKeyV6 {
    /// Index of the backend's host-side veth; 0 for a backend that is routed.
    pub ifindex: u32,
    /// Address of the backend.
    pub backend: NetAddr6,
    /// Address of the client.
    pub client: NetAddr6,
    /// Port of the backend.
    pub backend_port: NetU16,
    /// Port of the client.
    pub client_port: NetU16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the map `REPLIES_V4`: what a reply is translated to.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyRecordV4 {
    /// The address that the client sent to.
    pub vip: NetU32,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// [`REPLY_OF_CLOSED_FLOW`].
    pub flags: u16,
    /// Number of the backend, for its counters.
    pub backend: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
}

/// Value of the map `REPLIES_V6`: what a reply is translated to.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyRecordV6 {
    /// The address that the client sent to.
    pub vip: NetAddr6,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// [`REPLY_OF_CLOSED_FLOW`].
    pub flags: u16,
    /// Number of the backend, for its counters.
    pub backend: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
    /// Written as 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
const _: () = assert!(size_of::<FlowRecord>() == 16);
const _: () = assert!(size_of::<ReplyKeyV4>() == 24);
const _: () = assert!(size_of::<ReplyKeyV6>() == 48);
const _: () = assert!(size_of::<ReplyRecordV4>() == 16);
const _: () = assert!(size_of::<ReplyRecordV6>() == 32);
