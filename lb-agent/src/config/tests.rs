//! What the file can say, and what it is told when it cannot.

mod policies;

use std::{fmt::Write as _, path::PathBuf};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{Balancer, Config, StaticBackend, StaticService, TcMode, TimesConfig, XdpMode};

const FULL: &str = r#"
front = ["eth0", "bond0.100"]
label_vips = ["192.0.2.20", "198.51.100.0/24"]
routing_pool = "198.18.0.0/24"
pin_path = "/sys/fs/bpf/other"
state_path = "/run/other"
hash_seed = 1234
[xdp]
mode = "generic"
[xdp.interfaces]
eth1 = "native"
[tc]
mode = "clsact"
[api]
group = "operators"
[docker]
enabled = false
endpoint = "unix:///run/docker.sock"
resync_seconds = 5
[metrics]
listen = "127.0.0.1:9432"
[tables]
ring_slots = 1048576
records = 4096
[times]
settle_seconds = 1000
record_seconds = 900
half_open_seconds = 70
closing_seconds = 100
hold_seconds = 0
grace_seconds = 5
udp_seconds = 190
[defaults]
affinity = "client"
drain_seconds = 10
[defaults.probe]
interval_ms = 1000
[[registrator]]
name = "web"
frontend = "tcp://192.0.2.12:80"
[[balancer]]
name = "slb_redis_app"
id = "lb-2ze8"
vip = "192.0.2.10"
[[balancer]]
name = "same"
id = "same"
vip = "192.0.2.11"
[[service]]
name = "web"
frontends = ["tcp://192.0.2.10:80"]
ring_size = 4093
affinity = "client/24,56"
unreachable = "drop"
unhealthy_grace_seconds = 20
panic_percent = 30
passive = false
slow_start_seconds = 40
datagrams = "answers"
visible = "node,network:back"
prefer = "node"
share = "shop"
scale = 2
rolling_updates = 1
depends = "db,cache"
[service.probe]
kind = "https"
port = 8443
path = "/health"
method = "OPTIONS"
host = "web.example"
status = "200-299,404"
body = "well"
server_name = "web.internal"
verify = true
timeout_ms = 500
initial_delay_ms = 100
rise = 1
fall = 4
place = "node"
initial = "healthy"
[[service.backend]]
address = "10.0.0.1:8080"
[[service.backend]]
address = "10.0.0.2:8080"
weight = 0
exclusive = true
"#;

#[test]
fn every_key_is_understood() {
    let config = Config::parse(FULL, "lb.toml").unwrap();
    assert_eq!(config.front, ["eth0", "bond0.100"]);
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9432".parse().unwrap()));
    assert_eq!(config.pin_path, PathBuf::from("/sys/fs/bpf/other"));
    assert_eq!(config.state_path, PathBuf::from("/run/other"));
    assert_eq!(config.hash_seed, Some(1234));
    assert_eq!(config.xdp.mode, XdpMode::Generic);
    assert_eq!(config.xdp.interfaces["eth1"], XdpMode::Native);
    assert_eq!(config.tc.mode, TcMode::Clsact);
    assert_eq!(config.api.socket, PathBuf::from("/run/other/api.sock"));
    assert_eq!(config.api.group, "operators");
    assert!(!config.docker.enabled);
    assert_eq!(config.docker.endpoint, "unix:///run/docker.sock");
    assert_eq!(config.docker.resync_seconds, 5);
    assert_eq!((config.tables.ring_slots, config.tables.records), (1_048_576, 4096));
    let times = TimesConfig {
        settle_seconds: 1000,
        record_seconds: 900,
        half_open_seconds: 70,
        closing_seconds: 100,
        hold_seconds: 0,
        grace_seconds: 5,
        udp_seconds: 190,
    };
    assert_eq!(config.times, times);
    let redis = Balancer {
        name: "slb_redis_app".to_owned(),
        id: Some("lb-2ze8".to_owned()),
        vip: "192.0.2.10".parse().unwrap(),
    };
    assert_eq!(config.labels.balancers[0], redis);
    let [web] = &config.services[..] else { panic!("{:?}", config.services) };
    let ring_size = web.wishes.ring_size.as_ref().map(|size| size.value);
    assert_eq!((web.name.as_str(), ring_size, web.line), ("web", Some(Some(4093)), 50));
    assert_eq!(web.frontends[0].to_string(), "tcp://192.0.2.10:80");
    let backend = |address: &str, weight, exclusive| StaticBackend {
        address: address.parse().unwrap(),
        weight,
        exclusive,
    };
    let expected =
        [backend("10.0.0.1:8080", None, None), backend("10.0.0.2:8080", Some(0), Some(true))];
    assert_eq!(web.backends, expected);
}

#[test]
fn an_empty_file_is_the_default() {
    let mut config = Config::parse("", "lb.toml").unwrap();
    assert_eq!(config.file_name, "lb.toml");
    config.file_name = Config::default().file_name;
    assert_eq!(config, Config::default());
    assert_eq!(config.api.socket, PathBuf::from("/run/lb-agent/api.sock"));
}

#[test]
fn a_named_file_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.toml");
    let error = Config::load_or_default(Some(&path)).unwrap_err().to_string();
    assert!(error.contains("lb.toml: cannot be read: No such file"), "{error}");
    std::fs::write(&path, "front = ['eth0']\n# \u{e9}\n").unwrap();
    assert_eq!(Config::load_or_default(Some(&path)).unwrap().front, ["eth0"]);
    std::fs::write(&path, b"front = []\n# \xff\n").unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("lb.toml:2:3: this byte is not UTF-8; save the file as UTF-8"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_being_written_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, "").unwrap();
    let error = Config::reload(&path).unwrap_err().to_string();
    assert!(error.contains("lb.toml: is empty, as a file that is being written"), "{error}");
    std::fs::write(&path, "# nothing\n").unwrap();
    Config::reload(&path).unwrap();
}

/// The message for each file; panics when one is accepted.
fn check(texts: &[&str]) -> String {
    let mut shown = String::new();
    for text in texts {
        let error = Config::parse(text, "lb.toml").expect_err(text);
        writeln!(shown, "{error}").unwrap();
    }
    shown
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_their_place() {
    let shown = check(&[
        "front = ['eth0']\nfornt = []",
        "[xdp]\nmode = 'auto'\n  modus = 'native'",
        "[xdp]\nmode = 'fast'",
        "[tc.mode]",
        "[docker]\nenabled = 'yes'",
        "[[balancer]]\nname = 'a'",
        "[[service]]\nname = 'a'\nfrontends = []\n[[service.backends]]\naddress = '10.0.0.1:80'",
        "front = eth0",
        "front = ['eth0'\n[xdp]",
        "front = []\nfront = []",
        "hash_seed = -1",
        "[metrics]\nlisten = ':9432'",
        "[metrics]\nlisten = '127.0.0.1:0'",
    ]);
    assert_snapshot!(shown, @r#"
    lb.toml:2:1: unknown key `fornt`; known keys here: `front`, `pin_path`, `state_path`, `hash_seed`, `xdp`, `tc`, `cgroup`, `names`, `api`, `docker`, `metrics`, `tables`, `times`, `label_vips`, `routing_pool`, `defaults`, `balancer`, `registrator`, `service`
    lb.toml:3:3: unknown key `modus`; known keys here: `mode`, `interfaces`
    lb.toml:2:8: unknown value `fast`; allowed: `auto`, `native`, `generic`, `off`
    lb.toml:1:1: wanted exactly 1 element, found 0 elements
    lb.toml:2:11: invalid type: string "yes", expected a boolean
    lb.toml:1:1: the key `vip` is missing here; add it
    lb.toml:4:11: unknown key `backends`; known keys here: `name`, `frontends`, `affinity`, `unreachable`, `drain_seconds`, `unhealthy_grace_seconds`, `panic_percent`, `passive`, `slow_start_seconds`, `datagrams`, `visible`, `prefer`, `ring_size`, `probe`, `share`, `scale`, `rolling_updates`, `depends`, `backend`
    lb.toml:1:9: string values must be quoted, expected literal string
    lb.toml:2:1: missing comma between array elements, expected `,`
    lb.toml:2:1: the key `front` stands here a second time; keep one
    lb.toml:1:13: `hash_seed` is -1; it must not be negative
    lb.toml:2:10: `:9432` is no address to listen on; write one with a port, like 127.0.0.1:9432
    lb.toml:2:10: `127.0.0.1:0` is no address to listen on; write one with a port, like 127.0.0.1:9432
    "#);
}

#[test]
fn slots_settle_no_earlier_than_records_end() {
    let settle = |text: &str| Config::parse(text, "lb.toml").unwrap().times.settle_seconds;
    assert_eq!(settle(""), 8400);
    assert_eq!(settle("[times]\nrecord_seconds = 600"), 8400);
    assert_eq!(settle("[times]\nrecord_seconds = 9000"), 9000);
    assert_eq!(settle("[times]\nrecord_seconds = 600\nsettle_seconds = 600"), 600);
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let shown = check(&[
        "front = ['eth0', 'eth0', 'a/b', 'far-too-long-a-name', '']",
        "pin_path = 'lb'\nstate_path = ''",
        "[api]\nsocket = '/run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789.sock'",
        "[api]\ngroup = 'no group'",
        "[docker]\nendpoint = 'tcp://10.0.0.1:2375'\nresync_seconds = 0",
        "[tables]\nring_slots = 1021\nrecords = 0",
        "[tables]\nring_slots = 4294967296",
        "[times]\nsettle_seconds = 7200\nrecord_seconds = 8400",
        "[times]\nsettle_seconds = 59\nhold_seconds = 541\nudp_seconds = 0",
        "[xdp.interfaces]\n'a b' = 'native'",
    ]);
    assert_snapshot!(shown, @"
    lb.toml:1:18: interface `eth0` is named twice in `front`
    lb.toml:1:26: `a/b` is no interface name; write it as `ip link` shows it, at most 15 characters
    lb.toml:1:33: `far-too-long-a-name` is no interface name; write it as `ip link` shows it, at most 15 characters
    lb.toml:1:56: `` is no interface name; write it as `ip link` shows it, at most 15 characters
    lb.toml:1:12: `pin_path` must be an absolute path, like /sys/fs/bpf/lb
    lb.toml:2:14: `state_path` must be an absolute path, like /run/lb-agent
    lb.toml:2:10: the socket path `/run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789.sock` is too long for the kernel; use at most 107 bytes
    lb.toml:2:9: `group` must be 1 to 128 characters without spaces and control characters
    lb.toml:2:12: `tcp://10.0.0.1:2375` is no Docker endpoint; the agent needs the daemon of its own node, so write `unix://` and the absolute path of its socket
    lb.toml:3:18: `resync_seconds` is 0; it must be from 1 to 86400
    lb.toml:2:14: `ring_slots` is 1021; it must be from 2042 to 268435456
    lb.toml:3:11: `records` is 0; it must be from 1 to 33554432
    lb.toml:2:14: `ring_slots` is 4294967296; it must be from 2042 to 268435456
    lb.toml:2:18: `settle_seconds` is 7200, less than the 8400 of `record_seconds`: connections that are idle for longer would lose their backend; make it at least as long
    lb.toml:2:18: `settle_seconds` is 59; it must be from 60 to 1209600
    lb.toml:3:16: `hold_seconds` is 541; it must be from 0 to 540
    lb.toml:4:15: `udp_seconds` is 0; it must be from 1 to 86400
    lb.toml:2:9: `a b` is no interface name; write it as `ip link` shows it, at most 15 characters
    ");
}

#[test]
fn balancers_are_checked() {
    let shown = check(&[
        "[[balancer]]\nname = 'a'\nvip = '192.0.2'",
        "[[balancer]]\nname = 'a'\nvip = '192.0.2.10/32'",
        "[[balancer]]\nname = 'a'\nvip = '::'",
        "[[balancer]]\nname = 'a'\nvip = 'fe80::1'",
        "[[balancer]]\nname = 'a'\nvip = '::ffff:192.0.2.10'",
        "[[balancer]]\nname = ''\nvip = '127.0.0.1'",
        "[[balancer]]\nname = 'a'\nvip = '224.0.0.1'\n[[balancer]]\nname = 'b'\nvip = '0.0.0.0'",
        "balancer = [{ name = 'a', vip = '192.0.2.10' }, { name = 'a', vip = '192.0.2.10' }]",
        "[[balancer]]\nname = 'a'\nvip = '192.0.2.10'\n[[balancer]]\nname = 'b'\nid = 'a'\nvip = '192.0.2.11'",
    ]);
    assert_snapshot!(shown, @"
    lb.toml:3:7: `192.0.2` is no IP address; `vip` is one address without port or prefix, like 192.0.2.10
    lb.toml:3:7: `192.0.2.10/32` is no IP address; `vip` is one address without port or prefix, like 192.0.2.10
    lb.toml:3:7: the VIP :: is the unspecified address; use the address of one host
    lb.toml:3:7: the VIP fe80::1 is a link-local address, which every link has of its own; use the address of one host
    lb.toml:3:7: the VIP ::ffff:192.0.2.10 is an IPv4 address written as IPv6; use the address of one host
    lb.toml:2:8: `name` must be 1 to 128 characters without spaces and control characters
    lb.toml:3:7: the VIP 127.0.0.1 is a loopback address; use the address of one host
    lb.toml:3:7: the VIP 224.0.0.1 is a multicast address; use the address of one host
    lb.toml:6:7: the VIP 0.0.0.0 is in 0.0.0.0/8, where no host is; use the address of one host
    lb.toml:1:58: `a` already names the balancer of line 1; a name or id stands for one balancer, so choose another
    lb.toml:1:69: the VIP 192.0.2.10 already belongs to the balancer of line 1; give each balancer an address of its own
    lb.toml:6:6: `a` already names the balancer of line 2; a name or id stands for one balancer, so choose another
    ");
}

/// A file with one service.
fn service(rest: &str) -> String {
    format!("[[service]]\nname = 'web'\n{rest}")
}

#[test]
fn frontends_may_have_ranges_and_backends_the_port_that_was_asked_for() {
    let text = service(
        "frontends = ['tcp://192.0.2.10:8000-8999', 'tcp://192.0.2.10:70-70', 'tcp://192.0.2.11:*']
[[service.backend]]
address = '10.0.0.1'
[[service.backend]]
address = '10.0.0.2:0'",
    );
    // A port and a range within it, and the range within all, may be another service's.
    let other = text.replace("web", "other").replace("8000-8999", "8080-8090");
    let other = other.replace("70-70", "8443").replace("11:*", "11:1-1023");
    let config = Config::parse(&format!("{text}\n{other}"), "lb.toml").unwrap();
    let shown = |service: &StaticService| {
        let frontends = service.frontends.iter().map(ToString::to_string).collect::<Vec<_>>();
        let backends = service.backends.iter().map(|it| it.address.to_string());
        format!("{} <- {}", backends.collect::<Vec<_>>().join(" "), frontends.join(" "))
    };
    assert_snapshot!(config.services.iter().map(shown).collect::<Vec<_>>().join("\n"), @"
    10.0.0.1:0 10.0.0.2:0 <- tcp://192.0.2.10:8000-8999 tcp://192.0.2.10:70 tcp://192.0.2.11:*
    10.0.0.1:0 10.0.0.2:0 <- tcp://192.0.2.10:8080-8090 tcp://192.0.2.10:8443 tcp://192.0.2.11:1-1023
    ");
}

#[test]
fn both_families_and_both_protocols_are_served() {
    let text = service(
        "frontends = ['udp://192.0.2.10:53', 'tcp://[2001:db8::10]:53', 'udp://[2001:db8::10]:*']
[[service.backend]]
address = '10.0.0.1'
[[service.backend]]
address = '[2001:db8:1::1]'
[[service.backend]]
address = '[fd00::1]:53'",
    );
    let config = Config::parse(&text, "lb.toml").unwrap();
    let service = &config.services[0];
    let frontends: Vec<_> = service.frontends.iter().map(ToString::to_string).collect();
    let backends: Vec<_> = service.backends.iter().map(|it| it.address.to_string()).collect();
    assert_snapshot!(format!("{frontends:?}\n{backends:?}"), @r#"
    ["udp://192.0.2.10:53", "tcp://[2001:db8::10]:53", "udp://[2001:db8::10]:*"]
    ["10.0.0.1:0", "[2001:db8:1::1]:0", "[fd00::1]:53"]
    "#);
}

#[test]
fn ranges_are_checked() {
    let frontends = |urls: &str| service(&format!("frontends = [{urls}]"));
    let many = (1..=17).map(|first| format!("'tcp://192.0.2.10:{first}-100'"));
    let many = many.collect::<Vec<_>>().join(",");
    let texts = [
        frontends("'tcp://192.0.2.10:90-80'"),
        frontends("'tcp://192.0.2.10:80-'"),
        frontends("'tcp://192.0.2.10:0-80'"),
        frontends("'tcp://192.0.2.10:all'"),
        frontends("'tcp://192.0.2.10:*', 'tcp://192.0.2.10:1-65535'"),
        frontends(&many),
        frontends("'tcp://192.0.2.10:80-90'")
            + "\n"
            + &frontends("'tcp://192.0.2.10:85-95'").replace("web", "other"),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_snapshot!(check(&texts), @"
    lb.toml:3:14: `tcp://192.0.2.10:90-80`: the range 90-80 is empty; the smaller port goes first
    lb.toml:3:14: `tcp://192.0.2.10:80-`: `` is no port; ports are 80, 8000-8999, or * for all
    lb.toml:3:14: `tcp://192.0.2.10:0-80`: port 0 does not exist; ports are 1 to 65535
    lb.toml:3:14: `tcp://192.0.2.10:all`: `all` is no port; ports are 80, 8000-8999, or * for all
    lb.toml:3:36: tcp://192.0.2.10:* is already a frontend of the service of line 2; a frontend has one service
    lb.toml:3:421: more than 16 ranges of tcp ports at 192.0.2.10; join some
    lb.toml:6:14: tcp://192.0.2.10:85-95 and tcp://192.0.2.10:80-90 of the service of line 2 have some ports in common and each has others; put one range into the other, or keep them apart
    ");
}

#[test]
fn services_are_checked() {
    let frontends = |urls: &str| service(&format!("frontends = [{urls}]"));
    let backend = |address: &str| {
        service(&format!("frontends = ['tcp://192.0.2.10:80']\n[[service.backend]]\n{address}"))
    };
    let texts = [
        frontends(""),
        frontends("'192.0.2.10:80'"),
        frontends("'udp://192.0.2.10'"),
        frontends("'http://192.0.2.10:80'"),
        frontends("'tcp://web:80'"),
        frontends("'tcp://192.0.2.10'"),
        frontends("'tcp://192.0.2.10:0'"),
        frontends("'tcp://192.0.2.10:65536'"),
        frontends("'tcp://2001:db8::1:80'"),
        frontends("'udp://[ff02::1]:53'"),
        frontends("'tcp://255.255.255.255:80'"),
        frontends("'tcp://127.0.0.1:80'"),
        frontends("'udp://[::1]:53'"),
        frontends("'tcp://192.0.2.10:80', 'tcp://192.0.2.10:80'"),
        frontends("'tcp://192.0.2.10:80'") + "\nring_size = 1000",
        backend("address = 'localhost:80'"),
        backend("address = '10.0.0.1:'"),
        backend("address = '127.0.0.1:80'"),
        backend("address = '[2001:db8::1]:80'"),
        backend("address = '[fe80::1]:80'"),
        backend("address = '2001:db8::1:80'"),
        backend("address = '192.0.2.10:80'"),
        backend("address = '10.0.0.1:80'\nweight = 65536"),
        backend("address = '10.0.0.1:80'\nweight = -1"),
        backend("address = '10.0.0.1:80'\n[[service.backend]]\naddress = '10.0.0.1:80'"),
        service("frontends = ['tcp://192.0.2.10:80']\n")
            + &service("frontends = ['tcp://192.0.2.10:80']"),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_snapshot!(check(&texts), @"
    lb.toml:3:13: `frontends` is empty; name at least one, like tcp://192.0.2.10:80
    lb.toml:3:14: `192.0.2.10:80` is no frontend; write it like tcp://192.0.2.10:80
    lb.toml:3:14: `udp://192.0.2.10`: after udp:// comes an IP address and a port, a range of ports or *, like udp://192.0.2.10:80, udp://[2001:db8::10]:8000-8999 or udp://192.0.2.10:*
    lb.toml:3:14: `http://192.0.2.10:80`: unknown scheme `http`; the schemes are: tcp, udp
    lb.toml:3:14: `tcp://web:80`: after tcp:// comes an IP address and a port, a range of ports or *, like tcp://192.0.2.10:80, tcp://[2001:db8::10]:8000-8999 or tcp://192.0.2.10:*
    lb.toml:3:14: `tcp://192.0.2.10`: after tcp:// comes an IP address and a port, a range of ports or *, like tcp://192.0.2.10:80, tcp://[2001:db8::10]:8000-8999 or tcp://192.0.2.10:*
    lb.toml:3:14: `tcp://192.0.2.10:0`: port 0 does not exist; ports are 1 to 65535
    lb.toml:3:14: `tcp://192.0.2.10:65536`: port 65536 does not exist; ports are 1 to 65535
    lb.toml:3:14: `tcp://2001:db8::1:80`: after tcp:// comes an IP address and a port, a range of ports or *, like tcp://192.0.2.10:80, tcp://[2001:db8::10]:8000-8999 or tcp://192.0.2.10:*
    lb.toml:3:14: the VIP ff02::1 is a multicast address; use the address of one host
    lb.toml:3:14: the VIP 255.255.255.255 is a reserved or broadcast address; use the address of one host
    lb.toml:3:14: the VIP 127.0.0.1 is a loopback address; use the address of one host
    lb.toml:3:14: the VIP ::1 is a loopback address; use the address of one host
    lb.toml:3:37: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    lb.toml:4:13: `ring_size` is 1000; it must be one of 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071
    lb.toml:5:11: `localhost:80` is no address and port; write it like 10.0.0.1:8080 or [fd00::1]:8080, or 10.0.0.1 for the port that the client asked for (names are not resolved)
    lb.toml:5:11: `10.0.0.1:` is no address and port; write it like 10.0.0.1:8080 or [fd00::1]:8080, or 10.0.0.1 for the port that the client asked for (names are not resolved)
    lb.toml:5:11: the backend address 127.0.0.1 is a loopback address; use the address of one host
    lb.toml:5:11: the backend address 2001:db8::1 is IPv6, and all frontends of the service are IPv4, which is not translated; add a frontend with an IPv6 VIP, or name the server's IPv4 address
    lb.toml:5:11: the backend address fe80::1 is a link-local address, which every link has of its own; use the address of one host
    lb.toml:5:11: `2001:db8::1:80` has no brackets, which tell address and port apart; write it like [2001:db8::1:80]:8080, or [2001:db8::1:80] for the port that the client asked for
    lb.toml:5:11: the backend address 192.0.2.10 is a VIP of this file; traffic would run in a circle, so name the server's own address
    lb.toml:6:10: `weight` is 65536; it must be from 0 to 65535
    lb.toml:6:10: `weight` is -1; it must be from 0 to 65535
    lb.toml:7:11: 10.0.0.1:80 is already a backend of this service, at line 5; remove one
    lb.toml:5:8: the service `web` already stands at line 2; join the two or rename one
    lb.toml:6:14: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    ");
}

#[test]
fn limits_are_told() {
    let mut text = service("frontends = ['tcp://192.0.2.10:80']\n");
    for index in 0..1311 {
        writeln!(text, "[[service.backend]]\naddress = '10.0.{}.{}:80'", index / 256, index % 256)
            .unwrap();
    }
    assert_snapshot!(check(&[&text]), @"lb.toml:2:8: 1311 backends; a service can have 1310, so split it");
}

#[test]
fn a_large_file_is_read_quickly() {
    let mut text = String::new();
    for index in 0..1000 {
        let vip = format!("192.168.{}.{}", index / 250, index % 250 + 1);
        writeln!(text, "[[service]]\nname = 's{index}'\nfrontends = ['tcp://{vip}:80']").unwrap();
        for backend in 0..10 {
            let (second, third) = (index / 256, index % 256);
            writeln!(text, "[[service.backend]]\naddress = '10.{second}.{third}.{backend}:80'")
                .unwrap();
        }
    }
    let begin = std::time::Instant::now();
    let config = Config::parse(&text, "lb.toml").unwrap();
    println!("1,000 services with 10,000 backends: {:?}", begin.elapsed());
    assert_eq!(config.services.iter().map(|service| service.backends.len()).sum::<usize>(), 10_000);
}

proptest! {
    /// Any mutilation of a good file is either understood or refused; nothing panics.
    #[test]
    fn mutilated_files_do_no_harm(
        start in 0..FULL.len(),
        length in 0_usize..40,
        replacement in "[\\PC\n\\[\\]=\"']{0,12}",
    ) {
        let end = (start + length).min(FULL.len());
        let text = format!("{}{replacement}{}", &FULL[..start], &FULL[end..]);
        if let Err(error) = Config::parse(&text, "lb.toml") {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(error.to_string().starts_with("lb.toml"));
        }
    }
}
