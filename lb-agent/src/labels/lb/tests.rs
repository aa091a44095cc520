//! Our own labels: what they say, and what is said when they say nothing sensible.

use std::{collections::BTreeMap, fmt::Write as _};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{LbLabels, PREFIX, asks_for_frontend};
use crate::{
    config::Balancer,
    labels::{BalancerIndex, known},
    model::{Origin, Policy, Wishes},
};

fn balancers() -> BalancerIndex {
    let vip = [192, 0, 2, 10].into();
    BalancerIndex::new(&[Balancer { name: "slb".to_owned(), id: Some("lb-1".to_owned()), vip }])
}

fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Frontends, what differs from the default policy for container port 80, and errors.
fn check(labels: &[(&str, &str)]) -> String {
    let labels = map(labels);
    let (read, mut errors, _) = LbLabels::read(labels.iter(), 100);
    let mut shown = String::new();
    for frontend in read.frontends(&balancers(), |vip| vip.to_string().starts_with("198.18.")) {
        match frontend {
            Ok(one) => {
                writeln!(shown, "{}: {} -> {}", one.key, one.frontend, one.container_port).unwrap();
            }
            Err(error) => errors.push(error),
        }
    }
    let (wishes, of_wishes) = read.wishes(80, "container `web-1`");
    errors.extend(of_wishes);
    shown += &policy(&wishes);
    for error in errors {
        writeln!(shown, "refused {}: {}", error.key, error.message).unwrap();
    }
    shown
}

fn policy(wishes: &Wishes) -> String {
    let (policy, disagreements) = Policy::agreed(std::iter::once(wishes));
    assert_eq!(disagreements, []);
    // What stands in for a probe that is wrong has tests of its own.
    let rows = policy.rows().into_iter().filter(|row| matches!(row.origin, Origin::Label(_)));
    let mut shown = String::new();
    for row in rows {
        writeln!(shown, "{} = {} ({})", row.name, row.value, row.origin).unwrap();
    }
    if let Some(weight) = &wishes.weight {
        writeln!(shown, "weight = {} ({})", weight.value, weight.origin).unwrap();
    }
    if let Some(exclusive) = &wishes.exclusive {
        writeln!(shown, "exclusive = {} ({})", exclusive.value, exclusive.origin).unwrap();
    }
    shown
}

#[test]
fn every_label_is_understood() {
    let shown = check(&[
        ("lb.frontend", "tcp://slb:80, tcp://198.18.0.1:8080"),
        ("lb.port", "8000"),
        ("lb.443.frontend", "tcp://lb-1:443"),
        ("lb.weight", "30"),
        ("lb.affinity", "client/24"),
        ("lb.unreachable", "drop"),
        ("lb.drain", "1m30s"),
        ("lb.unhealthy_grace", "0"),
        ("lb.panic", "25%"),
        ("lb.passive", "false"),
        ("lb.slow_start", "500ms"),
        ("lb.datagrams", "answers"),
        ("lb.ring_size", "4093"),
        ("lb.share", "blue-green"),
        ("lb.exclusive", "true"),
        ("lb.probe", "https"),
        ("lb.probe.port", "8443"),
        ("lb.probe.path", "/health?deep=1"),
        ("lb.probe.method", "OPTIONS"),
        ("lb.probe.host", "shop.example"),
        ("lb.probe.status", "200,204,300-302"),
        ("lb.probe.body", "all is \"well\""),
        ("lb.probe.server_name", "shop.internal"),
        ("lb.probe.verify", "true"),
        ("lb.probe.interval", "5"),
        ("lb.probe.timeout", "750ms"),
        ("lb.probe.delay", "1.5s"),
        ("lb.probe.rise", "1"),
        ("lb.probe.fall", "5"),
        ("lb.probe.place", "container"),
        ("lb.probe.initial", "healthy"),
        ("lb.scale", "4"),
        ("lb.rolling_updates", "2"),
    ]);
    assert_snapshot!(shown, @r#"
    lb.frontend: tcp://192.0.2.10:80 -> 8000
    lb.frontend: tcp://198.18.0.1:8080 -> 8000
    lb.443.frontend: tcp://192.0.2.10:443 -> 443
    affinity = client/24,64 (container `web-1`, label `lb.affinity`)
    unreachable = drop (container `web-1`, label `lb.unreachable`)
    drain_seconds = 90 s (container `web-1`, label `lb.drain`)
    unhealthy_grace_seconds = 0 s (container `web-1`, label `lb.unhealthy_grace`)
    panic_percent = 25 % (container `web-1`, label `lb.panic`)
    passive = false (container `web-1`, label `lb.passive`)
    slow_start_seconds = 1 s (container `web-1`, label `lb.slow_start`)
    datagrams = answers (container `web-1`, label `lb.datagrams`)
    ring_size = 4093 (container `web-1`, label `lb.ring_size`)
    share = blue-green (container `web-1`, label `lb.share`)
    probe = https port 8443 OPTIONS /health?deep=1, host shop.example, server name shop.internal, status 200,204,300-302, body with "all is \"well\"", certificate verified (container `web-1`, label `lb.probe`)
    probe_interval_ms = 5 s (container `web-1`, label `lb.probe.interval`)
    probe_timeout_ms = 750 ms (container `web-1`, label `lb.probe.timeout`)
    probe_initial_delay_ms = 1500 ms (container `web-1`, label `lb.probe.delay`)
    probe_rise = 1 (container `web-1`, label `lb.probe.rise`)
    probe_fall = 5 (container `web-1`, label `lb.probe.fall`)
    probe_place = container (container `web-1`, label `lb.probe.place`)
    probe_initial = healthy (container `web-1`, label `lb.probe.initial`)
    scale = 4 (container `web-1`, label `lb.scale`)
    rolling_updates = 2 (container `web-1`, label `lb.rolling_updates`)
    weight = 30 (container `web-1`, label `lb.weight`)
    exclusive = true (container `web-1`, label `lb.exclusive`)
    "#);
}

#[test]
fn every_known_label_is_read() {
    // A probe of one kind has not all parts.
    let values = [
        "tcp://slb:80",
        "true",
        "client",
        "drop",
        "answers",
        "5",
        "1021",
        "name",
        "healthy",
        "auto",
        "all",
        "any",
        "tcp",
    ];
    for name in known::LB {
        if name.starts_with("probe.") || name == "port" {
            continue;
        }
        let key = format!("{PREFIX}{name}");
        let is_read = values.iter().any(|value| {
            let shown = check(&[(&key, value)]);
            !shown.is_empty() && !shown.contains("refused")
        });
        assert!(is_read, "{key} is known and not read");
    }
}

#[test]
fn what_is_about_a_port_goes_before_what_is_about_all() {
    let shown = check(&[
        ("lb.probe", "tcp"),
        ("lb.80.probe", "http"),
        ("lb.probe.path", "/all"),
        ("lb.80.probe.path", "/80"),
        ("lb.81.probe.path", "/81"),
        ("lb.weight", "1"),
        ("lb.80.weight", "2"),
        ("lb.81.weight", "3"),
    ]);
    assert_snapshot!(shown, @"
    probe = http GET /80, status 200-399 (container `web-1`, label `lb.80.probe`)
    weight = 2 (container `web-1`, label `lb.80.weight`)
    ");
}

#[test]
fn probes_have_the_parts_of_their_kind() {
    let kinds: [&[(&str, &str)]; 7] = [
        &[("lb.probe", "none")],
        &[("lb.probe", "tcp"), ("lb.probe.port", "81")],
        &[("lb.probe", "docker")],
        &[("lb.probe", "command"), ("lb.probe.command", "redis-cli ping | grep PONG")],
        &[("lb.probe", "command"), ("lb.probe.command", "[\"redis-cli\", \"ping; reboot\"]")],
        &[("lb.probe", "command"), ("lb.probe.command", "[ \"$A\" = ok ]")],
        &[("lb.probe", "http")],
    ];
    assert_snapshot!(kinds.map(check).concat(), @r#"
    probe = none (container `web-1`, label `lb.probe`)
    probe = tcp port 81 (container `web-1`, label `lb.probe`)
    probe = docker (container `web-1`, label `lb.probe`)
    probe = command ["/bin/sh", "-c", "redis-cli ping | grep PONG"] (container `web-1`, label `lb.probe`)
    probe = command ["redis-cli", "ping; reboot"] (container `web-1`, label `lb.probe`)
    probe = command ["/bin/sh", "-c", "[ \"$A\" = ok ]"] (container `web-1`, label `lb.probe`)
    probe = http GET /, status 200-399 (container `web-1`, label `lb.probe`)
    "#);
}

/// One wrong label each.
const WRONG: [(&str, &str); 38] = [
    ("lb.frontend", ""),
    ("lb.frontend", "192.0.2.10:80"),
    ("lb.frontend", "tcp://:80"),
    ("lb.frontend", "tcp://slb"),
    ("lb.frontend", "tcp://slb:0"),
    ("lb.frontend", "tcp://nobody:80"),
    ("lb.frontend", "tcp://192.0.2.11:80"),
    ("lb.frontend", "http://slb:80"),
    ("lb.80.port", "80"),
    ("lb.70000.weight", "80"),
    ("lb.wieght", "80"),
    ("lb.80.probe.pathh", "/"),
    ("lb.nothing.of.the.kind", "80"),
    ("lb.", "80"),
    ("lb.weight", "65536"),
    ("lb.weight", "-1"),
    ("lb.affinity", "client/33"),
    ("lb.affinity", "cookie"),
    ("lb.unreachable", "reset"),
    ("lb.drain", "soon"),
    ("lb.drain", "25h"),
    ("lb.panic", "101%"),
    ("lb.passive", "off"),
    ("lb.datagrams", "both"),
    ("lb.ring_size", "1000"),
    ("lb.share", "a/b"),
    ("lb.exclusive", "yes"),
    ("lb.probe", "icmp"),
    ("lb.probe", "command"),
    ("lb.probe.path", "/health"),
    ("lb.probe.interval", "1ms"),
    ("lb.probe.timeout", "61s"),
    ("lb.probe.delay", "9d"),
    ("lb.probe.delay", "25h"),
    ("lb.probe.rise", "0"),
    ("lb.probe.place", "host"),
    ("lb.probe.initial", "passing"),
    ("lb.rolling_updates", "0"),
];

#[test]
fn what_is_wrong_is_told_exactly() {
    let mut shown: String = WRONG.iter().map(|case| check(&[*case])).collect();
    for part in [
        ("lb.probe.path", "health"),
        ("lb.probe.path", "/a b"),
        ("lb.probe.method", "GET /\r\n"),
        ("lb.probe.host", "a/b"),
        ("lb.probe.status", "200-"),
        ("lb.probe.status", "399-200"),
        ("lb.probe.body", ""),
        ("lb.probe.server_name", "a"),
        ("lb.probe.command", "true"),
    ] {
        shown += &check(&[("lb.probe", "http"), part]);
    }
    shown += &check(&[("lb.probe", "command"), ("lb.probe.command", "[1, 2]")]);
    shown += &check(&[("lb.frontend", "tcp://slb:80"), ("lb.port", "http")]);
    assert_snapshot!(shown, @r#"
    refused lb.frontend: the value `` is no frontend; write it like tcp://192.0.2.10:80
    refused lb.frontend: the value `192.0.2.10:80` is no frontend; write it like tcp://192.0.2.10:80
    refused lb.frontend: the value `tcp://:80` is no frontend; write it like tcp://192.0.2.10:80
    refused lb.frontend: the value `tcp://slb` is no frontend; write it like tcp://192.0.2.10:80
    refused lb.frontend: `tcp://192.0.2.10:0`: port 0 does not exist; ports are 1 to 65535
    refused lb.frontend: no balancer has the name or id `nobody`; the config has: slb. Correct the label, or add a [[balancer]] to the config
    refused lb.frontend: the address 192.0.2.11 is none that labels may name; name a [[balancer]] of the config, or add the address to `label_vips` there
    refused lb.frontend: `http://192.0.2.10:80`: unknown scheme `http`; the schemes are: tcp, udp
    refused lb.80.port: the key names the container port already; remove the label
    refused lb.70000.weight: the key has the container port `70000`, which is no port; ports are 1 to 65535
    refused lb.wieght: there is no such label; did you mean `lb.weight`?
    refused lb.80.probe.pathh: there is no such label; did you mean `lb.80.probe.path`?
    refused lb.nothing.of.the.kind: there is no such label; docs/labels.md has all
    refused lb.: there is no such label; docs/labels.md has all
    refused lb.weight: the value `65536` is no number from 0 to 65535
    refused lb.weight: the value `-1` is no number from 0 to 65535
    refused lb.affinity: the value `client/33` is no affinity; write none, client, or client/24,64 for networks
    refused lb.affinity: the value `cookie` is no affinity; write none, client, or client/24,64 for networks
    refused lb.unreachable: the value `reset` is neither reject nor drop
    refused lb.drain: the value `soon` is no duration; write it like 30s, 500ms or 1m30s
    refused lb.drain: the value `25h` is more than 86400 s
    refused lb.panic: the value `101%` is no percentage from 0 to 100
    refused lb.passive: the value `off` is neither true nor false
    refused lb.datagrams: the value `both` is neither records nor answers
    refused lb.ring_size: the value `1000` is no size of a ring; the sizes are 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071
    refused lb.share: the value `a/b` is no name; write 1 to 64 letters, digits, `-`, `_` or `.`
    refused lb.exclusive: the value `yes` is neither true nor false
    refused lb.probe: the value `icmp` is none of none, tcp, http, https, command, docker
    refused lb.probe: `lb.probe.command` is missing; a probe of the kind command needs it
    refused lb.probe: is missing, and other labels say how to probe; add it with one of tcp, http, https, command, docker
    refused lb.probe.interval: the value `1ms` is less than 50 ms
    refused lb.probe.timeout: the value `61s` is more than 60 s
    refused lb.probe.delay: the value `9d` is no duration; write it like 30s, 500ms or 1m30s
    refused lb.probe.delay: the value `25h` is more than 86400 s
    refused lb.probe.rise: the value `0` is no number from 1 to 1000
    refused lb.probe.place: the value `host` is none of auto, node, container
    refused lb.probe.initial: the value `passing` is neither starting nor healthy
    refused lb.rolling_updates: the value `0` is no number from 1 to 65536
    refused lb.probe.path: the value `health` is no path; write it like /health, and escape what is no ASCII as %XX
    refused lb.probe.path: the value `/a b` is no path; write it like /health, and escape what is no ASCII as %XX
    refused lb.probe.method: the value `GET /` is no single word of letters and digits
    refused lb.probe.host: the value `a/b` is no single word of letters and digits
    refused lb.probe.status: the value `200-` is no list of statuses; write it like 200-399 or 200,204
    refused lb.probe.status: the value `399-200` is no list of statuses; write it like 200-399 or 200,204
    refused lb.probe.body: the value `` is not 1 to 1024 characters long
    refused lb.probe: `lb.probe.server_name` goes with probes of the kind https; the probe is http
    refused lb.probe: `lb.probe.command` goes with probes of the kind command; the probe is http
    refused lb.probe.command: the value `[1, 2]` is no list of 1 to 64 words; write it like ["redis-cli", "ping"]
    refused lb.frontend: the value `http` of `lb.port` is no port; ports are 1 to 65535
    "#);
}

#[test]
fn only_frontends_ask_for_something() {
    let check = |key: &str, expected: bool| assert_eq!(asks_for_frontend(key), expected, "{key}");
    check("lb.frontend", true);
    check("lb.80.frontend", true);
    check("lb.weight", false);
    check("lb.x.frontend", false);
    check("lb.", false);
    check("frontend", false);
}

proptest! {
    #[test]
    fn any_label_is_read_or_refused_in_bounded_printable_words(
        name in prop_oneof![
            any::<String>(),
            prop::sample::select(known::LB.to_vec()).prop_map(str::to_owned),
            "[0-9]{1,6}\\.(weight|frontend|probe|share)",
        ],
        value in prop_oneof![
            any::<String>(),
            "(tcp|udp)://[a-z0-9.\\[\\]:]{0,20}(,| )?",
            "[0-9]{0,25}(ms|s|m|h|%|\\.)?[0-9]{0,25}",
            "client/[0-9]{0,4},?[0-9]{0,4}",
            "\\[(\"[a-z]*\",?){0,3}\\]?",
            "[0-9]{0,3}-?[0-9]{0,3},?",
        ],
    ) {
        for probe in ["http", "https", "command", "tcp"] {
            let labels = map(&[("lb.probe", probe), (&format!("{PREFIX}{name}"), &value)]);
            let (read, mut errors, _) = LbLabels::read(labels.iter(), 100);
            errors.extend(read.wishes(80, "container `a`").1);
            errors.extend(read.frontends(&balancers(), |_| true).filter_map(Result::err));
            for error in errors {
                let message = error.key + &error.message;
                prop_assert!(message.chars().count() < 1000, "{message}");
                prop_assert!(!message.chars().any(char::is_control), "{message:?}");
            }
        }
    }
}
