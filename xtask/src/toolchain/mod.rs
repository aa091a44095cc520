//! Finds a compiler that can build for BPF, or installs one.
//!
//! What is needed: a compiler with its library sources (there is no precompiled `core` for BPF),
//! and a bpf-linker that was built against an LLVM of the compiler's major version. Two ways lead
//! there: a nightly toolchain of rustup with `rust-src`, or the compiler of the distribution with
//! its source package. What is complete already is taken first; no exact version is asked for.

mod compiler;
mod linker;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;
use compiler::Compiler;

/// The packages of Debian with a current compiler; the ones without `-web` are far too old.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// LLVM can read a packet with more than byte loads on BPF from this version.
const LLVM_MAJOR_MIN: u32 = 22;

/// A compiler and a linker that fit together.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// One line for the reader of the build's output.
    pub(crate) fn describe(&self) -> String {
        format!("{}, linked by {}", self.compiler.describe(), self.linker.display())
    }

    /// A `cargo` in a clean environment that builds for BPF with this toolchain.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut cargo = Command::new(&self.compiler.cargo);
        command::clear_compiler_environment(&mut cargo);
        cargo.env("RUSTC", &self.compiler.rustc);
        if self.compiler.needs_bootstrap {
            // `-Z build-std` is for nightly compilers; a stable one of a distribution can do it too.
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        if let Some(directory) = self.linker.parent() {
            cargo.env("PATH", command::path_with(directory)?);
        }
        Ok(cargo)
    }
}

/// Finds a toolchain, or installs what is missing of one.
pub(crate) fn find_or_install() -> Result<Toolchain> {
    let compilers = compiler::find_all();
    match find_complete(&compilers) {
        Some(toolchain) => Ok(toolchain),
        None => install(compilers),
    }
}

/// Finds a toolchain that lacks nothing.
#[cfg(test)]
pub(crate) fn find() -> Option<Toolchain> {
    find_complete(&compiler::find_all())
}

fn find_complete(compilers: &[Compiler]) -> Option<Toolchain> {
    compilers.iter().filter(|compiler| compiler.defect().is_none()).find_map(|compiler| {
        let linker = linker::find(compiler.llvm_major)?;
        Some(Toolchain { compiler: compiler.clone(), linker })
    })
}

/// Completes what is nearest to complete: a compiler with sources lacks only the linker; rustup can
/// perhaps fetch the sources; else the distribution has it all.
fn install(compilers: Vec<Compiler>) -> Result<Toolchain> {
    let mut tried = Vec::new();
    for compiler in compilers {
        let compiler = match compiler.complete() {
            Ok(compiler) => compiler,
            Err(error) => {
                tried.push(format!("{error:#}"));
                continue;
            }
        };
        match linker::install(compiler.llvm_major) {
            Ok(linker) => return Ok(Toolchain { compiler, linker }),
            Err(error) => tried.push(format!("{}: {error:#}", compiler.describe())),
        }
    }
    match install_system_compiler() {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => tried.push(format!("packages: {error:#}")),
    }
    bail!(
        "no compiler for BPF: needs a nightly toolchain with `rust-src`, or the packages {}; and a \
         bpf-linker for the same LLVM, {LLVM_MAJOR_MIN} or newer. Tried: {}",
        COMPILER_PACKAGES.join(", "),
        tried.join("; ")
    );
}

fn install_system_compiler() -> Result<Toolchain> {
    let packages: Vec<String> = COMPILER_PACKAGES.iter().map(ToString::to_string).collect();
    crate::packages::install(&packages, "for the BPF compiler")?;
    let Some(compiler) = compiler::find_system() else {
        bail!("{} left no compiler in /usr/bin", COMPILER_PACKAGES.join(", "));
    };
    if let Some(defect) = compiler.defect() {
        bail!("{defect}");
    }
    let linker = match linker::find(compiler.llvm_major) {
        Some(linker) => linker,
        None => linker::install(compiler.llvm_major)?,
    };
    Ok(Toolchain { compiler, linker })
}
