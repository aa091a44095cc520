//! What operators told the agent about backends: orders that last until they are taken back, the
//! backend is gone, or the node boots. Pure, but for [`Store`], which keeps them in a file.
//!
//! An order is for one instance: a replacement knows nothing of it.

mod naming;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use store::Store;

use crate::{
    api::steer::{Order, SteerError, SteerRequest, SteeringView, Will},
    labels::shown,
    model::{Backend, BackendState, ServiceName, Snapshot},
    provider::file,
};

/// One instance of a backend in a service, whatever place it has: a container loses its place to another
/// one that takes over its name, and is still the one that was meant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The service.
    pub service: ServiceName,
    /// [`Backend::place`] of a static backend, which has no instance to be known by; else empty.
    place: String,
    /// [`Backend::instance`].
    pub instance: String,
}

/// Orders in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steering {
    orders: BTreeMap<Subject, SteeringView>,
}

/// Who gives an order, and when.
#[derive(Clone, Copy, Debug)]
pub struct Giver<'a> {
    /// Name of the user.
    pub by: &'a str,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
}

/// Somebody was told something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The service.
    pub service: ServiceName,
    /// Name of the backend, for people.
    pub backend: String,
    /// What, in words.
    pub what: String,
}

impl Subject {
    /// A backend of a service.
    pub fn new(service: &ServiceName, backend: &Backend) -> Self {
        Self::of(service.clone(), &backend.place, backend.instance.clone())
    }

    fn of(service: ServiceName, place: &str, instance: String) -> Self {
        let place = if instance.is_empty() { place } else { "" };
        Self { service, place: place.to_owned(), instance }
    }

    /// Before all backends of a service, in order.
    pub fn first(service: &ServiceName) -> Self {
        Self { service: service.clone(), place: String::new(), instance: String::new() }
    }

    /// Whether it is this backend of its service.
    pub fn is(&self, backend: &Backend) -> bool {
        self.instance == backend.instance
            && (!self.instance.is_empty() || self.place == backend.place)
    }
}

/// Whether the file no longer has it: by the word of their providers no others without an instance drain.
fn has_left(backend: &Backend) -> bool {
    backend.instance.is_empty() && backend.state == BackendState::Draining
}

impl Steering {
    /// Takes an order for those of `backends` that it names, which are as their providers have them.
    /// An error says that it names none, or more than it can mean.
    pub fn take<'a>(
        &mut self,
        request: &SteerRequest,
        backends: impl Iterator<Item = (&'a ServiceName, &'a Backend)>,
        giver: Giver<'_>,
    ) -> Result<Vec<Told>, SteerError> {
        let meant = naming::meant(request, backends)?;
        if !matches!(request.order, Order::Drain | Order::Disable)
            && let Some((service, backend)) = meant.iter().find(|(_, backend)| has_left(backend))
        {
            return Err(SteerError::Nobody(format!(
                "`{}` of `{}` is {}, and drains; write it into the file again",
                shown(&backend.display_name),
                shown(&service.0),
                file::LEFT
            )));
        }
        // A backend is there once for each frontend.
        let meant: BTreeMap<Subject, &Backend> = meant
            .into_iter()
            .map(|(service, backend)| (Subject::new(service, backend), backend))
            .collect();
        let told = meant.into_iter().map(|(subject, backend)| {
            let service = subject.service.clone();
            let what = self.order(subject, backend, request.order, giver);
            Told { service, backend: backend.display_name.clone(), what }
        });
        Ok(told.collect())
    }

    fn order(
        &mut self,
        subject: Subject,
        backend: &Backend,
        order: Order,
        giver: Giver<'_>,
    ) -> String {
        let before = self.orders.remove(&subject);
        let mut view = SteeringView {
            will: before.as_ref().and_then(|before| before.will),
            lifts: before.as_ref().and_then(|before| before.lifts),
            weight: before.and_then(|before| before.weight),
            by: giver.by.to_owned(),
            at_ms: giver.at_ms,
        };
        let what = match order {
            Order::Drain => {
                (view.will, view.lifts) = (Some(Will::Drain), None);
                "drain".to_owned()
            }
            Order::Disable => {
                (view.will, view.lifts) = (Some(Will::Disable), None);
                "disable".to_owned()
            }
            Order::Undrain | Order::Enable => {
                let is_leaving = backend.state == BackendState::Draining;
                view.will = is_leaving.then_some(Will::Serve);
                view.lifts = backend.asked_to_end.filter(|_| is_leaving);
                "serve".to_owned()
            }
            Order::Weight { weight } => {
                view.weight = weight;
                weight.map_or_else(
                    || format!("weight {}, as asked for", backend.weight),
                    |weight| format!("weight {weight}"),
                )
            }
        };
        if view.will.is_some() || view.weight.is_some() {
            self.orders.insert(subject, view);
        }
        what
    }

    /// Gives the backends of a snapshot, which are as their providers have them, what operators want.
    pub fn apply(&self, snapshot: &mut Snapshot) {
        for (subject, order) in &self.orders {
            let Some(service) = snapshot.services.get_mut(&subject.service) else { continue };
            let backends = Arc::make_mut(service).backends.iter_mut();
            for backend in backends.filter(|backend| subject.is(backend)) {
                backend.weight = order.weight.unwrap_or(backend.weight);
                match order.will {
                    Some(Will::Drain) => backend.state = BackendState::Draining,
                    Some(Will::Disable) => backend.state = BackendState::Disabled,
                    // Who is frozen cannot serve, whoever wants it; and who is asked to leave again
                    // was not meant.
                    Some(Will::Serve)
                        if backend.state == BackendState::Draining
                            && backend.asked_to_end == order.lifts =>
                    {
                        backend.state = BackendState::Healthy;
                    }
                    Some(Will::Serve) | None => {}
                }
            }
        }
    }

    /// What is in force for a backend.
    pub fn of(&self, service: &ServiceName, backend: &Backend) -> Option<&SteeringView> {
        // Mostly there are none, and a key is made of texts.
        if self.orders.is_empty() {
            return None;
        }
        self.orders.get(&Subject::new(service, backend))
    }

    /// Forgets orders for those of whom this says so. True: there were some.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&Subject) -> bool) -> bool {
        let before = self.orders.len();
        self.orders.retain(|subject, _| is_kept(subject));
        before != self.orders.len()
    }

    /// Whether there are orders for this instance.
    pub fn is_about(&self, instance: &str) -> bool {
        self.orders.keys().any(|subject| subject.instance == instance)
    }

    /// Whether there are no orders.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }
}
