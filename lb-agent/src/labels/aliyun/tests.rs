//! The labels beside `aliyun.lb`.

use std::{collections::BTreeMap, fmt::Write as _};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{LabelError, policy, routing};
use crate::{
    labels::known,
    model::{Origin, Policy, ProbeKind},
};

fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn tell(shown: &mut String, errors: impl IntoIterator<Item = LabelError>) {
    for error in errors {
        writeln!(shown, "refused {}: {}", error.key, error.message).unwrap();
    }
}

fn check(labels: &[(&str, &str)]) -> String {
    let labels = map(labels);
    let (wishes, errors) = policy::wishes(&labels, "container `web-1`");
    let (policy, _) = Policy::agreed(std::iter::once(&wishes));
    let mut shown = String::new();
    // What stands in for a probe that is wrong has tests of its own.
    for row in policy.rows().into_iter().filter(|row| matches!(row.origin, Origin::Label(_))) {
        writeln!(shown, "{} = {} ({})", row.name, row.value, row.origin).unwrap();
    }
    tell(&mut shown, errors);
    tell(&mut shown, policy::misspelt(policy::unknown(labels.keys())));
    shown
}

#[test]
fn the_labels_of_the_rest_server_are_understood() {
    let shown = check(&[
        ("aliyun.routing.port_80", "restserver.local"),
        ("aliyun.scale", "2"),
        ("aliyun.probe.url", "http://container:80"),
        ("aliyun.probe.initial_delay_seconds", "2"),
        ("aliyun.probe.timeout_seconds", "2"),
    ]);
    assert_snapshot!(shown, @"
    probe = http port 80 GET /, status 200-399 (container `web-1`, label `aliyun.probe.url`)
    probe_timeout_ms = 2 s (container `web-1`, label `aliyun.probe.timeout_seconds`)
    probe_initial_delay_ms = 2 s (container `web-1`, label `aliyun.probe.initial_delay_seconds`)
    scale = 2 (container `web-1`, label `aliyun.scale`)
    ");
}

#[test]
fn what_the_documents_show_is_understood() {
    let mut shown = String::new();
    for labels in [
        &[("aliyun.probe.url", "http://container/path?deep")][..],
        &[("aliyun.probe.url", "http://container?deep")],
        &[("aliyun.probe.url", "tcp://container:6379")],
        &[("aliyun.probe.cmd", "/check.sh && test -f /ready")],
        &[("aliyun.probe.timeout_seconds", "30")],
        &[("aliyun.rolling_updates", "true")],
        &[("aliyun.rolling_updates", "true"), ("aliyun.rolling_updates.parallelism", "2")],
        &[("aliyun.rolling_updates.parallelism", "2")],
        &[("aliyun.rolling_updates", "false")],
        &[("aliyun.depends", "db, cache,db")],
        &[("aliyun.routing.session_sticky", "true")],
        &[("aliyun.global", "true"), ("aliyun.log_store_a", "stdout"), ("aliyun.logs.a", "/x")],
        &[("aliyun.of.another.version", "true")],
    ] {
        writeln!(shown, "{labels:?}").unwrap();
        for line in check(labels).lines() {
            writeln!(shown, "  {line}").unwrap();
        }
    }
    assert_snapshot!(shown, @r#"
    [("aliyun.probe.url", "http://container/path?deep")]
      probe = http port 80 GET /path?deep, status 200-399 (container `web-1`, label `aliyun.probe.url`)
    [("aliyun.probe.url", "http://container?deep")]
      probe = http port 80 GET /?deep, status 200-399 (container `web-1`, label `aliyun.probe.url`)
    [("aliyun.probe.url", "tcp://container:6379")]
      probe = tcp port 6379 (container `web-1`, label `aliyun.probe.url`)
    [("aliyun.probe.cmd", "/check.sh && test -f /ready")]
      probe = command ["/bin/sh", "-c", "/check.sh && test -f /ready"] (container `web-1`, label `aliyun.probe.cmd`)
    [("aliyun.probe.timeout_seconds", "30")]
    [("aliyun.rolling_updates", "true")]
      rolling_updates = 1 (container `web-1`, label `aliyun.rolling_updates`)
    [("aliyun.rolling_updates", "true"), ("aliyun.rolling_updates.parallelism", "2")]
      rolling_updates = 2 (container `web-1`, label `aliyun.rolling_updates.parallelism`)
    [("aliyun.rolling_updates.parallelism", "2")]
    [("aliyun.rolling_updates", "false")]
    [("aliyun.depends", "db, cache,db")]
      depends = db,cache,db (container `web-1`, label `aliyun.depends`)
    [("aliyun.routing.session_sticky", "true")]
      affinity = client/32,64 (container `web-1`, label `aliyun.routing.session_sticky`)
    [("aliyun.global", "true"), ("aliyun.log_store_a", "stdout"), ("aliyun.logs.a", "/x")]
    [("aliyun.of.another.version", "true")]
    "#);
}

#[test]
fn what_is_wrong_is_told_exactly() {
    let cases: Vec<String> = [
        ("aliyun.probe.url", ""),
        ("aliyun.probe.url", "container:80"),
        ("aliyun.probe.url", "http://example.com/"),
        ("aliyun.probe.url", "http://container.evil.example:80/"),
        ("aliyun.probe.url", "http://user@container:80/"),
        ("aliyun.probe.url", "http://169.254.169.254/latest"),
        ("aliyun.probe.url", "http://container:0/"),
        ("aliyun.probe.url", "http://container:80/a b"),
        ("aliyun.probe.url", "https://container/"),
        ("aliyun.probe.url", "tcp://container"),
        ("aliyun.probe.url", "tcp://container:80/path"),
        ("aliyun.probe.cmd", ""),
        ("aliyun.scale", "two"),
        ("aliyun.depends", "db,,cache"),
        ("aliyun.rolling_updates", "yes"),
        ("aliyun.routing.session_sticky", "1"),
        ("aliyun.probe.ulr", "http://container"),
        ("aliyun.routing_port_80", "restserver.local"),
    ]
    .iter()
    .map(|case| check(&[*case]))
    .collect();
    let mut shown = cases.concat();
    shown += &check(&[("aliyun.probe.url", "tcp://container:1"), ("aliyun.probe.cmd", "true")]);
    shown += &check(&[
        ("aliyun.probe.cmd", "true"),
        ("aliyun.probe.timeout_seconds", "0"),
        ("aliyun.probe.initial_delay_seconds", "2s"),
    ]);
    shown += &check(&[
        ("aliyun.rolling_updates", "true"),
        ("aliyun.rolling_updates.parallelism", "all"),
    ]);
    assert_snapshot!(shown, @r#"
    refused aliyun.probe.url: the value `` has no scheme; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `container:80` has no scheme; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `http://example.com/` would probe `example.com`; the only host that can be probed is `container`, the container itself; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `http://container.evil.example:80/` would probe `container.evil.example`; the only host that can be probed is `container`, the container itself; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `http://user@container:80/` would probe `user@container`; the only host that can be probed is `container`, the container itself; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `http://169.254.169.254/latest` would probe `169.254.169.254`; the only host that can be probed is `container`, the container itself; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `http://container:0/` has the port `0`, which is no port; ports are 1 to 65535
    refused aliyun.probe.url: the value `http://container:80/a b` has the path `/a b`, which is no path; write it like /health, and escape what is no ASCII as %XX
    refused aliyun.probe.url: the value `https://container/` has the scheme `https`, which is neither http nor tcp; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `tcp://container` has no port; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.url: the value `tcp://container:80/path` has a path, which TCP has not; write it like http://container:8080/health or tcp://container:6379
    refused aliyun.probe.cmd: the value `` is no command of 1 to 4096 bytes
    refused aliyun.scale: the value `two` is no number from 0 to 65536
    refused aliyun.depends: the value `db,,cache` is no list of 1 to 64 services; write it like db,cache
    refused aliyun.rolling_updates: the value `yes` is neither true nor false
    refused aliyun.routing.session_sticky: the value `1` is neither true nor false
    refused aliyun.probe.ulr: there is no such label; did you mean `aliyun.probe.url`?
    refused aliyun.routing_port_80: there is no such label; did you mean `aliyun.routing.port_80`?
    probe = tcp port 1 (container `web-1`, label `aliyun.probe.url`)
    refused aliyun.probe.cmd: `aliyun.probe.url` stands beside it, and only one of the two can be; `aliyun.probe.url` counts, so remove one
    probe = command ["/bin/sh", "-c", "true"] (container `web-1`, label `aliyun.probe.cmd`)
    refused aliyun.probe.timeout_seconds: the value `0` is no number from 1 to 60
    refused aliyun.probe.initial_delay_seconds: the value `2s` is no number from 0 to 86400
    rolling_updates = 1 (container `web-1`, label `aliyun.rolling_updates`)
    refused aliyun.rolling_updates.parallelism: the value `all` is no number from 1 to 65536; 1 counts
    "#);
}

fn check_routing(value: &str) -> String {
    let labels = map(&[("aliyun.routing.port_80", value)]);
    let pool = "198.18.0.0/24".parse().ok();
    let mut shown = String::new();
    for parsed in routing::parse(&labels, pool) {
        match parsed {
            Ok(label) => {
                writeln!(shown, "{} -> {}", label.name.name, label.container_port).unwrap();
            }
            Err(error) => writeln!(shown, "{}", error.message).unwrap(),
        }
    }
    shown
}

#[test]
fn names_get_an_address_or_need_the_gateway() {
    let values = [
        "restserver.local",
        "http://RestServer.Local/",
        "a.local;b.local ; c.example.com;",
        "restserver.local:/api",
        "restserver.local/api",
        "www.example.com",
        "http://www.example.com:/context",
        "prefix",
        "local",
        "https://restserver.local",
        "*.example.com",
        "*.local",
        "a*b.local",
        "",
        ";",
        ".local",
        "rest server.local",
        "größe.local",
    ];
    assert_snapshot!(values.map(check_routing).concat(), @"
    restserver.local -> 80
    restserver.local -> 80
    a.local -> 80
    b.local -> 80
    the value `c.example.com` needs the gateway: `c.example.com` is told from others by the Host header of each request, which only a proxy for HTTP sees; a name that ends in .local gets an address of its own
    the value `restserver.local:/api` needs the gateway: requests for `restserver.local` are told apart by their path `/api`, which only a proxy for HTTP sees
    the value `restserver.local/api` needs the gateway: requests for `restserver.local` are told apart by their path `/api`, which only a proxy for HTTP sees
    the value `www.example.com` needs the gateway: `www.example.com` is told from others by the Host header of each request, which only a proxy for HTTP sees; a name that ends in .local gets an address of its own
    the value `http://www.example.com:/context` needs the gateway: requests for `www.example.com` are told apart by their path `/context`, which only a proxy for HTTP sees
    the value `prefix` needs the gateway: `prefix` is told from others by the Host header of each request, which only a proxy for HTTP sees; a name that ends in .local gets an address of its own
    the value `local` needs the gateway: `local` is told from others by the Host header of each request, which only a proxy for HTTP sees; a name that ends in .local gets an address of its own
    the value `https://restserver.local` needs the gateway: the scheme `https` is not served at an address of its own; only plain names that end in .local are
    the value `*.example.com` needs the gateway: `*.example.com` is told from others by the Host header of each request, which only a proxy for HTTP sees; a name that ends in .local gets an address of its own
    the value `*.local` needs the gateway: `*.local` is many names, told apart by the Host header of each request; name each by itself, and it gets an address of its own
    the value `a*b.local` needs the gateway: `a*b.local` is many names, told apart by the Host header of each request; name each by itself, and it gets an address of its own
    the value is empty; write it like restserver.local
    the value is empty; write it like restserver.local
    the value `.local` names no domain; write letters, digits, `-` and `.`, like restserver.local
    the value `rest server.local` names no domain; write letters, digits, `-` and `.`, like restserver.local
    the value `größe.local` names no domain; write letters, digits, `-` and `.`, like restserver.local
    ");
    let long = format!("{}.local", "a".repeat(130));
    assert!(check_routing(&long).contains("more than 128 characters"));
}

#[test]
fn keys_and_the_missing_pool_are_told() {
    let mut shown = String::new();
    for key in ["aliyun.routing.port_", "aliyun.routing.port_x", "aliyun.routing.port_80:a.local"] {
        let labels = map(&[(key, "a.local")]);
        tell(&mut shown, routing::parse(&labels, None).filter_map(Result::err));
    }
    let labels = map(&[("aliyun.routing.port_80", "a.local")]);
    tell(&mut shown, routing::parse(&labels, None).filter_map(Result::err));
    assert_snapshot!(shown, @r#"
    refused aliyun.routing.port_: the key has no container port; write it like aliyun.routing.port_6379: restserver.local
    refused aliyun.routing.port_x: the key has the container port `x`, which is no port number; write it like aliyun.routing.port_6379: restserver.local
    refused aliyun.routing.port_80:a.local: key and value run together, because a space is missing after the colon or the list form has a colon instead of `=`; write `aliyun.routing.port_80: a.local` in a map, or `- aliyun.routing.port_80=a.local` in a list
    refused aliyun.routing.port_80: `a.local` needs an address of its own, and the config has no `routing_pool`; add one, like routing_pool = "198.18.0.0/24"
    "#);
}

proptest! {
    /// Whatever is written before or after it, only the container itself is probed.
    #[test]
    fn no_other_host_is_ever_probed(
        url in prop_oneof![
            "(http|tcp)://[ -~]{0,40}",
            "(http|tcp)://([a-z]{1,9}[@:/?#.\\\\]){0,3}container([@:/?#.\\\\ -]?[a-z0-9.:]{0,12}){0,3}",
            "(http|tcp)://\\[?(169\\.254\\.169\\.254|::1|0|127\\.1|localhost)\\]?(:[0-9]{1,6})?/?",
        ],
    ) {
        let labels = map(&[("aliyun.probe.url", &url)]);
        let (wishes, errors) = policy::wishes(&labels, "container `a`");
        let probe = wishes.probe.expect("one that was meant, or what stands in for it");
        let is_meant = !matches!(probe.origin, Origin::Instead(_));
        prop_assert_eq!(is_meant, errors.is_empty());
        if is_meant {
            let (_, rest) = url.trim().split_once("://").expect("a scheme");
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let port = authority.strip_prefix("container").expect("the container");
            prop_assert!(
                port.is_empty() || port.strip_prefix(':').is_some_and(|it| it.parse::<u16>().is_ok()),
                "{url}"
            );
        } else {
            // The backend's own port, at its own address.
            prop_assert_eq!(probe.value, Some(ProbeKind::Tcp { port: None }));
        }
    }

    #[test]
    fn any_label_is_read_or_refused_in_bounded_printable_words(
        key in prop_oneof![
            any::<String>().prop_map(|key| format!("aliyun.{key}")),
            prop::sample::select(known::ALIYUN.to_vec())
                .prop_map(|known| known.pattern.replace("$PORT", "80")),
        ],
        value in prop_oneof![
            any::<String>(),
            "(http|tcp)://(container)?:?[0-9]{0,6}/?\\PC{0,200}",
            "([a-z]{0,70}\\.(local|com)[:/;]?){0,4}",
        ],
    ) {
        let labels = map(&[(&key, &value)]);
        let mut errors = policy::wishes(&labels, "container `a`").1;
        errors.extend(policy::misspelt(policy::unknown(labels.keys())));
        let pool = "198.18.0.0/24".parse().ok();
        errors.extend(routing::parse(&labels, pool).filter_map(Result::err));
        for error in errors {
            let message = error.key + &error.message;
            prop_assert!(message.chars().count() < 1500, "{message}");
            prop_assert!(!message.chars().any(char::is_control), "{message:?}");
        }
    }
}
