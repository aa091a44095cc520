//! What follows for the tables from containers, services and numbers.

mod networks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::{
    CLASS_ALL, CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, FAMILY_V4, PREFERS_NODE, ReachEntry,
    ReachKey, SCOPE_HAS_SLOTS, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS, VISIBLE_TO_NOBODY,
    VISIBLE_TO_NODE,
};

use super::{
    Clients, ContainerClient, Reach, Registry, SocketTables, ahead, network_hash, reach_name,
    scope, unseen,
};
use crate::{
    grammar,
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, IpPrefix, LocalKind, LocalPrefixes,
        Origin, Policy, Ports, Preference, Protocol, ReplyFacts, Service, ServiceName, Setting,
        Snapshot, Visibility,
    },
    plan::{self, Action, KernelBackend, KernelState, ServiceKeys},
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
    Clients { node: 1, containers, ..Clients::default() }
}

/// A container's is on `front` or on `back`, as its address says.
fn backend(address: &str, path: BackendPath) -> Backend {
    let network = match address {
        _ if path == BackendPath::Routed => None,
        _ if address.starts_with("172.18.") => Some("front".into()),
        _ if address.starts_with("172.19.") => Some("back".into()),
        _ => None,
    };
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
        network,
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
    let name = ServiceName("compose/shop/web:80".into());
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

/// [`super::wanted`], with hashes made anew.
fn wanted(
    snapshot: &Snapshot,
    kernel: &KernelState,
    clients: Option<&Clients>,
    routes_across: bool,
) -> SocketTables {
    let keys = snapshot.services.values().map(|service| Arc::new(ServiceKeys::new(service)));
    super::wanted(snapshot, kernel, clients, routes_across, keys)
}

#[test]
fn containers_that_share_a_namespace_are_one_client_and_the_node_is_itself() {
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, Some(&clients()), false);
    assert_eq!(tables.clients.keys().copied().collect::<Vec<_>>(), [1, 100]);
    assert_eq!(tables.clients[&1].kind, CLIENT_NODE);
    let shared = tables.clients[&100];
    assert_eq!(shared.kind, CLIENT_CONTAINER);
    let network = |name| ClassNetwork { class: shared.class, network: network_hash(name) };
    let expected = BTreeSet::from(["back", "front", "more"].map(network));
    assert_eq!(tables.class_networks, expected);
    assert!(!tables.is_partial);
}

#[test]
fn whoever_shares_a_namespace_is_shown_on_all_its_networks() {
    let view = clients().view();
    let networks = |pick: fn(&ContainerClient) -> bool| {
        let of = clients().containers.into_values().filter(pick);
        of.flat_map(|container| container.networks.into_keys()).collect::<BTreeSet<String>>()
    };
    let shared = networks(|it| it.cookie == 100);
    assert_eq!(shared.len(), 3);
    let shown: Vec<BTreeSet<String>> =
        view.callers.iter().map(|caller| caller.networks.keys().cloned().collect()).collect();
    assert_eq!(shown.iter().filter(|names| **names == shared).count(), 2, "{shown:?}");
    // Of those whose namespace could not be told nobody knows who shares it.
    let unknown = view.callers.iter().find(|caller| !caller.is_known).expect("one");
    assert_eq!(unknown.networks.keys().collect::<Vec<_>>(), ["front"]);
}

#[test]
fn a_container_is_known_on_all_its_networks_however_many() {
    let names: Vec<String> = (0..200).map(|number| format!("net-{number}")).collect();
    let networks: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let like = |cookie| container(cookie, &networks);
    let containers =
        [("one", like(9)), ("other", like(10)), ("less", container(11, &networks[1..]))];
    let containers = containers.map(|(id, client)| (id.to_owned(), client)).into();
    let clients = Clients { node: 1, containers, ..Clients::default() };
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, Some(&clients), false);
    let class = |cookie: u64| tables.clients[&cookie].class;
    assert_eq!(class(9), class(10), "who is on the same networks is of one class");
    assert_ne!(class(9), class(11));
    let of = |class: u64| tables.class_networks.iter().filter(|it| it.class == class).count();
    assert_eq!((of(class(9)), of(class(11))), (200, 199));
}

#[test]
fn before_anybody_was_seen_nobody_is_forgotten() {
    let (snapshot, kernel) = world(Vec::new(), Policy::default());
    let tables = wanted(&snapshot, &kernel, None, false);
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
        expected.resize(scope.networks[0].len(), 0);
        assert_eq!(scope.networks[0].to_vec(), expected, "{visible}");
    };
    let (any, node) = (Preference::Any, Preference::Node);
    check("all", any, VISIBLE_TO_NODE | VISIBLE_TO_CONTAINERS, &[]);
    check("none", node, VISIBLE_TO_NOBODY, &[]);
    check("node", node, VISIBLE_TO_NODE | PREFERS_NODE, &[]);
    check("containers", any, VISIBLE_TO_CONTAINERS, &[]);
    check("network:b,node,network:a", any, VISIBLE_TO_NODE | VISIBLE_TO_NETWORKS, &["a", "b"]);
}

#[test]
fn packets_without_a_call_lead_nowhere_unless_the_address_is_somebodys() {
    let check = |visible: &str, local: &[(&str, u8)], expected: &[&str]| {
        let (snapshot, _) = world(Vec::new(), policy(visible, Preference::Any));
        let prefix = |it: &str, bits| IpPrefix::of(it.parse().expect(it), bits);
        let local = local.iter().map(|(it, bits)| (prefix(it, *bits), LocalKind::Node));
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
fn packets_to_a_backend_that_is_an_address_of_another_service_go_their_way() {
    let chained = backend(&format!("{VIP}:80"), BackendPath::Routed);
    let (snapshot, _) = world(vec![chained], policy("all", Preference::Any));
    assert_eq!(unseen(&snapshot, &LocalPrefixes::new()), BTreeSet::new());
}

#[test]
fn a_service_that_nobody_of_the_node_sees_is_said_to_be_one() {
    let (snapshot, kernel) = world(Vec::new(), policy("none", Preference::Node));
    let scopes = wanted(&snapshot, &kernel, Some(&clients()), false).scopes;
    assert_eq!(scopes[&4].flags, VISIBLE_TO_NOBODY);
}

#[test]
fn what_nobody_claims_and_is_served_keeps_its_scope() {
    let (snapshot, mut kernel) = world(Vec::new(), Policy::default());
    kernel.services.insert(7, [7, 7]);
    let frontend = FrontendAddress {
        vip: VIP.parse().expect(VIP),
        protocol: Protocol::Tcp,
        ports: Ports::one(81).expect("a port"),
    };
    kernel.frontends.insert(frontend, 7);
    let kept = wanted(&snapshot, &kernel, None, false).kept;
    assert_eq!(kept.services, BTreeSet::from([7]));
    assert_eq!(kept.vips, BTreeSet::from([VIP.parse().expect(VIP)]));
}

#[test]
fn what_a_plan_leads_to_is_known_before_it_is_done() {
    let (snapshot, after) = world(vec![at("172.18.0.2:80", 1, HERE)], Policy::default());
    let mut kernel = KernelState::default();
    assert_eq!(ahead(&kernel, &[Action::DeleteVip { vip: VIP.parse().expect(VIP) }]), None);
    let (number, name_hash) = after.services.iter().next().expect("one service");
    let actions = [
        Action::WriteService { number: *number, name_hash: *name_hash },
        Action::WriteBackend { number: 1, backend: after.backends[&1].clone() },
    ];
    let told = ahead(&kernel, &actions).expect("it leads somewhere");
    let tables = wanted(&snapshot, &told, Some(&clients()), false);
    assert!(tables.scopes.contains_key(&4) && tables.networks.contains_key(&1));
    kernel.services = after.services.clone();
    kernel.services.insert(5, [5, 5]);
    kernel.backends.insert(2, KernelBackend { service: 5, ..after.backends[&1].clone() });
    assert_eq!(ahead(&kernel, &[]), None);
    // Of other services nothing is said.
    let told = ahead(&kernel, &actions).expect("it leads somewhere");
    assert_eq!((told.services, told.backends), (after.services, after.backends));
}

const HERE: BackendPath = BackendPath::Local { ifindex: 9 };

/// One of several backends, at a place of its own.
fn at(address: &str, place: u16, path: BackendPath) -> Backend {
    Backend {
        place: place.to_string(),
        instance: format!("{ID}@{place}"),
        weight: place,
        ..backend(address, path)
    }
}

/// Slots by backend, those that are preferred, the others.
type Reached = (BTreeMap<u32, usize>, Vec<u32>, Vec<u32>);

/// What callers on these networks reach of a service; `None`: nothing is said of them.
fn reached(
    backends: Vec<Backend>,
    prefer: Preference,
    networks: Option<&[&str]>,
) -> Option<Reached> {
    let (snapshot, kernel) = world(backends, policy("all", prefer));
    let mut clients = clients();
    // Named as containers' addresses are, of all that serve.
    let all = [("front", "172.18.0.2"), ("back", "172.19.0.2")];
    clients.containers.insert(ID.to_owned(), container(50, &all));
    let caller = networks.map(|names| {
        let names: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
        clients.containers.insert("caller".to_owned(), container(60, &names));
    });
    let tables = wanted(&snapshot, &kernel, Some(&clients), false);
    let class = caller.map_or(CLASS_ALL, |()| tables.clients[&60].class);
    let reach = tables.reach.get(&ReachKey { class, service: 4, family: FAMILY_V4 })?;
    let number = |entry: &ReachEntry| entry.backend(4, FAMILY_V4).0;
    let mut slots = BTreeMap::new();
    for entry in &reach.slots {
        *slots.entry(number(entry)).or_default() += 1;
    }
    let has_slots = tables.reach.values().any(|reach| !reach.slots.is_empty());
    assert_eq!(tables.scopes[&4].flags & SCOPE_HAS_SLOTS != 0, has_slots);
    let numbers = |part: &[ReachEntry]| part.iter().map(number).collect();
    Some((slots, numbers(&reach.near), numbers(&reach.far)))
}

#[test]
fn who_reaches_some_backends_has_slots_of_its_own() {
    let backends = || {
        vec![
            at("172.18.0.2:80", 1, HERE),
            at("172.18.0.2:81", 3, HERE),
            at("172.19.0.2:80", 2, HERE),
            Backend { state: BackendState::Unhealthy, ..at("172.18.0.2:82", 4, HERE) },
        ]
    };
    let any = |networks| reached(backends(), Preference::Any, networks);
    let all = vec![1, 2, 3];
    assert_eq!(any(None), Some((BTreeMap::new(), vec![], all)), "the ring is right for all");
    // By weight: one to three.
    let front = any(Some(&["front"])).expect("two of three");
    assert_eq!((front.0[&1] + 1) / 3, front.0[&2] / 9, "{front:?}");
    assert_eq!((front.1, front.2), (vec![], vec![1, 2]));
    assert_eq!(any(Some(&["back"])), Some(([(3, 1)].into(), vec![], vec![3])));
    assert_eq!(any(Some(&["back", "front"])), None, "whoever reaches all is one of all");
    assert_eq!(any(Some(&["other"])), None, "nor does one who reaches none");
    // On one network, whoever reaches one reaches all.
    let one = vec![at("172.18.0.2:80", 1, HERE), at("172.18.0.2:81", 3, HERE)];
    assert_eq!(reached(one, Preference::Any, Some(&["front"])), None);
}

#[test]
fn who_prefers_the_node_has_slots_there_while_one_serves_there() {
    let away = BackendPath::Routed;
    let backends = |state: BackendState| {
        vec![
            Backend { state, ..at("172.18.0.2:80", 1, HERE) },
            at("10.0.0.1:80", 2, away),
            at("10.0.0.2:80", 3, away),
        ]
    };
    let node = |state, networks| reached(backends(state), Preference::Node, networks);
    let here = Some(([(1, 1)].into(), vec![1], vec![2, 3]));
    assert_eq!(node(BackendState::Healthy, None), here);
    assert_eq!(node(BackendState::Healthy, Some(&["front"])), None);
    let away = node(BackendState::Healthy, Some(&["other"])).expect("what the others are");
    assert_eq!((away.1, away.2), (vec![], vec![2, 3]));
    assert_eq!(away.0.values().sum::<usize>(), 251);
    let none_here = Some((BTreeMap::new(), vec![], vec![2, 3]));
    assert_eq!(node(BackendState::Unhealthy, None), none_here);
    let any = reached(backends(BackendState::Healthy), Preference::Any, None);
    assert_eq!(any, Some((BTreeMap::new(), vec![], vec![1, 2, 3])));
}

#[test]
fn who_is_held_keeps_his_place_while_another_comes() {
    let entry = |backend, generation| ReachEntry::new(4, FAMILY_V4, backend, generation);
    let held = Reach { slots: vec![entry(1, 1)], near: vec![entry(1, 1)], far: vec![entry(2, 1)] };
    // The same number in another generation is another backend.
    let coming = Reach {
        slots: vec![entry(1, 2)],
        near: vec![entry(1, 2), entry(2, 1)],
        far: vec![entry(3, 1)],
    };
    let both = held.and(&coming);
    assert_eq!((&both.slots, &both.near), (&held.slots, &held.near));
    assert_eq!(both.far, [entry(2, 1), entry(1, 2), entry(3, 1)]);
    assert_eq!(held.and(&held), held);
}

#[test]
fn a_plan_that_only_changes_states_is_announced() {
    let (_, kernel) = world(vec![at("172.18.0.2:80", 1, HERE)], Policy::default());
    let refuse = Action::SetBackendState { number: 1, state: 0 };
    assert!(ahead(&kernel, &[refuse]).is_some());
}

#[test]
fn classes_that_reach_the_same_share_one_list() {
    let backends = vec![at("172.18.0.2:80", 1, HERE), at("172.19.0.2:80", 2, HERE)];
    let (snapshot, kernel) = world(backends, Policy::default());
    let mut clients = clients();
    for number in 0..40 {
        let own = format!("net-{number}");
        let client = container(1000 + number, &[("front", ""), (&own, "")]);
        clients.containers.insert(format!("caller-{number}"), client);
    }
    let tables = wanted(&snapshot, &kernel, Some(&clients), false);
    let of_classes = tables.reach.iter().filter(|(key, _)| key.class != CLASS_ALL);
    let lists: Vec<&Arc<Reach>> = of_classes.map(|(_, list)| list).collect();
    assert_eq!(lists.len(), 40);
    assert!(lists.iter().all(|list| Arc::ptr_eq(list, lists[0])));
}

#[test]
fn nobody_reaches_another_on_a_network_that_keeps_its_containers_apart() {
    let mut backends = vec![at("172.18.0.2:80", 1, HERE), at("172.19.0.2:80", 2, HERE)];
    backends[0].network = Some(reach_name("front", true).into());
    let (snapshot, kernel) = world(backends, Policy::default());
    let clients = clients();
    let tables = wanted(&snapshot, &kernel, Some(&clients), false);
    assert_eq!(tables.networks[&1], network_hash("front (icc=false)"));
    assert_eq!(tables.networks[&2], network_hash("back"));
    let class = tables.clients[&100].class;
    let is_on = |network| tables.class_networks.contains(&ClassNetwork { class, network });
    assert!(!is_on(tables.networks[&1]) && is_on(tables.networks[&2]));
    // It still is on the network for services that are visible there.
    assert!(is_on(network_hash("front")));
    let across = wanted(&snapshot, &kernel, Some(&clients), true);
    assert!(across.reach.keys().all(|key| key.class == CLASS_ALL));
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
fn a_namespace_is_entered_by_any_of_those_who_share_it() {
    let mut clients = clients();
    clients.containers.get_mut("sharing").expect("it is there").pid = 78;
    let registry = Registry::default();
    registry.set(&clients);
    let pids: Vec<Vec<u32>> = registry.all().into_iter().map(|known| known.pids).collect();
    // The node; the one whose namespace could not be told; those that share.
    assert_eq!(pids, [vec![], vec![77], vec![77, 78]]);
}

#[test]
fn networks_have_numbers_that_stay() {
    assert_eq!(network_hash("bridge"), network_hash("bridge"));
    assert_ne!(network_hash("bridge"), network_hash("bridge2"));
    assert_ne!(network_hash(""), 0);
}
