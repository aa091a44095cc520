//! What a kernel state must be when a snapshot is in force.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::META_ROUTED_BACKENDS;

use super::reply_flows::assert_replies;
use crate::{
    model::{Backend, BackendPath, Service, Snapshot},
    plan::{KernelState, instance_hash, ring_of, service_hash, state_bits},
};

/// Whether the tables hold exactly the snapshot.
pub(super) fn assert_holds(state: &KernelState, snapshot: &Snapshot) {
    let mut frontends = 0;
    let mut backends = BTreeMap::new();
    let mut veths = BTreeSet::new();
    assert_eq!(state.services.len(), snapshot.services.len(), "{state}");
    for service in snapshot.services.values() {
        let hash = service_hash(&service.name);
        let (number, _) = state.services.iter().find(|(_, it)| **it == hash).unwrap();
        for frontend in &service.frontends {
            frontends += 1;
            assert_eq!(state.frontends.get(frontend), Some(number), "{state}");
            assert!(state.vips.contains(&frontend.vip));
        }
        for backend in &service.backends {
            backends.insert(instance_hash(&service.name, backend), (*number, backend));
            if let BackendPath::Local { ifindex } = backend.path {
                veths.insert(ifindex);
            }
        }
        assert_shares(state, *number, service);
    }
    assert_eq!(state.frontends.len(), frontends, "{state}");
    assert_eq!(state.vips.len(), usize::from(frontends > 0));
    assert_eq!(state.backends.len(), backends.len(), "{state}");
    for held in state.backends.values() {
        let (number, backend) = backends[&held.instance_hash];
        assert_eq!(
            (held.service, held.address, held.path),
            (number, backend.address, backend.path)
        );
        assert_eq!(held.state, state_bits(backend));
        assert_replies(state, held, backend);
    }
    assert_eq!(state.reply_interfaces, veths, "{state}");
    let routed = backends.values().any(|(_, backend)| backend.path == BackendPath::Routed);
    assert_eq!(state.flags & META_ROUTED_BACKENDS != 0, routed);
    let rings: BTreeSet<u32> =
        state.frontends.iter().map(|(frontend, service)| ring_of(*service, frontend)).collect();
    assert!(state.rings.keys().eq(&rings), "{state}");
}

/// Slots are shared by weight among the newest healthy instances, one per place.
fn assert_shares(state: &KernelState, number: u32, service: &Service) {
    let ring = &state.rings[&ring_of(number, service.frontends.first().unwrap())];
    let mut places: BTreeMap<&str, &Backend> = BTreeMap::new();
    for backend in &service.backends {
        if backend.state.takes_new() && backend.weight > 0 {
            let newest = places.entry(&backend.place).or_insert(backend);
            if (backend.started_at_ms, &backend.instance) > (newest.started_at_ms, &newest.instance)
            {
                *newest = backend;
            }
        }
    }
    let total: u32 = places.values().map(|backend| u32::from(backend.weight)).sum();
    let size = f64::from(u32::try_from(ring.slots.len()).unwrap());
    let mut owned = 0;
    for backend in places.values() {
        let hash = instance_hash(&service.name, backend);
        let (number, _) =
            state.backends.iter().find(|(_, held)| held.instance_hash == hash).unwrap();
        let share = ring.slots.iter().filter(|slot| slot.cur() == *number).count();
        let fair = size * f64::from(backend.weight) / f64::from(total);
        owned += share;
        let share = f64::from(u32::try_from(share).unwrap());
        assert!((share - fair).abs() <= 2.0, "{share} slots instead of {fair}: {state}");
    }
    assert_eq!(owned, if total == 0 { 0 } else { ring.slots.len() }, "{state}");
}
