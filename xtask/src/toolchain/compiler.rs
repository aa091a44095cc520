//! The compilers on this machine, and whether they can build `core` for BPF.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::LLVM_MAJOR_MIN;
use crate::command;

/// How long rustup may take to fetch sources before another way is tried.
const RUSTUP_LIMIT: Duration = Duration::from_mins(2);

/// A compiler with its cargo.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    /// Name of the toolchain in rustup; none: the compiler of the distribution.
    pub(super) rustup_name: Option<String>,
    pub(super) cargo: PathBuf,
    pub(super) rustc: PathBuf,
    pub(super) release: String,
    pub(super) llvm_major: u32,
    /// It takes unstable options only when told so.
    pub(super) needs_bootstrap: bool,
}

impl Compiler {
    pub(super) fn describe(&self) -> String {
        let name = self.rustup_name.as_deref().unwrap_or("the distribution's compiler");
        format!("{name} (rustc {}, LLVM {})", self.release, self.llvm_major)
    }

    /// What keeps it from building for BPF, if anything does.
    pub(super) fn defect(&self) -> Option<String> {
        if self.llvm_major < LLVM_MAJOR_MIN {
            return Some(format!("{} has an LLVM older than {LLVM_MAJOR_MIN}", self.describe()));
        }
        (!self.has_sources()).then(|| format!("{} lacks its library sources", self.describe()))
    }

    /// The compiler with its sources, fetched by rustup if need be.
    pub(super) fn complete(self) -> Result<Self> {
        let Some(defect) = self.defect() else { return Ok(self) };
        let (Some(name), true) = (&self.rustup_name, self.llvm_major >= LLVM_MAJOR_MIN) else {
            bail!("{defect}");
        };
        println!("installing rust-src of {name} with rustup");
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src", "--toolchain", name]);
        command::clear_compiler_environment(&mut rustup);
        command::output_within(&mut rustup, RUSTUP_LIMIT).with_context(|| defect.clone())?;
        if !self.has_sources() {
            bail!("{defect}, also after `rustup component add rust-src`");
        }
        Ok(self)
    }

    fn has_sources(&self) -> bool {
        let sysroot = self.rustc.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        // The very file that cargo asks for before it builds `core`.
        sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file()
    }
}

/// Every candidate, best first: nightlies of rustup, then the distribution's compiler.
pub(super) fn find_all() -> Vec<Compiler> {
    find_nightlies().into_iter().chain(find_system()).collect()
}

/// The compiler in /usr/bin.
pub(super) fn find_system() -> Option<Compiler> {
    probe(None, Path::new("/usr/bin"))
}

fn find_nightlies() -> Vec<Compiler> {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "list"]);
    command::clear_compiler_environment(&mut rustup);
    let Ok(list) = command::output(&mut rustup) else { return Vec::new() };
    nightly_names(&list)
        .into_iter()
        .filter_map(|name| {
            let mut which = Command::new("rustup");
            which.args(["which", "--toolchain", &name, "rustc"]);
            command::clear_compiler_environment(&mut which);
            let rustc = PathBuf::from(command::output(&mut which).ok()?.trim());
            probe(Some(name), rustc.parent()?)
        })
        .collect()
}

/// The nightly toolchains in the output of `rustup toolchain list`: the undated one, which its
/// owner keeps up to date, then the newest.
fn nightly_names(list: &str) -> Vec<String> {
    let mut names: Vec<String> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly-"))
        .map(ToOwned::to_owned)
        .collect();
    names.sort_by_key(|name| {
        let dated = name["nightly-".len()..].starts_with(|first: char| first.is_ascii_digit());
        (dated, std::cmp::Reverse(name.clone()))
    });
    names
}

fn probe(rustup_name: Option<String>, directory: &Path) -> Option<Compiler> {
    let (cargo, rustc) = (directory.join("cargo"), directory.join("rustc"));
    if !command::is_executable(&cargo) || !command::is_executable(&rustc) {
        return None;
    }
    let mut version = Command::new(&rustc);
    version.arg("-vV");
    command::clear_compiler_environment(&mut version);
    let (release, llvm_major) = parse_version(&command::output(&mut version).ok()?)?;
    let needs_bootstrap = !release.contains("nightly") && !release.contains("dev");
    Some(Compiler { rustup_name, cargo, rustc, release, llvm_major, needs_bootstrap })
}

/// Release and LLVM's major version from the output of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm_major = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm_major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_a_compiler_is_read() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.63.0\nrelease: 1.63.0\n"), None);
        assert_eq!(parse_version("release: x\nLLVM version: unknown\n"), None);
    }

    #[test]
    fn undated_nightly_comes_first_then_the_newest() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n\
                    nightly-2026-01-02-x86_64-unknown-linux-gnu\n\
                    nightly-2026-05-19-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu\n1.95.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            nightly_names(list),
            [
                "nightly-x86_64-unknown-linux-gnu",
                "nightly-2026-05-19-x86_64-unknown-linux-gnu",
                "nightly-2026-01-02-x86_64-unknown-linux-gnu",
            ]
        );
        assert_eq!(nightly_names("no installed toolchains\n"), Vec::<String>::new());
    }
}
