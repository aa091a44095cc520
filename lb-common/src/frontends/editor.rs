//! How the frontend table is changed while it is read.
//!
//! The table is the truth: an [`Editor`] can be made from it at any time, also when its predecessor
//! was killed between two stores. It remembers only what is resting.

use core::{fmt, marker::PhantomData};
use std::{collections::HashMap, vec::Vec};

use super::{
    FrontendKey, FrontendMaps, buckets_of,
    entry::{
        Place, find_place, header, is_in_use, load_entry, mark_overflow, store_entry, store_value,
    },
    filter_position, port_lists,
    port_lists::PortLists,
};
use crate::abi::{
    FRONTEND_WAYS, FrontendHeader, FrontendValue, MAX_FRONTENDS, MAX_PORT_LISTS, NetU16,
    PORT_LIST_RANGES, PortRange,
};

/// Entries that rest are forgotten in bulk when there are more than so many.
const RESTING_MAX: usize = 4096;

/// Why a change was not made. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EditError {
    /// The table has as many entries as it may have.
    Full,
    /// The VIP has as many ranges of this protocol as a list can hold.
    RangesFull,
    /// As many lists of ranges are in use as there can be.
    PortListsFull,
    /// What could be used is still in some reader's sight; later it is not.
    Busy,
    /// A map is shorter than it should be.
    MapTooShort,
    /// A frontend has no such ports or number.
    Invalid,
}

impl fmt::Display for EditError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(formatter, "the table is full: it holds {MAX_FRONTENDS} entries"),
            Self::RangesFull => write!(
                formatter,
                "a VIP can have {PORT_LIST_RANGES} port ranges of one protocol, and has them"
            ),
            Self::PortListsFull => write!(
                formatter,
                "{MAX_PORT_LISTS} VIPs have port ranges, and there is no room for more"
            ),
            Self::Busy => formatter
                .write_str("free entries rest until no packet can see what was in them; try again"),
            Self::MapTooShort => formatter.write_str("a map is shorter than it should be"),
            Self::Invalid => formatter.write_str("a frontend has ports from 1 to 65535"),
        }
    }
}

/// Something that the table holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<K> {
    /// A VIP.
    Vip {
        /// Its key.
        key: K,
        /// Its flags.
        flags: u32,
    },
    /// A frontend.
    Frontend {
        /// Its VIP and protocol; the port is the first.
        key: K,
        /// The first port.
        first: u16,
        /// The last port; the first if there is only one.
        last: u16,
        /// Number of its service.
        service: u32,
        /// Its flags.
        flags: u32,
    },
}

/// How full the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Entries, of [`MAX_FRONTENDS`].
    pub entries: u32,
    /// Lists of port ranges, of [`MAX_PORT_LISTS`].
    pub port_lists: u32,
}

/// The one writer of a family's tables.
#[derive(Debug)]
pub struct Editor<const W: usize, K> {
    pub(super) quarantine_ms: u64,
    pub(super) entries: u32,
    /// Entries by their bit of the filter.
    filter: HashMap<(u32, u64), u32>,
    /// What was withdrawn from where, and when.
    pub(super) resting: HashMap<Place, (Option<K>, u64)>,
    /// From when on no reader uses the half that does not count.
    pub(super) other_half_free_ms: u64,
    lists: PortLists,
    key: PhantomData<K>,
}

impl<const W: usize, K: FrontendKey<W> + core::hash::Hash> Editor<W, K> {
    /// Looks at the tables, which no other editor changes any more. Whatever was withdrawn from them
    /// may have been until just now.
    pub fn adopt(
        maps: &impl FrontendMaps<W>,
        quarantine_ms: u64,
        now_ms: u64,
    ) -> Result<Self, EditError> {
        let mut editor = Self {
            quarantine_ms,
            entries: 0,
            filter: HashMap::new(),
            resting: HashMap::new(),
            other_half_free_ms: now_ms,
            lists: PortLists::new(quarantine_ms),
            key: PhantomData,
        };
        let header = header(maps)?;
        let base = header.half() * maps.buckets();
        for bucket in base..base + maps.buckets() {
            for way in 0..FRONTEND_WAYS {
                let words = load_entry(maps, (bucket, way))?;
                if is_in_use(&words) {
                    editor.note_entry(&words);
                } else if FrontendValue::from_raw(words[W - 1]).was_used() {
                    editor.resting.insert((bucket, way), (None, now_ms));
                }
            }
        }
        // The other half was given up by a predecessor, or never used.
        if header != FrontendHeader::default() {
            editor.other_half_free_ms = now_ms.saturating_add(quarantine_ms);
        }
        editor.lists.note_resting(maps, now_ms);
        editor.repair_filter(maps)?;
        Ok(editor)
    }

    /// How full the tables are.
    pub fn counts(&self) -> Counts {
        Counts { entries: self.entries, port_lists: self.lists.used() }
    }

    /// Everything that the table holds, in no order.
    pub fn read(&self, maps: &impl FrontendMaps<W>) -> Result<Vec<Entry<K>>, EditError> {
        let mut entries = Vec::with_capacity(self.entries as usize);
        for words in self.load_all(maps)? {
            let key = K::from_words(&words);
            let value = FrontendValue::from_raw(words[W - 1]);
            if key == key.vip() {
                entries.push(Entry::Vip { key, flags: value.flags() });
            } else if key == key.wide() {
                for range in port_lists::read(maps, value.number()) {
                    let (first, last) = (range.first(), range.last());
                    let key = key.at(NetU16::new(first), key.protocol());
                    let (service, flags) = (range.service(), range.flags());
                    entries.push(Entry::Frontend { key, first, last, service, flags });
                }
            } else {
                let port = key.port().get();
                let (service, flags) = (value.number(), value.flags());
                entries.push(Entry::Frontend { key, first: port, last: port, service, flags });
            }
        }
        Ok(entries)
    }

    /// Makes an address a VIP.
    pub fn put_vip(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        flags: u32,
        now_ms: u64,
    ) -> Result<(), EditError> {
        self.put(maps, &key.vip(), FrontendValue::new(0, flags), now_ms)
    }

    /// Makes an address no VIP; absent is fine.
    pub fn remove_vip(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        now_ms: u64,
    ) -> Result<(), EditError> {
        self.remove(maps, &key.vip(), now_ms)
    }

    /// Gives the ports from that of the key to `last` to a service.
    pub fn put_frontend(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        last: u16,
        service: u32,
        flags: u32,
        now_ms: u64,
    ) -> Result<(), EditError> {
        let first = key.port().get();
        if first == 0 || first > last || service > 0xffff {
            return Err(EditError::Invalid);
        }
        if first == last {
            return self.put(maps, key, FrontendValue::new(service, flags), now_ms);
        }
        let range = PortRange::new(first, last, service, flags);
        let held = find_place(maps, &key.wide())?.map(|(_, value)| value.number());
        let mut ranges = held.map(|list| port_lists::read(maps, list)).unwrap_or_default();
        match position(&ranges, first, last) {
            Some(at) if ranges[at] == range => return Ok(()),
            Some(at) => ranges[at] = range,
            None => port_lists::insert_sorted(&mut ranges, range)?,
        }
        self.replace_list(maps, key, held, &ranges, now_ms)
    }

    /// Takes the ports from that of the key to `last` from whatever service has exactly these;
    /// absent is fine.
    pub fn remove_frontend(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        last: u16,
        now_ms: u64,
    ) -> Result<(), EditError> {
        let first = key.port().get();
        if first == last {
            return self.remove(maps, key, now_ms);
        }
        let Some((_, value)) = find_place(maps, &key.wide())? else { return Ok(()) };
        let held = value.number();
        let mut ranges = port_lists::read(maps, held);
        let Some(at) = position(&ranges, first, last) else { return Ok(()) };
        ranges.remove(at);
        if !ranges.is_empty() {
            return self.replace_list(maps, key, Some(held), &ranges, now_ms);
        }
        self.remove(maps, &key.wide(), now_ms)?;
        self.lists.release(held, now_ms);
        Ok(())
    }

    /// Writes the ranges to a list that nobody sees, then makes the entry name it.
    fn replace_list(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        held: Option<u32>,
        ranges: &[PortRange],
        now_ms: u64,
    ) -> Result<(), EditError> {
        let list = self.lists.take(now_ms, held.is_none())?;
        let result = port_lists::write(maps, list, ranges)
            .and_then(|()| self.put(maps, &key.wide(), FrontendValue::new(list, 0), now_ms));
        let given_up = if result.is_ok() { held } else { Some(list) };
        if let Some(list) = given_up {
            self.lists.release(list, now_ms);
        }
        result
    }

    fn put(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        value: FrontendValue,
        now_ms: u64,
    ) -> Result<(), EditError> {
        if let Some((place, _)) = find_place(maps, key)? {
            return store_value(maps, place, value);
        }
        if self.entries >= MAX_FRONTENDS {
            return Err(EditError::Full);
        }
        self.forget_rested(now_ms);
        let (first, second) = buckets_of(header(maps)?, &key.words(), maps.buckets());
        let in_first = self.free_place(maps, first, key, now_ms)?;
        let in_second = self.free_place(maps, second, key, now_ms)?;
        let mut words = key.words();
        words[W - 1] = value.raw();
        match in_first.or(in_second) {
            None if now_ms < self.other_half_free_ms => return Err(EditError::Busy),
            None => {
                self.count_address(maps, key)?;
                if let Err(error) = self.rebuild(maps, &words, now_ms) {
                    self.discount_address(maps, key)?;
                    return Err(error);
                }
            }
            Some(place) => {
                self.count_address(maps, key)?;
                if in_first.is_none() {
                    // Before the entry is there: who does not see this came too early for it.
                    mark_overflow(maps, first)?;
                }
                self.resting.remove(&place);
                store_entry(maps, place, &words)?;
            }
        }
        self.entries += 1;
        Ok(())
    }

    fn remove(
        &mut self,
        maps: &impl FrontendMaps<W>,
        key: &K,
        now_ms: u64,
    ) -> Result<(), EditError> {
        let Some((place, _)) = find_place(maps, key)? else { return Ok(()) };
        let (bucket, way) = place;
        let entry = &maps.bucket(bucket).ok_or(EditError::MapTooShort)?[way];
        maps.store(&entry[W - 2], 0);
        store_value(maps, place, FrontendValue::REMOVED)?;
        for word in &entry[..W - 2] {
            maps.store(word, 0);
        }
        self.resting.insert(place, (Some(*key), now_ms));
        self.entries -= 1;
        self.discount_address(maps, key)
    }

    /// A free entry of the bucket that no reader sees, or sees with the same key.
    fn free_place(
        &self,
        maps: &impl FrontendMaps<W>,
        bucket: u32,
        key: &K,
        now_ms: u64,
    ) -> Result<Option<Place>, EditError> {
        for way in 0..FRONTEND_WAYS {
            let place = (bucket, way);
            let is_usable = self.resting.get(&place).is_none_or(|(last, since_ms)| {
                *last == Some(*key) || now_ms.saturating_sub(*since_ms) >= self.quarantine_ms
            });
            if is_usable && !is_in_use(&load_entry(maps, place)?) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn forget_rested(&mut self, now_ms: u64) {
        if self.resting.len() > RESTING_MAX {
            let quarantine_ms = self.quarantine_ms;
            self.resting
                .retain(|_, (_, since_ms)| now_ms.saturating_sub(*since_ms) < quarantine_ms);
        }
    }

    fn note_entry(&mut self, words: &[u64; W]) {
        let key = K::from_words(words);
        self.entries += 1;
        *self.filter.entry(filter_position(key.address_hash())).or_default() += 1;
        if key == key.wide() && key != key.vip() {
            self.lists.note_used(FrontendValue::from_raw(words[W - 1]).number());
        }
    }

    /// Sets the address' bit of the filter, before there is anything to be found.
    fn count_address(&mut self, maps: &impl FrontendMaps<W>, key: &K) -> Result<(), EditError> {
        let position = filter_position(key.address_hash());
        let word = maps.filter(position.0).ok_or(EditError::MapTooShort)?;
        let count = self.filter.entry(position).or_default();
        *count += 1;
        if *count == 1 {
            maps.store(word, maps.load(word) | position.1);
        }
        Ok(())
    }

    /// Clears the bit, after the last entry is gone.
    fn discount_address(&mut self, maps: &impl FrontendMaps<W>, key: &K) -> Result<(), EditError> {
        let position = filter_position(key.address_hash());
        let count = self.filter.entry(position).or_insert(1);
        *count -= 1;
        if *count == 0 {
            self.filter.remove(&position);
            let word = maps.filter(position.0).ok_or(EditError::MapTooShort)?;
            maps.store(word, maps.load(word) & !position.1);
        }
        Ok(())
    }

    /// Bits that a predecessor had no time to clear.
    fn repair_filter(&self, maps: &impl FrontendMaps<W>) -> Result<(), EditError> {
        for index in 0..crate::abi::VIP_FILTER_WORDS {
            let word = maps.filter(index).ok_or(EditError::MapTooShort)?;
            let bits = (0..64).map(|bit| 1 << bit);
            let wanted = bits
                .filter(|bit| self.filter.contains_key(&(index, *bit)))
                .fold(0, |bits, bit| bits | bit);
            if maps.load(word) != wanted {
                maps.store(word, wanted);
            }
        }
        Ok(())
    }

    /// Every entry in use.
    pub(super) fn load_all(&self, maps: &impl FrontendMaps<W>) -> Result<Vec<[u64; W]>, EditError> {
        let base = header(maps)?.half() * maps.buckets();
        let mut entries = Vec::with_capacity(self.entries as usize);
        for bucket in base..base + maps.buckets() {
            // Nearly all entries are free: one word of each says so.
            let words = maps.bucket(bucket).ok_or(EditError::MapTooShort)?;
            let used = (0..FRONTEND_WAYS).filter(|way| maps.load(&words[*way][W - 2]) != 0);
            for way in used {
                let words = load_entry(maps, (bucket, way))?;
                if is_in_use(&words) {
                    entries.push(words);
                }
            }
        }
        Ok(entries)
    }
}

fn position(ranges: &[PortRange], first: u16, last: u16) -> Option<usize> {
    ranges.iter().position(|range| (range.first(), range.last()) == (first, last))
}
