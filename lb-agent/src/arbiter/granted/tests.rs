//! What is kept from the time before is what all claims would give.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    arbiter::{Incumbents, arbitrate, arbitrate_within},
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, PooledName, Ports, Protocol, Setting,
        Wishes,
    },
    plan::service_hash,
};

/// A claim of service `s{service}` at ports `first` to `last` of one of two addresses, or at that of a
/// name, for a backend `place`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wish {
    service: u8,
    vip: u8,
    first: u16,
    last: u16,
    name: Option<u8>,
    place: u8,
    instance: u8,
    weight: u16,
}

const WISH: Wish = Wish {
    service: 0,
    vip: 20,
    first: 1000,
    last: 1000,
    name: None,
    place: 1,
    instance: 1,
    weight: 1,
};

/// The same for each service, at a port of its own.
fn plain(service: u8, place: u8) -> Wish {
    let port = 1000 + u16::from(service);
    Wish { service, first: port, last: port, place, ..WISH }
}

fn name(service: u8) -> ServiceName {
    ServiceName(format!("s{service}").into())
}

fn claim(wish: Wish) -> Claim {
    let Wish { service, vip, first, last, name: pooled, place, instance, weight } = wish;
    let ports = Ports::range(first, last).expect("ports");
    // The last one is of an address family that the frontends are not of.
    let address = if place == 5 {
        (std::net::Ipv6Addr::from_bits(u128::from(service)), 80).into()
    } else {
        ([10, 0, service, place], 80).into()
    };
    Claim {
        service: name(service),
        frontend: FrontendAddress { vip: [192, 0, 2, vip].into(), protocol: Protocol::Tcp, ports },
        backend: (place != 6).then(|| Backend {
            place: place.to_string(),
            instance: instance.to_string(),
            display_name: format!("s{service}-{place}"),
            address,
            weight,
            path: BackendPath::Routed,
            state: BackendState::Healthy,
            started_at_ms: 0,
            asked_to_end: None,
            network: None,
            reported: None,
            replies: crate::model::ReplyFacts::default(),
        }),
        // Room for six names, at the addresses from 8 on; some in another pool, which overlaps.
        pooled: pooled.map(|name| PooledName {
            name: format!("n{name}.local"),
            pool: if name == 7 { "192.0.2.8/30" } else { "192.0.2.8/29" }.parse().expect("pool"),
        }),
        wishes: Arc::new(Wishes {
            drain_seconds: (place == 3).then(|| Setting { value: 7, ..Setting::default() }),
            // Some of them in circles.
            depends: (place == 2).then(|| Setting {
                value: vec![format!("s{}", (service + 1) % 3)],
                ..Setting::default()
            }),
            ..Wishes::default()
        }),
        since_ms: u64::from(instance),
        source: format!("container `s{service}-{place}-{instance}`"),
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    // Ports of its own for each service, and now and then another's.
    let ports = prop_oneof![20 => Just(None), 1 => (0_u16..8, 0_u16..2).prop_map(Some)];
    let vip = prop_oneof![10 => Just(20), 1 => Just(9)];
    let name = prop_oneof![2 => Just(None), 1 => (0_u8..8).prop_map(Some)];
    // Those of the file are meant.
    let instance = prop_oneof![1 => Just(0), 9 => 1_u8..4];
    (0_u8..8, vip, ports, name, 0_u8..7, instance, 1_u16..3).prop_map(
        |(service, vip, ports, name, place, instance, weight)| {
            let (first, more) = ports.unwrap_or((u16::from(service), 0));
            let first = 1000 + 10 * first;
            Wish { service, vip, first, last: first + more, name, place, instance, weight }
        },
    )
}

/// What changes, and whether the tables show already what was granted last.
fn change() -> impl Strategy<Value = (bool, Vec<Wish>, bool)> {
    (prop::bool::weighted(0.7), prop::collection::vec(wish(), 1..3), prop::bool::weighted(0.8))
}

/// Room for everything, or for hardly anything.
fn limits() -> impl Strategy<Value = Limits> {
    let small = (2_usize..9, 3_usize..12, 1_usize..4, 3_usize..30, 0_usize..3, 1_usize..3);
    let small = small.prop_map(
        |(services, backends, backends_per_service, frontends, port_lists, ranges_per_list)| {
            Limits {
                services,
                backends,
                backends_per_service,
                frontends,
                port_lists,
                ranges_per_list,
            }
        },
    );
    prop_oneof![2 => Just(Limits::default()), 1 => small]
}

/// Who has which frontend, as the tables would show it after a snapshot.
fn incumbents(snapshot: &Snapshot) -> Incumbents {
    let services = snapshot.services.values();
    services
        .flat_map(|service| {
            service.frontends.iter().map(|frontend| (*frontend, service_hash(&service.name)))
        })
        .collect()
}

/// Brings it up to date. Returns how many claims were asked for.
fn update(
    granted: &mut Granted,
    touched: &BTreeSet<ServiceName>,
    holders: &Incumbents,
    all: &[Claim],
) -> usize {
    let looks = std::cell::Cell::new(0);
    granted.update(touched, holders, |asked| {
        let is_asked = |it: &&Claim| asked.is_none_or(|asked| asked.contains(&it.service));
        let claims: Vec<Claim> = all.iter().filter(is_asked).cloned().collect();
        looks.set(looks.get() + claims.len());
        claims
    });
    looks.get()
}

proptest! {
    #[test]
    fn the_same_as_of_all_claims(
        changes in prop::collection::vec(change(), 1..30),
        limits in limits(),
    ) {
        let mut granted = Granted { limits, ..Granted::default() };
        let mut wishes: Vec<Wish> = Vec::new();
        let mut holders = Incumbents::new();
        for (is_added, changed, is_shown) in changes {
            let touched: BTreeSet<_> = changed.iter().map(|wish| name(wish.service)).collect();
            for wish in changed {
                if is_added {
                    wishes.push(wish);
                } else {
                    wishes.retain(|it| (it.service, it.place) != (wish.service, wish.place));
                }
            }
            let all: Vec<Claim> = wishes.iter().copied().map(claim).collect();
            // Once for the change, and again when nothing has changed.
            for touched in [touched, BTreeSet::new()] {
                update(&mut granted, &touched, &holders, &all);
                let (snapshot, refusals) = arbitrate_within(all.clone(), &holders, limits);
                prop_assert_eq!(granted.snapshot(), &snapshot);
                prop_assert_eq!(granted.refusals(), &refusals[..]);
                if is_shown {
                    holders = incumbents(&snapshot);
                }
            }
        }
    }
}

/// Services 0 to 4 that meet nobody, and what stands beside them.
fn beside(others: &[Wish]) -> Vec<Wish> {
    (0..5).map(|service| plain(service, 1)).chain(others.iter().copied()).collect()
}

#[test]
fn what_stands_beside_a_change_is_not_looked_at() {
    let own = |service, last| Wish { last, ..plain(service, 1) };
    let named = |service, name| Wish { name: Some(name), ..plain(service, 1) };
    let rival = Wish { service: 9, instance: 2, ..plain(8, 1) };
    // (what stands there, what changes, whether only that is looked at)
    let cases: [(&str, Vec<Wish>, Wish, bool); 14] = [
        ("nothing", vec![], plain(5, 1), true),
        ("a conflict", vec![plain(8, 1), rival], plain(5, 1), true),
        ("a conflict, of the one that has it", vec![plain(8, 1), rival], plain(8, 3), false),
        ("a conflict, of the one that has it not", vec![plain(8, 1), rival], plain(9, 3), false),
        ("a conflict that begins", vec![plain(8, 1)], rival, false),
        ("a refusal", vec![plain(8, 5)], plain(5, 1), true),
        ("a refusal, of its own", vec![plain(8, 5)], plain(8, 1), true),
        ("a circle", vec![plain(0, 2), plain(1, 2), plain(2, 2)], plain(5, 1), true),
        ("a circle that ends", vec![plain(0, 2), plain(1, 2), plain(2, 2)], plain(0, 3), true),
        ("a name", vec![named(8, 0)], plain(5, 1), true),
        ("a name, of its own", vec![named(8, 0)], Wish { place: 2, ..named(8, 0) }, true),
        ("a name beside others", vec![named(8, 0)], named(9, 1), true),
        ("a pool that it reaches into", vec![named(8, 0)], Wish { vip: 9, ..plain(5, 1) }, false),
        ("ranges of its own address", vec![own(8, 1010)], plain(5, 1), false),
    ];
    for (what, others, change, is_alone) in cases {
        let mut wishes = beside(&others);
        let all: Vec<Claim> = wishes.iter().copied().map(claim).collect();
        let (mut granted, mut holders) = (Granted::default(), Incumbents::new());
        // The second time the tables show who has contested frontends, the third nothing is new.
        for looks in [all.len(), all.len(), 0] {
            assert!(update(&mut granted, &BTreeSet::new(), &holders, &all) <= looks, "{what}");
            holders = incumbents(granted.snapshot());
        }
        let kept = Arc::clone(&granted.snapshot().services[&name(3)]);
        wishes.push(change);
        let all: Vec<Claim> = wishes.iter().copied().map(claim).collect();
        let looks = update(&mut granted, &[name(change.service)].into(), &holders, &all);
        assert_eq!(looks < all.len(), is_alone, "{what}");
        assert!(Arc::ptr_eq(&kept, &granted.snapshot().services[&name(3)]), "{what}");
        let (snapshot, refusals) = arbitrate(all, &holders);
        assert_eq!((granted.snapshot(), granted.refusals()), (&snapshot, &refusals[..]), "{what}");
    }
}

#[test]
fn nothing_is_looked_at_without_a_change_and_everything_with_many() {
    let all: Vec<Claim> = beside(&[]).into_iter().map(claim).collect();
    let mut granted = Granted::default();
    let holders = Incumbents::new();
    let mut looks = |touched| update(&mut granted, &touched, &holders, &all);
    assert_eq!(looks(BTreeSet::new()), all.len());
    assert_eq!(looks(BTreeSet::new()), 0);
    assert_eq!(looks([name(1)].into()), 1);
    // Who waits for room may get what any change leaves, and nothing is left without one.
    let limits = Limits { services: 1, ..Limits::default() };
    let mut short = Granted { limits, ..Granted::default() };
    let mut looks_short = |touched| update(&mut short, &touched, &holders, &all);
    assert_eq!(looks_short(BTreeSet::new()), all.len());
    assert_eq!(looks_short(BTreeSet::new()), 0);
    assert_eq!(looks_short([name(1)].into()), all.len());
    let mut looks = |touched| update(&mut granted, &touched, &holders, &all);
    let many = (0..=TOUCHED_MAX).map(|number| ServiceName(format!("s{number}").into()));
    assert_eq!(looks(many.collect()), all.len());
}
