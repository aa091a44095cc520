//! What becomes of wishes, and which address a name gets.

use std::{fmt::Write as _, sync::Arc};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{
    super::{Granted, Incumbents, arbitrate, yield_to_exclusive, yields},
    claim,
};
use crate::{
    labels::lb::LbLabels,
    model::{
        Backend, BackendState, Claim, Origin, PooledName, ProbeKind, Refusal, ReportedHealth,
        Setting, Wishes,
    },
    plan::service_hash,
};

/// A claim of container `PLACE` that wishes what these labels say.
fn wishing(service: &str, place: &str, since_ms: u64, labels: &[(&str, &str)]) -> Claim {
    let object = format!("container `{place}`");
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let labels: std::collections::BTreeMap<String, String> = labels.collect();
    let (read, errors, _) = LbLabels::read(labels.iter(), 10);
    assert_eq!(errors, []);
    let (wishes, errors) = read.wishes(80, &object);
    assert_eq!(errors, []);
    let mut claim = claim(service, 80, place, since_ms);
    if let (Some(backend), Some(weight)) = (&mut claim.backend, &wishes.weight) {
        backend.weight = weight.value;
    }
    Claim { wishes: Arc::new(wishes), source: object, ..claim }
}

/// What is not the default, the weights, and what is refused.
fn check_policy(claims: &[Claim]) -> String {
    let (mut snapshot, refusals) = arbitrate(claims.to_vec(), &Incumbents::new());
    let reversed = claims.iter().rev().cloned().collect();
    assert_eq!((snapshot.clone(), refusals.clone()), arbitrate(reversed, &Incumbents::new()));
    snapshot.services.values_mut().for_each(yield_to_exclusive);
    let mut shown = String::new();
    for service in snapshot.services.values() {
        for row in service.policy.rows().iter().filter(|row| row.origin.written().is_some()) {
            writeln!(shown, "{}: {} = {} ({})", service.name, row.name, row.value, row.origin)
                .unwrap();
        }
        let weight = |backend: &Backend| {
            let yields = if yields(service, backend) { " (yields)" } else { "" };
            format!("{} {}{yields}", backend.place, backend.weight)
        };
        let weights: Vec<String> = service.backends.iter().map(weight).collect();
        writeln!(shown, "{}: {}", service.name, weights.join(", ")).unwrap();
    }
    for refusal in refusals {
        let key = refusal.key.unwrap_or_default();
        writeln!(shown, "refused: {} {key}: {}", refusal.object, refusal.message).unwrap();
    }
    shown
}

/// What is said of containers of one service, of which Docker says so much.
#[track_caller]
fn check_unchecked(probe: &str, containers: &[(&str, Option<ReportedHealth>)]) -> String {
    let claims = containers.iter().map(|(place, reported)| {
        let mut claim = wishing("web", place, 10, &[("lb.probe", probe)]);
        let backend = claim.backend.as_mut().expect("a backend");
        (backend.reported, backend.instance) = (*reported, (*place).to_owned());
        claim
    });
    let claims: Vec<Claim> = claims.collect();
    let (snapshot, refusals) = arbitrate(claims, &Incumbents::new());
    let served = snapshot.services.values().map(|service| service.backends.len()).sum::<usize>();
    assert_eq!(served, containers.len(), "everybody is served");
    let line = |it: &Refusal| {
        format!("{} {}: {}\n", it.object, it.key.as_deref().unwrap_or_default(), it.message)
    };
    refusals.iter().map(line).collect()
}

#[test]
fn containers_that_docker_is_to_judge_and_does_not_are_told_once_for_their_service() {
    use ReportedHealth::{Healthy, Starting, Unhealthy};
    let judged = [("a", Some(Healthy)), ("b", Some(Starting)), ("c", Some(Unhealthy))];
    assert_snapshot!(check_unchecked("docker", &judged), @"");
    assert_snapshot!(check_unchecked("tcp", &[("a", None)]), @"");
    assert_snapshot!(check_unchecked("docker", &[("a", Some(Healthy)), ("b", None)]), @"container `a` lb.probe: the service `web` is to be probed by the HEALTHCHECK of its containers, but `b-1` has none, so it counts as healthy whatever happens; give the image one, or choose another probe");
    let many = ["g", "f", "e", "d", "c", "b", "a"].map(|name| (name, None));
    assert_snapshot!(check_unchecked("docker", &many), @"container `a` lb.probe: the service `web` is to be probed by the HEALTHCHECK of its containers, but `a-1` and others have none, so they count as healthy whatever happens; give the image one, or choose another probe");
}

/// What is said of services that depend on others; everybody is served.
#[track_caller]
fn check_circles(services: &[(&str, &str)]) -> String {
    let claims = services.iter().zip(1_u8..).map(|((name, depends), place)| {
        let depends: Vec<String> = depends.split_terminator(',').map(str::to_owned).collect();
        let origin = Origin::label(format!("container `{name}`"), "aliyun.depends");
        let depends = Setting::new(depends, origin);
        let wishes = Wishes { depends: Some(depends), ..Wishes::default() };
        let port = 80 + u16::from(place);
        Claim { wishes: Arc::new(wishes), ..claim(name, port, "1", 10) }
    });
    let claims: Vec<Claim> = claims.collect();
    let (snapshot, mut refusals) = arbitrate(claims.clone(), &Incumbents::new());
    assert_eq!(snapshot.services.len(), services.len(), "everybody is served");
    assert!(snapshot.services.values().all(|service| service.backends.len() == 1));
    // In whatever order they are told, one after the other.
    let mut granted = Granted::default();
    for count in 1..=claims.len() {
        let touched = [claims[count - 1].service.clone()].into();
        granted.update(&touched, &Incumbents::new(), |only| {
            let is_asked = |it: &&Claim| only.is_none_or(|only| only.contains(&it.service));
            claims[..count].iter().filter(is_asked).cloned().collect()
        });
    }
    refusals.sort();
    assert_eq!(granted.refusals(), refusals);
    let said = refusals
        .iter()
        .map(|it| format!("{} {}: {}", it.object, it.key.as_deref().unwrap_or("-"), it.message));
    said.collect::<Vec<_>>().join("\n")
}

#[test]
fn circles_of_services_that_wait_for_each_other_are_told_and_everybody_is_served() {
    assert_snapshot!(check_circles(&[("c/p/a:80", "b,c"), ("c/p/b:80", "c"), ("c/p/c:80", "db")]), @"");
    assert_snapshot!(check_circles(&[("c/p/a:80", "a"), ("c/p/b:80", "")]), @"container `c/p/a:80` aliyun.depends: the service depends on itself, a -> a; it is served all the same. Leave that out");
    assert_snapshot!(check_circles(&[("c/p/b:80", "a"), ("c/p/a:80", "b"), ("c/p/a:81", "c")]), @"container `c/p/a:80` aliyun.depends: the services depend on each other in a circle, a -> b -> a, so no order of starting them is right; all are served all the same. Leave one of these out");
    // Another project's service of the same name is another one.
    assert_snapshot!(check_circles(&[("c/p/a:80", "b"), ("c/q/b:80", "a")]), @"");
    // Swarm writes the stack's name in front.
    assert_snapshot!(check_circles(&[("swarm/shop_a:80", "b"), ("swarm/shop_b:80", "a")]), @"container `swarm/shop_a:80` aliyun.depends: the services depend on each other in a circle, shop_a -> shop_b -> shop_a, so no order of starting them is right; all are served all the same. Leave one of these out");
    // The one of the same stack is meant, although it waits for nobody.
    let shop = [("swarm/shop_web:80", "db"), ("swarm/db:80", "shop_web"), ("swarm/shop_db:80", "")];
    assert_snapshot!(check_circles(&shop), @"");
    let names: Vec<String> = (0..200).map(|number| format!("c/p/s{number:03}:80")).collect();
    let next: Vec<String> = (0..200).map(|number| format!("s{:03}", (number + 1) % 200)).collect();
    let ring: Vec<(&str, &str)> =
        names.iter().zip(&next).map(|(name, next)| (name.as_str(), next.as_str())).collect();
    assert_snapshot!(check_circles(&ring), @"container `c/p/s000:80` aliyun.depends: the services depend on each other in a circle, s000 -> s001 -> s002 -> s003 -> s004 -> s005 -> s006 -> s007 -> 192 more -> s000, so no order of starting them is right; all are served all the same. Leave one of these out");
    // Everybody waits for everybody, and for itself: enough of that is told.
    let all = next[..64].join(",");
    let all: Vec<(&str, &str)> =
        names[..64].iter().map(|name| (name.as_str(), all.as_str())).collect();
    assert_eq!(check_circles(&all).lines().count(), 16);
}

#[test]
fn of_wishes_that_contradict_each_other_the_newest_counts() {
    let shown = check_policy(&[
        wishing("web", "1", 10, &[("lb.affinity", "none"), ("lb.drain", "5s")]),
        wishing("web", "2", 20, &[("lb.affinity", "client/24"), ("lb.weight", "7")]),
        wishing("web", "3", 15, &[("lb.affinity", "client/24"), ("lb.panic", "20")]),
        wishing("other", "4", 30, &[]),
    ]);
    assert_snapshot!(shown, @"
    web: affinity = client/24,64 (container `2`, label `lb.affinity`)
    web: drain_seconds = 5 s (container `1`, label `lb.drain`)
    web: panic_percent = 20 % (container `3`, label `lb.panic`)
    web: 1 100, 2 7, 3 100
    refused: container `1` lb.affinity: wants `none` as affinity of the service `web`, but the newer container `2`, label `lb.affinity` wants `client/24,64`, and the newest counts; give both the same value
    refused: container `4` : wants tcp://192.0.2.10:80 for the service `other`, but that belongs to the service `web`, by the older claim of container `1`; use another front port or VIP, or remove one of the two
    ");
}

#[test]
fn a_container_goes_before_the_configuration_whatever_its_age() {
    let origin = Origin::config("[defaults] in lb.toml", "drain_seconds");
    let default = Wishes { drain_seconds: Some(Setting::new(7, origin)), ..Wishes::default() };
    let mut newer = wishing("web", "2", 20, &[("lb.panic", "50%")]);
    let mut wishes = (*newer.wishes).clone();
    wishes.or(&default);
    newer.wishes = Arc::new(wishes);
    let shown = check_policy(&[wishing("web", "1", 10, &[("lb.drain", "5s")]), newer.clone()]);
    assert_snapshot!(shown, @"
    web: drain_seconds = 5 s (container `1`, label `lb.drain`)
    web: panic_percent = 50 % (container `2`, label `lb.panic`)
    web: 1 100, 2 100
    ");
    assert_snapshot!(check_policy(&[newer]), @"
    web: drain_seconds = 7 s ([defaults] in lb.toml, `drain_seconds`)
    web: panic_percent = 50 % (container `2`, label `lb.panic`)
    web: 2 100
    ");
}

#[test]
fn what_stands_in_for_a_probe_goes_behind_one_that_is_understood() {
    let origin = Origin::instead("container `2`", "lb.probe");
    let stands_in = Setting::new(Some(ProbeKind::Tcp { port: None }), origin);
    let mut newer = wishing("web", "2", 20, &[]);
    newer.wishes = Arc::new(Wishes { probe: Some(stands_in), ..Wishes::default() });
    let shown = check_policy(&[wishing("web", "1", 10, &[("lb.probe", "http")]), newer.clone()]);
    assert_snapshot!(shown, @"
    web: probe = http GET /, status 200-399 (container `1`, label `lb.probe`)
    web: 1 100, 2 100
    ");
    assert_snapshot!(check_policy(&[wishing("web", "1", 10, &[]), newer]), @"
    web: probe = tcp (container `2`, instead of `lb.probe`, which is not understood)
    web: 1 100, 2 100
    ");
}

#[test]
fn disagreements_of_many_are_told_in_part() {
    let claims: Vec<Claim> = (0..100_u32)
        .map(|index| {
            let drain = format!("{}s", index + 1);
            wishing("web", &index.to_string(), index.into(), &[("lb.drain", &drain)])
        })
        .collect();
    let (_, refusals) = arbitrate(claims, &Incumbents::new());
    assert_eq!(refusals.len(), 16);
}

#[test]
fn a_service_that_only_answers_has_backends_that_do() {
    let check = |labels: &[(&[(&str, &str)], u64)], expected: bool| {
        let claims: Vec<Claim> = labels
            .iter()
            .map(|(labels, age)| wishing("web", &age.to_string(), *age, labels))
            .collect();
        let (snapshot, _) = arbitrate(claims, &Incumbents::new());
        let mut backends = snapshot.services.values().flat_map(|service| &service.backends);
        assert!(backends.all(|backend| backend.replies.only_answers == expected));
    };
    check(&[(&[], 1), (&[], 2)], false);
    check(&[(&[("lb.datagrams", "answers")], 1), (&[], 2)], true);
    // Of those that disagree the newest counts, for all of them.
    check(&[(&[("lb.datagrams", "answers")], 1), (&[("lb.datagrams", "records")], 2)], false);
}

#[test]
fn others_yield_to_an_exclusive_backend_that_takes_flows() {
    let exclusive: &[(&str, &str)] = &[("lb.exclusive", "true"), ("lb.weight", "3")];
    let blue = wishing("share/web", "blue", 10, &[("lb.weight", "5")]);
    let green = wishing("share/web", "green", 20, exclusive);
    let mut starting = green.clone();
    starting.backend.as_mut().unwrap().state = BackendState::Starting;
    let weightless =
        wishing("share/web", "green", 20, &[("lb.exclusive", "true"), ("lb.weight", "0")]);
    let shown = [vec![blue.clone(), green], vec![blue.clone(), starting], vec![blue, weightless]]
        .map(|claims| check_policy(&claims));
    assert_snapshot!(shown.concat(), @"
    share/web: blue 0 (yields), green 3
    share/web: blue 5, green 3
    share/web: blue 5, green 0
    ");
}

// === Names with addresses of their own ===

fn named(name: &str, service: &str, since_ms: u64, pool: &str) -> Claim {
    let pool = pool.parse().unwrap();
    let pooled = Some(PooledName { name: name.to_owned(), pool });
    Claim { pooled, ..claim(service, 80, "1", since_ms) }
}

/// Names with their addresses, and who has which in the end, as the kernel would know it.
fn settle(claims: &[Claim], incumbents: &Incumbents) -> (Vec<String>, Incumbents, Vec<Refusal>) {
    let (snapshot, refusals) = arbitrate(claims.to_vec(), incumbents);
    let reversed = claims.iter().rev().cloned().collect();
    assert_eq!((snapshot.clone(), refusals.clone()), arbitrate(reversed, incumbents));
    let names = snapshot.names.iter().map(|(name, vip)| format!("{name} {vip}")).collect();
    let owners = snapshot.services.values().flat_map(|service| {
        let hash = service_hash(&service.name);
        service.frontends.iter().map(move |frontend| (*frontend, hash))
    });
    (names, owners.collect(), refusals)
}

#[test]
fn a_name_has_the_address_of_its_hash() {
    let (names, _, refusals) = settle(
        &[
            named("restserver.local", "rest", 10, "198.18.0.0/24"),
            named("db.local", "db", 20, "198.18.0.0/24"),
        ],
        &Incumbents::new(),
    );
    assert_eq!(refusals, []);
    assert_snapshot!(names.join("\n"), @"
    db.local 198.18.0.223
    restserver.local 198.18.0.74
    ");
}

#[test]
fn names_that_meet_find_other_addresses_and_keep_them() {
    // Six addresses for six names: some of them must meet.
    let names = ["a", "b", "c", "d", "e", "f"];
    let claims: Vec<Claim> = (0..)
        .zip(names)
        .map(|(age, name)| named(&format!("{name}.local"), name, 10 + age, "198.18.0.0/29"))
        .collect();
    let (all, incumbents, refusals) = settle(&claims, &Incumbents::new());
    assert_eq!(refusals, []);
    let addresses: std::collections::BTreeSet<&str> =
        all.iter().filter_map(|one| one.split(' ').nth(1)).collect();
    assert_eq!(addresses.len(), names.len(), "{all:?}");
    // Whoever goes, the others stay where they are, and so does who comes back.
    for (gone, name) in names.iter().enumerate() {
        let mut left = claims.clone();
        left.remove(gone);
        let (some, held, _) = settle(&left, &incumbents);
        let expected: Vec<String> =
            all.iter().filter(|one| !one.starts_with(name)).cloned().collect();
        assert_eq!(some, expected);
        assert_eq!(settle(&claims, &held).0, all);
    }
    // There is no seventh.
    let mut crowded = claims.clone();
    crowded.push(named("g.local", "g", 5, "198.18.0.0/29"));
    let (still, _, refusals) = settle(&crowded, &incumbents);
    assert_eq!(still, all);
    assert_snapshot!(refusals[0].message, @"no address is left for `g.local` in `routing_pool` 198.18.0.0/29; enlarge it, or remove names");
}

#[test]
fn thousands_of_names_are_found_among_thousands_of_frontends() {
    let begun = std::time::Instant::now();
    let claims: Vec<Claim> = (0..4000_u64)
        .map(|age| named(&format!("n{age}.local"), &format!("s{age}"), age + 1, "198.18.0.0/20"))
        .collect();
    let (names, _) = arbitrate(claims.clone(), &Incumbents::new());
    let names = names.names;
    let held = claims.iter().map(|claim| {
        let vip = names[&claim.pooled.as_ref().unwrap().name];
        (crate::model::FrontendAddress { vip, ..claim.frontend }, service_hash(&claim.service))
    });
    // Those of others, in the pool and beside it.
    let others = (0..30_000_u32).map(|number| {
        let vip = std::net::Ipv4Addr::from_bits(0xc612_0000 + number).into();
        let ports = crate::model::Ports::one(81).unwrap();
        let other = service_hash(&crate::model::ServiceName(format!("other{number}").into()));
        (crate::model::FrontendAddress { vip, ports, ..claims[0].frontend }, other)
    });
    let incumbents: Incumbents = held.chain(others).collect();
    // Many more than there is room for.
    let more = (4000..12_000_u64)
        .map(|age| named(&format!("n{age}.local"), &format!("s{age}"), age + 1, "198.18.0.0/20"));
    let all: Vec<Claim> = claims.into_iter().chain(more).collect();
    let (snapshot, _) = arbitrate(all, &incumbents);
    for (name, vip) in names {
        assert_eq!(snapshot.names[&name], vip, "{name}");
    }
    assert_eq!(snapshot.names.len(), 4094);
    // Quadratic work took minutes.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[test]
fn of_two_services_of_one_name_the_older_has_it() {
    let (names, _, refusals) = settle(
        &[
            named("a.local", "second", 20, "198.18.0.0/24"),
            named("a.local", "first", 10, "198.18.0.0/24"),
        ],
        &Incumbents::new(),
    );
    assert_eq!(names.len(), 1);
    assert_snapshot!(refusals[0].message, @"wants tcp://198.18.0.154:80 for the service `second`, but that belongs to the service `first`, by the older claim of container `first-1`; say the same `lb.share` in both to serve `a.local` together, use another name, or remove one of the two");
}

proptest! {
    /// Whatever comes and goes, a name that stays keeps its address, and no two names share one.
    #[test]
    fn names_keep_their_addresses(
        rounds in prop::collection::vec(prop::collection::btree_set(0..20_u64, 0..14), 1..8),
    ) {
        let mut incumbents = Incumbents::new();
        let mut before: Vec<String> = Vec::new();
        for present in rounds {
            let claims: Vec<Claim> = present
                .iter()
                .map(|one| named(&format!("n{one}.local"), &format!("s{one}"), *one + 1, "198.18.0.0/28"))
                .collect();
            let (names, held, refusals) = settle(&claims, &incumbents);
            prop_assert_eq!(refusals, []);
            prop_assert_eq!(names.len(), present.len());
            let address = |one: &String| one.split(' ').nth(1).map(str::to_owned);
            let addresses: std::collections::BTreeSet<_> = names.iter().map(address).collect();
            prop_assert_eq!(addresses.len(), names.len());
            for one in &before {
                let name = one.split(' ').next().unwrap();
                let now = names.iter().find(|now| now.starts_with(&format!("{name} ")));
                prop_assert!(now.is_none_or(|now| now == one), "{one} became {now:?}");
            }
            before = names;
            incumbents = held;
        }
    }
}
