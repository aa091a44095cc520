//! The API against a socket that answers what the case says, byte for byte.

mod hostile;

use std::{collections::VecDeque, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    sync::Mutex,
    task::JoinHandle,
};

use super::*;

/// A daemon that gives these answers, one per connection, and remembers what it was asked.
struct Daemon {
    api: Api,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn with(answers: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut answers: VecDeque<String> =
            answers.iter().map(|&answer| answer.to_owned()).collect();
        let asked_by = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Some(answer) = answers.pop_front() {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut request = vec![0; 8192];
                let length = stream.read(&mut request).await.expect("a request");
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                asked_by.lock().await.push(request.lines().next().unwrap_or_default().to_owned());
                stream.write_all(answer.as_bytes()).await.expect("a client that waits");
            }
        });
        let api = Api::new(path.to_str().expect("a path in ASCII").to_owned());
        Self { api, asked, serving, _directory: directory }
    }

    async fn asked(&self) -> String {
        self.asked.lock().await.join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn ok(body: &str) -> String {
    answer("200 OK", body)
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

const ID: &str = "d4877eec3dbd0ee0b6dfe19f6e2c1ad4b1aa34a0d1a5c5fb5b20f0b2b5f2c9d1";

/// As Docker 20.10 answers, cut to what could matter.
fn inspection(state: &str) -> String {
    format!(
        r#"{{"Id":"{ID}","Created":"2026-08-22T09:15:41.5Z","Path":"/bin/sh","Args":[],"State":{state},
        "Image":"sha256:6a1b","Name":"/redis-1","RestartCount":0,"Driver":"overlay2",
        "Config":{{"Hostname":"d4877eec3dbd","Image":"redis:6","Labels":{{"aliyun.lb.port_6379":"tcp://slb:6379"}}}},
        "NetworkSettings":{{"Bridge":"","Networks":{{"bridge":{{"IPAddress":"172.17.0.2"}}}}}}}}"#
    )
}

const RUNNING: &str = r#"{"Status":"running","Running":true,"Paused":false,"Restarting":false,
    "OOMKilled":false,"Dead":false,"Pid":4711,"ExitCode":0,"Error":"",
    "StartedAt":"2026-08-22T09:15:42.123456789Z","FinishedAt":"0001-01-01T00:00:00Z"}"#;

#[track_caller]
fn describe_inspection(inspected: &Result<Option<Inspected>, EngineError>) -> String {
    match inspected {
        Ok(Some(one)) => format!(
            "{} of {} {:?}, process {}, made {}, started {}",
            one.name, one.image, one.labels, one.pid, one.created_at_ms, one.started_at_ms
        ),
        Ok(None) => "does not run".to_owned(),
        Err(error) => error.to_string(),
    }
}

async fn inspect(answer: &str) -> String {
    describe_inspection(&Daemon::with(&[answer]).api.inspect(ID).await)
}

#[tokio::test]
async fn running_container() {
    let found = inspect(&ok(&inspection(RUNNING))).await;
    insta::assert_snapshot!(found, @r#"redis-1 of redis:6 {"aliyun.lb.port_6379": "tcp://slb:6379"}, process 4711, made 1787390141500, started 1787390142123"#);
}

#[tokio::test]
async fn variables_and_ports_of_a_container() {
    let inspection = inspection(RUNNING)
        .replace(
            "\"Hostname\":",
            r#""Env":["PATH=/bin","SERVICE_NAME=web","SERVICE_80_CHECK_HTTP=/a=b","SECRET=x","SERVICE_"],
            "ExposedPorts":{"80/tcp":{},"53/udp":{},"9/sctp":{},"x":{}},"Hostname":"#,
        )
        .replace(
            r#""Bridge":"","#,
            r#""Ports":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"443/tcp":null},"#,
        );
    let found = Daemon::with(&[&ok(&inspection)]).api.inspect(ID).await;
    let found = found.expect("an answer").expect("it runs");
    insta::assert_snapshot!(format!("{:?}", found.environment), @r#"{"SERVICE_80_CHECK_HTTP": "/a=b", "SERVICE_NAME": "web"}"#);
    let ports = found.ports.iter();
    let ports: Vec<String> =
        ports.map(|it| format!("{}/{} {}", it.port, it.protocol, it.is_published)).collect();
    insta::assert_snapshot!(ports.join("; "), @"53/udp false; 80/tcp true");
}

#[tokio::test]
async fn labels_of_a_swarm_service() {
    let labels = async |answer: &str| {
        let labels = Daemon::with(&[answer]).api.service_labels("j9rhu6").await;
        labels.map_or_else(|error| error.to_string(), |labels| format!("{labels:?}"))
    };
    let service = r#"{"ID":"j9rhu6","Spec":{"Name":"web","Labels":{"lb.weight":"3"}}}"#;
    let worker =
        answer("503 Service Unavailable", r#"{"message":"This node is not a swarm manager."}"#);
    let gone = answer("404 Not Found", r#"{"message":"service j9rhu6 not found"}"#);
    let leaderless = answer("500 Internal Server Error", r#"{"message":"no leader"}"#);
    assert_eq!(labels(&ok(service)).await, r#"{"lb.weight": "3"}"#);
    assert_eq!(labels(&worker).await, "{}");
    assert_eq!(labels(&gone).await, "{}");
    assert_eq!(labels(&leaderless).await, "Docker responded with status code 500: no leader");
    // No id that could lead elsewhere is asked for.
    let daemon = Daemon::with(&[]);
    assert!(daemon.api.service_labels("../containers/json").await.expect("nothing").is_empty());
}

#[tokio::test]
async fn health_of_containers_with_and_without_healthcheck() {
    for (status, expected) in [
        ("starting", Some(ReportedHealth::Starting)),
        ("healthy", Some(ReportedHealth::Healthy)),
        ("unhealthy", Some(ReportedHealth::Unhealthy)),
        ("none", None),
        ("", None),
    ] {
        let health =
            format!(r#""Health":{{"Status":"{status}","FailingStreak":0,"Log":[]}},"Pid""#);
        let answer = ok(&inspection(&RUNNING.replace("\"Pid\"", &health)));
        let inspected = Daemon::with(&[&answer]).api.inspect(ID).await.expect("it answers");
        assert_eq!(inspected.expect("it runs").health, expected, "{status}");
    }
}

#[tokio::test]
async fn containers_that_do_not_run() {
    let restarting = RUNNING.replace("4711", "0");
    let exited = RUNNING.replace("\"Running\":true", "\"Running\":false");
    let missing = answer("404 Not Found", r#"{"message":"No such container: d4877"}"#);
    for answer in [ok(&inspection(&restarting)), ok(&inspection(&exited)), missing] {
        assert_eq!(inspect(&answer).await, "does not run", "{answer}");
    }
}

#[tokio::test]
async fn inspections_that_are_refused() {
    let broken = answer("500 Internal Server Error", r#"{"message":"containerd is gone"}"#);
    insta::assert_snapshot!(inspect(&broken).await, @"Docker responded with status code 500: containerd is gone");
    let number = inspect(&ok(&inspection(&RUNNING.replace("4711", "-3")))).await;
    insta::assert_snapshot!(number, @"`State.Pid` -3 is no process number");
    let time = inspect(&ok(&inspection(&RUNNING.replace("2026-08-22T", "soon")))).await;
    insta::assert_snapshot!(time, @"`State.StartedAt` is no timestamp: `soon09:15:42.123456789Z`");
    insta::assert_snapshot!(inspect(&ok("<html>")).await, @"Failed to deserialize JSON: expected value at line 1 column 1");
    insta::assert_snapshot!(inspect("SSH-2.0-OpenSSH_9.6\r\n").await, @"invalid HTTP version parsed");
    insta::assert_snapshot!(inspect("").await, @"connection closed before message completed");
}

#[tokio::test]
async fn absent_daemon_is_named() {
    let api = Api::new("/nonexistent/docker.sock".to_owned());
    let error = api.list().await.expect_err("nobody there");
    insta::assert_snapshot!(error, @"Socket not found: /nonexistent/docker.sock");
    // A socket that is there, with nobody behind it.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("docker.sock");
    let _socket = crate::dead_socket::dead_socket(&path);
    let api = Api::new(path.to_str().expect("a path in ASCII").to_owned());
    let error = api.list().await.expect_err("nobody there");
    insta::assert_snapshot!(error, @"Connection refused (os error 111)");
}

#[tokio::test]
async fn listing() {
    let listed = format!(
        r#"[{{"Id":"{ID}","Names":["/web/db","/redis-1"],"Image":"redis:6","Created":1787390141,
            "Labels":{{"aliyun.lb.port_6379":"tcp://slb:6379"}},"State":"running","Status":"Up 4 seconds",
            "NetworkSettings":{{"Networks":{{"bridge":{{"EndpointID":"e1d57d61","IPAddress":"172.17.0.2"}}}}}}}},
           {{"Id":"../../etc","Names":["/evil"],"State":"running"}},
           {{"Names":["/without-id"]}},
           {{"Id":"{}","Names":[],"State":"paused"}}]"#,
        ID.replace('d', "e")
    );
    let daemon = Daemon::with(&[&ok(&listed)]);
    let listed = daemon.api.list().await.expect("a listing");
    insta::assert_debug_snapshot!(listed, @r#"
    [
        Summary {
            id: "d4877eec3dbd0ee0b6dfe19f6e2c1ad4b1aa34a0d1a5c5fb5b20f0b2b5f2c9d1",
            name: "redis-1",
            labels: {
                "aliyun.lb.port_6379": "tcp://slb:6379",
            },
            created_at_seconds: 1787390141,
            endpoints: {
                "bridge": "e1d57d61",
            },
        },
        Summary {
            id: "e4877eec3ebe0ee0b6efe19f6e2c1ae4b1aa34a0e1a5c5fb5b20f0b2b5f2c9e1",
            name: "e4877eec3ebe",
            labels: {},
            created_at_seconds: 0,
            endpoints: {},
        },
    ]
    "#);
}

#[tokio::test]
async fn networks_are_known_by_their_bridge() {
    let networks = ok(r#"[
        {"Name":"bridge","Id":"bc7581b0f03b5a5d","Driver":"bridge","Internal":false,
         "Options":{"com.docker.network.bridge.name":"docker0"}},
        {"Name":"inside","Id":"8b4881709fc470569af1","Driver":"bridge","Internal":true,"Options":{}},
        {"Name":"named","Id":"407dcc45624d11112222","Driver":"bridge","Internal":true,
         "Options":{"com.docker.network.bridge.name":"mybr"}},
        {"Name":"none","Id":"8a96a685f47011112222","Driver":"null","Internal":false,"Options":null},
        {"Name":"broken","Driver":"bridge","Internal":true}]"#);
    let later =
        ok(r#"[{"Name":"new","Id":"999981709fc470569af1","Driver":"bridge","Internal":true}]"#);
    let daemon = Daemon::with(&[&networks, &later, &later]);
    for (bridge, name, is_internal) in
        [("docker0", "bridge", false), ("br-8b4881709fc4", "inside", true), ("mybr", "named", true)]
    {
        let network = daemon.api.bridge_network(bridge).await.expect("an answer").expect(bridge);
        assert_eq!((network.name.as_str(), network.is_internal), (name, is_internal));
    }
    assert_eq!(daemon.asked().await.lines().count(), 1, "one listing answers for all");
    // A network that was made since is not taken for one that is not internal.
    let network = daemon.api.bridge_network("br-999981709fc4").await.expect("an answer");
    assert!(network.expect("it is there").is_internal);
    assert_eq!(daemon.api.bridge_network("virbr0").await, Ok(None), "not Docker's");
}

/// Options of a bridge network; whether its addresses are hidden from the outside: IPv4, IPv6.
#[track_caller]
fn check_hidden(options: &str, v4: bool, v6: bool) {
    let network =
        format!(r#"{{"Name":"n","Id":"bc7581b0f03b5a5d","Driver":"bridge","Options":{options}}}"#);
    let network = serde_json::from_str(&network).expect("a network");
    let (bridge, network) = bridge_of(network).expect("a bridge network");
    assert_eq!(bridge, "br-bc7581b0f03b", "{options}");
    assert_eq!((network.is_hidden_v4, network.is_hidden_v6), (v4, v6), "{options}");
}

#[test]
fn addresses_are_hidden_where_docker_says_so() {
    let option =
        |name: &str, value: &str| format!(r#"{{"com.docker.network.bridge.{name}":"{value}"}}"#);
    check_hidden("null", true, false);
    check_hidden("{}", true, false);
    for (value, is_hidden) in [("true", true), ("1", true), ("false", false), ("no", false)] {
        check_hidden(&option("enable_ip_masquerade", value), is_hidden, false);
    }
    for (value, is_hidden) in
        [("nat", true), ("nat-unprotected", false), ("routed", false), ("isolated", false)]
    {
        check_hidden(&option("gateway_mode_ipv4", value), is_hidden, false);
        check_hidden(&option("gateway_mode_ipv6", value), true, is_hidden);
    }
}

#[test]
fn published_ports_are_those_with_a_binding() {
    let ports = r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"81/tcp":null,"82/tcp":[],
        "53/udp":[{"HostIp":"","HostPort":"53"}],"9/sctp":[{"HostIp":"","HostPort":"9"}],
        "84":[{"HostIp":"","HostPort":""}],"x/tcp":[{"HostIp":"","HostPort":""}]}"#;
    let found: BTreeSet<_> = published(serde_json::from_str(ports).expect("ports")).collect();
    let found = ports_of(None, found.into_iter());
    let found: Vec<_> = found.iter().map(|it| (it.port, it.protocol, it.is_published)).collect();
    let expected =
        [(53, Protocol::Udp, true), (80, Protocol::Tcp, true), (84, Protocol::Tcp, true)];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn listings_that_are_no_listings() {
    for answer in [ok("{}"), ok("[1]"), ok("[{\"Id\":"), answer("503 Service Unavailable", "{}")] {
        let daemon = Daemon::with(&[&answer]);
        let _error = daemon.api.list().await.expect_err(&answer);
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_does_not_come_is_waited_for_five_seconds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("docker.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let api = Api::new(path.to_str().expect("a path in ASCII").to_owned());
    let started = Instant::now();
    let error = api.list().await.expect_err("nobody answers");
    assert_eq!(started.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
    insta::assert_snapshot!(error, @"no answer within 5 s");
}

#[tokio::test]
async fn requests_speak_the_older_of_the_two_versions() {
    for (theirs, agreed) in [("1.41", "1.41"), ("1.99", "1.53")] {
        let version = ok(&format!(r#"{{"Version":"20.10.24","ApiVersion":"{theirs}"}}"#));
        let daemon = Daemon::with(&[&version, &ok("[]"), &ok("")]);
        let events = daemon.api.follow().await.expect("it answers");
        assert_eq!(daemon.api.list().await.expect("a listing"), []);
        let mut events = std::pin::pin!(events);
        assert_eq!(events.next().await, None);
        let asked = daemon.asked().await;
        let asked: Vec<&str> = asked.lines().collect();
        assert_eq!(asked[0], "GET /version HTTP/1.1");
        assert!(asked[1].starts_with(&format!("GET /v{agreed}/containers/json")), "{asked:?}");
        assert!(asked[2].starts_with(&format!("GET /v{agreed}/events?since=")), "{asked:?}");
    }
}

#[tokio::test]
async fn events_that_concern_containers() {
    let labelled = format!(
        r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{ID}","Attributes":{{"aliyun.lb.port_80":"x","image":"a","name":"b"}}}},"scope":"local","time":1,"timeNano":1}}"#
    );
    let lines = [
        labelled.clone(),
        labelled.replace("aliyun.lb.port_80", "other"),
        format!(
            r#"{{"Type":"network","Action":"disconnect","Actor":{{"ID":"n","Attributes":{{"container":"{ID}","name":"bridge"}}}}}}"#
        ),
        labelled.replace("start", "health_status: healthy"),
        labelled.replace("start", "create"),
        format!(
            r#"{{"Type":"network","Action":"connect","Actor":{{"ID":"n","Attributes":{{"container":"{ID}","name":"shop_back"}}}}}}"#
        ),
        r#"{"Type":"network","Action":"create","Actor":{"ID":"n","Attributes":{"name":"shop_back"}}}"#.to_owned(),
        // Not ours, from a daemon that does not filter.
        labelled.replace("start", "exec_start: sh"),
        labelled.replace("container", "image"),
        labelled.replace(ID, "not/an/id"),
        r#"{"Type":"container","Action":"start"}"#.to_owned(),
        "{}".to_owned(),
        "garbage".to_owned(),
    ];
    let version = ok(r#"{"ApiVersion":"1.41"}"#);
    let daemon = Daemon::with(&[&version, &ok(&(lines.join("\n") + "\n"))]);
    let events = daemon.api.follow().await.expect("it answers");
    let event = |labelled, what| Ok(Event { container: ID.to_owned(), labelled, what });
    let seen: Vec<_> = events.take(7).collect().await;
    let expected = [
        event(Some(true), What::Changed),
        event(Some(false), What::Changed),
        event(None, What::Changed),
        event(Some(true), What::Changed),
        event(Some(true), What::Made),
        event(None, What::Connected("shop_back".to_owned())),
    ];
    assert_eq!(seen[..6], expected);
    let _garbage = seen[6].as_ref().expect_err("garbage ends the stream");
}
