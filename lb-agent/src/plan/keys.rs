//! Hashes of services and their backends, kept as long as nothing changes that they are made of:
//! making them takes longer than all else that is done with a service that is as it was.

use std::{collections::HashMap, sync::Arc};

use super::{
    hash::{NameHash, instance_hash, place_hash, service_hash},
    planner::Planner,
};
use crate::model::{Backend, Service, ServiceName, Snapshot};

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
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<ServiceName, Known>);

#[derive(Debug)]
struct Known {
    service: Arc<Service>,
    keys: Arc<ServiceKeys>,
}

impl Keys {
    /// Forgets services that are no longer there.
    pub(super) fn retain(&mut self, snapshot: &Snapshot) {
        self.0.retain(|name, _| snapshot.services.contains_key(name));
    }

    /// Those of a service.
    pub(super) fn of(&mut self, service: &Arc<Service>) -> Arc<ServiceKeys> {
        if let Some(known) = self.0.get_mut(&service.name) {
            if !Arc::ptr_eq(&known.service, service) {
                if !has_same_keys(&known.service, service) {
                    known.keys = Arc::new(ServiceKeys::new(service));
                }
                known.service = Arc::clone(service);
            }
            debug_assert_eq!(*known.keys, ServiceKeys::new(service), "kept keys are the keys");
            return Arc::clone(&known.keys);
        }
        let keys = Arc::new(ServiceKeys::new(service));
        let known = Known { service: Arc::clone(service), keys: Arc::clone(&keys) };
        self.0.insert(service.name.clone(), known);
        keys
    }
}

impl Planner {
    /// The hashes of a service, kept as long as it is what it was.
    pub fn keys_of(&mut self, service: &Arc<Service>) -> Arc<ServiceKeys> {
        self.keys.of(service)
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
                assert_eq!(*keys.of(&latest), ServiceKeys::new(&latest));
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
        assert_eq!(*keys.of(&other), ServiceKeys::new(&other));
        let services = [(name, other)].into();
        keys.retain(&Snapshot { services, ..Snapshot::default() });
        assert_eq!(keys.0.len(), 1);
    }
}
