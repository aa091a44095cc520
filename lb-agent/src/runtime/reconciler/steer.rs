//! Orders of operators, on their way in.

use tokio::time::Instant;

use super::{Node, Reconciler};
use crate::{
    api::steer::{SteerAnswer, SteerRequest},
    journal::Draft,
    runtime::clock::wall_clock_ms,
    steering::{Giver, Subject},
};

impl<N: Node> Reconciler<N> {
    /// Takes an order of a user. An error says that nobody is meant. What follows from it is done by
    /// the next [`Reconciler::step`].
    pub(in crate::runtime) fn steer(
        &mut self,
        request: &SteerRequest,
        by: &str,
        now: Instant,
    ) -> Result<SteerAnswer, String> {
        let at_ms = wall_clock_ms();
        let snapshot = &self.snapshot;
        let is_served = |subject: &Subject| {
            let service = snapshot.services.get(&subject.service);
            service.is_some_and(|service| {
                service.backends.iter().any(|it| Subject::new(&service.name, it) == *subject)
            })
        };
        let named = self.ledger.named();
        let told = self.steering.take(request, named, is_served, Giver { by, at_ms })?;
        self.is_dirty = true;
        self.progress.told(now);
        let warning = self.steering.save();
        let lines = told.iter().map(|it| format!("{} of {}: {}", it.backend, it.service, it.what));
        let done: Vec<String> = lines.collect();
        for line in &done {
            tracing::info!("{by} says: {line}");
        }
        let drafts = told.into_iter().map(|it| Draft {
            object: it.service.0,
            backend: Some(it.backend),
            what: format!("told: {}", it.what),
            why: Some(format!("{by} says so")),
        });
        let now_ms = self.milliseconds(now);
        self.history.note(drafts.collect(), now_ms);
        Ok(SteerAnswer { done, warning })
    }
}
