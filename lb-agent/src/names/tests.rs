//! Names, questions about them, and answers over the wire.

use std::{cell::Cell, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Activity, Answer, Names, Question, RETRY, Running, Trust, Whose, again_and_again, start,
};
use crate::{
    api::types::{ServiceView, ServingState, View, VipFrontendView, VipView},
    config::{Config, NamesConfig},
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

/// Docker sets no limit on labels, and Compose names are made of them.
#[test]
fn compose_labels_take_no_name_of_others() {
    let mut view = view();
    let known = Names::of(&view, true);
    let foreign = ["local/restserver", "shop/registry.example.com", "example.com/www", "Local/x"];
    view.services.extend(
        foreign.map(|name| service(&format!("compose/{name}:80"), &["tcp://10.96.0.66:80"])),
    );
    let names = Names::of(&view, true);
    for name in ["restserver.local", "registry.example.com", "www.example.com", "www", "x.local"] {
        assert_eq!(names.answer(name, Question::V4), known.answer(name, Question::V4), "{name}");
    }
}

/// Else a fault in one part would leave names that nobody answers, or old ones, and nobody the wiser.
#[tokio::test(start_paused = true)]
async fn what_panics_is_noted_and_begun_anew() {
    let (activity, address) = (Activity::default(), ([127, 0, 0, 1], 53).into());
    let troubles = || activity.view().servers[0].trouble.clone();
    let begun = Cell::new(0);
    let serving = again_and_again(
        || async {
            begun.set(begun.get() + 1);
            assert_ne!(begun.get(), 1, "as a test has it");
            activity.note_server(address, None);
            std::future::pending::<()>().await;
        },
        |trouble| activity.note_server(address, Some(trouble)),
    );
    tokio::pin!(serving);
    assert!(timeout(RETRY / 2, &mut serving).await.is_err());
    assert!(troubles().is_some_and(|it| it.contains("ended by itself")), "{:?}", troubles());
    assert!(timeout(RETRY, &mut serving).await.is_err());
    assert_eq!((begun.get(), troubles()), (2, None));
    // What is wrong with all names is wrong with each server.
    activity.note_names(Some("old".to_owned()));
    assert_eq!(troubles().as_deref(), Some("old"));
}

#[tokio::test]
async fn the_end_of_the_thread_is_seen() {
    let names = NamesConfig { listen: vec![over_the_wire::free().await], ..<_>::default() };
    let (_sender, receiver) = watch::channel(Arc::new(view()));
    let (config, stop) = (Config { names, ..Config::default() }, CancellationToken::new());
    let running = start(&config, &[], Vec::new(), &receiver, &Arc::default(), &stop);
    let mut running = running.expect("a thread");
    let life = Duration::from_millis(100);
    assert!(timeout(life, running.ended()).await.is_err(), "not by itself");
    stop.cancel();
    timeout(Duration::from_secs(10), running.ended()).await.expect("an end");
    assert!(timeout(life, Running::default().ended()).await.is_err(), "there is none to end");
}

mod handover;
mod hostile;
mod over_the_wire;
mod strangers;
mod unknown;
