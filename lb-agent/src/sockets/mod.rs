//! East-west: what the programs of socket calls have to know of this node's own clients.
//!
//! Pure: from the snapshot, the numbers that the plan has given, and the containers that were seen
//! follows what the tables are to hold ([`wanted`]). Owns as well the end of sockets whose backend is
//! gone ([`reaper`]). Which backend a call gets is decided in the kernel, by [`lb_common::socket`].

pub mod reach;
pub mod reaper;
mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    net::IpAddr,
};

use lb_common::abi::{
    CLIENT_CONTAINER, CLIENT_NETWORKS, CLIENT_NODE, Client, PREFERS_NODE, SCOPE_NETWORKS,
    ServiceScope, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS, VISIBLE_TO_NODE,
};
use siphasher::sip::SipHasher24;

pub use self::registry::{Known, Registry};
use crate::{
    api::types::{CallerList, CallerView},
    model::{BackendPath, IpPrefix, Policy, Preference, Snapshot},
    plan::{self, HashIndex, KernelBackend, KernelState},
};

/// What the tables of socket calls hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketTables {
    /// By cookie of the network namespace.
    pub clients: BTreeMap<u64, Client>,
    /// By number of the service.
    pub scopes: BTreeMap<u32, ServiceScope>,
    /// By number of the backend: its network.
    pub networks: BTreeMap<u32, u64>,
    /// Virtual addresses whose packets from this node, of which no call has told, do not arrive.
    pub unseen: BTreeSet<IpAddr>,
    /// Clients and networks that are not named here stay as they are.
    pub is_partial: bool,
}

/// Containers of this node as clients, and the node itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clients {
    /// Cookie of the node's own namespace; 0: not known.
    pub node: u64,
    /// By container id.
    pub containers: BTreeMap<String, ContainerClient>,
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
    pub networks: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Clients {
    /// For people.
    #[must_use]
    pub fn view(&self) -> CallerList {
        let caller = |container: &ContainerClient| CallerView {
            name: container.name.clone(),
            pid: container.pid,
            is_known: container.cookie != 0,
            is_node: container.cookie != 0 && container.cookie == self.node,
            networks: container.networks.clone(),
        };
        let mut callers: Vec<_> = self.containers.values().map(caller).collect();
        callers.sort_by(|one, other| one.name.cmp(&other.name));
        CallerList {
            is_node_known: self.node != 0,
            is_complete: !self.is_partial,
            callers,
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

/// What the tables are to hold. Without clients nothing has been seen yet.
#[must_use]
pub fn wanted(
    snapshot: &Snapshot,
    kernel: &KernelState,
    clients: Option<&Clients>,
) -> SocketTables {
    let nobody = Clients { is_partial: true, ..Clients::default() };
    let clients = clients.unwrap_or(&nobody);
    SocketTables {
        is_partial: clients.is_partial,
        clients: client_entries(clients),
        scopes: scopes(snapshot, kernel),
        networks: backend_networks(snapshot, kernel, clients),
        unseen: BTreeSet::new(),
    }
}

/// Virtual addresses to which packets without a call lead nowhere: those whose services all are for
/// this node's clients, since the calls of the others go wherever the address leads. `local`: addresses
/// of the node and of its containers stay what they are.
#[must_use]
pub fn unseen(snapshot: &Snapshot, local: &BTreeSet<IpPrefix>) -> BTreeSet<IpAddr> {
    let (mut vips, mut others) = (BTreeSet::new(), BTreeSet::new());
    for service in snapshot.services.values() {
        let is_for_us = scope(&service.policy).flags != 0;
        let set = if is_for_us { &mut vips } else { &mut others };
        set.extend(service.frontends.iter().map(|frontend| frontend.vip));
    }
    let is_somebodys = |vip: &IpAddr| {
        vip.is_loopback()
            || local.iter().any(|prefix| IpPrefix::of(*vip, prefix.length()) == *prefix)
    };
    vips.retain(|vip| !others.contains(vip) && !is_somebodys(vip));
    vips
}

/// Containers that share a namespace are on the same networks, of which Docker names those of one.
fn client_entries(clients: &Clients) -> BTreeMap<u64, Client> {
    let mut names: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for container in clients.containers.values().filter(|it| it.cookie != 0) {
        let names = names.entry(container.cookie).or_default();
        names.extend(container.networks.keys().map(String::as_str));
    }
    let mut entries: BTreeMap<u64, Client> =
        names.into_iter().map(|(cookie, names)| (cookie, client_on(names))).collect();
    if clients.node != 0 {
        // Containers on the host's network are the node to everybody.
        entries.insert(clients.node, Client { kind: CLIENT_NODE, ..Client::default() });
    }
    entries
}

/// A container on these networks.
fn client_on<'a>(names: impl IntoIterator<Item = &'a str>) -> Client {
    let mut client = Client { kind: CLIENT_CONTAINER, ..Client::default() };
    for (place, hash) in client.networks.iter_mut().zip(names.into_iter().map(network_hash)) {
        *place = hash;
    }
    client
}

fn scopes(snapshot: &Snapshot, kernel: &KernelState) -> BTreeMap<u32, ServiceScope> {
    let numbers: HashIndex<u32> = kernel.services.iter().map(|(it, hash)| (*hash, *it)).collect();
    let seen = snapshot.services.values().filter_map(|service| {
        // Most are for clients from outside.
        let scope = Some(scope(&service.policy)).filter(|scope| scope.flags != 0)?;
        Some((*numbers.get(&plan::service_hash(&service.name))?, scope))
    });
    seen.collect()
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
    if scope.flags != 0 && policy.prefer.value == Preference::Node {
        scope.flags |= PREFERS_NODE;
    }
    for (place, name) in scope.networks.iter_mut().zip(&visibility.networks) {
        *place = network_hash(name);
    }
    scope
}

/// On which network each backend that is a container is reached: the one that gave it its address.
fn backend_networks(
    snapshot: &Snapshot,
    kernel: &KernelState,
    clients: &Clients,
) -> BTreeMap<u32, u64> {
    if clients.containers.is_empty() {
        return BTreeMap::new();
    }
    let mut by_instance: HashIndex<Vec<u32>> = HashIndex::default();
    let is_local = |it: &KernelBackend| matches!(it.path, BackendPath::Local { .. });
    for (number, backend) in kernel.backends.iter().filter(|(_, it)| is_local(it)) {
        by_instance.entry(backend.instance_hash).or_default().push(*number);
    }
    let mut networks = BTreeMap::new();
    for service in snapshot.services.values() {
        for backend in &service.backends {
            if !matches!(backend.path, BackendPath::Local { .. }) {
                continue;
            }
            // `ID@START`, see `provider::docker`.
            let id = backend.instance.split_once('@').map_or("", |(id, _)| id);
            let Some(container) = clients.containers.get(id) else { continue };
            let address = backend.address.ip();
            let network = container.networks.iter().find(|(_, all)| all.contains(&address));
            let Some((name, _)) = network else { continue };
            let hash = plan::instance_hash(&service.name, backend);
            for number in by_instance.get(&hash).into_iter().flatten() {
                networks.insert(*number, network_hash(name));
            }
        }
    }
    networks
}

const _: () = assert!(CLIENT_NETWORKS == 8 && SCOPE_NETWORKS == 4);
