//! What the view makes of health.

use std::collections::BTreeSet;

use lb_common::abi::{TAKES_NEW, TAKES_OLD};

use super::*;
use crate::model::{BackendPath, Origin, Policy, ProbeKind, Setting};

fn policy() -> Policy {
    let probe = Setting::new(Some(ProbeKind::Tcp { port: None }), Origin::Default);
    Policy { probe, ..Policy::default() }
}

fn backend(number: u8, instance: &str, state: BackendState) -> Backend {
    Backend {
        place: number.to_string(),
        instance: instance.to_owned(),
        display_name: format!("web-{number}"),
        address: format!("10.0.0.{number}:80").parse().expect("an address"),
        weight: 100,
        path: BackendPath::Routed,
        state,
        started_at_ms: 0,
        reported: None,
        asked_to_end: None,
        replies: crate::model::ReplyFacts::default(),
    }
}

fn name() -> ServiceName {
    ServiceName("web".to_owned())
}

fn snapshot(backends: &[Backend], policy: Policy) -> Snapshot {
    let service = Service {
        name: name(),
        frontends: BTreeSet::new(),
        backends: backends.to_vec(),
        policy: Arc::new(policy),
        exclusive: BTreeSet::new(),
    };
    let services = BTreeMap::from([(name(), service.into())]);
    Snapshot { services, ..Snapshot::default() }
}

/// Applies, and returns the states of the snapshot and those that are shown.
fn apply(view: &mut HealthView, backends: &[Backend], held: Option<u8>) -> String {
    apply_with(view, backends, held, policy())
}

fn apply_with(
    view: &mut HealthView,
    backends: &[Backend],
    held: Option<u8>,
    policy: Policy,
) -> String {
    let mut snapshot = snapshot(backends, policy);
    view.apply_to(&mut snapshot, |_| held);
    let service = &snapshot.services[&name()];
    let states = service.backends.iter().map(|backend| {
        let shown = view.shown_state(&name(), backend);
        if shown == backend.state { shown.to_string() } else { format!("{shown}!") }
    });
    states.collect::<Vec<_>>().join(" ")
}

fn tell(view: &mut HealthView, backend: &Backend, health: Health) -> bool {
    let key = instance_hash(&name(), backend);
    let generation = view.entries[&key].target.generation;
    let standing = Standing { health, was_healthy: true, is_refusing: false, is_observed: false };
    view.take(&[Change { key, generation, standing, cause: "a test".to_owned() }])
}

#[test]
fn who_is_probed_starts_and_who_is_not_is_healthy() {
    use BackendState::{Disabled, Draining, Healthy};
    let mut view = HealthView::default();
    let backends = [
        backend(1, "a", Healthy),
        backend(2, "b", Healthy),
        backend(3, "c", Draining),
        backend(4, "d", Disabled),
    ];
    assert_eq!(apply(&mut view, &backends, None), "starting starting draining disabled");
    assert_eq!(view.targets().borrow().len(), 3);
    tell(&mut view, &backends[0], Health::Healthy);
    assert_eq!(apply(&mut view, &backends, None), "healthy starting draining disabled");
    let initial = Setting::new(InitialState::Healthy, Origin::Default);
    for policy in [Policy::default(), Policy { probe_initial: initial, ..policy() }] {
        let shown = apply_with(&mut HealthView::default(), &backends, None, policy);
        assert_eq!(shown, "healthy healthy draining disabled");
    }
}

#[test]
fn a_new_agent_begins_with_what_the_kernel_holds() {
    let backends = [backend(1, "a", BackendState::Healthy)];
    for (held, expected) in [
        (TAKES_NEW | TAKES_OLD, "healthy"),
        // It is the only one, so that it is used although it fails.
        (TAKES_OLD, "unhealthy!"),
        (0, "starting"),
    ] {
        assert_eq!(apply(&mut HealthView::default(), &backends, Some(held)), expected);
    }
}

#[test]
fn health_is_told_of_changes_only_and_a_recreated_backend_begins_anew() {
    let mut view = HealthView::default();
    let mut targets = view.targets();
    let first = backend(1, "a", BackendState::Healthy);
    let second = backend(2, "b", BackendState::Healthy);
    apply(&mut view, std::slice::from_ref(&first), None);
    assert!(targets.has_changed().expect("the view is there"));
    let generation = targets.borrow_and_update()[0].generation;
    assert!(tell(&mut view, &first, Health::Healthy));
    assert!(!tell(&mut view, &first, Health::Healthy));
    apply(&mut view, std::slice::from_ref(&first), None);
    assert!(!targets.has_changed().expect("the view is there"));
    let both = [first.clone(), second];
    assert_eq!(apply(&mut view, &both, None), "healthy starting");
    assert_eq!(targets.borrow_and_update().len(), 2);
    // Gone and back between two looks of the prober.
    apply(&mut view, &both[1..], None);
    assert_eq!(apply(&mut view, &both, None), "starting starting");
    assert_ne!(targets.borrow_and_update()[0].generation, generation);
    let key = instance_hash(&name(), &first);
    let standing = Standing::assumed(Health::Healthy);
    let late = Change { key, generation, standing, cause: "late".to_owned() };
    assert!(!view.take(&[late]), "a change of its former self");
}

#[test]
fn other_settings_are_told_and_keep_the_state() {
    let mut view = HealthView::default();
    let mut targets = view.targets();
    let one = backend(1, "a", BackendState::Healthy);
    apply(&mut view, std::slice::from_ref(&one), None);
    tell(&mut view, &one, Health::Healthy);
    let generation = targets.borrow_and_update()[0].generation;
    let interval = Setting::new(1, Origin::Default);
    let other = Policy { probe_interval_ms: interval, ..policy() };
    assert_eq!(apply_with(&mut view, &[one], None, other), "healthy");
    let told = targets.borrow_and_update()[0].clone();
    assert_eq!((told.generation, told.assumed), (generation, Health::Healthy));
}

#[test]
fn panic_uses_who_fails_and_shows_it() {
    let mut view = HealthView::default();
    let mut backends = [1, 2, 3].map(|number| backend(number, "a", BackendState::Healthy));
    apply(&mut view, &backends, None);
    for (healths, expected, is_panic) in [
        ([Health::Healthy; 3], "healthy healthy healthy", false),
        (
            [Health::Healthy, Health::Unhealthy, Health::Unhealthy],
            "healthy unhealthy unhealthy",
            false,
        ),
        ([Health::Unhealthy; 3], "unhealthy! unhealthy! unhealthy!", true),
        (
            [Health::Unhealthy, Health::Unhealthy, Health::Healthy],
            "unhealthy unhealthy healthy",
            false,
        ),
    ] {
        for (backend, health) in backends.iter().zip(healths) {
            tell(&mut view, backend, health);
        }
        assert_eq!(apply(&mut view, &backends, None), expected);
        assert_eq!(view.panics().contains_key(&name()), is_panic);
    }
    // Draining: never. Of weight 0: neither.
    backends[1].state = BackendState::Draining;
    backends[2].weight = 0;
    tell(&mut view, &backends[2], Health::Unhealthy);
    assert_eq!(apply(&mut view, &backends, None), "unhealthy! draining unhealthy");
    let state = view.panics()[&name()];
    assert_eq!((state.healthy, state.drafted, state.judged), (0, 1, 1));
}
