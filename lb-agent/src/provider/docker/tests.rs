//! The provider against a made-up node: the kernel tells the truth, the daemon does not.

mod faults;
mod lifecycle;
mod scenarios;
mod session;
mod world;
