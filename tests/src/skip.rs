//! Skipping a test, loudly: a line on standard output, and one in the file that `LB_SKIP_LOG` names,
//! where the test runner compares it with `skips.toml`.

use std::{fs::OpenOptions, io::Write as _, path::Path};

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

/// Skips the test where something is missing: `needs!(namespaces)`, `needs!(docker)`.
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
    let missing: Vec<_> = programs.into_iter().filter(|name| !has(name)).collect();
    (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")))
}

/// Whether a program is installed.
#[must_use]
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}
