//! The agent's interface for people and programs: HTTP over a Unix socket.
//!
//! `types` is the wire format, `client` and `table` are what `lbctl` is made of; they need neither
//! kernel nor privileges. `server` shows the runtime's [`types::View`] and
//! hands orders of operators to the runtime.

pub mod client;
pub mod events;
pub mod explain;
#[cfg(all(test, feature = "agent"))]
mod hostile_tests;
pub mod metrics;
pub(crate) mod names;
pub mod reasons;
#[cfg(feature = "agent")]
pub mod server;
#[cfg(feature = "agent")]
mod socket;
pub mod steer;
pub mod table;
pub mod trace;
pub mod types;
