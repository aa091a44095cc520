//! Random packets on random tables, on the host's engine and by the programs in the kernel.
//!
//! `LB_SEEDS=20000` runs so many scenarios instead of as many as fit the time, `LB_SEED=17` only that
//! one. A difference is written to a file; copied to `tests/corpus/` it is tried first ever after.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_tests::{
    needs,
    packets::{
        KernelBed,
        fuzz::{Counts, RECORDS_MAX, Scenario, corpus},
        object_bytes,
    },
    skip,
};

/// Scenarios, and the time after which no other is begun.
const SEEDS: u64 = 1000;
const TIME_MAX: Duration = Duration::from_secs(20);

#[test]
fn host_and_kernel_agree() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    // A thread of its own: the bed moves it into a namespace that goes when it ends.
    std::thread::scope(|scope| scope.spawn(|| run(&object)).join().expect("no panic"))
}

fn run(object: &[u8]) -> Result<()> {
    let mut bed = KernelBed::new(object, RECORDS_MAX)?;
    let mut counts = Counts::default();
    let corpus = corpus()?;
    for (path, scenario) in &corpus {
        scenario.compare(&mut bed, &mut counts).with_context(|| path.display().to_string())?;
    }
    let number = |name: &str| -> Result<Option<u64>> {
        let Some(text) = std::env::var_os(name) else { return Ok(None) };
        let text = text.into_string().ok().context("not UTF-8")?;
        Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?))
    };
    let (only, seeds) = (number("LB_SEED")?, number("LB_SEEDS")?);
    let first = only.unwrap_or(0);
    let last = only.map_or(seeds.unwrap_or(SEEDS), |seed| seed + 1);
    let start = Instant::now();
    for seed in first..last {
        if seeds.is_none() && start.elapsed() > TIME_MAX {
            break;
        }
        let scenario = Scenario::random(seed);
        if let Err(error) = scenario.compare(&mut bed, &mut counts) {
            let path =
                std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{seed}.json"));
            scenario.shrunk(&mut bed).write(&path)?;
            bail!(
                "host and kernel differ: {error:#}\n\
                 again: LB_SEED={seed} cargo test -p lb-tests --test packet_fuzz\n\
                 keep:  cp {} tests/corpus/WHAT-IT-IS.json",
                path.display()
            );
        }
    }
    let Counts { scenarios, packets, refused, verdicts, reasons } = counts;
    println!(
        "{} scenarios of the corpus and {} random ones in {:?}: {packets} packets compared, \
         {refused} refused by test runs, {verdicts:?}, {reasons:?}",
        corpus.len(),
        scenarios - corpus.len(),
        start.elapsed()
    );
    Ok(())
}
