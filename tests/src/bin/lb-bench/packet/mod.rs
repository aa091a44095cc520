//! `BPF_PROG_TEST_RUN` of the release object's own programs, behind a small program that restores
//! the packet each time and chooses the flow.
//!
//! All rows run in one process on one CPU, interleaved in short slices; time is that of the thread. Each
//! slice also counts verdicts, so that a row is what it says.

mod bed;
mod frames;
mod rows;
mod tables;

use anyhow::{Result, ensure};
use clap::Args;

use self::{
    bed::{Bed, Loading},
    rows::Row,
};

/// Options of `bench packet`.
#[derive(Args)]
pub(crate) struct PacketOptions {
    /// Rounds over all rows.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Packets per slice.
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
    /// Only rows whose names contain this, and their floors.
    #[arg(long, default_value = "")]
    only: String,
    /// The CPU to run on.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

pub(crate) fn run(options: &PacketOptions) -> Result<()> {
    let thread = std::thread::scope(|scope| scope.spawn(|| in_thread(options)).join());
    thread.map_err(|_| anyhow::anyhow!("the benchmark panicked"))?
}

/// The thread moves into a network namespace of its own and to one CPU.
fn in_thread(options: &PacketOptions) -> Result<()> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(options.cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
    let (mut bed, loading) = Bed::new()?;
    let mut rows = rows::all();
    rows.retain(|row| row.verdict.is_none() || row.name.contains(&options.only));
    ensure!(rows.iter().any(|row| row.verdict.is_some()), "no row contains `{}`", options.only);
    for round in 0..=options.rounds {
        for row in &mut rows {
            let sample = bed.slice(row, options.packets)?;
            // The first round fills caches.
            if round > 0 {
                row.samples_ns.push(sample);
            }
        }
    }
    print(&mut rows, &loading);
    Ok(())
}

fn print(rows: &mut [Row], loading: &Loading) {
    let total: u32 = loading.programs.iter().map(|(_, count)| count).sum();
    let each: Vec<String> =
        loading.programs.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!(
        "loading: {} ms, {total} verified instructions ({})",
        loading.time.as_millis(),
        each.join(", ")
    );
    println!("ns per packet, harness included; ratio of minima to the row's floor");
    println!("{:<52} {:>8} {:>8} {:>8}   floor", "row", "min", "median", "ratio");
    let minima: Vec<(String, f64)> = rows
        .iter_mut()
        .map(|row| {
            row.samples_ns.sort_by(f64::total_cmp);
            (row.name.clone(), row.samples_ns.first().copied().unwrap_or(f64::NAN))
        })
        .collect();
    for (row, (_, min)) in rows.iter().zip(&minima) {
        let floor = minima.iter().find(|(name, _)| name == row.floor).map_or(f64::NAN, |it| it.1);
        let median = row.samples_ns.get(row.samples_ns.len() / 2).copied().unwrap_or(f64::NAN);
        println!("{:<52} {min:>8.1} {median:>8.1} {:>8.2}   {}", row.name, min / floor, row.floor);
    }
}
