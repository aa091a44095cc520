//! Names, questions about them, and answers over the wire.

use std::net::IpAddr;

use super::{Answer, Names, Question, Trust, Whose};
use crate::{
    api::types::{ServiceView, ServingState, View, VipFrontendView, VipView},
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
            service: ServiceName("x".into()),
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
        name: ServiceName(name.into()),
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
        is_complete: true,
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
    let nothing = |name: &str, question: Question, zone: &str, exists: bool| {
        let expected = Answer::Nothing { target: zone.to_owned(), exists };
        assert_eq!(names.answer(name, question), expected, "{name}");
    };
    check("restserver.local", Question::V4, &["10.96.0.10"]);
    check("RestServer.LOCAL.", Question::V4, &["10.96.0.10"]);
    check("restserver.local", Question::V6, &["fd00::10"]);
    check("restserver.local", Question::Any, &["10.96.0.10", "fd00::10"]);
    nothing("other.local", Question::V6, "other.local", true);
    nothing("other.local", Question::Other, "other.local", true);
    nothing("other.local", Question::Ports, "other.local", true);
    nothing("_tcp.other.local", Question::Ports, "other.local", false);
    nothing("_tcp.restserver.local", Question::V4, "restserver.local", true);
    nothing("_81._tcp.restserver.local", Question::Any, "restserver.local", false);
    nothing("_80._udp.restserver.local", Question::Ports, "restserver.local", false);
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

mod hostile;
mod over_the_wire;
mod strangers;
mod unknown;
