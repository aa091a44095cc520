//! Where a container is reached: its address, and the node's end of the wire to it.
//!
//! Docker's own word on addresses and interfaces is not used: which of several networks answers is
//! decided by the container's routes, and what the data path needs is an interface of the node, of
//! which Docker says nothing.

use std::{collections::BTreeMap, io, net::IpAddr};

use super::{
    link::{
        Address, DefaultRoute, Family, Link, addresses, default_routes, link_at, links,
        namespace_number,
    },
    namespace::Namespace,
    process::Process,
    socket::RouteSocket,
};

/// Where a container is reached: by IPv4, IPv6 or both, which may be different networks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerNetwork {
    /// Its IPv4 way in; where it has none, that of IPv6.
    pub first: ContainerWay,
    /// Its IPv6 way in, beside one of IPv4.
    pub second: Option<ContainerWay>,
}

/// One address of a container, and the node's end of the wire to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerWay {
    /// Its address on the interface of its default route.
    pub address: IpAddr,
    /// Name of that interface in the container, for messages.
    pub interface: String,
    /// Index, on the node, of the veth whose other end that interface is.
    pub ifindex: u32,
    /// Name of that veth, for messages.
    pub host_interface: String,
    /// Name of the bridge that the veth is a port of, if it is: it tells which network it is.
    pub bridge: Option<String>,
}

/// Why a container cannot be served. Nothing but a change of the container cures it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkRefusal {
    /// It shares the node's namespace.
    #[error(
        "the container uses the network of the host (`network_mode: host`), where its traffic \
         cannot be told from the node's own; put it on a bridge network"
    )]
    HostNetwork,
    /// It has loopback only.
    #[error("the container has no network (`network_mode: none`); put it on a bridge network")]
    NoNetwork,
    /// Replies could not leave.
    #[error(
        "the container has no default route, so its replies could not leave it: all its networks \
         are `internal`; connect it to a bridge network as well"
    )]
    NoDefaultRoute,
    /// macvlan, macvtap, ipvlan, ipvtap: no end on the node.
    #[error(
        "the container's default route leaves by `{interface}`, which is {article} `{kind}` \
         interface: it has no end on this node where packets could be handed over; put the \
         container on a bridge network"
    )]
    SharedInterface {
        /// Name in the container.
        interface: String,
        /// `a` or `an`.
        article: &'static str,
        /// The driver's kind.
        kind: String,
    },
    /// Something else than a veth.
    #[error(
        "the container's default route leaves by `{interface}`, which is {what} and not a veth; \
         only containers on bridge networks can be served"
    )]
    NotVeth {
        /// Name in the container.
        interface: String,
        /// What it is.
        what: String,
    },
    /// The other end of the veth is not in the agent's namespace.
    #[error(
        "the other end of the container's interface `{interface}` is not in this node's network \
         namespace: it belongs to another one, as that of an overlay network; connect the \
         container to a bridge network as well, or run the agent in the network namespace of the \
         host"
    )]
    PeerElsewhere {
        /// Name in the container.
        interface: String,
    },
    /// The interface of the default route has no address.
    #[error("the container's interface `{interface}` has a default route and no address")]
    NoAddress {
        /// Name in the container.
        interface: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is one, and it is no.
    #[error(transparent)]
    Refused(#[from] NetworkRefusal),
    /// The process ended before the answer was complete.
    #[error("process {pid} is gone")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// The kernel could not be asked; asking again may help.
    #[error("cannot read the network of process {pid}: {action}")]
    Failed {
        /// Its number.
        pid: u32,
        /// What was tried.
        action: &'static str,
        /// What came of it.
        #[source]
        source: io::Error,
    },
}

/// Looks into the network namespace of a container's main process and finds the node's end of it.
///
/// Blocks for some hundred microseconds. The caller must be in the node's network namespace.
pub fn container_network(process: &Process) -> Result<ContainerNetwork, NetworkError> {
    let found = look(process);
    // Whatever was read of a process that has ended since may be another's.
    if process.is_alive() { found } else { Err(NetworkError::Gone { pid: process.pid() }) }
}

fn look(process: &Process) -> Result<ContainerNetwork, NetworkError> {
    let failed = |action| move |source| NetworkError::Failed { pid: process.pid(), action, source };
    let node = Namespace::own().map_err(failed("open the node's namespace"))?;
    let container = Namespace::of(process).map_err(failed("open its namespace"))?;
    if container.is_same(&node).map_err(failed("compare namespaces"))? {
        return Err(NetworkRefusal::HostNetwork.into());
    }

    let mut inside = RouteSocket::open_in(&container).map_err(failed("enter its namespace"))?;
    let links = links(&mut inside).map_err(failed("list its links"))?;
    let exits = [Family::V4, Family::V6].map(|family| {
        let routes = default_routes(&mut inside, family).map_err(failed("list its routes"))?;
        let addresses = addresses(&mut inside, family).map_err(failed("list its addresses"))?;
        Ok::<_, NetworkError>(choose_exit(&routes, &links, &addresses)?)
    });
    drop(inside);

    let mut outside = RouteSocket::open().map_err(failed("open a socket on the node"))?;
    let number = namespace_number(&mut outside, &container)
        .map_err(failed("ask for the number of its namespace"))?;
    let [v4, v6] = exits.map(|exit| {
        let exit = exit?;
        let host = link_at(&mut outside, exit.peer_index).map_err(failed("find its veth"))?;
        let host = check_host_end(&exit, host, number)?;
        let bridge = match host.bridge_index {
            Some(index) => link_at(&mut outside, index).map_err(failed("find its bridge"))?,
            None => None,
        };
        Ok(ContainerWay {
            address: exit.address,
            interface: exit.interface,
            ifindex: host.index,
            host_interface: host.name,
            bridge: bridge.map(|bridge| bridge.name),
        })
    });
    join_ways(v4, v6)
}

/// Either family is enough. Of two refusals that of IPv4 is told, which most containers have; what
/// failed is asked again.
fn join_ways(
    v4: Result<ContainerWay, NetworkError>,
    v6: Result<ContainerWay, NetworkError>,
) -> Result<ContainerNetwork, NetworkError> {
    match (v4, v6) {
        (Err(error @ (NetworkError::Failed { .. } | NetworkError::Gone { .. })), _)
        | (_, Err(error @ (NetworkError::Failed { .. } | NetworkError::Gone { .. })))
        | (Err(error), Err(_)) => Err(error),
        (Ok(first), second) => Ok(ContainerNetwork { first, second: second.ok() }),
        (Err(_), Ok(first)) => Ok(ContainerNetwork { first, second: None }),
    }
}

/// The container's own end.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Exit {
    interface: String,
    index: u32,
    peer_index: u32,
    address: IpAddr,
}

/// Chooses the interface that replies leave by.
fn choose_exit(
    routes: &[DefaultRoute],
    links: &BTreeMap<u32, Link>,
    addresses: &[Address],
) -> Result<Exit, NetworkRefusal> {
    let is_loopback = |link: &&Link| link.name == "lo";
    let Some(route) = routes.first() else {
        let only_loopback = links.values().all(|link| is_loopback(&link));
        return Err(if only_loopback {
            NetworkRefusal::NoNetwork
        } else {
            NetworkRefusal::NoDefaultRoute
        });
    };
    // A route whose link is unknown: the link went between the two questions, and the route with it.
    let link = links.get(&route.interface).ok_or(NetworkRefusal::NoDefaultRoute)?;
    let interface = link.name.clone();
    match link.kind.as_deref() {
        Some("veth") => {}
        Some(kind @ ("macvlan" | "macvtap")) => {
            return Err(NetworkRefusal::SharedInterface {
                interface,
                article: "a",
                kind: kind.to_owned(),
            });
        }
        Some(kind @ ("ipvlan" | "ipvtap")) => {
            return Err(NetworkRefusal::SharedInterface {
                interface,
                article: "an",
                kind: kind.to_owned(),
            });
        }
        Some(kind) => {
            let what = format!("an interface of kind `{kind}`");
            return Err(NetworkRefusal::NotVeth { interface, what });
        }
        None => {
            let what = "a device of its own".to_owned();
            return Err(NetworkRefusal::NotVeth { interface, what });
        }
    }
    let address = route
        .source
        .or_else(|| {
            addresses
                .iter()
                .find(|address| address.interface == link.index)
                .map(|address| address.address)
        })
        .ok_or_else(|| NetworkRefusal::NoAddress { interface: interface.clone() })?;
    let peer_index = link
        .peer_index
        .ok_or_else(|| NetworkRefusal::PeerElsewhere { interface: interface.clone() })?;
    Ok(Exit { interface, index: link.index, peer_index, address })
}

/// Checks that the node's link with the peer's index is the other end and not a link that only has
/// the same index: it must be a veth that points back, into the very namespace.
fn check_host_end(
    exit: &Exit,
    host: Option<Link>,
    container_number: Option<i32>,
) -> Result<Link, NetworkRefusal> {
    host.filter(|host| {
        host.kind.as_deref() == Some("veth")
            && host.peer_index == Some(exit.index)
            && host.peer_namespace.is_some()
            && host.peer_namespace == container_number
    })
    .ok_or_else(|| NetworkRefusal::PeerElsewhere { interface: exit.interface.clone() })
}

#[cfg(test)]
mod tests;
