//! Builds, tests and shows lb: `cargo xtask <command>`.
//!
//! One module per command. Whatever a command needs and the machine lacks is installed by it, and
//! it says what it installs; where it cannot, it ends with one line that says what is missing.

mod abi;
mod binaries;
mod command;
mod dist;
mod ebpf;
mod launch;
mod object_check;
mod packages;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, tests and shows lb")]
struct Options {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compile the kernel programs, and check the object.
    BuildEbpf(ebpf::Options),
    /// Everything that a change has to pass: format, lints, unit, in-kernel and end-to-end tests.
    Test(test::Options),
    /// `test`, and the checks that need further tools, where these are installed.
    Ci(test::Options),
    /// Show the balancer at work on this machine, and clean up.
    Demo(launch::Options),
    /// Measure: `packet` (cost of the programs), `path` (throughput and latency beside others), `probes`
    /// or `control` (how quickly the agent follows containers, and what it takes).
    Bench(launch::Options),
    /// Pack what goes to a server into one archive.
    Dist(dist::Options),
    /// Record the map layouts of lb-common as those of their ABI version.
    BlessAbi,
}

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Task::BuildEbpf(options) => ebpf::run(&options),
        Task::Test(options) => test::run(&options, test::Extent::Test),
        Task::Ci(options) => test::run(&options, test::Extent::Ci),
        Task::Demo(options) => launch::demo(&options),
        Task::Bench(options) => launch::bench(&options),
        Task::Dist(options) => dist::run(&options),
        Task::BlessAbi => abi::bless(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
