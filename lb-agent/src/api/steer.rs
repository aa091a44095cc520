//! What operators tell the agent about backends, and what it answers: the wire format.

use serde::{Deserialize, Serialize};

use crate::model::ServiceName;

/// Path that takes a [`SteerRequest`] by POST and answers with a [`SteerAnswer`].
pub const PATH: &str = "/v1/steer";
/// Longest body of a request.
pub const BODY_BYTES_MAX: usize = 4096;

/// What is to become of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "do", deny_unknown_fields)]
pub enum Order {
    /// It takes no new flows, and keeps its own for the service's `drain_seconds`.
    Drain,
    /// It takes no flows and keeps none.
    Disable,
    /// It is what its provider and its probe say. When its provider has asked it to end, that is
    /// lifted; the next time that it is asked counts.
    Undrain,
    /// The same.
    Enable,
    /// It has this weight; `None`: the one that was asked for.
    Weight {
        /// 0 to 65535.
        weight: Option<u16>,
    },
}

/// An order, and whom it is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteerRequest {
    /// Name or address of the backend, as `lbctl backend list` prints them, or the first 12 or more
    /// digits of a container's id.
    pub backend: String,
    /// Only in this service; `None`: in all that have it.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// What is to become of it.
    pub order: Order,
}

/// Whom an order was for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SteerAnswer {
    /// What was told to whom, in words: one line for each backend.
    pub done: Vec<String>,
    /// Set when the kernel does not do yet what was ordered; this is why. The agent tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// Set when the order is in force and would be forgotten with the agent; this is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Why an order was not taken: nothing follows from it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SteerError {
    /// It is for nobody who is there.
    #[error("{0}")]
    Nobody(String),
    /// It could be for either of several.
    #[error("{0}")]
    Ambiguous(String),
    /// It is for nobody who is known yet, and not everything is known.
    #[error("{0}")]
    NotKnown(String),
}

/// What operators want of a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Will {
    /// To leave.
    Drain,
    /// To be left alone.
    Disable,
    /// To serve, although its provider asked it to leave: [`SteeringView::lifts`] says when.
    Serve,
}

/// Orders in force for a backend, and who gave the latest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SteeringView {
    /// What it is to do; `None`: what its provider and its probe say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will: Option<Will>,
    /// Which request to leave does not count, by [`crate::model::Backend::asked_to_end`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifts: Option<u64>,
    /// Its weight; `None`: the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Name of the user who gave the latest order.
    pub by: String,
    /// When, in milliseconds since the epoch, by the node's clock.
    pub at_ms: u64,
}
