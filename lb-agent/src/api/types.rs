//! What the API says, as plain data shared by the agent and `lbctl`.
//!
//! Fields may be added within a version of the API; a field never changes its meaning or its type.
//! Owns no behaviour beyond the arithmetic of shares and states.

mod callers;
mod expectations;
mod status;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::model::{
    BackendPath, BackendState, FrontendAddress, Origin, Policy, Ports, Protocol, ServiceName,
    Setting,
};

pub use self::{callers::*, expectations::*, status::*};

/// Where the socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lb-agent/api.sock";

/// Paths of the API; the version is part of each.
pub mod paths {
    /// [`super::VipList`].
    pub const VIPS: &str = "/v1/vips";
    /// [`super::ServiceList`].
    pub const SERVICES: &str = "/v1/services";
    /// [`super::ServiceDetail`] of `?name=NAME`.
    pub const SERVICE: &str = "/v1/service";
    /// [`super::BackendList`]; `?service=NAME` narrows it.
    pub const BACKENDS: &str = "/v1/backends";
    /// [`super::DropList`].
    pub const DROPS: &str = "/v1/drops";
    /// [`super::StatusView`].
    pub const STATUS: &str = "/v1/status";
    /// [`super::CallerList`].
    pub const CALLERS: &str = "/v1/callers";
    /// [`super::ProgramList`].
    pub const PROGRAMS: &str = "/v1/programs";
    /// [`crate::api::explain::Explanation`] of a [`crate::api::explain::ExplainQuery`].
    pub const EXPLAIN: &str = "/v1/explain";
    /// [`crate::api::explain::CallExplanation`] of a [`crate::api::explain::CallQuery`].
    pub const EXPLAIN_CALL: &str = "/v1/explain_call";
    /// A stream of [`crate::api::trace::TraceLine`]; [`crate::api::trace::TraceQuery`] narrows it.
    pub const TRACE: &str = "/v1/trace";
}

/// Everything that the agent shows, taken at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// Virtual addresses, ordered.
    pub vips: Vec<VipView>,
    /// Services, ordered by name.
    pub services: Vec<ServiceView>,
    /// How services are balanced.
    pub policies: BTreeMap<ServiceName, Arc<Policy>>,
    /// Backends, ordered by service and place.
    pub backends: Vec<BackendView>,
    /// The agent itself.
    pub status: StatusView,
    /// Who wants what another has.
    #[serde(default)]
    pub conflicts: Vec<super::events::ConflictView>,
    /// Who calls from this node.
    #[serde(default)]
    pub callers: Arc<CallerList>,
    /// Whether it shows all services that there are to be; false: a provider has not told everything.
    #[serde(default)]
    pub is_complete: bool,
}

/// Answer of [`paths::VIPS`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VipList {
    /// Virtual addresses, ordered.
    pub vips: Vec<VipView>,
}

/// Answer of [`paths::SERVICES`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceList {
    /// Services, ordered by name.
    pub services: Vec<ServiceView>,
}

/// Answer of [`paths::SERVICE`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceDetail {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceView,
    /// How it is balanced: every setting, in a fixed order.
    pub settings: Vec<SettingView>,
    /// What its `depends` names, in the order in which it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<DependencyView>,
    /// Its backends, ordered by place.
    pub members: Vec<BackendView>,
}

/// One setting of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SettingView {
    /// Its name.
    pub name: String,
    /// Its value, for people.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Answer of [`paths::BACKENDS`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendList {
    /// Backends, ordered by service and place.
    pub backends: Vec<BackendView>,
}

/// Answer of [`paths::DROPS`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropList {
    /// Every reason, in order of its number.
    pub drops: Vec<DropReasonView>,
}

/// Answer to a request that could not be served.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was wrong, and what to do.
    pub error: String,
}

/// How well something is served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServingState {
    /// Every backend takes new flows.
    Serving,
    /// Some backends take new flows.
    Degraded,
    /// Nearly all backends fail their probes: those that live take new flows all the same.
    Panic,
    /// No backend takes new flows.
    Down,
    /// Nothing asks to be served here.
    Idle,
}

/// One virtual address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VipView {
    /// The address.
    pub vip: IpAddr,
    /// Balancers of the configuration that have this address, ordered by name.
    pub balancers: Vec<String>,
    /// Names that have this address for themselves, ordered.
    #[serde(default)]
    pub names: Vec<String>,
    /// Where it is served, and by which service.
    pub frontends: Vec<VipFrontendView>,
    /// Services behind it, ordered.
    pub services: Vec<ServiceName>,
    /// Backends of these services.
    pub backends: BackendCountsView,
    /// The worst state of its services.
    pub state: ServingState,
}

/// One frontend of a virtual address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VipFrontendView {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports.
    #[serde(rename = "port")]
    pub ports: Ports,
    /// The service that answers.
    pub service: ServiceName,
    /// How well that service is served.
    pub state: ServingState,
}

/// Backends by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackendCountsView {
    /// Not known to be healthy yet.
    pub starting: u32,
    /// Taking new flows.
    pub healthy: u32,
    /// Failing their probe.
    pub unhealthy: u32,
    /// Leaving.
    pub draining: u32,
    /// Taken out by an operator.
    pub disabled: u32,
    /// Out of time to drain, or to pass its probe again.
    #[serde(default)]
    pub gone: u32,
}

/// One service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// Where clients connect.
    pub frontends: Vec<FrontendAddress>,
    /// Its transport protocols.
    pub protocols: Vec<Protocol>,
    /// Slots of its ring; `None` while the kernel holds no ring for it.
    pub ring_size: Option<u32>,
    /// How many replicas its labels expect, and how many are there; `None`: they say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicasView>,
    /// Its backends by state.
    pub backends: BackendCountsView,
    /// How well it is served.
    pub state: ServingState,
    /// Providers that asked for it, comma separated: `docker`, `file`.
    pub source: String,
    /// What the data path counted for the backends that it has now.
    #[serde(default)]
    pub counters: BackendCountersView,
    /// Connections of those of its backends whose connections are counted; `None`: of none.
    #[serde(default)]
    pub connections: Option<u64>,
}

/// One backend of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its number in the data path; `None` while the kernel does not hold it.
    pub number: Option<u32>,
    /// The service it belongs to.
    pub service: ServiceName,
    /// The replica's identity within the service.
    pub place: String,
    /// For people: a container's name, or the address.
    pub display_name: String,
    /// Address and port that traffic is translated to.
    pub address: SocketAddr,
    /// How it is reached.
    #[serde(flatten)]
    pub path: BackendPath,
    /// Share of new flows that it is given, relative to the others.
    pub weight: u16,
    /// Where the weight that was asked for comes from.
    #[serde(default)]
    pub weight_origin: Origin,
    /// Whether it wants all new flows for itself while it takes any, and who said so.
    #[serde(default)]
    pub exclusive: Setting<bool>,
    /// Such a one takes the new flows that this one would get.
    #[serde(default)]
    pub yields: bool,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Why it is in this state, where that is not what its probes found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// What operators want of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<super::steer::SteeringView>,
    /// What its probes found; `None`: it is not probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeView>,
    /// Share of the ring's slots that it holds, in percent.
    pub share_percent: f64,
    /// By what its replies are translated; `None` while the kernel does not hold it.
    pub replies: Option<RepliesView>,
    /// What the data path counted for it.
    pub counters: BackendCountersView,
    /// Established connections; `None` where they are not counted, or not yet.
    #[serde(default)]
    pub connections: Option<u64>,
    /// What asked for it: a container and its label, an entry of the config file.
    pub source: String,
}

/// What the probes of one backend found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ProbeView {
    /// Successes.
    pub passed: u64,
    /// Failures.
    pub failed: u64,
    /// Probes that could not be made, for reasons that are not the backend's.
    pub inconclusive: u64,
    /// What the latest one said.
    pub latest: String,
    /// Mean duration of those that passed or failed, in milliseconds.
    pub mean_ms: f64,
    /// Times that they changed the backend's state.
    pub changes: u64,
}

/// By what the replies of a backend are translated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum RepliesView {
    /// By the default of its port: nothing is recorded for their sake.
    Fixed,
    /// By a record for each flow.
    Recorded {
        /// Why there is no default.
        reason: String,
    },
}

/// What the data path counted for one backend since its number was given to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackendCountersView {
    /// Packets forwarded to the backend. A GSO packet counts once.
    pub packets_in: u64,
    /// Bytes forwarded to the backend.
    pub bytes_in: u64,
    /// Packets translated on their way to clients.
    pub packets_out: u64,
    /// Bytes translated on their way to clients.
    pub bytes_out: u64,
    /// Flows given to the backend.
    pub flows: u64,
    /// Connections that it refused.
    #[serde(default)]
    pub refusals: u64,
}

impl BackendCountersView {
    /// Counts all that the other has counted.
    pub fn merge(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.flows += other.flows;
    }
}

impl View {
    /// Everything about one service; `None`: there is none of this name.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<ServiceDetail> {
        let service = self.services.iter().find(|service| *service.name.0 == *name)?.clone();
        let rows = self.policies.get(&service.name).map_or_else(Vec::new, |policy| policy.rows());
        let settings = rows.into_iter().map(|row| SettingView {
            name: row.name.to_owned(),
            value: row.value,
            origin: row.origin,
        });
        let members = self.backends.iter().filter(|backend| backend.service == service.name);
        Some(ServiceDetail {
            settings: settings.collect(),
            dependencies: self.dependencies(&service.name),
            members: members.cloned().collect(),
            service,
        })
    }
}

impl BackendCountsView {
    /// Counts one backend.
    pub fn add(&mut self, state: BackendState) {
        *match state {
            BackendState::Starting => &mut self.starting,
            BackendState::Healthy => &mut self.healthy,
            BackendState::Unhealthy => &mut self.unhealthy,
            BackendState::Draining => &mut self.draining,
            BackendState::Disabled => &mut self.disabled,
            BackendState::Gone => &mut self.gone,
        } += 1;
    }

    /// Counts all backends of another count.
    pub fn merge(&mut self, other: Self) {
        self.starting += other.starting;
        self.healthy += other.healthy;
        self.unhealthy += other.unhealthy;
        self.draining += other.draining;
        self.disabled += other.disabled;
        self.gone += other.gone;
    }

    /// All backends.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.starting + self.healthy + self.unhealthy + self.draining + self.disabled + self.gone
    }

    /// How well a service with these backends is served.
    #[must_use]
    pub fn serving(&self) -> ServingState {
        match self.healthy {
            0 => ServingState::Down,
            healthy if healthy == self.total() => ServingState::Serving,
            _ => ServingState::Degraded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(states: &[BackendState], expected: ServingState) {
        let mut counts = BackendCountsView::default();
        for state in states {
            counts.add(*state);
        }
        assert_eq!(counts.serving(), expected, "{states:?}");
        assert_eq!(counts.total() as usize, states.len());
    }

    #[test]
    fn service_is_as_good_as_its_backends() {
        use BackendState::{Disabled, Draining, Healthy, Starting, Unhealthy};
        check(&[], ServingState::Down);
        check(&[Healthy, Healthy], ServingState::Serving);
        check(&[Healthy, Draining], ServingState::Degraded);
        check(&[Healthy, Starting, Disabled], ServingState::Degraded);
        check(&[Unhealthy, Draining], ServingState::Down);
    }
}
