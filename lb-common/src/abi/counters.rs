//! Per-CPU counters and the indexes into them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::numbers::Verdict;

/// Value of the per-CPU array `BACKEND_COUNTERS`, indexed by backend number.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct BackendCounters {
    /// Packets forwarded to the backend. A GSO packet counts once.
    pub packets_in: u64,
    /// Bytes forwarded to the backend, link layer included.
    pub bytes_in: u64,
    /// Packets translated on their way from the backend to a client.
    pub packets_out: u64,
    /// Bytes translated on their way from the backend to a client.
    pub bytes_out: u64,
    /// SYNs that were forwarded to the backend, and sockets that were connected to it.
    pub flows: u64,
    /// Connections that it refused: answers to a SYN that say that nobody listens. Comes round, of which
    /// whoever reads a counter knows.
    pub refusals: u32,
    /// TCP sockets of this node that were led to it on this CPU, less those that were closed or led
    /// elsewhere on it: the sum of all CPUs, which comes round as well, says how many there are.
    pub sockets: u32,
    /// SYNs that this CPU forwarded since it saw the backend's latest packet.
    pub unanswered: u32,
    /// [`moment_from_ns`] of the first of them.
    pub unanswered_since: u32,
    /// [`moment_from_ns`] of the latest [`Observation`] that this CPU told.
    pub told_at: u32,
    /// [`moment_from_ns`] of the latest SYN that this CPU forwarded.
    pub syn_at: u32,
}

/// Entry of the ring buffer `OBSERVATIONS`: something that may mean that a backend has failed. A hint,
/// told now and then while it lasts; whoever acts on it looks for himself first.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct Observation {
    /// Number of the backend.
    pub backend: u32,
    /// The generation that the number had then.
    pub generation: u32,
    /// `OBSERVATION_*`.
    pub sign: u32,
    /// Written as 0.
    pub reserved: u32,
}

/// [`Observation`] sign: the backend refused a connection.
pub const OBSERVATION_REFUSED: u32 = 1;
/// [`Observation`] sign: SYNs were sent to the backend, and nothing came back for a while.
pub const OBSERVATION_SILENT: u32 = 2;

/// Bytes of the ring buffer `OBSERVATIONS`: what it has no room for is told again while it lasts.
pub const OBSERVATIONS_BYTES: u32 = 16 * 1024;

/// Time for what ticks are too coarse for: about milliseconds since boot, for a reading of
/// `CLOCK_MONOTONIC` in nanoseconds. Comes round every 52 days.
#[must_use]
pub const fn moment_from_ns(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 20) as u32
}

/// Where a packet met the data path; indexes `VERDICTS` together with the verdict.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// TC ingress of a front interface.
    TcFront = 0,
    /// TC ingress of a backend's host-side veth.
    TcReply = 1,
    /// XDP on a front interface.
    Xdp = 2,
    /// The socket calls of the node and its containers.
    Socket = 3,
}

impl Hook {
    /// Every hook there is, in order of its number.
    pub const ALL: &'static [Self] = &[Self::TcFront, Self::TcReply, Self::Xdp, Self::Socket];

    /// The name in the command line client, the API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcFront => "tc_front",
            Self::TcReply => "tc_reply",
            Self::Xdp => "xdp_front",
            Self::Socket => "socket",
        }
    }
}

/// Number of hooks that [`Hook`] names.
pub const HOOK_COUNT: u32 = 4;

/// Entries per hook in the per-CPU array `VERDICTS`.
pub const VERDICT_SLOTS: u32 = 8;

/// Index into the per-CPU array `VERDICTS`.
#[must_use]
pub const fn verdict_index(hook: Hook, verdict: Verdict) -> u32 {
    hook as u32 * VERDICT_SLOTS + verdict as u32
}

const _: () = assert!(size_of::<BackendCounters>() == 64);
const _: () = assert!(size_of::<Observation>() == 16);
