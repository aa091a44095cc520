//! Containers and what they ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{ContainerFacts, Reader, image_base_name, wants_balancing};
use crate::{
    config::{Balancer, LabelsConfig},
    model::Claims,
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
        image: image.to_owned(),
        labels: labels.collect(),
        service_labels: BTreeMap::new(),
        environment: BTreeMap::new(),
        ports: BTreeSet::new(),
        created_at_ms: 1000,
        started_at_ms: 2000,
        address: Ipv4Addr::new(172, 17, 0, 2).into(),
        ifindex: 7,
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

#[test]
fn images_have_a_base_name() {
    let check = |image: &str, expected: Option<&str>| {
        assert_eq!(image_base_name(image), expected, "{image}");
    };
    check("redis", Some("redis"));
    check("redis:7.2", Some("redis"));
    check("registry:5000/team/redis", Some("redis"));
    check("registry:5000/team/redis:7@sha256:0123", Some("redis"));
    check("sha256:0123abcd", None);
    check("0123456789ab", None);
    check(&"0123456789abcdef".repeat(4), None);
    check("", None);
    check("team/", None);
    assert_snapshot!(self::check(&container("redis-1", "sha256:0123", &[LB])), @"docker/redis-1:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`");
}

#[test]
fn ten_thousand_labels_are_bounded() {
    let mut facts = container("many", "redis", &[]);
    facts.labels = (1..=10_000)
        .map(|port| (format!("aliyun.lb.port_{port}"), format!("tcp://slb_redis_app:{port}")))
        .collect();
    let claims = claims(&facts);
    assert_eq!((claims.claims.len(), claims.refusals.len()), (256, 1));
    assert_snapshot!(claims.refusals[0].message, @"its labels ask for more than 256 frontends; the rest is left out");
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
        let texts = [&claim.service.0, &claim.source, &backend.place, &backend.display_name];
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
