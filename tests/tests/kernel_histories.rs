//! Histories of the slots' state machine, as the engine's own tests make them, with the real program
//! deciding on every packet beside the host: TCP and UDP, changes, pauses of the agent, records refused,
//! readers of the ring before, both orders of a publication.
//!
//! `LB_SEEDS=40` runs so many instead of as many as fit the time, `LB_SEED=7` only that one.

#[path = "../../lb-common/tests/slots/agent.rs"]
mod agent;
#[path = "../../lb-common/tests/slots/clients.rs"]
mod clients;
#[path = "../../lb-common/tests/slots/cluster.rs"]
mod cluster;
#[path = "../../lb-common/tests/slots/net.rs"]
mod net;
#[path = "../../lb-common/tests/slots/random.rs"]
mod random;
#[path = "../../lb-common/tests/slots/simulation.rs"]
mod simulation;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{
    abi::{NetAddr6, NetU32},
    engine::{Choice, PacketKind, host::HostTables},
};
use lb_tests::{
    needs,
    packets::{BedFamily, Witness, object_bytes},
    skip,
};
use net::Net;
use simulation::{Setup, Tally, run};

/// Histories, and the time after which no other of a family is begun.
const SEEDS: std::ops::Range<u64> = 2..5;
const TIME_MAX: Duration = Duration::from_secs(15);

/// Hours of changes in a history: rather several short ones.
const CHANGE_HOURS_MAX: u64 = 4;

struct Kernel<A: BedFamily>(Witness<A>);

impl<A: BedFamily + Net> simulation::Witness<A> for Kernel<A> {
    fn before(
        &mut self,
        tables: &HostTables<A>,
        now_tick: u32,
        flow: &A::FlowKey,
        kind: PacketKind,
    ) {
        self.0.before(tables, now_tick, flow, kind);
    }

    fn after(&mut self, tables: &HostTables<A>, choice: &Choice<A>) {
        self.0.after(tables, choice);
    }
}

#[test]
fn the_kernel_chooses_as_the_host_does_in_ipv4() -> Result<()> {
    check::<NetU32>()
}

#[test]
fn the_kernel_chooses_as_the_host_does_in_ipv6() -> Result<()> {
    check::<NetAddr6>()
}

fn check<A: BedFamily + Net>() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    let number = |name: &str| -> Result<Option<u64>> {
        let Some(text) = std::env::var_os(name) else { return Ok(None) };
        let text = text.into_string().ok().context("not UTF-8")?;
        Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?))
    };
    let (only, seeds) = (number("LB_SEED")?, number("LB_SEEDS")?);
    let range = match (only, seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 0..seeds,
        // The first has little room for records.
        (None, None) => SEEDS,
    };
    let start = Instant::now();
    let (mut packets, mut histories, mut total) = (0, 0, Tally::default());
    for seed in range {
        for setup in [Setup::new(seed), Setup::datagrams(seed)] {
            if seeds.is_none() && start.elapsed() > TIME_MAX {
                break;
            }
            // A thread of its own: the bed moves it into a namespace that goes when it ends.
            let one = || one::<A>(&object, &setup).with_context(|| format!("LB_SEED={seed}"));
            let (compared, tally) =
                std::thread::scope(|scope| scope.spawn(one).join().expect("no panic"))?;
            packets += compared;
            histories += 1;
            total += tally;
        }
    }
    println!("{histories} histories in {:?}, {packets} packets: {total:?}", start.elapsed());
    ensure!(packets > 1000, "{packets} packets: has the history been cut?");
    Ok(())
}

fn one<A: BedFamily + Net>(object: &[u8], setup: &Setup) -> Result<(usize, Tally)> {
    let records_max = u32::try_from(setup.records_max)?;
    let mut kernel = Kernel(Witness::<A>::new(object, records_max)?);
    // The kernel's table of half-open records refuses nothing at a test's command.
    let mut setup = Setup { refuses_half_open: false, ..setup.clone() };
    setup.change_hours = setup.change_hours.min(CHANGE_HOURS_MAX);
    setup.changes.retain(|(at, _)| *at < setup.change_hours * cluster::HOUR);
    let result = run(&setup, &mut kernel);
    if let Some(error) = kernel.0.error {
        return Err(error);
    }
    match result {
        Ok(tally) => Ok((kernel.0.packets, tally)),
        Err((violation, _)) => bail!("{violation:?}"),
    }
}
