//! How services are balanced, and what labels may ask for, as the file has it.

use std::fmt::Write as _;

use insta::assert_snapshot;

use super::{super::Config, FULL, check, service};
use crate::model::{Origin, Policy, Wishes};

#[test]
fn every_setting_of_a_service_can_be_made() {
    let config = Config::parse(FULL, "lb.toml").unwrap();
    let (policy, _) = Policy::agreed(std::iter::once(&*config.services[0].wishes));
    let mut shown = String::new();
    for row in policy.rows() {
        writeln!(shown, "{} = {} ({})", row.name, row.value, row.origin).unwrap();
    }
    assert_snapshot!(shown, @r#"
    affinity = client/24,56 (service `web` in lb.toml, line 50, `affinity`)
    unreachable = drop (service `web` in lb.toml, line 50, `unreachable`)
    drain_seconds = 10 s ([defaults] in lb.toml, `drain_seconds`)
    unhealthy_grace_seconds = 20 s (service `web` in lb.toml, line 50, `unhealthy_grace_seconds`)
    panic_percent = 30 % (service `web` in lb.toml, line 50, `panic_percent`)
    passive = false (service `web` in lb.toml, line 50, `passive`)
    slow_start_seconds = 40 s (service `web` in lb.toml, line 50, `slow_start_seconds`)
    datagrams = answers (service `web` in lb.toml, line 50, `datagrams`)
    visible = node,network:back (service `web` in lb.toml, line 50, `visible`)
    prefer = node (service `web` in lb.toml, line 50, `prefer`)
    ring_size = 4093 (service `web` in lb.toml, line 50, `ring_size`)
    share = shop (service `web` in lb.toml, line 50, `share`)
    probe = https port 8443 OPTIONS /health, host web.example, server name web.internal, status 200-299,404, body with "well", certificate verified (service `web` in lb.toml, line 50, `probe.kind`)
    probe_interval_ms = 1 s ([defaults] in lb.toml, `probe.interval_ms`)
    probe_timeout_ms = 500 ms (service `web` in lb.toml, line 50, `probe.timeout_ms`)
    probe_initial_delay_ms = 100 ms (service `web` in lb.toml, line 50, `probe.initial_delay_ms`)
    probe_rise = 1 (service `web` in lb.toml, line 50, `probe.rise`)
    probe_fall = 4 (service `web` in lb.toml, line 50, `probe.fall`)
    probe_place = node (service `web` in lb.toml, line 50, `probe.place`)
    probe_initial = healthy (service `web` in lb.toml, line 50, `probe.initial`)
    scale = 2 (service `web` in lb.toml, line 50, `scale`)
    rolling_updates = 1 (service `web` in lb.toml, line 50, `rolling_updates`)
    depends = db,cache (service `web` in lb.toml, line 50, `depends`)
    "#);
    let labels = &config.labels;
    assert_eq!(labels.routing_pool, "198.18.0.0/24".parse().ok());
    assert_eq!(labels.vips, ["192.0.2.20/32", "198.51.100.0/24"].map(|it| it.parse().unwrap()));
    let [web] = &labels.registrations[..] else { panic!("{:?}", labels.registrations) };
    assert_eq!((&*web.name, web.frontend.to_string()), ("web", "tcp://192.0.2.12:80".to_owned()));
}

#[test]
fn policies_are_checked() {
    let keys = [
        "affinity = 'cookie'",
        "unreachable = 'reset'",
        "drain_seconds = -1",
        "drain_seconds = '30s'",
        "unhealthy_grace_seconds = 86401",
        "panic_percent = 101",
        "slow_start_seconds = 1.5",
        "datagrams = ''",
        "probe = 'http'",
        "[service.probe]\npath = '/'",
        "[service.probe]\nkind = 'icmp'",
        "[service.probe]\nkind = 'docker'",
        "[service.probe]\nkind = 'command'",
        "[service.probe]\nkind = 'tcp'\npath = '/'",
        "[service.probe]\nkind = 'http'\npath = 'health'\nport = 0\nstatus = '200-'\nhost = 'a b'",
        "[service.probe]\nkind = 'http'\nbody = ''\nmethod = ''\nserver_name = 'a'",
        "[service.probe]\nkind = 'tcp'\ninterval_ms = 1\ntimeout_ms = 0\nrise = 0\nfall = 1001",
        "[service.probe]\nplace = 'here'\ninitial = 'passing'\ninitial_delay_ms = -1",
        "[service.probe]\nkind = 'tcp'\nretries = 3",
        "[service.probe]\nplace = 'container'",
        "[service.probe]\nkind = 'http'\nmethod = 'HEAD'\nbody = 'ok'",
        "share = 'a b'\nscale = -1\nrolling_updates = 0\ndepends = 'a,,b'",
        "[[service.backend]]\naddress = '10.0.0.1:80'\nexclusive = 1",
    ];
    let mut texts = keys.map(|key| service(&format!("frontends = ['tcp://192.0.2.10:80']\n{key}")));
    texts[0] = "[defaults]\naffinity = 'cookie'\nweight = 3".to_owned();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_snapshot!(check(&texts), @r#"
    lb.toml:3:1: unknown key `weight`; known keys here: `affinity`, `unreachable`, `drain_seconds`, `unhealthy_grace_seconds`, `panic_percent`, `passive`, `slow_start_seconds`, `datagrams`, `visible`, `prefer`, `ring_size`, `probe`
    lb.toml:4:15: the value `reset` is neither reject nor drop
    lb.toml:4:17: `drain_seconds` is -1; it must be from 0 to 86400
    lb.toml:4:17: invalid type: string "30s", expected a whole number
    lb.toml:4:27: `unhealthy_grace_seconds` is 86401; it must be from 0 to 86400
    lb.toml:4:17: `panic_percent` is 101; it must be from 0 to 100
    lb.toml:4:22: invalid type: floating point `1.5`, expected a whole number
    lb.toml:4:13: the value `` is neither records nor answers
    lb.toml:4:9: invalid type: string "http", expected a table with the key `kind`
    lb.toml:4:1: the key `kind` is missing here; say what the probe does: tcp, http or https
    lb.toml:5:8: the value `icmp` is none of none, tcp, http, https, command, docker
    lb.toml:5:8: a probe of this kind needs a container; use tcp, http, https or none
    lb.toml:5:8: a probe of this kind needs a container; use tcp, http, https or none
    lb.toml:4:1: `path` goes with probes of the kind http and https; the probe is tcp
    lb.toml:6:8: the value `health` is no path; write it like /health, and escape what is no ASCII as %XX
    lb.toml:7:8: `port` is 0; it must be from 1 to 65535
    lb.toml:8:10: the value `200-` is no list of statuses; write it like 200-399 or 200,204
    lb.toml:9:8: the value `a b` is no single word of letters and digits
    lb.toml:4:1: `server_name` goes with probes of the kind https; the probe is http
    lb.toml:6:8: the value `` is not 1 to 1024 characters long
    lb.toml:7:10: the value `` is no single word of letters and digits
    lb.toml:6:15: `interval_ms` is 1; it must be from 50 to 86400000
    lb.toml:7:14: `timeout_ms` is 0; it must be from 50 to 60000
    lb.toml:8:8: `rise` is 0; it must be from 1 to 1000
    lb.toml:9:8: `fall` is 1001; it must be from 1 to 1000
    lb.toml:5:9: the value `here` is none of auto, node, container
    lb.toml:6:11: the value `passing` is neither starting nor healthy
    lb.toml:7:20: `initial_delay_ms` is -1; it must be from 0 to 86400000
    lb.toml:6:1: unknown key `retries`; known keys here: `kind`, `port`, `path`, `method`, `host`, `status`, `body`, `server_name`, `verify`, `command`, `interval_ms`, `timeout_ms`, `initial_delay_ms`, `rise`, `fall`, `place`, `initial`
    lb.toml:5:9: an address has no inside to be probed from; use node or auto
    lb.toml:4:1: `body` is looked for in the answer, and that of HEAD has none; use another method
    lb.toml:4:9: the value `a b` is no name; write 1 to 64 letters, digits, `-`, `_` or `.`
    lb.toml:5:9: `scale` is -1; it must be from 0 to 65536
    lb.toml:6:19: `rolling_updates` is 0; it must be from 1 to 65536
    lb.toml:7:11: the value `a,,b` is no list of 1 to 64 services; write it like db,cache
    lb.toml:6:13: invalid type: integer `1`, expected a boolean
    "#);
}

/// Defaults are for containers, too; what only they can do leaves services of the file alone.
#[test]
fn defaults_may_ask_for_what_only_a_container_can() {
    let check = |probe: &str, expected: &str| {
        let text = format!(
            "[defaults.probe]\n{probe}\n{}",
            service("frontends = ['tcp://192.0.2.10:80']")
        );
        let config = Config::parse(&text, "lb.toml").unwrap_or_else(|error| panic!("{error}"));
        let shown = |wishes: &Wishes| {
            let (policy, _) = Policy::agreed(std::iter::once(wishes));
            let rows = policy.rows().into_iter().filter(|row| row.origin != Origin::Default);
            rows.map(|row| format!("{} {}", row.name, row.value)).collect::<Vec<_>>().join(", ")
        };
        let services = &config.services;
        let shown = [shown(&config.labels.defaults), shown(&services[0].wishes)].join(" | ");
        assert_eq!(shown, expected);
    };
    check("kind = 'docker'\nrise = 1", "probe docker, probe_rise 1 | probe_rise 1");
    check("kind = 'tcp'\nplace = 'container'", "probe tcp, probe_place container | probe tcp");
    check(
        "kind = 'tcp'\nplace = 'node'",
        "probe tcp, probe_place node | probe tcp, probe_place node",
    );
    let ping = "probe command [\"redis-cli\", \"ping\"] | ";
    check("kind = 'command'\ncommand = ['redis-cli', 'ping']", ping);
    check("kind = 'command'\ncommand = '[\"redis-cli\", \"ping\"]'", ping);
    let line = "probe command [\"/bin/sh\", \"-c\", \"exit 0\"] | ";
    check("kind = 'command'\ncommand = 'exit 0'", line);
}

#[test]
fn commands_are_checked() {
    let commands = ["[]", "['']", "''", "3", "['a', 3]"];
    let texts = commands
        .map(|command| format!("[defaults.probe]\nkind = 'command'\ncommand = {command}"))
        .into_iter()
        .chain(["[defaults.probe]\nkind = 'command'".to_owned()]);
    let texts: Vec<String> = texts.collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_snapshot!(check(&texts), @r#"
    lb.toml:3:11: the command is no list of 1 to 64 words; write it like ["redis-cli", "ping"]
    lb.toml:3:11: the command is no list of 1 to 64 words; write it like ["redis-cli", "ping"]
    lb.toml:3:11: the command is no command of 1 to 4096 bytes
    lb.toml:3:11: a line for the shell, or a list of words
    lb.toml:3:11: a line for the shell, or a list of words
    lb.toml:1:1: `command` is missing; a probe of the kind command needs it
    "#);
}

/// A backend without a port is behind that of its frontends, where they have one.
#[test]
fn a_probe_of_the_traffic_needs_a_port() {
    const PROBE: &str = "probe = { kind = 'tcp' }";
    let text = |frontends: &str, probe: &str, address: &str| {
        let keys = format!("frontends = [{frontends}]\n{probe}");
        service(&format!("{keys}\n[[service.backend]]\naddress = '{address}'"))
    };
    let (one, range, two) = (
        "'tcp://192.0.2.10:8080'",
        "'tcp://192.0.2.10:1-2'",
        "'tcp://192.0.2.10:1', 'tcp://192.0.2.10:2'",
    );
    let both = "'tcp://192.0.2.10:53', 'udp://192.0.2.10:53', 'tcp://[2001:db8::10]:54'";
    for accepted in [
        text(one, PROBE, "192.0.2.7"),
        text(both, PROBE, "192.0.2.7"),
        text(range, PROBE, "192.0.2.7:1"),
        text(range, "probe = { kind = 'http', port = 80 }", "192.0.2.7"),
        text(two, "", "192.0.2.7"),
        format!("[defaults.probe]\nkind = 'docker'\n{}", text(two, "", "192.0.2.7")),
    ] {
        Config::parse(&accepted, "lb.toml").unwrap_or_else(|error| panic!("{accepted}: {error}"));
    }
    let of_defaults = format!("[defaults.probe]\nkind = 'https'\n{}", text(two, "", "192.0.2.7"));
    let shown = check(&[
        &text(range, PROBE, "192.0.2.7"),
        &text(two, "probe = { kind = 'http' }", "192.0.2.7"),
        &of_defaults,
    ]);
    assert_snapshot!(shown, @"
    lb.toml:6:11: the backend 192.0.2.7 has no port, the frontends lead to several, and the probe (service `web` in lb.toml, line 2, `probe.kind`) does not say which of them it is about; give the backend a port, or the probe: `port` in [service.probe]
    lb.toml:6:11: the backend 192.0.2.7 has no port, the frontends lead to several, and the probe (service `web` in lb.toml, line 2, `probe.kind`) does not say which of them it is about; give the backend a port, or the probe: `port` in [service.probe]
    lb.toml:8:11: the backend 192.0.2.7 has no port, the frontends lead to several, and the probe ([defaults] in lb.toml, `probe.kind`) does not say which of them it is about; give the backend a port, or the probe: `port` in [service.probe]
    ");
}

/// Nobody need listen by TCP at a port of UDP.
#[test]
fn a_probe_that_connects_needs_somebody_who_listens() {
    let text = |frontends: &str, probe: &str| {
        service(&format!(
            "frontends = [{frontends}]\n{probe}\n[[service.backend]]\naddress = '192.0.2.7:53'"
        ))
    };
    let (udp, both) = ("'udp://192.0.2.10:53'", "'udp://192.0.2.10:53', 'tcp://192.0.2.10:53'");
    let probe = |text: &str| {
        let config = Config::parse(text, "lb.toml").unwrap_or_else(|it| panic!("{text}: {it}"));
        let (policy, _) = Policy::agreed(std::iter::once(&*config.services[0].wishes));
        let row = policy.rows().into_iter().find(|row| row.name == "probe").expect("a probe");
        format!("{} ({})", row.value, row.origin)
    };
    let mut shown = Vec::new();
    for kind in ["tcp", "http", "https"] {
        let defaults = format!("[defaults.probe]\nkind = '{kind}'\n");
        for frontends in [udp, both] {
            shown.push(probe(&format!("{defaults}{}", text(frontends, ""))));
        }
        let with_port = format!("{defaults}port = 8080\n{}", text(udp, ""));
        shown.push(probe(&with_port));
        shown.push(probe(&text(udp, &format!("probe = {{ kind = '{kind}', port = 8080 }}"))));
    }
    assert_snapshot!(shown.join("\n"), @"
    none (no frontend is of TCP: [defaults] in lb.toml, `probe.kind`)
    tcp ([defaults] in lb.toml, `probe.kind`)
    tcp port 8080 ([defaults] in lb.toml, `probe.kind`)
    tcp port 8080 (service `web` in lb.toml, line 2, `probe.kind`)
    none (no frontend is of TCP: [defaults] in lb.toml, `probe.kind`)
    http GET /, status 200-399 ([defaults] in lb.toml, `probe.kind`)
    http port 8080 GET /, status 200-399 ([defaults] in lb.toml, `probe.kind`)
    http port 8080 GET /, status 200-399 (service `web` in lb.toml, line 2, `probe.kind`)
    none (no frontend is of TCP: [defaults] in lb.toml, `probe.kind`)
    https GET /, status 200-399 ([defaults] in lb.toml, `probe.kind`)
    https port 8080 GET /, status 200-399 ([defaults] in lb.toml, `probe.kind`)
    https port 8080 GET /, status 200-399 (service `web` in lb.toml, line 2, `probe.kind`)
    ");
    let refused = check(&[
        &text(udp, "probe = { kind = 'tcp' }"),
        &text(udp, "probe.rise = 1\nprobe.kind = 'http'"),
        &text(udp, "[service.probe]\nkind = 'https'"),
        // Told once, and what is wrong first.
        &text("'udp://192.0.2.10:53', 'tcp:/192.0.2.10:53'", "probe = { kind = 'tcp' }"),
    ]);
    assert_snapshot!(refused, @"
    lb.toml:4:18: the probe connects to the port of the traffic, and no frontend of the service is of TCP, so nobody may be listening there; say at which port the servers do: `port` in [service.probe]
    lb.toml:5:14: the probe connects to the port of the traffic, and no frontend of the service is of TCP, so nobody may be listening there; say at which port the servers do: `port` in [service.probe]
    lb.toml:5:8: the probe connects to the port of the traffic, and no frontend of the service is of TCP, so nobody may be listening there; say at which port the servers do: `port` in [service.probe]
    lb.toml:3:37: `tcp:/192.0.2.10:53` is no frontend; write it like tcp://192.0.2.10:80
    ");
}

#[test]
fn a_frontend_has_one_service_unless_it_is_shared() {
    let two = |first: &str, second: &str| {
        let keys = |name: &str, keys: &str| {
            format!("[[service]]\nname = '{name}'\nfrontends = ['tcp://192.0.2.10:80']\n{keys}\n")
        };
        keys("a", first) + &keys("b", second)
    };
    let config = Config::parse(&two("share = 's'", "share = 's'"), "lb.toml").unwrap();
    assert_eq!(config.services.len(), 2);
    let registered = "[[registrator]]\nname = 'web'\nfrontend = 'tcp://192.0.2.10:80'\n";
    let beside = |frontend: &str| {
        format!("{registered}[[service]]\nname = 'a'\nfrontends = ['{frontend}']\n")
    };
    Config::parse(&beside("tcp://192.0.2.10:81-90"), "lb.toml").unwrap();
    Config::parse(&beside("udp://192.0.2.10:80"), "lb.toml").unwrap();
    let shown = check(&[
        &two("", ""),
        &two("share = 's'", "share = 't'"),
        &two("share = 's'", ""),
        &beside("tcp://192.0.2.10:80"),
        &beside("tcp://192.0.2.10:*"),
    ]);
    assert_snapshot!(shown, @"
    lb.toml:7:14: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    lb.toml:7:14: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    lb.toml:7:14: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    lb.toml:6:14: tcp://192.0.2.10:80 has ports in common with tcp://192.0.2.10:80 of the [[registrator]] `web`, whose containers would never get anything; a frontend has one service, so choose another
    lb.toml:6:14: tcp://192.0.2.10:* has ports in common with tcp://192.0.2.10:80 of the [[registrator]] `web`, whose containers would never get anything; a frontend has one service, so choose another
    ");
}

#[test]
fn what_labels_may_ask_for_is_checked() {
    let shown = check(&[
        "label_vips = ['192.0.2', '192.0.2.1/24', '127.0.0.1', '2001:db8::/64', '0.0.0.0/0']",
        "routing_pool = '198.18.0.1/24'",
        "routing_pool = '198.18.0.0'",
        "routing_pool = '198.18.0.0/31'",
        "routing_pool = '198.18.0.0/24'\n[[balancer]]\nname = 'a'\nvip = '198.18.0.7'",
        "[[registrator]]\nname = 'a b'\nfrontend = 'tcp://192.0.2.10'",
        "[[registrator]]\nname = 'a'",
        "registrator = [{ name = 'a', frontend = 'tcp://192.0.2.10:80' }, { name = 'b', frontend = 'tcp://192.0.2.10:80' }]",
    ]);
    assert_snapshot!(shown, @"
    lb.toml:1:15: `192.0.2` is no subnet; write it like 198.18.0.0/24
    lb.toml:1:26: `192.0.2.1/24` has bits behind its prefix; write it like 192.0.2.0/24
    lb.toml:1:42: the address 127.0.0.1 is a loopback address; use the address of one host
    lb.toml:1:72: the address 0.0.0.0 is in 0.0.0.0/8, where no host is; use the address of one host
    lb.toml:1:16: `198.18.0.1/24` has bits behind its prefix; write it like 198.18.0.0/24
    lb.toml:1:16: `198.18.0.0` is no subnet; write it like 198.18.0.0/24
    lb.toml:1:16: the pool 198.18.0.0/31 has a prefix of 31 bits; it must be from 8 to 30
    lb.toml:1:16: the VIP 198.18.0.7 lies in `routing_pool` 198.18.0.0/24, whose addresses are given to names; choose another
    lb.toml:2:8: `name` must be 1 to 128 characters without spaces and control characters
    lb.toml:3:12: `tcp://192.0.2.10`: after tcp:// comes an IP address and a port, a range of ports or *, like tcp://192.0.2.10:80, tcp://[2001:db8::10]:8000-8999 or tcp://192.0.2.10:*
    lb.toml:1:1: the key `frontend` is missing here; add it
    lb.toml:1:91: tcp://192.0.2.10:80 is already the frontend of the name of line 1; a frontend has one service
    ");
}

/// With everything in it that is commented out for being the default or an example.
#[test]
fn the_example_file_is_understood() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/lb.toml");
    let mut text = String::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split(" = ").next().unwrap_or_default();
        let is_key = key.len() < bare.len() && !key.contains(' ');
        if is_key || bare.starts_with('[') {
            writeln!(text, "{bare}").unwrap();
        }
    }
    let config = Config::parse(&text, "lb.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(config.services[0].backends.len(), 1);
    let of_service = Policy::agreed(std::iter::once(&*config.services[0].wishes)).0;
    let defaults = Policy::default();
    // What it shows of times and counts are the defaults.
    for (shown, default) in of_service.rows().iter().zip(defaults.rows()) {
        let is_example = matches!(
            shown.name,
            "affinity" | "ring_size" | "probe" | "share" | "scale" | "rolling_updates" | "depends"
        );
        assert!(is_example || shown.value == default.value, "{}: {}", shown.name, shown.value);
    }
}

#[test]
fn socket_calls_and_names_are_checked() {
    let text = "[cgroup]\npath = '/sys/fs/cgroup/x'\nroutes_across = true\nrefuses_unseen = false\n[names]\n\
                listen = ['172.17.0.1:53', '[::1]:53']\nttl_seconds = 0\nforward = ['9.9.9.9:53']\n\
                compose = true";
    let config = Config::parse(text, "lb.toml").expect("in order");
    assert_eq!(config.cgroup.path.as_deref(), Some("/sys/fs/cgroup/x".as_ref()));
    assert!(config.cgroup.enabled && config.cgroup.routes_across);
    assert!(!config.cgroup.refuses_unseen);
    let names = &config.names;
    assert_eq!((names.listen.len(), names.forward.len(), names.ttl_seconds), (2, 1, 0));
    assert!(names.compose);
    let check = |text: &str, expected: &str| {
        let error = Config::parse(text, "lb.toml").expect_err(text).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("[cgroup]\npath = 'sys/fs/cgroup'", "lb.toml:2:8: `path` must be the absolute path");
    check("[cgroup]\npath = '/sys/../x'", "`path` must be the absolute path");
    check("[cgroup]\nmode = 'on'", "unknown key `mode`");
    check("[names]\nlisten = ['172.17.0.1']", "lb.toml:2:11: `172.17.0.1` is no address");
    check("[names]\nforward = ['9.9.9.9:0']", "is no address to listen on");
    for (listen, forward) in [
        ("172.17.0.1:53", "172.17.0.1:53"),
        ("0.0.0.0:53", "127.0.0.1:53"),
        ("[::]:53", "[::1]:53"),
        ("172.17.0.1:53", "0.0.0.0:53"),
    ] {
        let text = format!("[names]\nlisten = ['{listen}']\nforward = ['9.9.9.9:53', '{forward}']");
        check(&text, &format!("lb.toml:3:26: `forward` names {forward}, where `listen` has"));
    }
    check("[names]\nttl_seconds = -1", "`ttl_seconds` is -1");
    let many = format!("[names]\nlisten = [{}]", "'127.0.0.1:53',".repeat(17));
    check(&many, "`listen` names more than 16 addresses");
}
