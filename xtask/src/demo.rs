//! `cargo xtask demo`: builds what the demonstration shows, and starts it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::binaries::{self, Profile};
use crate::ebpf::{self, Build};
use crate::{command, packages};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the demonstration.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The subcommand. It does not return when the demonstration starts: that takes its place, so that
/// its exit code and the terminal's signals are its own.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !command::is_root() {
        bail!(
            "the demonstration makes network namespaces and loads kernel programs: run it as root"
        );
    }
    packages::ensure_programs(packages::TESTBED)?;
    ebpf::build_and_check(&Build::release())?;
    println!("building lb-agent, lbctl and the demonstration");
    let binaries = binaries::build(Profile::Release)?;
    let demo = binaries::build_test_program("lb-demo")?;

    let mut command = Command::new(&demo);
    command.arg("--agent").arg(&binaries.agent);
    command.arg("--lbctl").arg(&binaries.lbctl);
    command.arg("--testkit").arg(&binaries.testkit);
    command.args(&options.arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", command::describe(&command)))
}
