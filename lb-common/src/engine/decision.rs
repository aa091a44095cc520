//! The value that the engine returns for a packet.

use super::Edit;
use crate::abi::{
    BACKEND_NONE, DropReason, FlowKeyV4, FlowRecord, NetU16, NetU32, ReplyKeyV4, ReplyRecordV4,
    Verdict,
};

/// What happens to a packet. A value: looking at it changes nothing.
///
/// In this order, since LLVM merges stores of neighbouring words, and the verifier refuses a merged
/// one that is not aligned to 8 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Where it goes.
    pub verdict: Verdict,
    /// Why it is dropped; [`DropReason::None`] for every other verdict.
    pub reason: DropReason,
    /// Number of the backend it goes to or comes from, or [`BACKEND_NONE`].
    pub backend: u32,
    /// `Deliver`: the host-side veth of the container. `Reply`: the front interface that the
    /// client's packet came in on, or 0 when only the routing table knows. Else 0.
    pub ifindex: u32,
    /// What is changed in it.
    pub edit: Option<Edit>,
    /// What is remembered or forgotten.
    pub record: Record,
    /// 1: a client opens a connection with it, else 0. A retransmitted SYN counts again.
    pub opens_flow: u64,
}

/// What happens to the record of a flow.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowChange {
    /// Nothing.
    Keep,
    /// An established record gets another time or class.
    Touch,
    /// A half-open record gets another time or class.
    TouchHalf,
    /// The flow becomes half open, whatever was recorded of it before.
    PutHalf,
    /// The flow gets an established record; when there is no room, that is noted.
    Put,
    /// The half-open record becomes an established one; when there is no room, that is noted, and the
    /// record stays where it is.
    Promote,
    /// The flow has no record any more.
    Forget,
}

/// What happens to the record by which a flow's replies are translated.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyChange {
    /// Nothing.
    Keep,
    /// An established record gets another time or class.
    Touch,
    /// A half-open record gets another time or class.
    TouchHalf,
    /// The flow becomes half open. Without the record its replies would leave as the container's own,
    /// so the packet is dropped when it cannot be written.
    PutHalf,
    /// The flow becomes established; when there is no room, it stays among the half open.
    Put,
    /// The backend's port answers somebody else now.
    Forget,
}

/// A change of records and what it is about. Fields that the change does not need are there all the
/// same: LLVM would carry an absent enum payload along in whatever register is at hand, also one
/// with a pointer in it, which the verifier refuses to see stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What happens to the flow's record.
    pub flow_change: FlowChange,
    /// What happens to the record of its replies.
    pub reply_change: ReplyChange,
    /// Number of the ring that the flow falls on.
    pub ring: u32,
    /// Not 0: the flow should have a record and gets none, which is noted for the ring.
    pub is_refused: u32,
    /// The flow as the client sends it.
    pub flow: FlowKeyV4,
    /// The flow's record from now on.
    pub flow_record: FlowRecord,
    /// The flow as the backend answers it.
    pub reply: ReplyKeyV4,
    /// How its answers are translated from now on.
    pub reply_record: ReplyRecordV4,
}

impl Record {
    /// Nothing changes.
    pub const KEEP: Self = Self {
        flow_change: FlowChange::Keep,
        reply_change: ReplyChange::Keep,
        ring: 0,
        is_refused: 0,
        flow: FlowKeyV4 {
            client: NetU32::from_raw(0),
            vip: NetU32::from_raw(0),
            client_port: NetU16::new(0),
            vip_port: NetU16::new(0),
            protocol: 0,
        },
        flow_record: FlowRecord { backend: 0, generation: 0, last_seen_tick: 0, class: 0 },
        reply: ReplyKeyV4 {
            ifindex: 0,
            backend: NetU32::from_raw(0),
            client: NetU32::from_raw(0),
            backend_port: NetU16::new(0),
            client_port: NetU16::new(0),
            protocol: 0,
            reserved: 0,
        },
        reply_record: ReplyRecordV4 {
            vip: NetU32::from_raw(0),
            vip_port: NetU16::new(0),
            class: 0,
            backend: 0,
            generation: 0,
            ifindex: 0,
            last_seen_tick: 0,
        },
    };
}

impl Decision {
    /// Not ours.
    pub const PASS: Self = Self {
        verdict: Verdict::Pass,
        reason: DropReason::None,
        backend: BACKEND_NONE,
        ifindex: 0,
        edit: None,
        record: Record::KEEP,
        opens_flow: 0,
    };

    /// Dropped.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason, backend: u32) -> Self {
        Self { verdict: Verdict::Drop, reason, backend, ..Self::PASS }
    }
}
