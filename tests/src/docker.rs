//! Docker: a client for any daemon, and a real daemon of our own in namespaces of its own.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    binaries,
    container::Container,
    names::{self, Directory},
    namespace::Namespace,
    process::{self, words},
};

/// Name of the image with `lb-testkit` in it.
pub const IMAGE: &str = "lb-testkit";

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// The daemon behind this socket.
    #[must_use]
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `docker` with this daemon.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        // Ctrl-C is for us: what is running is still needed to clean up.
        command.process_group(0);
        command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_HOST");
        command.arg("--host").arg(format!("unix://{}", self.socket.display()));
        command
    }

    /// Runs `docker LINE`, the line split at blanks.
    pub fn run(&self, line: &str) -> Result<String> {
        let line = words(&format!("docker {line}"));
        let output = process::run(self.command().args(line.get_args()))?;
        Ok(output.trim().to_owned())
    }

    /// Whether the daemon answers.
    pub fn ready(&self) -> Result<String> {
        self.run("info --format {{.ServerVersion}}")
    }

    /// Makes the image out of nothing but static binaries: no registry is asked.
    pub fn import_image(&self, name: &str) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("tmp"))?;
        fs::copy(binaries::testkit()?, root.join("bin/lb-testkit"))?;
        let archive = directory.join("image.tar");
        process::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        let entrypoint = r#"ENTRYPOINT ["/bin/lb-testkit"]"#;
        process::run(
            self.command().args(["import", "--change", entrypoint]).arg(&archive).arg(name),
        )?;
        Ok(())
    }

    /// Starts describing a container that serves; [`Container::start`] starts it.
    #[must_use]
    pub fn container(&self, name: &str) -> Container {
        Container::new(self.clone(), name)
    }
}

/// What a daemon of our own should be like.
#[derive(Clone, Copy, Debug)]
pub struct DockerOptions {
    /// Docker sets the policy of FORWARD to DROP only where it had to switch forwarding on itself;
    /// a namespace inherits it switched on. True: as on a real host.
    pub forward_drop: bool,
    /// Containers outlive the daemon.
    pub live_restore: bool,
    /// Whom containers ask for names; `None`: as the machine does.
    pub dns: Option<&'static str>,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self { forward_drop: true, live_restore: true, dns: None }
    }
}

/// A Docker daemon in network, mount and host-name namespaces of its own.
#[derive(Debug)]
pub struct DockerNode {
    daemon: Option<Child>,
    docker: Docker,
    cgroup: String,
    options: DockerOptions,
    namespace: Namespace,
    directory: Directory,
}

/// Runs in the daemon's namespaces before it. $1: cgroup and host name, $2: directory, rest: options.
const START: &str = r#"
set -e
name=$1 directory=$2; shift 2
hostname "$name"
# Other fixtures' pins and namespaces would live on in this copy of the mount table.
umount --lazy --recursive /run/netns 2>/dev/null || true
awk '$3 == "bpf" { print $2 }' /proc/self/mounts | while read -r target; do umount -l "$target"; done
# A sysfs that shows this network namespace, with the cgroups still in it.
mkdir -p "$directory/cgroup"
mount --rbind /sys/fs/cgroup "$directory/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$directory/cgroup" /sys/fs/cgroup
umount -l "$directory/cgroup"
mkdir -p /run/docker
mount -t tmpfs tmpfs /run/docker
# Docker switches forwarding on, and sets FORWARD to DROP then.
exec dockerd --data-root "$directory/data" --exec-root "$directory/exec" \
    --pidfile "$directory/docker.pid" --host "unix://$directory/docker.sock" \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$name" \
    --bip 172.30.0.1/24 --default-address-pool base=172.31.0.0/16,size=24 "$@"
"#;

impl DockerNode {
    /// Starts one and waits until it answers; about two seconds.
    pub fn start(options: DockerOptions) -> Result<Self> {
        let namespace = Namespace::new()?;
        let directory = Directory::in_memory()?;
        let cgroup = names::unique();
        let docker = Docker::at(directory.join("docker.sock"));
        let mut node = Self { daemon: None, docker, cgroup, options, namespace, directory };
        node.start_daemon()?;
        node.docker.import_image(IMAGE)?;
        Ok(node)
    }

    /// Starts the daemon, where it is not running. It gives up by itself when its containerd takes more than
    /// 15 seconds, which happens on a busy machine: then it is started once more.
    pub fn start_daemon(&mut self) -> Result<()> {
        if !self.try_start_daemon()? {
            println!("dockerd has ended, and is started again:\n{}", self.log());
            self.stop_daemon(Signal::SIGKILL);
            ensure!(self.try_start_daemon()?, "dockerd has ended:\n{}", self.log());
        }
        Ok(())
    }

    /// Whether it answers, and has not ended.
    fn try_start_daemon(&mut self) -> Result<bool> {
        if self.options.forward_drop {
            self.namespace.sysctl("net.ipv4.ip_forward=0")?;
        }
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = self.namespace.command("unshare");
        command
            .args(["--mount", "--uts", "--propagation", "private", "bash", "-c", START, "bash"])
            .arg(&self.cgroup)
            .arg(self.directory.path())
            .args(self.options.live_restore.then_some("--live-restore"))
            .args(self.options.dns.map(|server| ["--dns", server]).into_iter().flatten())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut daemon = command.spawn()?;
        let ready = process::wait_for("dockerd", Duration::from_secs(30), || {
            if daemon.try_wait()?.is_some() {
                return Ok(false);
            }
            self.docker.ready().map(|_version| true)
        });
        if !matches!(ready, Ok(false)) {
            self.daemon = Some(daemon);
        }
        ready.with_context(|| self.log())
    }

    /// Ends the daemon by this signal and waits for its end. With `live_restore` containers live on.
    pub fn stop_daemon(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            process::signal(&daemon, signal);
            process::wait_child(&mut daemon, Duration::from_secs(20));
        }
        // Its containerd dies with it, but may take a while, and the next one would wait for its database.
        let containerd = fs::read_to_string(self.directory.join("exec/containerd/containerd.pid"));
        if let Some(pid) = containerd.ok().and_then(|text| text.trim().parse().ok()) {
            self.wait_dead(pid);
        }
        // A killed daemon leaves its pid files, and where nothing reaps its containerd the next daemon would
        // take the number in the file for a living one.
        for file in ["docker.pid", "exec/containerd/containerd.pid"] {
            drop(fs::remove_file(self.directory.join(file)));
        }
    }

    /// Waits for our containerd to end, for which a zombie counts; one that takes too long is killed.
    fn wait_dead(&self, pid: i32) {
        let directory = self.directory.path().display().to_string();
        let is_over = || {
            // A zombie has no words; the number may be somebody else's by now.
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&words).contains(&directory)
        };
        if !process::poll(Duration::from_secs(10), is_over) {
            process::kill(pid, Signal::SIGKILL);
            process::poll(Duration::from_secs(10), is_over);
        }
    }

    /// Where it looks for plugins, as seen from here.
    pub fn plugins(&self) -> Result<PathBuf> {
        let daemon = self.daemon.as_ref().context("dockerd does not run")?;
        Ok(format!("/proc/{}/root/run/docker/plugins", daemon.id()).into())
    }

    /// Client of the daemon.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Name of the cgroup that its containers are in.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The namespace that it runs in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Last lines of the daemon's log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for DockerNode {
    /// Nobody needs the daemon to tidy up: its mounts and links are in namespaces that end with its
    /// processes, and its files are removed with their directory.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            process::signal(&daemon, Signal::SIGKILL);
            process::wait_child(&mut daemon, Duration::from_secs(15));
        }
        names::end_processes_of(self.directory.path());
        names::remove_cgroups(&self.cgroup);
    }
}
