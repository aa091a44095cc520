//! The rules that keep flows where they are, by name.
//!
//! Each is one line of code somewhere in [`crate::engine`] or [`crate::slots`], and each has a history
//! of packets in which leaving it out breaks a flow. With the feature `breakable` one of them can be
//! switched off in a thread, and a test shows that the simulation then finds such a history. Without
//! the feature, [`is_broken`] is the constant `false`.

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        /// A rule.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

rules! {
    /// A record counts only if its backend keeps its flows and it is not too old.
    HitsAreLive;
    /// A record counts only for the generation of the backend that it was written for.
    HitsMatchGeneration;
    /// A SYN follows a record only to a backend that takes new flows.
    SynHitsNeedTakesNew;
    /// A SYN that decides anew leaves no record of the connection before it.
    SynForgetsEarlierRecord;
    /// A datagram that goes elsewhere since its backend is unhealthy leaves no record behind.
    DatagramsForgetDeadRecord;
    /// On a moving slot, new flows are recorded.
    NewFlowsAreRecorded;
    /// On a moving slot, what is not recorded belongs to `old`.
    MissesGoToOld;
    /// An `old` that is gone owns nothing.
    GoneOldOwnsNothing;
    /// Flows of `old` are recorded when they are seen.
    OldFlowsAreRecorded;
    /// FIN, RST, SYN+ACK and ICMP errors record nothing.
    OnlyLiveFlowsAreRecorded;
    /// FIN does not end a record at once.
    FinKeepsRecord;
    /// Nothing is recorded on a settled slot.
    SettledRecordsNothing;
    /// Established records are refused, never evicted.
    EstablishedAreNeverEvicted;
    /// Flows of `old` leave room for handshakes that are over.
    HandshakesHaveRoom;
    /// A SYN whose record finds no room is dropped: its acknowledgement would go to `old`.
    UnrecordedSynsAreDropped;
    /// `old` stays the owner of the unrecorded whatever `cur` becomes: no chain by shift.
    OldStaysWhileMoving;
    /// A slot whose `cur` becomes `old` again is settled, not plain.
    ReturnSettles;
    /// A slot settles no earlier than an established record dies.
    SettleCoversKeepalive;
    /// A slot for datagrams settles no earlier than their flows are over.
    SettleCoversDatagrams;
    /// A refused record postpones settling.
    RefusalPostponesSettling;
    /// A settled slot becomes plain only when a scan has found no live record of another backend.
    PlainNeedsScan;
    /// A scan judges a settled slot only after the last reader of its moving state.
    ScanBeginsAfterPublication;
    /// A record whose frontend is absent stays as long as its flow may live.
    AbsentFrontendsKeepRecords;
    /// A record that the data path has written anew since a scan judged it stays.
    RewrittenRecordsStay;
    /// Due timers of a slot run before it gets another `cur`.
    TimersRunFirst;
    /// A TCP backend that is unhealthy keeps its flows.
    UnhealthyIsNotDead;
    /// TCP and UDP have a ring each.
    RingPerProtocol;
}

#[cfg(feature = "breakable")]
std::thread_local! {
    static BROKEN: core::cell::Cell<Option<Rule>> = const { core::cell::Cell::new(None) };
}

/// Breaks a rule in this thread, or none.
#[cfg(feature = "breakable")]
pub fn set_broken(rule: Option<Rule>) {
    BROKEN.set(rule);
}

/// Whether this rule is broken.
#[cfg(feature = "breakable")]
#[must_use]
pub fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// Whether this rule is broken.
#[cfg(not(feature = "breakable"))]
#[inline(always)]
#[must_use]
pub const fn is_broken(_rule: Rule) -> bool {
    false
}
