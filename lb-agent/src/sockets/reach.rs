//! Which callers reach which services, by the words of the programs themselves. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    abi::{CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, Client, VISIBLE_TO_NOBODY},
    socket::{Membership, class_of, is_reached, sees},
};

use super::{class_of as class_on, network_hash, reach_name, scope};
use crate::{
    api::types::{CallerList, CallerView, UnreachedView, View},
    model::BackendPath,
};

/// The callers of a view, and the services that some of them do not reach. Of callers that are not
/// known, and of services that nobody is to see, nothing is said.
#[must_use]
pub fn callers(view: &View) -> CallerList {
    let list = CallerList::clone(&view.callers);
    let networks = networks_by_address(&list);
    let (alike, memberships) = alike(&list.callers);
    let routes_across = u32::from(view.status.sockets.routes_across);
    let mut unreached = Vec::new();
    for (name, policy) in &view.policies {
        let scope = scope(policy);
        if scope.flags & VISIBLE_TO_NOBODY != 0 {
            continue;
        }
        let members = view.backends.iter().filter(|backend| backend.service == *name);
        let backends: BTreeSet<u64> = members
            .map(|backend| match backend.path {
                BackendPath::Local { .. } => {
                    let key = (backend.display_name.as_str(), backend.address.ip());
                    networks.get(&key).copied().unwrap_or(0)
                }
                BackendPath::Routed => 0,
            })
            .collect();
        let (mut not_visible, mut other_network) = (Vec::new(), Vec::new());
        for (client, names) in &alike {
            let names = names.iter().map(|name| (*name).to_owned());
            let class = class_of(Some(client), routes_across);
            let reaches = |network: &u64| is_reached(&memberships, class, *network);
            if !sees(&memberships, &scope, Some(client)) {
                not_visible.extend(names);
            } else if !backends.is_empty() && !backends.iter().any(reaches) {
                other_network.extend(names);
            }
        }
        if !not_visible.is_empty() || !other_network.is_empty() {
            not_visible.sort();
            other_network.sort();
            unreached.push(UnreachedView { service: name.clone(), not_visible, other_network });
        }
    }
    CallerList { unreached, ..list }
}

/// The network on which a container has an address, as it counts for who reaches it.
fn networks_by_address(list: &CallerList) -> BTreeMap<(&str, IpAddr), u64> {
    let mut networks = BTreeMap::new();
    for caller in &list.callers {
        for (network, addresses) in &caller.networks {
            let hash = network_hash(&reach_name(network, list.isolated.contains(network)));
            let of = addresses.iter().map(|address| ((caller.name.as_str(), *address), hash));
            networks.extend(of);
        }
    }
    networks
}

/// Classes of clients and their networks.
#[derive(Default)]
struct Memberships(BTreeSet<ClassNetwork>);

impl Membership for Memberships {
    fn is_on(&self, class: u64, network: u64) -> bool {
        self.0.contains(&ClassNetwork { class, network })
    }
}

/// Callers on the same networks are one to the programs.
fn alike(callers: &[CallerView]) -> (Vec<(Client, Vec<&str>)>, Memberships) {
    let mut alike: BTreeMap<(bool, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for caller in callers.iter().filter(|caller| caller.is_known) {
        let networks = caller.networks.keys().map(String::as_str).collect();
        alike.entry((caller.is_node, networks)).or_default().push(&caller.name);
    }
    let mut memberships = Memberships::default();
    let mut client = |(is_node, networks): (bool, Vec<&str>)| {
        if is_node {
            return Client { kind: CLIENT_NODE, ..Client::default() };
        }
        let class = class_on(networks.iter().copied());
        let networks = networks.iter().map(|name| network_hash(name));
        memberships.0.extend(networks.map(|network| ClassNetwork { class, network }));
        Client { kind: CLIENT_CONTAINER, reserved: 0, class }
    };
    let clients = alike.into_iter().map(|(key, names)| (client(key), names)).collect();
    (clients, memberships)
}
