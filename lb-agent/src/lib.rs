//! The control plane of one node: observe -> claims -> snapshot -> plan -> apply.
//!
//! Providers observe and never touch the kernel. Label parsers, arbiter, Maglev and plan are pure
//! and never await. Only `datapath` calls bpf(2); only the namespace worker enters other network
//! namespaces. Without the feature `agent` only what `lbctl` needs remains.

pub mod api;
#[cfg(feature = "agent")]
pub mod arbiter;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod datapath;
#[cfg(all(test, feature = "agent"))]
mod dead_socket;
pub mod doctor;
#[cfg(feature = "agent")]
pub mod explain;
#[cfg(feature = "agent")]
pub mod grammar;
#[cfg(feature = "agent")]
pub mod health;
#[cfg(feature = "agent")]
pub mod journal;
#[cfg(feature = "agent")]
mod kept;
#[cfg(feature = "agent")]
pub mod labels;
#[cfg(feature = "agent")]
pub mod lifecycle;
#[cfg(feature = "agent")]
pub mod maglev;
#[cfg(all(test, feature = "agent"))]
mod mangle;
pub mod model;
#[cfg(feature = "agent")]
pub mod names;
#[cfg(feature = "agent")]
pub mod netlink;
#[cfg(feature = "agent")]
pub mod plan;
#[cfg(feature = "agent")]
pub mod provider;
#[cfg(feature = "agent")]
pub mod runtime;
#[cfg(feature = "agent")]
pub mod sockets;
#[cfg(feature = "agent")]
pub mod steering;
