//! The agent's loop: events of providers -> claims -> snapshot -> plan -> the kernel, and a view of
//! it all for the API.
//!
//! One thread owns the kernel and does everything in order; providers, API and signals live on the
//! async runtime and talk to it by channels, so that neither ever waits for the other's work. Owns
//! when things happen; what should be there is decided by `arbiter`, what to change by `plan`.

mod backoff;
mod clock;
mod connections;
pub mod daemon;
mod datapath_node;
mod event_loop;
mod health;
mod history;
mod inbox;
mod leaving;
mod ledger;
mod local;
mod node;
mod orders;
mod pressure;
mod progress;
mod protect;
mod reconciler;
mod routes;
mod shares;
mod status;
#[cfg(test)]
mod tests;
mod tracers;
mod view;
mod watch;

pub use event_loop::{Runtime, RuntimeChannels, spawn};
pub use node::{Node, NodeCounters, NodeError, Swept};
pub use reconciler::{Reconciler, Settings};
pub use tracers::{EVENTS_WAITING, Told, TraceRequest, TraceSource, Tracers, Wanted};

use crate::{
    config::Balancer, health::Change, journal::Draft, provider::ProviderEvent, sockets::Clients,
};

/// Everything that the runtime reacts to, beside time and questions of the API.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A provider tells something.
    Provider(ProviderEvent),
    /// Health found something out.
    Health(Vec<Change>),
    /// A provider is started anew and knows nothing: what it told stays, and nothing that lives is
    /// removed, until it has told everything.
    Restarting(&'static str),
    /// The configuration was read again: the balancers to show.
    Balancers(Vec<Balancer>),
    /// The containers of this node, as those who call.
    Clients(Clients),
    /// Something to write down; nothing else follows from it.
    Told(Draft),
}

impl From<ProviderEvent> for Event {
    fn from(event: ProviderEvent) -> Self {
        Self::Provider(event)
    }
}
