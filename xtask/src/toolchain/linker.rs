//! Finds a bpf-linker for a version of LLVM, or builds one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile64;

use crate::{command, packages};

const PROGRAM: &str = "bpf-linker";

/// Options of the linker without which our build makes no sense; an older one does not know them.
const NEEDED_OPTIONS: &[&str] = &["--btf", "--disable-expand-memcpy-in-order"];

/// A linker that fits the compiler. One that says which LLVM it uses goes before one that has it
/// built in, which can only be believed.
pub(super) fn find(llvm_major: u32) -> Option<PathBuf> {
    let mut with_llvm_inside = None;
    for path in candidates(llvm_major) {
        if !is_usable(&path) {
            continue;
        }
        match dynamic_llvm_major(&path) {
            Some(major) if major == llvm_major => return Some(path),
            Some(_) => {}
            None => with_llvm_inside = with_llvm_inside.or(Some(path)),
        }
    }
    with_llvm_inside
}

/// Builds a linker against the distribution's LLVM, in a directory of its own: the developer's
/// bpf-linker may belong to another LLVM and stays as it is.
pub(super) fn install(llvm_major: u32) -> Result<PathBuf> {
    if let Some(path) = find(llvm_major) {
        return Ok(path);
    }
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{llvm_major}"));
    if !llvm.join("bin/llvm-config").exists() || !llvm.join("lib/libLLVM.so").exists() {
        install_llvm(llvm_major)?;
    }
    let mut needs_compiler = vec![packages::Need { program: "cc", package: "gcc" }];
    needs_compiler.push(packages::Need { program: "g++", package: "g++" });
    packages::ensure_programs(&needs_compiler)?;

    let root = our_directory(llvm_major).context("neither HOME nor XDG_CACHE_HOME is set")?;
    println!("installing {PROGRAM} for LLVM {llvm_major} into {}", root.display());
    let mut cargo = command::host_cargo();
    command::clear_compiler_environment(&mut cargo);
    cargo
        .args(["install", PROGRAM, "--quiet", "--locked", "--force", "--no-default-features"])
        .arg(format!("--features=llvm-{llvm_major}"))
        .arg("--root")
        .arg(&root)
        .env("LLVM_PREFIX", &llvm)
        .env("PATH", command::path_with(&llvm.join("bin"))?);
    command::run(&mut cargo)?;
    find(llvm_major)
        .with_context(|| format!("the {PROGRAM} that was built does not run: {}", root.display()))
}

fn install_llvm(llvm_major: u32) -> Result<()> {
    let wanted = [format!("llvm-{llvm_major}-dev"), format!("libpolly-{llvm_major}-dev")];
    if packages::obstacle().is_some() {
        return packages::install(&wanted, "to build bpf-linker");
    }
    // polly is part of some LLVM packages, and then there is none of that name.
    let available = packages::available(&wanted);
    if !available.contains(&wanted[0]) {
        bail!(
            "no bpf-linker for LLVM {llvm_major} in PATH, and no package {} to build one",
            wanted[0]
        );
    }
    packages::install(&available, "to build bpf-linker")
}

fn candidates(llvm_major: u32) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = our_directory(llvm_major)
        .into_iter()
        .chain(cargo_home)
        .map(|root| root.join("bin"))
        .chain(std::env::split_paths(&path));
    let mut found = Vec::new();
    for candidate in directories.map(|directory| directory.join(PROGRAM)) {
        if command::is_executable(&candidate) && !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// Shared by all clones on the machine: the linker takes a minute to build.
fn our_directory(llvm_major: u32) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("lb-xtask").join(format!("llvm-{llvm_major}")))
}

/// It starts (its LLVM is still installed) and knows the options that we need.
fn is_usable(path: &Path) -> bool {
    command::output(Command::new(path).arg("--help"))
        .is_ok_and(|help| NEEDED_OPTIONS.iter().all(|option| help.contains(option)))
}

/// Major version of the LLVM library that a program loads; none if it has LLVM inside.
fn dynamic_llvm_major(path: &Path) -> Option<u32> {
    let data = std::fs::read(path).ok()?;
    let file = ElfFile64::<object::Endianness>::parse(&*data).ok()?;
    let table = file.elf_section_table().dynamic_table(file.endian(), &*data).ok()?;
    table
        .iter()
        .filter(|entry| entry.tag == object::elf::DT_NEEDED)
        .filter_map(|entry| table.string(entry).ok())
        .find_map(|name| llvm_major_of_library(&String::from_utf8_lossy(name)))
}

/// `libLLVM.so.22.1` and `libLLVM-18.so.1` are the two ways in which it is named.
fn llvm_major_of_library(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("libLLVM")?;
    let digits = rest.strip_prefix(".so.").or_else(|| rest.strip_prefix('-'))?;
    digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_llvm_libraries() {
        let cases = [
            ("libLLVM.so.22.1", Some(22)),
            ("libLLVM-18.so.1", Some(18)),
            ("libLLVM.so.23.0-rust-1.99.0-nightly", Some(23)),
            ("libLLVM.so", None),
            ("libLLVM-C.so", None),
            ("libc.so.6", None),
        ];
        for (name, major) in cases {
            assert_eq!(llvm_major_of_library(name), major, "{name}");
        }
    }

    #[test]
    fn a_program_without_llvm_tells_no_version() {
        let this_program = std::env::current_exe().expect("the test has a path");
        assert_eq!(dynamic_llvm_major(&this_program), None);
    }
}
