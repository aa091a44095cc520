//! The cgroup whose processes' socket calls are balanced: found, checked, opened.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::sys;

/// A directory of the cgroup v2 hierarchy.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Where it is, for people.
    pub(super) path: PathBuf,
    /// It.
    pub(super) directory: OwnedFd,
    /// Its number, as links have it.
    pub(super) id: u64,
}

impl Cgroup {
    /// What may be wrong although nothing has failed.
    pub(super) fn trouble(&self) -> Option<String> {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/cgroup")).ok();
        let (own, first) = (namespace("self")?, namespace("1")?);
        (own != first).then(|| {
            format!(
                "lb-agent runs in a cgroup namespace of its own: `{}` holds this container's \
                 processes only; run it with `--cgroupns host`",
                self.path.display()
            )
        })
    }
}

/// The mounts that a process sees. Anybody may have mounted something whose name is no text: nothing
/// that is looked for here.
pub(super) fn read_mounts(process: &str) -> io::Result<String> {
    let mounts = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(String::from_utf8_lossy(&mounts).into_owned())
}

/// Opens the directory, or without one the root of the hierarchy.
pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Cgroup> {
    if let Some(path) = path {
        return open_directory(path).with_context(|| {
            format!("`path` in [cgroup] of the config, `{}`, cannot be used", path.display())
        });
    }
    let mounts = read_mounts("self").context("/proc is not mounted")?;
    if let Some(path) = mounted_root(&mounts) {
        return open_directory(&path)
            .with_context(|| format!("the cgroup v2 root `{}` cannot be used", path.display()));
    }
    let directory = sys::open_cgroup_root()
        .context("this kernel has no cgroup v2, by which socket calls are balanced")?;
    let directory = File::from(directory);
    let id = directory.metadata()?.ino();
    Ok(Cgroup { path: PathBuf::from("cgroup2:/"), directory: directory.into(), id })
}

fn open_directory(path: &Path) -> anyhow::Result<Cgroup> {
    let directory = File::open(path)?;
    let metadata = directory.metadata()?;
    ensure!(metadata.is_dir(), "it is no directory");
    if !is_one(&directory)? {
        bail!(
            "it is not in a cgroup v2 file system; `mount -t cgroup2` shows where there is one, and \
             without the key the root is found"
        );
    }
    Ok(Cgroup { path: path.to_path_buf(), id: metadata.ino(), directory: directory.into() })
}

/// Whether a directory is one of cgroup v2.
pub(super) fn is_one(directory: &File) -> nix::Result<bool> {
    Ok(fstatfs(directory)?.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Where the root of cgroup v2 is mounted.
fn mounted_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        // `36 35 98:0 /root /mount/point options optional… - type source options`
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let is_it = after.split(' ').next() == Some("cgroup2") && root == "/";
        is_it.then(|| PathBuf::from(unescape(point)))
    })
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut unescaped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            unescaped.push(char::from(code));
            unescaped.push_str(&part[3..]);
        } else {
            unescaped.push('\\');
            unescaped.push_str(part);
        }
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Others choose the names of mounts.
        #[test]
        fn any_text_names_a_mount_or_none(
            text in proptest::prop_oneof![
                crate::mangle::any_text(),
                crate::mangle::mangled_text("25 30 0:23 / /a\\040b\\ rw,nosuid - cgroup2 cgroup2 rw\n"),
            ],
        ) {
            let root = mounted_root(&text);
            proptest::prop_assert!(root.is_none_or(|it| it.as_os_str().len() <= 2 * text.len()));
        }
    }

    #[test]
    fn the_root_is_found_where_it_is_mounted() {
        let check = |mounts: &str, expected: Option<&str>| {
            assert_eq!(mounted_root(mounts), expected.map(PathBuf::from), "{mounts}");
        };
        check("", None);
        check(
            "25 30 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
            Some("/sys/fs/cgroup"),
        );
        check(
            "20 30 0:20 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
             25 30 0:23 / /sys/fs/cgroup/unified rw shared:10 master:2 - cgroup2 none rw",
            Some("/sys/fs/cgroup/unified"),
        );
        check("25 30 0:23 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw", None);
        check("25 30 0:23 / /a\\040b rw - cgroup2 cgroup rw", Some("/a b"));
        check("garbage - cgroup2", None);
        check("25 30 0:23 / /tmp rw - tmpfs cgroup2 rw", None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let check = |path: &str, expected: &str| {
            let error = format!("{:#}", open(Some(Path::new(path))).expect_err(path));
            assert!(error.contains(expected) && error.contains(path), "{error}");
        };
        check("/nonexistent", "No such file");
        check("/proc/self/status", "it is no directory");
        check("/proc", "not in a cgroup v2 file system");
    }
}
