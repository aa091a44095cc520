//! What follows for the tables from containers, services and numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::{
    CLIENT_CONTAINER, CLIENT_NODE, PREFERS_NODE, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS,
    VISIBLE_TO_NODE,
};

use super::{Clients, ContainerClient, Registry, network_hash, scope, unseen, wanted};
use crate::{
    grammar,
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, IpPrefix, Origin, Policy, Ports,
        Preference, Protocol, ReplyFacts, Service, ServiceName, Setting, Snapshot, Visibility,
    },
    plan::{self, KernelBackend, KernelState},
};

const ID: &str = "1234";
const VIP: &str = "203.0.113.10";

fn container(cookie: u64, networks: &[(&str, &str)]) -> ContainerClient {
    let networks = networks.iter().map(|(name, address)| {
        let addresses: BTreeSet<IpAddr> = address.parse().into_iter().collect();
        ((*name).to_owned(), addresses)
    });
    let networks = networks.collect();
    ContainerClient { name: "web-1".to_owned(), pid: 77, cookie, networks }
}

fn clients() -> Clients {
    let containers = [
        (ID, container(100, &[("front", "172.18.0.2"), ("back", "172.19.0.2")])),
        ("sharing", container(100, &[("more", "")])),
        ("host", container(1, &[("host", "")])),
        ("unknown", container(0, &[("front", "172.18.0.9")])),
    ];
    let containers = containers.map(|(id, client)| (id.to_owned(), client)).into();
    Clients { node: 1, containers, is_partial: false }
}

fn backend(address: &str, path: BackendPath) -> Backend {
    Backend {
        place: "1".to_owned(),
        instance: format!("{ID}@5"),
        display_name: "web-1".to_owned(),
        address: address.parse().expect(address),
        weight: 1,
        path,
        state: BackendState::Healthy,
        started_at_ms: 5,
        reported: None,
        asked_to_end: None,
        replies: ReplyFacts::default(),
    }
}

fn policy(visible: &str, prefer: Preference) -> Policy {
    let visible = grammar::visibility(visible).expect(visible);
    Policy {
        visible: Setting::new(visible, Origin::Default),
        prefer: Setting::new(prefer, Origin::Default),
        ..Policy::default()
    }
}

/// A service with these backends, numbered from 1, and the tables that hold it as number 4.
fn world(backends: Vec<Backend>, policy: Policy) -> (Snapshot, KernelState) {
    let name = ServiceName("compose/shop/web:80".to_owned());
    let mut kernel = KernelState::default();
    kernel.services.insert(4, plan::service_hash(&name));
    for (number, backend) in (1..).zip(&backends) {
        let held = KernelBackend {
            instance_hash: plan::instance_hash(&name, backend),
            service: 4,
            generation: 1,
            address: backend.address,
            path: backend.path,
            state: 7,
            records_replies: true,
        };
        kernel.backends.insert(number, held);
    }
    let service = Service {
        name: name.clone(),
        frontends: BTreeSet::from([FrontendAddress {
            vip: VIP.parse().expect(VIP),
            protocol: Protocol::Tcp,
            ports: Ports::one(80).expect("a port"),
        }]),
        backends,
        policy: Arc::new(policy),
        exclusive: BTreeSet::new(),
    };
    let services = BTreeMap::from([(name, Arc::new(service))]);
    (Snapshot { services, ..Snapshot::default() }, kernel)
}

#[test]
fn containers_that_share_a_namespace_are_one_client_and_the_node_is_itself() {
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, Some(&clients()));
    assert_eq!(tables.clients.keys().copied().collect::<Vec<_>>(), [1, 100]);
    assert_eq!(tables.clients[&1].kind, CLIENT_NODE);
    let shared = tables.clients[&100];
    assert_eq!(shared.kind, CLIENT_CONTAINER);
    let mut expected = ["back", "front", "more"].map(network_hash).to_vec();
    expected.resize(shared.networks.len(), 0);
    assert_eq!(shared.networks.to_vec(), expected);
    assert!(!tables.is_partial);
}

#[test]
fn a_container_on_very_many_networks_is_known_on_some() {
    let names: Vec<String> = (0..20).map(|number| format!("net-{number}")).collect();
    let networks: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let containers = BTreeMap::from([(ID.to_owned(), container(9, &networks))]);
    let clients = Clients { node: 1, containers, is_partial: false };
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, Some(&clients));
    assert!(tables.clients[&9].networks.iter().all(|network| *network != 0));
}

#[test]
fn a_backend_is_on_the_network_that_gave_it_its_address() {
    let local = BackendPath::Local { ifindex: 9 };
    let backends = vec![
        backend("172.19.0.2:80", local),
        backend("172.18.0.2:80", local),
        // A network that has gone, and a static backend.
        backend("172.20.0.2:80", local),
        backend("172.18.0.2:81", BackendPath::Routed),
    ];
    let (snapshot, kernel) = world(backends, Policy::default());
    let tables = wanted(&snapshot, &kernel, Some(&clients()));
    let expected = BTreeMap::from([(1, network_hash("back")), (2, network_hash("front"))]);
    assert_eq!(tables.networks, expected);
}

#[test]
fn before_anybody_was_seen_nobody_is_forgotten() {
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, None);
    assert!(tables.is_partial && tables.clients.is_empty());
    // Services are there all the same.
    assert_eq!(tables.scopes.keys().collect::<Vec<_>>(), [&4]);
}

#[test]
fn scopes_say_who_sees_a_service() {
    let check = |visible: &str, prefer: Preference, flags: u32, networks: &[&str]| {
        let scope = scope(&policy(visible, prefer));
        assert_eq!(scope.flags, flags, "{visible}");
        let mut expected: Vec<u64> = networks.iter().map(|name| network_hash(name)).collect();
        expected.resize(scope.networks.len(), 0);
        assert_eq!(scope.networks.to_vec(), expected, "{visible}");
    };
    let (any, node) = (Preference::Any, Preference::Node);
    check("all", any, VISIBLE_TO_NODE | VISIBLE_TO_CONTAINERS, &[]);
    check("none", node, 0, &[]);
    check("node", node, VISIBLE_TO_NODE | PREFERS_NODE, &[]);
    check("containers", any, VISIBLE_TO_CONTAINERS, &[]);
    check("network:b,node,network:a", any, VISIBLE_TO_NODE | VISIBLE_TO_NETWORKS, &["a", "b"]);
}

#[test]
fn packets_without_a_call_lead_nowhere_unless_the_address_is_somebodys() {
    let check = |visible: &str, local: &[(&str, u8)], expected: &[&str]| {
        let (snapshot, _) = world(Vec::new(), policy(visible, Preference::Any));
        let local = local.iter().map(|(it, bits)| IpPrefix::of(it.parse().expect(it), *bits));
        let vips: Vec<String> =
            unseen(&snapshot, &local.collect()).iter().map(ToString::to_string).collect();
        assert_eq!(vips, expected, "{visible}");
    };
    check("all", &[("172.18.0.0", 16), ("fd00::", 64)], &[VIP]);
    check("network:a", &[], &[VIP]);
    // Where its calls are left alone, so are packets.
    check("none", &[], &[]);
    check("all", &[(VIP, 32)], &[]);
    check("all", &[(VIP, 24)], &[]);
}

#[test]
fn a_service_that_nobody_of_the_node_sees_has_no_scope() {
    let (snapshot, kernel) = world(Vec::new(), policy("none", Preference::Node));
    assert!(wanted(&snapshot, &kernel, Some(&clients())).scopes.is_empty());
}

#[test]
fn visibility_is_written_as_it_is_read() {
    let check = |text: &str, shown: &str| {
        let visibility = grammar::visibility(text).expect(text);
        assert_eq!(visibility.to_string(), shown);
        if shown != "node,containers" {
            assert_eq!(grammar::visibility(shown).as_ref(), Ok(&visibility));
        }
    };
    check("all", "node,containers");
    check("none", "none");
    check("containers,node", "node,containers");
    check("network:shop_back,node", "node,network:shop_back");
    assert_eq!(Visibility::default().to_string(), "node,containers");
    for text in ["", "everybody", "node,", "network:", "network:a b", "all,node", "network:a/b"] {
        assert!(grammar::visibility(text).is_err(), "{text}");
    }
    let many = "network:a,network:b,network:c,network:d,network:e";
    assert_eq!(grammar::visibility(many), Err("names more than 4 networks".to_owned()));
}

#[test]
fn of_containers_in_one_namespace_one_stands_for_all() {
    let registry = Registry::default();
    registry.set(&clients());
    let pids: Vec<Option<u32>> = registry.all().into_iter().map(|known| known.pid).collect();
    // The node; one of those that share; the one whose namespace could not be told.
    assert_eq!(pids, [None, Some(77), Some(77)]);
}

#[test]
fn networks_have_numbers_that_stay() {
    assert_eq!(network_hash("bridge"), network_hash("bridge"));
    assert_ne!(network_hash("bridge"), network_hash("bridge2"));
    assert_ne!(network_hash(""), 0);
}
