//! What is told from outside, and what cannot wait for a plan.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{Node, Reconciler};
use crate::{
    model::{BackendPath, Claims},
    plan::{self, Action},
    provider::ProviderEvent,
    runtime::Event,
};

/// Longest time from the moment when a container is connected to a network to the news that it has
/// started: Docker starts its process in between.
const EXPECTED_FOR: Duration = Duration::from_secs(5);

impl<N: Node> Reconciler<N> {
    /// Takes an event. Only a death touches the kernel here: it cannot wait for a plan.
    pub(in crate::runtime) fn take(&mut self, event: Event) {
        match event {
            Event::Provider(ProviderEvent::Claims { provider, claims }) => {
                // Containers come with networks.
                self.local.set_stale();
                self.expect_replies(&claims);
                self.is_dirty |= self.ledger.set_claims(provider, claims);
            }
            Event::Provider(ProviderEvent::Gone { provider, instance }) => {
                self.bury(provider, &instance);
                self.is_dirty = true;
            }
            Event::Provider(ProviderEvent::Expected { ifindex }) => {
                self.expect(BTreeSet::from([ifindex]), EXPECTED_FOR);
            }
            Event::Provider(ProviderEvent::Status { provider, trouble }) => {
                if self.ledger.set_trouble(provider, trouble.clone()) {
                    self.is_view_stale = true;
                    // For the journal; nothing else follows from it.
                    self.is_dirty = true;
                    if let Some(trouble) = trouble {
                        tracing::warn!("{provider}: {trouble}");
                    } else {
                        tracing::info!("{provider}: all is well");
                    }
                }
            }
            Event::Health(changes) => self.is_dirty |= self.health.take(&changes),
            Event::Clients(clients) => self.set_clients(clients),
            Event::Restarting(provider) => {
                self.ledger.set_restarting(provider);
                self.is_view_stale = true;
            }
            Event::Balancers(balancers) => {
                self.balancers = balancers;
                self.is_view_stale = true;
            }
            Event::Told(draft) => {
                self.history.note(vec![draft], self.milliseconds(Instant::now()));
            }
        }
        if self.is_dirty {
            self.progress.told(Instant::now());
        }
    }

    /// Whoever comes needs the reply program at his veth, which takes the kernel as long as the plan.
    fn expect_replies(&mut self, claims: &Claims) {
        let backends = claims.claims.iter().filter_map(|claim| claim.backend.as_ref());
        let links = backends.filter_map(|backend| match backend.path {
            BackendPath::Local { ifindex } => Some(ifindex),
            BackendPath::Routed => None,
        });
        self.expect(links.collect(), Duration::ZERO);
    }

    fn expect(&mut self, mut interfaces: BTreeSet<u32>, kept_for: Duration) {
        interfaces.retain(|ifindex| !self.mirror.reply_interfaces.contains(ifindex));
        if interfaces.is_empty() || !self.may_plan(Instant::now()) {
            return;
        }
        // The kernel answers no question about addresses meanwhile.
        self.is_dirty |= self.local.look(&self.node);
        self.node.expect_replies(&interfaces, kept_for);
    }

    /// One store per backend: no new flow goes there from now on. The plan follows.
    fn bury(&mut self, provider: &'static str, instance: &str) {
        self.history.has_died(instance);
        self.steering.has_died(instance);
        for (service, backend) in self.ledger.set_gone(provider, instance) {
            let hash = plan::instance_hash(&service, &backend);
            for number in self.mirror.numbers_of(&service, &hash) {
                if self.mirror.backends.get(&number).is_none_or(|held| held.state == 0) {
                    continue;
                }
                let action = Action::SetBackendState { number, state: 0 };
                match self.node.execute(&action) {
                    Ok(()) => {
                        self.progress.executed(1, 0);
                        self.mirror.absorb(action);
                        tracing::info!("{service}: `{}` is gone", backend.display_name);
                    }
                    Err(error) => tracing::error!(
                        "{service}: `{}` is gone and could not be taken out at once: {error}",
                        backend.display_name
                    ),
                }
            }
        }
    }
}
