//! East-west: what the programs of socket calls have to know of this node's own clients.
//!
//! Pure: from the snapshot, the numbers that the plan has given, and the containers that were seen
//! follows what the tables are to hold ([`wanted`]). Owns as well the end of sockets whose backend is
//! gone ([`reaper`]). Which backend a call gets is decided in the kernel, by [`lb_common::socket`].

mod callers;
mod lists;
pub mod reach;
pub mod reaper;
mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::Hasher as _,
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::{
    CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, Client, PREFERS_NODE, ReachEntry, ReachKey,
    SCOPE_HAS_SLOTS, SCOPE_NETWORKS, ServiceScope, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS,
    VISIBLE_TO_NOBODY, VISIBLE_TO_NODE,
};
use siphasher::sip::SipHasher24;

pub use self::registry::{Known, Registry};
use crate::{
    api::types::{CallerList, CallerView},
    model::{Backend, BackendPath, IpPrefix, LocalPrefixes, Policy, Preference, Service, Snapshot},
    plan::{Action, HashIndex, KernelBackend, KernelState, ServiceKeys},
};

/// What the tables of socket calls hold, or are to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketTables {
    /// By cookie of the network namespace.
    pub clients: BTreeMap<u64, Client>,
    /// The networks that classes of clients are on.
    pub class_networks: BTreeSet<ClassNetwork>,
    /// What classes of clients reach of services.
    pub reach: BTreeMap<ReachKey, Arc<Reach>>,
    /// By number of the service; networks in the first half.
    pub scopes: BTreeMap<u32, ServiceScope>,
    /// By number of the backend: its network; 0: reached by the routing table.
    pub networks: BTreeMap<u32, u64>,
    /// Virtual addresses whose packets from this node, of which no call has told, do not arrive.
    pub unseen: BTreeSet<IpAddr>,
    /// Clients and classes that are not named here stay as they are.
    pub is_partial: bool,
    /// What is held of these stays as it is.
    pub kept: Kept,
}

/// What stays as it is, although nobody wants it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Numbers of services that are served and that nobody claims at the moment.
    pub services: BTreeSet<u32>,
    /// Their addresses.
    pub vips: BTreeSet<IpAddr>,
    /// Numbers of backends that the kernel holds and that nobody claims at the moment.
    pub backends: BTreeSet<u32>,
    /// Nothing is taken away: what is wanted goes ahead of a plan that leads there.
    pub is_all: bool,
}

/// What a class of clients reaches of a service: the entries of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Slots of its own; none: those of the service's ring.
    pub slots: Vec<ReachEntry>,
    /// Members that are preferred.
    pub near: Vec<ReachEntry>,
    /// The others.
    pub far: Vec<ReachEntry>,
}

impl std::hash::Hash for Reach {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for part in [&self.slots, &self.near, &self.far] {
            state.write_usize(part.len());
            for entry in part {
                state.write_u64(entry.raw());
            }
        }
    }
}

impl Reach {
    /// The same, and also who comes: nobody is led to them at the first try, and nobody who is held
    /// loses his place.
    #[must_use]
    pub fn and(&self, coming: &Self) -> Self {
        let mut both = self.clone();
        let held: BTreeSet<u64> =
            self.near.iter().chain(&self.far).map(|entry| entry.raw()).collect();
        let new = coming.near.iter().chain(&coming.far);
        both.far.extend(new.filter(|entry| !held.contains(&entry.raw())));
        both
    }
}

/// Containers of this node as clients, and the node itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clients {
    /// Cookie of the node's own namespace; 0: not known.
    pub node: u64,
    /// By container id.
    pub containers: BTreeMap<String, ContainerClient>,
    /// Networks whose containers do not reach one another (`icc=false`).
    pub isolated: BTreeSet<String>,
    /// There may be others.
    pub is_partial: bool,
}

/// A container that runs, as a client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ContainerClient {
    /// Its name, for people.
    pub name: String,
    /// Number of its main process.
    pub pid: u32,
    /// Cookie of its namespace, which other containers may share.
    pub cookie: u64,
    /// Its networks and the addresses that it has there.
    pub networks: Networks,
}

/// Networks and the addresses that somebody has there.
type Networks = BTreeMap<String, BTreeSet<IpAddr>>;

impl Clients {
    /// For people.
    #[must_use]
    pub fn view(&self) -> CallerList {
        // Of containers that share a namespace Docker names the networks of one.
        let mut shared: BTreeMap<u64, Networks> = BTreeMap::new();
        for container in self.containers.values().filter(|it| it.cookie != 0) {
            let networks = shared.entry(container.cookie).or_default();
            for (name, addresses) in &container.networks {
                networks.entry(name.clone()).or_default().extend(addresses);
            }
        }
        let caller = |container: &ContainerClient| CallerView {
            name: container.name.clone(),
            pid: container.pid,
            is_known: container.cookie != 0,
            is_node: container.cookie != 0 && container.cookie == self.node,
            networks: shared.get(&container.cookie).unwrap_or(&container.networks).clone(),
        };
        let mut callers: Vec<_> = self.containers.values().map(caller).collect();
        callers.sort_by(|one, other| one.name.cmp(&other.name));
        CallerList {
            is_node_known: self.node != 0,
            is_complete: !self.is_partial,
            callers,
            isolated: self.isolated.iter().cloned().collect(),
            unreached: Vec::new(),
        }
    }
}

/// A network in the tables: the hash of its name. The key is fixed, so that a restarted agent finds
/// what it wrote.
#[must_use]
pub fn network_hash(name: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x6c62_6e65_7477_6f72, 0x6b73);
    hasher.write(name.as_bytes());
    // Zero is no network.
    hasher.finish().max(1)
}

/// The network of a backend as it counts for who reaches it. Where Docker lets no two containers of a
/// network talk, none is on that of another: a connection would wait in vain for an answer.
#[must_use]
pub fn reach_name(name: &str, is_isolated: bool) -> String {
    // No name of a network has such characters.
    if is_isolated { format!("{name} (icc=false)") } else { name.to_owned() }
}

/// A service that has a number.
struct Numbered<'a> {
    service: &'a Service,
    keys: Arc<ServiceKeys>,
    /// The one that the plan goes by.
    number: u32,
}

/// What the tables are to hold of the services that the kernel holds. Without clients nothing has been
/// seen yet. `keys` are the hashes of the services of the snapshot, in their order.
#[must_use]
pub fn wanted(
    snapshot: &Snapshot,
    kernel: &KernelState,
    clients: Option<&Clients>,
    routes_across: bool,
    keys: impl IntoIterator<Item = Arc<ServiceKeys>>,
) -> SocketTables {
    // Of doubles the smallest number, as the plan has it.
    let numbers = kernel.services.iter().rev();
    let numbers: HashIndex<u32> = numbers.map(|(it, hash)| (*hash, *it)).collect();
    let services = snapshot.services.values().zip(keys).filter_map(|(service, keys)| {
        let number = *numbers.get(&keys.service)?;
        Some(Numbered { service, keys, number })
    });
    let services: Vec<Numbered<'_>> = services.collect();
    let nobody = Clients { is_partial: true, ..Clients::default() };
    let clients = clients.unwrap_or(&nobody);
    let (entries, class_networks) = client_entries(clients);
    let mut tables = SocketTables {
        is_partial: clients.is_partial,
        clients: entries,
        class_networks,
        reach: BTreeMap::new(),
        scopes: BTreeMap::new(),
        networks: backend_networks(&services, kernel),
        unseen: BTreeSet::new(),
        kept: kept(&services, kernel),
    };
    let mut claimed = tables.networks.keys().peekable();
    let is_kept = |number: &&u32| {
        while claimed.next_if(|it| it < number).is_some() {}
        claimed.next_if_eq(number).is_none()
    };
    tables.kept.backends = kernel.backends.keys().filter(is_kept).copied().collect();
    tables.scopes = scopes(&services, kernel);
    tables.reach = lists::lists(&services, kernel, &tables, routes_across);
    for key in tables.reach.iter().filter(|(_, it)| !it.slots.is_empty()).map(|(key, _)| key) {
        if let Some(scope) = tables.scopes.get_mut(&key.service) {
            scope.flags |= SCOPE_HAS_SLOTS;
        }
    }
    tables
}

/// What the kernel will hold after a plan of the services that it leads to, and of their backends; `None`:
/// it leads to none.
#[must_use]
pub fn ahead(kernel: &KernelState, actions: &[Action]) -> Option<KernelState> {
    let led_to = actions.iter().filter_map(|action| match action {
        Action::WriteService { number, .. } => Some(*number),
        Action::WriteBackend { backend, .. } => Some(backend.service),
        Action::SetBackendState { number, .. } => Some(kernel.backends.get(number)?.service),
        Action::PutFrontend { service, .. } => Some(*service),
        _ => None,
    });
    let led_to: HashSet<u32> = led_to.collect();
    if led_to.is_empty() {
        return None;
    }
    let services = kernel.services.iter().filter(|(number, _)| led_to.contains(number));
    let lists = led_to.iter().filter_map(|service| kernel.backends.of_service(*service));
    let numbers = lists.flat_map(|them| them.iter().map(|(_, number)| *number));
    let backends = numbers.filter_map(|it| Some((it, kernel.backends.get(&it)?.clone())));
    let mut after = KernelState {
        services: services.map(|(number, hash)| (*number, *hash)).collect(),
        backends: backends.collect(),
        ..KernelState::default()
    };
    for action in actions {
        match action {
            Action::WriteService { number, name_hash } => {
                after.services.insert(*number, *name_hash);
            }
            Action::WriteBackend { number, backend } => {
                after.backends.insert(*number, backend.clone());
            }
            _ => {}
        }
    }
    Some(after)
}

/// Of a provider that has not spoken yet, services are served on as they were.
fn kept(claimed: &[Numbered<'_>], kernel: &KernelState) -> Kept {
    let claimed: HashSet<_> = claimed.iter().map(|it| it.keys.service).collect();
    let services = kernel.services.iter().filter(|(_, hash)| !claimed.contains(*hash));
    let services: BTreeSet<u32> = services.map(|(number, _)| *number).collect();
    let of_them = kernel.frontends.iter().filter(|(_, number)| services.contains(number));
    let vips = of_them.map(|(frontend, _)| frontend.vip).collect();
    Kept { services, vips, ..Kept::default() }
}

/// Virtual addresses to which packets without a call lead nowhere: those whose services all are for
/// this node's clients, since the calls of the others go wherever the address leads. Addresses of the
/// node and of its containers (`local`), and those of backends, stay what they are: to a backend that is
/// another service's address, packets are led.
#[must_use]
pub fn unseen(snapshot: &Snapshot, local: &LocalPrefixes) -> BTreeSet<IpAddr> {
    let (mut vips, mut others) = (BTreeSet::new(), BTreeSet::new());
    for service in snapshot.services.values() {
        let is_for_us = scope(&service.policy).flags & VISIBLE_TO_NOBODY == 0;
        let set = if is_for_us { &mut vips } else { &mut others };
        set.extend(service.frontends.iter().map(|frontend| frontend.vip));
    }
    // Mostly of far more backends than there are addresses.
    for backend in snapshot.services.values().flat_map(|service| &service.backends) {
        vips.remove(&backend.address.ip());
    }
    let is_somebodys = |vip: &IpAddr| {
        vip.is_loopback()
            || local.keys().any(|prefix| IpPrefix::of(*vip, prefix.length()) == *prefix)
    };
    vips.retain(|vip| !others.contains(vip) && !is_somebodys(vip));
    vips
}

/// Clients, and the networks of their classes. Containers that share a namespace are on the same networks,
/// of which Docker names those of one.
fn client_entries(clients: &Clients) -> (BTreeMap<u64, Client>, BTreeSet<ClassNetwork>) {
    let mut names: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for container in clients.containers.values().filter(|it| it.cookie != 0) {
        let names = names.entry(container.cookie).or_default();
        names.extend(container.networks.keys().map(String::as_str));
    }
    // Containers on the host's network are the node to everybody.
    names.remove(&clients.node);
    let mut class_networks = BTreeSet::new();
    let mut entries = BTreeMap::new();
    for (cookie, names) in names {
        let class = class_of(names.iter().copied());
        let networks = names.iter().map(|name| network_hash(name));
        class_networks.extend(networks.map(|network| ClassNetwork { class, network }));
        entries.insert(cookie, Client { kind: CLIENT_CONTAINER, reserved: 0, class });
    }
    if clients.node != 0 {
        entries.insert(clients.node, Client { kind: CLIENT_NODE, ..Client::default() });
    }
    (entries, class_networks)
}

/// The class of clients on these networks, which come in the order of their names.
fn class_of<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x6c62_636c_6173_7365, 0x73);
    for name in names {
        hasher.write(name.as_bytes());
        // No name has such a byte.
        hasher.write(&[0]);
    }
    // Zero is the class of those that reach everything.
    hasher.finish().max(1)
}

fn scopes(services: &[Numbered<'_>], kernel: &KernelState) -> BTreeMap<u32, ServiceScope> {
    let wanted = services.iter().map(|it| (it.keys.service, scope(&it.service.policy)));
    let wanted: HashIndex<ServiceScope> = wanted.collect();
    // After a failure a service may have two numbers for a while.
    let held = kernel.services.iter();
    held.filter_map(|(number, hash)| Some((*number, *wanted.get(hash)?))).collect()
}

/// Who may see a service of this policy.
#[must_use]
pub fn scope(policy: &Policy) -> ServiceScope {
    let visibility = &policy.visible.value;
    let mut scope = ServiceScope::default();
    let flags = [
        (visibility.node, VISIBLE_TO_NODE),
        (visibility.containers, VISIBLE_TO_CONTAINERS),
        (!visibility.networks.is_empty(), VISIBLE_TO_NETWORKS),
    ];
    for (_, flag) in flags.into_iter().filter(|(is_set, _)| *is_set) {
        scope.flags |= flag;
    }
    if scope.flags == 0 {
        scope.flags = VISIBLE_TO_NOBODY;
    } else if policy.prefer.value == Preference::Node {
        scope.flags |= PREFERS_NODE;
    }
    for (place, name) in scope.networks[0].iter_mut().zip(&visibility.networks) {
        *place = network_hash(name);
    }
    scope
}

/// On which network each backend that somebody claims is reached. It comes with the claim: a call that is
/// led to a container over a network that it is not on would wait in vain.
fn backend_networks(services: &[Numbered<'_>], kernel: &KernelState) -> BTreeMap<u32, u64> {
    let mut by_instance: HashIndex<u64> = HashIndex::default();
    for Numbered { service, keys, .. } in services {
        let backends = service.backends.iter().zip(&keys.backends);
        // Of the others nobody asks.
        let is_local = |it: &&Backend| matches!(it.path, BackendPath::Local { .. });
        for (backend, keys) in backends.filter(|(backend, _)| is_local(backend)) {
            by_instance.insert(keys.instance, backend.network.as_deref().map_or(0, network_hash));
        }
    }
    let network = |held: &KernelBackend| match held.path {
        BackendPath::Local { .. } => by_instance.get(&held.instance_hash).copied(),
        // The number may have been a container's before, whose network would keep others from it.
        BackendPath::Routed => Some(0),
    };
    let held = kernel.backends.iter();
    held.filter_map(|(number, held)| Some((*number, network(held)?))).collect()
}

const _: () = assert!(SCOPE_NETWORKS == 4);
