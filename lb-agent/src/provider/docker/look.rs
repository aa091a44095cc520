//! Examines one container: Docker for what it is, the kernel for whether it lives and where.

use std::{io, sync::Arc, time::Duration};

use super::{
    engine::{Engine, EngineError, Inspected},
    host::{Host, Process as _},
};
use crate::{
    labels::{ContainerFacts, LocalAddress, aliyun, shown},
    netlink::{ContainerNetwork, ContainerWay, NetworkError},
};

/// Most labels that are refused one by one for a container that cannot be served at all.
const LABELS_MAX: usize = 16;

/// A refusal counts when it is found twice, this far apart: while Docker connects a container to
/// another network, it is without default route for a moment.
const REFUSAL_CONFIRMED_AFTER: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug)]
pub(super) enum Look<P> {
    /// It runs, and can be served.
    Running(ContainerFacts, Arc<P>),
    /// It runs, and cannot be served.
    Refused(Refused, Arc<P>),
    /// Docker says that it does not run, or its process is gone.
    Absent,
    /// Nothing was found out; this is why.
    Failed(String),
}

/// A container that cannot be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// Its name.
    pub(super) name: String,
    /// When this run of it started, in milliseconds since the epoch.
    pub(super) started_at_ms: u64,
    /// The labels that are refused for it.
    pub(super) labels: Vec<String>,
    /// Why.
    pub(super) reason: String,
}

/// Examines the container with this id.
pub(super) async fn look<E: Engine, H: Host>(engine: &E, host: &H, id: &str) -> Look<H::Process> {
    let asked_at = match host.now() {
        Ok(now) => now,
        Err(error) => return Look::Failed(error.to_string()),
    };
    let inspected = match engine.inspect(id).await {
        Ok(Some(inspected)) => inspected,
        Ok(None) => return Look::Absent,
        Err(error) => return Look::Failed(error.to_string()),
    };
    let process = match host.open(inspected.pid) {
        Ok(process) => Arc::new(process),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Look::Absent,
        Err(error) => return Look::Failed(format!("process {}: {error}", inspected.pid)),
    };
    if !process.was_of(id, asked_at) {
        // The number may have gone to another process since Docker was asked. Now that the handle is
        // there, Docker saying the same again means that the handle is the right one.
        match engine.inspect(id).await {
            Ok(Some(again)) if is_same_run(&again, &inspected) && process.is_alive() => {}
            Ok(Some(_)) => return Look::Failed("it restarts while it is looked at".to_owned()),
            Ok(None) => return Look::Absent,
            Err(error) => return Look::Failed(error.to_string()),
        }
    }
    match confirmed_network(host, &process).await {
        Ok(network) => match open_network(engine, network).await {
            Ok(Ok(network)) => Look::Running(facts(id, inspected, &network), process),
            Ok(Err(reason)) => Look::Refused(refused(inspected, reason), process),
            Err(error) => Look::Failed(error.to_string()),
        },
        Err(NetworkError::Refused(reason)) => {
            Look::Refused(refused(inspected, reason.to_string()), process)
        }
        Err(NetworkError::Gone { .. }) => Look::Absent,
        Err(NetworkError::Failed { source, action, .. }) => {
            Look::Failed(format!("cannot {action}: {source}"))
        }
    }
}

async fn confirmed_network<H: Host>(
    host: &H,
    process: &Arc<H::Process>,
) -> Result<ContainerNetwork, NetworkError> {
    match host.network(process).await {
        Err(NetworkError::Refused(_)) => {
            tokio::time::sleep(REFUSAL_CONFIRMED_AFTER).await;
            host.network(process).await
        }
        other => other,
    }
}

/// What of a network is open to the outside, or why nothing is.
async fn open_network<E: Engine>(
    engine: &E,
    network: ContainerNetwork,
) -> Result<Result<ContainerNetwork, String>, EngineError> {
    let ContainerNetwork { first, second } = network;
    let second = match second {
        Some(way) if refused_way(engine, &way).await?.is_none() => Some(way),
        _ => None,
    };
    Ok(match (refused_way(engine, &first).await?, second) {
        (None, second) => Ok(ContainerNetwork { first, second }),
        (Some(_), Some(first)) => Ok(ContainerNetwork { first, second: None }),
        (Some(reason), None) => Err(reason),
    })
}

/// Before version 27 Docker gives `internal` networks a default route, and keeps them internal by
/// packet filters, which our packets do not pass. What the user has closed stays closed.
async fn refused_way<E: Engine>(
    engine: &E,
    way: &ContainerWay,
) -> Result<Option<String>, EngineError> {
    let Some(bridge) = &way.bridge else { return Ok(None) };
    let internal = engine.internal_network(bridge).await?;
    Ok(internal.map(|name| {
        format!(
            "the container's default route leaves by the network `{}`, which is `internal`: it is \
             not to be reached from outside; connect the container to another bridge network as \
             well",
            shown(&name)
        )
    }))
}

fn is_same_run(this: &Inspected, that: &Inspected) -> bool {
    (this.pid, this.started_at_ms) == (that.pid, that.started_at_ms)
}

fn facts(id: &str, inspected: Inspected, network: &ContainerNetwork) -> ContainerFacts {
    ContainerFacts {
        id: id.to_owned(),
        name: inspected.name,
        image: inspected.image,
        labels: inspected.labels,
        created_at_ms: inspected.created_at_ms,
        started_at_ms: inspected.started_at_ms,
        address: network.first.address,
        ifindex: network.first.ifindex,
        second: network
            .second
            .as_ref()
            .map(|way| LocalAddress { address: way.address, ifindex: way.ifindex }),
    }
}

fn refused(inspected: Inspected, reason: String) -> Refused {
    let ours = inspected.labels.keys().filter(|key| key.starts_with(aliyun::PREFIX));
    Refused {
        labels: ours.take(LABELS_MAX).map(|key| shown(key)).collect(),
        name: inspected.name,
        started_at_ms: inspected.started_at_ms,
        reason,
    }
}
