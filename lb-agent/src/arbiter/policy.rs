//! The policy of a service, of what its claims wish.
//!
//! A wish of a container goes before one of the configuration. Of containers that contradict each
//! other the newest is heard, since that is the user's latest word: a deploy that changes a label
//! takes effect with its first container. The others are told, and lose nothing else.

use std::{cmp::Reverse, sync::Arc};

use crate::model::{Backend, Disagreement, Policy, Refusal, Service, ServiceName, Wishes};

/// Disagreements of one service that are told.
const DISAGREEMENTS_MAX: usize = 16;

/// What the claims of one service wish.
#[derive(Debug, Default)]
pub(super) struct Wished(Vec<(u64, Arc<Wishes>)>);

impl Wished {
    /// Hears one claim.
    pub(super) fn hear(&mut self, since_ms: u64, wishes: &Arc<Wishes>) {
        // The claims of one object, and those of the file, share theirs.
        if !self.0.last().is_some_and(|(_, last)| Arc::ptr_eq(last, wishes)) {
            self.0.push((since_ms, Arc::clone(wishes)));
        }
    }

    /// What is in force, and who is told otherwise.
    pub(super) fn agree(mut self, service: &ServiceName) -> (Policy, Vec<Refusal>) {
        self.0.sort_by_key(|(since_ms, _)| Reverse(*since_ms));
        let (policy, disagreements) = Policy::agreed(self.0.iter().map(|(_, wishes)| &**wishes));
        let told = disagreements.iter().take(DISAGREEMENTS_MAX);
        (policy, told.map(|one| refusal(service, one)).collect())
    }
}

fn refusal(service: &ServiceName, disagreement: &Disagreement) -> Refusal {
    let Disagreement { name, granted, refused } = disagreement;
    let written = refused.1.written();
    Refusal {
        object: written.map_or_else(|| format!("service `{service}`"), |one| one.object.clone()),
        key: written.map(|written| written.key.clone()),
        message: format!(
            "wants `{}` as {name} of the service `{service}`, but the newer {} wants `{}`, and the \
             newest counts; give both the same value",
            refused.0, granted.1, granted.0
        ),
    }
}

/// While an exclusive backend takes new flows, the others of its service take none. To be called when
/// it is known who is healthy, and before any that fail have to serve in a panic: they are no better
/// than others that fail.
pub fn yield_to_exclusive(service: &mut Arc<Service>) {
    if !has_exclusive(service) {
        return;
    }
    let others = service.backends.iter().enumerate();
    let others = others.filter(|(_, backend)| !service.is_exclusive(backend));
    let others: Vec<usize> = others.map(|(index, _)| index).collect();
    let service = Arc::make_mut(service);
    for index in others {
        service.backends[index].weight = 0;
    }
}

/// Whether a backend takes no new flows because others of its service want all of them, in a service in
/// which that was seen to.
pub fn yields(service: &Service, backend: &Backend) -> bool {
    backend.weight == 0 && !service.is_exclusive(backend) && has_exclusive(service)
}

/// Whether some exclusive backend takes new flows.
fn has_exclusive(service: &Service) -> bool {
    let serves = |backend: &Backend| backend.state.takes_new() && backend.weight > 0;
    !service.exclusive.is_empty()
        && service.backends.iter().any(|it| serves(it) && service.is_exclusive(it))
}
