//! Containers and what they ask for.

mod bounds;
mod documents;
mod probes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{ContainerFacts, ContainerPort, LocalAddress, Reader, wants_balancing};
use crate::{
    arbiter::{Incumbents, arbitrate},
    config::{Balancer, Config, LabelsConfig},
    model::{Claims, Origin, Policy, Protocol, WaysIn},
};

const LB: (&str, &str) = ("aliyun.lb.port_6379", "tcp://slb_redis_app:6379");

fn claims(facts: &ContainerFacts) -> Claims {
    let balancers = vec![Balancer {
        name: "slb_redis_app".to_owned(),
        id: None,
        vip: Ipv4Addr::new(192, 0, 2, 10).into(),
    }];
    Reader::new(&LabelsConfig { balancers, ..LabelsConfig::default() }).claims(facts)
}

fn container(name: &str, image: &str, labels: &[(&str, &str)]) -> ContainerFacts {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ContainerFacts {
        id: "0123abcd".to_owned(),
        name: format!("/{name}"),
        former_name: None,
        image: image.to_owned(),
        labels: labels.collect(),
        service_labels: BTreeMap::new(),
        environment: BTreeMap::new(),
        ports: BTreeSet::new(),
        created_at_ms: 1000,
        started_at_ms: 2000,
        address: Ipv4Addr::new(172, 17, 0, 2).into(),
        ifindex: 7,
        ways_in: WaysIn::OnlyOurs,
        network: None,
        second: None,
    }
}

fn check(facts: &ContainerFacts) -> String {
    let claims = claims(facts);
    assert_eq!(
        wants_balancing(&facts.labels),
        !claims.claims.is_empty() || !claims.refusals.is_empty()
    );
    let mut shown = String::new();
    for claim in claims.claims {
        let backend = claim.backend.unwrap();
        writeln!(
            shown,
            "{} place {} at {}: {} {} {:?} {} {}; since {} by {}",
            claim.service,
            backend.place,
            claim.frontend,
            backend.address,
            backend.instance,
            backend.path,
            backend.state,
            backend.display_name,
            claim.since_ms,
            claim.source,
        )
        .unwrap();
    }
    for refusal in claims.refusals {
        let key = refusal.key.unwrap_or_default();
        writeln!(shown, "refused: {} {key}: {}", refusal.object, refusal.message).unwrap();
    }
    shown
}

/// A container of Compose with these labels and variables.
fn composed(
    service: &str,
    image: &str,
    labels: &[(&str, &str)],
    environment: &[(&str, &str)],
    ports: &[u16],
) -> ContainerFacts {
    let compose = [
        ("com.docker.compose.project", "demo"),
        ("com.docker.compose.service", service),
        ("com.docker.compose.container-number", "1"),
    ];
    let labels: Vec<_> = compose.iter().chain(labels).copied().collect();
    let environment = environment.iter();
    ContainerFacts {
        environment: environment.map(|(key, it)| ((*key).to_owned(), (*it).to_owned())).collect(),
        ports: ports
            .iter()
            .map(|port| ContainerPort { port: *port, protocol: Protocol::Tcp, is_published: true })
            .collect(),
        ..container(&format!("demo-{service}-1"), image, &labels)
    }
}

fn check_with(config: &str, containers: &[ContainerFacts]) -> String {
    let config = Config::parse(config, "lb.toml").unwrap();
    let reader = Reader::new(&config.labels);
    let mut shown = String::new();
    for facts in containers {
        let claims = reader.claims(facts);
        let asks = !claims.claims.is_empty() || !claims.refusals.is_empty();
        assert!(reader.concerns(facts) || !asks, "{}", facts.name);
        for claim in claims.claims {
            let backend = claim.backend.unwrap();
            let frontend = claim.pooled.map_or(claim.frontend.to_string(), |pooled| pooled.name);
            writeln!(
                shown,
                "{} place {} at {frontend}: {} weight {}; by {}",
                claim.service, backend.place, backend.address, backend.weight, claim.source
            )
            .unwrap();
            let (policy, _) = Policy::agreed(std::iter::once(&*claim.wishes));
            for row in policy.rows().iter().filter(|row| row.origin != Origin::Default) {
                writeln!(shown, "  {} = {} ({})", row.name, row.value, row.origin).unwrap();
            }
        }
        for refusal in claims.refusals {
            let key = refusal.key.unwrap_or_default();
            writeln!(shown, "refused: {} {key}: {}", refusal.object, refusal.message).unwrap();
        }
    }
    shown
}

#[test]
fn a_plain_container_belongs_to_the_service_of_its_image() {
    assert_snapshot!(check(&container("redis-1", "library/redis:7", &[LB])), @"docker/redis:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`");
}

#[test]
fn a_compose_container_has_the_place_of_its_number() {
    let compose = [
        LB,
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "redis"),
        ("com.docker.compose.container-number", "3"),
        ("com.docker.compose.oneoff", "False"),
    ];
    assert_snapshot!(check(&container("shop-redis-3", "redis", &compose)), @"compose/shop/redis:6379 place 3 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy shop-redis-3; since 1000 by container `shop-redis-3`, label `aliyun.lb.port_6379`");
}

#[test]
fn the_address_is_of_the_family_of_the_vip() {
    let balancer = |name: &str, vip: &str| Balancer {
        name: name.to_owned(),
        id: None,
        vip: vip.parse().unwrap(),
    };
    let balancers =
        vec![balancer("slb_redis_app", "192.0.2.10"), balancer("slb_six", "2001:db8::10")];
    let reader = Reader::new(&LabelsConfig { balancers, ..LabelsConfig::default() });
    let check = |facts: &ContainerFacts| {
        let Claims { claims, refusals, .. } = reader.claims(facts);
        let served = claims.iter().map(|claim| {
            let backend = claim.backend.as_ref().unwrap();
            format!("{} -> {} {:?}", claim.frontend, backend.address, backend.path)
        });
        let refused = refusals.iter().map(|it| format!("refused: {}", it.message));
        served.chain(refused).collect::<Vec<_>>().join("\n")
    };
    let labels = [LB, ("aliyun.lb.port_53", "udp://slb_six:53")];
    let four = container("redis-1", "redis", &labels);
    let address = "fd00::3".parse().unwrap();
    let ways_in = WaysIn::Direct;
    let network = Some("six".into());
    let second = Some(LocalAddress { address, ifindex: 9, ways_in, network });
    assert_snapshot!(check(&ContainerFacts { second, ..four.clone() }), @"
    udp://[2001:db8::10]:53 -> [fd00::3]:53 Local { ifindex: 9 }
    tcp://192.0.2.10:6379 -> 172.17.0.2:6379 Local { ifindex: 7 }
    ");
    assert_snapshot!(check(&four), @"
    tcp://192.0.2.10:6379 -> 172.17.0.2:6379 Local { ifindex: 7 }
    refused: the balancer's VIP 2001:db8::10 is IPv6, and the container has no IPv6 address on a network with a default route; connect it to a network with IPv6, or name a balancer whose VIP is of the container's family
    ");
    assert_snapshot!(check(&ContainerFacts { address, ..four }), @"
    udp://[2001:db8::10]:53 -> [fd00::3]:53 Local { ifindex: 7 }
    refused: the balancer's VIP 192.0.2.10 is IPv4, and the container has no IPv4 address on a network with a default route; connect it to a network with IPv4, or name a balancer whose VIP is of the container's family
    ");
}

#[test]
fn a_one_off_container_gets_no_traffic() {
    let compose = [
        LB,
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "redis"),
        ("com.docker.compose.container-number", "1"),
        ("com.docker.compose.oneoff", "True"),
    ];
    assert_snapshot!(check(&container("shop-redis-run-1", "redis", &compose)), @"refused: container `shop-redis-run-1` aliyun.lb.port_6379: a one-off container of `docker compose run` gets no traffic; start the service by `docker compose up`");
}

#[test]
fn a_swarm_task_has_the_place_of_its_slot() {
    let mut swarm = vec![
        LB,
        ("com.docker.swarm.service.name", "shop_redis"),
        ("com.docker.swarm.task.name", "shop_redis.3.q1w2e3"),
        ("com.docker.swarm.node.id", "n0de"),
    ];
    assert_snapshot!(check(&container("shop_redis.3.q1w2e3", "redis", &swarm)), @"swarm/shop_redis:6379 place 3 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy shop_redis.3.q1w2e3; since 1000 by container `shop_redis.3.q1w2e3`, label `aliyun.lb.port_6379`");
    swarm[2].1 = "odd";
    assert_snapshot!(check(&container("odd", "redis", &swarm)), @"swarm/shop_redis:6379 place n0de at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy odd; since 1000 by container `odd`, label `aliyun.lb.port_6379`");
}

#[test]
fn several_labels_are_several_services() {
    let labels = [
        LB,
        ("aliyun.lb.port_6380", "http://slb_redis_app:80"),
        ("aliyun.lb.port_6381", "tcp://nobody:80"),
        ("aliyun.lb.port_x", "tcp://slb_redis_app:80"),
        ("aliyun.scale", "3"),
    ];
    assert_snapshot!(check(&container("redis-1", "redis", &labels)), @"
    docker/redis:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`
    docker/redis:6380@192.0.2.10:80 place redis-1 at tcp://192.0.2.10:80: 172.17.0.2:6380 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6380`
    refused: container `redis-1` aliyun.lb.port_6381: no balancer has the name or id `nobody`; the config has: slb_redis_app. Correct the label, or add a [[balancer]] to the config
    refused: container `redis-1` aliyun.lb.port_x: the key has the container port `x`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
    ");
}

#[test]
fn an_image_without_name_lends_none() {
    assert_snapshot!(check(&container("redis-1", "sha256:0123", &[LB])), @"docker/redis-1:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`");
}

#[test]
fn one_image_at_two_frontends_is_two_services() {
    let name_of = |label| {
        let facts = container("some-name", "nginx", &[label]);
        claims(&facts).claims[0].service.0.clone()
    };
    let shop = name_of(("aliyun.lb.port_80", "http://slb_redis_app:80"));
    let blog = name_of(("aliyun.lb.port_80", "http://slb_redis_app:81"));
    assert_ne!(shop, blog);
    assert_eq!(shop, name_of(("aliyun.lb.port_80", "tcp://slb_redis_app:80")));
}

proptest! {
    #[test]
    fn hostile_names_stay_bounded_and_printable(
        name in any::<String>(),
        image in any::<String>(),
        project in "\\PC{0,200}|[\u{0}-\u{20}]{0,100}",
        keys in prop::sample::subsequence(vec![
            "com.docker.compose.project", "com.docker.compose.service",
            "com.docker.compose.container-number", "com.docker.swarm.service.name",
            "com.docker.swarm.task.name", "com.docker.swarm.node.id",
        ], 0..6),
    ) {
        let mut labels: Vec<(&str, &str)> = keys.iter().map(|key| (*key, &*project)).collect();
        labels.push(LB);
        let claims = claims(&container(&name, &image, &labels));
        prop_assert_eq!(claims.claims.len(), 1);
        let claim = &claims.claims[0];
        let backend = claim.backend.as_ref().unwrap();
        let texts = [&*claim.service.0, &claim.source, &backend.place, &backend.display_name];
        for text in texts {
            prop_assert!(text.chars().count() < 2000 && !text.chars().any(char::is_control));
        }
    }

    #[test]
    fn labels_are_a_map(keys in prop::collection::btree_map(".*", ".*", 0..5)) {
        let labels: BTreeMap<String, String> = keys;
        prop_assert!(!wants_balancing(&labels));
    }
}

#[test]
fn schemas_go_before_each_other() {
    let facts = composed(
        "web",
        "web",
        &[
            ("aliyun.lb.port_80", "http://slb:80"),
            ("aliyun.probe.url", "http://container:81/aliyun"),
            ("aliyun.probe.timeout_seconds", "3"),
            ("aliyun.scale", "2"),
            ("lb.scale", "3"),
            ("lb.81.frontend", "tcp://slb:81"),
            ("lb.81.probe", "tcp"),
        ],
        &[
            ("SERVICE_NAME", "web"),
            ("SERVICE_CHECK_HTTP", "/registrator"),
            ("SERVICE_CHECK_TIMEOUT", "4s"),
        ],
        &[80],
    );
    let config = "
        [defaults]
        drain_seconds = 5
        probe.timeout_ms = 60
        [[balancer]]
        name = 'slb'
        vip = '192.0.2.10'
        [[registrator]]
        name = 'web'
        frontend = 'tcp://192.0.2.11:80'
    ";
    assert_snapshot!(check_with(config, &[facts]), @"
    compose/demo/web:81 place 1 at tcp://192.0.2.10:81: 172.17.0.2:81 weight 100; by container `demo-web-1`, label `lb.81.frontend`
      drain_seconds = 5 s ([defaults] in lb.toml, `drain_seconds`)
      probe = tcp (container `demo-web-1`, label `lb.81.probe`)
      probe_timeout_ms = 60 ms ([defaults] in lb.toml, `probe.timeout_ms`)
      scale = 3 (container `demo-web-1`, label `lb.scale`)
    compose/demo/web:80 place 1 at tcp://192.0.2.10:80: 172.17.0.2:80 weight 100; by container `demo-web-1`, label `aliyun.lb.port_80`
      drain_seconds = 5 s ([defaults] in lb.toml, `drain_seconds`)
      probe = http port 81 GET /aliyun, status 200-399 (container `demo-web-1`, label `aliyun.probe.url`)
      probe_timeout_ms = 3 s (container `demo-web-1`, label `aliyun.probe.timeout_seconds`)
      scale = 3 (container `demo-web-1`, label `lb.scale`)
    registrator/web place compose/demo/web/1:80 at tcp://192.0.2.11:80: 172.17.0.2:80 weight 100; by container `demo-web-1`, variable `SERVICE_NAME`
      drain_seconds = 5 s ([defaults] in lb.toml, `drain_seconds`)
      probe = http port 81 GET /aliyun, status 200-399 (container `demo-web-1`, label `aliyun.probe.url`)
      probe_timeout_ms = 3 s (container `demo-web-1`, label `aliyun.probe.timeout_seconds`)
      scale = 3 (container `demo-web-1`, label `lb.scale`)
    ");
}

#[test]
fn services_share_a_frontend_when_both_say_so() {
    let of = |service: &str, weight: &str, port: u16| {
        let key = format!("aliyun.lb.port_{port}");
        let labels = [(key.as_str(), "http://slb:80"), ("lb.share", "shop"), ("lb.weight", weight)];
        composed(service, "shop", &labels, &[], &[])
    };
    let config = "[[balancer]]\nname = 'slb'\nvip = '192.0.2.10'";
    assert_snapshot!(check_with(config, &[of("blue", "100", 8080), of("green", "0", 9090)]), @"
    share/shop@tcp://192.0.2.10:80 place compose/demo/blue/1:8080 at tcp://192.0.2.10:80: 172.17.0.2:8080 weight 100; by container `demo-blue-1`, label `aliyun.lb.port_8080`
      share = shop (container `demo-blue-1`, label `lb.share`)
    share/shop@tcp://192.0.2.10:80 place compose/demo/green/1:9090 at tcp://192.0.2.10:80: 172.17.0.2:9090 weight 0; by container `demo-green-1`, label `aliyun.lb.port_9090`
      share = shop (container `demo-green-1`, label `lb.share`)
    ");
}

#[test]
fn labels_of_the_swarm_service_count_after_the_containers_own() {
    let mut facts = container("web.1.x", "web", &[("lb.weight", "5")]);
    facts.service_labels =
        [("lb.frontend", "tcp://slb:80"), ("lb.port", "8080"), ("lb.weight", "1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let config = "[[balancer]]\nname = 'slb'\nvip = '192.0.2.10'";
    assert_snapshot!(check_with(config, &[facts]), @"docker/web:8080@192.0.2.10:80 place web.1.x at tcp://192.0.2.10:80: 172.17.0.2:8080 weight 5; by container `web.1.x`, label `lb.frontend`");
}

#[test]
fn other_labels_without_a_frontend_change_nothing() {
    let labels = [
        ("aliyun.scale", "3"),
        ("aliyun.depends", "a,b"),
        ("aliyun.log_store_x", "stdout"),
        ("lb.weight", "nonsense"),
        ("lb.wieght", "3"),
        ("aliyun.prob.url", "http://container"),
        ("aliyun.probe.interval_seconds", "3"),
        ("aliyun.lb.port", "tcp://slb:80"),
        ("aliyun.new_in_their_next_version", "3"),
    ];
    assert_snapshot!(check_with("", &[composed("web", "web", &labels, &[], &[])]), @"
    refused: container `demo-web-1` aliyun.lb.port: there is no such label; did you mean `aliyun.lb.port_$PORT`?
    refused: container `demo-web-1` aliyun.prob.url: there is no such label; did you mean `aliyun.probe.url`?
    refused: container `demo-web-1` aliyun.probe.interval_seconds: there is no such label; docs/labels.md has all that are read
    refused: container `demo-web-1` lb.wieght: there is no such label; did you mean `lb.weight`?
    ");
}

#[test]
fn a_port_that_is_published_for_one_protocol_is_not_ours_alone_for_the_other() {
    let config = "
        [[balancer]]
        name = 'one'
        vip = '192.0.2.10'
        [[balancer]]
        name = 'two'
        vip = '192.0.2.11'
    ";
    let reader = Reader::new(&Config::parse(config, "lb.toml").unwrap().labels);
    let check = |frontends: &str, protocol: Option<Protocol>, expected| {
        let mut facts = composed("dns", "dns", &[("lb.8080.frontend", frontends)], &[], &[]);
        facts.ways_in = WaysIn::OnlyOurs;
        facts.ports.extend(protocol.map(|protocol| ContainerPort {
            port: 8080,
            protocol,
            is_published: true,
        }));
        let claims = reader.claims(&facts).claims;
        assert_eq!(claims.len(), 2);
        let (snapshot, refusals) = arbitrate(claims, &Incumbents::new());
        assert_eq!(refusals, [], "{frontends}");
        let backends = snapshot.services.values().flat_map(|service| &service.backends);
        let ways_in: Vec<WaysIn> = backends.map(|backend| backend.replies.ways_in).collect();
        assert_eq!(ways_in, [expected], "{frontends}");
    };
    for frontends in
        ["udp://one:55,tcp://two:56", "tcp://one:55,udp://two:56", "tcp://one:53,udp://one:53"]
    {
        check(frontends, Some(Protocol::Tcp), WaysIn::Published);
        check(frontends, Some(Protocol::Udp), WaysIn::Published);
        check(frontends, None, WaysIn::OnlyOurs);
    }
}

/// Also those that have no label, for whom nobody looks in vain then.
#[test]
fn whoever_asks_is_known_by_what_asks() {
    let config = "
        [[registrator]]
        name = 'web'
        frontend = 'tcp://192.0.2.10:80'
    ";
    let reader = Reader::new(&Config::parse(config, "lb.toml").unwrap().labels);
    let check = |facts: &ContainerFacts, expected: &[Option<&str>]| {
        let asked_by = reader.asked_by(facts);
        let asked_by: Vec<Option<&str>> = asked_by.iter().map(Option::as_deref).collect();
        assert_eq!(asked_by, expected);
        assert!(reader.concerns(facts) || expected.is_empty());
    };
    let of = |labels: &[(&str, &str)], environment: &[(&str, &str)]| {
        composed("a", "image", labels, environment, &[80])
    };
    check(&of(&[], &[("SERVICE_8081_NAME", "web")]), &[Some("SERVICE_8081_NAME")]);
    check(&of(&[], &[("SERVICE_NAME", "web")]), &[Some("SERVICE_NAME")]);
    check(&of(&[("SERVICE_80_NAME", "web")], &[]), &[Some("SERVICE_80_NAME")]);
    check(&composed("a", "web", &[], &[], &[80]), &[None]);
    check(&of(&[], &[("SERVICE_NAME", "other")]), &[]);
    check(&of(&[("lb.weight", "3"), ("aliyun.scale", "3")], &[]), &[]);
    let both = of(&[LB, ("lb.80.frontend", "tcp://a:80")], &[("SERVICE_80_NAME", "web")]);
    let expected = [Some("SERVICE_80_NAME"), Some("aliyun.lb.port_6379"), Some("lb.80.frontend")];
    check(&both, &expected);
    let mut of_service = of(&[], &[]);
    of_service.service_labels.insert("SERVICE_80_NAME".to_owned(), "web".to_owned());
    check(&of_service, &[Some("SERVICE_80_NAME")]);
    let many = (0..100).map(|port| format!("aliyun.lb.port_{port}"));
    let mut labelled = of(&[], &[]);
    labelled.labels.extend(many.map(|key| (key, String::new())));
    assert_eq!(reader.asked_by(&labelled).len(), 16);
}
