//! What is kept from the time before is what all claims would give.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    arbiter::arbitrate,
    model::{Backend, BackendPath, BackendState, Ports, Protocol, Setting, Wishes},
    plan::service_hash,
};

/// A claim of service `s{service}` at ports `first` to `last` for a backend `place`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wish {
    service: u8,
    first: u16,
    last: u16,
    place: u8,
    instance: u8,
    weight: u16,
}

fn claim(wish: Wish) -> Claim {
    let Wish { service, first, last, place, instance, weight } = wish;
    let ports = Ports::range(first, last).expect("ports");
    Claim {
        service: ServiceName(format!("s{service}")),
        frontend: FrontendAddress { vip: [192, 0, 2, 10].into(), protocol: Protocol::Tcp, ports },
        backend: Some(Backend {
            place: place.to_string(),
            instance: instance.to_string(),
            display_name: format!("s{service}-{place}"),
            address: ([10, 0, service, place], 80).into(),
            weight,
            path: BackendPath::Routed,
            state: BackendState::Healthy,
            started_at_ms: 0,
            asked_to_end: None,
            network: None,
            reported: None,
            replies: crate::model::ReplyFacts::default(),
        }),
        pooled: None,
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
    (0_u8..6, ports, 0_u8..4, 1_u8..4, 1_u16..3).prop_map(
        |(service, ports, place, instance, weight)| {
            let (first, more) = ports.unwrap_or((u16::from(service), 0));
            let first = 1000 + 10 * first;
            Wish { service, first, last: first + more, place, instance, weight }
        },
    )
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

proptest! {
    #[test]
    fn the_same_as_of_all_claims(
        changes in prop::collection::vec((any::<bool>(), wish()), 1..40),
    ) {
        let mut granted = Granted::default();
        let mut wishes: Vec<Wish> = Vec::new();
        let mut holders = Incumbents::new();
        for (is_added, wish) in changes {
            if is_added {
                wishes.push(wish);
            } else {
                wishes.retain(|it| (it.service, it.place) != (wish.service, wish.place));
            }
            let touched: BTreeSet<_> = [ServiceName(format!("s{}", wish.service))].into();
            let all: Vec<Claim> = wishes.iter().copied().map(claim).collect();
            // Once for the change, and again when nothing has changed.
            for touched in [touched, BTreeSet::new()] {
                granted.update(&touched, holders.clone(), |asked| {
                    let is_asked =
                        |it: &&Claim| asked.is_none_or(|asked| asked.contains(&it.service));
                    all.iter().filter(is_asked).cloned().collect()
                });
                let (snapshot, refusals) = arbitrate(all.clone(), &holders);
                prop_assert_eq!(granted.snapshot(), &snapshot);
                prop_assert_eq!(granted.refusals(), &refusals[..]);
                holders = incumbents(&snapshot);
            }
        }
    }
}

#[test]
fn a_circle_costs_the_others_nothing() {
    let wish = |service: u8, place| {
        let first = 1000 + u16::from(service);
        Wish { service, first, last: first, place, instance: 1, weight: 1 }
    };
    let mut granted = Granted::default();
    let mut update = |wishes: &[Wish], touched: &str| {
        let touched = [ServiceName(touched.to_owned())].into();
        let looks = std::cell::Cell::new(0);
        granted.update(&touched, Incumbents::new(), |services| {
            looks.set(looks.get() + services.map_or(100, BTreeSet::len));
            let all = wishes.iter().copied().map(claim);
            all.filter(|it| services.is_none_or(|them| them.contains(&it.service))).collect()
        });
        (looks.get(), granted.refusals().len())
    };
    let circle = [wish(0, 2), wish(1, 2), wish(2, 2)];
    assert_eq!(update(&circle, "s0"), (100, 1));
    let beside = |other| [&circle[..], &[other]].concat();
    assert_eq!(update(&beside(wish(4, 1)), "s4"), (1, 1));
    assert_eq!(update(&beside(wish(4, 3)), "s4"), (1, 1));
    // Who is in it is looked at together with all.
    assert_eq!(update(&[wish(0, 2), wish(1, 1), wish(2, 2)], "s1"), (101, 0));
}

#[test]
fn services_that_nothing_happened_to_are_kept() {
    let wish = |service: u8, place| {
        let first = 1000 + u16::from(service);
        Wish { service, first, last: first, place, instance: 1, weight: 1 }
    };
    let mut granted = Granted::default();
    let update = |granted: &mut Granted, wishes: &[Wish], touched: &[&str]| {
        let touched = touched.iter().map(|name| ServiceName((*name).to_owned())).collect();
        let mut asked_for = Vec::new();
        let asked = std::cell::RefCell::new(&mut asked_for);
        granted.update(&touched, Incumbents::new(), |services| {
            asked.borrow_mut().push(services.map(BTreeSet::len));
            let all = wishes.iter().copied().map(claim);
            all.filter(|it| services.is_none_or(|them| them.contains(&it.service))).collect()
        });
        asked_for
    };
    let kept = |granted: &Granted| -> BTreeMap<_, _> {
        let services = granted.snapshot().services.iter();
        services.map(|(name, service)| (name.0.clone(), Arc::as_ptr(service))).collect()
    };
    assert_eq!(update(&mut granted, &[wish(1, 1), wish(2, 1)], &[]), [None]);
    let before = kept(&granted);
    assert_eq!(update(&mut granted, &[wish(1, 1), wish(2, 1), wish(2, 0)], &["s2"]), [Some(1)]);
    let now = kept(&granted);
    assert_eq!((before["s1"], before["s2"] == now["s2"]), (now["s1"], false));
    // Nothing has changed, and then everything may have.
    assert_eq!(update(&mut granted, &[wish(1, 1)], &[]), []);
    let many: Vec<String> = (0..=TOUCHED_MAX).map(|number| format!("s{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(update(&mut granted, &[wish(1, 1)], &many), [None]);
    assert_eq!(kept(&granted).len(), 1);
}
