//! What becomes of a slot when backends come and go. Pure: the agent plans rings with it, the data
//! path never calls it.
//!
//! One invariant: every live flow of a slot is recorded, or belongs to the slot's default. The default
//! is `old` while the slot is moving, else `cur`.
//!
//! ```text
//!            other cur                  old is gone and held,
//!   PLAIN ───────────────►  MOVING  ──── or all its flows have ────►  SETTLED ──► PLAIN
//!     ▲                     │    ▲       been seen or are over          │    no record of
//!     └── never directly ───┘    └──────────── other cur ───────────────┘    another backend
//! ```
//!
//! A publication is, in this order: states of backends, due timers, rings ([`advance`] runs a slot's
//! timers before it gives it another `cur`). Any transition is safe while a CPU still reads the slot
//! as it was before.

use crate::{
    abi::{
        BACKEND_NONE, FlowRecord, Limits, SLOT_CHANGE_TICKS_MAX, SLOT_MOVING, SLOT_PLAIN,
        SLOT_SETTLED, Slot, ticks_from_seconds,
    },
    engine::{Backend, is_live},
    rules::{Rule, is_broken},
};

/// Ticks after which no CPU reads a ring that was replaced.
pub const READERS_GONE_TICKS: u32 = 2;

/// Times of the slots of one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotTimes {
    /// Ticks without a packet after which a flow is over: no less than the limit of its record.
    pub settle_ticks: u32,
    /// Ticks in which the data path does not yet record flows of `old` ([`Limits::grace_ticks`]).
    pub grace_ticks: u32,
    /// Ticks for which a slot goes on recording new flows after `old` is gone, so that a replacement
    /// can take the slot over without moving again. Less than [`SLOT_CHANGE_TICKS_MAX`].
    pub hold_ticks: u32,
}

impl SlotTimes {
    /// For a ring of TCP.
    #[must_use]
    pub fn tcp(limits: &Limits, hold_ticks: u32) -> Self {
        let settle_ticks = if is_broken(Rule::SettleCoversKeepalive) {
            ticks_from_seconds(7200)
        } else {
            limits.established_ticks
        };
        Self {
            settle_ticks,
            grace_ticks: limits.grace_ticks,
            hold_ticks: hold_ticks.min(SLOT_CHANGE_TICKS_MAX / 2),
        }
    }

    /// For a ring of UDP.
    #[must_use]
    pub fn datagrams(limits: &Limits) -> Self {
        let settle_ticks = if is_broken(Rule::SettleCoversDatagrams) {
            ticks_from_seconds(5)
        } else {
            limits.datagram_ticks
        };
        Self { settle_ticks, grace_ticks: 0, hold_ticks: 0 }
    }
}

/// What the transitions of one ring depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Ticks since boot.
    pub now_tick: u32,
    /// When a flow of the ring was last left without a record ([`crate::abi::Refusals`]); 0: never.
    pub refused_tick: u32,
    /// Times of the ring's protocol.
    pub times: SlotTimes,
}

/// What a scan of all records found about one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// When the scan began. A scan reads half-open records before established ones, since records
    /// move from there to here.
    pub begun_tick: u32,
    /// Whether there is a live record of a backend that is not the slot's `cur`.
    pub has_other: bool,
}

/// A slot after a publication: its due timers, then `wanted` as its `cur` ([`BACKEND_NONE`]: nobody
/// takes new flows). `is_gone` says which backends keep no flows of the ring's protocol.
#[must_use]
pub fn advance(
    slot: Slot,
    wanted: u32,
    moment: &Moment,
    is_gone: impl Fn(u32) -> bool,
    finding: Option<Finding>,
) -> Slot {
    if is_broken(Rule::TimersRunFirst) {
        return run_timers(assign(slot, wanted, moment.now_tick), moment, &is_gone, finding);
    }
    let slot = run_timers(slot, moment, &is_gone, finding);
    without_gone_old(assign(slot, wanted, moment.now_tick), &is_gone)
}

fn run_timers(
    slot: Slot,
    moment: &Moment,
    is_gone: impl Fn(u32) -> bool,
    finding: Option<Finding>,
) -> Slot {
    let slot = without_gone_old(slot, is_gone);
    let settled = Slot::new(slot.cur(), BACKEND_NONE, SLOT_SETTLED, moment.now_tick);
    match slot.state() {
        SLOT_MOVING if slot.old() == BACKEND_NONE => {
            if is_held(slot, moment) {
                slot
            } else {
                settled
            }
        }
        SLOT_MOVING if is_over(slot, moment) => settled,
        SLOT_SETTLED if finding.is_some_and(|finding| allows_plain(slot, finding)) => {
            Slot::plain(slot.cur())
        }
        _ if slot.state() == SLOT_SETTLED && is_broken(Rule::PlainNeedsScan) => {
            Slot::plain(slot.cur())
        }
        _ => slot,
    }
}

/// Whether a slot without `old` still waits for a replacement. There is no point in it when new flows
/// find no room for their records: they are better off as flows of the default.
fn is_held(slot: Slot, moment: &Moment) -> bool {
    let held_ticks = slot.ticks_since_change(moment.now_tick);
    let is_refused =
        moment.refused_tick != 0 && moment.now_tick.wrapping_sub(moment.refused_tick) <= held_ticks;
    held_ticks < moment.times.hold_ticks && !is_refused
}

/// Whether every flow of `old` has either sent a packet that was recorded, or is over.
fn is_over(slot: Slot, moment: &Moment) -> bool {
    // A tick more, since both ends are rounded down.
    quiet_ticks(slot, moment) > moment.times.settle_ticks + moment.times.grace_ticks
}

/// Ticks for which every flow of `old` that was seen was recorded.
fn quiet_ticks(slot: Slot, moment: &Moment) -> u32 {
    let Moment { now_tick, refused_tick, .. } = *moment;
    let moving_ticks = slot.age_ticks(now_tick);
    if refused_tick == 0 || is_broken(Rule::RefusalPostponesSettling) {
        moving_ticks
    } else {
        moving_ticks.min(now_tick.wrapping_sub(refused_tick))
    }
}

/// Ticks until a timer of the slot is due, counted from `moment`, at least one; `None`: it has none.
/// Refusals may postpone it. That `old` goes, and what a scan finds, are events and no timers.
#[must_use]
pub fn ticks_until_due(slot: Slot, moment: &Moment) -> Option<u32> {
    if slot.state() != SLOT_MOVING {
        return None;
    }
    let ticks = if slot.old() == BACKEND_NONE {
        moment.times.hold_ticks.saturating_sub(slot.ticks_since_change(moment.now_tick))
    } else {
        let due_ticks = moment.times.settle_ticks + moment.times.grace_ticks + 1;
        due_ticks.saturating_sub(quiet_ticks(slot, moment))
    };
    Some(ticks.max(1))
}

fn allows_plain(slot: Slot, finding: Finding) -> bool {
    !finding.has_other && readers_are_gone(slot, finding.begun_tick)
}

/// Whether no CPU at `tick` read the slot as it was before.
fn readers_are_gone(slot: Slot, tick: u32) -> bool {
    // A tick from before the slot became what it is looks like one from far ahead.
    let age_ticks = slot.age_ticks(tick);
    (age_ticks > READERS_GONE_TICKS && age_ticks < 1 << 21)
        || is_broken(Rule::ScanBeginsAfterPublication)
}

/// Once `old` is gone it owns nothing any more, also if its number should come back to life.
fn without_gone_old(slot: Slot, is_gone: impl Fn(u32) -> bool) -> Slot {
    let is_moving = slot.state() == SLOT_MOVING && slot.old() != BACKEND_NONE;
    if is_moving && is_gone(slot.old()) { slot.with_old(BACKEND_NONE) } else { slot }
}

fn assign(slot: Slot, wanted: u32, now_tick: u32) -> Slot {
    let cur = slot.cur();
    if wanted == cur {
        return slot;
    }
    if slot.state() != SLOT_MOVING {
        return if cur == BACKEND_NONE {
            // Nobody had a flow here: they all come by way of records, or not at all.
            Slot::new(wanted, BACKEND_NONE, SLOT_SETTLED, now_tick)
        } else {
            Slot::new(wanted, cur, SLOT_MOVING, now_tick)
        };
    }
    if wanted == slot.old() && wanted != BACKEND_NONE {
        return if is_broken(Rule::ReturnSettles) {
            Slot::plain(wanted)
        } else {
            Slot::new(wanted, BACKEND_NONE, SLOT_SETTLED, now_tick)
        };
    }
    if is_broken(Rule::OldStaysWhileMoving) {
        return Slot::new(wanted, cur, SLOT_MOVING, now_tick);
    }
    slot.with_cur(wanted, now_tick)
}

/// What a scan does with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sweep {
    /// It is dead, or says what the slot says: delete it.
    Delete,
    /// It stays, and keeps its slot from becoming plain.
    Keep,
    /// It stays and is nobody's concern.
    Ignore,
}

/// What a scan does with a record of `slot` (`None`: it has no frontend now, or that has no ring).
#[must_use]
pub fn sweep<A>(
    record: &FlowRecord,
    backend: &Backend<A>,
    slot: Option<Slot>,
    limits: &Limits,
    now_tick: u32,
) -> Sweep {
    // A packet that is under way may still take it for alive, and touch it.
    if !is_live(record, backend, limits, now_tick.wrapping_sub(READERS_GONE_TICKS)) {
        return Sweep::Delete;
    }
    match slot {
        None if is_broken(Rule::AbsentFrontendsKeepRecords) => Sweep::Delete,
        Some(slot) if slot.state() == SLOT_MOVING => Sweep::Ignore,
        // A record of a plain slot is one that a CPU wrote which still saw it moving, or that a ring
        // before this one has left; it must be gone before the slot moves again.
        Some(slot) if slot.state() == SLOT_PLAIN => Sweep::Delete,
        // Whoever still sees the slot moving needs the record.
        Some(slot) if !readers_are_gone(slot, now_tick) => Sweep::Keep,
        Some(slot) if slot.cur() == record.backend => Sweep::Delete,
        // Also without a slot: the frontend may come back while the flow lives, and find its slot as
        // it was.
        Some(_) | None => Sweep::Keep,
    }
}
