//! How the values of policies are written, in labels and in the file alike. Pure; knows no keys and no
//! places, only values. Errors go on after "the value `…` ": they say what is wrong with it and how
//! to write it.

mod probe;
#[cfg(test)]
mod tests;
mod value;

pub use probe::{ProbeParts, ProbeWord, body, command, words};
pub use value::{
    PROBE_DELAY_MS, PROBE_INTERVAL_MS, PROBE_TIMEOUT_MS, ROLLING_UPDATES, SCALE, affinity,
    datagrams, depends, duration_ms, duration_seconds, flag, initial_state, number, path, percent,
    place, port, preference, probe_delay_ms, probe_interval_ms, probe_timeout_ms, ring_size, share,
    statuses, token, unreachable, visibility, weight,
};
