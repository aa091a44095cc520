//! How quickly the agent follows what happens to containers, and what that takes: on a Docker daemon of our
//! own, with a thousand further services present.
//!
//! Times are those of clients and of the kernel's tables, not the agent's own. All processes share
//! the machine's cores, so what a slow daemon or a busy core adds is in the figures.

mod clients;
mod containers;
mod kernel;
mod moments;
mod noise;
mod passive;
mod report;
mod resources;
mod sync;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use self::report::Report;

/// Options of `bench control`.
#[derive(Args)]
pub(crate) struct ControlOptions {
    /// Starts, deaths, probe failures and failures in the traffic that are measured, each.
    #[arg(long, default_value_t = 100)]
    runs: u32,
    /// Restarts of containers between two looks at the agent's descriptors.
    #[arg(long, default_value_t = 1000)]
    restarts: u32,
    /// Services of the file that are present.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    services: u32,
    /// Backends of each of them.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=16))]
    backends: u32,
    /// Times that all of them are made from nothing.
    #[arg(long, default_value_t = 10)]
    syncs: u32,
    /// Time for which the idle agent is watched.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Print a JSON object for each row instead of the table.
    #[arg(long)]
    json: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Starts and deaths of containers.
    Deaths,
    /// Probes that fail.
    Probes,
    /// Servers that are gone, or silent, while their containers live.
    Passive,
    /// What the agent takes when nothing happens.
    Idle,
    /// Descriptors and memory over many restarts.
    Restarts,
    /// All services of the file from nothing.
    Sync,
}

impl ControlOptions {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The services of the file: each a VIP's port and static backends that nobody is behind.
    fn file_services(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for service in 0..self.services {
            let (vip, port) = sync::frontend(service);
            let frontend = format!("tcp://{vip}:{port}");
            // Writing to a string cannot fail.
            write!(text, "[[service]]\nname = \"s{service}\"\nfrontends = [{frontend:?}]\n").ok();
            for backend in 0..self.backends {
                let [high, low] = [service / 250, service % 250];
                let address = format!("10.{}.{low}.{}:80", 128 + high, backend + 1);
                write!(text, "[[service.backend]]\naddress = {address:?}\n").ok();
            }
        }
        text
    }
}

pub(crate) fn run(options: &ControlOptions) -> Result<()> {
    ensure!(options.runs > 0 && options.syncs > 0, "nothing to measure: --runs and --syncs");
    lb_tests::process::catch_interrupts()?;
    let mut report = Report::new(options);
    if options.has(Part::Sync) {
        sync::measure(options, &mut report)?;
    }
    let of_containers = [Part::Deaths, Part::Probes, Part::Passive, Part::Idle, Part::Restarts];
    if of_containers.iter().any(|it| options.has(*it)) {
        containers::measure(options, &mut report)?;
    }
    report.print();
    Ok(())
}
