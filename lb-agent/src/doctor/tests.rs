//! Reports as operators see them.

use std::{collections::BTreeMap, path::PathBuf};

use insta::assert_snapshot;

use super::{
    Level, examine,
    facts::{
        AgentFacts, CgroupFacts, DockerFacts, Facts, InterfaceFacts, KernelFacts, NameFacts,
        RawSockets, Route, Running, SocketFileFacts, Stranger,
    },
};
use crate::{
    api::types::{
        BackendCountsView, CallerList, CallerView, FrontView, NameServerView, ProgramView,
        ProviderState, ProviderView, RefusalView, RefusedBy, ServingState, SocketsView, TableView,
        UnreachedView, VipFrontendView, VipView,
    },
    model::{Ports, Protocol, ServiceName, UNSEEN_ROUTE_METRIC},
};

fn caller(name: &str, pid: u32, network: &str, address: &str) -> CallerView {
    let addresses = [address.parse().expect("an address")].into();
    let networks = BTreeMap::from([(network.to_owned(), addresses)]);
    CallerView { name: name.to_owned(), pid, is_known: true, is_node: false, networks }
}

fn vip(address: &str) -> VipView {
    let service = ServiceName("compose/shop/web:80".into());
    VipView {
        vip: address.parse().expect("an address"),
        balancers: Vec::new(),
        names: Vec::new(),
        frontends: vec![VipFrontendView {
            protocol: Protocol::Tcp,
            ports: Ports::one(80).expect("a port"),
            service: service.clone(),
            state: ServingState::Serving,
        }],
        services: vec![service],
        backends: BackendCountsView::default(),
        state: ServingState::Serving,
    }
}

fn running() -> Running {
    let mut running = Running {
        vips: vec![vip("10.96.0.10")],
        callers: CallerList {
            is_node_known: true,
            is_complete: true,
            callers: vec![
                caller("client", 70, "shop", "172.18.0.2"),
                caller("web-1", 71, "shop", "172.18.0.3"),
            ],
            isolated: Vec::new(),
            unreached: Vec::new(),
        },
        ..Running::default()
    };
    running.programs.programs =
        vec![program("eth0", "tcx ingress", "lb_tc_front"), program("eth1", "xdp", "odd")];
    let status = &mut running.status;
    status.version = "1.2.3".to_owned();
    status.abi_version = 1;
    status.uptime_seconds = 90;
    status.providers.push(ProviderView {
        name: "docker".to_owned(),
        state: ProviderState::Ok,
        trouble: None,
        claims: 2,
    });
    status.fronts.push(FrontView {
        interface: "eth0".to_owned(),
        tc: "tcx".to_owned(),
        xdp: "off".to_owned(),
        without_xdp: None,
        trouble: None,
    });
    status.sockets =
        SocketsView { cgroup: Some("/sys/fs/cgroup".to_owned()), ..SocketsView::default() };
    running
}

fn route(prefix: &str, interface: &str, gateway: Option<&str>) -> Route {
    Route {
        prefix: prefix.parse().expect("a prefix"),
        interface: interface.to_owned(),
        gateway: gateway.map(|it| it.parse().expect("an address")),
        metric: 0,
        is_refused: false,
    }
}

/// One of the agent's.
fn refused(prefix: &str) -> Route {
    Route { metric: UNSEEN_ROUTE_METRIC, is_refused: true, ..route(prefix, "*", None) }
}

fn program(interface: &str, hook: &str, name: &str) -> ProgramView {
    ProgramView {
        interface: interface.to_owned(),
        hook: hook.to_owned(),
        name: name.to_owned(),
        id: 7,
        is_ours: name.starts_with("lb_"),
    }
}

/// A node on which all is well.
fn facts(running: Running) -> Facts {
    let interface = InterfaceFacts {
        exists: true,
        state: "up".to_owned(),
        is_physical: false,
        reverse_path_filter: Some(0),
    };
    let mut facts = Facts {
        version: "1.2.3".to_owned(),
        agent: AgentFacts::Running(Box::new(running)),
        kernel: KernelFacts {
            release: Some("6.18.44".to_owned()),
            has_jit: Some(true),
            has_bpffs: Some(true),
        },
        cgroup: CgroupFacts {
            root: Some(PathBuf::from("/sys/fs/cgroup")),
            path: Some(PathBuf::from("/sys/fs/cgroup")),
            relative: Some("/".to_owned()),
            exists: true,
        },
        interfaces: BTreeMap::from([("eth0".to_owned(), interface)]),
        forwarding: [Some(true), Some(false)],
        routes: vec![
            route("0.0.0.0/0", "eth0", Some("192.0.2.254")),
            route("192.0.2.0/24", "eth0", None),
            refused("10.96.0.10/32"),
        ],
        docker: DockerFacts { version: Some(Ok("28.5.1".to_owned())) },
        socket: SocketFileFacts {
            path: PathBuf::from("/run/lb-agent/api.sock"),
            mode: Some(0o140_660),
            group: "lb".to_owned(),
            owner: 0,
        },
        ..Facts::default()
    };
    facts.processes.count = 120;
    facts
}

/// What is not as it should be.
fn troubles(facts: &Facts) -> String {
    let mut report = examine(facts);
    report.findings.retain(|finding| finding.level != Level::Ok);
    report.to_string()
}

#[test]
fn a_node_on_which_all_is_well() {
    let report = examine(&facts(running()));
    assert_eq!(report.worst(), Level::Ok);
    assert_snapshot!(report.to_string(), @r#"
    ok       firewall    packets to virtual addresses are forwarded before netfilter: no rule in FORWARD, DOCKER-USER, nftables or firewalld applies to them; filter in front of the node
    ok       agent       lb-agent 1.2.3 with ABI 1, up 90 s
    ok       api         `/run/lb-agent/api.sock`, mode 660, group lb
    ok       docker      followed; Docker 28.5.1, 2 claims
    ok       kernel      Linux 6.18.44
    ok       front       `eth0`: TC by tcx, XDP off (a virtual link, on which TC is the faster way)
    ok       forwarding  net.ipv4.ip_forward=1; net.ipv6.conf.all.forwarding=0
    ok       cgroup      attached to `/sys/fs/cgroup`
    ok       outside     all of 120 processes are in the cgroup
    ok       runtimes    every network namespace is the node's or a container's
    ok       callers     the node and 2 containers are told apart
    ok       networks    every container reaches every service
    ok       names       not answered: `listen` in [names] is empty
    ok       vip         1 virtual addresses, none of which is somebody's own
    ok       routes      nothing else on this node leads to a virtual address; 1 of 1 end here for packets that no call has announced (`ip route show proto 108`)
    ok       programs    ours alone, on 1 interface
    ok       software    no other balancer was noticed
    ok       granted     all that was asked for
    18 ok, 0 warnings, 0 errors
    "#);
}

#[test]
fn without_an_agent_the_node_is_examined_all_the_same() {
    let mut facts = facts(Running::default());
    facts.agent = AgentFacts::NotRunning("the agent is not running: nobody answers".to_owned());
    facts.socket.mode = None;
    facts.docker.version = Some(Err("nobody listens at its socket".to_owned()));
    facts.cgroup.path = Some(PathBuf::from("/sys/fs/cgroup/absent"));
    facts.cgroup.exists = false;
    facts.kernel.release = Some("5.10.0-28-amd64".to_owned());
    facts.kernel.has_jit = Some(false);
    facts.kernel.has_bpffs = Some(false);
    facts.interfaces.get_mut("eth0").expect("it").state = "down".to_owned();
    facts.interfaces.insert("eth9".to_owned(), InterfaceFacts::default());
    assert_eq!(examine(&facts).worst(), Level::Error);
    assert_snapshot!(troubles(&facts), @r#"
    error    agent       the agent is not running: nobody answers
                         why: packets and socket calls are balanced as it left them; nothing follows Docker, no probe is made, and a backend that dies stays in use
                         do:  `systemctl start lb-agent`; `journalctl -u lb-agent` says why it ended
    error    api         there is no socket at `/run/lb-agent/api.sock`
                         why: no agent listens there
                         do:  start the agent, or say where its socket is by --socket or LB_SOCKET
    error    docker      `unix:///var/run/docker.sock`: nobody listens at its socket
                         why: containers are neither served nor known as callers
                         do:  start Docker, or set `endpoint` in [docker] of the config
    warning  kernel      Linux 5.10.0-28-amd64
                         why: callers are told apart by a call of the agent's own, which works only below `path` in [cgroup]; a refused socket call is `EPERM`, whatever the reason; TC programs are filters on `clsact`, which others can remove
                         do:  a newer kernel has what is missing; everything else works as it is
    warning  kernel      net.core.bpf_jit_enable is 0
                         why: every packet is interpreted, at several times the cost
                         do:  `sysctl net.core.bpf_jit_enable=1`, and restart the agent
    warning  kernel      no bpffs is mounted at /sys/fs/bpf
                         why: pins of the agent are what keeps the traffic flowing without it
                         do:  `mount -t bpf bpf /sys/fs/bpf`; systemd does it at boot
    error    front       `eth0` is down
                         why: no client comes in by it
                         do:  `ip link set eth0 up`, or see to its cable
    error    front       there is no interface `eth9`
                         why: no client comes in by it
                         do:  correct `front` in the config; `ip link` lists what there is
    error    cgroup      `/sys/fs/cgroup/absent` is no directory of the cgroup v2 at `/sys/fs/cgroup`
                         why: containers and the node itself do not reach virtual addresses by socket calls
                         do:  correct `path` in [cgroup] of the config
    0 ok, 3 warnings, 6 errors
    "#);
}

/// Its configuration may be another than the one that doctor was given, or found.
#[test]
fn docker_that_the_running_agent_does_not_follow_may_be_away() {
    let mut running = running();
    running.status.providers.retain(|provider| provider.name != "docker");
    let mut facts = facts(running);
    facts.docker.version = Some(Err("there is no socket".to_owned()));
    assert_snapshot!(troubles(&facts), @"0 ok, 0 warnings, 0 errors");
}

#[test]
fn whose_calls_are_not_seen_is_said() {
    let mut running = running();
    running
        .callers
        .callers
        .push(CallerView { is_known: false, ..caller("odd", 72, "other", "172.19.0.2") });
    running.callers.unreached.push(UnreachedView {
        service: ServiceName("compose/shop/web:80".into()),
        not_visible: vec!["client".to_owned()],
        other_network: vec!["a".to_owned(), "b".to_owned()],
    });
    let mut facts = facts(running);
    facts.cgroup.relative = Some("/lb".to_owned());
    facts.processes.outside = BTreeMap::from([("sshd".to_owned(), 2), ("bash".to_owned(), 3)]);
    facts.processes.unreadable = 1;
    facts.processes.strangers.push(Stranger {
        process: "conmon".to_owned(),
        pid: 99,
        cgroup: "/machine.slice/libpod-1.scope".to_owned(),
    });
    let sockets = |owner: &str| RawSockets { owner: owner.to_owned(), raw: 1, packet: 2 };
    facts.processes.raw = vec![sockets(""), sockets("client")];
    assert_snapshot!(troubles(&facts), @r#"
    warning  outside     5 of 120 processes are not in the cgroup `/lb`: `bash`, `sshd`
                         why: their calls to a virtual address are not translated: they are packets, which are told that they do not arrive (`refuses_unseen` in [cgroup])
                         do:  leave `path` in [cgroup] out, which means all processes, or start them in that cgroup
    warning  runtimes    1 network namespace of no container that Docker tells of: `conmon (pid 99 in libpod-1.scope)`
                         why: whoever calls from there counts as a container on no network: it sees services that are visible to `containers` or `all`, and may be led to backends that it cannot reach; its sockets are not ended when a backend goes
                         do:  run them by this node's Docker, or narrow `lb.visible` of the services
    warning  runtimes    the namespaces of 1 process cannot be read
                         why: other container runtimes may not be noticed
                         do:  run `lbctl doctor` as root
    warning  raw         raw or packet sockets in `client`
                         why: what they send to a virtual address is packets, and no call
                         do:  `--cap-drop NET_RAW`, unless the container is meant to send its own packets
    warning  callers     cannot be told apart: `odd`
                         why: they see what every container sees, whatever networks they are on
                         do:  `journalctl -u lb-agent` says why
    warning  networks    no backend is reached: `compose/shop/web:80 from a, b`
                         why: they are on none of the backends' networks, or Docker lets the containers there not talk to one another (`icc=false`): their calls are refused with EHOSTUNREACH (`other_network`)
                         do:  `docker network connect` them, or narrow `lb.visible` so that it is meant; `routes_across` in [cgroup] where the host's firewall lets them through
    0 ok, 6 warnings, 0 errors
    "#);
}

#[test]
fn calls_that_are_not_translated_and_sockets_that_do_not_end_are_said() {
    let mut running = running();
    running.status.sockets = SocketsView {
        trouble: Some("`/sys/fs/cgroup/lb` cannot be used".to_owned()),
        unended: Some("this kernel ends no sockets".to_owned()),
        ..SocketsView::default()
    };
    assert_snapshot!(troubles(&facts(running)), @r#"
    error    cgroup      `/sys/fs/cgroup/lb` cannot be used
                         why: containers and the node itself do not reach virtual addresses by socket calls
                         do:  set it right, which the agent sees within ten seconds; or correct `path` in [cgroup] of the config, and restart the agent
    warning  ends        this kernel ends no sockets
                         why: a program that waits for a backend that is gone is not told so
                         do:  `docs/operations.md` names the options and modules of the kernel
    0 ok, 1 warnings, 1 errors
    "#);
}

#[test]
fn names_that_do_not_resolve_are_said() {
    let mut running = running();
    let server = |address: &str, trouble: Option<&str>| NameServerView {
        address: address.parse().expect("an address"),
        trouble: trouble.map(str::to_owned),
    };
    running.status.names.servers =
        vec![server("172.17.0.1:53", None), server("172.18.0.1:53", Some("Address in use"))];
    let mut facts = facts(running);
    let told = |address: &str, trouble: Option<&str>| NameFacts {
        address: address.parse().expect("an address"),
        trouble: trouble.map(str::to_owned),
    };
    facts.names = vec![
        told("172.17.0.1:53", Some("it does not answer")),
        told("172.18.0.1:53", Some("connection refused")),
    ];
    assert_snapshot!(troubles(&facts), @r#"
    error    names       172.17.0.1:53: it does not answer
                         why: names of services do not resolve there
                         do:  see `listen` in [names] of the config, and who else has the port: `ss -lunp`
    error    names       172.18.0.1:53: Address in use
                         why: names of services do not resolve there
                         do:  see `listen` in [names] of the config, and who else has the port: `ss -lunp`
    warning  names       0 containers have asked so far; not yet: `client`, `web-1`
                         why: names of services resolve only where the agent is asked for them
                         do:  set `dns` in Docker's daemon.json, or `--dns`, to an address of `listen`
    0 ok, 1 warnings, 2 errors
    "#);
}

#[test]
fn who_else_has_addresses_and_packets_is_said() {
    let mut running = running();
    running.vips.extend([vip("172.18.0.3"), vip("127.0.0.10"), vip("192.0.2.1")]);
    running.status.refusals.push(RefusalView {
        refused_by: RefusedBy::Kernel,
        object: "backend 10.0.0.1:80".to_owned(),
        key: None,
        message: "no space".to_owned(),
    });
    running.status.tables.push(TableView {
        name: "services".to_owned(),
        used: 4000,
        limit: 4096,
        trouble: Some("move services to other nodes".to_owned()),
    });
    running.status.version = "1.2.2".to_owned();
    let mut facts = facts(running);
    facts.addresses = ["192.0.2.1".parse().expect("an address")].into();
    facts.ipvs =
        Some(vec!["10.96.0.10:80".parse().expect("one"), "10.96.0.10:81".parse().expect("one")]);
    facts.software = BTreeMap::from([("kube-proxy".to_owned(), "runs as process 7".to_owned())]);
    facts.socket.mode = Some(0o140_666);
    facts.config.trouble = Some("`/etc/lb/lb.toml`: expected `=`".to_owned());
    assert_snapshot!(troubles(&facts), @"
    warning  agent       lb-agent 1.2.2 with ABI 1, up 90 s; this is lbctl 1.2.3
                         why: fields that one of them does not know are not shown
                         do:  restart the agent after an update: the traffic goes on meanwhile
    error    api         `/run/lb-agent/api.sock`, mode 666, group lb, owner 0
                         why: whoever may write to it steers the traffic of this node
                         do:  restart the agent, which makes it anew, for root and one group
    error    vip         172.18.0.3 is the address of container `web-1`
                         why: at the service's ports calls go to the service and not to the container; packets from outside to its other ports are refused
                         do:  give the service another address, or the container's network another subnet
    warning  vip         127.0.0.10 is a loopback address
                         why: only socket calls reach it, those of containers too, which then do not reach their own programs at its ports
                         do:  give the service an address of its own
    warning  vip         192.0.2.1 is an address of this node
                         why: ports of services hide those of the node's own programs and of its own connections; what else comes from outside is the node's if it calls from this address, and is refused if the address is there for others (of keepalived, or on `lo`)
                         do:  give the service an address of its own, unless that is meant
    warning  ipvs        also serves `10.96.0.10:80`
                         why: lb comes first: new connections are ours, and those that IPVS has already break
                         do:  remove them there (`ipvsadm -D`), or here
    warning  software    kube-proxy: runs as process 7
                         why: it handles the same packets or calls; which of the two comes first varies
                         do:  let each have interfaces and addresses of its own
    error    config      `/etc/lb/lb.toml`: expected `=`
                         why: what was read before stays in force
                         do:  `lb-agent check` says all that is wrong
    error    granted     1 wish was not granted; the first: backend 10.0.0.1:80: no space
                         why: what was refused is not served
                         do:  `lbctl status` lists all
    warning  tables      `services` is full to 97 %
                         why: what has no room is not served
                         do:  move services to other nodes
    0 ok, 6 warnings, 4 errors
    ");
}

#[test]
fn other_ways_of_packets_are_said() {
    let mut running = running();
    running.vips.extend([vip("192.0.2.9"), vip("172.18.0.99"), vip("10.96.0.77"), vip("fd00::9")]);
    running.programs.programs.extend([
        program("eth0", "tc ingress", "netobserv_flows"),
        program("veth1", "tcx ingress", "cil_from_contai"),
        program("veth1", "tcx ingress", "lb_tc_reply"),
        program("veth1", "tcx egress", "meter"),
        program("veth2", "tcx ingress", "cil_from_contai"),
        program("veth2", "tcx ingress", "lb_tc_reply"),
        program("veth2", "tcx egress", "meter"),
    ]);
    let mut facts = facts(running);
    facts.routes.extend([
        route("172.18.0.0/16", "docker0", None),
        route("10.96.0.77/32", "eth1", Some("192.0.2.3")),
        refused("10.96.0.77/32"),
        refused("10.96.0.50/32"),
        route("fd00::9/128", "lo", None),
    ]);
    let ways = |facts: &Facts| {
        let mut report = examine(facts);
        report.findings.retain(|it| ["routes", "programs"].contains(&it.check.as_str()));
        report.to_string()
    };
    assert_snapshot!(ways(&facts), @r#"
    warning  routes      1 `unreachable` route (`10.96.0.50`) of the agent's to no virtual address
                         why: whatever this node sends there is told that it does not arrive
                         do:  restart the agent, which looks again; or `ip route del unreachable 10.96.0.50 proto 108`
    warning  routes      this node routes 10.96.0.77 to 192.0.2.3 by `eth1`
                         why: packets of this node that no socket call has announced go there; calls and clients that come in are served here all the same
                         do:  leave it, if another machine serves the address, too; else see who made it: `ip route get` the address
    warning  routes      172.18.0.99 is in 172.18.0.0/16, the subnet of `docker0`
                         why: Docker, or whoever gives addresses there, may give it to somebody; packets that no socket call has announced go there
                         do:  give the service an address outside of that subnet
    warning  routes      192.0.2.9 is in 192.0.2.0/24, the subnet of `eth0`
                         why: whoever is in that subnet asks who has the address, and nobody answers: it is not an address of this node
                         do:  `ip addr add 192.0.2.9/32 dev lo`, upon which Linux answers for it; or let the router and all machines of the subnet have a route to it by this node
    warning  programs    on `veth1`, `veth2`, too: `cil_from_contai` of Cilium (tcx ingress, before ours), `meter` (tcx egress, after ours)
                         why: what comes before ours may take, change or drop packets that are to be balanced
                         do:  let each have interfaces of its own, or restart the other: what attaches last runs last, unless it asks to be first
    ok       programs    on `eth0`, too: `netobserv_flows` of NetObserv (tc ingress, after ours), which get what is not ours
    1 ok, 5 warnings, 0 errors
    "#);
    facts.agent = AgentFacts::NotRunning("the agent is not running".to_owned());
    assert_snapshot!(ways(&facts), @r#"
    ok       routes      3 `unreachable` routes (`10.96.0.10`, `10.96.0.50`, `10.96.0.77`) of the agent's stay without it
    1 ok, 0 warnings, 0 errors
    "#);
    let mut unable = self::running();
    unable.programs.trouble = Some("the programs on interfaces cannot be listed: EPERM".to_owned());
    assert_snapshot!(ways(&self::facts(unable)), @r#"
    ok       routes      nothing else on this node leads to a virtual address; 1 of 1 end here for packets that no call has announced (`ip route show proto 108`)
    warning  programs    the programs on interfaces cannot be listed: EPERM
                         why: who else handles the same packets is not known
                         do:  `bpftool net` shows it
    1 ok, 1 warnings, 0 errors
    "#);
}
