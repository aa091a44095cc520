//! Static backends that the file no longer has. What becomes of them is what becomes of a container
//! that is told to end: they drain, for as long as their service says.
//!
//! It is the kernel that says who was there, so that an agent that was restarted meanwhile, or that did
//! not run when the file was written, does the same. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    net::SocketAddr,
    sync::Arc,
};

use crate::{
    model::{Backend, BackendPath, Service, ServiceName, Snapshot},
    plan::{KernelBackend, KernelState, instance_hash, service_hash},
    provider::file,
};

/// Those who leave.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// By their numbers in the kernel, in services that stay.
    members: BTreeMap<u32, ServiceName>,
    /// The services with them. As long as nothing changes they are the same, for those who remember them.
    made: BTreeMap<ServiceName, Made>,
}

/// A service with those who leave it.
#[derive(Debug)]
struct Made {
    granted: Arc<Service>,
    leaving: Vec<Backend>,
    service: Arc<Service>,
}

impl Leaving {
    /// Sees who leaves, now that other things are claimed for these services, and puts all of them into
    /// the snapshot.
    pub(super) fn apply(
        &mut self,
        touched: &BTreeSet<ServiceName>,
        snapshot: &mut Snapshot,
        kernel: &KernelState,
    ) {
        if !touched.is_empty() {
            self.members.retain(|_, service| !touched.contains(service));
            self.look(touched, snapshot, kernel);
        }
        let mut leaving: BTreeMap<ServiceName, Vec<Backend>> = BTreeMap::new();
        self.members.retain(|number, name| {
            let held = kernel.backends.get(number).filter(|held| keeps_flows(held));
            let Some(held) = held.filter(|_| snapshot.services.contains_key(name)) else {
                return false;
            };
            let backend = file::leaving_backend(held.address);
            let is_it = instance_hash(name, &backend) == held.instance_hash;
            if is_it {
                leaving.entry(name.clone()).or_default().push(backend);
            }
            is_it
        });
        let mut before = mem::take(&mut self.made);
        for (name, leaving) in leaving {
            let Some(granted) = snapshot.services.get_mut(&name) else { continue };
            let known = before.remove(&name);
            let known =
                known.filter(|it| Arc::ptr_eq(&it.granted, granted) && it.leaving == leaving);
            let made = known.unwrap_or_else(|| Made::new(Arc::clone(granted), leaving));
            *granted = Arc::clone(&made.service);
            self.made.insert(name, made);
        }
    }

    /// All of them, with their services.
    pub(super) fn backends(&self) -> impl Iterator<Item = (&ServiceName, &Backend)> {
        self.made.iter().flat_map(|(name, made)| made.leaving.iter().map(move |it| (name, it)))
    }

    fn look(&mut self, touched: &BTreeSet<ServiceName>, snapshot: &Snapshot, kernel: &KernelState) {
        let services = touched.iter().filter_map(|name| snapshot.services.get(name));
        let by_hash: BTreeMap<_, _> = services.map(|it| (service_hash(&it.name), it)).collect();
        for (number, hash) in &kernel.services {
            let Some(service) = by_hash.get(hash) else { continue };
            let routed = service.backends.iter().filter(|it| it.path == BackendPath::Routed);
            let addresses: HashSet<SocketAddr> = routed.map(|it| it.address).collect();
            let held = kernel.backends.of_service(*number).into_iter().flat_map(|them| them.iter());
            for (_, number) in held {
                let held = kernel.backends.get(number).filter(|held| keeps_flows(held));
                if held.is_some_and(|held| !addresses.contains(&held.address)) {
                    self.members.insert(*number, service.name.clone());
                }
            }
        }
    }
}

impl Made {
    fn new(granted: Arc<Service>, leaving: Vec<Backend>) -> Self {
        let mut service = (*granted).clone();
        service.backends.extend(leaving.iter().cloned());
        service.backends.sort_by(|left, right| {
            (&left.place, &left.instance).cmp(&(&right.place, &right.instance))
        });
        Self { granted, leaving, service: Arc::new(service) }
    }
}

/// Only the file has backends that are routed.
fn keeps_flows(held: &KernelBackend) -> bool {
    held.path == BackendPath::Routed && held.state != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendState, Policy, fixtures};

    #[test]
    fn a_service_is_the_same_as_long_as_the_same_leave_it() {
        let fixed = |number| Backend {
            place: format!("10.0.0.{number}:80"),
            ..fixtures::backend(number, "", BackendState::Healthy)
        };
        let service = |numbers: &[u8]| {
            let backends: Vec<_> = numbers.iter().map(|number| fixed(*number)).collect();
            fixtures::service("web", &backends, Policy::default())
        };
        let name = ServiceName("web".into());
        let mut kernel = KernelState::default();
        kernel.services.insert(7, service_hash(&name));
        for number in 1..=3 {
            let backend = fixed(number);
            let held = KernelBackend {
                instance_hash: instance_hash(&name, &backend),
                service: 7,
                generation: 1,
                address: backend.address,
                path: backend.path,
                state: 7,
                records_replies: true,
            };
            kernel.backends.insert(number.into(), held);
        }
        let mut leaving = Leaving::default();
        let mut apply = |granted: &Snapshot, touched: &[&ServiceName], kernel: &KernelState| {
            let touched = touched.iter().map(|name| (*name).clone()).collect();
            let mut snapshot = granted.clone();
            leaving.apply(&touched, &mut snapshot, kernel);
            assert_eq!(leaving.backends().count(), snapshot.services[&name].backends.len() - 1);
            Arc::clone(&snapshot.services[&name])
        };
        let places = |service: &Service| -> Vec<_> {
            service.backends.iter().map(|it| (it.address.to_string(), it.state)).collect()
        };
        let granted = fixtures::snapshot([service(&[2])]);
        let first = apply(&granted, &[&name], &kernel);
        let (healthy, draining) = (BackendState::Healthy, BackendState::Draining);
        let all = [("10.0.0.1:80", draining), ("10.0.0.2:80", healthy), ("10.0.0.3:80", draining)];
        assert_eq!(places(&first), all.map(|(address, state)| (address.to_owned(), state)));
        assert!(Arc::ptr_eq(&first, &apply(&granted, &[], &kernel)));
        assert!(Arc::ptr_eq(&first, &apply(&granted, &[&name], &kernel)));
        // Another service is granted, of the same content; then one of them is gone.
        let again = fixtures::snapshot([service(&[2])]);
        let second = apply(&again, &[], &kernel);
        assert!(!Arc::ptr_eq(&first, &second));
        kernel.backends.remove(3);
        assert_eq!(places(&apply(&again, &[], &kernel)).len(), 2);
    }
}
