//! Services and backends for the tests of other modules.

use std::sync::Arc;

use super::{
    Backend, BackendPath, BackendState, Policy, ReplyFacts, Service, ServiceName, Snapshot,
};

/// A backend behind a router: `web-N` at `10.0.0.N:80`.
pub(crate) fn backend(number: u8, instance: &str, state: BackendState) -> Backend {
    Backend {
        place: number.to_string(),
        instance: instance.to_owned(),
        display_name: format!("web-{number}"),
        address: ([10, 0, 0, number], 80).into(),
        weight: 100,
        path: BackendPath::Routed,
        state,
        started_at_ms: 0,
        reported: None,
        asked_to_end: None,
        network: None,
        replies: ReplyFacts::default(),
    }
}

/// A service that is served nowhere.
pub(crate) fn service(name: &str, backends: &[Backend], policy: Policy) -> Service {
    Service {
        name: ServiceName(name.into()),
        frontends: [].into(),
        backends: backends.to_vec(),
        policy: Arc::new(policy),
        exclusive: [].into(),
    }
}

/// All of these.
pub(crate) fn snapshot(services: impl IntoIterator<Item = Service>) -> Snapshot {
    let services = services.into_iter().map(|it| (it.name.clone(), it.into())).collect();
    Snapshot { services, ..Snapshot::default() }
}
