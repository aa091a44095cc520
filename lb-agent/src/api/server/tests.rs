//! The server behind a real socket, asked by the real client and by worse ones.

mod hostile;

use insta::assert_snapshot;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::*;
use crate::{
    api::{
        client::{Client, ClientError},
        types::{BackendCountsView, ServiceDetail, ServiceView, ServingState, StatusView},
    },
    model::ServiceName,
};

struct Bed {
    directory: tempfile::TempDir,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    journal: Arc<Journal>,
}

fn view(rounds: u64) -> Arc<View> {
    let mut view = View::default();
    view.status.version = "1.2.3".to_owned();
    view.status.reconcile.rounds = rounds;
    view.services.push(ServiceView {
        name: ServiceName("file/a b:80".into()),
        frontends: vec![],
        protocols: vec![],
        ring_size: None,
        replicas: None,
        backends: BackendCountsView::default(),
        state: ServingState::Down,
        source: "file".to_owned(),
        counters: crate::api::types::BackendCountersView::default(),
        connections: None,
    });
    Arc::new(view)
}

impl Bed {
    /// A server whose fresh views have 2 rounds and whose published view has 1.
    async fn new() -> Self {
        let (_, published) = watch::channel(view(1));
        let (kernel, mut requests) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                // Whoever asks may have gone away; what else is asked is not answered.
                if let Request::View(answer) = request {
                    answer.send(view(2)).ok();
                }
            }
        });
        let (traces, _) = mpsc::channel(1);
        let directory = tempfile::tempdir().expect("a directory");
        let (orders, mut calls) = mpsc::channel::<SteerCall>(1);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let SteerCall { request, by, taken, answer } = call;
                match request.backend.as_str() {
                    // Told too late.
                    "slow to take" => {
                        sleep(2 * ORDER_TAKEN_WITHIN).await;
                        taken.send(()).expect_err("nobody waits any longer");
                        continue;
                    }
                    "slow to do" => {
                        taken.send(()).expect("waits");
                        sleep(2 * ORDER_DONE_WITHIN).await;
                        continue;
                    }
                    _ if taken.send(()).is_err() => continue,
                    _ => {}
                }
                let done = vec![format!("{}: {:?} by {by}", request.backend, request.order)];
                let is_there = request.backend != "nobody";
                let done = SteerAnswer { done, pending: None, warning: None };
                let nobody = SteerError::Nobody("nobody".to_owned());
                answer.send(is_there.then_some(done).ok_or(nobody)).ok();
            }
        });
        let journal = Arc::new(Journal::default());
        let source = Source {
            view: published,
            kernel,
            traces,
            callers: Registry::default(),
            orders,
            journal: Arc::clone(&journal),
            names: Arc::default(),
            started: Instant::now(),
        };
        let path = directory.path().join("api.sock");
        let server = Server::bind(&path, None, source).await.expect("a server");
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(stop.clone()));
        Self { directory, stop, server, journal }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("api.sock")
    }

    fn client(&self) -> Client {
        Client::new(self.path())
    }

    /// What the server sends in answer to `request`, until it closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.expect("a server");
        stream.write_all(request).await.expect("it listens");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            Ok(_) => {}
            // Closed with a part of our request unread.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn client_gets_what_the_runtime_says() {
    let bed = Bed::new().await;
    let status: StatusView = bed.client().get(paths::STATUS).await.expect("a status");
    assert_eq!((status.version.as_str(), status.reconcile.rounds), ("1.2.3", 2));
    let services: ServiceList = bed.client().get(paths::SERVICES).await.expect("services");
    assert_eq!(services.services, view(1).services);
    let path = format!("{}?name=file%2Fa%20b%3A80", paths::SERVICE);
    let detail: ServiceDetail = bed.client().get(&path).await.expect("a service");
    assert_eq!(detail.service, view(1).services[0]);
    let one = format!("{}?service=file%2Fa%20b%3A80", paths::BACKENDS);
    let backends: BackendList = bed.client().get(&one).await.expect("backends");
    assert_eq!(backends.backends, []);
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let bed = Bed::new().await;
    let check = async |path: &str| -> String {
        let error = bed.client().get::<BackendList>(path).await.expect_err("nothing there");
        assert!(matches!(error, ClientError::Answer { .. }), "{error}");
        error.to_string()
    };
    assert_snapshot!(check("/v1/backends?service=web").await, @"the agent answered 404 Not Found: there is no service `web`; `lbctl service list` shows all");
    assert_snapshot!(check("/v1/backends?servce=web").await, @"the agent answered 400 Bad Request: Failed to deserialize query string: servce: unknown field `servce`, expected `service`");
    assert_snapshot!(check("/v1/service?name=web").await, @"the agent answered 404 Not Found: there is no service `web`; `lbctl service list` shows all");
    assert_snapshot!(check("/v2/backends").await, @"the agent answered 404 Not Found: there is nothing here");
}

#[tokio::test]
async fn what_is_shown_cannot_be_changed() {
    let bed = Bed::new().await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!(
            "{method} /v1/vips HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(bed.raw(request.as_bytes()).await, "HTTP/1.1 405 Method Not Allowed");
    }
}

#[tokio::test]
async fn oversized_and_broken_requests_are_refused() {
    let bed = Bed::new().await;
    let long = format!("GET /v1/vips?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(20_000));
    let answer = bed.raw(long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = bed.raw(b"\x16\x03\x01 hello\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let _: VipList = bed.client().get(paths::VIPS).await.expect("others are served");
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out() {
    let bed = Bed::new().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX - 1 {
        silent.push(UnixStream::connect(bed.path()).await.expect("a server"));
    }
    let _: VipList = bed.client().get(paths::VIPS).await.expect("one place is left");
}

#[tokio::test]
async fn stopping_removes_the_socket() {
    let bed = Bed::new().await;
    assert!(bed.path().exists());
    bed.stop.cancel();
    bed.server.await.expect("it ends");
    assert!(!bed.directory.path().join("api.sock").exists());
}

fn order(backend: &str) -> SteerRequest {
    SteerRequest { backend: backend.to_owned(), service: None, order: steer::Order::Drain }
}

#[tokio::test]
async fn orders_reach_the_runtime_with_the_name_of_their_giver() {
    let bed = Bed::new().await;
    let answer: SteerAnswer = bed.client().post(steer::PATH, &order("web-1")).await.expect("done");
    let user = Peer(Some(nix::unistd::getuid().as_raw())).name();
    assert_eq!(answer.done, [format!("web-1: Drain by {user}")]);
    let error = bed.client().post::<SteerAnswer>(steer::PATH, &order("nobody")).await;
    assert_snapshot!(error.expect_err("nobody"), @"the agent answered 404 Not Found: nobody");
}

#[tokio::test]
async fn an_order_that_is_not_taken_in_time_never_is_and_one_that_was_is_said() {
    let bed = Bed::new().await;
    let check = async |backend: &str| -> String {
        let answer = bed.client().post::<SteerAnswer>(steer::PATH, &order(backend)).await;
        answer.expect_err("too slow").to_string()
    };
    assert_snapshot!(check("slow to take").await, @"the agent answered 503 Service Unavailable: the agent is busy with the kernel or stopping, and nothing was done; try again");
    let () = sleep(2 * ORDER_TAKEN_WITHIN).await;
    assert_snapshot!(check("slow to do").await, @"the agent answered 503 Service Unavailable: the order was taken, and the kernel does not do it yet; `lbctl backend list` shows what is in force");
}

#[tokio::test]
async fn orders_that_are_not_understood_are_refused() {
    let bed = Bed::new().await;
    let send = async |body: &[u8]| -> String {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            steer::PATH,
            body.len()
        );
        bed.raw(&[head.as_bytes(), body].concat()).await
    };
    let check = async |body: &str| send(body.as_bytes()).await;
    // No text, and more nesting than anybody can mean.
    let no_text = b"{\"backend\":\"web-\xff\",\"order\":{\"do\":\"drain\"}}";
    for body in [&no_text[..], &[b'['; 4000]] {
        let answer = send(body).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let good = r#"{"backend":"web-1","order":{"do":"weight","weight":50}}"#;
    assert_eq!(check(good).await, "HTTP/1.1 200 OK");
    for body in [
        "",
        "{",
        "{}",
        r#"{"backend":"web-1"}"#,
        r#"{"backend":"web-1","order":{"do":"explode"}}"#,
        r#"{"backend":"web-1","order":{"do":"weight","weight":65536}}"#,
        r#"{"backend":"web-1","order":{"do":"drain"},"servce":"web"}"#,
    ] {
        let answer = check(body).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{body}: {answer}");
    }
    let long = format!(r#"{{"backend":"{}","order":{{"do":"drain"}}}}"#, "x".repeat(5000));
    assert!(check(&long).await.starts_with("HTTP/1.1 413"));
    let get = format!("GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", steer::PATH);
    assert_eq!(bed.raw(get.as_bytes()).await, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn events_are_told_from_any_number_on() {
    let bed = Bed::new().await;
    let list = async |query: &str| -> Vec<String> {
        let path = format!("{EVENTS_PATH}{query}");
        let list: EventList = bed.client().get(&path).await.expect("events");
        list.events.into_iter().map(|event| event.what).collect()
    };
    assert_eq!(list("").await, [""; 0]);
    let drafts = ["a", "b", "c"].map(|what| crate::journal::Draft::of("web", what.to_owned()));
    let moment = crate::journal::Moment { at_ms: 1, uptime_ms: 1 };
    bed.journal.write(drafts.to_vec(), moment);
    assert_eq!(list("").await, ["a", "b", "c"]);
    assert_eq!(list("?after=2").await, ["c"]);
    assert_eq!(list("?after=0&wait_seconds=5").await, ["a", "b", "c"]);
    let wrong: Result<EventList, _> = bed.client().get("/v1/events?after=-1").await;
    assert!(matches!(wrong, Err(ClientError::Answer { .. })), "{wrong:?}");
    let none: ConflictList = bed.client().get(CONFLICTS_PATH).await.expect("conflicts");
    assert_eq!(none.conflicts, []);
}
