//! Shares follow the weights, little moves when a member goes, and the algorithm stays what it is.

use std::hash::Hasher as _;

use insta::assert_snapshot;
use lb_common::abi::RING_SIZES;
use proptest::prelude::*;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::{MEMBERS_MAX, Member, build};

fn member(name: u32, weight: u16) -> Member {
    let mut hasher = SipHasher13::new_with_keys(1, 2);
    hasher.write_u32(name);
    let hash = hasher.finish128();
    Member { key: [hash.h1, hash.h2], weight }
}

fn equal_members(count: u32) -> Vec<Member> {
    (0..count).map(|name| member(name, 100)).collect()
}

fn shares(owners: &[u32], members: usize) -> Vec<u32> {
    let mut shares = vec![0; members];
    for owner in owners {
        shares[*owner as usize] += 1;
    }
    shares
}

#[test]
fn a_small_ring_never_changes_by_accident() {
    let members = [member(1, 100), member(2, 50), member(3, 100), member(4, 0)];
    let owners: Vec<String> = build(&members, 31).iter().map(u32::to_string).collect();
    assert_snapshot!(
        owners.join(" "),
        @"0 0 0 1 2 0 0 0 0 2 0 1 2 2 2 2 1 0 1 2 2 2 0 0 0 0 2 2 2 1 1"
    );
}

#[test]
fn a_large_ring_never_changes_by_accident() {
    let members: Vec<Member> =
        (0..97).map(|name| member(name, 1 + u16::try_from(name % 7).unwrap() * 50)).collect();
    let mut hasher = SipHasher13::new();
    for owner in build(&members, 16_381) {
        hasher.write_u32(owner);
    }
    assert_snapshot!(format!("{:x}", hasher.finish128().h1), @"98217675ccd76a88");
}

#[test]
fn no_weight_no_ring() {
    assert!(build(&[], 1021).is_empty());
    assert!(build(&[member(1, 0), member(2, 0)], 1021).is_empty());
}

#[test]
fn shares_of_equal_members_differ_by_one() {
    for (count, size) in [(1, 1021), (3, 1021), (10, 1021), (100, 16_381), (1310, 131_071)] {
        let shares = shares(&build(&equal_members(count), size), count as usize);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{count} members in {size}: {least} to {most}");
    }
}

#[test]
fn the_largest_service_fits_the_largest_ring() {
    let members = equal_members(u32::try_from(MEMBERS_MAX).unwrap());
    assert!(shares(&build(&members, 131_071), MEMBERS_MAX).iter().all(|share| *share >= 100));
}

/// Share of the others' slots that move when one member goes, the worst of several.
fn disruption(count: u32, size: u32) -> f64 {
    let members = equal_members(count);
    let before = build(&members, size);
    let mut worst: f64 = 0.0;
    for gone in [0, count / 2, count - 1] {
        let rest: Vec<Member> =
            (0..count).filter(|name| *name != gone).map(|name| members[name as usize]).collect();
        let after = build(&rest, size);
        let kept = before.iter().zip(&after).filter(|(owner, _)| **owner != gone);
        let (mut total, mut moved) = (0_u32, 0_u32);
        for (owner, heir) in kept {
            total += 1;
            moved += u32::from(members[*owner as usize].key != rest[*heir as usize].key);
        }
        worst = worst.max(f64::from(moved) / f64::from(total));
    }
    worst
}

#[test]
fn the_loss_of_one_member_moves_little_of_the_others() {
    // (members, slots, bound): 100 slots per member <= 3 % with some air for single rings, 1000
    // slots per member <= 1.2 % likewise.
    for (count, size, bound) in [
        (10, 1021, 0.050),
        (20, 2039, 0.040),
        (40, 4093, 0.035),
        (100, 16_381, 0.020),
        (10, 8191, 0.020),
        (100, 65_521, 0.010),
        (1000, 131_071, 0.010),
    ] {
        let moved = disruption(count, size);
        println!("{count}/{size}: {:.2} %", moved * 100.0);
        assert!(moved <= bound, "{count} members in {size} slots: {:.2} %", moved * 100.0);
    }
}

#[test]
fn the_largest_rings_are_built_in_time() {
    // Printed, not asserted: `cargo test --release -- --nocapture built_in_time`.
    for (count, light) in [(1000, 100), (1000, 1), (1310, 100)] {
        let mut members: Vec<Member> = (0..count).map(|name| member(name, light)).collect();
        members[0].weight = if light == 1 { u16::MAX } else { 100 };
        let begin = std::time::Instant::now();
        let owners = build(&members, 131_071);
        println!("{count} members of weight {light}: {:?}", begin.elapsed());
        assert_eq!(owners.len(), 131_071);
    }
}

/// Katran's loop, as it is written there: every member adds its weight in every round.
fn katran(members: &[Member], size: u32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|index| members[*index].key);
    let weight_max = members.iter().map(|member| u32::from(member.weight)).max().unwrap_or(0);
    let mut owners = vec![u32::MAX; size as usize];
    let mut cumulated = vec![0; members.len()];
    let mut next = vec![0_u64; members.len()];
    let mut free = if weight_max == 0 { return Vec::new() } else { size };
    loop {
        for index in &order {
            cumulated[*index] += u32::from(members[*index].weight);
            if cumulated[*index] < weight_max {
                continue;
            }
            cumulated[*index] -= weight_max;
            let [offset, skip] = members[*index].key;
            let size = u64::from(size);
            loop {
                let slot = (offset % size + next[*index] * (skip % (size - 1) + 1)) % size;
                next[*index] += 1;
                if owners[usize::try_from(slot).unwrap()] == u32::MAX {
                    owners[usize::try_from(slot).unwrap()] = u32::try_from(*index).unwrap();
                    break;
                }
            }
            free -= 1;
            if free == 0 {
                return owners;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_is_katrans_algorithm(
        weights in prop::collection::vec(prop_oneof![0_u16..4, Just(100), any::<u16>()], 0..12),
        size in prop::sample::select(vec![31_u32, 127, RING_SIZES[0]]),
    ) {
        let members: Vec<Member> = (0..).zip(&weights).map(|(name, it)| member(name, *it)).collect();
        prop_assert_eq!(build(&members, size), katran(&members, size));
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(
        (members, shuffled) in prop::collection::vec(0_u16..300, 1..20)
            .prop_map(|weights| {
                (0..).zip(weights).map(|(name, it)| member(name, it)).collect::<Vec<_>>()
            })
            .prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        let keys = |members: &[Member]| -> Vec<[u64; 2]> {
            build(members, 1021).iter().map(|owner| members[*owner as usize].key).collect()
        };
        prop_assert_eq!(keys(&members), keys(&shuffled));
    }

    #[test]
    fn shares_follow_the_weights(weights in prop::collection::vec(1_u16..=200, 1..10)) {
        let members: Vec<Member> = (0..).zip(&weights).map(|(name, it)| member(name, *it)).collect();
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let shares = shares(&build(&members, 4093), members.len());
        for (share, weight) in shares.iter().zip(weights) {
            let fair = 4093.0 * f64::from(weight) / total;
            // Turns are whole, and the table may end in the middle of a round: a few slots, not more.
            prop_assert!((f64::from(*share) - fair).abs() <= 4.0, "{share} instead of {fair}");
        }
    }
}
