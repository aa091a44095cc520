//! What has happened, and who wants what another has: the wire format.

use serde::{Deserialize, Serialize};

use crate::model::{FrontendAddress, ServiceName};

/// Path of [`EventList`]; `?after=NUMBER` leaves out what is older, `&wait_seconds=SECONDS` waits up
/// to that long for something newer.
pub const EVENTS_PATH: &str = "/v1/events";
/// Path of [`ConflictList`].
pub const CONFLICTS_PATH: &str = "/v1/conflicts";
/// Longest wait for an event, in seconds.
pub const WAIT_SECONDS_MAX: u64 = 5;

/// Answer of [`EVENTS_PATH`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventList {
    /// Oldest first.
    pub events: Vec<EventView>,
}

/// Something that has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Counts from 1 in each life of the agent, without gaps.
    pub number: u64,
    /// When, in milliseconds since the epoch, by the node's clock.
    pub at_ms: u64,
    /// When, in milliseconds since the agent started; this one never jumps.
    pub uptime_ms: u64,
    /// What it is about: a service, a provider.
    pub object: String,
    /// The backend of the service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What has changed.
    pub what: String,
    /// Why, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Answer of [`CONFLICTS_PATH`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConflictList {
    /// Ordered by frontend.
    pub conflicts: Vec<ConflictView>,
}

/// A frontend that a service wants and another has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictView {
    /// What is wanted.
    pub frontend: FrontendAddress,
    /// What the owner has, which has ports in common with it.
    pub owned: FrontendAddress,
    /// Who has it.
    pub owner: ServiceName,
    /// The claim by which.
    pub owner_source: String,
    /// Who wants it.
    pub contender: ServiceName,
    /// The oldest claim for that.
    pub contender_source: String,
    /// Since when this agent knows of it, in milliseconds since the epoch.
    pub since_ms: u64,
}
