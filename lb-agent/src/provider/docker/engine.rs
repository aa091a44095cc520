//! What the provider needs to know from Docker, and nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use futures_util::Stream;
use serde::{Deserialize, Serialize};

use super::signal::Signal;
use crate::{labels::ContainerPort, model::ReportedHealth};

/// A container in a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Summary {
    /// Its id.
    pub(super) id: String,
    /// Its name.
    pub(super) name: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// When it was made, in seconds since the epoch.
    pub(super) created_at_seconds: i64,
    /// Its endpoints, by name of their network: when one changes, its addresses may have.
    pub(super) endpoints: BTreeMap<String, String>,
}

/// A container that runs, by inspection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Inspected {
    /// Its name.
    pub(super) name: String,
    /// The image that it was made from, as it was named.
    pub(super) image: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Variables that begin with `SERVICE_`.
    pub(super) environment: BTreeMap<String, String>,
    /// Ports that it or its image names.
    pub(super) ports: BTreeSet<ContainerPort>,
    /// Number of its main process.
    pub(super) pid: u32,
    /// When it was made.
    pub(super) created_at_ms: u64,
    /// When this run of it started.
    pub(super) started_at_ms: u64,
    /// What its HEALTHCHECK says; `None`: it has none.
    pub(super) health: Option<ReportedHealth>,
    /// Its processes are frozen.
    pub(super) is_paused: bool,
    /// The signal that asks it to end.
    pub(super) stop_signal: Signal,
}

/// A network behind a bridge of the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct BridgeNetwork {
    /// Its name.
    pub(super) name: String,
    /// It is `internal`: closed to the outside.
    pub(super) is_internal: bool,
    /// Its containers do not reach one another.
    pub(super) is_isolated: bool,
    /// Its IPv4 addresses are hidden: nobody outside of the node can use them.
    pub(super) is_hidden_v4: bool,
    /// The same for IPv6.
    pub(super) is_hidden_v6: bool,
}

/// Something happened to a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    /// Its id.
    pub(super) container: String,
    /// Whether it has labels that concern us, where the event tells.
    pub(super) labelled: Option<bool>,
    /// What happened.
    pub(super) what: What,
}

/// What happened to a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// It was made, and does not run yet.
    Made,
    /// It was connected to the network of this name. Before its start that is all that can be seen of
    /// it; after, it is something that a look finds.
    Connected(String),
    /// Something that a look finds.
    Changed,
    /// A signal was sent to it, which changes nothing that a look would find.
    Signalled(Signalled),
    /// Its main process has ended.
    Died,
}

/// A signal was sent to a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signalled {
    /// Which.
    pub(super) signal: Signal,
    /// When, by the daemon's clock, in nanoseconds since the epoch: tells it from others, and is
    /// compared with no other time.
    pub(super) at_ns: u64,
}

/// Docker could not be asked, or gave no answer that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct EngineError(pub(super) String);

/// Docker's API.
pub(super) trait Engine: Send + Sync + 'static {
    /// Finds out whether the daemon answers, and follows what happens from now on (or from a little
    /// before). The stream ends when the daemon goes.
    fn follow(
        &self,
    ) -> impl Future<
        Output = Result<impl Stream<Item = Result<Event, EngineError>> + Send, EngineError>,
    > + Send;

    /// Lists the containers that run.
    fn list(&self) -> impl Future<Output = Result<Vec<Summary>, EngineError>> + Send;

    /// Inspects one container. `None`: it does not exist, or does not run.
    fn inspect(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<Inspected>, EngineError>> + Send;

    /// The labels of a Swarm service. None where the node is no manager, which alone knows them.
    fn service_labels(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, EngineError>> + Send;

    /// The bridge of the network of this name. `None`: it has none.
    fn bridge_of(
        &self,
        network: &str,
    ) -> impl Future<Output = Result<Option<String>, EngineError>> + Send;

    /// The network behind this bridge of the node. `None`: it is not Docker's.
    fn bridge_network(
        &self,
        bridge: &str,
    ) -> impl Future<Output = Result<Option<BridgeNetwork>, EngineError>> + Send;
}
