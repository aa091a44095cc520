//! Plain data that the parts of the agent exchange. No I/O, no kernel types, no behaviour beyond
//! display and order.

mod claim;
mod service;

pub use claim::{Claim, Claims, Refusal};
pub use service::{
    Backend, BackendPath, BackendState, FrontendAddress, IpPrefix, Protocol, ReplyFacts, Service,
    ServiceName, Snapshot, WaysIn,
};
