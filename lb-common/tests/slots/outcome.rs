//! What a history comes to: promises broken, and what was counted.

use std::fmt;

/// A promise broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) at: u64,
    pub(crate) client: Option<usize>,
    pub(crate) what: What,
}

/// Which promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// A live flow's packet goes to another backend, or nowhere.
    FlowMoved,
    /// A live flow is neither recorded nor its slot's default's.
    FlowUnowned,
    /// A new connection goes to a backend that takes none.
    SynToUnwilling,
    /// A packet goes to a backend that is gone.
    PacketToGone,
    /// A packet goes to a backend of another service.
    PacketToStranger,
    /// A SYN goes to a backend where its acknowledgement will not follow.
    SynUnowned,
    /// A flow of `old` has taken the room that is for handshakes.
    ReserveTaken,
    /// Nothing was published, and the handshake's ACK goes elsewhere than its SYN.
    HandshakeSplit,
    /// Something was recorded that must not be.
    RecordedWrongly,
    /// A plain slot has a live record of another backend.
    PlainSlotHasRecord,
    /// Records or slots that are not plain after a long quiet.
    LeftOver,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    pub(crate) connections: u64,
    pub(crate) publications: u64,
    pub(crate) refusals: u64,
    /// Handshakes that failed since the slot changed, or the table was full.
    pub(crate) handshakes_broken: u64,
    /// Connections that had to live without a record since the table was full.
    pub(crate) unpromised: u64,
    /// Of all looks at slots, how many were not plain.
    pub(crate) slots_seen: u64,
    pub(crate) slots_busy: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.connections += other.connections;
        self.publications += other.publications;
        self.refusals += other.refusals;
        self.handshakes_broken += other.handshakes_broken;
        self.unpromised += other.unpromised;
        self.slots_seen += other.slots_seen;
        self.slots_busy += other.slots_busy;
    }
}

/// Milliseconds, shown as seconds.
pub(crate) struct Seconds(pub(crate) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}.{:03}", self.0 / 1000, self.0 % 1000))
    }
}
