//! How the values of policies are written, in labels and in the file alike. Pure; knows no keys and no
//! places, only values. Errors go on after "the value `…` ": they say what is wrong with it and how
//! to write it.

mod probe;
mod value;

pub use probe::{ProbeParts, ProbeWord};
pub use value::{
    affinity, datagrams, duration_ms, duration_seconds, flag, initial_state, number, path, percent,
    place, port, preference, ring_size, share, statuses, token, unreachable, visibility, weight,
};
