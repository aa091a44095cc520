//! One container: what follows from what is known of it.

use std::collections::BTreeMap;

use super::{super::signal::Signal, Container, Failure, LookState, Run};
use crate::model::BackendState;

impl<P> Container<P> {
    /// It could not be looked at, and nothing is known of it from before.
    pub(super) fn is_unknown(&self) -> bool {
        self.run.is_none() && self.failure.is_some()
    }

    /// A failure that is more than an accident.
    pub(super) fn lasting_failure(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.attempts > 1)
    }

    pub(super) fn new(name: String, listing: u64) -> Self {
        Self {
            name,
            summary: None,
            run: None,
            look: LookState::Idle,
            failure: None,
            known_since: listing,
            unlisted: false,
            signals: BTreeMap::new(),
        }
    }

    /// Says of its backends whether they are about to end. True: that is news.
    pub(super) fn settle_states(&mut self) -> bool {
        self.run.as_mut().is_some_and(|run| run.settle_states(&self.signals))
    }
}

impl<P> Run<P> {
    /// What follows for its backends from what is known of the run. True: that is news.
    pub(super) fn settle_states(&mut self, signals: &BTreeMap<Signal, u64>) -> bool {
        let Some(condition) = self.condition else { return false };
        let asks_to_end = |(signal, at_ms): (&Signal, &u64)| {
            signal.asks_to_end(condition.stop_signal) && *at_ms >= self.started_at_ms
        };
        let state = if signals.iter().any(asks_to_end) {
            BackendState::Draining
        } else if condition.is_paused {
            // It answers nothing, though the kernel accepts connections for it; it may come back.
            BackendState::Unhealthy
        } else {
            BackendState::Healthy
        };
        let backends = self.claims.claims.iter_mut().filter_map(|claim| claim.backend.as_mut());
        let mut is_changed = false;
        for backend in backends.filter(|backend| backend.state != state) {
            backend.state = state;
            is_changed = true;
        }
        is_changed
    }
}
