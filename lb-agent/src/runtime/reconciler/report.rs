//! What the reconciler tells: the view of this moment, and what has changed since the one before.

use std::sync::Arc;

use tokio::time::Instant;

use super::{COUNTERS_AGE_MAX, Node, Reconciler, view};
use crate::{
    api::types::{RefusalView, RefusedBy, View},
    health::HealthView,
    model::Refusal,
    runtime::{connections::Connections, history::Present, pressure, view::IsUrgent},
};

impl<N: Node> Reconciler<N> {
    /// Whose connections are to be counted, for those who count them.
    pub(in crate::runtime) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What is known of the health of backends, for those who find it out.
    pub fn health(&self) -> &HealthView {
        &self.health
    }

    /// Warns of tables that fill up.
    pub(super) fn watch_tables(&mut self) {
        match self.node.counters(&[]) {
            Ok(counters) => {
                for message in self.alarms.look(&pressure::tables(&self.mirror, &counters)) {
                    tracing::warn!("{message}");
                }
            }
            Err(error) => tracing::warn!("cannot see how full the tables are: {error}"),
        }
    }

    /// The view with the counters of this moment; none if something turned out to be more urgent.
    pub(in crate::runtime) fn fresh_view(
        &mut self,
        now: Instant,
        is_urgent: IsUrgent<'_>,
    ) -> Option<View> {
        if is_urgent() {
            return None;
        }
        if self.counters_age_out <= now {
            self.counters_age_out = now + COUNTERS_AGE_MAX;
            let numbers: Vec<u32> = self.mirror.backends.keys().copied().collect();
            match self.node.counters(&numbers) {
                Ok(counters) => self.counters = counters,
                Err(error) => tracing::warn!("cannot read the counters: {error}"),
            }
        }
        if is_urgent() {
            return None;
        }
        self.connections.ask(&self.snapshot, &self.mirror);
        self.view(now, is_urgent)
    }

    /// The view with the counters of the latest [`Self::fresh_view`].
    pub(in crate::runtime) fn view(
        &mut self,
        now: Instant,
        is_urgent: IsUrgent<'_>,
    ) -> Option<View> {
        self.shares.update(&self.mirror);
        let retry_in = self.backoff.due().map(|at| at.saturating_duration_since(now));
        let reconcile = self.progress.view(self.failures.len(), retry_in);
        let refusals = self.refusals();
        let sockets = self.sockets_view();
        let parts = view::Parts {
            ledger: &self.ledger,
            is_complete: self.ledger.is_taken_completely(),
            health: &self.health,
            balancers: &self.balancers,
            snapshot: &self.snapshot,
            kernel: &self.mirror,
            shares: &self.shares,
            counters: &self.counters,
            connections: self.connections.counted(),
            fronts: self.node.fronts(),
            sockets,
            callers: Arc::clone(&self.callers.list),
            refusals,
            reconcile,
            steering: &self.steering,
            lifecycle: &self.lifecycle,
            conflicts: self.history.conflicts(&self.snapshot),
            now_ms: self.milliseconds(now),
        };
        view::build(&parts, is_urgent)
    }

    pub(super) fn milliseconds(&self, now: Instant) -> u64 {
        let since_start = now.saturating_duration_since(self.started);
        u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX)
    }

    fn refusals(&self) -> Vec<RefusalView> {
        let by = |refused_by, refusals: &[Refusal]| -> Vec<RefusalView> {
            refusals.iter().map(|refusal| view::refused(refused_by, refusal)).collect()
        };
        let mut refusals = by(RefusedBy::Arbiter, self.granted.refusals());
        refusals.extend(by(RefusedBy::Planner, &self.refused_plans));
        refusals.extend(self.ledger.refusals().map(|one| view::refused(RefusedBy::Provider, one)));
        refusals.extend(self.failures.iter().cloned());
        refusals.sort();
        refusals
    }

    /// Writes down what has changed since this was done last.
    pub(super) fn write_history(&mut self, now_ms: u64) {
        let parts = Present {
            snapshot: &self.snapshot,
            health: &self.health,
            lifecycle: &self.lifecycle,
            orders: &self.steering,
            refusals: self.refusals(),
            troubles: self.ledger.troubles(),
        };
        self.history.write(&parts, now_ms);
    }

    /// Remembers what failed in the latest round, and says what is new.
    pub(super) fn report(&mut self, failures: Vec<RefusalView>) {
        for failure in failures.iter().filter(|failure| !self.failures.contains(failure)) {
            tracing::warn!("{}: {}", failure.object, failure.message);
        }
        self.failures = failures;
    }
}
