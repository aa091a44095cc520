//! The slots' state machine against a model that knows the history of every flow and nothing of
//! slots: random packets, changes, pauses of the agent, refused records, readers of the ring before,
//! and both orders of a publication, in virtual time.
//!
//! `LB_SEEDS=1000` runs more histories, `LB_SEED=7` one of them.

mod agent;
mod clients;
mod cluster;
mod random;
mod shrink;
mod simulation;

use lb_common::rules::{Rule, set_broken};
use simulation::{Setup, Tally, Violation, run};

const SEEDS: u64 = 80;
/// Histories in which a broken rule must show.
const SEEDS_PER_RULE: u64 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_live_flow_is_recorded_or_its_slots_defaults() {
    let seeds = match number("LB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LB_SEEDS").unwrap_or(SEEDS),
    };
    let mut total = Tally::default();
    for seed in seeds.clone() {
        match run(&Setup::new(seed)) {
            Ok(tally) => total += tally,
            Err((violation, _)) => {
                panic!("seed {seed}: {violation:?}\n{}", shrink::shrunk(seed, &violation))
            }
        }
    }
    println!("{} histories: {total:#?}", seeds.count());
    assert!(total.packets > 1000 && total.slots_busy > 100, "{total:?}");
}

#[test]
fn every_rule_is_needed() {
    let mut missed = Vec::new();
    for rule in Rule::ALL {
        match first_violation(*rule) {
            Some((seed, violation)) => {
                println!("{:<28} seed {seed:>3}: {:?}", format!("{rule:?}"), violation.what);
                if number("LB_TRACES").is_some() {
                    set_broken(Some(*rule));
                    println!("{}", shrink::shrunk(seed, &violation));
                    set_broken(None);
                }
            }
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "nothing shows that these are needed: {missed:?}");
}

/// The first history that a broken rule breaks, and no other cause.
fn first_violation(rule: Rule) -> Option<(u64, Violation)> {
    (0..SEEDS_PER_RULE).find_map(|seed| {
        let setup = Setup::new(seed);
        set_broken(Some(rule));
        let result = run(&setup);
        set_broken(None);
        let violation = result.err()?.0;
        run(&setup).is_ok().then_some((seed, violation))
    })
}
