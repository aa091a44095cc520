//! One container -> what it asks for: which service it belongs to, and its place in it.
//!
//! A replica's identity is its name in the orchestrator (Compose project, service and number; Swarm
//! service and slot), never the container's id or address: so a replacement inherits its ring slots.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    aliyun::{self, BalancerIndex},
    shown,
    text::name_part,
};
use crate::model::{
    Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, Refusal, ServiceName,
};

/// Labels of one container that are looked at; Docker itself sets no limit.
const LABELS_MAX: usize = 256;

/// Weight of a container.
const WEIGHT: u16 = 100;

/// What is known of one running container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerFacts {
    /// Its id.
    pub id: String,
    /// Its name, with or without the slash that Docker puts before it.
    pub name: String,
    /// The image that it was made from, as the user wrote it.
    pub image: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was started last, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// Its address, on the network with its default route: IPv4 where it has that.
    pub address: IpAddr,
    /// Index of the host-side end of that network's veth pair.
    pub ifindex: u32,
    /// The same of the other family, where it has both.
    pub second: Option<LocalAddress>,
}

/// An address of a container, and the node's end of the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the host-side end of the veth pair.
    pub ifindex: u32,
}

impl ContainerFacts {
    /// Its address of the VIP's family; an error says that it has none.
    fn address_for(&self, vip: IpAddr) -> Result<LocalAddress, String> {
        let first = LocalAddress { address: self.address, ifindex: self.ifindex };
        let mut addresses = std::iter::once(first).chain(self.second);
        addresses.find(|it| it.address.is_ipv4() == vip.is_ipv4()).ok_or_else(|| {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(
                "the balancer's VIP {vip} is {family}, and the container has no {family} address on \
                 a network with a default route; connect it to a network with {family}, or name a \
                 balancer whose VIP is of the container's family"
            )
        })
    }
}

/// Whether a container with these labels asks for anything, so that its namespace must be looked at.
pub fn wants_balancing(labels: &BTreeMap<String, String>) -> bool {
    aliyun::parse(labels).next().is_some()
}

/// What a container asks for, and which of its labels are refused.
pub fn claims(facts: &ContainerFacts, balancers: &BalancerIndex) -> Claims {
    let mut claims = Claims::default();
    let name = facts.name.trim_start_matches('/');
    let object = format!("container `{}`", shown(name));
    let mut refuse = |key: Option<String>, message: String| {
        claims.refusals.push(Refusal { object: object.clone(), key, message });
    };
    let replica = Replica::of(facts, name);
    for (index, parsed) in aliyun::parse(&facts.labels).enumerate() {
        if index == LABELS_MAX {
            let message = format!(
                "more than {LABELS_MAX} labels begin with {}; the rest is not looked at",
                aliyun::PREFIX
            );
            refuse(None, message);
            break;
        }
        let label = match parsed {
            Ok(label) => label,
            Err(error) => {
                refuse(Some(error.key), error.message);
                continue;
            }
        };
        let key = format!("{}{}", aliyun::PREFIX, label.container_port);
        let Some(replica) = &replica else {
            let message = "a one-off container of `docker compose run` gets no traffic; start the \
                           service by `docker compose up`";
            refuse(Some(key), message.to_owned());
            continue;
        };
        let resolved = balancers
            .resolve(&label)
            .and_then(|frontend| Ok((frontend, facts.address_for(frontend.vip)?)));
        match resolved {
            Err(message) => refuse(Some(key), message),
            Ok((frontend, address)) => claims.claims.push(Claim {
                service: replica.service_name(label.container_port, &frontend),
                frontend,
                backend: Some(backend(facts, name, replica, address, label.container_port)),
                ring_size: None,
                since_ms: facts.created_at_ms,
                source: format!("{object}, label `{key}`"),
            }),
        }
    }
    claims
}

fn backend(
    facts: &ContainerFacts,
    name: &str,
    replica: &Replica,
    address: LocalAddress,
    port: u16,
) -> Backend {
    Backend {
        place: replica.place.clone(),
        // A container that was stopped and started again is another instance: its flows are gone.
        instance: format!("{}@{}", facts.id, facts.started_at_ms),
        display_name: name_part(name),
        address: SocketAddr::new(address.address, port),
        weight: WEIGHT,
        path: BackendPath::Local { ifindex: address.ifindex },
        state: BackendState::Healthy,
        started_at_ms: facts.started_at_ms,
    }
}

/// A container's part in a service.
struct Replica {
    /// Name of the service without the port.
    service: String,
    /// Place within the service.
    place: String,
    /// No orchestrator says that containers of this name belong together, only their image does.
    is_by_image: bool,
}

impl Replica {
    /// Containers of one image may be replicas or have nothing to do with each other: they are one
    /// service when they ask for the same frontend.
    fn service_name(&self, port: u16, frontend: &FrontendAddress) -> ServiceName {
        let name = format!("{}:{port}", self.service);
        if !self.is_by_image {
            return ServiceName(name);
        }
        let address = SocketAddr::new(frontend.vip, frontend.ports.first());
        ServiceName(format!("{name}@{address}"))
    }

    /// `None` for a container that is part of no service: one that was made for a single command.
    fn of(facts: &ContainerFacts, name: &str) -> Option<Self> {
        let label =
            |key: &str| facts.labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(service) = label("com.docker.swarm.service.name") {
            let task = label("com.docker.swarm.task.name");
            let place = task
                .and_then(|task| swarm_slot(task, service))
                .or_else(|| label("com.docker.swarm.node.id"))
                .unwrap_or(name);
            return Some(Self {
                service: format!("swarm/{}", name_part(service)),
                place: name_part(place),
                is_by_image: false,
            });
        }
        let compose = label("com.docker.compose.project").zip(label("com.docker.compose.service"));
        if let Some((project, service)) = compose {
            if label("com.docker.compose.oneoff") == Some("True") {
                return None;
            }
            return Some(Self {
                service: format!("compose/{}/{}", name_part(project), name_part(service)),
                place: name_part(label("com.docker.compose.container-number").unwrap_or(name)),
                is_by_image: false,
            });
        }
        let image = image_base_name(&facts.image).unwrap_or(name);
        Some(Self {
            service: format!("docker/{}", name_part(image)),
            place: name_part(name),
            is_by_image: true,
        })
    }
}

/// `3` of the task `web.3.q1w2e3` of the service `web`; the node's id for a global service.
fn swarm_slot<'a>(task: &'a str, service: &str) -> Option<&'a str> {
    let (slot, _) = task.strip_prefix(service)?.strip_prefix('.')?.split_once('.')?;
    (!slot.is_empty()).then_some(slot)
}

/// `redis` of `registry:5000/team/redis:7@sha256:…`. Nothing for an image that has no name.
fn image_base_name(image: &str) -> Option<&str> {
    let (image, _) = image.split_once('@').unwrap_or((image, ""));
    let (_, base) = image.rsplit_once('/').unwrap_or(("", image));
    let (name, _) = base.split_once(':').unwrap_or((base, ""));
    let is_id = |text: &str| {
        matches!(text.len(), 12 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    (!name.is_empty() && name != "sha256" && !is_id(name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr};

    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::{ContainerFacts, LocalAddress, claims, image_base_name, wants_balancing};
    use crate::{config::Balancer, labels::BalancerIndex};

    const LB: (&str, &str) = ("aliyun.lb.port_6379", "tcp://slb_redis_app:6379");

    fn balancers() -> BalancerIndex {
        let balancer = |name: &str, vip: &str| Balancer {
            name: name.to_owned(),
            id: None,
            vip: vip.parse().unwrap(),
        };
        BalancerIndex::new(&[
            balancer("slb_redis_app", "192.0.2.10"),
            balancer("slb_six", "2001:db8::10"),
        ])
    }

    fn container(name: &str, image: &str, labels: &[(&str, &str)]) -> ContainerFacts {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ContainerFacts {
            id: "0123abcd".to_owned(),
            name: format!("/{name}"),
            image: image.to_owned(),
            labels: labels.collect(),
            created_at_ms: 1000,
            started_at_ms: 2000,
            address: Ipv4Addr::new(172, 17, 0, 2).into(),
            ifindex: 7,
            second: None,
        }
    }

    fn check(facts: &ContainerFacts) -> String {
        let claims = claims(facts, &balancers());
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
    fn the_address_is_of_the_family_of_the_vip() {
        let labels = [LB, ("aliyun.lb.port_53", "udp://slb_six:53")];
        let both = ContainerFacts {
            second: Some(LocalAddress { address: "fd00::3".parse().unwrap(), ifindex: 9 }),
            ..container("redis-1", "redis", &labels)
        };
        assert_snapshot!(check(&both), @"
        docker/redis:53@[2001:db8::10]:53 place redis-1 at udp://[2001:db8::10]:53: [fd00::3]:53 0123abcd@2000 Local { ifindex: 9 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_53`
        docker/redis:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`
        ");
        assert_snapshot!(check(&container("redis-1", "redis", &labels)), @"
        docker/redis:6379@192.0.2.10:6379 place redis-1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_6379`
        refused: container `redis-1` aliyun.lb.port_53: the balancer's VIP 2001:db8::10 is IPv6, and the container has no IPv6 address on a network with a default route; connect it to a network with IPv6, or name a balancer whose VIP is of the container's family
        ");
        let six = ContainerFacts {
            address: "fd00::3".parse().unwrap(),
            ..container("redis-1", "redis", &labels)
        };
        assert_snapshot!(check(&six), @"
        docker/redis:53@[2001:db8::10]:53 place redis-1 at udp://[2001:db8::10]:53: [fd00::3]:53 0123abcd@2000 Local { ifindex: 7 } healthy redis-1; since 1000 by container `redis-1`, label `aliyun.lb.port_53`
        refused: container `redis-1` aliyun.lb.port_6379: the balancer's VIP 192.0.2.10 is IPv4, and the container has no IPv4 address on a network with a default route; connect it to a network with IPv4, or name a balancer whose VIP is of the container's family
        ");
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
        refused: container `redis-1` aliyun.lb.port_6381: no balancer has the name or id `nobody`; the config has: slb_redis_app, slb_six. Correct the label, or add a [[balancer]] to the config
        refused: container `redis-1` aliyun.lb.port_x: the key has the container port `x`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        ");
    }

    #[test]
    fn one_image_at_two_frontends_is_two_services() {
        let name_of = |label| {
            let facts = container("some-name", "nginx", &[label]);
            claims(&facts, &balancers()).claims[0].service.0.clone()
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
        let claims = claims(&facts, &balancers());
        assert_eq!((claims.claims.len(), claims.refusals.len()), (256, 1));
        assert_snapshot!(claims.refusals[0].message, @"more than 256 labels begin with aliyun.lb.port_; the rest is not looked at");
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
            let claims = claims(&container(&name, &image, &labels), &balancers());
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
}
