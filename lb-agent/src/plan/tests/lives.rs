//! What happens in random lives of a node.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{backend, service, snapshot};
use crate::model::{
    Backend, BackendPath, BackendState, FrontendAddress, Ports, Protocol, Service, ServiceName,
    Snapshot, WaysIn,
};

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) snapshot: Snapshot,
    pub(super) wait_ms: u64,
    pub(super) restart: bool,
    /// A ring of which a flow is left without a record.
    pub(super) refused_ring: Option<u32>,
    pub(super) others: Option<u32>,
    /// All other services stay what they were.
    only: Option<usize>,
}

impl Step {
    /// What is wanted from now on, after this.
    pub(super) fn wanted(&self, before: &Snapshot) -> Snapshot {
        let Some(index) = self.only else { return self.snapshot.clone() };
        let name = ServiceName(format!("s{index}").into());
        let mut after = before.clone();
        after.services.remove(&name);
        if let Some(service) = self.snapshot.services.get(&name) {
            let mut service = (**service).clone();
            let is_taken = |it: &FrontendAddress| {
                after.services.values().any(|other| other.frontends.contains(it))
            };
            service.frontends.retain(|frontend| !is_taken(frontend));
            if !service.frontends.is_empty() {
                after.services.insert(name, service.into());
            }
        }
        after
    }
}

fn any_backend() -> impl Strategy<Value = Backend> {
    let state = prop_oneof![
        4 => Just(BackendState::Healthy),
        1 => Just(BackendState::Starting),
        1 => Just(BackendState::Unhealthy),
        1 => Just(BackendState::Draining),
        1 => Just(BackendState::Disabled),
    ];
    let weight = prop_oneof![4 => Just(100_u16), 1 => Just(0), 1 => Just(50)];
    let ways_in = prop_oneof![4 => Just(WaysIn::OnlyOurs), 1 => Just(WaysIn::Published)];
    (0..3_u8, 0..2_u8, state, weight, prop::bool::weighted(0.2), ways_in).prop_map(
        |(place, instance, state, weight, is_routed, ways_in)| {
            let mut backend =
                backend(&place.to_string(), u64::from(instance), 1 + place * 2 + instance);
            (backend.state, backend.weight) = (state, weight);
            backend.replies.ways_in = ways_in;
            if is_routed {
                backend.path = BackendPath::Routed;
            }
            backend
        },
    )
}

pub(super) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    // Which of three services has which frontend, and the backends of each.
    let owners = prop::collection::vec(0..4_usize, 4);
    let of_service = (prop::collection::vec(any_backend(), 0..4), prop::bool::weighted(0.4));
    let backends = prop::collection::vec(of_service, 3);
    (owners, backends).prop_map(|(owners, backends)| {
        let all = backends.into_iter().enumerate();
        let services = all.filter_map(|(index, (mut backends, are_routed))| {
            if are_routed {
                for backend in &mut backends {
                    backend.path = BackendPath::Routed;
                }
            }
            let ports: Vec<u16> = (80..)
                .zip(&owners)
                .filter(|(_, owner)| **owner == index)
                .map(|(it, _)| it)
                .collect();
            let unique: BTreeMap<_, _> = backends
                .into_iter()
                .map(|it| ((it.place.clone(), it.instance.clone()), it))
                .collect();
            let backends = unique.into_values().collect();
            (!ports.is_empty()).then(|| {
                let service = service(&format!("s{index}"), &ports, backends);
                let protocol =
                    |it| if Some(it) == Ports::one(83) { Protocol::Udp } else { Protocol::Tcp };
                let of_protocol =
                    |it: FrontendAddress| FrontendAddress { protocol: protocol(it.ports), ..it };
                let frontends = service.frontends.into_iter().map(of_protocol).collect();
                Service { frontends, ..service }
            })
        });
        snapshot(services.collect())
    })
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let wait_ms =
        prop_oneof![Just(0_u64), 1..200_u64, 500..2500_u64, Just(10_000_u64), Just(30_000_u64)];
    let refused_ring = prop::option::weighted(0.2, 0..8_u32);
    let others = prop::option::weighted(0.5, 0..3_u32);
    let only = prop::option::weighted(0.5, 0..4_usize);
    (any_snapshot(), wait_ms, prop::bool::weighted(0.2), refused_ring, others, only).prop_map(
        |(snapshot, wait_ms, restart, refused_ring, others, only)| Step {
            snapshot,
            wait_ms,
            restart,
            refused_ring,
            others,
            only,
        },
    )
}
