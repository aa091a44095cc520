//! How many probes of one container are under way, and which of its targets wait for others to end.
//! Pure.
//!
//! Whoever may start a container may ask for hundreds of probes that never answer. Without this they
//! would take all places there are, and nobody else would be probed.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::schedule::TargetNumber;

/// Probes of one container under way at once.
pub(super) const UNDER_WAY_MAX: usize = 16;

/// Whose probes count together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Party(u64);

impl Party {
    /// All targets of one run of a container; `None` for what is no container.
    pub(super) fn of(instance: &str) -> Option<Self> {
        if instance.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        instance.hash(&mut hasher);
        Some(Self(hasher.finish()))
    }
}

/// Who has how many turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    parties: HashMap<Party, Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    under_way: usize,
    /// Who waits, and since when it is due.
    waiting: Vec<(TargetNumber, u64)>,
}

impl Turns {
    /// A target is due. False: it has to wait for another of its party to end.
    pub(super) fn begin(&mut self, party: Party, target: TargetNumber, due_ms: u64) -> bool {
        let turn = self.parties.entry(party).or_default();
        if turn.under_way < UNDER_WAY_MAX {
            turn.under_way += 1;
            return true;
        }
        if !turn.waiting.iter().any(|(waiting, _)| *waiting == target) {
            turn.waiting.push((target, due_ms));
        }
        false
    }

    /// A probe has ended. Returns who has waited for that, and since when: all of them, since some
    /// may be targets no longer.
    pub(super) fn end(&mut self, party: Party) -> Vec<(TargetNumber, u64)> {
        let Some(turn) = self.parties.get_mut(&party) else { return Vec::new() };
        turn.under_way = turn.under_way.saturating_sub(1);
        let waiting = std::mem::take(&mut turn.waiting);
        if turn.under_way == 0 {
            self.parties.remove(&party);
        }
        waiting
    }
}
