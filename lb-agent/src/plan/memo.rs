//! What is remembered of rings from one plan to the next: looking through their slots takes long.

use super::{
    KernelRing, KernelState, draft::Draft, numbers::NumberSet, planner::Planner, ring::RingMember,
    slots::Watch,
};

/// What is known of a ring as long as its descriptor stays what it is.
#[derive(Clone, Debug)]
pub(super) struct RingMemo {
    pub(super) start: u32,
    pub(super) epoch: u32,
    pub(super) size: usize,
    /// Backend numbers that its slots refer to.
    pub(super) numbers: Vec<u32>,
    /// The members that its slots are right for.
    pub(super) members: Option<Vec<RingMember>>,
    /// When its slots change although its members do not; `None`: all are plain.
    pub(super) watch: Option<Watch>,
}

impl RingMemo {
    fn is_of(&self, ring: &KernelRing) -> bool {
        (self.start, self.epoch, self.size) == (ring.start, ring.epoch, ring.slots.len())
    }

    /// How many slots it has.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.size).unwrap_or(u32::MAX)
    }

    /// Its slots are right and plain.
    pub(super) fn is_settled(&self) -> bool {
        self.members.is_some() && self.watch.is_none()
    }
}

impl Planner {
    /// Sees which rings are others than before.
    pub(super) fn look_at_rings(&mut self, kernel: &KernelState) {
        let mut scratch = NumberSet::new();
        for (number, ring) in &kernel.rings {
            let memo = self.rings.get(number).filter(|memo| memo.is_of(ring));
            if memo.is_none() {
                let memo = RingMemo {
                    start: ring.start,
                    epoch: ring.epoch,
                    size: ring.slots.len(),
                    numbers: scratch.of_slots(ring.slots.different()),
                    members: None,
                    watch: None,
                };
                self.rings.insert(*number, memo);
            }
        }
        if self.rings.len() != kernel.rings.len() {
            self.rings.retain(|number, _| kernel.rings.contains_key(number));
        }
    }

    /// The backend numbers that any ring of the kernel refers to.
    pub(super) fn referenced(&self, draft: &Draft<'_>) -> NumberSet {
        let mut referenced = NumberSet::new();
        let memos = draft.kernel.rings.keys().filter_map(|ring| self.rings.get(ring));
        for backend in memos.flat_map(|memo| &memo.numbers).chain(&draft.replaced) {
            referenced.insert(*backend);
        }
        referenced
    }
}
