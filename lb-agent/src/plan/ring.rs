//! What a ring should hold: its size, its members, who is to own its slots.

use lb_common::abi::{BACKEND_NONE, RING_SIZES};

use super::{draft::Draft, hash::NameHash};
use crate::{
    maglev::{self, SLOTS_PER_MEMBER_MIN},
    model::Service,
};

/// Slots per backend that a new ring gets while there is plenty of room.
const SLOTS_PER_MEMBER_GOAL: u32 = 1000;
/// The goal for more backends than [`SIZE_COMFORTABLE`] has room for.
const SLOTS_PER_MEMBER_OF_LARGE: u32 = 400;
/// No ring is made larger than this for comfort alone.
const SIZE_COMFORTABLE: u32 = 16_381;

/// The part of the pool that stays free, so that rings can be published anew.
const RESERVE_SHARE: u32 = 16;

/// A backend that has a place in a ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct RingMember {
    pub(super) place: NameHash,
    pub(super) number: u32,
    pub(super) weight: u16,
}

/// A ring that does not exist yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRing {
    /// Size that the service asks for.
    pub(super) asked: Option<u32>,
    /// Places that it is expected to have.
    pub(super) members: usize,
}

/// What the pool holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    /// Slots in it.
    pub(super) slots: u32,
    /// Slots of the rings that exist.
    pub(super) used: u32,
    /// Size of the largest ring that exists.
    pub(super) largest: u32,
}

/// Sizes for new rings, `None` where there is no room. All of one pass get the same number of slots
/// per backend, as many as leave half the pool free; so the sizes do not depend on the order. A ring
/// keeps its size as long as it exists.
pub(super) fn choose_sizes(new: &[NewRing], mut pool: Pool) -> Vec<Option<u32>> {
    let goals = [SLOTS_PER_MEMBER_GOAL, 500, 250, 125];
    let total = |goal| new.iter().map(|ring| u64::from(ring.size(goal))).sum::<u64>();
    let goal = goals
        .into_iter()
        .find(|goal| u64::from(pool.used) + total(*goal) <= u64::from(pool.slots / 2))
        .unwrap_or(SLOTS_PER_MEMBER_MIN);
    new.iter().map(|ring| pool.admit(ring.size(goal))).collect()
}

impl NewRing {
    fn size(self, goal: u32) -> u32 {
        let members = u32::try_from(self.members.max(1)).unwrap_or(u32::MAX);
        let comfortable = at_least(members.saturating_mul(goal)).min(SIZE_COMFORTABLE);
        let needed = at_least(members.saturating_mul(goal.min(SLOTS_PER_MEMBER_OF_LARGE)));
        self.asked.filter(|asked| RING_SIZES.contains(asked)).unwrap_or(comfortable.max(needed))
    }
}

/// The smallest size with so many slots, or the largest there is.
fn at_least(slots: u32) -> u32 {
    let [.., largest] = RING_SIZES;
    RING_SIZES.into_iter().find(|size| *size >= slots).unwrap_or(largest)
}

impl Pool {
    fn admit(&mut self, size: u32) -> Option<u32> {
        let largest = self.largest.max(size);
        let reserve = largest.max(self.slots / RESERVE_SHARE);
        let used = self.used.checked_add(size)?;
        if used.checked_add(reserve)? > self.slots {
            return None;
        }
        (self.used, self.largest) = (used, largest);
        Some(size)
    }
}

/// Whether a ring is too small for its members.
fn is_coarse(size: u32, members: usize) -> bool {
    members as u64 * u64::from(SLOTS_PER_MEMBER_MIN) > u64::from(size)
}

/// A ring keeps its size as long as the service lives; the operator should know what that costs.
pub(super) fn warn_if_coarse(draft: &mut Draft<'_>, service: &Service, size: u32, members: usize) {
    let object = || format!("service `{}`", service.name);
    if is_coarse(size, members) {
        let message = format!(
            "its ring of {size} slots has {members} backends, less than 100 slots for each: shares \
             are coarse, and more connections move when backends come and go. A ring keeps its size \
             as long as the service exists; set `ring_size`, or make the service anew"
        );
        draft.refuse(object(), message);
    }
    if let Some(asked) = service.ring_size().filter(|asked| *asked != size) {
        let message = format!(
            "`ring_size` asks for {asked} slots, and its ring has {size}: a ring keeps its size as long \
             as the service exists, so the new size counts when the service is made anew"
        );
        draft.refuse(object(), message);
    }
}

/// Backend number per slot; all none when no member takes new flows.
pub(super) fn desired_owners(members: &[RingMember], size: u32) -> Vec<u32> {
    let candidates: Vec<maglev::Member> = members
        .iter()
        .map(|member| maglev::Member { key: member.place, weight: member.weight })
        .collect();
    let mut owners = maglev::build(&candidates, size);
    for owner in &mut owners {
        *owner = members[*owner as usize].number;
    }
    owners.resize(size as usize, BACKEND_NONE);
    owners
}

#[cfg(test)]
mod tests {
    use lb_common::abi::DEFAULT_RING_SLOTS;

    use super::{NewRing, Pool, RingMember, choose_sizes, desired_owners, is_coarse};

    const EMPTY: Pool = Pool { slots: DEFAULT_RING_SLOTS, used: 0, largest: 0 };

    fn size_for(members: usize) -> Option<u32> {
        choose_sizes(&[NewRing { asked: None, members }], EMPTY)[0]
    }

    #[test]
    fn a_ring_has_a_thousand_slots_per_backend_where_it_can() {
        for (members, size) in [
            (0, 1021),
            (1, 1021),
            (2, 2039),
            (4, 4093),
            (5, 8191),
            (9, 16_381),
            (40, 16_381),
            (41, 32_749),
            (100, 65_521),
            (300, 131_071),
            (1310, 131_071),
        ] {
            assert_eq!(size_for(members), Some(size), "{members} members");
            assert!(!is_coarse(size, members));
        }
        assert!(is_coarse(1021, 11));
    }

    #[test]
    fn an_asked_size_is_given() {
        let ring = |asked| NewRing { asked: Some(asked), members: 1 };
        assert_eq!(choose_sizes(&[ring(65_521), ring(1000)], EMPTY), [Some(65_521), Some(1021)]);
    }

    #[test]
    fn many_services_share_the_pool_evenly() {
        let sizes = choose_sizes(&vec![NewRing { asked: None, members: 10 }; 1000], EMPTY);
        assert!(sizes.iter().all(|size| *size == Some(2039)));
        let sizes = choose_sizes(&vec![NewRing { asked: None, members: 1 }; 4096], EMPTY);
        assert_eq!(sizes.iter().flatten().count(), 3851);
        assert!(sizes[..3851].iter().all(|size| *size == Some(1021)));
    }

    #[test]
    fn a_ring_that_could_not_be_published_anew_is_not_made() {
        let pool = Pool { slots: 200_000, used: 0, largest: 0 };
        let ring = |asked| NewRing { asked: Some(asked), members: 1 };
        assert_eq!(choose_sizes(&[ring(131_071), ring(65_521)], pool), [None, Some(65_521)]);
        let pool = Pool { slots: 4084, used: 1021, largest: 1021 };
        assert_eq!(choose_sizes(&[ring(2039), ring(1021)], pool), [None, Some(1021)]);
    }

    #[test]
    fn nobody_owns_the_slots_of_a_ring_without_members() {
        assert_eq!(desired_owners(&[], 1021), vec![0; 1021]);
        let idle = RingMember { place: [1, 2], number: 7, weight: 0 };
        assert_eq!(desired_owners(&[idle], 1021), vec![0; 1021]);
        assert_eq!(desired_owners(&[RingMember { weight: 1, ..idle }], 1021), vec![7; 1021]);
    }
}
