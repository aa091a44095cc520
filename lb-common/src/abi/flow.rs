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
/// Record class: both sides have sent a FIN. Of replies: and the backend has acknowledged the client's.
pub const CLASS_CLOSED: u32 = 4;
/// Record class: UDP.
pub const CLASS_DATAGRAM: u32 = 5;
/// Record class, of replies only: the backend has answered, the client not yet.
pub const CLASS_ANSWERED: u32 = 6;
/// Record class: the client has sent a RST, if it was the client: data of it says that it was not.
pub const CLASS_RESET: u32 = 7;
/// Record class, of replies only: both sides have sent a FIN, and the backend has one acknowledgement
/// to send yet.
pub const CLASS_LAST_ACK: u32 = 8;

/// Whether a record of this class opens no more: some side has sent a FIN or RST.
#[inline(always)]
#[must_use]
pub const fn is_closing(class: u32) -> bool {
    (class >= CLASS_CLOSING_BY_CLIENT && class <= CLASS_CLOSED) || class >= CLASS_RESET
}

/// Key of the maps `FLOWS_V4` and `HALF_FLOWS_V4`: a flow as its client sends it.
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

/// Key of the maps `FLOWS_V6` and `HALF_FLOWS_V6`: a flow as its client sends it.
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

/// Value of the maps `FLOWS_*` and `HALF_FLOWS_*`: which backend has the flow. Read only on slots
/// that are moving or settled.
///
/// `FLOWS_*` never evict, they only refuse; `HALF_FLOWS_*` hold flows of which no more than a SYN was
/// seen (and those that `FLOWS_*` had no room for), in a share of their own that a flood may turn
/// over. `last_seen_tick` and `class` change in place.
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

/// Key of the maps `REPLIES_V4` and `HALF_REPLIES_V4`: a reply as the backend sends it.
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

/// Key of the maps `REPLIES_V6` and `HALF_REPLIES_V6`: a reply as the backend sends it.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct ReplyKeyV6 {
    /// Address of the backend. Addresses are first, at offsets that the kernel's stack allows to be
    /// stored by eight bytes.
    pub backend: NetAddr6,
    /// Address of the client.
    pub client: NetAddr6,
    /// Index of the backend's host-side veth; 0 for a backend that is routed.
    pub ifindex: u32,
    /// Port of the backend.
    pub backend_port: NetU16,
    /// Port of the client.
    pub client_port: NetU16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the maps `REPLIES_V4` and `HALF_REPLIES_V4`: what a reply is translated to.
///
/// Says nothing about the way in: on that, slots and `FLOWS_*` decide. Two tables as for flows; a
/// record moves over when the backend and then the client have answered. `last_seen_tick` and `class`
/// change in place.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyRecordV4 {
    /// The address that the client sent to.
    pub vip: NetU32,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// `CLASS_*`.
    pub class: u16,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation; a record of another generation is written anew.
    pub generation: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
    /// Tick of the last packet from the client.
    pub last_seen_tick: u32,
}

/// Value of the maps `REPLIES_V6` and `HALF_REPLIES_V6`: what a reply is translated to.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyRecordV6 {
    /// The address that the client sent to.
    pub vip: NetAddr6,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// `CLASS_*`.
    pub class: u16,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation; a record of another generation is written anew.
    pub generation: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
    /// Tick of the last packet from the client.
    pub last_seen_tick: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// [`ReplyDefaultV4`] flag: clients come by another frontend, too, whose flows are recorded; records
/// come first, and the default is for what has none.
pub const REPLY_DEFAULT_AMBIGUOUS: u16 = 1;

/// Key of the map `REPLY_DEFAULTS_V4`: a backend's port, as the source of replies.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct ReplyDefaultKeyV4 {
    /// Index of the backend's host-side veth, since container subnets may repeat; 0 for a backend
    /// that is routed.
    pub ifindex: u32,
    /// Address of the backend.
    pub backend: NetU32,
    /// Port of the backend.
    pub backend_port: NetU16,
    /// Written as 0.
    pub pad: u16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
}

/// Key of the map `REPLY_DEFAULTS_V6`: a backend's port, as the source of replies.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct ReplyDefaultKeyV6 {
    /// Address of the backend.
    pub backend: NetAddr6,
    /// Index of the backend's host-side veth; 0 for a backend that is routed.
    pub ifindex: u32,
    /// Port of the backend.
    pub backend_port: NetU16,
    /// Written as 0.
    pub pad: u16,
    /// IP protocol number, as a whole word: no bytes of padding to write.
    pub protocol: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the map `REPLY_DEFAULTS_V4`: what a reply is translated to that has no record. Stays
/// until the backend is gone and its last flows are over, however soon its frontend goes.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyDefaultV4 {
    /// The address that clients sent to.
    pub vip: NetU32,
    /// The port that clients sent to.
    pub vip_port: NetU16,
    /// `REPLY_DEFAULT_*`.
    pub flags: u16,
    /// Number of the backend.
    pub backend: u32,
    /// Index of the front interface; 0: there are several, ask the routing table.
    pub ifindex: u32,
}

/// Value of the map `REPLY_DEFAULTS_V6`: what a reply is translated to that has no record.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyDefaultV6 {
    /// The address that clients sent to.
    pub vip: NetAddr6,
    /// The port that clients sent to.
    pub vip_port: NetU16,
    /// `REPLY_DEFAULT_*`.
    pub flags: u16,
    /// Number of the backend.
    pub backend: u32,
    /// Index of the front interface; 0: there are several, ask the routing table.
    pub ifindex: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Key of the map `FRAGMENTS_V4`: a packet that travels in fragments.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FragmentKeyV4 {
    /// Source address.
    pub source: NetU32,
    /// Destination address.
    pub destination: NetU32,
    /// The identification that all of its fragments have.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// Key of the map `FRAGMENTS_V6`: a packet that travels in fragments.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Hash, Debug, Default,
)]
pub struct FragmentKeyV6 {
    /// Source address.
    pub source: NetAddr6,
    /// Destination address.
    pub destination: NetAddr6,
    /// The identification that all of its fragments have.
    pub id: u32,
    /// That of the fragment header: later fragments do not tell what they are part of.
    pub protocol: u32,
}

/// Value of the map `FRAGMENTS_V4`: what was decided on the fragment with the ports, which those that
/// follow it share.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct FragmentRecordV4 {
    /// What the destination, or the source of a reply, is translated to.
    pub address: NetU32,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation, unless it is a reply.
    pub generation: u32,
    /// Where to, as in the decision.
    pub ifindex: u32,
    /// Tick of the first fragment.
    pub seen_tick: u32,
    /// Number of the verdict.
    pub verdict: u32,
}

/// Value of the map `FRAGMENTS_V6`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct FragmentRecordV6 {
    /// What the destination, or the source of a reply, is translated to.
    pub address: NetAddr6,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation, unless it is a reply.
    pub generation: u32,
    /// Where to, as in the decision.
    pub ifindex: u32,
    /// Tick of the first fragment.
    pub seen_tick: u32,
    /// Number of the verdict.
    pub verdict: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// Value of the array `REFUSALS`, indexed by ring number: when a record was refused last. 0: never.
/// The two words are stored one by one.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Refusals {
    /// Tick in which a flow was last left without a record that it should have had: its slot must
    /// not settle as if it had been recorded then.
    pub refused_tick: u32,
    /// Tick in which `FLOWS_*` last had no room.
    pub full_tick: u32,
}

/// Value of the per-CPU array `HALF_OPEN_RATE`, of one element: records that this CPU has put into
/// `HALF_FLOWS_*` lately.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct HalfOpenRate {
    /// The tick that `count` is about.
    pub tick: u32,
    /// Records in it.
    pub count: u32,
}

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
const _: () = assert!(size_of::<FlowRecord>() == 16);
const _: () = assert!(size_of::<ReplyKeyV4>() == 24);
const _: () = assert!(size_of::<ReplyKeyV6>() == 48);
const _: () = assert!(size_of::<ReplyRecordV4>() == 24);
const _: () = assert!(size_of::<ReplyRecordV6>() == 40);
const _: () = assert!(size_of::<ReplyDefaultKeyV4>() == 16);
const _: () = assert!(size_of::<ReplyDefaultKeyV6>() == 32);
const _: () = assert!(size_of::<ReplyDefaultV4>() == 16);
const _: () = assert!(size_of::<ReplyDefaultV6>() == 32);
const _: () = assert!(size_of::<FragmentKeyV4>() == 16);
const _: () = assert!(size_of::<FragmentKeyV6>() == 40);
const _: () = assert!(size_of::<FragmentRecordV4>() == 24);
const _: () = assert!(size_of::<FragmentRecordV6>() == 40);
const _: () = assert!(size_of::<Refusals>() == 8);
const _: () = assert!(size_of::<HalfOpenRate>() == 8);
