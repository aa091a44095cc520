//! Plain data that the parts of the agent exchange. No I/O, no kernel types, no behaviour beyond
//! display and order.

mod claim;
mod probe;
mod service;

pub use claim::{Claim, Claims, Refusal};
pub use probe::{HttpProbe, Probe, ProbeKind, ProbePlace, ReportedHealth};
pub use service::{
    Backend, BackendPath, BackendState, FrontendAddress, Protocol, Service, ServiceName, Snapshot,
};
