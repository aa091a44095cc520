//! What the file can say, and what it is told when it cannot.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{Balancer, Config, TcMode, XdpMode};
use crate::model::Policy;

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
[tables]
ring_slots = 1048576
records = 4096
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
slow_start_seconds = 40
datagrams = "answers"
[service.probe]
kind = "https"
port = 8443
path = "/health"
method = "HEAD"
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
"#;

#[test]
fn every_key_is_understood() {
    let config = Config::parse(FULL, "lb.toml").unwrap();
    assert_eq!(config.front, ["eth0", "bond0.100"]);
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
    let redis = Balancer {
        name: "slb_redis_app".to_owned(),
        id: Some("lb-2ze8".to_owned()),
        vip: "192.0.2.10".parse().unwrap(),
    };
    assert_eq!(config.labels.balancers[0], redis);
    let [web] = &config.services[..] else { panic!("{:?}", config.services) };
    let ring_size = web.wishes.ring_size.as_ref().map(|size| size.value);
    assert_eq!((web.name.as_str(), ring_size, web.line), ("web", Some(Some(4093)), 40));
    assert_eq!(web.frontends[0].to_string(), "tcp://192.0.2.10:80");
    let backends: Vec<(SocketAddr, Option<u16>)> =
        web.backends.iter().map(|backend| (backend.address, backend.weight)).collect();
    assert_eq!(
        backends,
        [("10.0.0.1:8080".parse().unwrap(), None), ("10.0.0.2:8080".parse().unwrap(), Some(0))]
    );
}

#[test]
fn every_setting_of_a_service_can_be_made() {
    let config = Config::parse(FULL, "lb.toml").unwrap();
    let (policy, _) = Policy::agreed(std::iter::once(&*config.services[0].wishes));
    let mut shown = String::new();
    for row in policy.rows() {
        writeln!(shown, "{} = {} ({})", row.name, row.value, row.origin).unwrap();
    }
    assert_snapshot!(shown, @r#"
    affinity = client/24,56 (service `web` in lb.toml, line 40, `affinity`)
    unreachable = drop (service `web` in lb.toml, line 40, `unreachable`)
    drain_seconds = 10 s ([defaults] in lb.toml, `drain_seconds`)
    unhealthy_grace_seconds = 20 s (service `web` in lb.toml, line 40, `unhealthy_grace_seconds`)
    panic_percent = 30 % (service `web` in lb.toml, line 40, `panic_percent`)
    slow_start_seconds = 40 s (service `web` in lb.toml, line 40, `slow_start_seconds`)
    datagrams = answers (service `web` in lb.toml, line 40, `datagrams`)
    ring_size = 4093 (service `web` in lb.toml, line 40, `ring_size`)
    share = - (default)
    probe = https port 8443 HEAD /health, host web.example, server name web.internal, status 200-299,404, body with "well", certificate verified (service `web` in lb.toml, line 40, `probe.kind`)
    probe_interval_ms = 1 s ([defaults] in lb.toml, `probe.interval_ms`)
    probe_timeout_ms = 500 ms (service `web` in lb.toml, line 40, `probe.timeout_ms`)
    probe_initial_delay_ms = 100 ms (service `web` in lb.toml, line 40, `probe.initial_delay_ms`)
    probe_rise = 1 (service `web` in lb.toml, line 40, `probe.rise`)
    probe_fall = 4 (service `web` in lb.toml, line 40, `probe.fall`)
    probe_place = node (service `web` in lb.toml, line 40, `probe.place`)
    probe_initial = healthy (service `web` in lb.toml, line 40, `probe.initial`)
    scale = - (default)
    rolling_updates = - (default)
    depends = - (default)
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
    ];
    let mut texts = keys.map(|key| service(&format!("frontends = ['tcp://192.0.2.10:80']\n{key}")));
    texts[0] = "[defaults]\naffinity = 'cookie'\nweight = 3".to_owned();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_snapshot!(check(&texts), @r#"
    lb.toml:3:1: unknown key `weight`; known keys here: `affinity`, `unreachable`, `drain_seconds`, `unhealthy_grace_seconds`, `panic_percent`, `slow_start_seconds`, `datagrams`, `ring_size`, `probe`
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
    lb.toml:7:14: `timeout_ms` is 0; it must be from 50 to 86400000
    lb.toml:8:8: `rise` is 0; it must be from 1 to 1000
    lb.toml:9:8: `fall` is 1001; it must be from 1 to 1000
    lb.toml:5:9: the value `here` is none of auto, node, container
    lb.toml:6:11: the value `passing` is neither starting nor healthy
    lb.toml:7:20: `initial_delay_ms` is -1; it must be from 0 to 86400000
    lb.toml:6:1: unknown key `retries`; known keys here: `kind`, `port`, `path`, `method`, `host`, `status`, `body`, `server_name`, `verify`, `interval_ms`, `timeout_ms`, `initial_delay_ms`, `rise`, `fall`, `place`, `initial`
    "#);
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
    lb.toml:1:55: the address 2001:db8:: is IPv6, which is not balanced yet; use an IPv4 address
    lb.toml:1:72: the address 0.0.0.0 is in 0.0.0.0/8, where no host is; use the address of one host
    lb.toml:1:16: `198.18.0.1/24` has bits behind its prefix; write it like 198.18.0.0/24
    lb.toml:1:16: `198.18.0.0` is no subnet; write it like 198.18.0.0/24
    lb.toml:1:16: the pool 198.18.0.0/31 has a prefix of 31 bits; it must be from 8 to 30
    lb.toml:1:16: the VIP 198.18.0.7 lies in `routing_pool` 198.18.0.0/24, whose addresses are given to names; choose another
    lb.toml:2:8: `name` must be 1 to 128 characters without spaces and control characters
    lb.toml:3:12: `tcp://192.0.2.10`: after tcp:// comes an IP address and a port, like tcp://192.0.2.10:80
    lb.toml:1:1: the key `frontend` is missing here; add it
    lb.toml:1:91: tcp://192.0.2.10:80 is already the frontend of the name of line 1; a frontend has one service
    ");
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
    ]);
    assert_snapshot!(shown, @r#"
    lb.toml:2:1: unknown key `fornt`; known keys here: `front`, `pin_path`, `state_path`, `hash_seed`, `xdp`, `tc`, `api`, `docker`, `tables`, `label_vips`, `routing_pool`, `defaults`, `balancer`, `registrator`, `service`
    lb.toml:3:3: unknown key `modus`; known keys here: `mode`, `interfaces`
    lb.toml:2:8: unknown value `fast`; allowed: `auto`, `native`, `generic`, `off`
    lb.toml:1:1: wanted exactly 1 element, found 0 elements
    lb.toml:2:11: invalid type: string "yes", expected a boolean
    lb.toml:1:1: the key `vip` is missing here; add it
    lb.toml:4:11: unknown key `backends`; known keys here: `name`, `frontends`, `affinity`, `unreachable`, `drain_seconds`, `unhealthy_grace_seconds`, `panic_percent`, `slow_start_seconds`, `datagrams`, `ring_size`, `probe`, `backend`
    lb.toml:1:9: string values must be quoted, expected literal string
    lb.toml:2:1: missing comma between array elements, expected `,`
    lb.toml:2:1: the key `front` stands here a second time; keep one
    lb.toml:1:13: `hash_seed` is -1; it must not be negative
    "#);
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
    lb.toml:2:9: `a b` is no interface name; write it as `ip link` shows it, at most 15 characters
    ");
}

#[test]
fn balancers_are_checked() {
    let shown = check(&[
        "[[balancer]]\nname = 'a'\nvip = '192.0.2'",
        "[[balancer]]\nname = 'a'\nvip = '192.0.2.10/32'",
        "[[balancer]]\nname = 'a'\nvip = '2001:db8::1'",
        "[[balancer]]\nname = ''\nvip = '127.0.0.1'",
        "[[balancer]]\nname = 'a'\nvip = '224.0.0.1'\n[[balancer]]\nname = 'b'\nvip = '0.0.0.0'",
        "balancer = [{ name = 'a', vip = '192.0.2.10' }, { name = 'a', vip = '192.0.2.10' }]",
        "[[balancer]]\nname = 'a'\nvip = '192.0.2.10'\n[[balancer]]\nname = 'b'\nid = 'a'\nvip = '192.0.2.11'",
    ]);
    assert_snapshot!(shown, @"
    lb.toml:3:7: `192.0.2` is no IP address; `vip` is one address without port or prefix, like 192.0.2.10
    lb.toml:3:7: `192.0.2.10/32` is no IP address; `vip` is one address without port or prefix, like 192.0.2.10
    lb.toml:3:7: the VIP 2001:db8::1 is IPv6, which is not balanced yet; use an IPv4 address
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
fn services_are_checked() {
    let frontends = |urls: &str| service(&format!("frontends = [{urls}]"));
    let backend = |address: &str| {
        service(&format!("frontends = ['tcp://192.0.2.10:80']\n[[service.backend]]\n{address}"))
    };
    let texts = [
        frontends(""),
        frontends("'192.0.2.10:80'"),
        frontends("'udp://192.0.2.10:53'"),
        frontends("'http://192.0.2.10:80'"),
        frontends("'tcp://web:80'"),
        frontends("'tcp://192.0.2.10'"),
        frontends("'tcp://192.0.2.10:0'"),
        frontends("'tcp://192.0.2.10:65536'"),
        frontends("'tcp://[2001:db8::1]:80'"),
        frontends("'tcp://255.255.255.255:80'"),
        frontends("'tcp://192.0.2.10:80', 'tcp://192.0.2.10:80'"),
        frontends("'tcp://192.0.2.10:80'") + "\nring_size = 1000",
        backend("address = 'localhost:80'"),
        backend("address = '10.0.0.1'"),
        backend("address = '10.0.0.1:0'"),
        backend("address = '127.0.0.1:80'"),
        backend("address = '[2001:db8::1]:80'"),
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
    lb.toml:3:14: `udp://192.0.2.10:53`: UDP is not balanced yet; remove this frontend until the data path has UDP
    lb.toml:3:14: `http://192.0.2.10:80`: unknown scheme `http`; the schemes are: tcp
    lb.toml:3:14: `tcp://web:80`: after tcp:// comes an IP address and a port, like tcp://192.0.2.10:80
    lb.toml:3:14: `tcp://192.0.2.10`: after tcp:// comes an IP address and a port, like tcp://192.0.2.10:80
    lb.toml:3:14: port 0 does not exist; ports are 1 to 65535
    lb.toml:3:14: `tcp://192.0.2.10:65536`: after tcp:// comes an IP address and a port, like tcp://192.0.2.10:80
    lb.toml:3:14: the VIP 2001:db8::1 is IPv6, which is not balanced yet; use an IPv4 address
    lb.toml:3:14: the VIP 255.255.255.255 is a reserved or broadcast address; use the address of one host
    lb.toml:3:37: tcp://192.0.2.10:80 is already a frontend of the service of line 2; a frontend has one service
    lb.toml:4:13: `ring_size` is 1000; it must be one of 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071
    lb.toml:5:11: `localhost:80` is no address and port; write it like 10.0.0.1:8080 (names are not resolved)
    lb.toml:5:11: `10.0.0.1` is no address and port; write it like 10.0.0.1:8080 (names are not resolved)
    lb.toml:5:11: port 0 does not exist; ports are 1 to 65535
    lb.toml:5:11: the backend address 127.0.0.1 is a loopback address; use the address of one host
    lb.toml:5:11: the backend address 2001:db8::1 is IPv6, which is not balanced yet; use an IPv4 address
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
