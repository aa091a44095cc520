//! Names and checks as Registrator has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{Metadata, PREFIX};
use crate::{
    labels::{ContainerPort, known},
    model::{Policy, Protocol},
};

/// `KEY=value` for each variable; a label where the key begins with `label:`.
fn maps(lines: &[&str]) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut maps = (BTreeMap::new(), BTreeMap::new());
    for line in lines {
        let (key, value) = line.split_once('=').expect("KEY=value");
        match key.strip_prefix("label:") {
            Some(key) => maps.1.insert(key.to_owned(), value.to_owned()),
            None => maps.0.insert(key.to_owned(), value.to_owned()),
        };
    }
    maps
}

/// `8080` is exposed, `+8080` published; `53u` is of UDP.
fn ports(text: &str) -> BTreeSet<ContainerPort> {
    let port = |text: &str| ContainerPort {
        port: text.trim_matches(['+', 'u']).parse().expect("a port"),
        protocol: if text.ends_with('u') { Protocol::Udp } else { Protocol::Tcp },
        is_published: text.starts_with('+'),
    };
    text.split_whitespace().map(port).collect()
}

/// Names of the ports, and what is wished for the first of them.
fn check(container_ports: &str, lines: &[&str]) -> String {
    let (environment, labels) = maps(lines);
    let metadata = Metadata::read(&environment, &labels);
    let named: Vec<_> = metadata.ports(&ports(container_ports), Some("test-server")).collect();
    let mut shown = String::new();
    for one in &named {
        let protocol = one.protocol.map_or("any".to_owned(), |protocol| protocol.to_string());
        writeln!(shown, "{}/{protocol} {} by {}", one.port, one.name, one.source).unwrap();
    }
    for port in named.iter().map(|one| one.port).collect::<BTreeSet<_>>() {
        let (wishes, errors) = metadata.wishes(port, "container `a`");
        let (policy, _) = Policy::agreed(std::iter::once(&wishes));
        for row in policy.rows().into_iter().filter(|row| row.origin.written().is_some()) {
            writeln!(shown, "  {port} {} = {} ({})", row.name, row.value, row.origin).unwrap();
        }
        for error in errors {
            writeln!(shown, "  {port} refused {}: {}", error.key, error.message).unwrap();
        }
    }
    for error in metadata.misspelt(100) {
        writeln!(shown, "  refused {}: {}", error.key, error.message).unwrap();
    }
    shown
}

#[test]
fn the_environment_of_the_compose_files_is_understood() {
    let shown = check(
        "+8080 +25000",
        &[
            "SERVICE_8080_NAME=test-server-http-service",
            "SERVICE_8080_TAGS=test-server-http-service-01",
            "SERVICE_8080_CHECK_INTERVAL=10s",
            "SERVICE_8080_CHECK_TIMEOUT=2s",
            "SERVICE_8080_CHECK_HTTP=/health",
            "SERVICE_25000_NAME=test-server-thrift-service",
            "SERVICE_25000_TAGS=test-server-thrift-service-01",
            "SERVICE_25000_CHECK_INTERVAL=10s",
            "SERVICE_25000_CHECK_TIMEOUT=2s",
            "SERVICE_25000_CHECK_TCP=/",
        ],
    );
    assert_snapshot!(shown, @"
    8080/tcp test-server-http-service by variable `SERVICE_8080_NAME`
    25000/tcp test-server-thrift-service by variable `SERVICE_25000_NAME`
      8080 probe = http GET /health, status 200-399 (container `a`, variable `SERVICE_8080_CHECK_HTTP`)
      8080 probe_interval_ms = 10 s (container `a`, variable `SERVICE_8080_CHECK_INTERVAL`)
      8080 probe_timeout_ms = 2 s (container `a`, variable `SERVICE_8080_CHECK_TIMEOUT`)
      25000 probe = tcp (container `a`, variable `SERVICE_25000_CHECK_TCP`)
      25000 probe_interval_ms = 10 s (container `a`, variable `SERVICE_25000_CHECK_INTERVAL`)
      25000 probe_timeout_ms = 2 s (container `a`, variable `SERVICE_25000_CHECK_TIMEOUT`)
    ");
}

#[test]
fn ports_are_named_as_in_the_original() {
    let mut shown = String::new();
    for (container_ports, lines) in [
        ("", &[][..]),
        ("80", &[]),
        ("80 443", &[]),
        ("+80 443", &[]),
        ("80", &["SERVICE_NAME=web"]),
        ("80 443", &["SERVICE_NAME=web"]),
        ("80 443", &["SERVICE_NAME=web", "SERVICE_443_NAME=tls"]),
        ("80", &["SERVICE_NAME=web", "label:SERVICE_NAME=label"]),
        ("80", &["SERVICE_80_NAME=web", "label:SERVICE_NAME=label"]),
        ("80", &["SERVICE_9000_NAME=unexposed"]),
        ("80", &["SERVICE_NAME=", "SERVICE_80_NAME="]),
        ("+53 +53u", &["SERVICE_NAME=dns"]),
        ("80", &["SERVICE_NAME=web", "SERVICE_IGNORE=false"]),
        ("80 443", &["SERVICE_NAME=web", "SERVICE_443_IGNORE=1"]),
        ("80", &["SERVICE_IGNORE=", "SERVICE_NAME=web"]),
        ("80", &["SERVICE_70000_NAME=no-port", "SERVICE_x_NAME=no-port"]),
    ] {
        writeln!(shown, "{container_ports} {lines:?}").unwrap();
        for line in check(container_ports, lines).lines() {
            writeln!(shown, "  {line}").unwrap();
        }
    }
    assert_snapshot!(shown, @r#"
     []
    80 []
      80/tcp test-server by its image
    80 443 []
      80/tcp test-server-80 by its image
      443/tcp test-server-443 by its image
    +80 443 []
      80/tcp test-server by its image
    80 ["SERVICE_NAME=web"]
      80/tcp web by variable `SERVICE_NAME`
    80 443 ["SERVICE_NAME=web"]
      80/tcp web-80 by variable `SERVICE_NAME`
      443/tcp web-443 by variable `SERVICE_NAME`
    80 443 ["SERVICE_NAME=web", "SERVICE_443_NAME=tls"]
      80/tcp web-80 by variable `SERVICE_NAME`
      443/tcp tls by variable `SERVICE_443_NAME`
    80 ["SERVICE_NAME=web", "label:SERVICE_NAME=label"]
      80/tcp label by label `SERVICE_NAME`
    80 ["SERVICE_80_NAME=web", "label:SERVICE_NAME=label"]
      80/tcp web by variable `SERVICE_80_NAME`
    80 ["SERVICE_9000_NAME=unexposed"]
      80/tcp test-server by its image
      9000/any unexposed by variable `SERVICE_9000_NAME`
    80 ["SERVICE_NAME=", "SERVICE_80_NAME="]
      80/tcp test-server by its image
    +53 +53u ["SERVICE_NAME=dns"]
      53/tcp dns-53 by variable `SERVICE_NAME`
      53/udp dns-53 by variable `SERVICE_NAME`
    80 ["SERVICE_NAME=web", "SERVICE_IGNORE=false"]
    80 443 ["SERVICE_NAME=web", "SERVICE_443_IGNORE=1"]
      80/tcp web-80 by variable `SERVICE_NAME`
    80 ["SERVICE_IGNORE=", "SERVICE_NAME=web"]
      80/tcp web by variable `SERVICE_NAME`
    80 ["SERVICE_70000_NAME=no-port", "SERVICE_x_NAME=no-port"]
      80/tcp test-server by its image
    "#);
}

/// Variables about checks, one container each.
const CHECKS: [&[&str]; 17] = [
    &["SERVICE_CHECK_HTTP=health", "SERVICE_CHECK_HTTP_METHOD=HEAD"],
    &["SERVICE_CHECK_HTTPS=/", "SERVICE_CHECK_TLS_SKIP_VERIFY=true"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INTERVAL=1m30s"],
    &["SERVICE_CHECK_CMD=/check_redis.py --port 6379"],
    &["SERVICE_CHECK_SCRIPT=curl --silent --fail http://$SERVICE_IP:${SERVICE_PORT}/"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_HTTP=/first"],
    &["SERVICE_CHECK_TCP=true", "label:SERVICE_80_CHECK_INTERVAL=500ms"],
    &[
        "SERVICE_CHECK_TCP=1",
        "SERVICE_CHECK_INITIAL_STATUS=passing",
        "SERVICE_CHECK_DEREGISTER_AFTER=1m",
    ],
    &["SERVICE_CHECK_INTERVAL=15s"],
    &["SERVICE_CHECK_TTL=30s"],
    &["SERVICE_CHECK_GRPC=true"],
    &["SERVICE_CHECK_HTTP=/a b"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INTERVAL=often"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_TIMEOUT=1us"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_TIMEOUT=240h"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INITIAL_STATUS=failed"],
    &["SERVICE_CHECK_TCP=true", "SERVICE_80_CHECK_INTERVALL=5s", "SERVICE_REGION=eu"],
];

#[test]
fn checks_become_probes() {
    let mut shown = String::new();
    for lines in CHECKS {
        writeln!(shown, "{lines:?}").unwrap();
        shown += check("80", lines).split_once('\n').map_or("", |(_, rest)| rest);
    }
    assert_snapshot!(shown, @r#"
    ["SERVICE_CHECK_HTTP=health", "SERVICE_CHECK_HTTP_METHOD=HEAD"]
      80 probe = http HEAD /health, status 200-399 (container `a`, variable `SERVICE_CHECK_HTTP`)
    ["SERVICE_CHECK_HTTPS=/", "SERVICE_CHECK_TLS_SKIP_VERIFY=true"]
      80 probe = https GET /, status 200-399 (container `a`, variable `SERVICE_CHECK_HTTPS`)
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INTERVAL=1m30s"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 probe_interval_ms = 90 s (container `a`, variable `SERVICE_CHECK_INTERVAL`)
    ["SERVICE_CHECK_CMD=/check_redis.py --port 6379"]
      80 probe = command ["/bin/sh", "-c", "/check_redis.py --port 6379"] (container `a`, variable `SERVICE_CHECK_CMD`)
    ["SERVICE_CHECK_SCRIPT=curl --silent --fail http://$SERVICE_IP:${SERVICE_PORT}/"]
      80 probe = command ["/bin/sh", "-c", "curl --silent --fail http://127.0.0.1:80/"] (container `a`, variable `SERVICE_CHECK_SCRIPT`)
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_HTTP=/first"]
      80 probe = http GET /first, status 200-399 (container `a`, variable `SERVICE_CHECK_HTTP`)
    ["SERVICE_CHECK_TCP=true", "label:SERVICE_80_CHECK_INTERVAL=500ms"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 probe_interval_ms = 500 ms (container `a`, label `SERVICE_80_CHECK_INTERVAL`)
    ["SERVICE_CHECK_TCP=1", "SERVICE_CHECK_INITIAL_STATUS=passing", "SERVICE_CHECK_DEREGISTER_AFTER=1m"]
      80 unhealthy_grace_seconds = 60 s (container `a`, variable `SERVICE_CHECK_DEREGISTER_AFTER`)
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 probe_initial = healthy (container `a`, variable `SERVICE_CHECK_INITIAL_STATUS`)
    ["SERVICE_CHECK_INTERVAL=15s"]
    ["SERVICE_CHECK_TTL=30s"]
      80 probe = tcp (container `a`, instead of `SERVICE_CHECK_TTL`, which is not understood)
      80 refused SERVICE_CHECK_TTL: checks of this kind are not supported; use CHECK_HTTP, CHECK_HTTPS, CHECK_TCP or CHECK_CMD
    ["SERVICE_CHECK_GRPC=true"]
      80 probe = tcp (container `a`, instead of `SERVICE_CHECK_GRPC`, which is not understood)
      80 refused SERVICE_CHECK_GRPC: checks of this kind are not supported; use CHECK_HTTP, CHECK_HTTPS, CHECK_TCP or CHECK_CMD
    ["SERVICE_CHECK_HTTP=/a b"]
      80 probe = tcp (container `a`, instead of `SERVICE_CHECK_HTTP`, which is not understood)
      80 refused SERVICE_CHECK_HTTP: the value `/a b` is no path; write it like /health, and escape what is no ASCII as %XX
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INTERVAL=often"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 refused SERVICE_CHECK_INTERVAL: the value `often` is no duration; write it like 30s, 500ms or 1m30s
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_TIMEOUT=1us"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 refused SERVICE_CHECK_TIMEOUT: the value `1us` is less than 50 ms
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_TIMEOUT=240h"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 refused SERVICE_CHECK_TIMEOUT: the value `240h` is more than 60 s
    ["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INITIAL_STATUS=failed"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      80 refused SERVICE_CHECK_INITIAL_STATUS: the value `failed` is none of passing, warning, critical
    ["SERVICE_CHECK_TCP=true", "SERVICE_80_CHECK_INTERVALL=5s", "SERVICE_REGION=eu"]
      80 probe = tcp (container `a`, variable `SERVICE_CHECK_TCP`)
      refused SERVICE_80_CHECK_INTERVALL: there is no such check; did you mean `SERVICE_80_CHECK_INTERVAL`?
    "#);
}

proptest! {
    #[test]
    fn any_variable_is_read_or_refused_in_bounded_printable_words(
        lines in prop::collection::btree_map(
            prop_oneof![
                any::<String>(),
                prop::sample::select(known::REGISTRATOR.to_vec()).prop_map(|it| it.pattern.to_owned()),
                "[0-9]{1,6}_(NAME|IGNORE|CHECK_[A-Z]{0,9})",
            ].prop_map(|name| format!("{PREFIX}{name}")),
            any::<String>(),
            0..6,
        ),
        is_label in any::<bool>(),
    ) {
        let none = BTreeMap::new();
        let (environment, labels) = if is_label { (&none, &lines) } else { (&lines, &none) };
        let metadata = Metadata::read(environment, labels);
        let mut errors: Vec<_> = metadata.misspelt(10).collect();
        for one in metadata.ports(&ports("80 +443 +53u"), Some("image")) {
            prop_assert!(one.name.chars().count() <= 128);
            errors.extend(metadata.wishes(one.port, "container `a`").1);
        }
        for error in errors {
            let message = error.key + &error.message;
            prop_assert!(message.chars().count() < 1000, "{message}");
            prop_assert!(!message.chars().any(char::is_control), "{message:?}");
        }
    }
}
