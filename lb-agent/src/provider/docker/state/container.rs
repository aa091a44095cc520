//! One container: what follows from what is known of it.

use super::{super::host::Process, Container, Failure, LookState, Run, Signals};
use crate::model::BackendState;

impl<P: Process> Container<P> {
    /// The run that is known, if its process has not ended.
    pub(super) fn living(&self) -> Option<&Run<P>> {
        self.run.as_ref().filter(|run| run.process.is_alive())
    }
}

impl<P> Container<P> {
    /// Whether this run of it is the one that is known.
    pub(super) fn is_run(&self, instance: &str) -> bool {
        self.run.as_ref().is_some_and(|run| run.instance == instance)
    }

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
            signals: Signals::default(),
        }
    }

    /// Says of its backends whether they are about to end. True: that is news.
    pub(super) fn settle_states(&mut self) -> bool {
        self.run.as_mut().is_some_and(|run| run.settle_states(&self.signals))
    }
}

impl<P> Run<P> {
    /// What follows for its backends from what is known of the run. True: that is news.
    pub(super) fn settle_states(&mut self, signals: &Signals) -> bool {
        let Some(condition) = self.condition else { return false };
        let asked_to_end = signals.latest_asking(&self.instance, condition.stop_signal);
        let asked_to_end = asked_to_end.map(|signalled| signalled.at_ns);
        let state = if asked_to_end.is_some() {
            BackendState::Draining
        } else if condition.is_paused {
            // It answers nothing, though the kernel accepts connections for it; it may come back.
            BackendState::Unhealthy
        } else {
            BackendState::Healthy
        };
        let backends = self.claims.claims.iter_mut().filter_map(|claim| claim.backend.as_mut());
        let mut is_changed = false;
        let settled = (state, asked_to_end);
        for backend in backends.filter(|it| (it.state, it.asked_to_end) != settled) {
            (backend.state, backend.asked_to_end) = settled;
            is_changed = true;
        }
        is_changed
    }
}
