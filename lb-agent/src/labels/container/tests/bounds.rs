//! Containers that ask for more than anybody needs, and worse.

use std::time::{Duration, Instant};

use super::*;
use crate::model::Refusal;

/// Labels of one container.
const MANY: u32 = 10_000;
/// What reading one container may take, in a build without optimisation beside other work. Without
/// bounds the cases below took minutes.
const TIME_MAX: Duration = Duration::from_secs(20);

/// Key and value by number.
type Kind = fn(u32) -> (String, String);

/// A container with `MANY` labels of each kind, and variables.
fn many(labels: &[Kind], environment: &[Kind]) -> ContainerFacts {
    let of = |kinds: &[Kind]| {
        kinds.iter().flat_map(|kind| (1..=MANY).map(kind)).collect::<BTreeMap<_, _>>()
    };
    let mut facts = container("many", "redis", &[LB]);
    facts.labels.extend(of(labels));
    facts.environment = of(environment);
    facts
}

/// Frontends and refusals, and what is said of what was left out.
#[track_caller]
fn check_bounds(config: &str, facts: &ContainerFacts) -> String {
    let config = format!("[[balancer]]\nname = 'slb_redis_app'\nvip = '192.0.2.10'\n{config}");
    let labels = Config::parse(&config, "lb.toml").expect("in order").labels;
    let reader = Reader::new(&labels);
    let begun = Instant::now();
    assert!(reader.concerns(facts));
    let claims = reader.claims(facts);
    let took = begun.elapsed();
    assert!(took < TIME_MAX, "{took:?}");
    let bytes: usize = claims.refusals.iter().map(|it| it.object.len() + it.message.len()).sum();
    assert!(bytes < 1_000_000, "{bytes} bytes of refusals");
    let cut = claims.refusals.iter().filter(|it| it.key.is_none()).map(|it| &*it.message);
    let cut: Vec<&str> = cut.collect();
    format!("{} and {} refused\n{}", claims.claims.len(), claims.refusals.len(), cut.join("\n"))
}

#[test]
fn ten_thousand_good_labels_are_cut_and_that_is_said() {
    let facts = many(
        &[|port| (format!("aliyun.lb.port_{port}"), format!("tcp://slb_redis_app:{port}"))],
        &[],
    );
    assert_snapshot!(check_bounds("", &facts), @"
    256 and 1 refused
    its labels ask for more than 256 frontends, or for more than 1024 with those that are refused; the rest is left out
    ");
}

#[test]
fn ten_thousand_labels_with_hostile_values_are_bounded() {
    let frontends =
        many(&[|port| (format!("lb.{port}.frontend"), "tcp://nobody:80,".repeat(100))], &[]);
    assert_snapshot!(check_bounds("", &frontends), @"
    0 and 32 refused
    its labels ask for more than 256 frontends, or for more than 1024 with those that are refused; the rest is left out
    ");
    let names = many(
        &[
            |port| (format!("aliyun.routing.port_{port}"), "a.example.com;".repeat(1000)),
            |port| (format!("aliyun.lb.port_{port}"), format!("tcp://{port}:x").repeat(1000)),
        ],
        &[],
    );
    assert_snapshot!(check_bounds("", &names), @"
    0 and 258 refused
    768 more refusals of its labels are not listed; mend those that are
    its labels ask for more than 256 frontends, or for more than 1024 with those that are refused; the rest is left out
    ");
    let unknown = many(
        &[
            |index| (format!("lb.{index}.{}", "nonsense".repeat(8)), "x".repeat(1000)),
            |index| (format!("aliyun.prob.url{index}"), "x".repeat(1000)),
            |index| (format!("aliyun.{}{index}", "longer.".repeat(10)), String::new()),
            |index| (format!("lb.{index}.weight"), "\u{202e}\n".repeat(1000)),
        ],
        &[],
    );
    assert_snapshot!(check_bounds("", &unknown), @"
    1 and 258 refused
    9745 more refusals of its labels are not listed; mend those that are
    has more than 256 unknown labels that begin with `aliyun.`; the rest is not compared with the known ones
    ");
}

#[test]
fn ten_thousand_variables_of_registrator_are_bounded() {
    let config = "[[registrator]]\nname = 'web'\nfrontend = 'tcp://192.0.2.10:81'\n";
    let facts = many(
        &[|port| (format!("SERVICE_{port}_CHECK_SCRIPT"), "$SERVICE_PORT".repeat(300))],
        &[
            |port| (format!("SERVICE_{port}_NAME"), "web".to_owned()),
            |index| (format!("SERVICE_{index}_CHECK_INTERVALL"), "x".repeat(1000)),
            |index| (format!("SERVICE_CHECKS_{index}"), "x".repeat(1000)),
        ],
    );
    let ports = (1..=u16::MAX).map(|port| ContainerPort {
        port,
        protocol: Protocol::Tcp,
        is_published: false,
    });
    let facts = ContainerFacts { ports: ports.collect(), ..facts };
    assert_snapshot!(check_bounds(config, &facts), @"
    256 and 1 refused
    its labels ask for more than 256 frontends, or for more than 1024 with those that are refused; the rest is left out
    ");
}

#[test]
fn settings_for_each_of_many_ports_are_bounded() {
    let facts = many(
        &[
            |port| (format!("lb.{port}.frontend"), format!("tcp://slb_redis_app:{port}")),
            |port| (format!("lb.{port}.probe"), "command".to_owned()),
            |port| (format!("lb.{port}.probe.command"), "x".repeat(4096)),
            |port| (format!("lb.{port}.drain"), "never".to_owned()),
            |port| (format!("lb.{port}.panic"), "9".repeat(100_000 / port as usize)),
        ],
        &[],
    );
    assert_snapshot!(check_bounds("", &facts), @"
    256 and 257 refused
    257 more refusals of its labels are not listed; mend those that are
    its labels ask for more than 256 frontends, or for more than 1024 with those that are refused; the rest is left out
    ");
}

#[test]
fn services_that_depend_on_each_other_are_served() {
    let config = "[[balancer]]\nname = 'slb'\nvip = '192.0.2.10'";
    let one = |service: &str, port: u16, depends: &str| {
        let frontend = format!("tcp://slb:{port}");
        composed(
            service,
            "redis",
            &[("aliyun.lb.port_80", &frontend), ("aliyun.depends", depends)],
            &[],
            &[],
        )
    };
    let circle = [one("a", 81, "b,c"), one("b", 82, "c"), one("c", 83, "a,c")];
    assert_snapshot!(check_with(config, &circle), @"
    compose/demo/a:80 place 1 at tcp://192.0.2.10:81: 172.17.0.2:80 weight 100; by container `demo-a-1`, label `aliyun.lb.port_80`
      depends = b,c (container `demo-a-1`, label `aliyun.depends`)
    compose/demo/b:80 place 1 at tcp://192.0.2.10:82: 172.17.0.2:80 weight 100; by container `demo-b-1`, label `aliyun.lb.port_80`
      depends = c (container `demo-b-1`, label `aliyun.depends`)
    compose/demo/c:80 place 1 at tcp://192.0.2.10:83: 172.17.0.2:80 weight 100; by container `demo-c-1`, label `aliyun.lb.port_80`
      depends = a,c (container `demo-c-1`, label `aliyun.depends`)
    ");
}

#[test]
fn an_update_that_leaves_nobody_is_told() {
    let check = |labels: &[(&str, &str)]| {
        let mut all = vec![LB];
        all.extend(labels);
        let told = claims(&container("web-1", "redis", &all)).refusals;
        let line = |it: Refusal| format!("{}: {}\n", it.key.unwrap_or_default(), it.message);
        told.into_iter().map(line).collect::<String>()
    };
    let parallel = ("aliyun.rolling_updates.parallelism", "3");
    let rolling = ("aliyun.rolling_updates", "true");
    assert_eq!(check(&[("aliyun.scale", "4"), rolling, parallel]), "");
    assert_eq!(check(&[("aliyun.scale", "3"), parallel]), "", "it takes the other label");
    assert_eq!(check(&[("aliyun.scale", "1"), rolling]), "", "one cannot do better");
    assert_eq!(check(&[("aliyun.scale", "0"), rolling]), "");
    assert_eq!(check(&[rolling, parallel]), "");
    let shown = [
        check(&[("aliyun.scale", "3"), rolling, parallel]),
        check(&[("lb.scale", "2"), ("lb.rolling_updates", "5")]),
    ];
    assert_snapshot!(shown.concat(), @"
    aliyun.rolling_updates.parallelism: an update that replaces 3 replicas at a time may take all 3 that are expected at once, so nothing is expected to stay; replace 2 at most
    lb.rolling_updates: an update that replaces 5 replicas at a time may take all 2 that are expected at once, so nothing is expected to stay; replace 1 at most
    ");
}
