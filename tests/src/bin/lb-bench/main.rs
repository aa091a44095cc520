//! What a packet costs, and what a path carries: `cargo xtask bench [packet|path]`.
//!
//! Figures are ratios within one run, over interleaved rounds; absolute numbers move from machine to
//! machine. Nothing is asserted.

mod packet;

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
}

fn main() -> anyhow::Result<()> {
    match Options::parse().what {
        What::Packet(options) => packet::run(&options),
    }
}
