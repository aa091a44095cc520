//! Which probe a container has where its labels are wrong, or leave something open.

use std::fmt::Write as _;

use insta::assert_snapshot;

use super::{
    super::wishes::{ServiceAt, spare_datagrams},
    check_with, composed,
};
use crate::model::{Origin, ProbeKind, Setting, Wishes};

const BALANCER: &str = "[[balancer]]\nname = 'slb'\nvip = '192.0.2.10'\n";
const REGISTRATOR: &str = "[[registrator]]\nname = 'web'\nfrontend = 'tcp://192.0.2.11:80'\n";

/// What becomes of a container with a frontend and these labels and variables.
fn check(config: &str, frontend: &str, labels: &[&str]) -> String {
    let pairs = labels.iter().map(|line| line.split_once('=').expect("KEY=value"));
    let (environment, own): (Vec<_>, Vec<_>) =
        pairs.partition(|(key, _)| key.starts_with("SERVICE_"));
    let own: Vec<_> = own.into_iter().chain([("lb.80.frontend", frontend)]).collect();
    let container = composed("web", "web", &own, &environment, &[80]);
    let shown = check_with(&format!("{config}{BALANCER}"), &[container]);
    let mut lines = String::new();
    for line in shown.lines().filter(|line| line.contains("  probe") || line.starts_with("refused"))
    {
        writeln!(lines, "{}", line.trim()).unwrap();
    }
    lines
}

#[test]
fn a_probe_that_is_not_understood_is_one_of_tcp() {
    let shown: Vec<String> = [
        "lb.probe=htttp",
        "lb.probe.path=/health",
        "aliyun.probe.url=http://elsewhere/health",
        "aliyun.probe.cmd=",
    ]
    .map(|label| check("", "tcp://slb:80", &[label]))
    .into();
    assert_snapshot!(shown.join("\n"), @"
    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker

    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    refused: container `demo-web-1` lb.probe: is missing, and other labels say how to probe; add it with one of tcp, http, https, command, docker
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended

    probe = tcp (container `demo-web-1`, instead of `aliyun.probe.url`, which is not understood)
    refused: container `demo-web-1` aliyun.probe.url: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` aliyun.probe.url: the value `http://elsewhere/health` would probe `elsewhere`; the only host that can be probed is `container`, the container itself; write it like http://container:8080/health or tcp://container:6379

    probe = tcp (container `demo-web-1`, instead of `aliyun.probe.cmd`, which is not understood)
    refused: container `demo-web-1` aliyun.probe.cmd: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` aliyun.probe.cmd: the value `` is no command of 1 to 4096 bytes
    ");
    assert_snapshot!(check("", "tcp://slb:80", &["lb.probe=http", "lb.probe.status=abc"]), @"
    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` lb.probe.status: the value `abc` is no list of statuses; write it like 200-399 or 200,204
    ");
    let check_of_theirs = &["SERVICE_NAME=web", "SERVICE_CHECK_TTL=30s"];
    assert_snapshot!(check(REGISTRATOR, "tcp://slb:81", check_of_theirs), @"
    probe = tcp (container `demo-web-1`, instead of `SERVICE_CHECK_TTL`, which is not understood)
    probe_interval_ms = 10 s (default of Registrator)
    refused: container `demo-web-1` SERVICE_CHECK_TTL: checks of this kind are not supported; use CHECK_HTTP, CHECK_HTTPS, CHECK_TCP or CHECK_CMD
    refused: container `demo-web-1` SERVICE_CHECK_TTL: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    ");
}

#[test]
fn a_probe_by_a_name_that_is_not_known_is_one_of_tcp() {
    let probed = |config: &str, label: &str| {
        let own = [label, "SERVICE_NAME=web"];
        let shown = check(config, "tcp://slb:80", &own);
        let mut probes: Vec<_> = shown.lines().filter(|it| it.starts_with("probe =")).collect();
        probes.dedup();
        probes.join("; ")
    };
    for (label, is_probed) in [
        ("lb.prob=http", true),
        ("lb.80.porbe=http", true),
        ("lb.81.prob=http", false),
        ("lb.probe.pth=/health", true),
        ("lb.probe.url=/health", true),
        ("lb.probe.intervall=3s", false),
        ("lb.probe.interval=3s", false),
        ("lb.wieght=3", false),
        ("aliyun.probe.ulr=http://container/", true),
        ("aliyun.prob.cmd=true", true),
        ("aliyun.probe.timeout=3", false),
        ("SERVICE_CHECK_HTPT=/health", true),
        ("SERVICE_80_CHEK_TCP=true", true),
        ("SERVICE_81_CHECK_HTPT=/health", false),
        ("SERVICE_CHECK_HTPT=", false),
        ("SERVICE_CHECK_INTERVALL=3s", false),
    ] {
        let (key, _) = label.split_once('=').expect("a key");
        let expected = format!(
            "probe = tcp (container `demo-web-1`, instead of `{key}`, which is not understood)"
        );
        let expected = if is_probed { expected } else { String::new() };
        assert_eq!(probed(REGISTRATOR, label), expected, "{label}");
        let defaults = format!("[defaults.probe]\nkind = 'http'\npath = '/d'\n{REGISTRATOR}");
        let expected = "probe = http GET /d, status 200-399 ([defaults] in lb.toml, `probe.kind`)";
        assert_eq!(probed(&defaults, label), expected, "{label}");
    }
    assert_snapshot!(check("", "tcp://slb:80", &["lb.prob=http"]), @"
    probe = tcp (container `demo-web-1`, instead of `lb.prob`, which is not understood)
    refused: container `demo-web-1` lb.prob: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` lb.prob: there is no such label; did you mean `lb.probe`?
    ");
}

#[test]
fn datagrams_are_not_probed_by_tcp() {
    assert_snapshot!(check("", "udp://slb:53", &["lb.probe=htttp"]), @"
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is of UDP and served without a probe, until the labels are mended
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
    let both = check("", "udp://slb:53,tcp://slb:53", &["lb.probe=htttp"]);
    assert_snapshot!(both, @"
    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
}

/// Nobody need listen by TCP at a port of UDP.
#[test]
fn defaults_do_not_connect_to_ports_of_datagrams() {
    let with = |kind: &str, frontend: &str| {
        check(&format!("[defaults.probe]\nkind = '{kind}'\n"), frontend, &[])
    };
    for kind in ["tcp", "http", "https"] {
        let none = "probe = none (no frontend is of TCP: [defaults] in lb.toml, `probe.kind`)\n";
        assert_eq!(with(kind, "udp://slb:53"), none, "{kind}");
        let by_tcp = with(kind, "tcp://slb:53");
        assert!(by_tcp.starts_with(&format!("probe = {kind}")), "{by_tcp}");
        assert_eq!(with(kind, "udp://slb:53,tcp://slb:53"), by_tcp.repeat(2), "{kind}");
    }
    assert_snapshot!(with("docker", "udp://slb:53"), @"probe = docker ([defaults] in lb.toml, `probe.kind`)");
    let with_port = with("tcp'\nport = 8080 # '", "udp://slb:53");
    assert_snapshot!(with_port, @"probe = tcp port 8080 ([defaults] in lb.toml, `probe.kind`)");
    // Whoever asks for this port is given it.
    let defaults = "[defaults.probe]\nkind = 'http'\n";
    let asked = check(defaults, "udp://slb:53", &["lb.80.probe=tcp"]);
    assert_snapshot!(asked, @"probe = tcp (container `demo-web-1`, label `lb.80.probe`)");
    // What stands in is not made of what does not apply.
    assert_snapshot!(check(defaults, "udp://slb:53", &["lb.probe=htttp"]), @"
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is of UDP and served without a probe, until the labels are mended
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
}

/// Who asks for a probe of the whole container means the ports at which somebody listens.
#[test]
fn a_probe_of_the_container_is_one_of_its_ports_of_tcp() {
    let two = |labels: &[&str]| {
        let labels = [&["lb.9090.frontend=tcp://slb:90"], labels].concat();
        check("", "udp://slb:53", &labels)
    };
    for kind in ["tcp", "http", "https"] {
        let said = format!("lb.probe={kind}");
        let of_whole = "container `demo-web-1`, label `lb.probe`";
        let none = format!("probe = none (no frontend is of TCP: {of_whole})\n");
        let shown = two(&[&said]);
        assert!(shown.contains(&none) && !shown.contains("refused"), "{shown}");
        assert!(shown.contains(&format!("probe = {kind}")), "{shown}");
    }
    let mut shown = two(&["lb.probe=tcp", "lb.80.probe=tcp"]);
    writeln!(shown, "{}", two(&["lb.probe=tcp", "lb.probe.port=9090"])).unwrap();
    writeln!(shown, "{}", two(&["lb.probe=docker"])).unwrap();
    assert_snapshot!(shown, @"
    probe = tcp (container `demo-web-1`, label `lb.80.probe`)
    probe = tcp (container `demo-web-1`, label `lb.probe`)
    probe = tcp port 9090 (container `demo-web-1`, label `lb.probe`)
    probe = tcp port 9090 (container `demo-web-1`, label `lb.probe`)

    probe = docker (container `demo-web-1`, label `lb.probe`)
    probe = docker (container `demo-web-1`, label `lb.probe`)
    ");
    // Where nothing would be left of it.
    assert_snapshot!(check("", "udp://slb:53", &["lb.probe=http"]), @"refused: container `demo-web-1` lb.probe: the probe connects to the port of the traffic, and no frontend of the container is of TCP, so nobody may be listening there and the port 80 is not probed so; where somebody listens, ask for it by `lb.80.probe`, or by `lb.probe` with another port in `lb.probe.port`");
    let by_name = |key: &str| {
        let probe =
            Setting::new(Some(ProbeKind::Tcp { port: None }), Origin::environment("a", key));
        let mut wishes = Wishes { probe: Some(probe), ..Wishes::default() };
        let at =
            ServiceAt { port: 80, has_tcp: false, container_has_tcp: false, is_registered: true };
        let refused = spare_datagrams(&mut wishes, at);
        assert_eq!(wishes.probe.is_none(), refused.is_some(), "{key}");
        refused.map(|error| error.message.contains("by `SERVICE_80_CHECK_TCP`, or by `lb.probe`"))
    };
    assert_eq!(by_name("SERVICE_CHECK_TCP"), Some(true));
    assert_eq!(by_name("SERVICE_80_CHECK_TCP"), None);
    // Another schema may know better.
    let docker = "[defaults.probe]\nkind = 'docker'\n";
    let shown = check(docker, "udp://slb:53", &["lb.probe=tcp"]);
    assert!(shown.starts_with("probe = docker ([defaults] in lb.toml"), "{shown}");
    assert!(shown.contains("refused: container `demo-web-1` lb.probe: "), "{shown}");
}

#[test]
fn who_wants_no_probe_has_none() {
    assert_eq!(check("", "tcp://slb:80", &[]), "");
    assert_snapshot!(check("", "tcp://slb:80", &["lb.probe=none", "lb.probe.status=abc"]), @"
    probe = none (container `demo-web-1`, label `lb.probe`)
    refused: container `demo-web-1` lb.probe.status: the value `abc` is no list of statuses; write it like 200-399 or 200,204
    ");
}

#[test]
fn what_stands_in_gives_way_to_a_probe() {
    let wrong = "lb.probe=htttp";
    assert_snapshot!(check("", "tcp://slb:80", &[wrong, "aliyun.probe.url=http://container/a"]), @"
    probe = http port 80 GET /a, status 200-399 (container `demo-web-1`, label `aliyun.probe.url`)
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
    let defaults = "[defaults.probe]\nkind = 'http'\npath = '/d'\n";
    assert_snapshot!(check(defaults, "tcp://slb:80", &[wrong]), @"
    probe = http GET /d, status 200-399 ([defaults] in lb.toml, `probe.kind`)
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
    assert_snapshot!(check("[defaults.probe]\nkind = 'none'\n", "tcp://slb:80", &[wrong]), @"
    probe = tcp (container `demo-web-1`, instead of `lb.probe`, which is not understood)
    refused: container `demo-web-1` lb.probe: it asks for a probe, and for none that is known; the port 80 is probed by TCP instead, until the labels are mended
    refused: container `demo-web-1` lb.probe: the value `htttp` is none of none, tcp, http, https, command, docker
    ");
}

/// The ten seconds of the original are a default, behind the configuration.
#[test]
fn the_interval_of_registrator_is_a_default() {
    let names = ["SERVICE_NAME=web", "SERVICE_CHECK_TCP=/"];
    let defaults = format!("[defaults]\nprobe.interval_ms = 3000\n{REGISTRATOR}");
    let mut shown = check(REGISTRATOR, "tcp://slb:81", &names);
    writeln!(shown, "{}", check(&defaults, "tcp://slb:81", &names)).unwrap();
    let said = [&names[..], &["SERVICE_CHECK_INTERVAL=4s"]].concat();
    writeln!(shown, "{}", check(&defaults, "tcp://slb:81", &said)).unwrap();
    assert_snapshot!(shown, @"
    probe = tcp (container `demo-web-1`, variable `SERVICE_CHECK_TCP`)
    probe_interval_ms = 10 s (default of Registrator)
    probe_interval_ms = 3 s ([defaults] in lb.toml, `probe.interval_ms`)
    probe = tcp (container `demo-web-1`, variable `SERVICE_CHECK_TCP`)
    probe_interval_ms = 3 s ([defaults] in lb.toml, `probe.interval_ms`)

    probe_interval_ms = 3 s ([defaults] in lb.toml, `probe.interval_ms`)
    probe = tcp (container `demo-web-1`, variable `SERVICE_CHECK_TCP`)
    probe_interval_ms = 4 s (container `demo-web-1`, variable `SERVICE_CHECK_INTERVAL`)
    ");
}

#[test]
fn stickiness_is_about_names() {
    let config = format!("routing_pool = '198.18.0.0/24'\n{BALANCER}");
    let check = |labels: &[(&str, &str)]| {
        let sticky =
            [("aliyun.routing.session_sticky", "true"), ("lb.80.frontend", "tcp://slb:80")];
        let labels: Vec<_> = sticky.into_iter().chain(labels.iter().copied()).collect();
        let shown = check_with(&config, &[composed("web", "web", &labels, &[], &[80])]);
        shown.lines().filter(|line| line.contains("affinity")).count()
    };
    assert_eq!(check(&[]), 0);
    assert_eq!(check(&[("aliyun.routing.port_81", "a.local")]), 1);
    assert_eq!(check(&[("aliyun.routing.port_80", "a.local")]), 2);
}
