//! Callers, as a daemon tells of them that answers each request by its path.

use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};

use super::*;

/// Well before an inspection that hangs is given up.
const SOON: Duration = Duration::from_secs(2);

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(30);

/// A daemon that runs containers of this very process, in its namespace.
#[derive(Default)]
struct Daemon {
    /// Numbers of those that run.
    running: Mutex<BTreeSet<usize>>,
    /// Those that cannot be inspected.
    failing: Mutex<BTreeSet<usize>>,
    /// Those whose inspection is never answered.
    hanging: BTreeSet<usize>,
    /// How often each was to be inspected.
    inspections: Mutex<BTreeMap<usize, u64>>,
    /// Events that are told as soon as anybody listens, of containers that run from then on.
    storm: Vec<usize>,
    /// Those to which something happens as soon as anybody has listed them.
    troubled: Vec<usize>,
    listings: AtomicUsize,
    /// What each listing takes.
    delay: Duration,
}

fn id(number: usize) -> String {
    format!("{number:064x}")
}

/// An event, as a chunk.
fn started(number: usize) -> String {
    let event = format!(
        "{{\"Type\":\"container\",\"Action\":\"start\",\"Actor\":{{\"ID\":\"{}\"}}}}\n",
        id(number)
    );
    format!("{:x}\r\n{event}\r\n", event.len())
}

impl Daemon {
    fn serve(self: &Arc<Self>, path: &std::path::Path) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).expect("a socket");
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                tokio::spawn(Arc::clone(&daemon).answer(stream));
            }
        })
    }

    async fn answer(self: Arc<Self>, mut stream: UnixStream) {
        let mut request = vec![0; 8192];
        let length = stream.read(&mut request).await.expect("a request");
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        if path.ends_with("/events") {
            return self.tell(stream).await;
        }
        let (status, body) = if path.ends_with("/version") {
            (200, r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#.to_owned())
        } else if path.ends_with("/networks") {
            (200, "[]".to_owned())
        } else if path.ends_with("/containers/json") {
            self.listings.fetch_add(1, Ordering::Relaxed);
            sleep(self.delay).await;
            (200, self.listing())
        } else {
            self.inspection(path).await
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // Whoever asked may have gone.
        drop(stream.write_all(answer.as_bytes()).await);
    }

    /// Each event comes by itself, as Docker sends them.
    async fn tell(&self, mut stream: UnixStream) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("somebody who listens");
        for number in &self.storm {
            self.running.lock().expect("a lock").insert(*number);
            if stream.write_all(started(*number).as_bytes()).await.is_err() {
                return;
            }
        }
        while self.listings.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        // By then all are looked at.
        sleep(Duration::from_millis(200)).await;
        for number in &self.troubled {
            self.failing.lock().expect("a lock").insert(*number);
            if stream.write_all(started(*number).as_bytes()).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    fn listing(&self) -> String {
        let mut body = String::new();
        for number in self.running.lock().expect("a lock").iter() {
            let comma = if body.is_empty() { "" } else { "," };
            write!(body, "{comma}{{\"Id\":\"{}\",\"Names\":[\"/c{number}\"]}}", id(*number))
                .expect("memory");
        }
        format!("[{body}]")
    }

    async fn inspection(&self, path: &str) -> (u16, String) {
        let asked = path.rsplit('/').nth(1).unwrap_or_default();
        let number = usize::from_str_radix(asked, 16).expect("an id of ours");
        *self.inspections.lock().expect("a lock").entry(number).or_default() += 1;
        if self.hanging.contains(&number) {
            std::future::pending::<()>().await;
        }
        if self.failing.lock().expect("a lock").contains(&number) {
            return (500, r#"{"message":"not now"}"#.to_owned());
        }
        let pid = std::process::id();
        let body = format!(
            r#"{{"Id":"{asked}","Created":"2026-08-22T09:15:41.5Z","Name":"/c{number}",
            "Config":{{"Image":"x","Labels":{{}}}},"Image":"sha256:6a1b",
            "State":{{"Status":"running","Running":true,"Paused":false,"Restarting":false,
            "OOMKilled":false,"Dead":false,"Pid":{pid},"ExitCode":0,"Error":"",
            "StartedAt":"2026-08-22T09:15:42.123456789Z","FinishedAt":"0001-01-01T00:00:00Z"}},
            "NetworkSettings":{{"Networks":{{}}}}}}"#
        );
        (200, body)
    }
}

/// Follows this daemon.
struct Session {
    daemon: Arc<Daemon>,
    clients: mpsc::Receiver<Clients>,
    tasks: [JoinHandle<()>; 2],
    _directory: tempfile::TempDir,
}

impl Session {
    fn with(daemon: Daemon, resync: Duration) -> Self {
        Self::with_cookies(daemon, resync, Cookies::of_this_kernel())
    }

    fn with_cookies(daemon: Daemon, resync: Duration, cookies: Cookies) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker.sock");
        let daemon = Arc::new(daemon);
        let serving = daemon.serve(&path);
        let endpoint = format!("unix://{}", path.to_str().expect("a path in ASCII"));
        let settings = Settings::new(&endpoint, resync).expect("an endpoint");
        let (sender, clients) = mpsc::channel(1);
        let following = tokio::spawn(run(settings, cookies, sender));
        Self { daemon, clients, tasks: [serving, following], _directory: directory }
    }

    /// Waits until this is told.
    async fn told(&mut self, what: &str, is_it: impl Fn(&Clients) -> bool) -> Clients {
        let told = async {
            loop {
                let clients = self.clients.recv().await.expect("somebody who tells");
                if is_it(&clients) {
                    return clients;
                }
            }
        };
        timeout(LONG, told).await.expect(what)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn a_storm_of_changes_does_not_cost_a_listing_each() {
    const STORM: usize = 400;
    let daemon = Daemon {
        storm: (1..=STORM).collect(),
        delay: Duration::from_millis(20),
        ..Daemon::default()
    };
    let mut session = Session::with(daemon, Duration::from_hours(1));
    session.told("all of them", |clients| clients.containers.len() == STORM).await;
    let listings = session.daemon.listings.load(Ordering::Relaxed);
    assert!(listings < STORM / 4, "{listings} listings for {STORM} events");
}

#[tokio::test]
async fn whoever_cannot_be_looked_at_again_stays_and_keeps_nobody() {
    let daemon =
        Daemon { running: Mutex::new([1, 2].into()), troubled: vec![2], ..Daemon::default() };
    let mut session = Session::with(daemon, Duration::from_secs(1));
    session.told("both", |clients| clients.containers.len() == 2).await;
    let is_troubled = async {
        while session.daemon.failing.lock().expect("a lock").is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, is_troubled).await.expect("trouble");
    sleep(Duration::from_millis(200)).await;
    // Another comes: the one that cannot be looked at is there, and the listing is whole.
    session.daemon.running.lock().expect("a lock").insert(3);
    let clients = session.told("a third", |clients| clients.containers.contains_key(&id(3))).await;
    assert_eq!(clients.containers.keys().cloned().collect::<Vec<_>>(), [1, 2, 3].map(id));
    assert!(!clients.is_partial);
}

#[tokio::test]
async fn whoever_was_never_seen_is_waited_for_and_not_for_ever() {
    let daemon = Daemon {
        running: Mutex::new([1, 2].into()),
        failing: Mutex::new([2].into()),
        ..Daemon::default()
    };
    let mut session = Session::with(daemon, Duration::from_secs(1));
    let clients = session.told("the other", |clients| clients.containers.len() == 1).await;
    assert!(clients.is_partial);
    let clients = session.told("an end of it", |clients| !clients.is_partial).await;
    assert_eq!(clients.containers.keys().cloned().collect::<Vec<_>>(), [id(1)]);
    session.daemon.failing.lock().expect("a lock").clear();
    let clients = session.told("both", |clients| clients.containers.len() == 2).await;
    assert!(!clients.is_partial);
}

#[tokio::test]
async fn whoever_hangs_keeps_nobody_from_being_known() {
    // More than are looked at at once.
    let hanging: BTreeSet<usize> = (1..=LOOKS_MAX + 1).collect();
    let one =
        Daemon { running: Mutex::new([1, 20].into()), hanging: [1].into(), ..Daemon::default() };
    let mut session = Session::with(one, Duration::from_secs(1));
    let is_known = |clients: &Clients, number| clients.containers.contains_key(&id(number));
    let soon = session.told("the other", |clients| is_known(clients, 20));
    let clients = timeout(SOON, soon).await.expect("it is known soon");
    assert!(clients.is_partial, "the one that hangs is waited for");
    let all = hanging.iter().copied().chain([20]).collect();
    let many = Daemon { running: Mutex::new(all), hanging, ..Daemon::default() };
    let mut session = Session::with(many, Duration::from_hours(1));
    let soon = session.told("the last", |clients| is_known(clients, 20));
    timeout(SOON * 2, soon).await.expect("it is known before the first of the others has failed");
}

/// The programs that are asked may see nobody's calls yet.
#[tokio::test]
async fn a_namespace_that_cannot_be_told_is_asked_for_again() {
    let daemon = Daemon { running: Mutex::new([1].into()), ..Daemon::default() };
    // No program answers that.
    let cookies = Cookies::by_question();
    let mut session = Session::with_cookies(daemon, Duration::from_hours(1), cookies);
    let clients = session.told("the container", |clients| !clients.containers.is_empty()).await;
    assert_eq!((clients.containers[&id(1)].cookie, clients.node), (0, 0));
    assert!(!clients.is_partial, "it is known but for that");
    let is_asked_again = async {
        while session.daemon.inspections.lock().expect("a lock")[&1] < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, is_asked_again).await.expect("another look");
}

/// A daemon that is in trouble is not troubled further, whatever happens to others.
#[tokio::test]
async fn whoever_cannot_be_looked_at_is_so_ever_later() {
    const STORM: usize = 100;
    let daemon = Daemon {
        running: Mutex::new([500].into()),
        failing: Mutex::new([500].into()),
        storm: (1..=STORM).collect(),
        delay: Duration::from_millis(20),
        ..Daemon::default()
    };
    let begun = Instant::now();
    let mut session = Session::with(daemon, Duration::from_millis(50));
    session.told("the others", |clients| clients.containers.len() == STORM).await;
    session.told("an end of it", |clients| !clients.is_partial).await;
    let asked = session.daemon.inspections.lock().expect("a lock")[&500];
    // At 0, 1, 3, 7 seconds, and so on.
    let limit = u64::from((begun.elapsed().as_secs() + 1).ilog2()) + 1;
    assert!((2..=limit).contains(&asked), "{asked} inspections, and not up to {limit}");
}
