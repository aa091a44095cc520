//! Requests of anybody who may use the socket: each is answered or refused, and the next one is, too.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::mangle::mangled;

/// What is asked for, of every kind.
const PATHS: [&str; 12] = [
    "/v1/vips",
    "/v1/services",
    "/v1/service?name=file%2Fa%20b%3A80",
    "/v1/backends?service=file%2Fa%20b%3A80",
    "/v1/status",
    "/v1/drops",
    "/v1/events?after=0&wait_seconds=0",
    "/v1/conflicts",
    "/v1/trace?client=192.0.2.0%2F24&vip=192.0.2.10&port=80&reason=no_backend&dropped=true&count=1",
    "/v1/trace?from=web-1&port=80&seconds=1",
    "/v1/explain?client=192.0.2.7:4000&vip=192.0.2.10:80&protocol=tcp&packet=synack&is_reply=true",
    "/v1/explain_call?from=web-1&vip=192.0.2.10:80&protocol=udp",
];

/// Whole requests for each of them, and an order.
fn requests() -> Vec<String> {
    let order = r#"{"backend":"web-1","service":"web","order":{"do":"weight","weight":7}}"#;
    let get = |path: &&str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let post = format!(
        "POST /v1/steer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{order}",
        order.len()
    );
    PATHS.iter().map(get).chain([post]).collect()
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let one = || prop::sample::select(requests());
    prop_oneof![
        8 => one().prop_flat_map(mangled),
        2 => prop::collection::vec(one(), 1..4).prop_flat_map(|all| mangled(all.concat())),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        // Queries that are too long, and keys that nobody knows.
        1 => ("[a-z_]{0,12}", 0_usize..3000).prop_map(|(key, times)| {
            let query = format!("{key}=%F0%28&").repeat(times);
            format!("GET /v1/trace?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
        }),
    ]
}

/// Sends this and nothing more, and reads to the end. `None`: there is none in time.
async fn exchange(bed: &Bed, request: &[u8]) -> Option<String> {
    let mut stream = UnixStream::connect(bed.path()).await.expect("a server");
    // It may have had enough before the end.
    let _sent = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = async {
        let mut piece = [0; 4096];
        // What has been answered once is not waited for again.
        while answer.is_empty()
            && let Ok(length @ 1..) = stream.read(&mut piece).await
        {
            answer.extend_from_slice(&piece[..length]);
        }
    };
    timeout(2 * REQUEST_TIMEOUT, read).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Unlike [`exchange`], it says at once that nothing more will come.
async fn exchange_whole(bed: &Bed, request: &[u8]) -> Option<String> {
    let mut stream = UnixStream::connect(bed.path()).await.expect("a server");
    let _sent = stream.write_all(request).await;
    let _closed = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = timeout(2 * REQUEST_TIMEOUT, stream.read_to_end(&mut answer)).await;
    // Closed with a part of the request unread is an end, too.
    drop(read.ok()?);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn any_request_is_answered_or_refused() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let bed = runtime.block_on(Bed::new());
    for request in requests() {
        let answer = runtime.block_on(exchange(&bed, request.as_bytes())).expect("an answer");
        let is_served = ["200 OK", "503 Service Unavailable"]
            .iter()
            .any(|status| answer.starts_with(&format!("HTTP/1.1 {status}")));
        assert!(is_served, "the bed has no kernel, and no better excuse: {request}: {answer}");
    }
    let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&request(), |request| {
        let answer = runtime.block_on(exchange_whole(&bed, &request));
        let answer = answer.ok_or_else(|| TestCaseError::fail("no end of it"))?;
        prop_assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{}", answer);
        prop_assert!(!answer.contains(" 500 Internal"), "{}", answer);
        prop_assert!(answer.len() < 1 << 20, "{} bytes", answer.len());
        let status = runtime.block_on(bed.client().get::<StatusView>(paths::STATUS));
        prop_assert!(status.is_ok(), "{:?}", status.err());
        Ok(())
    });
    result.expect("every request");
}
