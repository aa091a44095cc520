//! Examines one container: Docker for what it is, the kernel for whether it lives and where.

use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc, time::Duration};

use super::{
    ReadContainers,
    engine::{Engine, EngineError, Inspected},
    host::{Host, Process as _},
    signal::Signal,
};
use crate::{
    labels::{self, ContainerFacts, LocalAddress, shown},
    model::{ReportedHealth, WaysIn},
    netlink::{ContainerNetwork, ContainerWay, NetworkError},
    sockets::reach_name,
};

/// A refusal counts when it is found twice, this far apart: while Docker connects a container to
/// another network, it is without default route for a moment.
const REFUSAL_CONFIRMED_AFTER: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug)]
pub(super) enum Look<P> {
    /// It runs, and can be served.
    Running(Box<ContainerFacts>, Condition, Arc<P>),
    /// It runs, and cannot be served.
    Refused(Refused, Arc<P>),
    /// Docker says that it does not run, or its process is gone.
    Absent,
    /// Nothing was found out; this is why.
    Failed(String),
}

/// How a container that runs is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Condition {
    /// What its HEALTHCHECK says.
    pub(super) health: Option<ReportedHealth>,
    /// Its processes are frozen.
    pub(super) is_paused: bool,
    /// The signal that asks it to end.
    pub(super) stop_signal: Signal,
}

/// A container that cannot be served, or asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// Its name.
    pub(super) name: String,
    /// When this run of it started, in milliseconds since the epoch.
    pub(super) started_at_ms: u64,
    /// The labels and variables that are refused for it, `None` for it as a whole; none when it asks
    /// for nothing.
    pub(super) keys: Vec<Option<String>>,
    /// Why.
    pub(super) reason: String,
}

/// Examines the container with this id. Of one that does not concern the `reader` the network is
/// none of our business.
pub(super) async fn look<E: Engine, H: Host>(
    engine: &E,
    host: &H,
    reader: &dyn ReadContainers,
    id: &str,
) -> Look<H::Process> {
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
    let mut facts = facts(id, &inspected);
    if let Some(service) = inspected.labels.get(labels::SWARM_SERVICE_ID) {
        match engine.service_labels(service).await {
            Ok(labels) => facts.service_labels = labels,
            Err(error) => return Look::Failed(format!("labels of its service: {error}")),
        }
    }
    if !reader.concerns(&facts) {
        return Look::Refused(nothing_of(&facts), process);
    }
    match confirmed_network(host, &process).await {
        Ok(network) => match open_addresses(engine, &network).await {
            Ok(Ok((first, second))) => {
                let facts = located(facts, first, second);
                let Inspected { health, is_paused, stop_signal, .. } = inspected;
                Look::Running(facts.into(), Condition { health, is_paused, stop_signal }, process)
            }
            Ok(Err(reason)) => Look::Refused(refused(reader, &facts, reason), process),
            Err(error) => Look::Failed(error.to_string()),
        },
        Err(NetworkError::Refused(reason)) => {
            Look::Refused(refused(reader, &facts, reason.to_string()), process)
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

/// The addresses that are open to the outside, or why none is.
async fn open_addresses<E: Engine>(
    engine: &E,
    network: &ContainerNetwork,
) -> Result<Result<(LocalAddress, Option<LocalAddress>), String>, EngineError> {
    let first = open_address(engine, &network.first).await?;
    let second = match &network.second {
        Some(way) => open_address(engine, way).await?.ok(),
        None => None,
    };
    Ok(match (first, second) {
        (Ok(first), second) => Ok((first, second)),
        (Err(_), Some(second)) => Ok((second, None)),
        (Err(reason), None) => Err(reason),
    })
}

/// Before version 27 Docker gives `internal` networks a default route, and keeps them internal by
/// packet filters, which our packets do not pass. What the user has closed stays closed.
async fn open_address<E: Engine>(
    engine: &E,
    way: &ContainerWay,
) -> Result<Result<LocalAddress, String>, EngineError> {
    let bridge = match &way.bridge {
        Some(bridge) => engine.bridge_network(bridge).await?,
        None => None,
    };
    let network = bridge.as_ref().map(|it| reach_name(&it.name, it.is_isolated).into());
    let ways_in = match bridge {
        Some(bridge) if bridge.is_internal => {
            return Ok(Err(format!(
                "the container's default route leaves by the network `{}`, which is `internal`: it \
                 is not to be reached from outside; connect the container to another bridge network \
                 as well",
                shown(&bridge.name)
            )));
        }
        None => WaysIn::Unknown,
        Some(bridge) => {
            let is_ipv4 = way.address.is_ipv4();
            let is_hidden = if is_ipv4 { bridge.is_hidden_v4 } else { bridge.is_hidden_v6 };
            if is_hidden { WaysIn::OnlyOurs } else { WaysIn::Direct }
        }
    };
    Ok(Ok(LocalAddress { address: way.address, ifindex: way.ifindex, ways_in, network }))
}

fn is_same_run(this: &Inspected, that: &Inspected) -> bool {
    (this.pid, this.started_at_ms) == (that.pid, that.started_at_ms)
}

/// What Docker says. The address comes from the kernel.
fn facts(id: &str, inspected: &Inspected) -> ContainerFacts {
    ContainerFacts {
        id: id.to_owned(),
        name: inspected.name.clone(),
        former_name: None,
        image: inspected.image.clone(),
        labels: inspected.labels.clone(),
        service_labels: BTreeMap::new(),
        environment: inspected.environment.clone(),
        ports: inspected.ports.clone(),
        created_at_ms: inspected.created_at_ms,
        started_at_ms: inspected.started_at_ms,
        address: Ipv4Addr::UNSPECIFIED.into(),
        ifindex: 0,
        ways_in: WaysIn::Unknown,
        network: None,
        second: None,
    }
}

fn located(
    facts: ContainerFacts,
    first: LocalAddress,
    second: Option<LocalAddress>,
) -> ContainerFacts {
    let LocalAddress { address, ifindex, ways_in, network } = first;
    ContainerFacts { address, ifindex, ways_in, network, second, ..facts }
}

/// It asks for nothing.
fn nothing_of(facts: &ContainerFacts) -> Refused {
    Refused {
        keys: Vec::new(),
        name: facts.name.clone(),
        started_at_ms: facts.started_at_ms,
        reason: String::new(),
    }
}

fn refused(reader: &dyn ReadContainers, facts: &ContainerFacts, reason: String) -> Refused {
    Refused {
        keys: reader.asked_by(facts),
        name: facts.name.clone(),
        started_at_ms: facts.started_at_ms,
        reason,
    }
}
