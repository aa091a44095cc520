//! What people see, as snapshots.

use std::net::IpAddr;

use insta::assert_snapshot;

use super::*;
use crate::{
    api::types::{
        BackendCountersView, DropList, ReconcileView, RecordsView, VipFrontendView, VipList,
    },
    model::{BackendPath, BackendState, Ports, Protocol, ServiceName},
};

fn vip() -> IpAddr {
    [192, 0, 2, 10].into()
}

fn service_name() -> ServiceName {
    ServiceName("compose/shop/redis:6379".to_owned())
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
            service: ServiceName("file/web".to_owned()),
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
        services: frontends.iter().map(|frontend| frontend.service.clone()).collect(),
        frontends,
        backends: BackendCountsView { healthy: 2, ..BackendCountsView::default() },
        state: ServingState::Down,
    };
    let idle = VipView {
        vip: "2001:db8::10".parse().expect("an address"),
        balancers: vec![],
        frontends: vec![],
        services: vec![],
        backends: BackendCountsView::default(),
        state: ServingState::Idle,
    };
    vec![served, idle]
}

fn backend_views() -> Vec<BackendView> {
    let backend = |replica: u8, state, share_percent, counters| BackendView {
        number: Some(u32::from(replica)),
        service: service_name(),
        place: replica.to_string(),
        display_name: format!("shop-redis-{replica}"),
        address: ([172, 18, 0, 1 + replica], 6379).into(),
        path: BackendPath::Local { ifindex: 40 + u32::from(replica) },
        weight: 100,
        state,
        share_percent,
        counters,
        source: format!("container `shop-redis-{replica}`, label `aliyun.lb.port_6379`"),
    };
    let counters = BackendCountersView {
        packets_in: 10,
        bytes_in: 1023,
        packets_out: 9,
        bytes_out: 5_300_000,
        flows: 1204,
    };
    let routed = BackendView {
        number: None,
        path: BackendPath::Routed,
        display_name: "10.0.0.1:8080".to_owned(),
        address: ([10, 0, 0, 1], 8080).into(),
        ..backend(3, BackendState::Healthy, 0.0, BackendCountersView::default())
    };
    vec![
        backend(1, BackendState::Healthy, 50.049, counters),
        backend(2, BackendState::Draining, 0.0, BackendCountersView::default()),
        routed,
    ]
}

#[test]
fn vip_list_has_a_line_per_frontend() {
    assert_snapshot!(vips(&vip_views()), @r#"
    VIP           BALANCER       FRONTEND  SERVICE                  STATE
    192.0.2.10    slb_redis_app  tcp/80    file/web                 down
    192.0.2.10    slb_redis_app  tcp/6379  compose/shop/redis:6379  serving
    2001:db8::10  -              -         -                        idle
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
        backends: BackendCountsView { healthy: 2, draining: 1, ..BackendCountsView::default() },
        state: ServingState::Degraded,
        source: "docker".to_owned(),
    };
    let views = [
        service(service_name(), &[6379], Some(4093)),
        service(ServiceName("file/web".to_owned()), &[80, 81, 82, 83], None),
    ];
    assert_snapshot!(services(&views), @r#"
    SERVICE                  FRONTENDS                                   RING  HEALTHY  STATE     SOURCE
    compose/shop/redis:6379  tcp://192.0.2.10:6379                       4093      2/3  degraded  docker
    file/web                 tcp://192.0.2.10:80 tcp://192.0.2.10:81 +2     -      2/3  degraded  docker
    "#);
}

#[test]
fn backend_list_shows_share_and_traffic() {
    assert_snapshot!(backends(&backend_views(), false), @r#"
    SERVICE                  BACKEND        ADDRESS          WEIGHT  SHARE  STATE     FLOWS     IN   OUT
    compose/shop/redis:6379  shop-redis-1   172.18.0.2:6379     100  50.0%  healthy    1204  1023B  5.0M
    compose/shop/redis:6379  shop-redis-2   172.18.0.3:6379     100   0.0%  draining      0     0B    0B
    compose/shop/redis:6379  10.0.0.1:8080  10.0.0.1:8080       100   0.0%  healthy       0     0B    0B
    "#);
}

#[test]
fn backend_list_of_one_service_leaves_its_name_out() {
    assert_snapshot!(backends(&backend_views()[..1], true), @r#"
    BACKEND       ADDRESS          WEIGHT  SHARE  STATE    FLOWS     IN   OUT
    shop-redis-1  172.18.0.2:6379     100  50.0%  healthy   1204  1023B  5.0M
    "#);
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

#[test]
fn status_says_what_is_wrong() {
    let view = StatusView {
        version: "0.1.0".to_owned(),
        abi_version: 1,
        uptime_seconds: 93_784,
        providers: vec![
            ProviderView {
                name: "docker".to_owned(),
                state: ProviderState::Trouble,
                trouble: Some("cannot reach `/var/run/docker.sock`; trying again".to_owned()),
                claims: 12,
            },
            ProviderView {
                name: "file".to_owned(),
                state: ProviderState::Ok,
                trouble: None,
                claims: 1,
            },
        ],
        fronts: vec![FrontView {
            interface: "eth0".to_owned(),
            tc: "tcx".to_owned(),
            xdp: "native".to_owned(),
            trouble: None,
        }],
        records: Some(RecordsView { flows_v4: 17, limit: 131_072, ..RecordsView::default() }),
        tables: table_views(),
        drops: vec![DropView { reason: "no_backend".to_owned(), packets: 4 }],
        verdicts: verdict_views(),
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
        },
    };
    assert_snapshot!(status(&view), @r#"
    lb-agent 0.1.0, ABI 1, up 1d2h
    rounds 3, actions 42, latest round 812 us, 1 refused by the kernel (again in 2 s)
    recorded flows 17 IPv4, 0 IPv6, their replies 0, 0, of 131072 each

    PROVIDER  STATE    CLAIMS  TROUBLE
    docker    trouble      12  cannot reach `/var/run/docker.sock`; trying again
    file      ok            1

    FRONT  TC   XDP     TROUBLE
    eth0   tcx  native

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

#[test]
fn json_is_stable() {
    let mut list = VipList { vips: vip_views() };
    list.vips.truncate(1);
    assert_snapshot!(serde_json::to_string_pretty(&list).expect("plain data"), @r#"
    {
      "vips": [
        {
          "vip": "192.0.2.10",
          "balancers": [
            "slb_redis_app"
          ],
          "frontends": [
            {
              "protocol": "tcp",
              "port": 80,
              "service": "file/web",
              "state": "down"
            },
            {
              "protocol": "tcp",
              "port": 6379,
              "service": "compose/shop/redis:6379",
              "state": "serving"
            }
          ],
          "services": [
            "file/web",
            "compose/shop/redis:6379"
          ],
          "backends": {
            "starting": 0,
            "healthy": 2,
            "unhealthy": 0,
            "draining": 0,
            "disabled": 0
          },
          "state": "down"
        }
      ]
    }
    "#);
    let backend = &backend_views()[0];
    assert_snapshot!(serde_json::to_string_pretty(backend).expect("plain data"), @r#"
    {
      "number": 1,
      "service": "compose/shop/redis:6379",
      "place": "1",
      "display_name": "shop-redis-1",
      "address": "172.18.0.2:6379",
      "path": "local",
      "ifindex": 41,
      "weight": 100,
      "state": "healthy",
      "share_percent": 50.049,
      "counters": {
        "packets_in": 10,
        "bytes_in": 1023,
        "packets_out": 9,
        "bytes_out": 5300000,
        "flows": 1204
      },
      "source": "container `shop-redis-1`, label `aliyun.lb.port_6379`"
    }
    "#);
}

#[test]
fn bytes_are_three_digits_and_a_unit() {
    let check = |count, expected: &str| assert_eq!(bytes(count), expected, "{count}");
    check(0, "0B");
    check(1023, "1023B");
    check(1024, "1.0K");
    check(102_399, "99.9K");
    check(102_400, "100K");
    check(1_048_575, "1023K");
    check(1_048_576, "1.0M");
    check(u64::MAX, "15.9E");
}

#[test]
fn durations_are_two_units() {
    let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected, "{seconds}");
    check(0, "0s");
    check(59, "59s");
    check(61, "1m1s");
    check(3600, "1h0m");
    check(93_784, "1d2h");
}

#[test]
fn text_from_outside_cannot_steer_the_terminal() {
    assert_snapshot!(printable("a\u{1b}]0;x\u{7}\n\u{202e}é"), @r#"a\u{1b}]0;x\u{7}\u{a}\u{202e}é"#);
}
