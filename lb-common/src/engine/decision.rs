//! The value that the engine returns for a packet.

use super::{Choice, ErrorTranslation, Family, Side, Translation, answer::AnswerKind};
use crate::abi::{BACKEND_NONE, DropReason, FlowRecord, NetU16, Verdict};

/// What happens to a packet. A value: looking at it changes nothing.
///
/// Too large for the kernel's stack of 512 bytes together with what decides on it, so it is written in
/// place; what does not count keeps what was there before, see [`Decision::reset`].
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<A: Family> {
    /// Where the packet goes.
    pub verdict: Verdict,
    /// Why it is dropped; [`DropReason::None`] for every other verdict.
    pub reason: DropReason,
    /// Number of the backend it goes to or comes from, or [`BACKEND_NONE`].
    pub backend: u32,
    /// `Deliver`: the host-side veth of the container. `Reply`: the front interface that the
    /// client's packet came in on, or 0 when only the routing table knows. Else 0.
    pub ifindex: u32,
    /// 1: a client opens a connection with it, else 0. A retransmitted SYN counts again.
    pub opens_flow: u32,
    /// `Pass`: the backend that refuses a connection of a container of this node with it, or
    /// [`BACKEND_NONE`].
    pub refusing: u32,
    /// Which of the following changes it.
    pub edit: EditKind,
    /// What the answer says, if it is answered.
    pub answer: AnswerKind,
    /// Of an answer that the packet is too big: the MTU. Written when that turns out.
    pub mtu: u32,
    /// Which backend the flow of a client has, where there was one to choose.
    pub choice: Choice<A>,
    /// What is changed in it.
    pub translation: Translation<A>,
    /// What is changed in an ICMP error.
    pub error: ErrorTranslation<A>,
    /// What is remembered or forgotten.
    pub record: Record<A>,
}

/// What is changed in a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EditKind {
    /// Nothing is changed.
    None = 0,
    /// [`Decision::translation`] of the packet itself.
    Packet = 1,
    /// [`Decision::error`] of an ICMP error and what it quotes.
    Error = 2,
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
    /// A flow that is not ours begins where replies have a default, which learns of it. Without the
    /// record its packets would be taken for replies, so the first is dropped when it cannot be
    /// written.
    PutForeign,
}

/// Which table has the record of a flow's replies.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyTable {
    /// None.
    None,
    /// That of the established ones.
    Established,
    /// That of the half-open ones.
    HalfOpen,
}

/// A change of records and what it is about. What a change does not need means nothing.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<A: Family> {
    /// What happens to the flow's record.
    pub flow_change: FlowChange,
    /// What happens to the record of its replies.
    pub reply_change: ReplyChange,
    /// Number of the ring that the flow falls on.
    pub ring: u32,
    /// Not 0: the flow should have a record and gets none, which is noted for the ring.
    pub is_refused: u32,
    /// Not 0: other fragments of the packet follow.
    pub has_fragments: u32,
    /// [`ReplyTable`] of the record that its replies had before.
    pub reply_table: ReplyTable,
    /// The flow as the client sends it.
    pub flow: A::FlowKey,
    /// The flow's record from now on.
    pub flow_record: FlowRecord,
    /// The flow as the backend answers it.
    pub reply: A::ReplyKey,
    /// How its answers are translated from now on.
    pub reply_record: A::ReplyRecord,
    /// The packet that this is the first fragment of.
    pub fragment: A::FragmentKey,
    /// What the fragments that follow share.
    pub fragment_record: A::FragmentRecord,
}

impl<A: Family> Record<A> {
    /// Nothing changes.
    #[must_use]
    pub fn keep() -> Self {
        Self {
            flow_change: FlowChange::Keep,
            reply_change: ReplyChange::Keep,
            ring: 0,
            is_refused: 0,
            has_fragments: 0,
            reply_table: ReplyTable::None,
            flow: A::FlowKey::default(),
            flow_record: FlowRecord::default(),
            reply: A::ReplyKey::default(),
            reply_record: A::ReplyRecord::default(),
            fragment: A::FragmentKey::default(),
            fragment_record: A::FragmentRecord::default(),
        }
    }
}

impl<A: Family> Decision<A> {
    /// A packet that is left alone.
    #[must_use]
    pub fn pass() -> Self {
        let translation = Translation {
            side: Side::Source,
            protocol: 0,
            old_address: A::UNSPECIFIED,
            address: A::UNSPECIFIED,
            old_port: NetU16::new(0),
            port: NetU16::new(0),
            l3_offset: 0,
            l4_offset: 0,
        };
        Self {
            verdict: Verdict::Pass,
            reason: DropReason::None,
            backend: BACKEND_NONE,
            ifindex: 0,
            opens_flow: 0,
            refusing: BACKEND_NONE,
            edit: EditKind::None,
            answer: AnswerKind::EchoReply,
            mtu: 0,
            choice: Choice::NONE,
            translation,
            error: ErrorTranslation::NONE,
            record: Record::keep(),
        }
    }

    /// Leaves the packet alone. Clears what is looked at whatever the verdict is, no more.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.verdict = Verdict::Pass;
        self.reason = DropReason::None;
        self.backend = BACKEND_NONE;
        self.ifindex = 0;
        self.opens_flow = 0;
        self.refusing = BACKEND_NONE;
        self.edit = EditKind::None;
        self.record.flow_change = FlowChange::Keep;
        self.record.reply_change = ReplyChange::Keep;
        self.record.is_refused = 0;
        self.record.has_fragments = 0;
    }

    /// Drops the packet, which was to go to or came from a backend (or [`BACKEND_NONE`]), and
    /// remembers nothing of it.
    #[inline(always)]
    pub fn drop(&mut self, reason: DropReason, backend: u32) {
        self.reset();
        self.verdict = Verdict::Drop;
        self.reason = reason;
        self.backend = backend;
    }

    /// Answers the packet, for a reason or none, in place of a backend (or [`BACKEND_NONE`]).
    #[inline(always)]
    pub(super) fn answer(&mut self, kind: AnswerKind, reason: DropReason, backend: u32) {
        self.drop(reason, backend);
        self.verdict = Verdict::Answer;
        self.answer = kind;
    }

    /// Why the packet is dropped if there must be no answer.
    #[inline(always)]
    #[must_use]
    pub const fn unanswered(&self) -> DropReason {
        match self.reason {
            DropReason::None => DropReason::EchoUnanswerable,
            reason => reason,
        }
    }

    /// Leaves a reply alone for now that is ready to be translated: see [`Self::has_doubt`].
    #[inline(always)]
    pub(super) fn doubt(&mut self) {
        self.verdict = Verdict::Pass;
    }

    /// Whether it depends on who has sent the packet: as an answer to a SYN that came through us it is
    /// translated, and as that of a connection which has been there before it stays as it is. The two
    /// look the same.
    #[inline(always)]
    #[must_use]
    pub fn has_doubt(&self) -> bool {
        self.verdict as u32 == Verdict::Pass as u32 && self.edit as u32 != EditKind::None as u32
    }

    /// Ends a doubt.
    #[inline(always)]
    pub fn settle_doubt(&mut self, is_of_connection: bool) {
        if is_of_connection {
            self.reset();
        } else {
            self.verdict = Verdict::Reply;
        }
    }

    /// Translates the flow's other end.
    #[inline(always)]
    pub(super) fn translate(&mut self, translation: Translation<A>) {
        self.edit = EditKind::Packet;
        self.translation = translation;
    }
}
