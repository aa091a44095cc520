//! Static backends that the file no longer has. What becomes of them is what becomes of a container
//! that is told to end: they drain, for as long as their service says.
//!
//! It is the kernel that says who was there, so that an agent that was restarted meanwhile, or that did
//! not run when the file was written, does the same. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crate::{
    model::{BackendPath, ServiceName, Snapshot},
    plan::{KernelBackend, KernelState, instance_hash, service_hash},
    provider::file,
};

/// Those who leave, by their numbers in the kernel, in services that stay.
#[derive(Debug, Default)]
pub(super) struct Leaving(BTreeMap<u32, ServiceName>);

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
            self.0.retain(|_, service| !touched.contains(service));
            self.look(touched, snapshot, kernel);
        }
        self.0.retain(|number, name| {
            let held = kernel.backends.get(number).filter(|held| keeps_flows(held));
            let Some((held, service)) = held.zip(snapshot.services.get_mut(name)) else {
                return false;
            };
            let backend = file::leaving_backend(held.address);
            let is_it = instance_hash(name, &backend) == held.instance_hash;
            if is_it {
                let service = Arc::make_mut(service);
                let key = (&backend.place, &backend.instance);
                let at = service.backends.partition_point(|it| (&it.place, &it.instance) < key);
                service.backends.insert(at, backend);
            }
            is_it
        });
    }

    fn look(&mut self, touched: &BTreeSet<ServiceName>, snapshot: &Snapshot, kernel: &KernelState) {
        let services = touched.iter().filter_map(|name| snapshot.services.get(name));
        let by_hash: BTreeMap<_, _> = services.map(|it| (service_hash(&it.name), it)).collect();
        let mut there: BTreeMap<u32, (&ServiceName, HashSet<_>)> = BTreeMap::new();
        for (number, hash) in &kernel.services {
            if let Some(service) = by_hash.get(hash) {
                let routed = service.backends.iter().filter(|it| it.path == BackendPath::Routed);
                there.insert(*number, (&service.name, routed.map(|it| it.address).collect()));
            }
        }
        for (number, held) in &kernel.backends {
            if keeps_flows(held)
                && let Some((name, addresses)) = there.get(&held.service)
                && !addresses.contains(&held.address)
            {
                self.0.insert(*number, (*name).clone());
            }
        }
    }
}

/// Only the file has backends that are routed.
fn keeps_flows(held: &KernelBackend) -> bool {
    held.path == BackendPath::Routed && held.state != 0
}
