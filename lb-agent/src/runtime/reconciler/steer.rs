//! Orders of operators, on their way in.

use tokio::time::Instant;

use super::{Node, Reconciler};
use crate::{
    api::steer::{SteerAnswer, SteerError, SteerRequest},
    journal::Draft,
    model::ServiceName,
    runtime::{clock::wall_clock_ms, reconciler::PATIENCE},
    steering::{Giver, Subject},
};

/// Failures that an answer tells.
const FAILURES_TOLD_MAX: usize = 3;

/// An order that was taken, and is not carried out yet.
#[derive(Debug)]
pub(in crate::runtime) struct Taken {
    /// What was told to whom.
    answer: SteerAnswer,
    /// Services that it is about.
    services: Vec<ServiceName>,
}

impl<N: Node> Reconciler<N> {
    /// Whether it is known what there is, so that a name can be understood. After a start that takes
    /// until all providers have spoken, or have had their time to.
    pub(in crate::runtime) fn takes_orders(&self, now: Instant) -> bool {
        let is_told = self.ledger.silent().next().is_none();
        !self.is_dirty && (is_told || self.orders_wait_until() <= now)
    }

    /// When orders are taken although providers are silent.
    pub(in crate::runtime) fn orders_wait_until(&self) -> Instant {
        self.started + PATIENCE
    }

    /// What is to be answered now: what was told, and what of it the kernel does not do yet.
    pub(in crate::runtime) fn outcome(&self, taken: Taken) -> SteerAnswer {
        let Taken { mut answer, services } = taken;
        answer.pending = self.unfinished(&services);
        answer
    }

    fn unfinished(&self, services: &[ServiceName]) -> Option<String> {
        if self.backoff.due().is_none() && !self.is_dirty {
            return None;
        }
        let concerns = |object: &str| {
            object == Self::TABLES || services.iter().any(|name| object.contains(&*name.0))
        };
        let failures = self.failures.iter().filter(|failure| concerns(&failure.object));
        let told = failures.map(|failure| format!("{}: {}", failure.object, failure.message));
        let told: Vec<String> = told.take(FAILURES_TOLD_MAX).collect();
        match (told.is_empty(), self.failures.is_empty()) {
            (false, _) => Some(told.join("; ")),
            // What is refused concerns others.
            (true, false) if !self.is_dirty => None,
            (true, _) => Some("the agent is still at work on it".to_owned()),
        }
    }

    /// Takes an order of a user. An error says that it is for nobody. What follows from it is done by
    /// the next [`Reconciler::step`].
    pub(in crate::runtime) fn steer(
        &mut self,
        request: &SteerRequest,
        by: &str,
        now: Instant,
    ) -> Result<Taken, SteerError> {
        let at_ms = wall_clock_ms();
        let snapshot = &self.snapshot;
        let is_served = |subject: &Subject| {
            let service = snapshot.services.get(&subject.service);
            service.is_some_and(|service| {
                service.backends.iter().any(|it| Subject::new(&service.name, it) == *subject)
            })
        };
        let named = self.ledger.named().chain(self.leaving.backends());
        let told = self.steering.take(request, named, is_served, Giver { by, at_ms });
        let told = told.map_err(|error| self.not_known(error))?;
        self.is_dirty = true;
        // Whoever has given it waits until all is told.
        self.callers.set_changed(now);
        let services = told.iter().map(|it| it.service.clone()).collect();
        self.progress.told(now);
        let warning = self.steering.save();
        let lines = told.iter().map(|it| format!("{} of {}: {}", it.backend, it.service, it.what));
        let done: Vec<String> = lines.collect();
        for line in &done {
            tracing::info!("{by} says: {line}");
        }
        let drafts = told.into_iter().map(|it| Draft {
            object: it.service.0.to_string(),
            backend: Some(it.backend),
            what: format!("told: {}", it.what),
            why: Some(format!("{by} says so")),
        });
        let now_ms = self.milliseconds(now);
        self.history.note(drafts.collect(), now_ms);
        let answer = SteerAnswer { done, pending: None, warning };
        Ok(Taken { answer, services })
    }

    /// While not everything is known, somebody who is not there may come.
    fn not_known(&self, error: SteerError) -> SteerError {
        let SteerError::Nobody(message) = &error else { return error };
        let silent: Vec<&str> = self.ledger.silent().collect();
        if !silent.is_empty() {
            let silent = silent.join(", ");
            return SteerError::NotKnown(format!(
                "{message}; not said yet what there is: {silent}"
            ));
        }
        if self.ledger.is_partial() {
            return SteerError::NotKnown(format!("{message}; not everything is known yet"));
        }
        error
    }
}
