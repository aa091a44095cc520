//! Runs of containers: how they begin, and how they end.

use std::sync::Arc;

use super::{
    super::{PROVIDER, host::Process},
    Effect, Failure, LookState, Run, State,
};
use crate::provider::ProviderEvent;

impl<P: Process> State<P> {
    /// A look found that the container runs.
    pub(super) fn runs(&mut self, id: &str, name: String, run: Run<P>) {
        self.take_in_run(id, name, run);
        self.keep_asking(id);
    }

    fn take_in_run(&mut self, id: &str, name: String, run: Run<P>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.failure = None;
        container.name = name;
        let mut run = run;
        container.signals.run_began(&run.instance, self.endings.get(&run.instance));
        self.inherited.remove(&run.instance);
        run.settle_states(&container.signals);
        match &mut container.run {
            Some(known) if known.instance == run.instance => {
                known.condition = run.condition;
                if known.claims != run.claims {
                    known.claims = run.claims;
                    self.changed = true;
                }
                return;
            }
            Some(known) => {
                self.places.set(&known.instance, None);
                self.endings.set(&known.instance, None);
                self.effects.push(gone(&known.instance));
            }
            None => {}
        }
        let (instance, process) = (run.instance.clone(), Arc::clone(&run.process));
        tracing::debug!(container = container.name, instance, "container runs");
        container.known_since = self.listing;
        container.run = Some(run);
        self.effects.push(Effect::Watch { id: id.to_owned(), instance, process });
        self.changed = true;
    }

    /// Docker says that the container does not run; if the kernel agrees, it is over.
    pub(super) fn is_absent(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match &container.run {
            Some(run) if run.process.is_alive() => {
                let text = "Docker says that it does not run, but its process lives";
                self.failed(id, text.to_owned());
            }
            _ => {
                container.failure = None;
                self.remove_run(id);
            }
        }
    }

    pub(super) fn failed(&mut self, id: &str, text: String) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let attempts = container.failure.as_ref().map_or(0, |failure| failure.attempts);
        tracing::debug!(container = container.name, text, "look failed");
        container.failure = Some(Failure { attempts: attempts.saturating_add(1), text });
        self.effects.push(Effect::ListAgain);
    }

    /// Forgets the run of a container, and the container unless a look at it is under way.
    pub(super) fn remove_run(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.unlisted = false;
        if let Some(run) = container.run.take() {
            tracing::debug!(container = container.name, instance = run.instance, "container ended");
            self.places.set(&run.instance, None);
            self.endings.set(&run.instance, None);
            self.effects.push(gone(&run.instance));
            self.changed = true;
        }
        if container.look == LookState::Idle {
            self.containers.remove(id);
        }
    }
}

/// A run is over.
pub(super) fn gone<P>(instance: &str) -> Effect<P> {
    Effect::Send(ProviderEvent::Gone { provider: PROVIDER, instance: instance.to_owned() })
}
