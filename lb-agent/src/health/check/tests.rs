//! Probes of servers on loopback that behave, misbehave, and never end.

use std::{net::SocketAddr, ops::RangeInclusive, time::Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    health::{fixtures, run::probe},
    model::Probe,
};

/// No test waits for it, and no machine is so busy that one comes near it.
const PATIENT_MS: u32 = 120_000;
/// For those who never answer.
const SHORT_MS: u32 = 300;

fn job(kind: ProbeKind, address: SocketAddr, timeout_ms: u32) -> Job {
    fixtures::job(Probe { kind, timeout_ms, ..fixtures::probe() }, address)
}

async fn run_with(
    tls: Tls,
    commands: Arc<dyn RunInContainer>,
    kind: ProbeKind,
    address: SocketAddr,
    timeout_ms: u32,
) -> String {
    let checks = Arc::new(NodeChecks::new(Arc::new(NoContainers), commands, tls));
    let started = Instant::now();
    let outcome = probe(checks, job(kind, address, timeout_ms)).await.outcome;
    assert!(started.elapsed() < Duration::from_secs(100), "{outcome:?} took too long");
    match outcome {
        Outcome::Passed(text) => format!("passed: {text}"),
        Outcome::Failed(failure) => format!("{}: {}", failure.kind, failure.text),
        Outcome::Inconclusive(text) => format!("inconclusive: {text}"),
    }
}

/// Once more while this machine is too busy for it to be known how it went.
async fn run(kind: ProbeKind, address: SocketAddr, timeout_ms: u32) -> String {
    for _ in 0..10 {
        let kind = kind.clone();
        let outcome =
            run_with(Tls::default(), Arc::new(NoContainers), kind, address, timeout_ms).await;
        if !outcome.starts_with("inconclusive: the node is too busy") {
            return outcome;
        }
    }
    panic!("this machine is too busy for any probe");
}

/// A server that does the same to each connection.
async fn serve<F, S>(serve_one: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve_one(connection));
        }
    });
    address
}

/// Reads a request's head; empty when the client goes before its end.
async fn head(connection: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8(head).expect("we send text")
}

async fn answer(connection: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    head(connection).await;
    // The probe may have seen enough before the end.
    let _sent = connection.write_all(bytes).await;
    let _closed = connection.shutdown().await;
}

/// A server that reads a request, and answers with this.
async fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = Arc::new(bytes.into());
    serve(move |mut connection| {
        let bytes = Arc::clone(&bytes);
        async move { answer(&mut connection, &bytes).await }
    })
    .await
}

fn http(expect_status: RangeInclusive<u16>, expect_body: Option<&str>) -> ProbeKind {
    ProbeKind::Http(HttpProbe {
        expect_status: vec![expect_status],
        expect_body: expect_body.map(str::to_owned),
        ..HttpProbe::default()
    })
}

#[tokio::test]
async fn answers_are_judged() {
    let any = || http(200..=399, None);
    let with_body = || http(200..=399, Some("all is well"));
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall i\r\n6\r\ns well\r\n";
    let cases: [(&str, ProbeKind, &str); 15] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", any(), "passed: 200 OK"),
        ("HTTP/1.0 200 Fine\r\n\r\nall is well", with_body(), "passed: 200 OK"),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", any(), "passed: 302 Found"),
        ("HTTP/1.1 399 Odd\r\n\r\n", any(), "passed: 399 <unknown status code>"),
        ("HTTP/1.1 503 No\r\n\r\n", any(), "wrong: 503 Service Unavailable, expected 200-399"),
        ("HTTP/1.1 404 No\r\n\r\n", http(404..=404, None), "passed: 404 Not Found"),
        ("HTTP/1.1 200 OK\r\n\r\n", http(204..=204, None), "wrong: 200 OK, expected 204"),
        ("HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", any(), "passed: 200 OK"),
        (chunked, with_body(), "passed: 200 OK"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnope!",
            with_body(),
            "wrong: 200 OK, but the body does not contain the expected text",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nless",
            with_body(),
            "wrong: no proper HTTP answer",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", any(), "wrong: no proper HTTP answer"),
        ("", any(), "wrong: no proper HTTP answer"),
        ("HTTP/1.1 200 OK\r\nContent-Le", any(), "wrong: no proper HTTP answer"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", any(), "wrong: no proper HTTP answer"),
    ];
    for (bytes, kind, expected) in cases {
        let address = answering(bytes).await;
        let outcome = run(kind, address, PATIENT_MS).await;
        assert!(outcome.starts_with(expected), "{bytes:?}: {outcome}, expected {expected}");
    }
}

#[tokio::test]
async fn the_request_is_the_one_that_was_asked_for() {
    let (sender, mut heads) = tokio::sync::mpsc::channel(1);
    let address = serve(move |mut connection| {
        let sender = sender.clone();
        async move {
            let text = head(&mut connection).await;
            let _sent = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            sender.send(text).await.expect("the test waits");
        }
    })
    .await;
    let kind = ProbeKind::Http(HttpProbe {
        path: "/health?deep=1".to_owned(),
        method: "HEAD".to_owned(),
        host: Some("shop.example".to_owned()),
        ..HttpProbe::default()
    });
    assert_eq!(run(kind, address, PATIENT_MS).await, "passed: 200 OK");
    let sent = heads.recv().await.expect("a request");
    assert!(sent.starts_with("HEAD /health?deep=1 HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("host: shop.example\r\n"), "{sent}");
    for (path, method) in [("no path\r\nX: y", "GET"), ("/", "G T"), ("/", "")] {
        let broken =
            HttpProbe { path: path.to_owned(), method: method.to_owned(), ..HttpProbe::default() };
        let outcome = run(ProbeKind::Http(broken), address, PATIENT_MS).await;
        assert!(outcome.starts_with("inconclusive: the request cannot be made"), "{outcome}");
    }
}

/// Sends the same for ever.
async fn endless(start: &'static str, repeated: Vec<u8>) -> SocketAddr {
    let repeated = Arc::new(repeated);
    serve(move |mut connection| {
        let repeated = Arc::clone(&repeated);
        async move {
            head(&mut connection).await;
            let mut is_open = connection.write_all(start.as_bytes()).await.is_ok();
            while is_open {
                is_open = connection.write_all(&repeated).await.is_ok();
            }
        }
    })
    .await
}

#[tokio::test]
async fn servers_that_never_end_are_bounded_in_bytes() {
    let ok = "HTTP/1.1 200 OK\r\n\r\n";
    let gigabytes = endless(ok, vec![b'x'; 1 << 16]).await;
    assert_eq!(run(http(200..=200, None), gigabytes, PATIENT_MS).await, "passed: 200 OK");
    assert_eq!(
        run(http(200..=200, Some("y")), gigabytes, PATIENT_MS).await,
        "wrong: 200 OK, but the first 65536 bytes of the body do not contain the expected text"
    );
    let found = endless(ok, b"all is well\n".to_vec()).await;
    let kind = http(200..=200, Some("all is well"));
    assert_eq!(run(kind, found, PATIENT_MS).await, "passed: 200 OK");
    let headers = endless("HTTP/1.1 200 OK\r\n", b"X-Very: long\r\n".repeat(100)).await;
    let outcome = run(http(200..=200, None), headers, PATIENT_MS).await;
    assert!(outcome.starts_with("wrong: no proper HTTP answer"), "{outcome}");
    let line = endless("HTTP/1.1 200 OK\r\nX: ", vec![b'x'; 1 << 12]).await;
    let outcome = run(http(200..=200, None), line, PATIENT_MS).await;
    assert!(outcome.starts_with("wrong: no proper HTTP answer"), "{outcome}");
}

/// Pieces that are small or allowed each, and never end.
#[tokio::test]
async fn answers_of_endless_pieces_are_bounded_in_number_and_bytes() {
    const TOO_MANY: &str = "wrong: more than 16 interim answers (1xx), and no other";
    let ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let long_head = format!("HTTP/1.1 103 Early\r\nX: {}\r\n\r\n", "x".repeat(50_000)).into_bytes();
    let answered = |times: usize| [&interim.repeat(times)[..], ok.as_bytes()].concat();
    let text = Some("all is well");
    let cases: [(&str, SocketAddr, Option<&str>, &str); 7] = [
        ("interim answers", endless("", interim.to_vec()).await, None, TOO_MANY),
        ("thousands at once", endless("", interim.repeat(5000)).await, None, TOO_MANY),
        ("as many as allowed", answering(answered(16)).await, None, "passed: 200 OK"),
        ("one more", answering(answered(17)).await, None, TOO_MANY),
        (
            "few interim answers with long heads",
            endless("", long_head).await,
            None,
            "wrong: no proper HTTP answer: connection error: it goes on after 524288 bytes",
        ),
        (
            "chunks of a byte",
            // Many at a time: calls of the kernel are what takes long here.
            endless(ok, b"1\r\nx\r\n".repeat(1000)).await,
            text,
            "wrong: 200 OK, but the first 65536 bytes of the body do not contain",
        ),
        (
            "a chunk whose size has no end",
            endless(ok, vec![b'0'; 1 << 12]).await,
            text,
            "wrong: no proper HTTP answer",
        ),
    ];
    for (name, address, expect_body, expected) in cases {
        let outcome = run(http(200..=200, expect_body), address, PATIENT_MS).await;
        assert!(outcome.starts_with(expected), "{name}: {outcome}, expected {expected}");
    }
}

/// The same below TLS: records that say nothing, and a handshake that has no end.
#[tokio::test]
async fn endless_records_of_tls_are_bounded() {
    // Warnings are ignored; handshake messages are put together.
    for record in [&[21, 3, 3, 0, 2, 1, 90][..], &[22, 3, 3, 0, 4, 2, 0xff, 0xff, 0xff]] {
        let repeated = Arc::new(record.repeat(1000));
        let address = serve(move |mut connection| {
            let repeated = Arc::clone(&repeated);
            async move { while connection.write_all(&repeated).await.is_ok() {} }
        })
        .await;
        let kind = ProbeKind::Https(HttpProbe::default());
        let outcome = run(kind, address, PATIENT_MS).await;
        assert!(outcome.starts_with("wrong: no TLS connection"), "{record:?}: {outcome}");
    }
}

#[tokio::test]
async fn servers_that_never_end_are_bounded_in_time() {
    let late = "late: no answer within 300 ms";
    let silent = serve(|connection| async move {
        sleep(Duration::from_mins(1)).await;
        drop(connection);
    })
    .await;
    assert_eq!(run(http(200..=200, None), silent, SHORT_MS).await, late);
    assert_eq!(run(ProbeKind::Https(HttpProbe::default()), silent, SHORT_MS).await, late);
    assert_eq!(run(ProbeKind::Tcp { port: None }, silent, PATIENT_MS).await, "passed: connected");
    let slow_loris = serve(|mut connection| async move {
        let _start = connection.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        while connection.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(run(http(200..=200, None), slow_loris, SHORT_MS).await, late);
}

#[tokio::test]
async fn nobody_listens() {
    // A listener that is closed may live on in a child that another test is just starting.
    let bound = TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("loopback");
    let address = bound.local_addr().expect("it is bound");
    for kind in [
        ProbeKind::Tcp { port: None },
        ProbeKind::Tcp { port: Some(address.port()) },
        http(200..=200, None),
        ProbeKind::Https(HttpProbe::default()),
    ] {
        assert_eq!(run(kind, address, PATIENT_MS).await, "refused: connection refused");
    }
}

#[tokio::test]
async fn probes_leave_no_connections_behind() {
    let address = serve(|mut connection| async move {
        // As servers do: ready for another request on the same connection.
        while !head(&mut connection).await.is_empty() {
            let text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let _sent = connection.write_all(text).await;
        }
    })
    .await;
    for _ in 0..50 {
        assert_eq!(run(http(200..=200, None), address, PATIENT_MS).await, "passed: 200 OK");
        run(ProbeKind::Tcp { port: None }, address, PATIENT_MS).await;
    }
    // Both ends are in this table, each as local or remote port.
    let port = format!(":{:04X} ", address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("readable");
    let of_port = table.lines().filter(|line| line.contains(&port));
    let time_wait: Vec<&str> = of_port.filter(|line| line.contains(" 06 ")).collect();
    assert!(time_wait.is_empty(), "{time_wait:?}");
}

/// A TLS server with a certificate of its own, and roots that trust it.
async fn tls_server(name: &str) -> (SocketAddr, RootCertStore) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(cert.der().to_vec());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a matching key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = serve(move |connection| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut connection) = acceptor.accept(connection).await {
                let name = connection.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfor {name}");
                answer(&mut connection, text.as_bytes()).await;
            }
        }
    })
    .await;
    (address, roots)
}

#[tokio::test]
async fn https_with_and_without_verification() {
    let (address, roots) = tls_server("shop.example").await;
    let (_, other_roots) = tls_server("other.example").await;
    let probe = |host: Option<&str>, server_name: Option<&str>, verify_certificate, body: &str| {
        ProbeKind::Https(HttpProbe {
            host: host.map(str::to_owned),
            server_name: server_name.map(str::to_owned),
            verify_certificate,
            expect_body: Some(body.to_owned()),
            ..HttpProbe::default()
        })
    };
    let shop = Some("shop.example");
    let cases = [
        (probe(None, None, false, "for nobody"), &roots, "passed: 200 OK"),
        (probe(None, shop, false, "for shop.example"), &other_roots, "passed: 200 OK"),
        (probe(Some("shop.example:443"), None, true, "for shop.example"), &roots, "passed: 200 OK"),
        (probe(Some("x.example"), shop, true, "for shop.example"), &roots, "passed: 200 OK"),
        (probe(None, shop, true, ""), &other_roots, "wrong: no TLS connection"),
        (probe(None, Some("x.example"), true, ""), &roots, "wrong: no TLS connection"),
        (probe(None, None, true, ""), &roots, "wrong: no TLS connection"),
        (probe(None, Some("no name"), false, ""), &roots, "inconclusive: `no name` is no name"),
    ];
    for (kind, roots, expected) in cases {
        let tls = Tls::with_roots(roots.clone());
        let shown = format!("{kind:?}");
        let outcome = run_with(tls, Arc::new(NoContainers), kind, address, PATIENT_MS).await;
        assert!(outcome.starts_with(expected), "{shown}: {outcome}, expected {expected}");
    }
    // Each of the two speaks to the other's kind.
    let outcome = run(http(200..=200, None), address, PATIENT_MS).await;
    assert!(outcome.starts_with("wrong: no proper HTTP answer"), "{outcome}");
    let plain = answering("HTTP/1.1 400 Bad\r\n\r\n").await;
    let outcome = run(probe(None, None, false, ""), plain, SHORT_MS).await;
    assert!(outcome.starts_with("wrong: no TLS") || outcome.starts_with("late"), "{outcome}");
}

/// Answers as its command says.
struct Commands;

impl RunInContainer for Commands {
    fn run<'a>(&'a self, command: Command<'a>) -> BoxFuture<'a, Result<Exited, RunError>> {
        let Command { service, instance, argv, timeout } = command;
        Box::pin(async move {
            assert_eq!((service, instance), ("web", "id1@1"));
            assert_eq!(timeout, Duration::from_millis(PATIENT_MS.into()));
            match argv[0].as_str() {
                "late" => Err(RunError::Late),
                "refused" => Err(RunError::Refused("no such program".to_owned())),
                "not-run" => Err(RunError::NotRun("Docker is away".to_owned())),
                status => Ok(Exited {
                    status: status.parse().expect("a number"),
                    output: format!(" it \u{1b}[1m broke\n{}", "x".repeat(1000)),
                }),
            }
        })
    }
}

#[tokio::test]
async fn commands_pass_by_exit_status() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    for (argument, expected) in [
        ("0", "passed: exit status 0".to_owned()),
        (
            "1",
            format!(
                "wrong: exit status 1: it [1m broke {}",
                "x".repeat(OUTPUT_SHOWN_MAX - "it [1m broke ".len())
            ),
        ),
        ("late", "late: the command did not end in time".to_owned()),
        ("refused", "wrong: no such program".to_owned()),
        ("not-run", "inconclusive: Docker is away".to_owned()),
    ] {
        let kind = ProbeKind::Command { argv: vec![argument.to_owned()] };
        let commands = Arc::new(Commands);
        let outcome = run_with(Tls::default(), commands, kind, address, PATIENT_MS).await;
        assert_eq!(outcome, expected);
    }
}
