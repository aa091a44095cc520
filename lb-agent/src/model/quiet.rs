//! What is remembered of services, as long as they are the very ones that they were: their backends, of
//! which there may be thousands, need not be looked at again.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc};

use super::{Service, ServiceName};

/// What is remembered of each, walked through beside the services of a snapshot: both are in the order of
/// their names.
pub struct Beside<I: Iterator>(Peekable<I>);

impl<'a, T, I: Iterator<Item = (&'a ServiceName, T)>> Beside<I> {
    /// From the first one on.
    pub fn new(remembered: impl IntoIterator<IntoIter = I, Item = I::Item>) -> Self {
        Self(remembered.into_iter().peekable())
    }

    /// What is remembered of the next service, if it still is the one that it was then.
    pub fn same(
        &mut self,
        service: &Arc<Service>,
        then: impl Fn(&T) -> &Arc<Service>,
    ) -> Option<T> {
        loop {
            let (name, remembered) = self.0.peek()?;
            // Names are compared only where something is another than before.
            if Arc::ptr_eq(then(remembered), service) {
                return self.0.next().map(|(_, remembered)| remembered);
            }
            if **name >= service.name {
                return None;
            }
            self.0.next();
        }
    }
}

/// Services of which there was nothing to be said.
#[derive(Clone, Debug, Default)]
pub struct QuietServices(BTreeMap<ServiceName, Arc<Service>>);

impl QuietServices {
    /// Looks at all services of a snapshot but these. `look` says whether there was nothing to be seen;
    /// a service that it changes is not one of these.
    pub fn look_at_others(
        &mut self,
        services: &mut BTreeMap<ServiceName, Arc<Service>>,
        mut look: impl FnMut(&mut Arc<Service>) -> bool,
    ) {
        let mut quiet = Beside::new(&self.0);
        let mut news = Vec::new();
        for (name, service) in &mut *services {
            if quiet.same(service, |known| known).is_some() {
                continue;
            }
            let before = Arc::clone(service);
            news.push((name.clone(), look(service).then_some(before)));
        }
        for (name, service) in news {
            match service {
                Some(service) => drop(self.0.insert(name, service)),
                None => drop(self.0.remove(&name)),
            }
        }
        if self.0.len() > services.len() {
            self.0.retain(|name, _| services.contains_key(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{BackendState, Policy, Snapshot, fixtures};

    type Services = BTreeMap<ServiceName, Arc<Service>>;

    /// Of up to six services, these versions; there are three of each.
    fn chosen(all: &[Vec<Arc<Service>>], versions: &[usize]) -> Services {
        let chosen = versions.iter().zip(all).filter_map(|(version, of)| of.get(*version));
        chosen.map(|it| (it.name.clone(), Arc::clone(it))).collect()
    }

    fn all() -> Vec<Vec<Arc<Service>>> {
        let version = |service: usize| {
            let name = format!("s{service}");
            Arc::new(fixtures::service(&name, &[], Policy::default()))
        };
        (0..6).map(|service| (0..3).map(|_| version(service)).collect()).collect()
    }

    proptest! {
        /// As if each was looked up by its name.
        #[test]
        fn those_that_are_the_same_are_found_beside_others(
            then in prop::collection::vec(0..4_usize, 6),
            now in prop::collection::vec(0..4_usize, 6),
        ) {
            let all = all();
            let (then, now) = (chosen(&all, &then), chosen(&all, &now));
            let mut beside = Beside::new(&then);
            for (name, service) in &now {
                let found = beside.same(service, |it| it).is_some();
                let is_same = then.get(name).is_some_and(|it| Arc::ptr_eq(it, service));
                prop_assert_eq!(found, is_same, "{:?}", name);
            }
        }

        /// Whatever comes, those with something to be seen are looked at, and others once.
        #[test]
        fn nothing_is_overlooked(
            // For each snapshot, which version of each service it has, if any.
            rounds in prop::collection::vec(prop::collection::vec(0..4_usize, 6), 1..8)
        ) {
            let version = |service: usize, version: usize| {
                let state = [BackendState::Healthy, BackendState::Healthy, BackendState::Draining];
                let backends = [fixtures::backend(1, "c1", state[version])];
                Arc::new(fixtures::service(&format!("s{service}"), &backends, Policy::default()))
            };
            let all: Vec<Vec<Arc<Service>>> =
                (0..6).map(|it| (0..3).map(|of| version(it, of)).collect()).collect();
            let mut quiet = QuietServices::default();
            let mut before: BTreeMap<ServiceName, Arc<Service>> = BTreeMap::new();
            let mut ever = Vec::new();
            for round in rounds {
                let chosen = round.iter().zip(&all).filter_map(|(version, of)| of.get(*version));
                let services = chosen.map(|it| (it.name.clone(), Arc::clone(it)));
                let mut snapshot = Snapshot { services: services.collect(), ..Snapshot::default() };
                let mut seen = Vec::new();
                let is_quiet = |it: &Service| it.backends[0].state == BackendState::Healthy;
                quiet.look_at_others(&mut snapshot.services, |service| {
                    seen.push(service.name.clone());
                    is_quiet(service)
                });
                for (name, service) in &snapshot.services {
                    let is_same = |it: &Arc<Service>| Arc::ptr_eq(it, service);
                    let is_seen = seen.contains(name);
                    if !is_quiet(service) || !ever.iter().any(is_same) {
                        prop_assert!(is_seen, "{name:?} is overlooked");
                    } else if before.get(name).is_some_and(is_same) {
                        prop_assert!(!is_seen, "{name:?} is looked at again");
                    }
                }
                before = snapshot.services;
                ever.extend(before.values().cloned());
            }
        }
    }
}
