//! Plain data that the parts of the agent exchange. No I/O, no kernel types, no behaviour beyond
//! display and order.

mod claim;
mod depends;
#[cfg(test)]
pub(crate) mod fixtures;
mod origin;
mod policy;
mod ports;
mod prefix;
mod probe;
mod quiet;
mod service;
mod visibility;

pub use claim::{Claim, Claims, Conflict, PooledName, Refusal};
pub use origin::{Origin, Setting, Written};
pub use policy::{
    Affinity, Datagrams, Disagreement, InitialState, Policy, Row, Unreachable, Wishes,
};
pub use ports::Ports;
pub use prefix::{IpPrefix, LocalKind, LocalPrefixes};
pub use probe::{HttpProbe, Probe, ProbeKind, ProbePlace, ReportedHealth};
pub use quiet::{Beside, QuietServices};
pub use service::{
    Backend, BackendPath, BackendState, FrontendAddress, Protocol, ReplyFacts, Service,
    ServiceName, Snapshot, WaysIn, only_port,
};
pub use visibility::{Preference, Visibility};

/// Preference of the routes by which packets to a virtual address that no socket call has announced are
/// told that they do not arrive: "lb" in ASCII behind a byte that routing daemons take for the
/// administrative distance. 255 is that of a route that is never used, so that one to the same address
/// which they learn is not kept from the kernel by ours.
pub const UNSEEN_ROUTE_METRIC: u32 = 0xff6c_6200;
