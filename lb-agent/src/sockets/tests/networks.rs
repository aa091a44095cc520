//! On which network a backend is.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::abi::CLASS_ALL;

use super::{HERE, at, backend, clients, container, wanted, world};
use crate::{
    model::{BackendPath, Policy, Snapshot},
    sockets::{Clients, network_hash},
};

#[test]
fn a_backend_is_on_the_network_that_gave_it_its_address() {
    let backends = vec![
        backend("172.19.0.2:80", HERE),
        backend("172.18.0.2:80", HERE),
        // A bridge that Docker does not know, and a static backend.
        backend("172.20.0.2:80", HERE),
        backend("172.18.0.2:81", BackendPath::Routed),
    ];
    let (snapshot, kernel) = world(backends, Policy::default());
    // Of what is not reached as a container none is said, whoever had its number before.
    let (back, front) = (network_hash("back"), network_hash("front"));
    let expected = BTreeMap::from([(1, back), (2, front), (3, 0), (4, 0)]);
    // It comes with the claim: whoever calls may be known later.
    for clients in [Some(&clients()), Some(&Clients::default()), None] {
        let tables = wanted(&snapshot, &kernel, clients, false);
        assert_eq!(tables.networks, expected);
        assert!(tables.kept.backends.is_empty());
    }
}

#[test]
fn a_backend_of_an_unknown_caller_is_nobody_elses() {
    let backends = vec![at("172.18.0.2:80", 1, HERE), at("172.19.0.2:80", 2, HERE)];
    let (snapshot, kernel) = world(backends, Policy::default());
    let caller = container(7, &[("other", "172.20.0.2")]);
    let containers = [("caller".to_owned(), caller)].into();
    let clients = Clients { node: 1, containers, ..Clients::default() };
    let tables = wanted(&snapshot, &kernel, Some(&clients), false);
    assert!(tables.reach.keys().all(|key| key.class == CLASS_ALL), "{:?}", tables.reach);
    assert!(!tables.networks.values().any(|network| *network == 0));
}

/// Before the first plan after a start, and while one of several containers cannot be looked at.
#[test]
fn what_nobody_claims_and_is_served_stays_on_its_network() {
    let backends = vec![at("172.18.0.2:80", 1, HERE), at("172.19.0.2:80", 2, HERE)];
    let (mut snapshot, kernel) = world(backends, Policy::default());
    let nothing = Snapshot::default();
    let tables = wanted(&nothing, &kernel, Some(&clients()), false);
    assert!(tables.networks.is_empty());
    assert_eq!(tables.kept.backends, [1, 2].into());
    for service in snapshot.services.values_mut() {
        Arc::make_mut(service).backends.pop();
    }
    let tables = wanted(&snapshot, &kernel, Some(&clients()), false);
    assert_eq!(tables.networks, [(1, network_hash("front"))].into());
    assert_eq!(tables.kept.backends, [2].into());
}
