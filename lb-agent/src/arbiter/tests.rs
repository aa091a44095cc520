//! Who gets what, and what the others are told.

mod wishes;

use std::{fmt::Write as _, sync::Arc};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{Incumbents, Limits, arbitrate, arbitrate_within};
use crate::{
    model::{
        Backend, BackendPath, BackendState, Claim, FrontendAddress, Ports, Protocol, Refusal,
        ServiceName, Setting, Snapshot, WaysIn, Wishes,
    },
    plan::service_hash,
};

fn frontend(port: u16) -> FrontendAddress {
    FrontendAddress {
        vip: "192.0.2.10".parse().unwrap(),
        protocol: Protocol::Tcp,
        ports: Ports::one(port).expect("a port"),
    }
}

fn backend(place: &str, instance: u16) -> Backend {
    Backend {
        place: place.to_owned(),
        instance: format!("{instance}"),
        display_name: format!("{place}-{instance}"),
        address: format!("10.0.0.{}:80", instance % 250 + 1).parse().unwrap(),
        weight: 100,
        path: BackendPath::Routed,
        state: BackendState::Healthy,
        started_at_ms: u64::from(instance),
        reported: None,
        asked_to_end: None,
        network: None,
        replies: crate::model::ReplyFacts::default(),
    }
}

/// A claim by a container that is named after service and place.
fn claim(service: &str, port: u16, place: &str, since_ms: u64) -> Claim {
    Claim {
        service: ServiceName(service.into()),
        frontend: frontend(port),
        backend: Some(backend(place, 1)),
        pooled: None,
        wishes: Arc::default(),
        since_ms,
        source: format!("container `{service}-{place}`"),
    }
}

fn show((snapshot, refusals): &(Snapshot, Vec<Refusal>)) -> String {
    let mut shown = String::new();
    for service in snapshot.services.values() {
        let frontends: Vec<String> = service.frontends.iter().map(ToString::to_string).collect();
        let backends: Vec<&str> =
            service.backends.iter().map(|backend| &*backend.display_name).collect();
        let (frontends, backends) = (frontends.join(" "), backends.join(" "));
        write!(shown, "{} at {frontends}: {backends}", service.name).unwrap();
        match service.ring_size() {
            Some(size) => writeln!(shown, "; ring {size}").unwrap(),
            None => writeln!(shown).unwrap(),
        }
    }
    for refusal in refusals {
        writeln!(shown, "refused: {}: {}", refusal.object, refusal.message).unwrap();
    }
    shown
}

/// The outcome where nobody has anything yet.
fn check(claims: &[Claim]) -> String {
    check_after(&[], claims)
}

/// The outcome where these services have these ports, which must be the same whatever the order.
fn check_after(owners: &[(&str, u16)], claims: &[Claim]) -> String {
    let incumbents: Incumbents =
        owners.iter().map(|(service, port)| incumbent(service, *port)).collect();
    let outcome = show(&arbitrate(claims.to_vec(), &incumbents));
    let reversed: Vec<Claim> = claims.iter().rev().cloned().collect();
    assert_eq!(outcome, show(&arbitrate(reversed, &incumbents)));
    outcome
}

fn incumbent(service: &str, port: u16) -> (FrontendAddress, [u64; 2]) {
    (frontend(port), service_hash(&ServiceName(service.into())))
}

#[test]
fn claims_of_one_service_are_joined() {
    let shown = check(&[
        claim("web", 80, "1", 10),
        claim("web", 80, "2", 20),
        claim("web", 443, "1", 10),
        claim("web", 443, "3", 5),
        claim("web", 80, "1", 10),
    ]);
    assert_snapshot!(shown, @"web at tcp://192.0.2.10:80 tcp://192.0.2.10:443: 1-1 2-1 3-1");
}

#[test]
fn of_two_new_ones_the_older_gets_the_frontend() {
    let shown = check(&[
        claim("blue", 80, "1", 10),
        claim("green", 80, "1", 9),
        claim("green", 80, "2", 11),
        claim("blue", 81, "2", 10),
    ]);
    assert_snapshot!(shown, @"
    blue at tcp://192.0.2.10:81: 2-1
    green at tcp://192.0.2.10:80: 1-1 2-1
    refused: container `blue-1`: wants tcp://192.0.2.10:80 for the service `blue`, but that belongs to the service `green`, by the older claim of container `green-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn the_incumbent_keeps_its_frontend_whatever_its_age() {
    // `a` was redeployed while `b` waited, and asks for a port more, which nobody has.
    let claims = [
        claim("b", 80, "1", 2),
        claim("a", 80, "1", 3),
        claim("a", 80, "2", 4),
        claim("a", 81, "2", 4),
        claim("b", 81, "1", 2),
    ];
    assert_snapshot!(check_after(&[("a", 80)], &claims), @"
    a at tcp://192.0.2.10:80: 1-1 2-1
    b at tcp://192.0.2.10:81: 1-1
    refused: container `a-2`: wants tcp://192.0.2.10:81 for the service `a`, but that belongs to the service `b`, by the older claim of container `b-1`; use another front port or VIP, or remove one of the two
    refused: container `b-1`: wants tcp://192.0.2.10:80 for the service `b`, but that belongs to the service `a`, which has it already, by the claim of container `a-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn an_incumbent_with_the_older_claim_is_called_older() {
    let claims = [claim("b", 80, "1", 2), claim("a", 80, "1", 1), claim("a", 80, "2", 3)];
    assert_snapshot!(check_after(&[("a", 80)], &claims), @"
    a at tcp://192.0.2.10:80: 1-1 2-1
    refused: container `b-1`: wants tcp://192.0.2.10:80 for the service `b`, but that belongs to the service `a`, by the older claim of container `a-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn who_no_longer_claims_a_frontend_has_lost_it() {
    let claims = [claim("a", 81, "1", 1), claim("b", 80, "1", 2), claim("c", 80, "1", 3)];
    assert_snapshot!(check_after(&[("a", 80)], &claims), @"
    a at tcp://192.0.2.10:81: 1-1
    b at tcp://192.0.2.10:80: 1-1
    refused: container `c-1`: wants tcp://192.0.2.10:80 for the service `c`, but that belongs to the service `b`, by the older claim of container `b-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn the_file_takes_a_frontend_from_an_incumbent() {
    let mut file = claim("file/web", 80, "1", 0);
    file.source = "service `web` in lb.toml, line 3".to_owned();
    assert_snapshot!(check_after(&[("a", 80)], &[claim("a", 80, "1", 1), file]), @"
    file/web at tcp://192.0.2.10:80: 1-1
    refused: container `a-1`: wants tcp://192.0.2.10:80 for the service `a`, but that belongs to the service `file/web`, by the older claim of service `web` in lb.toml, line 3; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn of_two_services_of_the_file_the_incumbent_keeps_it() {
    let claims = [claim("file/a", 80, "1", 0), claim("file/b", 80, "1", 0)];
    assert_snapshot!(check_after(&[("file/b", 80)], &claims), @"
    file/b at tcp://192.0.2.10:80: 1-1
    refused: container `file/a-1`: wants tcp://192.0.2.10:80 for the service `file/a`, but that belongs to the service `file/b`, which has it already, by the claim of container `file/b-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn of_the_same_age_the_name_decides() {
    assert_snapshot!(check(&[claim("b", 80, "1", 10), claim("a", 80, "1", 10)]), @"
    a at tcp://192.0.2.10:80: 1-1
    refused: container `b-1`: wants tcp://192.0.2.10:80 for the service `b`, but that belongs to the service `a`, by the older claim of container `a-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn the_file_is_older_than_any_container() {
    let mut file = claim("file/web", 80, "1", 0);
    file.source = "service `web` in lb.toml, line 3".to_owned();
    assert_snapshot!(check(&[claim("docker/web", 80, "1", 1), file]), @"
    file/web at tcp://192.0.2.10:80: 1-1
    refused: container `docker/web-1`: wants tcp://192.0.2.10:80 for the service `docker/web`, but that belongs to the service `file/web`, by the older claim of service `web` in lb.toml, line 3; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn a_service_without_backends_keeps_its_frontend() {
    let mut empty = claim("a", 80, "1", 1);
    empty.backend = None;
    let ring_size = Some(Setting { value: Some(1021), ..Setting::default() });
    empty.wishes = Arc::new(Wishes { ring_size, ..Wishes::default() });
    assert_snapshot!(check(&[empty, claim("b", 80, "1", 2)]), @"
    a at tcp://192.0.2.10:80: ; ring 1021
    refused: container `b-1`: wants tcp://192.0.2.10:80 for the service `b`, but that belongs to the service `a`, by the older claim of container `a-1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn contradictions_within_a_service_are_told() {
    let mut other = claim("a", 80, "1", 1);
    other.source = "container `twin`".to_owned();
    other.backend.as_mut().unwrap().address = "10.0.0.99:80".parse().unwrap();
    assert_snapshot!(check(&[claim("a", 80, "1", 1), other]), @"
    a at tcp://192.0.2.10:80: 1-1
    refused: container `twin`: container `twin` describes the backend `1` of the service `a` as 10.0.0.99:80, and container `a-1` as 10.0.0.2:80; the latter counts. Give the two different names
    ");
}

#[test]
fn a_way_in_that_one_claim_knows_of_is_there() {
    let knows = |port, ways_in| {
        let mut claim = claim("web", port, "1", 10);
        claim.backend.as_mut().unwrap().replies.ways_in = ways_in;
        claim
    };
    for (first, second) in [
        (WaysIn::OnlyOurs, WaysIn::Published),
        (WaysIn::Published, WaysIn::OnlyOurs),
        (WaysIn::Published, WaysIn::Published),
    ] {
        let claims = vec![knows(80, first), knows(443, second)];
        let (snapshot, refusals) = arbitrate(claims, &Incumbents::new());
        assert_eq!(refusals, []);
        let mut backends = snapshot.services.values().flat_map(|service| &service.backends);
        assert_eq!(backends.next().unwrap().replies.ways_in, WaysIn::Published);
        assert_eq!(backends.next(), None);
    }
}

#[test]
fn families_are_not_mixed() {
    let mut other = claim("a", 80, "2", 1);
    other.backend.as_mut().unwrap().address = "[2001:db8::1]:80".parse().unwrap();
    assert_snapshot!(check(&[claim("a", 80, "1", 1), other]), @"
    a at tcp://192.0.2.10:80: 1-1
    refused: container `a-2`: the backend [2001:db8::1]:80 and the frontend tcp://192.0.2.10:80 are of different address families, which are not translated into each other; use addresses of one family
    ");
}

#[test]
fn limits_leave_out_the_newest() {
    let limits = Limits {
        services: 2,
        backends: 5,
        backends_per_service: 3,
        frontends: 4,
        ..Limits::default()
    };
    let mut claims = vec![
        claim("a", 80, "1", 1),
        claim("b", 81, "1", 2),
        claim("b", 82, "1", 2),
        claim("b", 83, "1", 2),
        claim("c", 84, "1", 3),
    ];
    for (service, port) in [("a", 80), ("b", 81)] {
        for started in 2..6 {
            let mut more = claim(service, port, "2", 9);
            more.backend = Some(backend("2", started));
            claims.push(more);
        }
    }
    assert_snapshot!(show(&arbitrate_within(claims, &Incumbents::new(), limits)), @"
    a at tcp://192.0.2.10:80: 1-1 2-2 2-3
    b at tcp://192.0.2.10:81 tcp://192.0.2.10:82: 1-1 2-2
    refused: service `a`: 2 of 5 backends find no room: a service can have 3 and the node 5; the newest are left out
    refused: service `b`: 1 of 3 frontends find no room among the 4 that the node can have, or the 16 ranges of one VIP and protocol; remove others
    refused: service `b`: 3 of 5 backends find no room: a service can have 3 and the node 5; the newest are left out
    refused: service `c`: the node has room for 2 services, and older ones have it all; remove one
    ");
}

fn wide(service: &str, ports: &str, since_ms: u64) -> Claim {
    let claim = claim(service, 1, "1", since_ms);
    let ports = ports.parse().unwrap();
    Claim { frontend: FrontendAddress { ports, ..claim.frontend }, ..claim }
}

#[test]
fn in_the_file_the_narrower_frontend_wins_and_elsewhere_it_is_a_conflict() {
    let shown = check(&[
        wide("all", "*", 0),
        wide("some", "8000-8999", 0),
        wide("one", "8080", 0),
        wide("container", "8443", 5),
        wide("apart", "8999-9010", 6),
    ]);
    assert_snapshot!(shown, @"
    all at tcp://192.0.2.10:*: 1-1
    one at tcp://192.0.2.10:8080: 1-1
    some at tcp://192.0.2.10:8000-8999: 1-1
    refused: container `apart-1`: wants tcp://192.0.2.10:8999-9010 for the service `apart`, but that has ports in common with tcp://192.0.2.10:* of the service `all`, by the claim of container `all-1`; use other front ports or another VIP, or name both in the config file, where the narrower wins
    refused: container `container-1`: wants tcp://192.0.2.10:8443 for the service `container`, but that has ports in common with tcp://192.0.2.10:* of the service `all`, by the claim of container `all-1`; use other front ports or another VIP, or name both in the config file, where the narrower wins
    ");
    // What a container has it loses to the file, which says so to its owner.
    let shown = check_after(
        &[("container", 8443)],
        &[wide("some", "8000-8999", 0), wide("container", "8443", 5), wide("container", "9443", 5)],
    );
    assert_snapshot!(shown, @"
    container at tcp://192.0.2.10:9443: 1-1
    some at tcp://192.0.2.10:8000-8999: 1-1
    refused: container `container-1`: wants tcp://192.0.2.10:8443 for the service `container`, but that has ports in common with tcp://192.0.2.10:8000-8999 of the service `some`, by the claim of container `some-1`; use other front ports or another VIP, or name both in the config file, where the narrower wins
    ");
    // Two others: the older has it, and nothing of what the other asks for is given in part.
    let shown = check(&[
        wide("late", "8000-8999", 9),
        wide("early", "8080", 8),
        wide("early", "8081", 8),
        wide("late", "7000-7999", 9),
    ]);
    assert_snapshot!(shown, @"
    early at tcp://192.0.2.10:8080 tcp://192.0.2.10:8081: 1-1
    late at tcp://192.0.2.10:7000-7999: 1-1
    refused: container `late-1`: wants tcp://192.0.2.10:8000-8999 for the service `late`, but that has ports in common with tcp://192.0.2.10:8080 of the service `early`, by the claim of container `early-1`; use other front ports or another VIP, or name both in the config file, where the narrower wins
    ");
    // One service may have a port and the range around it.
    let shown = check(&[wide("web", "8000-8999", 9), wide("web", "8080", 9)]);
    assert_snapshot!(shown, @"web at tcp://192.0.2.10:8000-8999 tcp://192.0.2.10:8080: 1-1");
}

#[test]
fn ranges_have_room_of_their_own() {
    let limits = Limits { frontends: 5, ranges_per_list: 2, port_lists: 1, ..Limits::default() };
    let mut udp = wide("e", "1-2", 5);
    udp.frontend.protocol = Protocol::Udp;
    // VIP, list, and two single ports.
    let claims = vec![
        wide("a", "10-19", 1),
        wide("b", "20-29", 2),
        wide("c", "30-39", 3),
        wide("d", "40", 4),
        udp,
        wide("f", "50", 6),
        wide("g", "60", 7),
        wide("h", "70", 8),
    ];
    assert_snapshot!(show(&arbitrate_within(claims, &Incumbents::new(), limits)), @"
    a at tcp://192.0.2.10:10-19: 1-1
    b at tcp://192.0.2.10:20-29: 1-1
    d at tcp://192.0.2.10:40: 1-1
    f at tcp://192.0.2.10:50: 1-1
    g at tcp://192.0.2.10:60: 1-1
    refused: service `c`: 1 of 1 frontends find no room among the 5 that the node can have, or the 2 ranges of one VIP and protocol; remove others
    refused: service `e`: 1 of 1 frontends find no room among the 5 that the node can have, or the 2 ranges of one VIP and protocol; remove others
    refused: service `h`: 1 of 1 frontends find no room among the 5 that the node can have, or the 2 ranges of one VIP and protocol; remove others
    ");
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let backend = (0..3_u8, 0..2_u16, 0..2_u16).prop_map(|(place, instance, weight)| {
        let mut backend = backend(&place.to_string(), instance);
        backend.weight = weight;
        backend
    });
    (0..4_u8, 80..83_u16, prop::option::weighted(0.9, backend), 0..3_u64, 0..6_u8).prop_map(
        |(service, port, backend, since_ms, source)| Claim {
            service: ServiceName(format!("s{service}").into()),
            frontend: frontend(port),
            backend,
            pooled: None,
            wishes: Arc::default(),
            since_ms,
            source: format!("container `c{source}`"),
        },
    )
}

/// Who has the ports of [`any_claim`]: its services, or one that claims nothing any more.
fn any_incumbents() -> impl Strategy<Value = Incumbents> {
    prop::collection::btree_map(80..83_u16, 0..5_u8, 0..4).prop_map(|owners| {
        owners.iter().map(|(port, service)| incumbent(&format!("s{service}"), *port)).collect()
    })
}

proptest! {
    #[test]
    fn the_order_of_the_claims_does_not_matter(
        (claims, shuffled) in prop::collection::vec(any_claim(), 0..20)
            .prop_flat_map(|claims| (Just(claims.clone()), Just(claims).prop_shuffle())),
        incumbents in any_incumbents(),
        small in any::<bool>(),
    ) {
        let limits = if small {
            Limits { services: 2, backends: 4, backends_per_service: 3, frontends: 4, ..Limits::default() }
        } else {
            Limits::default()
        };
        let outcome = arbitrate_within(claims, &incumbents, limits);
        prop_assert_eq!(&outcome, &arbitrate_within(shuffled, &incumbents, limits));
        prop_assert!(outcome.0.services.len() <= limits.services);
    }

    #[test]
    fn a_frontend_has_file_then_incumbent_then_oldest(
        claims in prop::collection::vec(any_claim(), 1..20),
        incumbents in any_incumbents(),
    ) {
        let (snapshot, refusals) = arbitrate(claims.clone(), &incumbents);
        // What it has been given it keeps.
        let after: Incumbents = snapshot
            .services
            .values()
            .flat_map(|service| service.frontends.iter().map(|it| (*it, service_hash(&service.name))))
            .collect();
        prop_assert_eq!(&arbitrate(claims.clone(), &after).0, &snapshot);
        for service in snapshot.services.values() {
            let mut sorted = service.backends.clone();
            sorted.sort_by(|left, right| {
                (&left.place, &left.instance).cmp(&(&right.place, &right.instance))
            });
            prop_assert_eq!(&sorted, &service.backends);
        }
        for claim in &claims {
            let rivals = || claims.iter().filter(|rival| rival.frontend == claim.frontend);
            let is_incumbent = |rival: &&Claim| {
                incumbents.get(&rival.frontend) == Some(&service_hash(&rival.service))
            };
            let of_file = |rival: &&Claim| rival.since_ms == 0;
            let owner = rivals()
                .find(|rival| of_file(rival) && is_incumbent(rival))
                .or_else(|| rivals().filter(of_file).min_by_key(|rival| &rival.service))
                .or_else(|| rivals().find(is_incumbent))
                .or_else(|| rivals().min_by_key(|rival| (rival.since_ms, &rival.service)))
                .unwrap();
            let holders: Vec<_> = snapshot
                .services
                .values()
                .filter(|service| service.frontends.contains(&claim.frontend))
                .map(|service| &service.name)
                .collect();
            prop_assert_eq!(holders, [&owner.service]);
            // Who is refused is told; who is not, is served.
            if claim.service != owner.service {
                prop_assert!(refusals.iter().any(|refusal| refusal.object == claim.source));
            } else if let Some(backend) = &claim.backend {
                let service = &snapshot.services[&claim.service];
                prop_assert!(service.backends.iter().any(|it| it.place == backend.place));
            }
        }
    }
}
