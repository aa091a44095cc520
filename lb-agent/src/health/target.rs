//! What is probed, and what is known of it: the words that the runtime and the prober exchange.

use std::{net::SocketAddr, sync::Arc};

use super::tracker::Health;
use crate::{
    model::{
        Backend, BackendPath, Probe, ProbeKind, ReportedHealth, Service, ServiceName, only_port,
    },
    plan::{NameHash, instance_hash},
};

/// Names one instance of a backend in one service at one address, as the kernel's tables do.
pub type TargetKey = NameHash;

/// A backend as health sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name.
    pub key: TargetKey,
    /// Tells it from a predecessor of the same name, whose results say nothing about it.
    pub generation: u64,
    /// Whose backend it is.
    pub service: ServiceName,
    /// What it is called in messages.
    pub display_name: String,
    /// Where traffic goes. A backend of all ports that only one leads to has that; port 0: several do.
    pub address: SocketAddr,
    /// [`Backend::instance`]: by it a container is found. Empty: not a container.
    pub instance: String,
    /// `None`: it is healthy until the data path reports otherwise.
    pub probe: Option<Arc<Probe>>,
    /// What its provider says of it.
    pub reported: Option<ReportedHealth>,
    /// What was known of it when it became a target.
    pub assumed: Health,
    /// Whether failures that the data path sees count.
    pub is_watched: bool,
    /// Whether it is on another machine.
    pub is_routed: bool,
}

/// What is known of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its state.
    pub health: Health,
    /// Whether it has ever been healthy.
    pub was_healthy: bool,
    /// Whether it is unhealthy because nobody listens at its port.
    pub is_refusing: bool,
    /// Whether it is unhealthy by what the data path saw, and by nothing else.
    pub is_observed: bool,
}

/// A standing that is another one now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Whose.
    pub key: TargetKey,
    /// [`Target::generation`].
    pub generation: u64,
    /// The standing.
    pub standing: Standing,
    /// It was healthy until now, and is not: connections go where nobody answers.
    pub has_fallen: bool,
    /// What caused it.
    pub cause: String,
}

impl Target {
    /// A backend of a service.
    pub fn new(
        service: &Service,
        backend: &Backend,
        probe: Option<&Arc<Probe>>,
        generation: u64,
        assumed: Health,
    ) -> Self {
        let Service { name, policy, .. } = service;
        Self {
            key: instance_hash(name, backend),
            generation,
            service: name.clone(),
            display_name: format!("{name}: `{}`", backend.display_name),
            address: address(service, backend),
            instance: backend.instance.clone(),
            probe: probe.map(Arc::clone),
            reported: backend.reported,
            assumed: if probe.is_some() { assumed } else { Health::Healthy },
            is_watched: policy.passive.value,
            is_routed: backend.path == BackendPath::Routed,
        }
    }

    /// Whether this is still what there is to know of its backend.
    pub fn is_of(&self, service: &Service, backend: &Backend, probe: Option<&Arc<Probe>>) -> bool {
        self.probe.as_ref() == probe
            && self.reported == backend.reported
            && self.is_watched == service.policy.passive.value
            && self.address == address(service, backend)
    }

    /// Whether its health is what its provider reports.
    pub fn is_reported(&self) -> bool {
        matches!(self.probe.as_deref(), Some(Probe { kind: ProbeKind::Docker, .. }))
    }
}

fn address(service: &Service, backend: &Backend) -> SocketAddr {
    let mut address = backend.address;
    if address.port() == 0 {
        address.set_port(only_port(&service.frontends, address.ip()).unwrap_or(0));
    }
    address
}

impl Standing {
    /// Of a target that nothing has been learnt of since it became one.
    pub fn assumed(health: Health) -> Self {
        Self {
            health,
            was_healthy: health != Health::Starting,
            is_refusing: false,
            is_observed: false,
        }
    }
}
