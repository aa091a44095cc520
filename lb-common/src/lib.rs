//! What the kernel programs and the agent agree on, and all packet logic.
//!
//! [`abi`] owns the layout of every map; [`frontends`] knows which service a destination belongs to;
//! [`engine`] decides what happens to a packet, [`socket`] what happens to a socket call; [`slots`] says what becomes of a slot when backends
//! come and go, so that the two rest on the same rules.
//! Nothing here calls a BPF helper, does I/O, reads a clock or allocates: time, CPU and randomness
//! are arguments, packets and tables are traits.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod abi;
pub mod engine;
pub mod frontends;
pub mod rules;
pub mod slots;
pub mod socket;
