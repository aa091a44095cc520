//! What is told of a packet while somebody traces, and of which packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::net::{NetAddr6, NetU16};

/// Filters of which a packet needs to match one; elements of the array `TRACE_FILTERS`.
pub const TRACE_FILTERS: u32 = 4;
/// Bytes of the ring buffer `TRACE`.
pub const TRACE_BYTES: u32 = 256 * 1024;

/// [`TraceEvent`] edit: neither end was translated.
pub const TRACE_EDIT_NONE: u16 = 0;
/// [`TraceEvent`] edit: the source was translated, in a reply.
pub const TRACE_EDIT_SOURCE: u16 = 1;
/// [`TraceEvent`] edit: the destination was translated.
pub const TRACE_EDIT_DESTINATION: u16 = 2;

/// [`TraceFilter`] reason: whatever it is.
pub const TRACE_ANY_REASON: u32 = u32::MAX;

/// Entry of the ring buffer `TRACE`: a packet as it came, and the decision that it got.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct TraceEvent {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Source address as it came; IPv4 in the first word, then zeros.
    pub source: NetAddr6,
    /// Destination address as it came.
    pub destination: NetAddr6,
    /// What the translated end became.
    pub address: NetAddr6,
    /// Source port as it came; 0 without ports.
    pub source_port: NetU16,
    /// Destination port as it came; 0 without ports.
    pub destination_port: NetU16,
    /// What the port of the translated end became. Of an ICMP error, that of the quoted packet.
    pub port: NetU16,
    /// Which end was translated, `TRACE_EDIT_*`.
    pub edit: u16,
    /// `FAMILY_*`.
    pub family: u32,
    /// Number of the [`super::Hook`].
    pub hook: u32,
    /// Number of the [`super::Verdict`].
    pub verdict: u32,
    /// Number of the [`super::DropReason`].
    pub reason: u32,
    /// Number of the backend, or [`super::BACKEND_NONE`].
    pub backend: u32,
    /// IP protocol number.
    pub protocol: u32,
    /// Number of the engine's kind of packet.
    pub kind: u32,
    /// Flag byte of the TCP header.
    pub tcp_flags: u32,
    /// Number of the engine's kind of answer, for a packet that is answered.
    pub answer: u32,
    /// Interface that it came in on.
    pub ingress_ifindex: u32,
    /// Interface that it leaves by, as far as the decision says.
    pub egress_ifindex: u32,
    /// Bytes from the IP header on.
    pub length_bytes: u32,
    /// Number of the change to the flow's record.
    pub flow_change: u32,
    /// Number of the change to the record of its replies.
    pub reply_change: u32,
    /// `CLASS_*` of the flow's record, if that changes.
    pub class: u32,
    /// A bit for each element of `TRACE_FILTERS` that matches.
    pub filters: u32,
}

/// Element of the array `TRACE_FILTERS`: whose packets are told of. The agent writes `until_tick` last
/// when it sets a filter, and first when it takes one away.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct TraceFilter {
    /// Bits that the client's address must have, of those in `client_mask`.
    pub client: NetAddr6,
    /// Bits of the client's address that count.
    pub client_mask: NetAddr6,
    /// Bits that the VIP must have, of those in `vip_mask`.
    pub vip: NetAddr6,
    /// Bits of the VIP that count.
    pub vip_mask: NetAddr6,
    /// Bit `1 << FAMILY_*` for each family.
    pub families: u32,
    /// Port of the VIP; 0: any.
    pub port: u32,
    /// Number of the backend; 0: any, or none.
    pub backend: u32,
    /// Number of the reason, or [`TRACE_ANY_REASON`].
    pub reason: u32,
    /// Bit `1 << verdict` for each verdict.
    pub verdicts: u32,
    /// The tick after which the filter is over, whatever became of the agent; 0: there is none.
    pub until_tick: u32,
}

/// Value of the per-CPU array `TRACE_STATE`, of one element.
#[repr(C, align(8))]
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
pub struct TraceState {
    /// When the bucket that bounds the rate of events is full again, in nanoseconds since boot.
    pub full_at_ns: u64,
    /// Events that were not told, for their rate or because the buffer was full.
    pub lost: u64,
}

const _: () = assert!(size_of::<TraceEvent>() == 128);
const _: () = assert!(size_of::<TraceFilter>() == 88);
const _: () = assert!(size_of::<TraceState>() == 16);
