//! What the journal keeps and tells.

use std::{collections::BTreeSet, fmt::Write as _};

use insta::assert_snapshot;

use super::*;
use crate::{
    api::types::ReplicasView,
    model::{BackendState, FrontendAddress, Ports, Protocol, ServiceName},
    steering::Subject,
};

fn moment(at_ms: u64) -> Moment {
    Moment { at_ms, uptime_ms: at_ms }
}

fn subject(number: u16) -> Subject {
    let mut subject = Subject::first(&ServiceName("web".into()));
    subject.instance = format!("c{number}");
    subject
}

fn seen(number: u16, state: BackendState, weight: Option<u16>) -> BackendSeen {
    let [high, low] = number.to_be_bytes();
    let address = ([10, 0, high, low], 80).into();
    BackendSeen { name: format!("web-{number}"), address, state, weight, yields: false }
}

fn frontend(port: u16) -> FrontendAddress {
    let ports = Ports::one(port).expect("a port");
    FrontendAddress { vip: [192, 0, 2, 10].into(), protocol: Protocol::Tcp, ports }
}

/// The only service.
fn web() -> BTreeSet<ServiceName> {
    [ServiceName("web".into())].into()
}

fn told(drafts: &[Draft]) -> String {
    drafts.iter().fold(String::new(), |mut out, draft| {
        let Draft { object, backend, what, why } = draft;
        let backend = backend.as_deref().unwrap_or("-");
        writeln!(out, "{object} {backend}: {what} ({})", why.as_deref().unwrap_or("-"))
            .expect("a string");
        out
    })
}

#[test]
fn what_has_changed_is_told() {
    use BackendState::{Draining, Healthy, Starting};
    let mut chronicle = Chronicle::default();
    let why = |it: &Subject| (it.instance == "c1").then(|| "a reason".to_owned());
    let mut now = Seen {
        backends: [
            (subject(1), seen(1, Starting, Some(100))),
            (subject(2), seen(2, Healthy, Some(100))),
            (subject(3), seen(3, Healthy, None)),
        ]
        .into(),
        frontends: [(frontend(80), ServiceName("web".into()))].into(),
        ..Seen::default()
    };
    assert_snapshot!(told(&chronicle.compare(now.clone(), &web(), why)), @"
    web -: served at tcp://192.0.2.10:80 (-)
    web web-1: came at 10.0.0.1:80, starting (a reason)
    web web-2: came at 10.0.0.2:80, healthy (-)
    web web-3: came at 10.0.0.3:80, healthy (-)
    ");
    assert_eq!(chronicle.compare(now.clone(), &web(), why), []);
    now.backends.insert(subject(1), seen(1, Draining, Some(100)));
    now.backends.insert(subject(2), seen(9, Healthy, Some(50)));
    now.backends.remove(&subject(3));
    now.frontends = [(frontend(81), ServiceName("web".into()))].into();
    now.panics.insert(ServiceName("web".into()));
    now.refusals.insert(("container `x`".to_owned(), "no room".to_owned()));
    now.troubles.insert("docker", "it is away".to_owned());
    assert_snapshot!(told(&chronicle.compare(now.clone(), &web(), why)), @"
    web -: served at tcp://192.0.2.10:81 (-)
    web -: no longer served at tcp://192.0.2.10:80 (-)
    web web-1: starting -> draining (a reason)
    web web-9: moved from 10.0.0.2:80 to 10.0.0.9:80 (-)
    web web-9: weight 100 -> 50 (-)
    web web-3: went (-)
    web -: panic: who fails gets new connections, too (-)
    container `x` -: not granted (no room)
    docker -: in trouble (it is away)
    ");
    now.panics.clear();
    now.refusals.clear();
    now.troubles.clear();
    assert_snapshot!(told(&chronicle.compare(now, &web(), why)), @"
    web -: the panic is over (-)
    container `x` -: no longer refused (-)
    docker -: all is well (-)
    ");
}

#[test]
fn what_is_refused_in_other_words_is_not_told_as_granted() {
    let mut chronicle = Chronicle::default();
    let mut compare = |refusals: &[&str]| {
        let of_x = |message: &&str| ("container `x`".to_owned(), (*message).to_owned());
        let refusals = refusals.iter().map(of_x).collect();
        told(&chronicle.compare(Seen { refusals, ..Seen::default() }, &web(), |_| None))
    };
    compare(&["a-1 has none", "no room"]);
    assert_snapshot!(compare(&["a-1 and others have none", "no room"]), @"container `x` -: not granted (a-1 and others have none)");
    assert_snapshot!(compare(&["a-1 and others have none"]), @"container `x` -: no longer refused (-)");
    assert_snapshot!(compare(&[]), @"container `x` -: no longer refused (-)");
}

#[test]
fn fewer_replicas_than_expected_are_told_once_and_when_all_are_there_again() {
    let mut chronicle = Chronicle::default();
    let mut compare = |count: u16, expected: Option<u32>| {
        let backends = (0..count).map(|it| (subject(it), seen(it, BackendState::Healthy, None)));
        let replicas = |expected| ReplicasView { expected, present: count.into(), minimum: None };
        let name = ServiceName("web".into());
        let now = Seen {
            backends: backends.collect(),
            replicas: expected.map(|expected| (name, replicas(expected))).into_iter().collect(),
            ..Seen::default()
        };
        let drafts = chronicle.compare(now, &web(), |_| None);
        told(&drafts.into_iter().filter(|it| it.backend.is_none()).collect::<Vec<_>>())
    };
    let few = |count| format!("web -: {count} of 3 replicas are there (its labels expect more)\n");
    let all = "web -: 3 of 3 replicas are there (-)\n";
    // One after the other, as Compose starts them.
    assert_eq!(compare(1, Some(3)), few(1));
    assert_eq!(compare(2, Some(3)), "");
    assert_eq!(compare(3, Some(3)), all);
    assert_eq!(compare(4, Some(3)), "", "an update starts the next one first");
    assert_eq!(compare(2, Some(3)), few(2));
    assert_eq!(compare(3, Some(3)), all);
    // What is expected no longer is missed no longer.
    assert_eq!(compare(2, Some(3)), few(2));
    assert_eq!(compare(2, None), "");
    assert_eq!(compare(3, Some(3)), "");
    // The last one takes the labels with it.
    let none = "web -: 0 of 3 replicas are there (its labels expected more)\n";
    assert_eq!(compare(0, None), none);
    assert_eq!(compare(0, None), "");
    assert_eq!(compare(3, Some(3)), all, "all at once");
    assert_eq!(compare(3, Some(3)), "");
    // Also where some were gone before.
    assert_eq!(compare(2, Some(3)), few(2));
    assert_eq!(compare(0, None), none);
    // One after the other it is whole with the last of them only.
    assert_eq!(compare(1, Some(3)), "");
    assert_eq!(compare(3, Some(3)), all);
    assert_eq!(compare(0, None), none);
    assert_eq!(compare(2, None), "", "it expects nothing any more");
    assert_eq!(compare(3, Some(3)), "");
}

#[test]
fn of_services_that_are_gone_the_latest_are_remembered() {
    let mut chronicle = Chronicle::default();
    let names = |round: u16, numbers: std::ops::Range<u16>| -> BTreeSet<ServiceName> {
        numbers.map(|number| ServiceName(format!("{round}-{number}").into())).collect()
    };
    let there = |names: &BTreeSet<ServiceName>| {
        let backend = |it: &ServiceName| (Subject::first(it), seen(1, BackendState::Healthy, None));
        let replicas = ReplicasView { expected: 1, present: 1, minimum: None };
        Seen {
            backends: names.iter().map(backend).collect(),
            replicas: names.iter().map(|name| (name.clone(), replicas)).collect(),
            ..Seen::default()
        }
    };
    for round in 0..3 {
        let all = names(round, 0..3000);
        chronicle.compare(there(&all), &all, |_| None);
        chronicle.compare(Seen::default(), &all, |_| None);
    }
    for (round, expected) in [(0, false), (1, false), (2, true)] {
        let one = names(round, 7..8);
        let told = told(&chronicle.compare(there(&one), &one, |_| None));
        assert_eq!(told.contains("1 of 1 replicas are there"), expected, "{round}: {told}");
    }
}

#[test]
fn steps_of_a_rolling_update_are_told_as_such() {
    let mut chronicle = Chronicle::default();
    let mut compare = |present: u32| {
        let seen = ReplicasView { expected: 4, present, minimum: Some(3) };
        let replicas = [(ServiceName("web".into()), seen)].into();
        told(&chronicle.compare(Seen { replicas, ..Seen::default() }, &web(), |_| None))
    };
    assert_snapshot!([4, 3, 4, 3, 2, 1, 0, 3, 4].map(&mut compare).concat(), @"
    web -: 3 of 4 replicas are there (an update may replace 1 at a time)
    web -: 4 of 4 replicas are there (-)
    web -: 3 of 4 replicas are there (an update may replace 1 at a time)
    web -: 2 of 4 replicas are there (its labels expect more, and an update leaves at least 3)
    web -: 0 of 4 replicas are there (its labels expect more)
    web -: 3 of 4 replicas are there (an update may replace 1 at a time)
    web -: 4 of 4 replicas are there (-)
    ");
}

#[test]
fn a_flood_of_changes_does_not_drive_out_the_rest() {
    let backends = (0..5000).map(|it| (subject(it), seen(it, BackendState::Healthy, None)));
    let now = Seen { backends: backends.collect(), ..Seen::default() };
    let drafts = Chronicle::default().compare(now, &web(), |_| None);
    assert_eq!(drafts.len(), 201);
    assert_eq!(drafts[200].what, "4800 more changes at the same moment");
}

fn draft(number: usize) -> Draft {
    Draft::of("web", number.to_string())
}

#[test]
fn the_latest_events_are_kept() {
    let journal = Journal::default();
    assert_eq!(journal.after(0), []);
    for batch in 0..30 {
        let first = batch * 50;
        journal.write((first..first + 50).map(draft).collect(), moment(1));
    }
    let events = journal.after(0);
    assert_eq!(events.len(), EVENTS_MAX);
    assert!(events.iter().zip(501..).all(|(event, number)| event.number == number));
    assert_eq!(events[0].what, "500");
    assert_eq!(journal.after(1499).len(), 1);
    assert_eq!(journal.after(1500), []);
}

#[tokio::test(start_paused = true)]
async fn followers_wait_for_what_is_new() {
    let journal = std::sync::Arc::new(Journal::default());
    let limit = Duration::from_secs(5);
    journal.write(vec![draft(0)], moment(1));
    assert_eq!(journal.wait_after(0, limit).await.len(), 1, "there is one already");
    assert_eq!(journal.wait_after(1, limit).await, [], "none comes");
    let writer = std::sync::Arc::clone(&journal);
    let task = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.write(Vec::new(), moment(2));
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.write(vec![draft(1), draft(2)], moment(3));
    });
    let begun = tokio::time::Instant::now();
    let events = journal.wait_after(1, limit).await;
    assert_eq!(events.iter().map(|event| event.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    task.await.expect("it ends");
    // Who followed a former agent hears everything of this one.
    assert_eq!(journal.wait_after(99, limit).await.len(), 3);
}

proptest::proptest! {
    /// However much happens, little is kept, in order, and whoever follows misses nothing of it.
    #[test]
    fn the_journal_is_bounded(
        writes in proptest::collection::vec(0_usize..500, 0..12),
        asked in proptest::prelude::any::<u64>(),
    ) {
        let journal = Journal::default();
        let mut total = 0;
        for (at_ms, count) in (0..).zip(writes) {
            journal.write(vec![Draft::of("web", "x".to_owned()); count], moment(at_ms));
            total += count as u64;
        }
        let kept = journal.after(0);
        proptest::prop_assert_eq!(kept.len() as u64, total.min(EVENTS_MAX as u64));
        proptest::prop_assert!(kept.iter().rev().zip((1..=total).rev()).all(|(it, at)| it.number == at));
        let newer = kept.iter().filter(|event| event.number > asked).count();
        proptest::prop_assert_eq!(journal.after(asked).len(), newer);
    }

    /// Whatever changes at one moment, a bounded part of it is told, and the next moment is compared
    /// with all of it.
    #[test]
    fn any_two_moments_are_compared(
        before in proptest::collection::btree_map(0_u16..600, 0_u8..3, 0..600),
        after in proptest::collection::btree_map(0_u16..600, 0_u8..3, 0..600),
        refusals in proptest::collection::btree_set((".{0,8}", ".{0,8}"), 0..4),
    ) {
        let moment = |backends: std::collections::BTreeMap<u16, u8>| Seen {
            backends: backends
                .into_iter()
                .map(|(number, state)| {
                    let states =
                        [BackendState::Healthy, BackendState::Unhealthy, BackendState::Draining];
                    (subject(number), seen(number, states[usize::from(state)], Some(1)))
                })
                .collect(),
            refusals: refusals.clone(),
            ..Seen::default()
        };
        let mut chronicle = Chronicle::default();
        let (first, second) = (moment(before), moment(after));
        for now in [first, second.clone()] {
            let drafts = chronicle.compare(now, &web(), |_| None);
            proptest::prop_assert!(drafts.len() <= 201, "{}", drafts.len());
        }
        proptest::prop_assert_eq!(chronicle.compare(second, &web(), |_| None), []);
    }
}

#[test]
fn who_yields_is_told_why() {
    use BackendState::Healthy;
    let mut chronicle = Chronicle::default();
    let mut compare = |weight, yields| {
        let seen = BackendSeen { yields, ..seen(1, Healthy, Some(weight)) };
        let now = Seen { backends: [(subject(1), seen)].into(), ..Seen::default() };
        told(&chronicle.compare(now, &web(), |_| None))
    };
    let shown = [compare(30, false), compare(0, true), compare(30, false), compare(20, false)];
    assert_snapshot!(shown.concat(), @"
    web web-1: came at 10.0.0.1:80, healthy (-)
    web web-1: weight 30 -> 0 (yields to an exclusive one)
    web web-1: weight 0 -> 30 (no exclusive one takes new connections)
    web web-1: weight 30 -> 20 (-)
    ");
}
