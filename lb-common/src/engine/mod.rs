//! All packet logic: parse, look up, choose, decide, edit.
//!
//! Runs unchanged in the kernel (`lb-ebpf`) and on the host. It touches a packet only through
//! [`Packet`] and tables only through [`Tables`]; time and place are in [`Context`]. It never calls
//! a helper, never panics, has no loop without a constant bound, and changes nothing while it
//! decides: a [`Decision`] is a value, which [`commit`] and [`edit::translate_v4`] carry out.

pub mod checksum;
mod choose;
mod decide;
mod decision;
pub mod edit;
mod hash;
#[cfg(any(feature = "std", test))]
pub mod host;
mod parse;
mod record;
mod reply;

pub use choose::{Choice, PacketKind, choose};
pub use decide::{front_v4, reply_v4};
pub use decision::{Decision, FlowChange, Record, ReplyChange};
pub use edit::{Edit, EditError, Side};
pub use hash::flow_hash_v4;
pub use parse::{
    ETHERNET_HEADER_BYTES, HeadersV4, Parsed, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, parse_v4,
};
pub use record::{commit, is_fresh, is_live};

use crate::abi::{
    BackendV4, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, Limits, NetU32, Refusals,
    ReplyDefaultKeyV4, ReplyDefaultV4, ReplyKeyV4, ReplyRecordV4, RingDescriptor, Slot,
};

/// A packet that starts with its Ethernet header.
pub trait Packet {
    /// Bytes from the Ethernet header to the end, also those that cannot be read directly.
    fn length_bytes(&self) -> usize;

    /// `N` bytes from `offset`, or `None` when the packet is shorter.
    fn window<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// `N` bytes from `offset` for writing, or `None` when the packet is shorter.
    fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Brings the TCP or UDP checksum at `offset` in line with bytes that were changed. The two
    /// parts stay apart because a checksum that the device will finish later covers only the first.
    /// Called after all bytes are written: an implementation may invalidate windows.
    fn fix_l4_checksum(&mut self, offset: usize, change: checksum::Change)
    -> Result<(), EditError>;
}

/// Read access to the maps, and the few writes that [`commit`] makes.
pub trait Tables {
    /// Limits of records, from `META`. Asked for only where records count.
    fn limits(&self) -> Limits;
    /// Looks up `FRONTENDS_V4`.
    fn frontend_v4(&self, key: &FrontendKeyV4) -> Option<Frontend>;
    /// Looks up `RINGS`.
    fn ring(&self, ring: u32) -> Option<RingDescriptor>;
    /// Looks up `RING_SLOTS`.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// Looks up `BACKENDS_V4`.
    fn backend_v4(&self, number: u32) -> Option<BackendV4>;

    /// Looks up `FLOWS_V4`.
    fn flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord>;
    /// Looks up `HALF_FLOWS_V4`.
    fn half_flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord>;
    /// Inserts into or overwrites in `FLOWS_V4`; an error means that there is no room.
    fn put_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull>;
    /// Inserts into or overwrites in `HALF_FLOWS_V4`, in place of the oldest when there is no room.
    fn put_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull>;
    /// Stores time and class in `FLOWS_V4`, in place; absent is fine.
    fn touch_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord);
    /// Stores time and class in `HALF_FLOWS_V4`, in place; absent is fine.
    fn touch_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord);
    /// Removes from `FLOWS_V4`; absent is fine.
    fn remove_flow_v4(&self, key: &FlowKeyV4);
    /// Removes from `HALF_FLOWS_V4`; absent is fine.
    fn remove_half_flow_v4(&self, key: &FlowKeyV4);

    /// Looks up `REFUSALS`.
    fn refusals(&self, ring: u32) -> Refusals;
    /// Notes in `REFUSALS` that a flow is left without a record, also because `FLOWS_*` is full.
    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool);
    /// Half-open records that this CPU has made in a tick.
    fn half_open_count(&self, tick: u32) -> u32;
    /// Counts another.
    fn count_half_open(&self, tick: u32);

    /// Looks up `REPLY_DEFAULTS_V4`.
    fn reply_default_v4(&self, key: &ReplyDefaultKeyV4) -> Option<ReplyDefaultV4>;
    /// Looks up `LOCAL_V4`: whether an address is the node's or one of its containers'.
    fn is_local_v4(&self, address: NetU32) -> bool;
    /// Looks up `REPLIES_V4`.
    fn reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4>;
    /// Looks up `HALF_REPLIES_V4`.
    fn half_reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4>;
    /// Inserts into or overwrites in `REPLIES_V4`; an error means that there is no room.
    fn put_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull>;
    /// Inserts into or overwrites in `HALF_REPLIES_V4`, in place of the oldest when there is no room.
    fn put_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull>;
    /// Stores time and class in `REPLIES_V4`, in place; absent is fine.
    fn touch_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4);
    /// Stores time and class in `HALF_REPLIES_V4`, in place; absent is fine.
    fn touch_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4);
    /// Removes from `REPLIES_V4`; absent is fine.
    fn remove_reply_v4(&self, key: &ReplyKeyV4);
    /// Removes from `HALF_REPLIES_V4`; absent is fine.
    fn remove_half_reply_v4(&self, key: &ReplyKeyV4);
}

/// The table has no room for another record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFull;

/// Where and when a packet is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Ticks since boot, see [`crate::abi::ticks_from_ns`].
    pub now_tick: u32,
    /// Interface on which the packet came in.
    pub ingress_ifindex: u32,
    /// Seed of the flow hash, from `META`.
    pub hash_seed: u64,
    /// Flags from `META`.
    pub meta_flags: u32,
}
