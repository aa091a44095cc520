//! What people see, as snapshots.

#[cfg(feature = "agent")]
mod garbled;
mod json;
mod words;

use std::{net::IpAddr, sync::Arc};

use insta::assert_snapshot;

use super::*;
use crate::{
    api::types::{
        BackendCountersView, BackendCountsView, DropList, ReconcileView, RecordsView, RepliesView,
        ServingState, SocketsView, View, VipFrontendView, VipList,
    },
    api::{
        events::{ConflictView, EventView},
        steer::SteeringView,
    },
    model::{
        Affinity, BackendPath, BackendState, FrontendAddress, Origin, Policy, Ports, ProbeKind,
        Protocol, ServiceName, Setting,
    },
};

fn vip() -> IpAddr {
    [192, 0, 2, 10].into()
}

fn service_name() -> ServiceName {
    ServiceName("compose/shop/redis:6379".into())
}

fn frontend(port: u16) -> FrontendAddress {
    FrontendAddress {
        vip: vip(),
        protocol: Protocol::Tcp,
        ports: Ports::one(port).expect("a port"),
    }
}

fn vip_views() -> Vec<VipView> {
    let frontends = vec![
        VipFrontendView {
            protocol: Protocol::Tcp,
            ports: Ports::one(80).expect("a port"),
            service: ServiceName("file/web".into()),
            state: ServingState::Down,
        },
        VipFrontendView {
            protocol: Protocol::Tcp,
            ports: Ports::one(6379).expect("a port"),
            service: service_name(),
            state: ServingState::Serving,
        },
    ];
    let served = VipView {
        vip: vip(),
        balancers: vec!["slb_redis_app".to_owned()],
        names: vec!["redis.local".to_owned()],
        services: frontends.iter().map(|frontend| frontend.service.clone()).collect(),
        frontends,
        backends: BackendCountsView { healthy: 2, ..BackendCountsView::default() },
        state: ServingState::Down,
    };
    let idle = VipView {
        vip: "2001:db8::10".parse().expect("an address"),
        balancers: vec![],
        names: vec![],
        frontends: vec![],
        services: vec![],
        backends: BackendCountsView::default(),
        state: ServingState::Idle,
    };
    vec![served, idle]
}

const COUNTERS: BackendCountersView = BackendCountersView {
    packets_in: 10,
    bytes_in: 1023,
    packets_out: 9,
    bytes_out: 5_300_000,
    flows: 1204,
    refusals: 3,
};

fn backend_views() -> Vec<BackendView> {
    let backend = |replica: u8, state, share_percent, counters| BackendView {
        number: Some(u32::from(replica)),
        service: service_name(),
        place: replica.to_string(),
        display_name: format!("shop-redis-{replica}"),
        address: ([172, 18, 0, 1 + replica], 6379).into(),
        path: BackendPath::Local { ifindex: 40 + u32::from(replica) },
        weight: 100,
        weight_origin: Origin::Default,
        exclusive: Setting::default(),
        yields: false,
        state,
        state_reason: None,
        steering: None,
        probe: None,
        share_percent,
        replies: match replica {
            1 => Some(RepliesView::Fixed),
            2 => Some(RepliesView::Recorded { reason: "published by Docker".to_owned() }),
            _ => None,
        },
        counters,
        connections: (replica == 1).then_some(12),
        source: format!("container `shop-redis-{replica}`, label `aliyun.lb.port_6379`"),
    };
    let routed = BackendView {
        number: None,
        path: BackendPath::Routed,
        display_name: "10.0.0.1:8080".to_owned(),
        address: ([10, 0, 0, 1], 8080).into(),
        ..backend(3, BackendState::Healthy, 0.0, BackendCountersView::default())
    };
    vec![
        backend(1, BackendState::Healthy, 50.049, COUNTERS),
        backend(2, BackendState::Draining, 0.0, BackendCountersView::default()),
        routed,
    ]
}

#[test]
fn vip_list_has_a_line_per_frontend() {
    assert_snapshot!(vips(&vip_views()), @r#"
    VIP           BALANCER                   FRONTEND  SERVICE                  STATE
    192.0.2.10    slb_redis_app,redis.local  tcp/80    file/web                 down
    192.0.2.10    slb_redis_app,redis.local  tcp/6379  compose/shop/redis:6379  serving
    2001:db8::10  -                          -         -                        idle
    "#);
}

#[test]
fn empty_list_is_a_header() {
    assert_snapshot!(vips(&[]), @"VIP  BALANCER  FRONTEND  SERVICE  STATE");
}

#[test]
fn service_list_counts_what_does_not_fit() {
    let service = |name: ServiceName, ports: &[u16], ring_size| ServiceView {
        name,
        frontends: ports.iter().copied().map(frontend).collect(),
        protocols: vec![Protocol::Tcp],
        ring_size,
        replicas: None,
        backends: BackendCountsView { healthy: 2, draining: 1, ..BackendCountsView::default() },
        state: ServingState::Degraded,
        source: "docker".to_owned(),
        counters: COUNTERS,
        connections: Some(12),
    };
    let views = [
        service(service_name(), &[6379], Some(4093)),
        service(ServiceName("file/web".into()), &[80, 81, 82, 83], None),
    ];
    assert_snapshot!(services(&views), @"
    SERVICE                  FRONTENDS                                   RING  HEALTHY  STATE     CONNS  FLOWS     IN   OUT  SOURCE
    compose/shop/redis:6379  tcp://192.0.2.10:6379                       4093      2/3  degraded     12   1204  1023B  5.0M  docker
    file/web                 tcp://192.0.2.10:80 tcp://192.0.2.10:81 +2     -      2/3  degraded     12   1204  1023B  5.0M  docker
    ");
}

/// A service of which container 1 wishes something, and the file something else.
fn service_detail() -> ServiceDetail {
    let origin = |key| Origin::label("container `shop-redis-1`", key);
    let policy = Policy {
        affinity: Setting::new(
            Affinity::Client { prefix_v4: 24, prefix_v6: 64 },
            origin("lb.affinity"),
        ),
        drain_seconds: Setting::new(30, Origin::config("[defaults] in lb.toml", "drain_seconds")),
        probe: Setting::new(Some(ProbeKind::Tcp { port: None }), origin("lb.probe")),
        probe_interval_ms: Setting::new(
            10_000,
            Origin::environment("container `shop-redis-1`", "SERVICE_CHECK_INTERVAL"),
        ),
        depends: Setting::new(vec!["db".to_owned(), "cache".to_owned()], origin("aliyun.depends")),
        ..Policy::default()
    };
    let service = ServiceView {
        name: service_name(),
        frontends: vec![frontend(6379)],
        protocols: vec![Protocol::Tcp],
        ring_size: Some(4093),
        replicas: None,
        backends: BackendCountsView { healthy: 1, draining: 1, ..BackendCountsView::default() },
        state: ServingState::Degraded,
        source: "docker".to_owned(),
        counters: COUNTERS,
        connections: Some(12),
    };
    let mut backends = backend_views();
    backends.truncate(2);
    backends[0].weight_origin = origin("lb.weight");
    backends[0].exclusive = Setting::new(true, origin("lb.exclusive"));
    backends[1].weight = 0;
    backends[1].yields = true;
    let port = |port: u16, state| {
        let name = ServiceName(format!("compose/shop/db:{port}").into());
        ServiceView { name, state, ..service.clone() }
    };
    let others = [port(5432, ServingState::Serving), port(9187, ServingState::Down)];
    let view = View {
        services: [service.clone()].into_iter().chain(others).collect(),
        policies: [(service_name(), Arc::new(policy))].into(),
        backends,
        ..View::default()
    };
    assert_eq!(view.detail("compose/shop/redis"), None);
    view.detail("compose/shop/redis:6379").expect("the service")
}

#[test]
fn service_show_has_every_value_with_its_origin() {
    assert_snapshot!(service(&service_detail()), @"
    compose/shop/redis:6379 at tcp://192.0.2.10:6379
    degraded, 1/2 healthy, ring 4093, from docker
    12 connections, 1204 flows, 3 refused, in 10 packets 1023B, out 9 packets 5.0M

    SETTING                  VALUE            ORIGIN
    affinity                 client/24,64     container `shop-redis-1`, label `lb.affinity`
    unreachable              reject           default
    drain_seconds            30 s             [defaults] in lb.toml, `drain_seconds`
    unhealthy_grace_seconds  300 s            default
    panic_percent            10 %             default
    passive                  true             default
    slow_start_seconds       0 s              default
    datagrams                records          default
    visible                  node,containers  default
    prefer                   any              default
    ring_size                -                default
    share                    -                default
    probe                    tcp              container `shop-redis-1`, label `lb.probe`
    probe_interval_ms        10 s             container `shop-redis-1`, variable `SERVICE_CHECK_INTERVAL`
    probe_timeout_ms         2 s              default
    probe_initial_delay_ms   0 s              default
    probe_rise               2                default
    probe_fall               3                default
    probe_place              auto             default
    probe_initial            starting         default
    scale                    -                default
    rolling_updates          -                default
    depends                  db,cache         container `shop-redis-1`, label `aliyun.depends`

    DEPENDS ON  SERVICE               STATE
    db          compose/shop/db:5432  serving
    db          compose/shop/db:9187  down
    cache       -                     not known here

    BACKEND       ADDRESS          STATE     WEIGHT  ORIGIN                                       EXCLUSIVE                                             ASKED FOR BY
    shop-redis-1  172.18.0.2:6379  healthy      100  container `shop-redis-1`, label `lb.weight`  true, container `shop-redis-1`, label `lb.exclusive`  container `shop-redis-1`, label `aliyun.lb.port_6379`
    shop-redis-2  172.18.0.3:6379  draining       0  yields to an exclusive one; else default     -                                                     container `shop-redis-2`, label `aliyun.lb.port_6379`
    ");
}

#[test]
fn service_show_without_backends_is_short() {
    let mut detail = service_detail();
    detail.members.clear();
    detail.settings.truncate(1);
    detail.dependencies.clear();
    detail.service.ring_size = None;
    assert_snapshot!(service(&detail), @"
    compose/shop/redis:6379 at tcp://192.0.2.10:6379
    degraded, 1/2 healthy, no ring, from docker
    12 connections, 1204 flows, 3 refused, in 10 packets 1023B, out 9 packets 5.0M

    SETTING   VALUE         ORIGIN
    affinity  client/24,64  container `shop-redis-1`, label `lb.affinity`
    ");
}

#[test]
fn backend_list_shows_share_and_traffic() {
    assert_snapshot!(backends(&backend_views(), false), @"
    SERVICE                  BACKEND        ADDRESS          WEIGHT  SHARE  STATE     REPLIES                         CONNS  FLOWS     IN   OUT
    compose/shop/redis:6379  shop-redis-1   172.18.0.2:6379     100  50.0%  healthy   fixed                              12   1204  1023B  5.0M
    compose/shop/redis:6379  shop-redis-2   172.18.0.3:6379     100   0.0%  draining  recorded (published by Docker)      -      0     0B    0B
    compose/shop/redis:6379  10.0.0.1:8080  10.0.0.1:8080       100   0.0%  healthy   -                                   -      0     0B    0B
    ");
}

#[test]
fn backend_list_of_one_service_leaves_its_name_out() {
    assert_snapshot!(backends(&backend_views()[..1], true), @"
    BACKEND       ADDRESS          WEIGHT  SHARE  STATE    REPLIES  CONNS  FLOWS     IN   OUT
    shop-redis-1  172.18.0.2:6379     100  50.0%  healthy  fixed       12   1204  1023B  5.0M
    ");
}

fn table_views() -> Vec<TableView> {
    let table = |name: &str, used, limit, trouble: Option<&str>| TableView {
        name: name.to_owned(),
        used,
        limit,
        trouble: trouble.map(str::to_owned),
    };
    vec![
        table("services", 2, 4096, None),
        table("frontends_v4", 13_500, 16_384, Some("nearly full; move services to other nodes")),
    ]
}

fn verdict_views() -> Vec<VerdictView> {
    [("tc_front", "deliver", 1204), ("tc_front", "drop", 4), ("tc_reply", "pass", 9)]
        .map(|(hook, verdict, packets)| VerdictView {
            hook: hook.to_owned(),
            verdict: verdict.to_owned(),
            packets,
        })
        .into()
}

fn sockets_view() -> SocketsView {
    let cgroup = Some("/sys/fs/cgroup".to_owned());
    SocketsView { cgroup, clients: vec!["web".to_owned()], ..SocketsView::default() }
}

fn front_view() -> FrontView {
    FrontView {
        interface: "eth0".to_owned(),
        tc: "tcx".to_owned(),
        xdp: "native".to_owned(),
        without_xdp: None,
        trouble: None,
    }
}

fn front_without_xdp() -> FrontView {
    FrontView {
        interface: "eth1".to_owned(),
        xdp: "off".to_owned(),
        without_xdp: Some("the driver has none".to_owned()),
        ..front_view()
    }
}

fn provider_views() -> Vec<ProviderView> {
    let trouble = "cannot reach `/var/run/docker.sock`; trying again".to_owned();
    [("docker", ProviderState::Trouble, Some(trouble), 12), ("file", ProviderState::Ok, None, 1)]
        .map(|(name, state, trouble, claims)| ProviderView {
            name: name.to_owned(),
            state,
            trouble,
            claims,
        })
        .into()
}

fn status_view() -> StatusView {
    StatusView {
        version: "0.1.0".to_owned(),
        abi_version: 1,
        uptime_seconds: 93_784,
        providers: provider_views(),
        fronts: vec![front_view(), front_without_xdp()],
        sockets: sockets_view(),
        records: Some(RecordsView { flows_v4: 17, limit: 131_072, ..RecordsView::default() }),
        tables: table_views(),
        drops: vec![DropView { reason: "no_backend".to_owned(), packets: 4 }],
        verdicts: verdict_views(),
        passive: Vec::new(),
        refusals: vec![RefusalView {
            refused_by: RefusedBy::Provider,
            object: "container `a\u{1b}[31mb`".to_owned(),
            key: Some("aliyun.lb.port_80".to_owned()),
            message: "port 99999 is out of range 1 to 65535".to_owned(),
        }],
        reconcile: ReconcileView {
            rounds: 3,
            actions: 42,
            failed_actions: 1,
            latest_duration_us: 812,
            retry_in_seconds: Some(2),
            ..ReconcileView::default()
        },
        ..StatusView::default()
    }
}

#[test]
fn status_says_what_is_wrong() {
    let view = status_view();
    assert_snapshot!(status(&view), @r#"
    lb-agent 0.1.0, ABI 1, up 1d2h
    rounds 3, actions 42, latest round 812 us, 1 refused by the kernel (again in 2 s)
    recorded flows 17 IPv4, 0 IPv6, their replies 0, 0, of 131072 each
    socket calls below /sys/fs/cgroup, containers known 1

    PROVIDER  STATE    CLAIMS  TROUBLE
    docker    trouble      12  cannot reach `/var/run/docker.sock`; trying again
    file      ok            1

    FRONT  TC   XDP     TROUBLE
    eth0   tcx  native
    eth1   tcx  off
    eth1 runs without XDP: the driver has none

    TABLE          USED  LIMIT  FULL  TROUBLE
    services          2   4096    0%
    frontends_v4  13500  16384   82%  nearly full; move services to other nodes

    HOOK      PASS  DELIVER  ROUTE  REPLY  DROP  ANSWER
    tc_front     0     1204      0      0     4       0
    tc_reply     9        0      0      0     0       0

    drops:
      no_backend 4

    not granted:
      invalid: container `a\u{1b}[31mb`, `aliyun.lb.port_80`: port 99999 is out of range 1 to 65535
    "#);
}

#[test]
fn drop_reasons_say_where_to_look() {
    let counted = [("no_frontend", 12), ("ttl_exceeded", 3)];
    let counted = counted.map(|(reason, packets)| DropView { reason: reason.to_owned(), packets });
    let list = DropList::new(&counted);
    assert_snapshot!(drops(&list.drops, false), @r#"
    PACKETS  REASON        WHAT HAPPENED                                                            WHAT TO LOOK AT
          3  ttl_exceeded  The packet's TTL is used up; this node would have been one router more.  A routing loop, or a traceroute.
         12  no_frontend   The VIP has no frontend at this port.                                    The client's port; `lbctl service list`.
    "#);
    // The header, and every reason but none.
    let all = drops(&list.drops, true);
    assert_eq!(all.lines().count(), lb_common::abi::DropReason::ALL.len());
    assert_eq!(drops(&DropList::new(&[]).drops, false).lines().count(), 1);
}

#[test]
fn quiet_status_is_short() {
    let view = StatusView { version: "0.1.0".to_owned(), ..StatusView::default() };
    assert_snapshot!(status(&view), @r#"
    lb-agent 0.1.0, ABI 0, up 0s
    rounds 0, actions 0, latest round 0 us, 0 refused by the kernel
    "#);
}
