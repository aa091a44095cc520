//! (what the kernel holds, what it should hold) -> what to change, as data.
//!
//! Pure: never awaits, never calls the kernel. [`Kernel`] is the edge that executes actions;
//! `datapath` implements it on BPF maps, tests on [`KernelState`].

mod state;

pub use state::{Action, Kernel, KernelBackend, KernelError, KernelRing, KernelState};
