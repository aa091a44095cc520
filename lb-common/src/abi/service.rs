//! Records that only the agent reads: who owns a service number, and what the tables are.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of the array `SERVICES`, indexed by service number: lets a restarted agent find its
/// services again.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct ServiceIdentity {
    /// Hash of the service's name; zero when the number is free.
    pub name_hash: [u64; 2],
}

/// [`Meta`] flag: there are backends with `PATH_ROUTED`, so replies may arrive on front interfaces.
pub const META_ROUTED_BACKENDS: u32 = 1;

/// [`Meta`] flag: `REPLY_DEFAULTS_*` has entries.
pub const META_REPLY_DEFAULTS: u32 = 2;

/// [`Meta`] flag: somebody traces, so `TRACE_FILTERS` has to be looked at.
pub const META_TRACES: u32 = 4;

/// [`Meta`] flag: clients may be reached by another interface than they came in on, since there are
/// several fronts: the routing table says by which, and if it knows none, the record does.
pub const META_ROUTES_REPLIES: u32 = 8;

/// When records are dead, and how many half-open ones may come; part of [`Meta`].
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Limits {
    /// Ticks without a packet after which a half-open record is dead.
    pub half_open_ticks: u32,
    /// Ticks without a packet after which an established record is dead.
    pub established_ticks: u32,
    /// Ticks without a packet after which a closing record is dead, and that of a closed flow.
    pub closing_ticks: u32,
    /// Ticks without a packet after which the record of a closed flow's replies is dead, and where
    /// room is scarce any record of a flow that has ended.
    pub closed_ticks: u32,
    /// Ticks without a packet after which a record of UDP is dead.
    pub datagram_ticks: u32,
    /// Ticks that a TCP slot is moving before flows of its old owner are recorded: most of them end
    /// in that time.
    pub grace_ticks: u32,
    /// Half-open records that one CPU makes in a tick, without those whose handshakes are over by
    /// then, before its table counts as full. The table turns over in no less than
    /// (its size / (CPUs * this)) ticks.
    pub half_open_per_tick: u32,
    /// Written as 0.
    pub reserved: u32,
}

impl Limits {
    /// For tables of default size on `cpus` CPUs that are online: only these have a share.
    #[must_use]
    pub const fn with_cpus(cpus: u32) -> Self {
        let cpus = if cpus == 0 { 1 } else { cpus };
        Self {
            half_open_ticks: super::ticks_from_seconds(super::HALF_OPEN_SECONDS),
            established_ticks: super::ticks_from_seconds(super::ESTABLISHED_SECONDS),
            closing_ticks: super::ticks_from_seconds(super::CLOSING_SECONDS),
            closed_ticks: super::ticks_from_seconds(super::CLOSED_SECONDS),
            datagram_ticks: super::ticks_from_seconds(super::DATAGRAM_SECONDS),
            grace_ticks: super::ticks_from_seconds(super::GRACE_SECONDS),
            // What is admitted stays for three ticks at least: time for a handshake with a
            // retransmission in it.
            half_open_per_tick: super::DEFAULT_HALF_OPEN_RECORDS / (4 * cpus),
            reserved: 0,
        }
    }
}

/// Value of the one-element array `META`.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Meta {
    /// [`super::ABI_VERSION`] of the agent that made the maps.
    pub abi_version: u32,
    /// Node-wide switches of the data path, `META_*`.
    pub flags: u32,
    /// Seed of the flow hash, the same on every node of a cluster.
    pub hash_seed: u64,
    /// Limits of records.
    pub limits: Limits,
}

const _: () = assert!(size_of::<ServiceIdentity>() == 16);
const _: () = assert!(size_of::<Meta>() == 48);
