//! Names, questions about them, and answers over the wire.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr as _,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{net::UdpSocket, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Answer, Names, Question, start};
use crate::{
    api::types::{ServiceView, ServingState, View, VipFrontendView, VipView},
    config::NamesConfig,
    model::{FrontendAddress, ServiceName},
};

fn frontend(text: &str) -> FrontendAddress {
    crate::config::parse_frontend(text).expect(text)
}

fn vip(address: &str, names: &[&str], frontends: &[&str]) -> VipView {
    let vip = address.parse().expect(address);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let frontends = frontends.iter().map(|text| {
        let FrontendAddress { protocol, ports, .. } = frontend(text);
        VipFrontendView {
            protocol,
            ports,
            service: ServiceName("x".to_owned()),
            state: ServingState::Serving,
        }
    });
    VipView {
        vip,
        names,
        frontends: frontends.collect(),
        balancers: Vec::new(),
        services: Vec::new(),
        backends: <_>::default(),
        state: ServingState::Serving,
    }
}

fn service(name: &str, frontends: &[&str]) -> ServiceView {
    ServiceView {
        name: ServiceName(name.to_owned()),
        frontends: frontends.iter().map(|text| frontend(text)).collect(),
        protocols: Vec::new(),
        ring_size: None,
        replicas: None,
        backends: <_>::default(),
        counters: <_>::default(),
        connections: <_>::default(),
        state: ServingState::Serving,
        source: "docker".to_owned(),
    }
}

fn view() -> View {
    View {
        vips: vec![
            vip(
                "10.96.0.10",
                &["restserver.local"],
                &["tcp://10.96.0.10:80", "udp://10.96.0.10:53", "tcp://10.96.0.10:8000-8010"],
            ),
            vip("fd00::10", &["restserver.local"], &["tcp://[fd00::10]:80"]),
            vip("10.96.0.11", &["other.local"], &[]),
        ],
        services: vec![
            service("compose/shop/db:5432", &["tcp://10.96.0.20:5432"]),
            service("compose/shop/web:80", &["tcp://10.96.0.21:80"]),
            service("compose/blog/web:80", &["tcp://10.96.0.22:80"]),
            service("file/web", &["tcp://10.96.0.23:80"]),
        ],
        ..View::default()
    }
}

#[test]
fn names_are_answered_by_family_and_in_any_case() {
    let names = Names::of(&view(), false);
    let check = |name: &str, question: Question, expected: &[&str]| {
        let expected: Vec<IpAddr> =
            expected.iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(names.answer(name, question), Answer::Addresses(expected), "{name}");
    };
    check("restserver.local", Question::V4, &["10.96.0.10"]);
    check("RestServer.LOCAL.", Question::V4, &["10.96.0.10"]);
    check("restserver.local", Question::V6, &["fd00::10"]);
    check("other.local", Question::V6, &[]);
    check("other.local", Question::Other, &[]);
    check("_tcp.restserver.local", Question::V4, &[]);
    for unknown in ["", ".", "local", "web", "db", "x.restserver.local", "_x.restserver.local"] {
        assert_eq!(names.answer(unknown, Question::V4), Answer::Unknown, "{unknown}");
    }
}

#[test]
fn ports_are_told_by_protocol_and_number() {
    let names = Names::of(&view(), false);
    let check = |name: &str, expected: &[u16]| match names.answer(name, Question::Ports) {
        Answer::Ports { target, ports, .. } => {
            assert_eq!((target.as_str(), ports.as_slice()), ("restserver.local", expected));
        }
        answer => panic!("{name}: {answer:?}"),
    };
    check("restserver.local", &[53, 80]);
    check("_tcp.restserver.local", &[80]);
    check("_udp.restserver.local", &[53]);
    check("_80._tcp.restserver.local", &[80]);
    check("_http._tcp.restserver.local", &[80]);
    check("_80._udp.restserver.local", &[]);
}

#[test]
fn compose_names_are_told_where_they_are_asked_for_and_clear() {
    let address = |text: &str| Answer::Addresses(vec![text.parse().expect("an address")]);
    let names = Names::of(&view(), true);
    assert_eq!(names.answer("db", Question::V4), address("10.96.0.20"));
    assert_eq!(names.answer("db.shop", Question::V4), address("10.96.0.20"));
    assert_eq!(names.answer("web.shop", Question::V4), address("10.96.0.21"));
    assert_eq!(names.answer("web.blog", Question::V4), address("10.96.0.22"));
    assert_eq!(names.answer("web", Question::V4), Answer::Unknown);
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let mut question = Message::new();
    question.set_id(7).set_recursion_desired(true);
    question.add_query(Query::query(Name::from_str(name).expect(name), kind));
    let bytes = question.to_vec().expect("a message");
    let mut buffer = [0; 1500];
    for _ in 0..50 {
        socket.send_to(&bytes, server).await.expect("sent");
        let answer = timeout(Duration::from_millis(200), socket.recv(&mut buffer)).await;
        if let Ok(Ok(length)) = answer {
            return Message::from_vec(&buffer[..length]).expect("an answer");
        }
    }
    panic!("{server} does not answer");
}

async fn serve(forward: Vec<SocketAddr>) -> (SocketAddr, watch::Sender<Arc<View>>) {
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = probe.local_addr().expect("an address");
    drop(probe);
    let (sender, receiver) = watch::channel(Arc::new(view()));
    let config = NamesConfig { listen: vec![address], forward, ..NamesConfig::default() };
    start(&config, &receiver, &Arc::default(), &CancellationToken::new());
    (address, sender)
}

#[tokio::test]
async fn questions_are_answered_over_the_wire() {
    let (server, view_sender) = serve(Vec::new()).await;
    let answer = ask(server, "restserver.local.", RecordType::A).await;
    assert_eq!((answer.id(), answer.response_code()), (7, ResponseCode::NoError));
    assert!(answer.authoritative() && !answer.recursion_available());
    let [record] = answer.answers() else { panic!("{answer}") };
    assert_eq!(record.data(), &RData::A(Ipv4Addr::new(10, 96, 0, 10).into()));
    assert_eq!(record.ttl(), NamesConfig::default().ttl_seconds);

    let answer = ask(server, "_http._tcp.restserver.local.", RecordType::SRV).await;
    let [record] = answer.answers() else { panic!("{answer}") };
    let RData::SRV(data) = record.data() else { panic!("{record}") };
    assert_eq!((data.port(), data.target().to_utf8().as_str()), (80, "restserver.local."));
    assert_eq!(answer.additionals().len(), 2);

    // What is not ours is refused, and asked elsewhere by whoever asks.
    let answer = ask(server, "example.com.", RecordType::A).await;
    assert_eq!(answer.response_code(), ResponseCode::Refused);

    // A service that is over is over at once.
    view_sender.send_replace(Arc::default());
    let answer = ask(server, "restserver.local.", RecordType::A).await;
    assert_eq!(answer.response_code(), ResponseCode::Refused);
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_where_that_is_configured() {
    // One of ours stands for the server of everybody else.
    let (upstream, _its_view) = serve(Vec::new()).await;
    let (server, view_sender) = serve(vec![upstream]).await;
    view_sender.send_replace(Arc::default());
    let answer = ask(server, "restserver.local.", RecordType::A).await;
    assert!(answer.recursion_available() && !answer.authoritative());
    assert_eq!(answer.answers().len(), 1, "{answer}");
}
