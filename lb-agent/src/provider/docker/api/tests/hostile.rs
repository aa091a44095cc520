//! Answers and events that no daemon should send. They are understood, or refused; the labels in them
//! are read by others.

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::mangle::{any_text, mangled, mangled_text};

/// One of the texts and numbers of a document, replaced by another.
fn twisted(document: &str) -> impl Strategy<Value = Vec<u8>> {
    let document: Value = serde_json::from_str(document).expect("JSON");
    let other = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![any::<i64>(), Just(-1), Just(0)].prop_map(Value::from),
        any_text().prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(serde_json::json!({ "": null })),
        Just(Value::from("x".repeat(100_000))),
    ];
    let change = (any::<prop::sample::Index>(), other);
    prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut document = document.clone();
        for (index, other) in changes {
            let leaves = leaves(&mut document);
            if !leaves.is_empty() {
                let at = index.index(leaves.len());
                *leaves.into_iter().nth(at).expect("one of them") = other;
            }
        }
        serde_json::to_vec(&document).expect("JSON")
    })
}

/// Whatever has no parts.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(items) => items.iter_mut().flat_map(leaves).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

fn documents(document: &str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => twisted(document),
        4 => mangled(document),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// With everything that is looked at.
fn whole_inspection() -> String {
    let health = r#""Health":{"Status":"healthy","FailingStreak":0,"Log":[]},"Pid""#;
    inspection(&RUNNING.replace("\"Pid\"", health))
        .replace(
            "\"Hostname\":",
            r#""Env":["PATH=/bin","SERVICE_NAME=web","SERVICE_"],"StopSignal":"SIGRTMIN+3",
            "ExposedPorts":{"80/tcp":{},"53/udp":{},"9/sctp":{}},"Hostname":"#,
        )
        .replace(
            r#""Bridge":"","#,
            r#""Ports":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"443/tcp":null},"#,
        )
}

fn listed() -> String {
    format!(
        r#"{{"Id":"{ID}","Names":["/web/db","/redis-1"],"Image":"redis:6","Created":1787390141,
        "Labels":{{"aliyun.lb.port_6379":"tcp://slb:6379"}},"State":"running","NetworkSettings":
        {{"Networks":{{"bridge":{{"EndpointID":"e1d57d61","IPAddress":"172.17.0.2",
        "GlobalIPv6Address":"fd00::2"}}}}}}}}"#
    )
}

fn event() -> String {
    format!(
        r#"{{"Type":"container","Action":"kill","Actor":{{"ID":"{ID}","Attributes":{{"signal":"15",
        "aliyun.lb.port_80":"x","container":"{ID}","name":"b"}}}},"time":1,"timeNano":1787390141}}"#
    )
}

const NETWORK: &str = r#"{"Name":"named","Id":"407dcc45624d11112222","Driver":"bridge","Internal":true,
    "Options":{"com.docker.network.bridge.name":"mybr",
    "com.docker.network.bridge.gateway_mode_ipv4":"nat"}}"#;

#[test]
fn the_documents_are_understood_as_they_are() {
    let inspected = inspected_of(read(whole_inspection().as_bytes()).expect("an inspection"));
    let inspected = inspected.expect("in order").expect("it runs");
    assert_eq!(inspected.stop_signal, Signal::parse("37").expect("a signal"));
    assert_eq!((inspected.environment.len(), inspected.ports.len()), (1, 2));
    assert!(event_of(read(event().as_bytes()).expect("an event")).is_some());
    let listed = listed();
    assert!(summary_of(read(listed.as_bytes()).expect("a summary")).is_some());
    let client = client_of(read(listed.as_bytes()).expect("a summary")).expect("a client");
    assert_eq!(client.networks.values().flatten().count(), 2);
    assert!(bridge_of(read(NETWORK.as_bytes()).expect("a network")).is_some());
}

proptest! {
    #[test]
    fn any_inspection_is_understood_or_refused(bytes in documents(&whole_inspection())) {
        let Some(response) = read(&bytes) else { return Ok(()) };
        match inspected_of(response) {
            Ok(Some(found)) => {
                prop_assert!(found.pid != 0);
                let prefix = labels::registrator::PREFIX;
                prop_assert!(found.environment.keys().all(|key| key.starts_with(prefix)));
            }
            Ok(None) => {}
            // It is shown.
            Err(error) => prop_assert!(error.to_string().len() < 1000, "{}", error),
        }
    }

    #[test]
    fn any_event_is_understood_or_none(bytes in documents(&event())) {
        let Some(message) = read(&bytes) else { return Ok(()) };
        if let Some(event) = event_of(message) {
            prop_assert!(is_id(&event.container));
        }
    }

    #[test]
    fn any_listing_is_understood_or_left_out(bytes in documents(&listed())) {
        if let Some(summary) = read(&bytes).and_then(summary_of) {
            prop_assert!(is_id(&summary.id) && !summary.name.contains('/'));
        }
        if let Some(client) = read(&bytes).and_then(client_of) {
            prop_assert!(is_id(&client.id));
        }
    }

    #[test]
    fn any_network_is_understood_or_left_out(bytes in documents(NETWORK)) {
        if let Some((bridge, _)) = read(&bytes).and_then(bridge_of) {
            prop_assert!(!bridge.is_empty());
        }
    }

    /// As users write them into images and Compose files.
    #[test]
    fn any_signal_is_one_or_none(
        text in prop_oneof![
            any_text(),
            mangled_text("SIGRTMIN+15"),
            mangled_text("TERM"),
            any::<i64>().prop_map(|number| number.to_string()),
        ],
    ) {
        if let Some(signal) = Signal::parse(&text) {
            let again = Signal::parse(&format!(" {} ", text.trim().to_lowercase()));
            prop_assert_eq!(again, Some(signal));
        }
    }
}
