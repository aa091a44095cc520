//! Which port lists are in use, and which may still be in some reader's sight.

use std::{collections::HashMap, vec::Vec};

use super::{EditError, FrontendMaps};
use crate::abi::{MAX_PORT_LISTS, PORT_LIST_RANGES, PORT_LISTS, PortRange};

/// The lists of one family.
#[derive(Debug)]
pub(super) struct PortLists {
    quarantine_ms: u64,
    is_used: Vec<bool>,
    used: u32,
    resting_since_ms: HashMap<u32, u64>,
    last: u32,
}

impl PortLists {
    /// All free, as far as is known.
    pub(super) fn new(quarantine_ms: u64) -> Self {
        Self {
            quarantine_ms,
            is_used: std::vec![false; PORT_LISTS as usize],
            used: 0,
            resting_since_ms: HashMap::new(),
            last: 0,
        }
    }

    /// Lists in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Takes note of a list that an entry names.
    pub(super) fn note_used(&mut self, list: u32) {
        if let Some(is_used) = self.is_used.get_mut(list as usize)
            && !*is_used
        {
            *is_used = true;
            self.used += 1;
        }
    }

    /// Takes note of lists that were in use, and may have been until just now.
    pub(super) fn note_resting<const W: usize>(
        &mut self,
        maps: &impl FrontendMaps<W>,
        now_ms: u64,
    ) {
        for list in (1..PORT_LISTS).filter(|list| !self.is_used[*list as usize]) {
            if !read(maps, list).is_empty() {
                self.resting_since_ms.insert(list, now_ms);
            }
        }
    }

    /// A list that no reader sees.
    pub(super) fn take(&mut self, now_ms: u64, is_new: bool) -> Result<u32, EditError> {
        if is_new && self.used >= MAX_PORT_LISTS {
            return Err(EditError::PortListsFull);
        }
        let is_over = |since_ms: &u64| now_ms.saturating_sub(*since_ms) >= self.quarantine_ms;
        let mut candidates = (self.last + 1..PORT_LISTS).chain(1..=self.last);
        let found = candidates.find(|list| {
            !self.is_used[*list as usize] && self.resting_since_ms.get(list).is_none_or(is_over)
        });
        let list = found.ok_or(EditError::Busy)?;
        self.resting_since_ms.remove(&list);
        self.last = list;
        self.note_used(list);
        Ok(list)
    }

    /// Gives a list back that some reader may still see.
    pub(super) fn release(&mut self, list: u32, now_ms: u64) {
        if let Some(is_used) = self.is_used.get_mut(list as usize)
            && *is_used
        {
            *is_used = false;
            self.used -= 1;
            self.resting_since_ms.insert(list, now_ms);
        }
    }
}

/// The ranges of a list.
pub(super) fn read<const W: usize>(maps: &impl FrontendMaps<W>, list: u32) -> Vec<PortRange> {
    let words = maps.port_list(list).into_iter().flatten();
    let ranges = words.map(|word| PortRange::from_raw(maps.load(word)));
    ranges.take_while(|range| range.is_valid()).collect()
}

/// Fills a list that no reader sees.
pub(super) fn write<const W: usize>(
    maps: &impl FrontendMaps<W>,
    list: u32,
    ranges: &[PortRange],
) -> Result<(), EditError> {
    let words = maps.port_list(list).ok_or(EditError::MapTooShort)?;
    let ranges = ranges.iter().copied().chain(std::iter::repeat(PortRange::default()));
    for (word, range) in words.iter().zip(ranges) {
        maps.store(word, range.raw());
    }
    Ok(())
}

/// The narrowest first, and of those the one that begins first.
pub(super) fn insert_sorted(
    ranges: &mut Vec<PortRange>,
    range: PortRange,
) -> Result<(), EditError> {
    if ranges.len() >= PORT_LIST_RANGES {
        return Err(EditError::RangesFull);
    }
    let rank = |range: &PortRange| (range.last() - range.first(), range.first());
    let at = ranges.partition_point(|other| rank(other) < rank(&range));
    ranges.insert(at, range);
    Ok(())
}
