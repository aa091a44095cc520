//! Records of flows, and of how their replies are translated back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16, NetU32};

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
///
/// A record without VIP is of a foreign flow: one that is not ours, whose packets stay as they are.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ReplyRecordV4 {
    /// The address that the client sent to.
    pub vip: NetU32,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// `CLASS_*`, by [`super::reply_class`] with the two ends; of `CLASS_RESUMED` above it
    /// [`super::reply_place`] of the client's latest packet.
    pub class: u16,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation; a record of another generation is written anew.
    pub generation: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
    /// Tick of the last packet from the client.
    pub last_seen_tick: u32,
    /// [`super::reply_end`] of the client's FIN; 0: it has sent none. Only packets of the client set it.
    pub client_end: u16,
    /// The same of the backend's.
    pub backend_end: u16,
    /// Written as 0.
    pub reserved: u32,
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
    /// `CLASS_*`, by [`super::reply_class`] with the two ends; of `CLASS_RESUMED` above it
    /// [`super::reply_place`] of the client's latest packet.
    pub class: u16,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation; a record of another generation is written anew.
    pub generation: u32,
    /// Index of the front interface on which the client's packet came.
    pub ifindex: u32,
    /// Tick of the last packet from the client.
    pub last_seen_tick: u32,
    /// [`super::reply_end`] of the client's FIN; 0: it has sent none. Only packets of the client set it.
    pub client_end: u16,
    /// The same of the backend's.
    pub backend_end: u16,
}

/// [`ReplyDefaultV4`] flag: clients come by another frontend, too, whose flows are recorded; records
/// come first, and the default is for what has none.
pub const REPLY_DEFAULT_AMBIGUOUS: u16 = 1;
/// [`ReplyDefaultV4`] flag: clients come without us, too. Flows through us are recorded, so a SYN+ACK
/// without a record answers one of the others; what else has no record is from before.
pub const REPLY_DEFAULT_OTHER_WAYS: u16 = 2;
/// [`ReplyDefaultV4`] flag, set by the data path in place and never taken away: there may be records of
/// flows that are not ours; records come first.
pub const REPLY_DEFAULT_FOREIGN: u16 = 4;

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
    /// Of what a container sends its host-side veth: networks may have the same addresses. Else 0: the
    /// fragments of a packet may come in on several front interfaces.
    pub ifindex: u32,
    /// Written as 0.
    pub reserved: u32,
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
    /// As in [`FragmentKeyV4`].
    pub ifindex: u32,
    /// Written as 0.
    pub reserved: u32,
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
/// `HALF_FLOWS_*` lately, and not moved on from there.
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

/// Value of the array `FLOW_ROOM`, indexed by family: how many records of flows of `old` may go into
/// `FLOWS_*` until the agent has counted the table again. An eighth of the table is not for them but
/// for handshakes that are over. Written as one word.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct FlowRoom {
    /// Which count of the table this is from; 0: none.
    pub epoch: u32,
    /// Records that each CPU may add.
    pub per_cpu: u32,
}

/// Value of the per-CPU array `FLOW_INSERTIONS`, indexed by family: records of any kind that this CPU
/// has put into `FLOWS_*` since the table was counted.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct FlowInsertions {
    /// [`FlowRoom::epoch`] that `count` is about.
    pub epoch: u32,
    /// Records since then.
    pub count: u32,
}

impl FlowRoom {
    /// After a pass over a table for `records_max` entries has left `counted` in it. `inserted` is what
    /// all CPUs together have put there since the pass began: it may be behind it. `cpus` are online:
    /// only these have a share.
    #[must_use]
    pub const fn after_pass(
        self,
        records_max: u32,
        counted: u64,
        inserted: u64,
        cpus: u32,
    ) -> Self {
        let share = (records_max - records_max / 8) as u64;
        let room = share.saturating_sub(counted.saturating_add(inserted));
        let cpus = if cpus == 0 { 1 } else { cpus };
        let epoch = self.epoch.wrapping_add(1);
        let epoch = if epoch == 0 { 1 } else { epoch };
        Self { epoch, per_cpu: (room / cpus as u64) as u32 }
    }

    /// Records that a CPU may still add.
    #[inline(always)]
    #[must_use]
    pub const fn left(self, inserted: FlowInsertions) -> u32 {
        self.per_cpu.saturating_sub(inserted.since(self.epoch))
    }
}

impl FlowInsertions {
    /// Records in an epoch.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, epoch: u32) -> u32 {
        if self.epoch == epoch { self.count } else { 0 }
    }
}

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
const _: () = assert!(size_of::<FlowRecord>() == 16);
const _: () = assert!(size_of::<ReplyKeyV4>() == 24);
const _: () = assert!(size_of::<ReplyKeyV6>() == 48);
const _: () = assert!(size_of::<ReplyRecordV4>() == 32);
const _: () = assert!(size_of::<ReplyRecordV6>() == 40);
const _: () = assert!(size_of::<ReplyDefaultKeyV4>() == 16);
const _: () = assert!(size_of::<ReplyDefaultKeyV6>() == 32);
const _: () = assert!(size_of::<ReplyDefaultV4>() == 16);
const _: () = assert!(size_of::<ReplyDefaultV6>() == 32);
const _: () = assert!(size_of::<FragmentKeyV4>() == 24);
const _: () = assert!(size_of::<FragmentKeyV6>() == 48);
const _: () = assert!(size_of::<FragmentRecordV4>() == 24);
const _: () = assert!(size_of::<FragmentRecordV6>() == 40);
const _: () = assert!(size_of::<Refusals>() == 8);
const _: () = assert!(size_of::<HalfOpenRate>() == 8);
const _: () = assert!(size_of::<FlowRoom>() == 8);
const _: () = assert!(size_of::<FlowInsertions>() == 8);

#[cfg(test)]
mod tests {
    use super::{FlowInsertions, FlowRoom};

    #[test]
    fn an_eighth_stays_for_handshakes() {
        let room = |records_max, counted, inserted, cpus| {
            FlowRoom::default().after_pass(records_max, counted, inserted, cpus).per_cpu
        };
        assert_eq!(room(1024, 0, 0, 1), 896);
        assert_eq!(room(1024, 100, 0, 4), 199);
        assert_eq!(room(1024, 800, 90, 1), 6);
        assert_eq!(room(1024, 800, 97, 1), 0);
        assert_eq!(room(1024, u64::MAX, u64::MAX, 0), 0);
        assert_eq!(room(7, 0, 0, 1), 7);
    }

    #[test]
    fn a_count_of_another_epoch_says_nothing() {
        let room = FlowRoom { epoch: 3, per_cpu: 10 };
        assert_eq!(room.left(FlowInsertions { epoch: 3, count: 4 }), 6);
        assert_eq!(room.left(FlowInsertions { epoch: 3, count: 40 }), 0);
        assert_eq!(room.left(FlowInsertions { epoch: 2, count: 40 }), 10);
        let last = FlowRoom { epoch: u32::MAX, per_cpu: 0 };
        assert_eq!(last.after_pass(8, 0, 0, 1), FlowRoom { epoch: 1, per_cpu: 7 });
    }
}
