//! Orders, and the file that keeps them.

use std::{collections::BTreeSet, fs, sync::Arc};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::{
    mangle::mangled,
    model::{Policy, fixtures},
};

fn name(service: &str) -> ServiceName {
    ServiceName(service.into())
}

fn backend(number: u8, state: BackendState) -> Backend {
    fixtures::backend(number, &format!("c{number}"), state)
}

/// Two services with the same two containers, the second of which is asked to end.
fn snapshot() -> Snapshot {
    let mut backends = [backend(1, BackendState::Healthy), backend(2, BackendState::Draining)];
    backends[1].asked_to_end = Some(1);
    let service = |name| fixtures::service(name, &backends, Policy::default());
    fixtures::snapshot(["a", "b"].map(service))
}

fn give(steering: &mut Steering, backend: &str, service: Option<&str>, order: Order) -> String {
    let snapshot = snapshot();
    let backends = snapshot.services.values();
    let backends = backends.flat_map(|it| it.backends.iter().map(|backend| (&it.name, backend)));
    let service = service.map(name);
    let request = SteerRequest { backend: backend.to_owned(), service, order };
    match steering.take(&request, backends, Giver { by: "root", at_ms: 1 }) {
        Err(error) => error.to_string(),
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
    // Asked to end once more.
    let mut again = snapshot();
    for service in again.services.values_mut() {
        Arc::make_mut(service).backends[1].asked_to_end = Some(2);
    }
    it.apply(&mut again);
    let states = again.services.values().map(|it| it.backends[1].state);
    assert_eq!(states.collect::<Vec<_>>(), [BackendState::Draining; 2]);
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
fn an_order_for_either_of_two_is_for_neither() {
    let id = |first: &str| format!("{first}{}", "0".repeat(64 - first.len()));
    let named = |number: u8, name: &str, id: &str| Backend {
        display_name: name.to_owned(),
        instance: format!("{id}@1"),
        ..backend(number, BackendState::Healthy)
    };
    let of_file = |number| Backend {
        instance: String::new(),
        display_name: format!("10.0.0.{number}:80"),
        ..backend(number, BackendState::Healthy)
    };
    let (first, second) = (id("0123456789ab"), id("ba9876543210"));
    let all = [
        (name("a"), named(1, "web-1", &first)),
        (name("b"), named(1, "web-1", &first)),
        // Named like others: an address, a backend of the file, the id of a container.
        (name("c"), named(2, "10.0.0.1", &second)),
        (name("d"), named(3, "10.0.0.4:80", &id("c"))),
        (name("e"), of_file(4)),
        (name("f"), named(5, "0123456789ab", &id("d"))),
        (name("g"), named(6, "10.0.0.6", &id("e"))),
    ];
    let give = |backend: &str, service: Option<&str>| {
        let (backend, service) = (backend.to_owned(), service.map(name));
        let request = SteerRequest { backend, service, order: Order::Drain };
        let backends = all.iter().map(|(service, backend)| (service, backend));
        match Steering::default().take(&request, backends, Giver { by: "root", at_ms: 1 }) {
            Err(error) => error.to_string(),
            Ok(told) => told.iter().map(|it| it.service.0.clone()).collect::<Vec<_>>().join(" "),
        }
    };
    assert_snapshot!(give("10.0.0.1", None), @"`10.0.0.1` may be `10.0.0.1` at 10.0.0.2:80 of `c`, or `web-1` at 10.0.0.1:80 of `a`, or `web-1` at 10.0.0.1:80 of `b`; say which by `--service`, by its address with the port, or by the first 12 digits of its container's id");
    assert_snapshot!(give("10.0.0.4:80", None), @"`10.0.0.4:80` may be `10.0.0.4:80` at 10.0.0.3:80 of `d`, or `10.0.0.4:80` at 10.0.0.4:80 of `e`; say which by `--service`, by its address with the port, or by the first 12 digits of its container's id");
    for (backend, service, expected) in [
        ("10.0.0.1", Some("a"), "a"),
        ("10.0.0.1", Some("c"), "c"),
        ("10.0.0.1:80", None, "a b"),
        ("10.0.0.2", None, "c"),
        ("10.0.0.4:80", Some("e"), "e"),
        ("10.0.0.3:80", None, "d"),
        // An id goes before names.
        ("0123456789ab", None, "a b"),
        ("0123456789ab", Some("f"), "f"),
        (&second, None, "c"),
        // Its own address.
        ("10.0.0.6", None, "g"),
    ] {
        assert_eq!(give(backend, service), expected, "{backend}");
    }
    // Too short for an id.
    assert_snapshot!(give("0123456789a", None), @"there is no backend `0123456789a`; `lbctl backend list` shows all");
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
    assert!(steering.retain(|it| there.contains(it)));
    assert!(!steering.retain(|it| there.contains(it)));
    assert!(steering.of(&name("a"), &backend(1, BackendState::Healthy)).is_some());
    assert!(steering.of(&name("b"), &backend(1, BackendState::Healthy)).is_none());
    // Taken back: nothing is left of it.
    give(&mut steering, "web-1", None, Order::Undrain);
    assert!(steering.is_empty());
}

#[test]
fn an_order_is_for_an_instance_at_any_place_or_for_a_static_backend_at_its_own() {
    let mut moved = backend(1, BackendState::Healthy);
    let subject = Subject::new(&name("a"), &moved);
    moved.place = "other".to_owned();
    assert!(subject.is(&moved));
    assert_eq!(subject, Subject::new(&name("a"), &moved));
    let fixed = |number| fixtures::backend(number, "", BackendState::Healthy);
    let subject = Subject::new(&name("a"), &fixed(1));
    assert!(subject.is(&fixed(1)) && !subject.is(&fixed(2)) && !subject.is(&moved));
    assert_ne!(subject, Subject::new(&name("a"), &fixed(2)));
}

#[test]
fn an_order_that_was_kept_with_a_place_is_still_for_its_instance() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path());
    let order = r#"{"will":"drain","lifts":null,"weight":null,"by":"root","at_ms":1}"#;
    let subject = r#"{"service":"a","place":"former","instance":"c1"}"#;
    let text = format!(r#"{{"version":1,"orders":[{{"subject":{subject},"order":{order}}}]}}"#);
    fs::write(directory.path().join("steering.json"), text).expect("written");
    let steering = store.load().expect("understood");
    assert!(steering.of(&name("a"), &backend(1, BackendState::Healthy)).is_some());
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

fn is_fit_to_show(message: &str) -> bool {
    message.chars().count() < 1500 && !message.chars().any(char::is_control)
}

fn any_request() -> impl Strategy<Value = SteerRequest> {
    let order = prop_oneof![
        Just(Order::Drain),
        Just(Order::Disable),
        Just(Order::Undrain),
        Just(Order::Enable),
        any::<Option<u16>>().prop_map(|weight| Order::Weight { weight }),
    ];
    let name =
        prop_oneof![any::<String>(), "web-[12]", "10\\.0\\.0\\.[12](:80)?", "[0-9a-f]{8,70}"];
    (name, prop::option::of(prop_oneof![any::<String>(), "[ab]"]), order).prop_map(
        |(backend, service, order)| SteerRequest {
            backend,
            service: service.map(|it| ServiceName(it.into())),
            order,
        },
    )
}

proptest! {
    /// Bodies that are no requests are refused; what is one is carried out, or refused in words.
    #[test]
    fn any_request_is_understood_or_refused(
        (request, body) in any_request().prop_flat_map(|request| {
            let text = serde_json::to_string(&request).expect("JSON");
            (Just(request), mangled(text))
        }),
    ) {
        let text = serde_json::to_vec(&request).expect("JSON");
        prop_assert_eq!(serde_json::from_slice::<SteerRequest>(&text).ok(), Some(request.clone()));
        let snapshot = snapshot();
        let named = || {
            let services = snapshot.services.values();
            services.flat_map(|it| it.backends.iter().map(|backend| (&it.name, backend)))
        };
        for request in [Some(request), serde_json::from_slice(&body).ok()].into_iter().flatten() {
            let mut steering = Steering::default();
            match steering.take(&request, named(), Giver { by: "root", at_ms: 1 }) {
                Ok(told) => prop_assert!(!told.is_empty()),
                Err(error) => {
                    prop_assert!(steering.is_empty());
                    prop_assert!(is_fit_to_show(&error.to_string()), "{error}");
                }
            }
        }
    }

    /// A file that was damaged is read as it was meant, or not at all and said.
    #[test]
    fn any_file_of_orders_is_read_or_refused(
        bytes in prop_oneof![
            mangled(kept()),
            prop::collection::vec(any::<u8>(), 0..200),
            "[\\[{\"a:]{0,300}".prop_map(String::into_bytes),
            "\\PC{0,600}".prop_map(|key| format!("{{\"version\":1,\"{key}\":1}}").into_bytes()),
        ],
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("steering.json"), &bytes).expect("written");
        match Store::at(directory.path()).load() {
            Ok(steering) => {
                let mut snapshot = snapshot();
                steering.apply(&mut snapshot);
            }
            Err(message) => prop_assert!(is_fit_to_show(&message), "{message}"),
        }
    }
}

/// A file with some orders.
fn kept() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let mut steering = Steering::default();
    give(&mut steering, "web-1", None, Order::Disable);
    give(&mut steering, "web-2", Some("a"), Order::Undrain);
    give(&mut steering, "web-2", Some("b"), Order::Weight { weight: Some(7) });
    Store::at(directory.path()).save(&steering).expect("it is kept");
    fs::read_to_string(directory.path().join("steering.json")).expect("text")
}
