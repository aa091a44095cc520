//! Fewer clients and fewer changes that still break the same promise.

use std::time::{Duration, Instant};

use lb_common::abi::NetU32;

use crate::simulation::{Setup, Violation, run};

const TIME_MAX: Duration = Duration::from_secs(20);

/// The trace of the smallest history that was found.
pub(crate) fn shrunk(mut setup: Setup, violation: &Violation) -> String {
    setup.changes.retain(|(at, _)| *at <= violation.at);
    let still_fails = |setup: &Setup| {
        run::<NetU32>(setup, &mut ()).is_err_and(|(found, _)| found.what == violation.what)
    };
    if let Some(client) = violation.client {
        let alone = Setup { clients: vec![client], ..setup.clone() };
        if still_fails(&alone) {
            setup = alone;
        }
    }
    let mut chunk = setup.changes.len().div_ceil(2).max(1);
    let begun = Instant::now();
    loop {
        let mut at = 0;
        while begun.elapsed() < TIME_MAX && at < setup.changes.len() {
            let mut fewer = setup.clone();
            fewer.changes.drain(at..(at + chunk).min(setup.changes.len()));
            if still_fails(&fewer) {
                setup = fewer;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 || begun.elapsed() >= TIME_MAX {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    let Err((violation, _)) = run::<NetU32>(&setup, &mut ()) else { return String::new() };
    setup.traced = violation.client.or(setup.clients.first().copied());
    let Err((violation, trace)) = run::<NetU32>(&setup, &mut ()) else { return String::new() };
    let from = trace.len().saturating_sub(40);
    format!(
        "{violation:?} with {} changes, {} clients, {:?}, room for {}:\n{}",
        setup.changes.len(),
        setup.clients.len(),
        setup.order,
        setup.records_max,
        trace[from..].join("\n")
    )
}
