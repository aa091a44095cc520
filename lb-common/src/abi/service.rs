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
}

const _: () = assert!(size_of::<ServiceIdentity>() == 16);
const _: () = assert!(size_of::<Meta>() == 16);
