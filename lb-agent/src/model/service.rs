//! Services, frontends and backends as the node should have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Conflict, Policy, Ports, ReportedHealth};

/// A transport protocol that can be balanced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, also for HTTP and HTTPS, which pass through untouched.
    Tcp,
    /// UDP.
    Udp,
}

/// Where clients connect, on the node's front interfaces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FrontendAddress {
    /// The virtual address.
    pub vip: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports.
    #[serde(rename = "port")]
    pub ports: Ports,
}

/// The port that every frontend leads to that a backend at `address` is behind: that is its port, if it
/// has none of its own.
pub fn only_port<'a>(
    frontends: impl IntoIterator<Item = &'a FrontendAddress>,
    address: IpAddr,
) -> Option<u16> {
    let mut ports = frontends
        .into_iter()
        .filter(|frontend| frontend.vip.is_ipv4() == address.is_ipv4())
        .map(|frontend| frontend.ports);
    let first = ports.next().filter(|ports| !ports.is_wide())?;
    ports.all(|ports| ports == first).then(|| first.first())
}

/// Name of a service, unique on the node: `compose/PROJECT/SERVICE:PORT`, `swarm/SERVICE:PORT`,
/// `docker/IMAGE:PORT@VIP:PORT`, `registrator/NAME`, `share/NAME@FRONTEND`, `file/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceName(pub Arc<str>);

impl ServiceName {
    /// Of those that share a frontend by a name; `at` is the frontend, or the name that it is of.
    pub fn shared(share: &str, at: &impl fmt::Display) -> Self {
        Self(format!("share/{share}@{at}").into())
    }
}

/// How the data path reaches a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "path")]
pub enum BackendPath {
    /// A container on this node, behind the host-side veth with this interface index.
    Local {
        /// Interface index in the node's network namespace.
        ifindex: u32,
    },
    /// By the node's routing table; its replies come back through this node.
    Routed,
}

/// State of a backend, as in the design's glossary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Not known to be healthy yet: takes no flows.
    Starting,
    /// Takes new flows and keeps its own.
    Healthy,
    /// Fails its probe but lives: keeps its flows, takes no new ones.
    Unhealthy,
    /// Asked to leave: keeps its flows, takes no new ones.
    Draining,
    /// Taken out by an operator: takes and keeps nothing.
    Disabled,
    /// Its time is over, to drain or to fail: takes and keeps nothing.
    Gone,
}

impl BackendState {
    /// Whether new flows may go to the backend.
    #[must_use]
    pub fn takes_new(self) -> bool {
        self == Self::Healthy
    }

    /// Whether the backend keeps the flows that it has.
    #[must_use]
    pub fn takes_old(self) -> bool {
        matches!(self, Self::Healthy | Self::Unhealthy | Self::Draining)
    }

    /// Whether the backend keeps its flows of UDP. A datagram needs no connection, so one that its
    /// backend does not answer is better off elsewhere.
    #[must_use]
    pub fn takes_old_datagrams(self) -> bool {
        matches!(self, Self::Healthy | Self::Draining)
    }
}

/// How clients reach a backend's port: whether what it sends from there is for us to translate.
/// What stands later is more open, or less known.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum WaysIn {
    /// Through us, or from the node and its containers.
    OnlyOurs,
    /// Docker publishes the port.
    Published,
    /// Its network is routed, or its address global: clients can use it as it is.
    Direct,
    /// Nobody can say.
    #[default]
    Unknown,
}

/// What is known of a backend's port as a source of replies.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ReplyFacts {
    /// How clients reach it.
    pub ways_in: WaysIn,
    /// Datagrams leave the port as answers only: the backend never speaks first from it.
    pub only_answers: bool,
}

/// One backend of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// The replica's identity within its service (`3` for Compose container number or Swarm slot 3,
    /// a container's first name, an address): decides the place in the ring. A replacement inherits it.
    pub place: String,
    /// What tells this instance from its predecessor at the same place: container id and start time
    /// for containers, empty for static backends. Two backends of one place differ in it.
    pub instance: String,
    /// For people: a container's name, or the address.
    pub display_name: String,
    /// Address and port that traffic is translated to; port 0 is the port that the client asked for.
    pub address: SocketAddr,
    /// Share of new flows, relative to the other backends; 0 takes none.
    pub weight: u16,
    /// How it is reached.
    pub path: BackendPath,
    /// Of a container, the network that gave it its address, as it counts for who reaches it
    /// ([`crate::sockets::reach_name`]); `None`: whoever is led there reaches it.
    #[serde(default)]
    pub network: Option<Arc<str>>,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Order in which instances of one place came: of several, the greatest holds the place.
    /// Milliseconds since the epoch for containers, 0 for static backends.
    pub started_at_ms: u64,
    /// What its provider says of its health, for probes that rely on that.
    #[serde(default)]
    pub reported: Option<ReportedHealth>,
    /// The latest request of its provider to leave: tells it from earlier and later ones, and is no
    /// more than a name.
    #[serde(default)]
    pub asked_to_end: Option<u64>,
    /// Its port as a source of replies.
    #[serde(default)]
    pub replies: ReplyFacts,
}

/// A named set of backends, served at one or more frontends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Where clients connect.
    pub frontends: BTreeSet<FrontendAddress>,
    /// Its backends, ordered by (place, instance).
    pub backends: Vec<Backend>,
    /// How it is balanced.
    pub policy: Arc<Policy>,
    /// Place and instance of the backends that want the new flows for themselves.
    pub exclusive: BTreeSet<(String, String)>,
}

impl Service {
    /// Whether a backend wants the new flows for itself.
    #[must_use]
    pub fn is_exclusive(&self, backend: &Backend) -> bool {
        // Hardly any service has such backends; their names are made for those that do.
        !self.exclusive.is_empty()
            && self.exclusive.contains(&(backend.place.clone(), backend.instance.clone()))
    }

    /// Ring slots asked for; `None`: chosen when the service is made.
    #[must_use]
    pub fn ring_size(&self) -> Option<u32> {
        self.policy.ring_size.value
    }
}

/// All services that the node should have, arbitrated.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Services by name. Those that are as they were are shared with the snapshot before.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// Names that have a virtual address of their own.
    pub names: BTreeMap<String, IpAddr>,
    /// What services want and others have, ordered.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
}

impl fmt::Display for WaysIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OnlyOurs => "only ours",
            Self::Published => "published by Docker",
            Self::Direct => "its network is routed",
            Self::Unknown => "other ways in are not known",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for FrontendAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(vip) => write!(formatter, "{}://{vip}:{}", self.protocol, self.ports),
            IpAddr::V6(vip) => write!(formatter, "{}://[{vip}]:{}", self.protocol, self.ports),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Gone => "gone",
        })
    }
}
