//! What is probed, and what is known of it: the words that the runtime and the prober exchange.

use std::{net::SocketAddr, sync::Arc};

use super::tracker::Health;
use crate::{
    model::{Backend, Probe, ProbeKind, ReportedHealth, ServiceName},
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
    /// What it is called in messages.
    pub display_name: String,
    /// Where traffic goes.
    pub address: SocketAddr,
    /// [`Backend::instance`]: by it a container is found. Empty: not a container.
    pub instance: String,
    /// `None`: it is healthy until the data path reports otherwise.
    pub probe: Option<Arc<Probe>>,
    /// What its provider says of it.
    pub reported: Option<ReportedHealth>,
    /// What was known of it when it became a target.
    pub assumed: Health,
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
    /// What caused it.
    pub cause: String,
}

impl Target {
    /// A backend of a service.
    pub fn new(
        service: &ServiceName,
        backend: &Backend,
        probe: Option<&Arc<Probe>>,
        generation: u64,
        assumed: Health,
    ) -> Self {
        Self {
            key: instance_hash(service, backend),
            generation,
            display_name: format!("{service}: `{}`", backend.display_name),
            address: backend.address,
            instance: backend.instance.clone(),
            probe: probe.map(Arc::clone),
            reported: backend.reported,
            assumed: if probe.is_some() { assumed } else { Health::Healthy },
        }
    }

    /// Whether this is still what there is to know of its backend.
    pub fn is_of(&self, backend: &Backend, probe: Option<&Arc<Probe>>) -> bool {
        self.probe.as_ref() == probe && self.reported == backend.reported
    }

    /// Whether its health is what its provider reports.
    pub fn is_reported(&self) -> bool {
        matches!(self.probe.as_deref(), Some(Probe { kind: ProbeKind::Docker, .. }))
    }
}

impl Standing {
    /// Of a target that nothing has been learnt of since it became one.
    pub fn assumed(health: Health) -> Self {
        Self { health, was_healthy: health != Health::Starting, is_refusing: false }
    }
}
