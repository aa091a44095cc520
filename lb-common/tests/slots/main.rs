//! The slots' state machine against a model that knows the history of every flow and nothing of
//! slots: random packets, changes, pauses of the agent, refused records, readers of the ring before,
//! and both orders of a publication, in virtual time.
//!
//! `LB_SEEDS=1000` runs more histories, `LB_SEED=7` one of them.

mod agent;
mod clients;
mod cluster;
mod net;
mod random;
mod shrink;
mod simulation;

use lb_common::{
    abi::NetU32,
    rules::{Rule, set_broken},
};
use simulation::{Setup, Tally, Violation, run};

const SEEDS: u64 = 60;
/// Histories in which a broken rule must show.
const SEEDS_PER_RULE: u64 = 60;
const DATAGRAM_SEEDS_PER_RULE: u64 = 300;

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
        for setup in [Setup::new(seed), Setup::datagrams(seed)] {
            match run::<NetU32>(&setup, &mut ()) {
                Ok(tally) => total += tally,
                Err((violation, _)) => {
                    panic!("seed {seed}: {violation:?}\n{}", shrink::shrunk(setup, &violation))
                }
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
            Some((setup, violation)) => {
                let (name, seed) = (format!("{rule:?}"), setup.seed);
                println!("{name:<28} seed {seed:>3}: {:?}", violation.what);
                if number("LB_TRACES").is_some() {
                    set_broken(Some(*rule));
                    println!("{}", shrink::shrunk(setup, &violation));
                    set_broken(None);
                }
            }
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "nothing shows that these are needed: {missed:?}");
}

/// The first history that a broken rule breaks, and no other cause.
fn first_violation(rule: Rule) -> Option<(Setup, Violation)> {
    let setups = (0..SEEDS_PER_RULE)
        .map(Setup::new)
        .chain((0..DATAGRAM_SEEDS_PER_RULE).map(Setup::datagrams));
    for setup in setups {
        set_broken(Some(rule));
        let result = run::<NetU32>(&setup, &mut ());
        set_broken(None);
        if let Err((violation, _)) = result
            && run::<NetU32>(&setup, &mut ()).is_ok()
        {
            return Some((setup, violation));
        }
    }
    None
}
