//! Slots as they are kept: a ring has thousands of them, of which few are different.
//!
//! The same slots are packed the same way, so that packed ones can be compared.

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasherDefault,
    ops::{Index, Range},
};

use lb_common::abi::Slot;

use super::hash::FirstWord;

/// So many different slots have one byte for each place.
const DIFFERENT_MAX: usize = 256;

/// The slots of a ring.
#[derive(Clone, PartialEq, Eq)]
pub struct Slots(Packed);

#[derive(Clone, PartialEq, Eq)]
enum Packed {
    /// In the order in which they come first, and which of them each place has.
    Few {
        different: Vec<Slot>,
        places: Box<[u8]>,
    },
    Many(Box<[Slot]>),
}

impl Slots {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Packed::Few { places, .. } => places.len(),
            Packed::Many(slots) => slots.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them; `None` beyond the end.
    pub fn get(&self, place: usize) -> Option<&Slot> {
        match &self.0 {
            Packed::Few { different, places } => {
                places.get(place).and_then(|which| different.get(usize::from(*which)))
            }
            Packed::Many(slots) => slots.get(place),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { slots: self, places: 0..self.len() }
    }

    /// Each that there is, once or more often.
    pub(super) fn different(&self) -> &[Slot] {
        match &self.0 {
            Packed::Few { different, .. } => different,
            Packed::Many(slots) => slots,
        }
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut slots = slots.into_iter();
        let (mut different, mut places) = (Vec::new(), Vec::with_capacity(slots.size_hint().0));
        let mut known: HashMap<u64, u8, BuildHasherDefault<FirstWord>> = HashMap::default();
        while let Some(slot) = slots.next() {
            let which = match known.get(&slot.raw()) {
                Some(which) => *which,
                None if different.len() == DIFFERENT_MAX => {
                    let before = places.iter().map(|which: &u8| different[usize::from(*which)]);
                    return Self(Packed::Many(before.chain([slot]).chain(slots).collect()));
                }
                None => {
                    let which = different.len() as u8;
                    different.push(slot);
                    known.insert(slot.raw(), which);
                    which
                }
            };
            places.push(which);
        }
        Self(Packed::Few { different, places: places.into() })
    }
}

impl From<Vec<Slot>> for Slots {
    fn from(slots: Vec<Slot>) -> Self {
        slots.into_iter().collect()
    }
}

impl PartialEq<Vec<Slot>> for Slots {
    fn eq(&self, other: &Vec<Slot>) -> bool {
        self.len() == other.len() && self.iter().eq(other)
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, place: usize) -> &Slot {
        self.get(place).unwrap_or_else(|| panic!("slot {place} of {}", self.len()))
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self).finish()
    }
}

/// The slots of a ring in order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    slots: &'a Slots,
    places: Range<usize>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Slot;

    fn next(&mut self) -> Option<&'a Slot> {
        self.slots.get(self.places.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Slots {
    type Item = &'a Slot;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of few different ones, of many, and of as many as make the difference.
        #[test]
        fn what_is_packed_is_what_was_there(
            numbers in prop_oneof![
                prop::collection::vec(0_u32..5, 0..600),
                prop::collection::vec(0_u32..400, 0..600),
                (254_u32..260).prop_map(|count| (0..count).chain([0, 1]).collect()),
            ],
        ) {
            let slots: Vec<Slot> = numbers.iter().map(|it| Slot::new(*it, 1, 1, 9)).collect();
            let packed = Slots::from(slots.clone());
            prop_assert_eq!(&packed, &slots);
            prop_assert!(packed.iter().eq(&slots) && packed.iter().len() == slots.len());
            prop_assert_eq!(packed.get(slots.len()), None);
            let mut other = slots.clone();
            if let Some(last) = other.last_mut() {
                *last = Slot::plain(7);
                let other_packed: Slots = other.iter().copied().collect();
                prop_assert!(packed != other && packed != other_packed);
            }
            let mut different: Vec<u64> = slots.iter().map(|slot| slot.raw()).collect();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(matches!(packed.0, Packed::Few { .. }), different.len() <= 256);
            prop_assert!(slots.iter().all(|slot| packed.different().contains(slot)));
        }
    }
}
