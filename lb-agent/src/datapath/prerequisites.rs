//! What must be so before anything is loaded, said in words when it is not: capabilities, kernel,
//! a bpffs that outlives the agent.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    mount::MsFlags,
    sys::statfs::{BPF_FS_MAGIC, SYSFS_MAGIC, statfs},
};

use super::{cgroup, state_dir::StateDir};

/// Where a bpffs belongs on a node; nothing else do we mount.
const BPFFS: &str = "/sys/fs/bpf";
/// `bpf_redirect_peer` came with this version.
const KERNEL_FLOOR: (u32, u32) = (5, 10);

/// Links, qdiscs, filters.
const CAP_NET_ADMIN: u32 = 12;
/// Programs by their id, mounting; with it comes all that `CAP_BPF` and `CAP_PERFMON` allow.
const CAP_SYS_ADMIN: u32 = 21;

/// Until this version maps count against `RLIMIT_MEMLOCK`.
const MEMLOCK_COUNTS_UNTIL: (u32, u32) = (5, 11);

/// Capabilities and kernel.
pub(super) fn check_host() -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    let missing = missing_capabilities(effective_capabilities(&status)?);
    ensure!(
        missing.is_empty(),
        "missing {}: run lb-agent as root, or give it these capabilities in its unit",
        missing.join(", "),
    );
    let release = kernel_release()?;
    if kernel_version(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        let (major, minor) = KERNEL_FLOOR;
        bail!("kernel {} is too old: lb-agent needs {major}.{minor}", release.trim());
    }
    Ok(())
}

/// Whether maps of so many bytes may be made; raises the limit as far as needed and possible.
pub(super) fn check_memory(maps_bytes: u64) -> anyhow::Result<()> {
    let limit_bytes = raise_memlock();
    let version = kernel_version(&kernel_release()?);
    if version.is_some_and(|version| version < MEMLOCK_COUNTS_UNTIL)
        && let Some(trouble) = memlock_trouble(limit_bytes, maps_bytes)
    {
        bail!("{trouble}");
    }
    Ok(())
}

fn kernel_release() -> anyhow::Result<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc is not mounted")
}

/// What is wrong with a limit for maps that need so much.
fn memlock_trouble(limit_bytes: u64, maps_bytes: u64) -> Option<String> {
    const MIB: u64 = 1 << 20;
    (limit_bytes < maps_bytes).then(|| {
        format!(
            "the tables need about {} MiB, this kernel counts them as locked memory, and \
             RLIMIT_MEMLOCK is {} MiB and cannot be raised: set `LimitMEMLOCK=infinity` in the unit, \
             or make `records` and `ring_slots` in [tables] of the config smaller",
            maps_bytes.div_ceil(MIB),
            limit_bytes / MIB,
        )
    })
}

/// Makes `pin_path`, and mounts a bpffs first where one belongs and none is.
pub(super) fn prepare_pin_path(pin_path: &Path, state: &StateDir) -> anyhow::Result<()> {
    check_pin_path(pin_path)?;
    mount_bpffs_if_needed(pin_path, state)?;
    let parent = pin_path.parent().unwrap_or(pin_path);
    match DirBuilder::new().mode(0o700).create(pin_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("`{}`, the parent of pin_path, does not exist", parent.display())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => {
            result.with_context(|| format!("pin_path `{}` cannot be made", pin_path.display()))?;
        }
    }
    check_mount_namespace(pin_path)
}

fn check_pin_path(pin_path: &Path) -> anyhow::Result<()> {
    ensure!(
        pin_path.is_absolute() && pin_path.file_name().is_some(),
        "pin_path `{}` is not an absolute path of a directory on a bpffs",
        pin_path.display(),
    );
    let name = pin_path.file_name().unwrap_or_default();
    ensure!(
        !name.as_encoded_bytes().contains(&b'.'),
        "pin_path `{}`: a bpffs allows no dot in names",
        pin_path.display(),
    );
    Ok(())
}

fn mount_bpffs_if_needed(pin_path: &Path, state: &StateDir) -> anyhow::Result<()> {
    let parent = pin_path.parent().unwrap_or(pin_path);
    let file_system = statfs(parent)
        .with_context(|| format!("`{}`, the parent of pin_path", parent.display()))?
        .filesystem_type();
    if file_system == BPF_FS_MAGIC {
        return Ok(());
    }
    // An empty directory of sysfs: nothing is mounted there.
    ensure!(
        parent == Path::new(BPFFS) && file_system == SYSFS_MAGIC,
        "pin_path `{}` is not on a bpffs: choose a directory below {BPFFS}, or mount one with \
         `mount -t bpf bpf {}`",
        pin_path.display(),
        parent.display(),
    );
    ensure!(
        is_mount_namespace_of_init(),
        "no bpffs is mounted on {BPFFS}, and lb-agent runs in a mount namespace of its own, with \
         which a mount and all pins would end: mount it on the host with `mount -t bpf bpf {BPFFS}`",
    );
    state.note_bpffs(Path::new(BPFFS))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs on {BPFFS}"))?;
    tracing::info!("mounted a bpffs on {BPFFS}");
    Ok(())
}

/// A bpffs that only a private mount namespace shows goes with the last process in it, and all pins
/// with it; one that PID 1 also shows stays.
fn check_mount_namespace(pin_path: &Path) -> anyhow::Result<()> {
    let Ok(mounts) = cgroup::read_mounts("1") else {
        // Not allowed to look (hidepid): then it is the operator who mounted the bpffs for us.
        return Ok(());
    };
    let device = fs::metadata(pin_path)?.dev();
    let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    ensure!(
        mounts.lines().any(|line| line.split(' ').nth(2) == Some(&*device)),
        "pin_path `{}` is on a bpffs that only this mount namespace shows, so the pins would be \
         lost with lb-agent: mount a bpffs on {BPFFS} on the host",
        pin_path.display(),
    );
    Ok(())
}

/// Whether a mount that we make is also PID 1's. The links in `/proc/1/ns` may be read only with
/// all capabilities of PID 1; the numbers of mounts, no two alike in all namespaces, by anybody.
fn is_mount_namespace_of_init() -> bool {
    match (cgroup::read_mounts("1"), cgroup::read_mounts("thread-self")) {
        (Ok(init), Ok(own)) => share_a_mount(&init, &own),
        _ => true,
    }
}

fn share_a_mount(one: &str, other: &str) -> bool {
    let number = |line: &str| line.split(' ').next().map(str::to_owned);
    let numbers: BTreeSet<_> = one.lines().filter_map(number).collect();
    other.lines().filter_map(number).any(|number| numbers.contains(&number))
}

fn effective_capabilities(status: &str) -> anyhow::Result<u64> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("/proc/self/status has no line `CapEff`")?;
    u64::from_str_radix(set.trim(), 16).context("`CapEff` in /proc/self/status is no number")
}

fn missing_capabilities(set: u64) -> Vec<&'static str> {
    let has = |capability: u32| set & (1 << capability) != 0;
    let needed = [("CAP_NET_ADMIN", has(CAP_NET_ADMIN)), ("CAP_SYS_ADMIN", has(CAP_SYS_ADMIN))];
    needed.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}

/// Whether the running kernel is of this version or a later one; one that tells no version is.
pub(super) fn kernel_is_at_least(wanted: (u32, u32)) -> bool {
    let version = kernel_release().ok().and_then(|release| kernel_version(&release));
    version.is_none_or(|version| version >= wanted)
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Raises the limit as far as it goes, and says how far that is.
fn raise_memlock() -> u64 {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a whole structure that lives during the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "RLIMIT_MEMLOCK stays as it is");
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named() {
        let check = |set: u64, expected: &[&str]| assert_eq!(missing_capabilities(set), expected);
        check(u64::MAX, &[]);
        check(0, &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        check(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN, &[]);
        check(1 << CAP_SYS_ADMIN, &["CAP_NET_ADMIN"]);
    }

    #[test]
    fn too_small_a_limit_is_said_in_mebibytes() {
        assert_eq!(memlock_trouble(u64::MAX, 1 << 40), None);
        assert_eq!(memlock_trouble(100 << 20, 100 << 20), None);
        let trouble = memlock_trouble(64 << 20, (100 << 20) + 1).unwrap();
        assert!(trouble.contains("need about 101 MiB"), "{trouble}");
        assert!(trouble.contains("RLIMIT_MEMLOCK is 64 MiB"), "{trouble}");
    }

    #[test]
    fn kernel_versions_are_read() {
        let check = |release: &str, expected| assert_eq!(kernel_version(release), expected);
        check("6.18.44-fc-v595\n", Some((6, 18)));
        check("5.10.0-28-amd64", Some((5, 10)));
        check("6.1", Some((6, 1)));
        check("linux", None);
    }

    #[test]
    fn namespaces_are_told_apart_by_their_mounts() {
        let init = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 21 0:26 / /sys rw - sysfs sysfs rw\n";
        let own = "121 1 8:1 / / rw - ext4 /dev/sda1 rw\n130 121 0:26 / /sys rw - sysfs sysfs rw\n";
        assert!(share_a_mount(init, init));
        assert!(!share_a_mount(init, own));
    }

    #[test]
    fn pin_paths_are_judged() {
        let check = |path: &str, expected: Option<&str>| {
            let refusal = check_pin_path(Path::new(path)).err().map(|error| error.to_string());
            match (refusal, expected) {
                (None, None) => {}
                (Some(refusal), Some(expected)) => assert!(refusal.contains(expected), "{refusal}"),
                (refusal, _) => panic!("{path}: {refusal:?}"),
            }
        };
        check("/sys/fs/bpf/lb", None);
        check("lb", Some("not an absolute path"));
        check("/", Some("not an absolute path"));
        check("/sys/fs/bpf/lb.1", Some("no dot"));
    }
}
