//! Network namespaces, and what is in them.

use std::{
    fs::File, os::unix::process::CommandExt as _, path::PathBuf, process::Command, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    names,
    process::{self, words},
};

/// A named network namespace with `lo` up; removed on drop, with all its links.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Whether this is the namespace of the machine itself, which is never removed.
    is_host: bool,
    /// Whether it goes with this value.
    is_owner: bool,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Result<Self> {
        names::sweep();
        let name = names::unique();
        process::run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name, is_host: false, is_owner: true };
        namespace.ip("link set lo up")?;
        // Else addresses change by themselves for seconds.
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0")?;
        Ok(namespace)
    }

    /// The machine's own, for the demo beside a Docker daemon that was there before.
    #[must_use]
    pub fn host() -> Self {
        Self { name: String::new(), is_host: true, is_owner: false }
    }

    /// The same namespace, without the duty to remove it.
    #[must_use]
    pub fn borrowed(&self) -> Self {
        Self { name: self.name.clone(), is_host: self.is_host, is_owner: false }
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that keeps it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(if self.is_host {
            "/proc/self/ns/net".to_owned()
        } else {
            format!("/run/netns/{}", self.name)
        })
    }

    /// A program that will run in it. It is ended when the thread that starts it ends.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // Not `ip netns exec`: that hides /sys/fs/bpf and the cgroups.
        let mut command = Command::new("setpriv");
        // Ctrl-C is for us: what is running is still needed to clean up.
        command.process_group(0);
        command.args(["--pdeathsig", "KILL"]);
        if !self.is_host {
            command.arg("nsenter").arg(format!("--net={}", self.path().display()));
        }
        command.arg(program);
        command
    }

    /// Runs a line, split at blanks, to its end.
    pub fn run(&self, line: &str) -> Result<String> {
        let line = words(line);
        process::run(self.command(line.get_program()).args(line.get_args()))
    }

    /// `ip` in it.
    pub fn ip(&self, line: &str) -> Result<String> {
        self.run(&format!("ip {line}"))
    }

    /// Sets a sysctl: `net.ipv4.ip_forward=1`.
    pub fn sysctl(&self, setting: &str) -> Result<()> {
        self.run(&format!("sysctl -qw {setting}")).map(|_| ())
    }

    /// Switches offloads of a link: `tx off`, `gro on`.
    pub fn offload(&self, link: &str, setting: &str) -> Result<()> {
        self.run(&format!("ethtool -K {link} {setting}")).map(|_| ())
    }

    /// Connects it to another by a veth pair with an address each, both up.
    pub fn connect(&self, end: (&str, &str), other: &Self, other_end: (&str, &str)) -> Result<()> {
        let ((link, address), (other_link, other_address)) = (end, other_end);
        // Made in the other namespace at once, under a name that may be taken here.
        let netns = if other.is_host {
            format!("netns {}", std::process::id())
        } else {
            format!("netns {}", other.name)
        };
        self.ip(&format!("link add {link} type veth peer name {other_link} {netns}"))?;
        self.ip(&format!("addr add {address} dev {link}"))?;
        other.ip(&format!("addr add {other_address} dev {other_link}"))?;
        self.ip(&format!("link set {link} up"))?;
        other.ip(&format!("link set {other_link} up"))?;
        self.wait_up(link)?;
        other.wait_up(other_link)
    }

    /// Waits until the kernel has noticed that a link has a carrier.
    fn wait_up(&self, link: &str) -> Result<()> {
        process::wait_for(&format!("link {link}"), Duration::from_secs(5), || {
            let shown = self.ip(&format!("-o link show dev {link}"))?;
            ensure!(shown.contains("state UP"), "{shown}");
            Ok(())
        })
    }

    /// Runs a function on a thread of its own that has entered the namespace.
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(function())
            });
            thread.join().map_err(|_| anyhow!("panic in namespace {}", self.name))?
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.is_owner {
            return;
        }
        let deleted = process::run(Command::new("ip").args(["netns", "del", &self.name]));
        if let Err(error) = deleted {
            eprintln!("{error:#}");
        }
    }
}
