//! Which backends may get traffic: probes, and what their results mean.
//!
//! Health never writes a map: it changes the model. The runtime tells it which backends there are
//! ([`HealthView::apply`]), it probes them and answers with [`Change`]s, which the next snapshot
//! contains. What decides is pure and takes time as an argument: [`tracker`] counts results,
//! [`schedule`] says when to probe, [`book`] holds both for all targets, [`panic`] judges services,
//! and [`passive`] what the data path has seen in the traffic.
//! What waits is `run`, and what touches the network is behind [`Check`].
//!
//! A probe that could not be made, for want of a descriptor or of Docker, says nothing about the
//! backend. A restarted agent begins with what the kernel holds, so that it takes nobody out.

pub mod book;
pub mod check;
#[cfg(test)]
mod fixtures;
mod inquiry;
mod outcome;
pub mod panic;
pub mod passive;
mod run;
pub mod schedule;
pub mod stats;
mod target;
pub mod tracker;
mod turns;
mod view;

pub use inquiry::{NoWitness, Witness};
pub use outcome::{Failure, FailureKind, Outcome};
pub use passive::{Observation, Sign};
pub use run::{Check, HealthChannels, Settings, run};
pub use target::{Change, Standing, Target, TargetKey};
pub use view::{HealthView, PanicState, TargetGroup, Targets};
