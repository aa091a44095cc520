//! Orders, and the file that keeps them.

use std::{collections::BTreeMap, fs, sync::Arc};

use insta::assert_snapshot;

use super::*;
use crate::model::{BackendPath, Policy, ReplyFacts, Service};

fn name(service: &str) -> ServiceName {
    ServiceName(service.to_owned())
}

fn backend(number: u8, state: BackendState) -> Backend {
    Backend {
        place: number.to_string(),
        instance: format!("c{number}"),
        display_name: format!("web-{number}"),
        address: ([10, 0, 0, number], 80).into(),
        weight: 100,
        path: BackendPath::Routed,
        state,
        started_at_ms: 0,
        reported: None,
        replies: ReplyFacts::default(),
    }
}

/// Two services with the same two containers, the second of which is told to end.
fn snapshot() -> Snapshot {
    let backends = [backend(1, BackendState::Healthy), backend(2, BackendState::Draining)];
    let service = |service: &str| Service {
        name: name(service),
        frontends: BTreeSet::new(),
        backends: backends.to_vec(),
        policy: Arc::new(Policy::default()),
        exclusive: BTreeSet::new(),
    };
    let services: BTreeMap<_, _> = ["a", "b"].map(|it| (name(it), service(it).into())).into();
    Snapshot { services, ..Snapshot::default() }
}

fn give(steering: &mut Steering, backend: &str, service: Option<&str>, order: Order) -> String {
    let snapshot = snapshot();
    let backends = snapshot.services.values();
    let backends = backends.flat_map(|it| it.backends.iter().map(|backend| (&it.name, backend)));
    let service = service.map(name);
    let request = SteerRequest { backend: backend.to_owned(), service, order };
    match steering.take(&request, backends, Giver { by: "root", at_ms: 1 }) {
        Err(message) => message,
        Ok(told) => {
            let lines = told.iter().map(|it| format!("{} {} {}", it.service, it.backend, it.what));
            lines.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Every backend with its state and weight.
fn result(steering: &Steering) -> String {
    let mut snapshot = snapshot();
    steering.apply(&mut snapshot);
    let shown = snapshot.services.values().flat_map(|service| {
        let show = |it: &Backend| {
            format!("{} {} {} {}", service.name, it.display_name, it.state, it.weight)
        };
        service.backends.iter().map(show).collect::<Vec<_>>()
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn orders_are_for_those_that_they_name() {
    let mut steering = Steering::default();
    let it = &mut steering;
    assert_snapshot!(give(it, "web-1", Some("a"), Order::Drain), @"a web-1 drain");
    assert_snapshot!(give(it, "10.0.0.1:80", Some("b"), Order::Disable), @"b web-1 disable");
    assert_snapshot!(give(it, "10.0.0.2", None, Order::Undrain), @"a web-2 serve, b web-2 serve");
    assert_snapshot!(give(it, "web-2", Some("b"), Order::Weight { weight: Some(0) }), @"b web-2 weight 0");
    assert_snapshot!(result(it), @"
    a web-1 draining 100
    a web-2 healthy 100
    b web-1 disabled 100
    b web-2 healthy 0
    ");
    assert_snapshot!(give(it, "web-1", None, Order::Enable), @"a web-1 serve, b web-1 serve");
    assert_snapshot!(give(it, "web-2", None, Order::Weight { weight: None }), @"a web-2 weight 100, as asked for, b web-2 weight 100, as asked for");
    assert_snapshot!(give(it, "web-2", None, Order::Drain), @"a web-2 drain, b web-2 drain");
    assert_snapshot!(result(it), @"
    a web-1 healthy 100
    a web-2 draining 100
    b web-1 healthy 100
    b web-2 draining 100
    ");
}

#[test]
fn who_is_not_there_is_said() {
    let mut steering = Steering::default();
    let it = &mut steering;
    assert_snapshot!(give(it, "web", None, Order::Drain), @"there is no backend `web`; `lbctl backend list` shows all");
    assert_snapshot!(give(it, "web-1", Some("c\n"), Order::Drain), @r"there is no backend `web-1` of a service `c\n`; `lbctl backend list` shows all");
    assert!(steering.is_empty());
}

#[test]
fn an_order_goes_with_its_instance() {
    let mut steering = Steering::default();
    give(&mut steering, "web-1", None, Order::Drain);
    give(&mut steering, "web-2", Some("a"), Order::Drain);
    let there = BTreeSet::from([
        Subject::new(&name("a"), &backend(1, BackendState::Healthy)),
        Subject {
            instance: "c2-again".to_owned(),
            ..Subject::new(&name("a"), &backend(2, BackendState::Healthy))
        },
    ]);
    assert!(steering.retain(&there));
    assert!(!steering.retain(&there));
    assert!(steering.of(&name("a"), &backend(1, BackendState::Healthy)).is_some());
    assert!(steering.of(&name("b"), &backend(1, BackendState::Healthy)).is_none());
    // Taken back: nothing is left of it.
    give(&mut steering, "web-1", None, Order::Undrain);
    assert!(steering.is_empty());
}

#[test]
fn orders_are_kept_in_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path());
    assert_eq!(store.load(), Ok(Steering::default()));
    let mut steering = Steering::default();
    give(&mut steering, "web-1", None, Order::Disable);
    give(&mut steering, "web-2", Some("a"), Order::Weight { weight: Some(7) });
    for _ in 0..2 {
        store.save(&steering).expect("it is kept");
        assert_eq!(store.load().as_ref(), Ok(&steering));
    }
    let names: Vec<_> = fs::read_dir(directory.path()).expect("it is there").collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path());
    let check = |text: &str| {
        fs::write(directory.path().join("steering.json"), text).expect("written");
        let message = store.load().expect_err("not ours");
        message.replace(&directory.path().display().to_string(), "DIR")
    };
    assert_snapshot!(check("{"), @"orders of operators cannot be read from `DIR/steering.json`: EOF while parsing an object at line 1 column 1; backends are what their providers and probes say, give the orders again");
    assert_snapshot!(check(r#"{"version":2,"orders":[]}"#), @"orders of operators cannot be read from `DIR/steering.json`: it has version 2, not 1; backends are what their providers and probes say, give the orders again");
    assert!(check(r#"{"version":1,"orders":[{}]}"#).contains("missing field"));
}
