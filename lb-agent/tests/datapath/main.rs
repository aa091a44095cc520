//! The data path on the real kernel, each test in a network namespace and on a bpffs of its own.
//!
//! Without root or without the BPF object the tests are skipped, loudly.
#![cfg(feature = "agent")]

mod adopt;
mod attach;
mod calls;
mod cgroups;
mod obstacles;
mod records;
mod sandbox;
mod tables;
mod trace;
mod uninstall;
