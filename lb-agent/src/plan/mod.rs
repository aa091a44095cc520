//! (what the kernel holds, what it should hold) -> what to change, as data.
//!
//! Pure: never awaits, never calls the kernel, never reads a clock. [`Kernel`] is the edge that
//! executes actions; `datapath` implements it on BPF maps, tests on [`KernelState`].
//!
//! The rules, each of which a test watches:
//! - What the kernel holds already and is right stays as it is: numbers, generations, rings. So a
//!   restarted agent changes nothing.
//! - Death first: a backend that is gone loses its state bits before anything else happens. Then
//!   what is new is made from the inside out (reply program, service, backend, ring, VIP, frontend),
//!   then what is old is taken away from the outside in.
//! - Every live flow of a slot is recorded or belongs to the slot's default: what becomes of a slot
//!   says [`lb_common::slots::advance`] and nobody else. States are stored before rings, but for one:
//!   that a backend merely takes no new flows any more is stored behind the rings that lead nobody
//!   there, and not at all while one that leads there cannot be replaced. Clients would be refused
//!   although others live.
//! - What a reader of the tables may still see is not reused: extents and numbers rest for a
//!   quarantine after nothing refers to them any more.
//! - What fails is left out and tried again later; what depends on it waits; all else goes on.

mod apply;
mod display;
mod draft;
mod extents;
mod fronts;
mod hash;
mod held;
mod keys;
mod local;
mod memo;
mod numbers;
mod packed;
mod planner;
mod policy;
mod removal;
mod replies;
mod ring;
mod settled;
mod sight;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod trouble;

use std::net::IpAddr;

use lb_common::abi::{self, FAMILY_V4, FAMILY_V6};

pub use apply::{Applied, Outcome, apply, reconcile};
pub use hash::{HashIndex, NameHash, instance_hash, place_hash, service_hash};
pub use held::HeldBackends;
pub use keys::{BackendKeys, ServiceKeys};
pub use packed::Slots;
pub use planner::{Planner, Settings};
pub use sight::{Scan, Sight, Times};
pub use state::{
    Action, HeldStates, Kernel, KernelBackend, KernelError, KernelRing, KernelState, ReplyDefault,
    ReplyPort,
};

use crate::model::{Backend, FrontendAddress, Protocol, Refusal};

/// What to change, in this order, and what cannot be done. Displayed as one line per action.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// What to do.
    pub actions: Vec<Action>,
    /// What was asked for and has no room or keeps failing.
    pub refusals: Vec<Refusal>,
    /// When to plan again although nothing else has changed, in monotonic milliseconds.
    pub due_ms: Option<u64>,
}

/// Number of the ring that serves a frontend of a service.
pub fn ring_of(service: u32, frontend: &FrontendAddress) -> u32 {
    abi::ring_number(service, family_of(frontend.vip), protocol_number(frontend.protocol))
}

fn family_of(address: IpAddr) -> u32 {
    if address.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => abi::PROTOCOL_TCP,
        Protocol::Udp => abi::PROTOCOL_UDP,
    }
}

/// Number of the service that a ring belongs to.
pub fn service_of(ring: u32) -> u32 {
    ring / abi::RINGS_PER_SERVICE
}

/// The state byte of a backend. One of weight 0 takes no new flows, also not from a slot that moves
/// away from it while there is no room for records.
pub fn state_bits(backend: &Backend) -> u8 {
    let state = backend.state;
    let new = if state.takes_new() && backend.weight > 0 { abi::TAKES_NEW } else { 0 };
    let old = if state.takes_old() { abi::TAKES_OLD } else { 0 };
    let datagrams = if state.takes_old_datagrams() { abi::TAKES_OLD_DATAGRAMS } else { 0 };
    new | old | datagrams
}
