//! The Docker provider: which labelled containers run on this node, and where they are reached.
//!
//! Docker is asked, the kernel is believed. Docker names the containers, their labels and their main
//! processes; whether one lives is told by a pidfd on its main process, and where it is reached by
//! netlink in its namespace. So a listing that is empty, wrong or missing removes nothing that
//! lives, and a death is known before Docker tells it.
//!
//! Parts: [`engine`] the narrow view of Docker's API and [`api`] its real side, [`host`] the same for
//! processes and namespaces; [`look`] examines one container, [`state`] decides what follows from
//! what was seen, without I/O or time, and [`report`] says it; [`follow`] runs it all. Beside them [`clients`] sees
//! all containers as callers. None of them touches maps or filters.

mod api;
pub mod clients;
mod commands;
mod endings;
mod engine;
mod follow;
mod host;
mod look;
mod places;
mod report;
mod runs;
mod signal;
mod state;
#[cfg(test)]
mod tests;
mod timestamp;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

pub use self::{commands::Commands, endings::Endings, places::Places, runs::Runs};
use super::ProviderEvent;
use crate::{labels::ContainerFacts, model::Claims};

/// Name of this provider in [`ProviderEvent`]s.
pub const PROVIDER: &str = "docker";

/// How to reach Docker, and how often to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Path of the Unix socket of the daemon.
    socket_path: String,
    /// Time between full listings when no event asks for one.
    resync: Duration,
    /// Where former names of containers are kept; `None`: nowhere.
    places: Option<Places>,
    /// Where it is kept which containers were asked to end; `None`: nowhere.
    endings: Option<Endings>,
}

/// Why there are no [`Settings`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "docker endpoint `{endpoint}` is not understood: expected `unix:///PATH/TO/docker.sock`, the \
     socket of the daemon of this node"
)]
pub struct EndpointError {
    endpoint: String,
}

impl Settings {
    /// Checks an endpoint as the config file has it.
    pub fn new(endpoint: &str, resync: Duration) -> Result<Self, EndpointError> {
        match endpoint.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => {
                Ok(Self { socket_path: path.to_owned(), resync, places: None, endings: None })
            }
            _ => Err(EndpointError { endpoint: endpoint.to_owned() }),
        }
    }

    /// The same, with former names of containers kept there.
    #[must_use]
    pub fn with_places(self, places: Places) -> Self {
        Self { places: Some(places), ..self }
    }

    /// The same, with it kept there which containers were asked to end.
    #[must_use]
    pub fn with_endings(self, endings: Endings) -> Self {
        Self { endings: Some(endings), ..self }
    }
}

/// Turns containers into claims; pure.
pub trait ReadContainers: Send + Sync {
    /// Whether containers without labels are looked at, too.
    fn looks_at_all(&self) -> bool;

    /// Whether anything may follow from a container of which Docker says this. Its address is not
    /// known yet.
    fn concerns(&self, facts: &ContainerFacts) -> bool;

    /// The labels and variables by which the container asks for a frontend; `None`: by what it is. Its
    /// address is not known.
    fn asked_by(&self, facts: &ContainerFacts) -> Vec<Option<String>>;

    /// What the container asks for.
    fn claims(&self, facts: &ContainerFacts) -> Claims;
}

/// What turns containers into claims.
pub type ClaimsOf = Arc<dyn ReadContainers>;

impl ReadContainers for crate::labels::Reader {
    fn looks_at_all(&self) -> bool {
        self.looks_at_all()
    }

    fn concerns(&self, facts: &ContainerFacts) -> bool {
        self.concerns(facts)
    }

    fn asked_by(&self, facts: &ContainerFacts) -> Vec<Option<String>> {
        self.asked_by(facts)
    }

    fn claims(&self, facts: &ContainerFacts) -> Claims {
        self.claims(facts)
    }
}

/// Follows Docker for ever, through restarts and absences of the daemon. Ends when the receiving end
/// of `events` is closed. `runs` is told which containers run; those that are in it already, as a
/// predecessor left it, are told when they end, whatever Docker says, and stay asked to end.
pub async fn run(
    settings: Settings,
    runs: Runs,
    claims_of: ClaimsOf,
    events: mpsc::Sender<ProviderEvent>,
) {
    let source = format!("unix://{}", settings.socket_path);
    let engine = api::Api::new(settings.socket_path);
    follow::follow(
        engine,
        host::Node::new(runs, settings.places, settings.endings),
        follow::Pace::new(settings.resync),
        source,
        claims_of,
        events,
    )
    .await;
}

/// The container that an instance is a run of.
fn container_of(instance: &str) -> &str {
    instance.split_once('@').map_or(instance, |(container, _)| container)
}

/// The name of one run of a container, as [`crate::model::Backend::instance`] has it.
fn instance(id: &str, started_at_ms: u64) -> String {
    format!("{id}@{started_at_ms}")
}
