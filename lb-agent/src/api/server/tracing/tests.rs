//! Queries become filters, and events lines.

use insta::assert_snapshot;
use lb_common::{
    abi::{
        CLASS_HALF_OPEN, Hook, NetU16, NetU32, TRACE_EDIT_DESTINATION, TRACE_EDIT_SOURCE,
        TraceEvent,
    },
    engine::{FlowChange, answer::AnswerKind, trace::matches, wire::Kind},
};

use super::*;
use crate::{
    api::types::{BackendCountersView, BackendView},
    model::{BackendPath, BackendState, ServiceName},
};

fn backend(number: u32, name: &str, address: &str) -> BackendView {
    BackendView {
        number: Some(number),
        service: ServiceName("file/web".into()),
        place: name.to_owned(),
        display_name: name.to_owned(),
        address: address.parse().unwrap(),
        path: BackendPath::Routed,
        weight: 100,
        state: BackendState::Healthy,
        state_reason: None,
        steering: None,
        probe: None,
        replies: None,
        weight_origin: crate::model::Origin::Default,
        exclusive: crate::model::Setting::default(),
        yields: false,
        share_percent: 0.0,
        counters: BackendCountersView::default(),
        connections: None,
        source: String::new(),
    }
}

fn view() -> View {
    View {
        backends: vec![
            backend(3, "web-1", "10.0.0.1:80"),
            backend(4, "web-2", "10.0.0.2:80"),
            backend(5, "web-2", "[fd00::2]:80"),
        ],
        ..View::default()
    }
}

fn words(address: &str) -> NetAddr6 {
    match address.parse().unwrap() {
        IpAddr::V4(address) => NetAddr6::from_raw([NetU32::from(address).raw(), 0, 0, 0]),
        IpAddr::V6(address) => address.into(),
    }
}

/// A SYN of 192.0.2.7:40000 to 203.0.113.10:80 that goes to backend 3.
fn forwarded() -> TraceEvent {
    TraceEvent {
        time_ns: 1_500_000,
        source: words("192.0.2.7"),
        destination: words("203.0.113.10"),
        address: words("10.0.0.1"),
        source_port: NetU16::new(40_000),
        destination_port: NetU16::new(80),
        port: NetU16::new(8080),
        edit: TRACE_EDIT_DESTINATION,
        hook: Hook::TcFront as u32,
        verdict: Verdict::Deliver as u32,
        backend: 3,
        protocol: 6,
        kind: Kind::Tcp as u32,
        tcp_flags: 2,
        length_bytes: 60,
        ..TraceEvent::default()
    }
}

/// Its answer.
fn reply() -> TraceEvent {
    let forwarded = forwarded();
    TraceEvent {
        source: forwarded.address,
        source_port: forwarded.port,
        destination: forwarded.source,
        destination_port: forwarded.source_port,
        address: forwarded.destination,
        port: forwarded.destination_port,
        edit: TRACE_EDIT_SOURCE,
        hook: Hook::TcReply as u32,
        verdict: Verdict::Reply as u32,
        tcp_flags: 0x12,
        ..forwarded
    }
}

/// The RST that a closed port sends.
fn refused() -> TraceEvent {
    TraceEvent {
        destination_port: NetU16::new(81),
        edit: 0,
        verdict: Verdict::Answer as u32,
        reason: DropReason::NoFrontend as u32,
        answer: AnswerKind::Reset as u32,
        backend: 0,
        ..forwarded()
    }
}

#[test]
fn filters_see_both_directions_of_a_flow() {
    let check = |query: TraceQuery, expected: [bool; 3]| {
        let Wanted { filter, .. } = wanted(&query, None, &view()).unwrap();
        let filter = TraceFilter { until_tick: 10, ..filter };
        let found = [forwarded(), reply(), refused()].map(|event| matches(&filter, &event, 10));
        assert_eq!(found, expected, "{query:?}");
        let over = TraceFilter { until_tick: 9, ..filter };
        assert!(!matches(&over, &forwarded(), 10), "{query:?}: its time is over");
        assert!(!matches(&TraceFilter { until_tick: 0, ..filter }, &forwarded(), 0));
    };
    let any = TraceQuery::default;
    let client = |text: &str| TraceQuery { client: Some(text.parse().unwrap()), ..any() };
    let vip = |text: &str| TraceQuery { vip: Some(text.parse().unwrap()), ..any() };
    check(any(), [true; 3]);
    check(client("192.0.2.7"), [true; 3]);
    check(client("192.0.2.0/29"), [true; 3]);
    check(client("192.0.2.8/29"), [false; 3]);
    check(client("0.0.0.0/0"), [true; 3]);
    check(client("::/0"), [false; 3]);
    check(vip("203.0.113.10"), [true; 3]);
    check(vip("203.0.113.11"), [false; 3]);
    check(TraceQuery { port: Some(80), ..any() }, [true, true, false]);
    check(TraceQuery { port: Some(8080), ..any() }, [false; 3]);
    check(TraceQuery { backend: Some("web-1".to_owned()), ..any() }, [true, true, false]);
    check(TraceQuery { backend: Some("10.0.0.2:80".to_owned()), ..any() }, [false; 3]);
    check(TraceQuery { dropped: true, ..any() }, [false, false, true]);
    check(TraceQuery { reason: Some("no_frontend".to_owned()), ..any() }, [false, false, true]);
    check(TraceQuery { reason: Some("no_backend".to_owned()), ..any() }, [false; 3]);
}

#[test]
fn several_backends_of_a_name_are_told_apart_by_the_agent() {
    let query = TraceQuery { backend: Some("web-2".to_owned()), ..TraceQuery::default() };
    let Wanted { filter, backends, caller, .. } = wanted(&query, None, &view()).unwrap();
    assert_eq!((filter.backend, backends, caller), (0, [4, 5].into(), None));
}

#[test]
fn a_client_is_of_packets_alone() {
    let check = |query: TraceQuery, expected: bool| {
        let found = wanted(&query, None, &view()).unwrap();
        assert_eq!(found.only_packets, expected, "{query:?}");
    };
    let any = TraceQuery::default;
    check(any(), false);
    check(TraceQuery { vip: Some(IpAddr::from([203, 0, 113, 10])), ..any() }, false);
    for client in ["192.0.2.7", "0.0.0.0/0", "0.0.0.0/32", "::/0", "::/64"] {
        check(TraceQuery { client: Some(client.parse().unwrap()), ..any() }, true);
    }
}

/// A call from the namespace with this cookie.
fn called(cookie: u64) -> TraceEvent {
    TraceEvent { hook: Hook::Socket as u32, source: caller_words(cookie), ..refused() }
}

#[test]
fn the_programs_tell_only_of_the_calls_that_are_asked_for() {
    let check = |cookie: u64, query: TraceQuery, event: TraceEvent, expected: bool| {
        let Wanted { filter, caller, .. } = wanted(&query, Some(cookie), &view()).unwrap();
        let filter = TraceFilter { until_tick: 10, ..filter };
        assert_eq!(caller, Some(cookie));
        assert_eq!(matches(&filter, &event, 10), expected, "{cookie}, {query:?}");
    };
    let any = TraceQuery::default;
    let large = 3 << 32 | 5;
    check(7, any(), called(7), true);
    check(7, any(), called(8), false);
    check(large, any(), called(large), true);
    check(large, any(), called(5), false);
    check(large, any(), called(3 << 32), false);
    check(7, any(), forwarded(), false);
    check(7, any(), reply(), false);
    let port = |port| TraceQuery { port: Some(port), ..any() };
    check(7, port(81), called(7), true);
    check(7, port(80), called(7), false);
}

/// Somebody whom the runtime knows by this cookie, or why it does not, where calls are balanced or not.
async fn asked(is_on: bool, answer: Result<u64, String>) -> Result<u64, Refused> {
    let (kernel, mut requests) = mpsc::channel(1);
    let mut view = view();
    view.status.sockets.cgroup = is_on.then(|| "/sys/fs/cgroup".to_owned());
    let source = Source {
        view: watch::channel(Arc::new(view)).1,
        kernel,
        traces: mpsc::channel(1).0,
        callers: Registry::default(),
        orders: mpsc::channel(1).0,
        journal: Arc::default(),
        names: Arc::default(),
        started: tokio::time::Instant::now(),
    };
    let runtime = async {
        match requests.recv().await {
            Some(Request::Caller(from, told)) => {
                assert_eq!(from, "web-1");
                told.send(answer).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    tokio::join!(cookie_of(&source, "web-1"), runtime).0
}

#[tokio::test]
async fn whoever_cannot_be_told_from_others_is_not_traced() {
    assert_eq!(asked(true, Ok(7)).await.unwrap(), 7);
    for (is_on, expected) in [(true, StatusCode::NOT_FOUND), (false, StatusCode::CONFLICT)] {
        let refused = asked(is_on, Err("for a reason".to_owned())).await.unwrap_err();
        assert_eq!((refused.0, refused.1.as_str()), (expected, "for a reason"));
    }
    let refused = asked(true, Ok(0)).await.unwrap_err();
    assert_eq!(refused.0, StatusCode::CONFLICT);
    assert_snapshot!(refused.1, @"calls of `web-1` cannot be told from others', since its network namespace is not known; `lbctl doctor` shows all of whom that is so");
}

#[test]
fn impossible_queries_are_refused() {
    let message =
        |query: TraceQuery| wanted(&query, None, &view()).expect_err("it is impossible").1;
    let mixed = TraceQuery {
        client: Some("192.0.2.0/24".parse().unwrap()),
        vip: Some("2001:db8::1".parse().unwrap()),
        ..TraceQuery::default()
    };
    assert_snapshot!(message(mixed), @"the client's address and the VIP are of different families");
    let reason = TraceQuery { reason: Some("nonsense".to_owned()), ..TraceQuery::default() };
    assert_snapshot!(message(reason), @"no drop reason is called `nonsense`; `lbctl drop list --all` shows all");
    let backend = TraceQuery { backend: Some("web-9".to_owned()), ..TraceQuery::default() };
    assert_snapshot!(message(backend), @"the data path has no backend `web-9`; `lbctl backend list` shows all");
    let client = Some("192.0.2.7".parse().unwrap());
    let both = TraceQuery { client, from: Some("web-1".to_owned()), ..TraceQuery::default() };
    let refused = wanted(&both, Some(7), &view()).expect_err("it is impossible");
    assert_snapshot!(refused.1, @"a call has no client's address yet: `from` or `client`, not both");
    for text in ["192.0.2.0/33", "::/129", "192.0.2.0/", "web", "", "192.0.2.1/-1"] {
        assert!(text.parse::<Prefix>().is_err(), "{text}");
    }
}

#[test]
fn events_are_told_in_a_line() {
    let (_, latest) = watch::channel(Arc::new(view()));
    let mut names = BackendNames::new(latest);
    let mut line = |event: &TraceEvent| {
        let backend = |number| names.get(number);
        let caller = |cookie| (cookie == 7).then(|| "shop,sidecar".to_owned());
        PacketView::new(event, 1_000_000_000_000_000, backend, caller).line()
    };
    let recorded = TraceEvent {
        flow_change: FlowChange::PutHalf as u32,
        class: CLASS_HALF_OPEN,
        backend: 77,
        ..forwarded()
    };
    let fragment = TraceEvent {
        family: FAMILY_V6,
        source: words("2001:db8::7"),
        destination: words("2001:db8::1"),
        source_port: NetU16::new(0),
        destination_port: NetU16::new(0),
        kind: Kind::LaterFragment as u32,
        protocol: 44,
        tcp_flags: 0,
        verdict: Verdict::Drop as u32,
        reason: DropReason::Fragment as u32,
        ..refused()
    };
    let events = [forwarded(), reply(), refused(), recorded, fragment, called(7), called(1 << 32)];
    let lines = events.map(|event| line(&event));
    assert_snapshot!(lines.join("\n"), @"
    01:46:40.001500 tc_front  tcp  S      60B 192.0.2.7:40000 > 203.0.113.10:80: deliver to 10.0.0.1:8080 (web-1)
    01:46:40.001500 tc_reply  tcp  SA     60B 10.0.0.1:8080 > 192.0.2.7:40000: reply from 203.0.113.10:80 (web-1)
    01:46:40.001500 tc_front  tcp  S      60B 192.0.2.7:40000 > 203.0.113.10:81: answer reset, no_frontend
    01:46:40.001500 tc_front  tcp  S      60B 192.0.2.7:40000 > 203.0.113.10:80: deliver to 10.0.0.1:8080 (backend 77); flow record: put_half half_open
    01:46:40.001500 tc_front  44   later_fragment    60B 2001:db8::7 > 2001:db8::1: drop, fragment
    01:46:40.001500 socket    tcp  call    60B shop,sidecar > 203.0.113.10:81: answer reset, no_frontend
    01:46:40.001500 socket    tcp  call    60B namespace 4294967296 > 203.0.113.10:81: answer reset, no_frontend
    ");
}
