//! Single entries, and the order in which their words are stored.

use super::{EditError, FrontendKey, FrontendMaps, buckets_of};
use crate::abi::{FRONTEND_WAYS, FrontendHeader, FrontendValue};

/// Bucket and way.
pub(super) type Place = (u32, usize);

/// Where an entry is.
pub(super) fn find_place<const W: usize, K: FrontendKey<W>>(
    maps: &impl FrontendMaps<W>,
    key: &K,
) -> Result<Option<(Place, FrontendValue)>, EditError> {
    let wanted = key.words();
    let (first, second) = buckets_of(header(maps)?, &wanted, maps.buckets());
    for bucket in [first, second] {
        for way in 0..FRONTEND_WAYS {
            let words = load_entry(maps, (bucket, way))?;
            if is_in_use(&words) && words[..W - 1] == wanted[..W - 1] {
                let value = FrontendValue::from_raw(words[W - 1]);
                return Ok(Some(((bucket, way), value)));
            }
        }
    }
    Ok(None)
}

pub(super) fn header<const W: usize>(
    maps: &impl FrontendMaps<W>,
) -> Result<FrontendHeader, EditError> {
    let word = maps.header().ok_or(EditError::MapTooShort)?;
    Ok(FrontendHeader::from_raw(maps.load(word)))
}

pub(super) fn is_in_use<const W: usize>(words: &[u64; W]) -> bool {
    words[W - 2] != 0 && FrontendValue::from_raw(words[W - 1]).is_valid()
}

pub(super) fn load_entry<const W: usize>(
    maps: &impl FrontendMaps<W>,
    (bucket, way): Place,
) -> Result<[u64; W], EditError> {
    let entry = &maps.bucket(bucket).ok_or(EditError::MapTooShort)?[way];
    Ok(core::array::from_fn(|index| maps.load(&entry[index])))
}

/// Writes an entry that is free: the word that makes it count last.
pub(super) fn store_entry<const W: usize>(
    maps: &impl FrontendMaps<W>,
    place: Place,
    words: &[u64; W],
) -> Result<(), EditError> {
    let entry = &maps.bucket(place.0).ok_or(EditError::MapTooShort)?[place.1];
    for index in 0..W - 2 {
        maps.store(&entry[index], words[index]);
    }
    store_value(maps, place, FrontendValue::from_raw(words[W - 1]))?;
    maps.store(&entry[W - 2], words[W - 2]);
    Ok(())
}

/// Writes a value, and leaves what it says of the bucket as it is.
pub(super) fn store_value<const W: usize>(
    maps: &impl FrontendMaps<W>,
    (bucket, way): Place,
    value: FrontendValue,
) -> Result<(), EditError> {
    let word = &maps.bucket(bucket).ok_or(EditError::MapTooShort)?[way][W - 1];
    let held = FrontendValue::from_raw(maps.load(word));
    maps.store(word, value.with_overflow(way == 0 && held.is_overflowed()).raw());
    Ok(())
}

pub(super) fn mark_overflow<const W: usize>(
    maps: &impl FrontendMaps<W>,
    bucket: u32,
) -> Result<(), EditError> {
    let word = &maps.bucket(bucket).ok_or(EditError::MapTooShort)?[0][W - 1];
    let held = FrontendValue::from_raw(maps.load(word));
    if !held.is_overflowed() {
        maps.store(word, held.with_overflow(true).raw());
    }
    Ok(())
}
