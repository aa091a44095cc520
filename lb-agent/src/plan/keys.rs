//! What is kept of services from one plan to the next: the hashes of them and of their backends, as long
//! as nothing changes that they are made of (making them takes longer than all else that is done with a
//! service that is as it was), and that they are settled.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    hash::{NameHash, instance_hash, place_hash, service_hash},
    planner::Planner,
    settled::Settled,
};
use crate::model::{Backend, Beside, Service, ServiceName, Snapshot};

/// Hashes of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceKeys {
    /// [`service_hash`].
    pub service: NameHash,
    /// Those of its backends, in their order.
    pub backends: Vec<BackendKeys>,
    /// Where the backends of each place end: those of one place follow each other.
    ends: Vec<usize>,
}

/// Hashes of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendKeys {
    /// [`instance_hash`].
    pub instance: NameHash,
    /// [`place_hash`].
    pub place: NameHash,
}

impl ServiceKeys {
    /// Made anew.
    pub fn new(service: &Service) -> Self {
        let name = &service.name;
        let of_backend = |backend: &Backend| BackendKeys {
            instance: instance_hash(name, backend),
            place: place_hash(name, &backend.place),
        };
        let mut end = 0;
        let places = service.backends.chunk_by(|left, right| left.place == right.place);
        let ends = places.map(|place| {
            end += place.len();
            end
        });
        Self {
            service: service_hash(name),
            ends: ends.collect(),
            backends: service.backends.iter().map(of_backend).collect(),
        }
    }

    /// Places that have backends.
    pub fn count_places(&self) -> usize {
        self.ends.len()
    }

    /// The backends of each place, by whose keys these are.
    pub fn places<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = impl Iterator<Item = (&'a Backend, &'a BackendKeys)>> {
        let mut begin = 0;
        self.ends.iter().map(move |&end| {
            let of_place = begin..end;
            begin = end;
            let backends = service.backends.get(of_place.clone()).unwrap_or_default();
            backends.iter().zip(self.backends.get(of_place).unwrap_or_default())
        })
    }
}

/// Hashes of the services of the latest snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(BTreeMap<ServiceName, Known>);

#[derive(Clone, Debug)]
pub(super) struct Known {
    service: Arc<Service>,
    pub(super) keys: Arc<ServiceKeys>,
    /// It is as it should be, as far as is known.
    pub(super) settled: Option<Arc<Settled>>,
}

impl Keys {
    /// Those of all services of a snapshot, in their order. Others are forgotten.
    pub(super) fn of_all(&mut self, snapshot: &Snapshot) -> Vec<Known> {
        let mut known = Beside::new(&self.0);
        let services = snapshot.services.values();
        let same = services.clone().map(|it| known.same(it, |known| &known.service).cloned());
        let same: Vec<Option<Known>> = same.collect();
        let all = services.zip(same);
        let all: Vec<Known> =
            all.map(|(service, known)| known.unwrap_or_else(|| self.of(service))).collect();
        debug_assert!(
            snapshot
                .services
                .values()
                .zip(&all)
                .all(|(it, known)| *known.keys == ServiceKeys::new(it)),
            "kept keys are the keys",
        );
        if self.0.len() > snapshot.services.len() {
            self.0.retain(|name, _| snapshot.services.contains_key(name));
        }
        all
    }

    /// Those of a service.
    pub(super) fn of(&mut self, service: &Arc<Service>) -> Known {
        let Some(known) = self.0.get_mut(&service.name) else {
            let known = Known::new(service);
            self.0.insert(service.name.clone(), known.clone());
            return known;
        };
        if !Arc::ptr_eq(&known.service, service) {
            if !has_same_keys(&known.service, service) {
                *known = Known::new(service);
            }
            known.service = Arc::clone(service);
            known.settled = None;
        }
        known.clone()
    }

    /// Remembers that a service is as it should be.
    pub(super) fn note_settled(&mut self, name: &ServiceName, settled: Settled) {
        if let Some(known) = self.0.get_mut(name) {
            known.settled = Some(Arc::new(settled));
        }
    }

    /// Names of services that are as they should be.
    #[cfg(test)]
    pub(super) fn settled(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.iter().filter(|(_, known)| known.settled.is_some()).map(|(name, _)| name)
    }

    /// Forgets of all services that they are as they should be.
    #[cfg(test)]
    pub(super) fn forget_settled(&mut self) {
        self.0.values_mut().for_each(|known| known.settled = None);
    }
}

impl Known {
    fn new(service: &Arc<Service>) -> Self {
        let keys = Arc::new(ServiceKeys::new(service));
        Self { service: Arc::clone(service), keys, settled: None }
    }
}

impl Planner {
    /// The hashes of the services of a snapshot, in their order; kept as long as those are what they were.
    pub fn keys_of_all(&mut self, snapshot: &Snapshot) -> impl Iterator<Item = Arc<ServiceKeys>> {
        self.keys.of_all(snapshot).into_iter().map(|known| known.keys)
    }
}

/// Whether two services of one name differ in nothing that is hashed.
fn has_same_keys(one: &Service, other: &Service) -> bool {
    let hashed = |backend: &Backend| (backend.address, backend.path);
    let is_same = |(one, other): (&Backend, &Backend)| {
        hashed(one) == hashed(other) && one.place == other.place && one.instance == other.instance
    };
    one.backends.len() == other.backends.len()
        && one.backends.iter().zip(&other.backends).all(is_same)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Keys, ServiceKeys};
    use crate::{
        model::{Backend, BackendPath, BackendState, Service, ServiceName, Snapshot},
        plan::tests::{backend, service},
    };

    #[test]
    fn kept_hashes_are_those_of_what_there_is() {
        let mut keys = Keys::default();
        let mut latest = Arc::new(service("web", &[80], vec![backend("1", 1, 1)]));
        let changes: [fn(&mut Service); 9] = [
            |_| {},
            |it| it.backends[0].state = BackendState::Draining,
            |it| it.backends[0].place.push('0'),
            |it| it.backends[0].instance.push('0'),
            |it| it.backends[0].address.set_port(81),
            |it| it.backends[0].path = BackendPath::Routed,
            |it| it.backends.push(backend("2", 2, 2)),
            |it| it.backends.swap(0, 1),
            |it| drop(it.backends.remove(0)),
        ];
        for change in changes {
            for _ in 0..2 {
                assert_eq!(*keys.of(&latest).keys, ServiceKeys::new(&latest));
            }
            let mut next = (*latest).clone();
            change(&mut next);
            latest = Arc::new(next);
        }
        let Backend { place, .. } = &latest.backends[0];
        assert_eq!(place, "10");
        // Of another name, although its backends are the same.
        let name = ServiceName("other".into());
        let other = Arc::new(Service { name: name.clone(), ..(*latest).clone() });
        assert_eq!(*keys.of(&other).keys, ServiceKeys::new(&other));
        let services = [(name, Arc::clone(&other))].into();
        let snapshot = Snapshot { services, ..Snapshot::default() };
        for _ in 0..2 {
            let all = keys.of_all(&snapshot);
            assert_eq!(all.len(), 1);
            assert_eq!(*all[0].keys, ServiceKeys::new(&other));
            assert_eq!(keys.0.len(), 1);
        }
    }
}
