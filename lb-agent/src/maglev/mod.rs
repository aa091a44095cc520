//! Weighted Maglev: which member owns which slot of a ring. Pure, and the same on every node: the
//! result depends on the keys and weights of the members alone, not on their order.
//!
//! The algorithm is that of the Maglev paper with the weights of Katran's `MaglevHashV2`: members
//! take turns, a member of half the greatest weight only in every second round; at each turn a
//! member takes the first free slot of its own permutation of the ring.

#[cfg(test)]
mod tests;

use lb_common::abi::RING_SIZES;

/// Fewest slots per member with which shares stay close to the weights, and the loss of one member
/// moves less than 3 % of what belongs to the others.
pub const SLOTS_PER_MEMBER_MIN: u32 = 100;

/// Most members of one ring: the largest ring with [`SLOTS_PER_MEMBER_MIN`] slots for each.
pub const MEMBERS_MAX: usize = 1310;

const _: () = assert!(
    MEMBERS_MAX == (RING_SIZES[RING_SIZES.len() - 1] / SLOTS_PER_MEMBER_MIN) as usize,
    "the limit follows from the largest ring"
);

/// One candidate for slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Hash of the member's identity: decides its permutation. Members with equal keys and weights
    /// are interchangeable.
    pub key: [u64; 2],
    /// Share of slots relative to the others; 0 gets none.
    pub weight: u16,
}

/// For every slot of a ring of `size` slots the index into `members` of its owner. Empty when no
/// member has a weight. `size` must be a prime, as [`RING_SIZES`] are, so that every permutation reaches
/// every slot.
///
/// A member whose weight is less than the greatest one divided by its number of slots can end up
/// with no slot.
#[must_use]
pub fn build(members: &[Member], size: u32) -> Vec<u32> {
    let mut walkers = walkers(members, size);
    let weight_max = walkers.iter().map(|walker| walker.weight).max().unwrap_or(0);
    if weight_max == 0 || size < 2 {
        return Vec::new();
    }
    let mut owners = vec![0; size as usize];
    let mut taken = BitSet::new(size);
    let mut rounds = Rounds::new(&walkers, weight_max, size);
    let mut free = size;
    let mut due = Vec::new();
    for round in 1..=u64::from(size) {
        rounds.take_due(round, &mut due);
        for index in due.drain(..) {
            let walker = &mut walkers[index as usize];
            let slot = walker.first_free(&taken, size);
            taken.insert(slot);
            owners[slot as usize] = walker.member;
            free -= 1;
            if free == 0 {
                return owners;
            }
            rounds.schedule(index, walker.next_round(weight_max));
        }
    }
    // The member with the greatest weight takes a slot in every round.
    unreachable!("{size} rounds fill {size} slots")
}

/// A member on its way through its permutation.
struct Walker {
    key: [u64; 2],
    weight: u64,
    /// Index into the caller's members.
    member: u32,
    position: u32,
    step: u32,
    turns: u64,
}

/// The members that have a weight, in the order of their keys.
fn walkers(members: &[Member], size: u32) -> Vec<Walker> {
    let mut walkers: Vec<Walker> = (0..)
        .zip(members)
        .filter(|(_, member)| member.weight > 0 && size >= 2)
        .map(|(index, member)| Walker {
            key: member.key,
            weight: u64::from(member.weight),
            member: index,
            position: remainder(member.key[0], size),
            step: remainder(member.key[1], size - 1) + 1,
            turns: 0,
        })
        .collect();
    walkers.sort_by_key(|walker| (walker.key, walker.weight));
    walkers
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is less than a u32")]
fn remainder(hash: u64, divisor: u32) -> u32 {
    (hash % u64::from(divisor)) as u32
}

impl Walker {
    /// The next slot of the permutation that nobody has. There must be one.
    fn first_free(&mut self, taken: &BitSet, size: u32) -> u32 {
        loop {
            let slot = self.position;
            // Both are less than `size`, at most 131,071.
            self.position += self.step;
            if self.position >= size {
                self.position -= size;
            }
            if !taken.contains(slot) {
                return slot;
            }
        }
    }

    /// The round of the next turn: the member has one turn for each time that its weight, added up
    /// round by round, reaches another multiple of the greatest weight.
    fn next_round(&mut self, weight_max: u64) -> u64 {
        self.turns += 1;
        ((self.turns + 1) * weight_max).div_ceil(self.weight)
    }
}

/// Which walkers have a turn in which round: lists in one array, so that light members cost nothing
/// in the rounds that pass them by.
struct Rounds {
    /// Round -> first walker of its list.
    heads: Vec<u32>,
    /// Walker -> next one of the same list.
    next: Vec<u32>,
}

const END: u32 = u32::MAX;

impl Rounds {
    fn new(walkers: &[Walker], weight_max: u64, size: u32) -> Self {
        let mut rounds =
            Self { heads: vec![END; size as usize + 1], next: vec![END; walkers.len()] };
        for (index, walker) in (0..).zip(walkers) {
            rounds.schedule(index, weight_max.div_ceil(walker.weight));
        }
        rounds
    }

    fn schedule(&mut self, walker: u32, round: u64) {
        // A round that is never reached has no list.
        let round = usize::try_from(round).unwrap_or(usize::MAX);
        if let Some(head) = self.heads.get_mut(round) {
            self.next[walker as usize] = std::mem::replace(head, walker);
        }
    }

    /// The members of a round, in their order.
    fn take_due(&self, round: u64, due: &mut Vec<u32>) {
        let head = usize::try_from(round).ok().and_then(|round| self.heads.get(round));
        let mut walker = head.copied().unwrap_or(END);
        while walker != END {
            due.push(walker);
            walker = self.next[walker as usize];
        }
        due.sort_unstable();
    }
}

struct BitSet(Vec<u64>);

impl BitSet {
    fn new(size: u32) -> Self {
        Self(vec![0; size as usize / 64 + 1])
    }

    fn contains(&self, bit: u32) -> bool {
        self.0[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    fn insert(&mut self, bit: u32) {
        self.0[bit as usize / 64] |= 1 << (bit % 64);
    }
}
