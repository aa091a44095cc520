//! Builds the programs for this machine.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, workspace};

/// Paths of what was built.
pub(crate) struct Binaries {
    pub(crate) agent: PathBuf,
    pub(crate) lbctl: PathBuf,
    /// Linked statically, for images that have nothing else in them.
    pub(crate) testkit: PathBuf,
}

/// How to compile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build, with debug assertions.
    Dev,
    /// As it is shipped.
    Release,
}

impl Profile {
    fn directory(self) -> PathBuf {
        workspace::target_dir().join(match self {
            Self::Dev => "debug",
            Self::Release => "release",
        })
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }
}

/// Builds the agent, which embeds the object that was built before, and lbctl.
pub(crate) fn build_agent(profile: Profile) -> Result<(PathBuf, PathBuf)> {
    command::run(
        command::host_cargo()
            .args(["build", "--quiet", "--locked", "--package", "lb-agent", "--bins"])
            .args(profile.arguments()),
    )?;
    Ok((profile.directory().join("lb-agent"), profile.directory().join("lbctl")))
}

/// Builds agent, lbctl and the programs that tests put into containers.
pub(crate) fn build(profile: Profile) -> Result<Binaries> {
    let (agent, lbctl) = build_agent(profile)?;
    Ok(Binaries { agent, lbctl, testkit: build_testkit()? })
}

fn build_testkit() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // A directory of its own: other flags for the same crate would rebuild each other for ever.
    let directory = workspace::target_dir().join("testkit");
    let mut cargo = command::host_cargo();
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--package", "lb-testkit"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&directory)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    command::run(&mut cargo)?;
    Ok(directory.join(triple).join("release/lb-testkit"))
}

/// Builds a program of the crate with the end-to-end tests.
pub(crate) fn build_test_program(name: &str) -> Result<PathBuf> {
    command::run(
        command::host_cargo()
            .args(["build", "--quiet", "--release", "--locked", "--package", "lb-tests"])
            .args(["--bin", name]),
    )?;
    Ok(Profile::Release.directory().join(name))
}
