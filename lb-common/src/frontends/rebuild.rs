//! Everything anew in the other half, with another seed, when a key finds no room.

use std::{vec, vec::Vec};

use super::{
    EditError, Editor, FrontendKey, FrontendMaps, buckets_of,
    entry::{header, mark_overflow, store_entry},
};
use crate::abi::{FRONTEND_WAYS, FrontendHeader, FrontendValue};

/// Seeds that are tried. One is enough but for a few in a hundred tables that are full.
const SEEDS_MAX: u32 = 64;

/// Where each entry goes, and the buckets whose keys are partly in their second one.
struct Layout {
    places: Vec<(u32, usize)>,
    overflowed: Vec<u32>,
}

impl<const W: usize, K: FrontendKey<W> + core::hash::Hash> Editor<W, K> {
    /// Writes all entries and one more to the half that no reader uses, and makes it count.
    pub(super) fn rebuild(
        &mut self,
        maps: &impl FrontendMaps<W>,
        new: &[u64; W],
        now_ms: u64,
    ) -> Result<(), EditError> {
        let mut entries = self.load_all(maps)?;
        entries.push(*new);
        let old = header(maps)?;
        let (header, layout) = (1..=SEEDS_MAX)
            .map(|turn| {
                let seed = old.seed().wrapping_add(turn).wrapping_mul(0x9e37_79b1);
                FrontendHeader::new(seed, 1 - old.half())
            })
            .find_map(|header| Some((header, layout(header, &entries, maps.buckets())?)))
            .ok_or(EditError::Full)?;
        let base = header.half() * maps.buckets();
        for bucket in base..base + maps.buckets() {
            let words = maps.bucket(bucket).ok_or(EditError::MapTooShort)?.iter().flatten();
            for word in words.filter(|word| maps.load(word) != 0) {
                maps.store(word, 0);
            }
        }
        for (place, words) in layout.places.iter().zip(&entries) {
            let mut words = *words;
            words[W - 1] = FrontendValue::from_raw(words[W - 1]).with_overflow(false).raw();
            store_entry(maps, *place, &words)?;
        }
        for bucket in layout.overflowed {
            mark_overflow(maps, bucket)?;
        }
        maps.store(maps.header().ok_or(EditError::MapTooShort)?, header.raw());
        self.resting.clear();
        self.other_half_free_ms = now_ms.saturating_add(self.quarantine_ms);
        Ok(())
    }
}

/// Places for all entries, or `None` when this seed leaves one without.
fn layout<const W: usize>(
    header: FrontendHeader,
    entries: &[[u64; W]],
    buckets: u32,
) -> Option<Layout> {
    let base = header.half() * buckets;
    let mut used = vec![0_usize; buckets as usize];
    let mut layout = Layout { places: Vec::with_capacity(entries.len()), overflowed: Vec::new() };
    for words in entries {
        let (first, second) = buckets_of(header, words, buckets);
        let is_free = |bucket: &u32| used[(bucket - base) as usize] < FRONTEND_WAYS;
        let bucket = [first, second].into_iter().find(is_free)?;
        let way = &mut used[(bucket - base) as usize];
        layout.places.push((bucket, *way));
        *way += 1;
        if bucket != first {
            layout.overflowed.push(first);
        }
    }
    Some(layout)
}
