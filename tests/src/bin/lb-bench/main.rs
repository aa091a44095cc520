//! What a packet costs, and what a path carries: `cargo xtask bench [packet|path|probes|control]`.
//!
//! Figures are ratios within one run, over interleaved rounds; absolute numbers move from machine to
//! machine. Nothing is asserted.

mod control;
mod packet;
mod path;
mod probes;

use clap::{Parser, Subcommand};

/// Benchmarks of lb.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds per packet of each program, against an empty one.
    Packet(packet::PacketOptions),
    /// Throughput, rates and times through namespaces, beside routing, nftables, `HAProxy` and nginx.
    Path(path::PathOptions),
    /// How quickly the agent follows containers, and what it takes for that.
    Control(control::ControlOptions),
    /// Processor time of ten thousand probes.
    Probes(probes::ProbesOptions),
    /// What `path` measures in a container: what a call costs.
    #[command(hide = true)]
    ConnectCost(path::CostOptions),
    /// What `probes` probes.
    #[command(hide = true)]
    ProbeServer(probes::ServerOptions),
}

fn main() -> anyhow::Result<()> {
    match Options::parse().what {
        What::Packet(options) => packet::run(&options),
        What::Path(options) => path::run(&options),
        What::Control(options) => control::run(&options),
        What::ConnectCost(options) => path::cost(&options),
        What::Probes(options) => probes::run(&options),
        What::ProbeServer(options) => probes::serve(&options),
    }
}
