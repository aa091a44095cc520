//! Answers of an agent that is broken, another version, or somebody else: they are shown or refused, and
//! do nothing else.

use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{
        events::{ConflictList, EventList},
        explain::{CallExplanation, Explanation},
        steer::SteerAnswer,
        trace::TraceLine,
        types::{BackendList, ErrorBody, ServiceList},
    },
    mangle::mangled,
};

/// Reads and shows what `lbctl` was answered, as a table and as JSON.
type Show = fn(&[u8]) -> Result<String, serde_json::Error>;

fn shown<T: DeserializeOwned + Serialize>(
    answer: &[u8],
    table: impl FnOnce(&T) -> String,
) -> Result<String, serde_json::Error> {
    let read: T = serde_json::from_slice(answer)?;
    // Every number that was read is one that can be written.
    serde_json::to_string_pretty(&read)?;
    Ok(table(&read))
}

fn trace_line_shown(answer: &[u8]) -> Result<String, serde_json::Error> {
    shown(answer, |it: &TraceLine| trace_line(it) + "\n")
}

fn backend() -> Value {
    json!({ "number": 7, "name": "web-1", "service": "compose/shop/web:80" })
}

fn packet() -> Value {
    json!({
        "what": "packet", "unix_us": 1_735_689_600_000_001_u64, "hook": "tc_front", "protocol": "tcp",
        "kind": "S", "source": "192.0.2.2:40000", "destination": "192.0.2.10:80", "length_bytes": 60,
        "verdict": "route", "reason": "no_backend", "answer": "reset", "to": "10.0.0.1:8080",
        "from": "192.0.2.10:80", "backend": backend(), "ingress_ifindex": 2, "egress_ifindex": 0,
        "flow_record": "new", "reply_record": "kept",
    })
}

/// With every kind of step.
fn explained(question: &Value) -> Value {
    let reply = json!({
        "vip": "192.0.2.10:80", "backend": backend(), "class": "established", "age_seconds": 3,
        "flags": ["ambiguous"],
    });
    let flow = json!({
        "backend": backend(), "generation": 2, "class": "half_open", "age_seconds": 1, "is_live": true,
    });
    json!({
        "question": question,
        "steps": [
            {"step": "frontend", "state": "served", "service": "web", "number": 3, "flags": ["drops"]},
            {"step": "hash", "of": "the flow", "hash": 12},
            {"step": "ring", "ring": 12, "slots": 1021, "epoch": 4},
            {"step": "slot", "index": 5, "state": "moving", "cur": backend(), "old": backend(),
             "age_seconds": 6},
            {"step": "flow_record", "table": "flows", "record": flow},
            {"step": "pressure", "of": "half_open", "value": 9},
            {"step": "backend", "backend": backend(), "address": "10.0.0.1:8080", "takes": ["new"],
             "path": "local", "ifindex": 9, "generation": 2},
            {"step": "caller", "name": "client", "kind": "container", "networks": ["bridge"]},
            {"step": "scope", "visible": ["network:bridge"], "prefers_node": true, "is_seen": false},
            {"step": "reach", "of": "everybody", "slots": 0, "preferred": 1, "others": 2},
            {"step": "network", "backend": backend(), "network": "bridge", "is_reached": true},
            {"step": "reply_record", "table": "replies", "record": reply},
            {"step": "reply_default", "default": reply},
        ],
        "outcome": {
            "verdict": "deliver", "reason": "no_backend", "answer": "reset", "backend": backend(),
            "to": "10.0.0.1:8080", "from": "192.0.2.10:80", "ifindex": 9, "flow_record": "new",
            "reply_record": "new", "replies": "recorded",
        },
        "notes": ["the container is on another network"],
    })
}

/// Each kind of answer, and how it is shown.
fn answers() -> Vec<(Value, Show)> {
    let event = json!({
        "number": 1, "at_ms": 1_735_689_600_001_u64, "uptime_ms": 1, "object": "compose/shop/web:80",
        "backend": "web-1", "what": "healthy -> draining", "why": "told to end",
    });
    let conflict = json!({
        "frontend": {"vip": "192.0.2.10", "protocol": "tcp", "port": 80},
        "owned": {"vip": "192.0.2.10", "protocol": "tcp", "port": 80}, "owner": "a",
        "owner_source": "b", "contender": "c", "contender_source": "d", "since_ms": 1,
    });
    let drops = DropList::new(&[DropView { reason: "no_frontend".to_owned(), packets: 12 }]);
    let detail = service_detail();
    vec![
        (json!({ "vips": vip_views() }), |it| shown(it, |it: &VipList| vips(&it.vips))),
        (json!({ "services": [detail.service] }), |it| {
            shown(it, |it: &ServiceList| services(&it.services))
        }),
        (json!(detail), |it| shown(it, service)),
        (json!({ "backends": backend_views() }), |it| {
            shown(it, |it: &BackendList| backends(&it.backends, false))
        }),
        (json!(status_view()), |it| shown(it, status)),
        (json!(drops), |it| shown(it, |it: &DropList| super::drops(&it.drops, true))),
        (json!({ "events": [event] }), |it| {
            let show = |it: &EventList| {
                it.events.iter().map(super::event).chain([events(&it.events)]).collect()
            };
            shown(it, show)
        }),
        (json!({ "conflicts": [conflict] }), |it| {
            shown(it, |it: &ConflictList| conflicts(&it.conflicts))
        }),
        (json!({ "done": ["web-1: drain"], "pending": "later", "warning": "forgotten" }), |it| {
            shown(it, |it: &SteerAnswer| steered(it))
        }),
        (json!({ "what": "begin", "seconds": 9 }), trace_line_shown),
        (packet(), trace_line_shown),
        (json!({ "what": "lost", "packets": 7 }), trace_line_shown),
        (
            explained(
                &json!({"client": "192.0.2.2:40000", "vip": "192.0.2.10:80", "protocol": "tcp"}),
            ),
            |it| shown(it, |it: &Explanation| explanation(it)),
        ),
        (explained(&json!({"from": "client", "vip": "192.0.2.10:80", "protocol": "udp"})), |it| {
            shown(it, |it: &CallExplanation| explanation(it))
        }),
        (json!({ "error": "no such service" }), |it| {
            shown(it, |it: &ErrorBody| printable(&it.error))
        }),
    ]
}

/// What stands where something else should.
fn wrong() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        Just(json!(1e308)),
        Just(json!("\u{1b}[31m\u{202e}x\n\r\u{9b}y")),
        Just(json!("")),
        Just(json!("x".repeat(5000))),
        Just(json!([])),
        Just(json!([[], null])),
        Just(json!({})),
        any::<u64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(|text| json!(text)),
    ]
}

/// Another value at one of the places of `value`, the `at`th in their order.
fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        value.clone_from(with);
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(values) => values.iter_mut().for_each(|it| replace(it, at, with)),
        Value::Object(values) => values.values_mut().for_each(|it| replace(it, at, with)),
        _ => {}
    }
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(places).sum(),
        Value::Object(values) => values.values().map(places).sum(),
        _ => 0,
    }
}

/// An answer in which this and that is another value, or whose bytes are others.
fn garbled() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), wrong()), 0..4);
    let values = (0..answers().len(), changes).prop_map(|(kind, changes)| {
        let (mut value, _) = answers().swap_remove(kind);
        for (index, with) in changes {
            let mut at = index.index(places(&value));
            replace(&mut value, &mut at, &with);
        }
        (kind, value.to_string().into_bytes())
    });
    let bytes = (0..answers().len()).prop_flat_map(|kind| {
        let (value, _) = answers().swap_remove(kind);
        mangled(value.to_string()).prop_map(move |bytes| (kind, bytes))
    });
    prop_oneof![3 => values, 2 => bytes]
}

#[test]
fn answers_as_they_should_be_are_shown() {
    for (value, show) in answers() {
        let text = show(value.to_string().as_bytes());
        assert!(text.as_ref().is_ok_and(|text| !text.is_empty()), "{value}: {text:?}");
    }
}

proptest! {
    /// Whatever it says, it is text of lines when it comes to a terminal, and what cannot be read is named.
    #[test]
    fn any_answer_is_shown_or_refused((kind, answer) in garbled()) {
        match answers()[kind].1(&answer) {
            Ok(text) => prop_assert!(!text.chars().any(|it| it != '\n' && is_control(it)), "{:?}", text),
            Err(error) => {
                let said = error.to_string();
                // Of values with a tag it is not known any more where they stood.
                let words = [" at line ", "missing field", "duplicate field", "invalid ", "unknown "];
                prop_assert!(words.iter().any(|word| said.contains(word)), "{}", said);
            }
        }
    }
}
