//! Names of what we make, and the sweeping of what a killed process left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Context as _;

use crate::process;

/// How every name of ours begins: namespaces, directories, cgroups.
pub const PREFIX: &str = "lbt-";

/// Where directories of ours are: on disk. What a Docker daemon writes is on a tmpfs of the test's own,
/// mounted below.
pub const ROOT: &str = "/var/tmp";

/// A name that nothing else has: `lbt-PID-N`.
#[must_use]
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether the name is ours and the process that made it is gone.
fn is_leftover(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Directories under which cgroups of ours may be: every mounted hierarchy.
fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_cgroup = |kind: &str| kind == "cgroup" || kind == "cgroup2";
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (target, kind) = (words.nth(1)?, words.next()?);
            is_cgroup(kind).then(|| PathBuf::from(target))
        })
        .collect()
}

/// Removes the cgroup of this name, and those in it, from every hierarchy. Processes that are still
/// in it are containers of a daemon of ours that could not remove them: they are ended.
pub fn remove_cgroups(name: &str) {
    fn subdirectories(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.filter(is_directory).map(|entry| entry.path()).collect()
    }
    fn end_processes(directory: &Path) {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            process::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        for subdirectory in subdirectories(directory) {
            end_processes(&subdirectory);
        }
    }
    fn remove(directory: &Path) {
        for subdirectory in subdirectories(directory) {
            remove(&subdirectory);
        }
        // Busy for a moment after its last process has ended.
        let removed = || fs::remove_dir(directory).is_ok() || !directory.exists();
        if !process::poll(std::time::Duration::from_secs(2), removed) {
            eprintln!("cannot remove cgroup {}", directory.display());
        }
    }
    let roots = cgroup_roots();
    let directories = || roots.iter().map(|root| root.join(name)).filter(|path| path.is_dir());
    directories().for_each(|directory| end_processes(&directory));
    directories().for_each(|directory| remove(&directory));
}

/// Ends every process whose command line or working files name this directory of ours: a daemon's
/// children that outlived it.
pub fn end_processes_of(directory: &Path) {
    let needle = directory.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
            continue;
        }
        let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        // Only daemons that we start ourselves; a shell that merely mentions the name lives on.
        let is_daemon = ["dockerd", "containerd", "containerd-shim", "lb-agent", "docker-proxy"]
            .iter()
            .any(|name| {
                program.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
            });
        if is_daemon && command_line.windows(needle.len()).any(|window| window == needle) {
            process::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Removes one directory of ours: what runs from it, what is mounted below it, itself.
pub fn remove_directory(directory: &Path) {
    end_processes_of(directory);
    unmount_below(directory);
    let removed = || fs::remove_dir_all(directory).is_ok() || !directory.exists();
    if !process::poll(std::time::Duration::from_secs(3), || {
        removed() || {
            unmount_below(directory);
            false
        }
    }) {
        eprintln!("cannot remove {}", directory.display());
    }
}

/// Unmounts everything at or below the directory, last mounted first.
pub fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for target in
        targets.filter(|target| target.starts_with(directory)).collect::<Vec<_>>().iter().rev()
    {
        if let Err(error) = nix::mount::umount2(*target, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", target.display());
        }
    }
}

/// Removes what processes that are gone left behind; once per process.
pub fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let names = |directory: &Path| -> Vec<String> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| is_leftover(name)).collect()
        };
        for name in names(Path::new(ROOT)) {
            eprintln!("sweeping {ROOT}/{name}, left by a process that was killed");
            remove_directory(&Path::new(ROOT).join(name));
        }
        for name in names(Path::new("/run/netns")) {
            eprintln!("sweeping namespace {name}, left by a process that was killed");
            let deleted = process::run(Command::new("ip").args(["netns", "del", &name]));
            if let Err(error) = deleted {
                eprintln!("{error:#}");
            }
        }
        for root in cgroup_roots() {
            for name in names(&root) {
                remove_cgroups(&name);
            }
        }
    });
}

/// A directory of ours, removed with all that runs from it and is mounted in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes one.
    pub fn new() -> anyhow::Result<Self> {
        sweep();
        let path = Path::new(ROOT).join(unique());
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// One whose files are in memory. A Docker daemon synchronizes its files at every step, and the file
    /// system below a container's whenever that is unmounted: on a disk the tests would wait for that.
    pub fn in_memory() -> anyhow::Result<Self> {
        let directory = Self::new()?;
        let options = Some("mode=0755,size=1g");
        nix::mount::mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            options,
        )
        .with_context(|| format!("cannot mount a tmpfs at {}", directory.path().display()))?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove_directory(&self.path);
    }
}
