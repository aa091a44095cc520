//! What the view makes of health.

use std::collections::BTreeSet;

use lb_common::abi::{TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS};
use proptest::prelude::*;

use super::*;
use crate::model::{
    FrontendAddress, Origin, Policy, Ports, ProbeKind, Protocol, Setting,
    fixtures::{self, backend},
};

fn policy() -> Policy {
    let probe = Setting::new(Some(ProbeKind::Tcp { port: None }), Origin::Default);
    Policy { probe, ..Policy::default() }
}

fn name() -> ServiceName {
    ServiceName("web".into())
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
    let mut snapshot = fixtures::snapshot([fixtures::service("web", backends, policy)]);
    view.apply_to(&mut snapshot, |_, _| held);
    let service = &snapshot.services[&name()];
    let states = service.backends.iter().map(|backend| {
        let shown = view.shown_state(&name(), backend);
        if shown == backend.state { shown.to_string() } else { format!("{shown}!") }
    });
    states.collect::<Vec<_>>().join(" ")
}

fn tell(view: &mut HealthView, backend: &Backend, health: Health) -> bool {
    tell_how(view, backend, health, false)
}

fn tell_how(view: &mut HealthView, backend: &Backend, health: Health, is_refusing: bool) -> bool {
    let key = instance_hash(&name(), backend);
    let generation = view.entries[&key].target.generation;
    let standing = Standing { health, was_healthy: true, is_refusing, is_observed: false };
    view.take(&[Change {
        key,
        generation,
        standing,
        has_fallen: false,
        cause: "a test".to_owned(),
    }])
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
    assert_eq!(view.targets().borrow()[0].len(), 3);
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
        (TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS, "healthy"),
        (TAKES_NEW | TAKES_OLD, "healthy"),
        // Of weight 0 then.
        (TAKES_OLD | TAKES_OLD_DATAGRAMS, "healthy"),
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
    let generation = targets.borrow_and_update()[0][0].generation;
    assert!(tell(&mut view, &first, Health::Healthy));
    assert!(!tell(&mut view, &first, Health::Healthy));
    apply(&mut view, std::slice::from_ref(&first), None);
    assert!(!targets.has_changed().expect("the view is there"));
    let both = [first.clone(), second];
    assert_eq!(apply(&mut view, &both, None), "healthy starting");
    assert_eq!(targets.borrow_and_update()[0].len(), 2);
    // Gone and back between two looks of the prober.
    apply(&mut view, &both[1..], None);
    assert_eq!(apply(&mut view, &both, None), "starting starting");
    assert_ne!(targets.borrow_and_update()[0][0].generation, generation);
    let key = instance_hash(&name(), &first);
    let standing = Standing::assumed(Health::Healthy);
    let late = Change { key, generation, standing, has_fallen: false, cause: "late".to_owned() };
    assert!(!view.take(&[late]), "a change of its former self");
}

/// A backend that refuses one probe and lets the next one wait makes a plan only where it matters.
#[test]
fn how_a_backend_fails_is_news_only_if_something_follows() {
    let mut view = HealthView::default();
    let backends = ["a", "b", "c"].map(|id| backend(1, id, BackendState::Healthy));
    let [first, second, _] = &backends;
    apply(&mut view, &backends, None);
    assert!(tell(&mut view, first, Health::Healthy));
    assert!(tell(&mut view, second, Health::Unhealthy));
    assert_eq!(apply(&mut view, &backends, None), "healthy unhealthy starting");
    for is_refusing in [true, false, true] {
        assert!(!tell_how(&mut view, second, Health::Unhealthy, is_refusing), "{is_refusing}");
    }
    // What was no news then counts now: who refuses is not used although nobody is healthy.
    assert!(tell(&mut view, first, Health::Unhealthy));
    assert_eq!(apply(&mut view, &backends, None), "unhealthy! unhealthy starting");
    for (is_refusing, expected) in
        [(false, "unhealthy! unhealthy! starting"), (true, "unhealthy! unhealthy starting")]
    {
        assert!(tell_how(&mut view, second, Health::Unhealthy, is_refusing), "{is_refusing}");
        assert_eq!(apply(&mut view, &backends, None), expected);
        assert!(!tell_how(&mut view, second, Health::Unhealthy, is_refusing), "{is_refusing}");
    }
}

#[test]
fn other_settings_are_told_and_keep_the_state() {
    let mut view = HealthView::default();
    let mut targets = view.targets();
    let one = backend(1, "a", BackendState::Healthy);
    apply(&mut view, std::slice::from_ref(&one), None);
    tell(&mut view, &one, Health::Healthy);
    let generation = targets.borrow_and_update()[0][0].generation;
    let interval = Setting::new(1, Origin::Default);
    let other = Policy { probe_interval_ms: interval, ..policy() };
    assert_eq!(apply_with(&mut view, &[one], None, other), "healthy");
    let told = targets.borrow_and_update()[0][0].clone();
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

/// What happens to a service between two looks.
#[derive(Clone, Debug)]
enum Happening {
    /// It has these backends, by number and instance, in these states.
    Comes(u8, Vec<(u8, bool, BackendState)>, bool),
    Goes(u8),
    /// Health finds something out about a backend.
    Finds(u8, u8, bool, Health, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let state = prop_oneof![
        6 => Just(BackendState::Healthy),
        1 => Just(BackendState::Draining),
        1 => Just(BackendState::Disabled),
    ];
    let backends = prop::collection::vec((1_u8..6, any::<bool>(), state), 0..5);
    let health =
        prop_oneof![Just(Health::Starting), Just(Health::Healthy), Just(Health::Unhealthy)];
    prop_oneof![
        2 => (0_u8..3, backends, any::<bool>()).prop_map(|(it, all, is_probed)| {
            Happening::Comes(it, all, is_probed)
        }),
        1 => (0_u8..3).prop_map(Happening::Goes),
        4 => (0_u8..3, 1_u8..6, any::<bool>(), health, any::<bool>())
            .prop_map(|(it, number, is_second, health, is_refusing)| {
                Happening::Finds(it, number, is_second, health, is_refusing)
            }),
    ]
}

fn instance(is_second: bool) -> &'static str {
    if is_second { "b" } else { "a" }
}

fn service_of(number: u8, backends: &[(u8, bool, BackendState)], is_probed: bool) -> Arc<Service> {
    let mut all: Vec<Backend> = Vec::new();
    for (number, is_second, state) in backends {
        let backend = backend(*number, instance(*is_second), *state);
        if !all.iter().any(|it| (&it.place, &it.instance) == (&backend.place, &backend.instance)) {
            all.push(backend);
        }
    }
    let policy = if is_probed { policy() } else { Policy::default() };
    Arc::new(fixtures::service(&format!("s{number}"), &all, policy))
}

proptest! {
    /// What is remembered of services that are as they were changes nothing.
    #[test]
    fn it_is_as_if_all_were_judged_each_time(
        happenings in prop::collection::vec(happening(), 1..40),
    ) {
        let (mut view, mut forgetful) = (HealthView::default(), HealthView::default());
        let mut services: BTreeMap<ServiceName, Arc<Service>> = BTreeMap::new();
        for happening in happenings {
            match happening {
                Happening::Comes(number, backends, is_probed) => {
                    let service = service_of(number, &backends, is_probed);
                    services.insert(service.name.clone(), service);
                }
                Happening::Goes(number) => {
                    services.remove(&ServiceName(format!("s{number}").into()));
                }
                Happening::Finds(service, number, is_second, health, is_refusing) => {
                    let name = ServiceName(format!("s{service}").into());
                    let backend = backend(number, instance(is_second), BackendState::Healthy);
                    let key = instance_hash(&name, &backend);
                    let Some(entry) = view.entries.get(&key) else { continue };
                    let generation = entry.target.generation;
                    let standing =
                        Standing { health, was_healthy: true, is_refusing, is_observed: false };
                    let change = Change { key, generation, standing, has_fallen: false, cause: String::new() };
                    let is_changed = view.take(std::slice::from_ref(&change));
                    prop_assert_eq!(forgetful.take(&[change]), is_changed);
                }
            }
            let before = Snapshot { services: services.clone(), ..Snapshot::default() };
            let (mut one, mut other) = (before.clone(), before);
            view.apply_to(&mut one, |_, _| None);
            forgetful.services.values_mut().for_each(|it| it.is_stale = true);
            forgetful.apply_to(&mut other, |_, _| None);
            prop_assert_eq!(one, other);
            prop_assert_eq!(view.panics(), forgetful.panics());
            let targets = |view: &HealthView| Arc::clone(&view.targets().borrow());
            prop_assert_eq!(targets(&view), targets(&forgetful));
            let keys = |view: &HealthView| view.entries.keys().copied().collect::<BTreeSet<_>>();
            prop_assert_eq!(keys(&view), keys(&forgetful));
        }
    }
}

#[test]
fn a_backend_of_all_ports_is_followed_at_the_only_one_that_leads_to_it() {
    let mut view = HealthView::default();
    let mut check = |ports: &[u16], expected: u16| {
        let mut every_port = backend(1, "a", BackendState::Healthy);
        every_port.address.set_port(0);
        let mut service = fixtures::service("web", &[every_port], policy());
        let at = |port: &u16| FrontendAddress {
            vip: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            ports: Ports::one(*port).expect("a port"),
        };
        service.frontends = ports.iter().map(at).collect();
        let mut snapshot = fixtures::snapshot([service]);
        view.apply_to(&mut snapshot, |_, _| None);
        let targets = view.targets().borrow().clone();
        assert_eq!(targets[0][0].address.port(), expected, "{ports:?}");
    };
    check(&[8080], 8080);
    check(&[8080, 8081], 0);
    check(&[8081], 8081);
}
