//! All packet logic: parse, look up, choose, decide, edit.
//!
//! Runs unchanged in the kernel (`lb-ebpf`) and on the host, for both address families. It touches a
//! packet only through [`Packet`] and tables only through [`Tables`]; time and place are in
//! [`Context`]. It never calls a helper, never panics, has no loop without a constant bound, and
//! changes nothing while it decides: a [`Decision`] is a value, which [`commit`] and
//! [`translate::translate`] carry out.

pub mod answer;
pub mod checksum;
mod choose;
mod classes;
mod decide;
mod decision;
mod edit;
mod family;
mod foreign;
mod fragments;
mod hash;
#[cfg(any(feature = "std", test))]
pub mod host;
pub mod mtu;
pub mod observe;
pub mod rate;
mod record;
mod replies;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod translate;
mod ways;
pub mod wire;
mod words;

pub use choose::{Choice, PacketKind, choose, packet_kind};
pub use decide::{
    front, front_other, front_transport, may_concern_front, reply, reply_other, reply_transport,
    slot_hash,
};
pub use decision::{Decision, EditKind, FlowChange, Record, ReplyChange, ReplyTable};
pub use edit::{EditError, Side};
pub use family::Family;
pub use record::{commit, is_fresh, is_live, is_spent};
pub use translate::{ErrorTranslation, Rewrite, Translation};
pub use ways::{Backend, FragmentWay, Tuple, Way};

use crate::abi::{FlowRecord, Frontend, Limits, Refusals, RingDescriptor, Slot};

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

/// The maps of a family, as deciding reads them.
pub trait Tables<A: Family> {
    /// Limits of records, from `META`. Asked for only where records count.
    fn limits(&self) -> Limits;
    /// Looks up a destination.
    fn frontend(&self, key: &A::FrontendKey) -> Frontend;
    /// Whether an address may be a VIP: no, for sure, or perhaps.
    fn may_be_vip(&self, address: A) -> bool;
    /// Looks up `RINGS`.
    fn ring(&self, ring: u32) -> Option<RingDescriptor>;
    /// Looks up `RING_SLOTS`.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// Looks up `BACKENDS_*`.
    fn backend(&self, number: u32) -> Option<Backend<A>>;

    /// Looks up `FLOWS_*`.
    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord>;
    /// Looks up `HALF_FLOWS_*`.
    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord>;

    /// Looks up `REFUSALS`.
    fn refusals(&self, ring: u32) -> Refusals;
    /// Half-open records that this CPU has made in a tick.
    fn half_open_count(&self, tick: u32) -> u32;

    /// Records of flows of `old` that this CPU may still put into `FLOWS_*`.
    fn flow_room(&self) -> u32;

    /// Looks up `REPLY_DEFAULTS_*`.
    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault>;
    /// Looks up `LOCAL_*`: whether an address is the node's or one of its containers'; 0: neither.
    fn local(&self, address: A) -> u32;
    /// Whether it is either.
    #[inline(always)]
    fn is_local(&self, address: A) -> bool {
        self.local(address) != 0
    }
    /// Looks up `REPLIES_*`.
    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord>;
    /// Looks up `HALF_REPLIES_*`.
    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord>;

    /// Looks up `FRAGMENTS_*`.
    fn fragment(&self, key: &A::FragmentKey) -> Option<A::FragmentRecord>;
}

/// The few writes that [`commit`] makes: of records, and of what refused and counted them.
pub trait RecordTables<A: Family>: Tables<A> {
    /// Inserts into or overwrites in `FLOWS_*`; an error means that there is no room.
    fn put_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull>;
    /// Inserts into or overwrites in `HALF_FLOWS_*`, in place of the oldest when there is no room.
    fn put_half_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull>;
    /// Stores time and class in `FLOWS_*`, in place; absent is fine.
    fn touch_flow(&self, key: &A::FlowKey, record: &FlowRecord);
    /// Stores time and class in `HALF_FLOWS_*`, in place; absent is fine.
    fn touch_half_flow(&self, key: &A::FlowKey, record: &FlowRecord);
    /// Removes from `FLOWS_*`; absent is fine.
    fn remove_flow(&self, key: &A::FlowKey);
    /// Removes from `HALF_FLOWS_*`; absent is fine.
    fn remove_half_flow(&self, key: &A::FlowKey);

    /// Notes in `REFUSALS` that a flow is left without a record, also because `FLOWS_*` is full.
    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool);
    /// Counts another half-open record that this CPU has made in a tick.
    fn count_half_open(&self, tick: u32);

    /// Takes one of them back: its handshake is over. One of an earlier tick is taken for one of this,
    /// since the table has room for another now.
    fn uncount_half_open(&self, tick: u32);

    /// Counts another record that this CPU has put into `FLOWS_*`.
    fn count_insertion(&self);

    /// Inserts into or overwrites in `REPLIES_*`; an error means that there is no room.
    fn put_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull>;
    /// Inserts into or overwrites in `HALF_REPLIES_*`, in place of the oldest when there is no room.
    fn put_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull>;
    /// Stores time, class and front interface in `REPLIES_*`, in place; absent is fine.
    fn touch_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord);
    /// Stores time, class and front interface in `HALF_REPLIES_*`, in place; absent is fine.
    fn touch_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord);
    /// Removes from `REPLIES_*`; absent is fine.
    fn remove_reply(&self, key: &A::ReplyKey);
    /// Removes from `HALF_REPLIES_*`; absent is fine.
    fn remove_half_reply(&self, key: &A::ReplyKey);
    /// Notes in `REPLY_DEFAULTS_*` that there are records of foreign flows; absent is fine.
    fn mark_reply_default(&self, key: &A::ReplyDefaultKey);

    /// Inserts into or overwrites in `FRAGMENTS_*`, in place of the oldest when there is no room.
    fn put_fragment(&self, key: &A::FragmentKey, record: &A::FragmentRecord);
}

/// The table has no room for another record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFull;

/// Where and when a packet is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Ticks since boot, see [`crate::abi::ticks_from_ns`].
    pub now_tick: u32,
    /// The same time, see [`crate::abi::moment_from_ns`].
    pub now_moment: u32,
    /// Interface on which the packet came in.
    pub ingress_ifindex: u32,
    /// Interface by which replies to the packet leave; 0: the routing table knows, since the packet
    /// has VLAN tags that its own interface would not put back.
    pub reply_ifindex: u32,
    /// Seed of the flow hash, from `META`.
    pub hash_seed: u64,
    /// Flags from `META`.
    pub meta_flags: u32,
}

/// The same place, of whose contents nothing is known. The kernel's verifier follows a packet on every
/// way through the program, and ways that know different values never meet again; where they are to
/// meet, what follows reads those values afresh, from memory whose contents it does not follow.
#[inline(always)]
fn afresh<T>(place: T) -> T {
    core::hint::black_box(place)
}
