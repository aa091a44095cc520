//! Installs system packages: only when something is missing, and never silently.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::{command, workspace};

/// A program that is needed, and the Debian package that has it.
pub(crate) struct Need {
    /// Name of the program.
    pub(crate) program: &'static str,
    /// Name of the package.
    pub(crate) package: &'static str,
}

/// What the demonstration and the end-to-end tests use.
pub(crate) const TESTBED: &[Need] = &[
    Need { program: "dockerd", package: "docker.io" },
    Need { program: "docker", package: "docker.io" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "tc", package: "iproute2" },
    Need { program: "iptables", package: "iptables" },
    Need { program: "nft", package: "nftables" },
    Need { program: "ethtool", package: "ethtool" },
    Need { program: "curl", package: "curl" },
    Need { program: "busybox", package: "busybox-static" },
    Need { program: "docker-compose", package: "docker-compose" },
    // The server is in there, too, and nothing that would be started.
    Need { program: "redis-cli", package: "redis-tools" },
    Need { program: "dig", package: "bind9-dnsutils" },
    Need { program: "python3", package: "python3" },
    Need { program: "nsenter", package: "util-linux" },
    Need { program: "unshare", package: "util-linux" },
    Need { program: "setpriv", package: "util-linux" },
    Need { program: "mount", package: "mount" },
    Need { program: "sysctl", package: "procps" },
    Need { program: "tar", package: "tar" },
];

/// What tests run whose package would start it as a service of this machine: it is unpacked instead.
pub(crate) const UNPACKED: &[Need] = &[Need { program: "nginx", package: "nginx" }];

/// Sees to it that every program is there.
pub(crate) fn ensure_programs(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> =
        needs.iter().filter(|need| command::find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|need| need.program).collect();
    let mut packages: Vec<String> = missing.iter().map(|need| need.package.to_owned()).collect();
    packages.sort();
    packages.dedup();
    install(&packages, &format!("for {}", programs.join(", ")))
}

/// Unpacks a program below the target directory. Returns the directory that has it; `None`: the machine
/// has it already.
pub(crate) fn unpack(need: &Need) -> Result<Option<PathBuf>> {
    let Need { program, package } = need;
    if command::find_program(program).is_some() {
        return Ok(None);
    }
    let directory = workspace::target_dir().join("tools").join(package);
    let programs = directory.join("usr/sbin");
    if programs.join(program).is_file() {
        return Ok(Some(programs));
    }
    if let Some(obstacle) = obstacle() {
        bail!(
            "{program} is missing, of package {package}; {obstacle}, so please install it yourself"
        );
    }
    println!("unpacking package {package} for {program}, without installing it");
    fs::create_dir_all(&directory)?;
    let download = || command::run(apt_get().current_dir(&directory).args(["download", package]));
    if download().is_err() {
        command::run(apt_get().arg("update"))?;
        download()?;
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&directory))?;
        }
    }
    ensure!(programs.join(program).is_file(), "package {package} has no {program}");
    Ok(Some(programs))
}

/// Whether packages can be installed here at all; the text says why not.
pub(crate) fn obstacle() -> Option<&'static str> {
    if command::find_program("apt-get").is_none() {
        Some("there is no apt-get here")
    } else if !command::is_root() {
        Some("xtask does not run as root")
    } else {
        None
    }
}

/// Installs packages; `purpose` says what for.
pub(crate) fn install(packages: &[String], purpose: &str) -> Result<()> {
    let list = packages.join(" ");
    if let Some(obstacle) = obstacle() {
        bail!("missing packages: {list} ({purpose}); {obstacle}, so please install them yourself");
    }
    println!("installing packages {purpose}: {list}");
    if apt_install(packages).is_err() {
        // The lists may be absent or older than the packages in the archive.
        command::run(apt_get().arg("update"))?;
        apt_install(packages)?;
    }
    Ok(())
}

/// Those of the packages that the archive has.
pub(crate) fn available(packages: &[String]) -> Vec<String> {
    let known = || -> Vec<String> {
        let is_known = |package: &&String| {
            let arguments = ["show", "--no-all-versions", package.as_str()];
            command::output(Command::new("apt-cache").args(arguments)).is_ok()
        };
        packages.iter().filter(is_known).cloned().collect()
    };
    let found = known();
    if !found.is_empty() || command::run(apt_get().arg("update")).is_err() {
        return found;
    }
    known()
}

fn apt_install(packages: &[String]) -> Result<()> {
    command::run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
