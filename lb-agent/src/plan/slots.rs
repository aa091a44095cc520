//! What the slots of a ring become, and when that is to be looked at again.
//!
//! The rules are [`lb_common::slots`]; here they get what they depend on.

use lb_common::{
    abi::{
        BACKEND_NONE, SLOT_MOVING, SLOT_PLAIN, SLOT_SETTLED, Slot, TAKES_OLD, TAKES_OLD_DATAGRAMS,
    },
    slots::{Moment, advance, ticks_until_due},
};

use super::{
    Slots,
    draft::Draft,
    numbers::NumberSet,
    sight::{Sight, Times, is_of_datagrams},
};

/// What the slots of a ring depend on, beside who is to own them.
pub(super) struct Circumstances<'a> {
    ring: u32,
    sight: &'a Sight,
    moment: Moment,
    /// The bit without which a backend keeps no flows of the ring's protocol.
    keeps: u8,
}

impl<'a> Circumstances<'a> {
    pub(super) fn new(ring: u32, times: &Times, sight: &'a Sight) -> Self {
        Self {
            ring,
            sight,
            moment: Moment {
                now_tick: sight.now_tick,
                refused_tick: sight.refused_tick(ring),
                times: times.of_ring(ring),
            },
            keeps: if is_of_datagrams(ring) { TAKES_OLD_DATAGRAMS } else { TAKES_OLD },
        }
    }

    /// What a slot becomes: its due timers, then its new owner. Nothing else makes slots, except
    /// those of a new ring, which are plain.
    fn next(&self, draft: &Draft<'_>, index: usize, slot: Slot, owner: u32) -> Slot {
        // Most slots of most rings.
        if slot.state() == SLOT_PLAIN && slot.cur() == owner {
            return slot;
        }
        let finding = self.sight.scan.as_ref().map(|scan| scan.finding(self.ring, index));
        let is_gone = |number| draft.is_gone(number, self.keeps);
        advance(slot, owner, &self.moment, is_gone, finding)
    }

    /// The slots when these are to own them.
    pub(super) fn assigned(
        &self,
        draft: &Draft<'_>,
        held: Option<&Slots>,
        owners: &[u32],
    ) -> Vec<Slot> {
        let next = |(index, owner): (usize, &u32)| match held.and_then(|held| held.get(index)) {
            Some(slot) => self.next(draft, index, *slot, *owner),
            None => Slot::plain(*owner),
        };
        owners.iter().enumerate().map(next).collect()
    }

    /// The slots when their owners stay.
    pub(super) fn advanced(&self, draft: &Draft<'_>, held: &Slots) -> Vec<Slot> {
        let next = |(index, slot): (usize, &Slot)| self.next(draft, index, *slot, slot.cur());
        held.iter().enumerate().map(next).collect()
    }
}

/// When the slots of a ring are to be looked at again, as long as nobody else is to own them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Watch {
    /// Owners of unrecorded flows of slots that are moving, each once.
    olds: Vec<u32>,
    /// When the next timer is due.
    due_tick: Option<u32>,
    /// Some slots wait for a scan that finds nothing.
    has_settled: bool,
    /// Some slots wait for a replacement.
    has_held: bool,
    /// What had been seen when the slots became what they are.
    refused_tick: u32,
    scan_begun_tick: Option<u32>,
}

impl Watch {
    /// Of slots that have just become what they are; `None`: all are plain.
    pub(super) fn of(slots: &[Slot], circumstances: &Circumstances<'_>) -> Option<Self> {
        let Circumstances { moment, sight, .. } = circumstances;
        let mut watch = Self {
            refused_tick: moment.refused_tick,
            scan_begun_tick: sight.scan_begun_tick(),
            ..Self::default()
        };
        let mut busy = slots.iter().filter(|slot| slot.state() != SLOT_PLAIN).peekable();
        busy.peek()?;
        let mut olds = NumberSet::new();
        let mut due_ticks = None;
        for slot in busy {
            watch.has_settled |= slot.state() == SLOT_SETTLED;
            if slot.state() == SLOT_MOVING {
                if slot.old() == BACKEND_NONE {
                    watch.has_held = true;
                } else if olds.insert(slot.old()) {
                    watch.olds.push(slot.old());
                }
            }
            if let Some(ticks) = ticks_until_due(*slot, moment) {
                due_ticks = Some(due_ticks.map_or(ticks, |other: u32| other.min(ticks)));
            }
        }
        watch.due_tick = due_ticks.map(|ticks| moment.now_tick.wrapping_add(ticks));
        Some(watch)
    }

    /// Whether a timer is due, or something was seen of which a slot may have waited.
    pub(super) fn is_due(&self, ring: u32, sight: &Sight) -> bool {
        let is_late = self.ticks_left(sight) == Some(0);
        let is_scanned = self.has_settled && self.scan_begun_tick != sight.scan_begun_tick();
        let is_refused = self.has_held && self.refused_tick != sight.refused_tick(ring);
        is_late || is_scanned || is_refused
    }

    /// Whether any `old` will be gone.
    pub(super) fn misses_old(&self, draft: &Draft<'_>, circumstances: &Circumstances<'_>) -> bool {
        self.olds.iter().any(|number| draft.is_gone(*number, circumstances.keeps))
    }

    /// Ticks until the next timer.
    pub(super) fn ticks_left(&self, sight: &Sight) -> Option<u32> {
        let left = self.due_tick?.wrapping_sub(sight.now_tick).cast_signed();
        Some(left.max(0).cast_unsigned())
    }
}
