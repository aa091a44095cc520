//! Where calls are led that only some backends take, or may take, on tables in memory.

use std::vec::Vec;

use super::{
    Call, SCAN, decide,
    host::HostSocketTables,
    tests::{
        ALL, BACK_CONTAINER, BACK_NET, EVERYBODY, FRONT_CONTAINER, FRONT_NET, NODE, RING_SIZE,
        SERVICE, Sample, call, entries, key, tables,
    },
};
use crate::abi::{
    BACKEND_NONE, CLASS_ALL, DropReason, FAMILY_V4, NetAddr6, NetU32, PATH_LOCAL, PATH_ROUTED,
    ReachEntry, SCOPE_HAS_SLOTS, ServiceScope, Slot, TAKES_OLD,
};

/// The service of [`tables`] with 100 backends, of which only the last is on the network of those
/// behind, and on this node.
fn scattered<A: Sample>() -> HostSocketTables<A> {
    let mut tables = tables::<A>();
    for number in 1..=100 {
        let path = if number == 100 { PATH_LOCAL } else { PATH_ROUTED };
        tables.packets.backends.insert(number, A::backend_record(number, path, ALL, 8080));
        tables.networks.insert(number, if number == 100 { BACK_NET } else { FRONT_NET });
    }
    tables.packets.slots = (0..RING_SIZE).map(|slot| Slot::plain(1 + slot % 100)).collect();
    tables
}

fn served_by<A: Sample>(tables: &HostSocketTables<A>, call: Call<A>) -> Vec<u32> {
    let decide = |slot: u32| {
        let hash = ((u64::from(slot) << 32 | 1 << 31) / u64::from(RING_SIZE)) as u32;
        decide(tables, &Call { hash, ..call }, None)
    };
    let mut backends: Vec<u32> = (0..RING_SIZE).map(|slot| decide(slot).backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

fn the_only_one_that_is_reached<A: Sample>() {
    // Eight slots of a hundred backends are not enough.
    let mut tables = scattered::<A>();
    assert!(served_by(&tables, call(BACK_CONTAINER)).contains(&0));
    // The members are.
    let all: Vec<u32> = (60..=100).collect();
    tables.put_reach(key(CLASS_ALL, A::NUMBER), [&[], &[], &entries(A::NUMBER, &all)]);
    assert_eq!(served_by(&tables, call(BACK_CONTAINER)), [100]);
    // So are slots of its own, of which others have none.
    tables.reach_lists.clear();
    let own = entries(A::NUMBER, &[100]);
    tables.put_reach(key(BACK_CONTAINER, A::NUMBER), [&own, &[], &own]);
    let scope = ServiceScope { flags: EVERYBODY | SCOPE_HAS_SLOTS, ..ServiceScope::default() };
    tables.scopes.insert(SERVICE, scope);
    assert_eq!(served_by(&tables, call(BACK_CONTAINER)), [100]);
    let shares = served_by(&tables, call(FRONT_CONTAINER));
    assert_eq!(shares, (1..100).collect::<Vec<_>>());
}

#[test]
fn whoever_reaches_one_backend_of_many_is_always_led_there() {
    the_only_one_that_is_reached::<NetU32>();
    the_only_one_that_is_reached::<NetAddr6>();
}

#[test]
fn the_last_backend_that_lives_is_found() {
    let mut tables = scattered::<NetU32>();
    tables.networks.clear();
    let members: Vec<u32> = (1..=SCAN).collect();
    for alive in [1, 2, 33, SCAN] {
        for number in 1..=100 {
            let state = if number == alive { ALL } else { 0 };
            let record = NetU32::backend_record(number, PATH_LOCAL, state, 8080);
            tables.packets.backends.insert(number, record);
        }
        for near in [0, 1, 33, SCAN as usize] {
            let (near, far) = members.split_at(near);
            let parts = [near, far].map(|part| entries(FAMILY_V4, part));
            tables.put_reach(key(CLASS_ALL, FAMILY_V4), [&[], &parts[0], &parts[1]]);
            assert_eq!(served_by(&tables, call(NODE)), [alive]);
        }
    }
}

#[test]
fn who_is_preferred_is_taken_as_long_as_one_lives() {
    let mut tables = scattered::<NetU32>();
    tables.networks.clear();
    let scope = ServiceScope { flags: EVERYBODY | SCOPE_HAS_SLOTS, ..ServiceScope::default() };
    tables.scopes.insert(SERVICE, scope);
    let others: Vec<u32> = (1..60).collect();
    let parts = [&[99, 100, 100][..], &[99, 100], &others].map(|part| entries(FAMILY_V4, part));
    tables.put_reach(key(CLASS_ALL, FAMILY_V4), [&parts[0], &parts[1], &parts[2]]);
    let mut die = |numbers: &[u32]| {
        for number in numbers {
            let gone = NetU32::backend_record(*number, PATH_LOCAL, TAKES_OLD, 8080);
            tables.packets.backends.insert(*number, gone);
        }
        served_by(&tables, call(FRONT_CONTAINER))
    };
    assert_eq!(die(&[]), [99, 100]);
    assert_eq!(die(&[100]), [99]);
    assert_eq!(die(&[99]), others);
}

#[test]
fn entries_of_others_count_as_nothing() {
    let mut tables = scattered::<NetU32>();
    // Nobody is there but in the list.
    tables.packets.slots.fill(Slot::plain(BACKEND_NONE));
    let put = |tables: &mut HostSocketTables<NetU32>, entry| {
        tables.put_reach(key(BACK_CONTAINER, FAMILY_V4), [&[entry], &[entry], &[entry]]);
        let scope = ServiceScope { flags: EVERYBODY | SCOPE_HAS_SLOTS, ..ServiceScope::default() };
        tables.scopes.insert(SERVICE, scope);
        let decision = decide(tables, &call(BACK_CONTAINER), None);
        (decision.backend, decision.reason)
    };
    let entry = |service, family, generation| ReachEntry::new(service, family, 100, generation);
    assert_eq!(put(&mut tables, entry(SERVICE, FAMILY_V4, 5)).0, 100);
    // The last is a number that was given to another backend.
    for other in [
        entry(SERVICE + 1, FAMILY_V4, 5),
        entry(SERVICE, 1, 5),
        ReachEntry::default(),
        entry(SERVICE, FAMILY_V4, 4),
    ] {
        assert_eq!(put(&mut tables, other), (0, DropReason::NoBackend));
    }
    tables.networks.insert(100, FRONT_NET);
    assert_eq!(put(&mut tables, entry(SERVICE, FAMILY_V4, 5)), (0, DropReason::OtherNetwork));
}

/// Its members have been replaced, and there was no room for a list that says so.
#[test]
fn whoever_has_a_list_that_is_old_is_led_by_that_of_all_and_by_the_ring() {
    let check = |name: &str, all: &[u32], ring: u32, networks: &[(u32, u64)], expected: u32| {
        let mut tables = scattered::<NetU32>();
        let old = [ReachEntry::new(SERVICE, FAMILY_V4, 100, 4)];
        tables.put_reach(key(BACK_CONTAINER, FAMILY_V4), [&old, &old, &[]]);
        tables.put_reach(key(CLASS_ALL, FAMILY_V4), [&[], &[], &entries(FAMILY_V4, all)]);
        tables.packets.slots.fill(Slot::plain(ring));
        tables.networks.extend(networks.iter().copied());
        let scope = ServiceScope { flags: EVERYBODY | SCOPE_HAS_SLOTS, ..ServiceScope::default() };
        tables.scopes.insert(SERVICE, scope);
        assert_eq!(served_by(&tables, call(BACK_CONTAINER)), [expected], "{name}");
    };
    check("the list of all", &[98, 99, 100], 7, &[], 100);
    check("the ring", &[98, 99], 7, &[(7, BACK_NET)], 7);
    check("preferred before the ring", &[100], 7, &[(7, BACK_NET)], 100);
    check("what is not reached is not taken", &[98, 99], 7, &[], 0);
}
