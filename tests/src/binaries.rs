//! Where the programs under test are: `LB_AGENT`, `LB_CTL`, `LB_TESTKIT`, else what the last build
//! left in the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, ensure};

use crate::process;

/// Paths of the programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `lb-agent`, with the eBPF object in it.
    pub agent: PathBuf,
    /// `lbctl`.
    pub lbctl: PathBuf,
    /// `lb-testkit`, linked statically.
    pub testkit: PathBuf,
}

impl Binaries {
    /// Finds them, once per process.
    pub fn find() -> Result<&'static Self> {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        if let Some(given) = GIVEN.get() {
            return Ok(given);
        }
        FOUND
            .get_or_init(|| {
                Self::look().map_err(|error| format!("{error:#}; `cargo xtask test` builds all"))
            })
            .as_ref()
            .map_err(|message| anyhow::anyhow!("{message}"))
    }

    fn look() -> Result<Self> {
        Ok(Self {
            agent: find("LB_AGENT", "lb-agent")?,
            lbctl: find("LB_CTL", "lbctl")?,
            testkit: testkit()?,
        })
    }
}

static GIVEN: OnceLock<Binaries> = OnceLock::new();

/// Uses these from here on, for a program that is told where they are.
pub fn set(binaries: Binaries) -> Result<()> {
    for path in [&binaries.agent, &binaries.lbctl, &binaries.testkit] {
        ensure!(path.is_file(), "{} is no file", path.display());
    }
    ensure!(GIVEN.set(binaries).is_ok(), "the programs are known already");
    Ok(())
}

/// `lb-testkit`: found, or built, which takes a few seconds as it has no dependencies.
pub fn testkit() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(given) = GIVEN.get() {
        return Ok(given.testkit.clone());
    }
    if let Some(path) = from_environment("LB_TESTKIT") {
        return path;
    }
    BUILT
        .get_or_init(|| build_testkit().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|message| anyhow::anyhow!("{message}"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn build_testkit() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = workspace().join("target/testkit");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for variable in ["RUSTC", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    cargo
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--locked", "--package", "lb-testkit"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    process::run(&mut cargo).context("cannot build lb-testkit")?;
    Ok(directory.join(triple).join("release/lb-testkit"))
}

fn from_environment(variable: &str) -> Option<Result<PathBuf>> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    Some(if path.is_file() {
        Ok(path)
    } else {
        Err(anyhow::anyhow!("{variable}={} is no file", path.display()))
    })
}

fn find(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = from_environment(variable) {
        return path;
    }
    let newest = ["release", "debug"]
        .map(|profile| workspace().join("target").join(profile).join(name))
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    ensure!(newest.is_some(), "{name} is not built and {variable} is not set");
    newest.context("just checked")
}
