//! What `-o json` prints.

use super::*;

#[test]
fn json_of_a_service_has_origins() {
    let mut detail = service_detail();
    detail.members.clear();
    detail.settings.truncate(3);
    detail.dependencies.clear();
    assert_snapshot!(serde_json::to_string_pretty(&detail).expect("plain data"), @r#"
    {
      "name": "compose/shop/redis:6379",
      "frontends": [
        {
          "vip": "192.0.2.10",
          "protocol": "tcp",
          "port": 6379
        }
      ],
      "protocols": [
        "tcp"
      ],
      "ring_size": 4093,
      "backends": {
        "starting": 0,
        "healthy": 1,
        "unhealthy": 0,
        "draining": 1,
        "disabled": 0,
        "gone": 0
      },
      "state": "degraded",
      "source": "docker",
      "counters": {
        "packets_in": 10,
        "bytes_in": 1023,
        "packets_out": 9,
        "bytes_out": 5300000,
        "flows": 1204,
        "refusals": 3
      },
      "connections": 12,
      "settings": [
        {
          "name": "affinity",
          "value": "client/24,64",
          "origin": {
            "from": "label",
            "object": "container `shop-redis-1`",
            "key": "lb.affinity"
          }
        },
        {
          "name": "unreachable",
          "value": "reject",
          "origin": {
            "from": "default"
          }
        },
        {
          "name": "drain_seconds",
          "value": "30 s",
          "origin": {
            "from": "config",
            "object": "[defaults] in lb.toml",
            "key": "drain_seconds"
          }
        }
      ],
      "members": []
    }
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
          "names": [
            "redis.local"
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
            "disabled": 0,
            "gone": 0
          },
          "state": "down"
        }
      ]
    }
    "#);
}

#[test]
fn json_of_a_backend_is_stable() {
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
      "weight_origin": {
        "from": "default"
      },
      "exclusive": {
        "value": false,
        "origin": {
          "from": "default"
        }
      },
      "yields": false,
      "state": "healthy",
      "share_percent": 50.049,
      "replies": {
        "by": "fixed"
      },
      "counters": {
        "packets_in": 10,
        "bytes_in": 1023,
        "packets_out": 9,
        "bytes_out": 5300000,
        "flows": 1204,
        "refusals": 3
      },
      "connections": 12,
      "source": "container `shop-redis-1`, label `aliyun.lb.port_6379`"
    }
    "#);
}

#[test]
fn json_of_a_service_has_what_it_depends_on() {
    let dependencies = service_detail().dependencies;
    assert_snapshot!(serde_json::to_string_pretty(&dependencies).expect("plain data"), @r#"
    [
      {
        "name": "db",
        "services": [
          {
            "name": "compose/shop/db:5432",
            "state": "serving"
          },
          {
            "name": "compose/shop/db:9187",
            "state": "down"
          }
        ]
      },
      {
        "name": "cache",
        "services": []
      }
    ]
    "#);
}
