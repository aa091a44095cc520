//! What users expect to be there, as the API says it: replicas of a service, and services that it needs.
//! Nothing that is served follows from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ServiceView, ServingState, View};
use crate::model::ServiceName;

/// What is expected of a service, and what is there of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicasView {
    /// By `scale`.
    pub expected: u32,
    /// Those that are not leaving, in whatever health.
    pub present: u32,
    /// What an update that replaces `rolling_updates` of them at a time leaves; `None`: nothing is said of
    /// updates, and all are expected at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u32>,
}

/// How the replicas that are there compare with those that are expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completeness {
    /// All of them, or more.
    Whole,
    /// As few as a rolling update leaves, if one is under way.
    Updating,
    /// Fewer than that.
    Short,
    /// None at all, which no update is to leave.
    Absent,
}

impl ReplicasView {
    /// How many there are, compared with what is expected.
    #[must_use]
    pub fn completeness(&self) -> Completeness {
        match self.present {
            present if present >= self.expected => Completeness::Whole,
            0 => Completeness::Absent,
            present if self.minimum.is_some_and(|minimum| present >= minimum) => {
                Completeness::Updating
            }
            _ => Completeness::Short,
        }
    }
}

/// A service that another one depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DependencyView {
    /// As it is named.
    pub name: String,
    /// The services that are meant, one for each port; none: nothing is known here of one that is called so
    /// beside it. It may be absent, have no frontend, or share the name of others.
    pub services: Vec<DependencyState>,
}

/// How such a service is at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DependencyState {
    /// Its name.
    pub name: ServiceName,
    /// How well it is served.
    pub state: ServingState,
}

impl View {
    /// What a service depends on, and what is there of that.
    pub(super) fn dependencies(&self, service: &ServiceName) -> Vec<DependencyView> {
        let depends = self.policies.get(service).map(|policy| &*policy.depends.value);
        let depends = depends.filter(|names| !names.is_empty());
        let Some(depends) = depends else { return Vec::new() };
        let mut by_base: BTreeMap<&str, Vec<&ServiceView>> = BTreeMap::new();
        for service in &self.services {
            by_base.entry(service.name.base()).or_default().push(service);
        }
        let state = |it: &&ServiceView| DependencyState { name: it.name.clone(), state: it.state };
        let view = |name: &String| {
            let found = service.meant(name).find_map(|base| by_base.get(&*base));
            let services = found.into_iter().flatten().map(state).collect();
            DependencyView { name: name.clone(), services }
        };
        depends.iter().map(view).collect()
    }
}
