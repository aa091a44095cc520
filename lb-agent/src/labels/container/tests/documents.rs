//! The containers of the documents that the labels come from.

use super::*;

#[test]
fn the_rest_servers_of_the_documents_get_an_address() {
    let labels = [
        ("aliyun.routing.port_80", "restserver.local"),
        ("aliyun.scale", "2"),
        ("aliyun.probe.url", "http://container:80"),
        ("aliyun.probe.initial_delay_seconds", "2"),
        ("aliyun.probe.timeout_seconds", "2"),
    ];
    let client =
        composed("restclient", "registry.aliyuncs.com/acs-sample/alpine:3.3", &[], &[], &[]);
    let server = composed("restserver", "nginx", &labels, &[], &[]);
    let config = "routing_pool = '198.18.0.0/24'";
    assert_snapshot!(check_with(config, &[server, client]), @"
    compose/demo/restserver:80 place 1 at restserver.local: 172.17.0.2:80 weight 100; by container `demo-restserver-1`, label `aliyun.routing.port_80`
      probe = http port 80 GET /, status 200-399 (container `demo-restserver-1`, label `aliyun.probe.url`)
      probe_timeout_ms = 2 s (container `demo-restserver-1`, label `aliyun.probe.timeout_seconds`)
      probe_initial_delay_ms = 2 s (container `demo-restserver-1`, label `aliyun.probe.initial_delay_seconds`)
      scale = 2 (container `demo-restserver-1`, label `aliyun.scale`)
    ");
}

#[test]
fn the_redis_of_the_documents_is_balanced() {
    let labels = [("aliyun.lb.port_6379", "tcp://slb_redis_app:6379")];
    let redis = composed("redis", "redis", &labels, &[], &[6379]);
    let config = "[[balancer]]\nname = 'slb_redis_app'\nvip = '192.0.2.10'";
    assert_snapshot!(check_with(config, &[redis]), @"compose/demo/redis:6379 place 1 at tcp://192.0.2.10:6379: 172.17.0.2:6379 weight 100; by container `demo-redis-1`, label `aliyun.lb.port_6379`");
}

/// One of the servers that two services of the documents are made of.
fn test_server(service: &str, tags: &str) -> ContainerFacts {
    composed(
        service,
        "test-server:latest",
        &[],
        &[
            ("SERVICE_8080_NAME", "test-server-http-service"),
            ("SERVICE_8080_TAGS", &format!("test-server-http-service-{tags}")),
            ("SERVICE_8080_CHECK_INTERVAL", "10s"),
            ("SERVICE_8080_CHECK_TIMEOUT", "2s"),
            ("SERVICE_8080_CHECK_HTTP", "/health"),
            ("SERVICE_25000_NAME", "test-server-thrift-service"),
            ("SERVICE_25000_TAGS", &format!("test-server-thrift-service-{tags}")),
            ("SERVICE_25000_CHECK_INTERVAL", "10s"),
            ("SERVICE_25000_CHECK_TIMEOUT", "2s"),
            ("SERVICE_25000_CHECK_TCP", "/"),
        ],
        &[8080, 25000],
    )
}

#[test]
fn the_registered_services_of_the_documents_get_frontends() {
    let client = composed(
        "test_client_1",
        "test-client:latest",
        &[],
        &[
            ("SERVICE_8080_NAME", "my-web-server"),
            ("SERVICE_8080_TAGS", "test-client-http-service-01"),
            ("SERVICE_8080_CHECK_INTERVAL", "10s"),
            ("SERVICE_8080_CHECK_TIMEOUT", "2s"),
            ("SERVICE_8080_CHECK_HTTP", "/features"),
        ],
        &[8080],
    );
    let consul = composed("consul_client_01", "consul:latest", &[], &[], &[8300, 8500]);
    let registrator = composed("registrator", "gliderlabs/registrator:latest", &[], &[], &[]);
    let config = "
        [[registrator]]
        name = 'test-server-http-service'
        frontend = 'tcp://192.0.2.10:8080'
        [[registrator]]
        name = 'test-server-thrift-service'
        frontend = 'tcp://192.0.2.10:25000'
        [[registrator]]
        name = 'my-web-server'
        frontend = 'tcp://192.0.2.10:80'
    ";
    let containers = [
        test_server("test_server_1", "01"),
        test_server("test_server_2", "02"),
        client,
        consul,
        registrator,
    ];
    assert_snapshot!(check_with(config, &containers), @"
    registrator/test-server-http-service place compose/demo/test_server_1/1:8080 at tcp://192.0.2.10:8080: 172.17.0.2:8080 weight 100; by container `demo-test_server_1-1`, variable `SERVICE_8080_NAME`
      probe = http GET /health, status 200-399 (container `demo-test_server_1-1`, variable `SERVICE_8080_CHECK_HTTP`)
      probe_interval_ms = 10 s (container `demo-test_server_1-1`, variable `SERVICE_8080_CHECK_INTERVAL`)
      probe_timeout_ms = 2 s (container `demo-test_server_1-1`, variable `SERVICE_8080_CHECK_TIMEOUT`)
    registrator/test-server-thrift-service place compose/demo/test_server_1/1:25000 at tcp://192.0.2.10:25000: 172.17.0.2:25000 weight 100; by container `demo-test_server_1-1`, variable `SERVICE_25000_NAME`
      probe = tcp (container `demo-test_server_1-1`, variable `SERVICE_25000_CHECK_TCP`)
      probe_interval_ms = 10 s (container `demo-test_server_1-1`, variable `SERVICE_25000_CHECK_INTERVAL`)
      probe_timeout_ms = 2 s (container `demo-test_server_1-1`, variable `SERVICE_25000_CHECK_TIMEOUT`)
    registrator/test-server-http-service place compose/demo/test_server_2/1:8080 at tcp://192.0.2.10:8080: 172.17.0.2:8080 weight 100; by container `demo-test_server_2-1`, variable `SERVICE_8080_NAME`
      probe = http GET /health, status 200-399 (container `demo-test_server_2-1`, variable `SERVICE_8080_CHECK_HTTP`)
      probe_interval_ms = 10 s (container `demo-test_server_2-1`, variable `SERVICE_8080_CHECK_INTERVAL`)
      probe_timeout_ms = 2 s (container `demo-test_server_2-1`, variable `SERVICE_8080_CHECK_TIMEOUT`)
    registrator/test-server-thrift-service place compose/demo/test_server_2/1:25000 at tcp://192.0.2.10:25000: 172.17.0.2:25000 weight 100; by container `demo-test_server_2-1`, variable `SERVICE_25000_NAME`
      probe = tcp (container `demo-test_server_2-1`, variable `SERVICE_25000_CHECK_TCP`)
      probe_interval_ms = 10 s (container `demo-test_server_2-1`, variable `SERVICE_25000_CHECK_INTERVAL`)
      probe_timeout_ms = 2 s (container `demo-test_server_2-1`, variable `SERVICE_25000_CHECK_TIMEOUT`)
    registrator/my-web-server place compose/demo/test_client_1/1:8080 at tcp://192.0.2.10:80: 172.17.0.2:8080 weight 100; by container `demo-test_client_1-1`, variable `SERVICE_8080_NAME`
      probe = http GET /features, status 200-399 (container `demo-test_client_1-1`, variable `SERVICE_8080_CHECK_HTTP`)
      probe_interval_ms = 10 s (container `demo-test_client_1-1`, variable `SERVICE_8080_CHECK_INTERVAL`)
      probe_timeout_ms = 2 s (container `demo-test_client_1-1`, variable `SERVICE_8080_CHECK_TIMEOUT`)
    ");
}
