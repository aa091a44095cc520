//! Names that we do not know: whose they are, and what others are believed about them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr as _,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::net::UdpSocket;

use super::{
    Names, Question, Trust, Whose,
    over_the_wire::{ask, free, serve_with, wait_code},
    view,
};
use crate::{
    api::types::View,
    config::{Config, LabelsConfig, NamesConfig},
};

/// What the one who is asked lets everything be remembered for.
const LONG_SECONDS: u32 = 3600;
/// What we let it be remembered for where it may be otherwise soon.
const SHORT_SECONDS: u32 = 5;

#[test]
fn names_that_may_be_ours_are_told_from_those_of_others() {
    let full = Whose::Others(Trust::Full);
    let (briefly, hardly) = (Whose::Others(Trust::Briefly), Whose::Others(Trust::Hardly));
    let (zone, nobodys, not_yet) = (Whose::Zone, Whose::Nobodys, Whose::NotYetKnown);
    let (address, keys) = (Question::V4, Question::Other);
    // With a pool, and then with Compose names: while all is known, and while it is not.
    for (name, question, in_pool, in_compose) in [
        ("", address, [full, full], [full, full]),
        ("new.local", address, [nobodys, not_yet], [briefly, hardly]),
        ("New.LOCAL.", keys, [nobodys, not_yet], [briefly, hardly]),
        ("_80._tcp.new.local", Question::Ports, [nobodys, not_yet], [briefly, hardly]),
        ("x.restserver.local", address, [nobodys, not_yet], [full, full]),
        ("local", keys, [zone, zone], [briefly, hardly]),
        ("new", address, [full, full], [briefly, not_yet]),
        ("_tcp.new", Question::Ports, [full, full], [briefly, not_yet]),
        ("com", keys, [full, full], [briefly, hardly]),
        ("new.shop", address, [full, full], [briefly, hardly]),
        ("www.example.com", address, [full, full], [full, full]),
        ("notlocal", address, [full, full], [briefly, not_yet]),
    ] {
        for (is_complete, place) in [(true, 0), (false, 1)] {
            let view = View { is_complete, ..View::default() };
            let whose = Names::of(&view, false).whose(name, question, true);
            assert_eq!(whose, in_pool[place], "{name}, {is_complete}, with a pool");
            let whose = Names::of(&view, true).whose(name, question, false);
            assert_eq!(whose, in_compose[place], "{name}, {is_complete}, with Compose names");
            assert_eq!(Names::of(&view, false).whose(name, question, false), full, "{name}");
        }
    }
}

/// Knows `there.shop` and nothing else, and lets that be remembered for long.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 8), 0)).await.expect("a socket");
    let at = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..length]).expect("a question");
            message.set_message_type(MessageType::Response);
            let name = message.queries()[0].name().clone();
            if name == Name::from_str("there.shop.").expect("a name") {
                let data = RData::A(Ipv4Addr::new(203, 0, 113, 1).into());
                message.add_answer(Record::from_rdata(name, LONG_SECONDS, data));
            } else {
                let root = Name::root();
                let data = rdata::SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, LONG_SECONDS);
                message.add_name_server(Record::from_rdata(root, LONG_SECONDS, RData::SOA(data)));
                message.set_response_code(ResponseCode::NXDomain);
            }
            socket.send_to(&message.to_vec().expect("bytes"), from).await.expect("sent");
        }
    });
    at
}

async fn config(has_forward: bool, has_pool: bool) -> Config {
    let forward = if has_forward { vec![upstream().await] } else { Vec::new() };
    let pool = has_pool.then(|| "10.97.0.0/24".parse().expect("a pool"));
    let listen = vec![free().await];
    Config {
        names: NamesConfig { listen, forward, compose: true, ..NamesConfig::default() },
        labels: LabelsConfig { routing_pool: pool, ..LabelsConfig::default() },
        ..Config::default()
    }
}

/// At the start nothing is known, and whoever else is asked knows nothing of our names.
#[tokio::test]
async fn nobody_is_told_that_there_is_no_such_name_before_all_are_known() {
    let (failed, none) = (ResponseCode::ServFail, ResponseCode::NXDomain);
    let (refused, good) = (ResponseCode::Refused, ResponseCode::NoError);
    // Before all is known, and then.
    for (has_forward, cases) in [
        (
            false,
            [
                ("new.local.", failed, none),
                ("new.", failed, refused),
                ("web.shop.", failed, good),
                ("new.shop.", failed, refused),
                ("there.shop.", failed, refused),
                ("www.example.com.", refused, refused),
            ],
        ),
        (
            true,
            [
                ("new.local.", failed, none),
                ("new.", failed, none),
                ("web.shop.", failed, good),
                ("new.shop.", failed, none),
                ("there.shop.", good, good),
                ("www.example.com.", none, none),
            ],
        ),
    ] {
        let server = serve_with(&config(has_forward, true).await, View::default());
        for (name, before, _) in cases {
            let code = ask(server.address, name, RecordType::A).await.response_code();
            assert_eq!(code, before, "{name} at the start, {has_forward}");
        }
        server.view.send_replace(std::sync::Arc::new(view()));
        wait_code(server.address, "restserver.local.", good).await;
        for (name, _, then) in cases {
            let code = ask(server.address, name, RecordType::A).await.response_code();
            assert_eq!(code, then, "{name} later, {has_forward}");
        }
    }
}

/// What comes, comes soon: it is then not to be remembered that it was not there.
#[tokio::test]
async fn what_may_come_is_not_remembered_as_absent_for_long() {
    for is_complete in [false, true] {
        let view = View { is_complete, ..view() };
        let server = serve_with(&config(true, true).await, view);
        let none: &[_] = if is_complete {
            &[("new.local.", SHORT_SECONDS), ("new.shop.", SHORT_SECONDS), ("new.", SHORT_SECONDS)]
        } else {
            &[]
        };
        for (name, seconds) in none.iter().chain(&[("www.example.com.", LONG_SECONDS)]) {
            let answer = ask(server.address, name, RecordType::A).await;
            assert_eq!(answer.response_code(), ResponseCode::NXDomain, "{name}");
            let [soa] = answer.name_servers() else { panic!("{answer}") };
            assert_eq!(soa.ttl(), *seconds, "{name}");
        }
        let there = ask(server.address, "there.shop.", RecordType::A).await;
        let expected = if is_complete { LONG_SECONDS } else { SHORT_SECONDS };
        assert_eq!(there.answers()[0].ttl(), expected);
    }
}

/// By that, who asks by multicast knows to ask us (RFC 6762 leaves it to them).
#[tokio::test]
async fn the_zone_of_the_pool_is_ours_where_there_is_one() {
    for (has_pool, expected) in [(true, ResponseCode::NoError), (false, ResponseCode::Refused)] {
        let server = serve_with(&config(false, has_pool).await, view());
        let answer = ask(server.address, "local.", RecordType::SOA).await;
        assert_eq!(answer.response_code(), expected, "{answer}");
        assert_eq!(answer.answers().len(), usize::from(has_pool));
        let absent = ask(server.address, "new.local.", RecordType::A).await;
        let zones = absent.name_servers().iter().map(|soa| soa.name().to_ascii());
        let expected: &[&str] = if has_pool { &["local."] } else { &[] };
        assert_eq!(zones.collect::<Vec<_>>(), expected, "{absent}");
        let known = ask(server.address, "restserver.local.", RecordType::A).await;
        assert_eq!(known.answers().len(), 1);
    }
}
