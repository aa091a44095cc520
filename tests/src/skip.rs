//! Skipping a test, loudly: a line on standard output, and one in the file that `LB_SKIP_LOG` names,
//! where the test runner compares it with `skips.toml`.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use object::{
    LittleEndian,
    elf::{FileHeader64, PT_INTERP},
    read::elf::{FileHeader as _, ProgramHeader as _},
};

/// Reports that the test of this name is skipped, and why. Use [`crate::skip!`].
pub fn report(name: &str, why: &str) {
    println!("SKIP {name}: {why}");
    let Some(path) = std::env::var_os("LB_SKIP_LOG") else { return };
    let opened = OpenOptions::new().create(true).append(true).open(&path);
    // One write, so that lines of parallel tests do not mix.
    let line = format!("SKIP {name}: {why}\n");
    if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
        // A skip that is not recorded would pass for a test that ran.
        panic!("cannot record a skipped test in {}: {error}", Path::new(&path).display());
    }
}

/// Name of the test that this is used in.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        path.trim_end_matches("::here").rsplit("::").next().unwrap_or(path)
    }};
}

/// Skips the test: `skip!("why {}", details)` returns from it.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        $crate::skip::report($crate::test_name!(), &format!($($why)+));
        return Ok(());
    }};
}

/// Skips the test where something is missing: `needs!(namespaces)`, `needs!(docker)`, or programs that it
/// runs: `needs!("dig")`.
#[macro_export]
macro_rules! needs {
    (namespaces) => {
        if let Some(why) = $crate::skip::lacking(false) {
            $crate::skip!("{why}");
        }
    };
    (docker) => {
        if let Some(why) = $crate::skip::lacking(true) {
            $crate::skip!("{why}");
        }
    };
    ($($program:literal),+) => {
        if let Some(why) = $crate::skip::missing(&[$($program),+]) {
            $crate::skip!("{why}");
        }
    };
}

/// What this machine lacks for tests with namespaces, or with Docker too.
#[must_use]
pub fn lacking(docker: bool) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if let Err(error) = lb_agent::datapath::embedded() {
        return Some(error.to_string());
    }
    let mut programs =
        vec!["ip", "tc", "nsenter", "unshare", "setpriv", "ethtool", "nft", "sysctl"];
    if docker {
        programs.extend(["docker", "dockerd", "iptables", "tar"]);
    }
    missing(&programs)
}

/// Those of these programs that this machine lacks.
#[must_use]
pub fn missing(programs: &[&str]) -> Option<String> {
    let missing: Vec<_> = programs.iter().filter(|name| find(name).is_none()).copied().collect();
    (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|it| it.is_file())
}

/// Why a program of this machine is not one that stands alone, with no library between it and the kernel.
#[must_use]
pub fn not_static(program: &str) -> Option<String> {
    let Some(path) = find(program) else { return Some(format!("needs {program}")) };
    match interpreter(&path) {
        Ok(None) => None,
        Ok(Some(loader)) => {
            Some(format!("needs a static {program}, and {} is loaded by {loader}", path.display()))
        }
        Err(error) => Some(format!("needs a static {program}: {error:#}")),
    }
}

/// What loads a program and its libraries; `None`: it is linked statically.
pub fn interpreter(path: &Path) -> Result<Option<String>> {
    let shown = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(shown)?;
    let header = FileHeader64::<LittleEndian>::parse(&*bytes).with_context(shown)?;
    let segments = header.program_headers(LittleEndian, &*bytes).with_context(shown)?;
    let loader = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_INTERP);
    let name = loader.map(|segment| segment.data(LittleEndian, &*bytes));
    let name = name.transpose().map_err(|()| anyhow::anyhow!("{} is cut off", shown()))?;
    Ok(name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()))
}
