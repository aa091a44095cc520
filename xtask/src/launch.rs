//! `cargo xtask demo` and `cargo xtask bench`: build what they need, and start them.
//!
//! What they do is in the crate lb-tests. The program takes the place of xtask, so that its exit
//! code and the terminal's signals are its own.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::binaries::{self, Profile};
use crate::command;
use crate::ebpf::{self, Build};
use crate::packages::{self, Need};

/// What is measured beside lb, or measures it.
const BENCH_NEEDS: &[Need] =
    &[Need { program: "iperf3", package: "iperf3" }, Need { program: "wrk", package: "wrk" }];

/// What lb is compared with, where it can be had.
const PEERS: &[Need] = &[
    Need { program: "haproxy", package: "haproxy" },
    Need { program: "nginx", package: "nginx-core" },
    Need { program: "nginx", package: "libnginx-mod-stream" },
];

/// Options of `cargo xtask demo` and `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the program.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The subcommand `demo`.
pub(crate) fn demo(options: &Options) -> Result<ExitCode> {
    require_root("the demonstration")?;
    packages::ensure_programs(packages::TESTBED)?;
    let mut demo = prepare("lb-demo")?;
    // Whom the scene of east-west lets call; it looks for it beside itself.
    binaries::build_test_program("lb-dial")?;
    let [agent, lbctl, testkit] = demo.paths;
    demo.command.arg("--agent").arg(agent).arg("--lbctl").arg(lbctl).arg("--testkit").arg(testkit);
    start(demo.command.args(&options.arguments))
}

/// The subcommand `bench`.
pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    require_root("the benchmark")?;
    packages::ensure_programs(packages::TESTBED)?;
    packages::ensure_programs(BENCH_NEEDS)?;
    // Rows beside ours: a bench without them is still one, and says what it lacks.
    if let Err(error) = packages::ensure_programs(PEERS) {
        println!("{error:#}");
    }
    let mut bench = prepare("lb-bench")?;
    let [agent, lbctl, testkit] = bench.paths;
    bench.command.env("LB_AGENT", agent).env("LB_CTL", lbctl).env("LB_TESTKIT", testkit);
    start(bench.command.args(&options.arguments))
}

struct Prepared {
    command: Command,
    /// Agent, lbctl and testkit.
    paths: [std::path::PathBuf; 3],
}

/// Builds a program of lb-tests and all that it shows, as it is shipped.
fn prepare(program: &str) -> Result<Prepared> {
    ebpf::build_and_check(&Build::release())?;
    println!("building lb-agent, lbctl and {program}");
    let binaries = binaries::build(Profile::Release)?;
    let command = Command::new(binaries::build_test_program(program)?);
    Ok(Prepared { command, paths: [binaries.agent, binaries.lbctl, binaries.testkit] })
}

fn require_root(what: &str) -> Result<()> {
    if !command::is_root() {
        bail!("{what} makes network namespaces and loads kernel programs: run it as root");
    }
    Ok(())
}

fn start(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", command::describe(command)))
}
