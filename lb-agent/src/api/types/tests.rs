//! States of services by those of their backends.

use super::*;

#[track_caller]
fn check(states: &[BackendState], expected: ServingState) {
    let mut counts = BackendCountsView::default();
    for state in states {
        counts.add(*state);
    }
    assert_eq!(counts.serving(), expected, "{states:?}");
    assert_eq!(counts.total() as usize, states.len());
}

#[test]
fn service_is_as_good_as_its_backends() {
    use BackendState::{Disabled, Draining, Healthy, Starting, Unhealthy};
    check(&[], ServingState::Down);
    check(&[Healthy, Healthy], ServingState::Serving);
    check(&[Healthy, Draining], ServingState::Degraded);
    check(&[Healthy, Starting, Disabled], ServingState::Degraded);
    check(&[Unhealthy, Draining], ServingState::Down);
}
