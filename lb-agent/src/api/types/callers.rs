//! Who calls from this node, and what it cannot reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::model::ServiceName;

/// Answer of [`super::paths::CALLERS`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CallerList {
    /// Whether the node's own processes are told from those of its containers.
    pub is_node_known: bool,
    /// Whether these are all containers.
    pub is_complete: bool,
    /// Containers of this node, ordered by name.
    pub callers: Vec<CallerView>,
    /// Networks whose containers do not reach one another (`icc=false`), by name.
    #[serde(default)]
    pub isolated: Vec<String>,
    /// Services that some of them do not reach.
    #[serde(default)]
    pub unreached: Vec<UnreachedView>,
}

/// A container of this node, as one who calls.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CallerView {
    /// Its name.
    pub name: String,
    /// Number of its main process.
    pub pid: u32,
    /// Whether the programs can tell its calls from others'.
    pub is_known: bool,
    /// Whether it is on the node's own network.
    pub is_node: bool,
    /// Its networks, and the addresses that it has there.
    pub networks: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// A service that some callers do not reach.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreachedView {
    /// Its name.
    pub service: ServiceName,
    /// Callers that it is not visible to.
    pub not_visible: Vec<String>,
    /// Callers that see it and are on none of its backends' networks.
    pub other_network: Vec<String>,
}

/// The responder of names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NamesView {
    /// Where it listens, or should.
    pub servers: Vec<NameServerView>,
    /// Who has asked, the latest; at most 1,024.
    pub askers: BTreeSet<IpAddr>,
}

/// One address of the responder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameServerView {
    /// The address.
    pub address: SocketAddr,
    /// Why it does not listen there.
    pub trouble: Option<String>,
}

/// Answer of [`super::paths::PROGRAMS`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProgramList {
    /// Programs of XDP and TC in the node's network namespace, those of an interface in the order in
    /// which they run.
    pub programs: Vec<ProgramView>,
    /// Why they cannot be listed.
    pub trouble: Option<String>,
}

/// A program on an interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgramView {
    /// The interface.
    pub interface: String,
    /// `xdp`, `tcx ingress`, `tcx egress`, `tc ingress`, `tc egress`.
    pub hook: String,
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Whether it is one of ours.
    pub is_ours: bool,
}
