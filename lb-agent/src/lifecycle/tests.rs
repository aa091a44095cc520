//! What time makes of states and weights.

use super::*;
use crate::model::{Origin, Setting, fixtures};

fn policy(drain: u32, grace: u32, slow_start: u32) -> Policy {
    let seconds = |seconds| Setting::new(seconds, Origin::Default);
    Policy {
        drain_seconds: seconds(drain),
        unhealthy_grace_seconds: seconds(grace),
        slow_start_seconds: seconds(slow_start),
        ..Policy::default()
    }
}

fn name() -> ServiceName {
    ServiceName("web".into())
}

fn snapshot(state: BackendState, policy: &Policy) -> Snapshot {
    let backends = [fixtures::backend(1, "a", state)];
    fixtures::snapshot([fixtures::service("web", &backends, policy.clone())])
}

/// `SECOND STATE -> STATE WEIGHT, next at SECOND` for each step; `!` after a state: in panic.
#[track_caller]
fn check(policy: &Policy, steps: &[(u64, &str, &str)]) {
    use BackendState::{Disabled, Draining, Healthy, Starting, Unhealthy};
    let mut lifecycle = Lifecycle::default();
    for (second, given, expected) in steps {
        let states = [Starting, Healthy, Unhealthy, Draining, Disabled];
        let is_given = |state: &BackendState| state.to_string() == given.trim_end_matches('!');
        let state = states.into_iter().find(is_given).expect("a state");
        let mut snapshot = snapshot(state, policy);
        let is_panic = given.ends_with('!');
        let kernel = KernelState::default();
        let due = lifecycle.apply(&mut snapshot, &kernel, |_| is_panic, second * 1000);
        let backend = &snapshot.services[&name()].backends[0];
        let due = due.map_or_else(String::new, |due| format!(", next at {}", due / 1000));
        let shown = format!("{} {}{due}", backend.state, backend.weight);
        assert_eq!(shown, *expected, "second {second}, {given}");
    }
}

#[test]
fn drain_ends() {
    check(
        &policy(30, 300, 0),
        &[
            (0, "healthy", "healthy 100"),
            (10, "draining", "draining 100, next at 40"),
            (39, "draining", "draining 100, next at 40"),
            (40, "draining", "gone 100"),
            (99, "draining", "gone 100"),
            // Asked back.
            (100, "healthy", "healthy 100"),
            (200, "draining", "draining 100, next at 230"),
            (210, "disabled", "disabled 100"),
            (220, "draining", "draining 100, next at 250"),
        ],
    );
    check(&policy(0, 0, 0), &[(0, "draining", "gone 100"), (1, "unhealthy", "gone 100")]);
}

#[test]
fn who_fails_for_long_is_gone_until_it_passes() {
    check(
        &policy(300, 60, 0),
        &[
            (0, "healthy", "healthy 100"),
            (10, "unhealthy", "unhealthy 100, next at 70"),
            (50, "healthy", "healthy 100"),
            (60, "unhealthy", "unhealthy 100, next at 120"),
            (120, "unhealthy", "gone 100"),
            // In panic it is shown to us as what it is used as.
            (130, "healthy!", "healthy 100"),
            (140, "unhealthy", "unhealthy 100, next at 200"),
            (200, "unhealthy", "gone 100"),
            (201, "draining", "draining 100, next at 501"),
            (210, "healthy", "healthy 100"),
        ],
    );
}

#[test]
fn who_becomes_healthy_gets_its_weight_step_by_step() {
    check(
        &policy(30, 300, 90),
        &[
            (0, "starting", "starting 100"),
            (10, "healthy", "healthy 10, next at 20"),
            (15, "healthy", "healthy 10, next at 20"),
            (20, "healthy", "healthy 20, next at 30"),
            (99, "healthy", "healthy 90, next at 100"),
            (100, "healthy", "healthy 100"),
            (110, "unhealthy", "unhealthy 100, next at 410"),
            (120, "healthy", "healthy 10, next at 130"),
            // Everybody is needed.
            (121, "healthy!", "healthy 100"),
        ],
    );
}

#[test]
fn a_new_agent_gives_their_full_weight_to_those_who_have_it() {
    let policy = policy(30, 300, 90);
    for (held, expected) in [(Some(7), 100), (Some(6), 10), (None, 10)] {
        let mut snapshot = snapshot(BackendState::Healthy, &policy);
        let backend = snapshot.services[&name()].backends[0].clone();
        let mut kernel = KernelState::default();
        if let Some(state) = held {
            let held = crate::plan::KernelBackend {
                instance_hash: instance_hash(&name(), &backend),
                service: 1,
                generation: 1,
                address: backend.address,
                path: backend.path,
                state,
                records_replies: true,
            };
            kernel.services.insert(1, crate::plan::service_hash(&name()));
            kernel.backends.insert(1, held);
        }
        Lifecycle::default().apply(&mut snapshot, &kernel, |_| false, 0);
        assert_eq!(snapshot.services[&name()].backends[0].weight, expected, "{held:?}");
    }
}

#[test]
fn what_runs_is_told_and_forgotten_with_its_backend() {
    let policy = policy(30, 300, 0);
    let mut lifecycle = Lifecycle::default();
    let mut draining = snapshot(BackendState::Draining, &policy);
    let backend = draining.services[&name()].backends[0].clone();
    lifecycle.apply(&mut draining, &KernelState::default(), |_| false, 1000);
    assert_eq!(lifecycle.clock(&name(), &policy, &backend), Some(Clock::Drain(31_000)));
    lifecycle.apply(&mut Snapshot::default(), &KernelState::default(), |_| false, 2000);
    assert_eq!(lifecycle.clock(&name(), &policy, &backend), None);
    assert!(lifecycle.entries.is_empty());
}
