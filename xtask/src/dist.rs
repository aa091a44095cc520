//! `cargo xtask dist`: one archive with all that goes to a server.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::binaries::{self, Profile};
use crate::ebpf::{self, Build};
use crate::{command, workspace};

/// Files of the source tree that are packed as they are: where from, and the name in the archive.
const FILES: &[(&str, &str)] = &[
    ("dist/lb-agent.service", "lb-agent.service"),
    ("dist/lb.toml", "lb.toml.example"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.md", "README.md"),
];

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to put the archive.
    #[arg(long, default_value = "target/dist")]
    output: PathBuf,
}

/// The subcommand.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // Before minutes of compiling.
    if let Some((missing, _)) = FILES.iter().find(|(from, _)| !workspace::path(from).is_file()) {
        bail!("{missing} is not there, and belongs into the archive");
    }
    ebpf::build_and_check(&Build::release())?;
    let (agent, lbctl) = binaries::build_agent(Profile::Release)?;

    let name = format!("lb-{}-linux-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let output = workspace::root().join(&options.output);
    let staging = output.join(&name);
    if staging.exists() {
        std::fs::remove_dir_all(&staging)
            .with_context(|| format!("cannot remove {}", staging.display()))?;
    }
    std::fs::create_dir_all(&staging)
        .with_context(|| format!("cannot make {}", staging.display()))?;
    copy(&agent, &staging.join("lb-agent"))?;
    copy(&lbctl, &staging.join("lbctl"))?;
    for (from, to) in FILES {
        copy(&workspace::path(from), &staging.join(to))?;
    }
    let archive = output.join(format!("{name}.tar.gz"));
    // Owner, order and times do not depend on who packs.
    command::run(
        Command::new("tar")
            .args(["--create", "--gzip", "--sort=name", "--owner=root:0", "--group=root:0"])
            .args(["--mtime=@0", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&output)
            .arg(&name),
    )?;
    println!("{}", archive.display());
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
