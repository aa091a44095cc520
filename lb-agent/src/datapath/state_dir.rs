//! The runtime directory: locks, and notes about what the agent made that does not tell by itself
//! whose it is (clsact qdiscs, the bpffs mount).
//!
//! A note is written before the thing is made, so that a crash between the two leaves a note about
//! nothing, never a thing without a note.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    provider::docker::{Endings, Places},
    steering::Store,
};

const LOCK: &str = "lock";
const BPFFS: &str = "bpffs-mount";
const QDISC_PREFIX: &str = "clsact-";
/// Of the lock file, which holds a number.
const HOLDER_BYTES_MAX: u64 = 64;

/// A lock that is held as long as the value lives.
#[derive(Debug)]
pub(super) struct Lock {
    /// Closing the descriptor unlocks.
    _held: Flock<File>,
}

/// The runtime directory of one agent.
#[derive(Clone, Debug)]
pub(super) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Without looking whether it is there.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Makes the directory. The API socket lives in it, and a group may reach that: 0755.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .with_context(|| format!("state_path `{}` cannot be made", path.display()))?;
        Ok(Self::at(path))
    }

    /// Whether the directory is there.
    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Locks the directory against a second agent, and says in the lock file who holds it.
    pub(super) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.path.join(LOCK);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("lock file `{}` cannot be opened", path.display()))?;
        // For a message only: whatever is in it keeps nobody from starting.
        let mut holder = Vec::new();
        (&mut file)
            .take(HOLDER_BYTES_MAX)
            .read_to_end(&mut holder)
            .context("lock file cannot be read")?;
        let holder = String::from_utf8_lossy(&holder);
        let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((_, nix::Error::EWOULDBLOCK)) => bail!(
                "another lb-agent (pid {}) is running with state_path `{}`",
                holder.trim().escape_debug(),
                self.path.display(),
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
            }
        };
        held.set_len(0)?;
        held.rewind()?;
        writeln!(held, "{}", std::process::id())?;
        Ok(Lock { _held: held })
    }

    /// Notes that the clsact qdisc of an interface is about to be made by us.
    pub(super) fn note_qdisc(&self, ifindex: u32, netns_cookie: u64) -> io::Result<()> {
        fs::write(self.qdisc_note(ifindex, netns_cookie), [])
    }

    /// Forgets the note.
    pub(super) fn forget_qdisc(&self, ifindex: u32, netns_cookie: u64) -> io::Result<()> {
        remove_if_there(&self.qdisc_note(ifindex, netns_cookie))
    }

    /// Interfaces whose clsact qdisc was made by us, in the namespace with this cookie.
    pub(super) fn noted_qdiscs(&self, netns_cookie: u64) -> Vec<u32> {
        let suffix = format!("-{netns_cookie:x}");
        self.file_names()
            .iter()
            .filter_map(|name| name.strip_prefix(QDISC_PREFIX)?.strip_suffix(&suffix)?.parse().ok())
            .collect()
    }

    /// Notes that a bpffs is about to be mounted by us.
    pub(super) fn note_bpffs(&self, mount_point: &Path) -> io::Result<()> {
        fs::write(self.path.join(BPFFS), mount_point.as_os_str().as_encoded_bytes())
    }

    /// Forgets the note.
    pub(super) fn forget_bpffs(&self) -> io::Result<()> {
        remove_if_there(&self.path.join(BPFFS))
    }

    /// Where we mounted a bpffs.
    pub(super) fn noted_bpffs(&self) -> Option<PathBuf> {
        fs::read_to_string(self.path.join(BPFFS)).ok().map(PathBuf::from)
    }

    /// Files in the directory that the agent made: locks and notes, orders of operators, former names
    /// of containers and which of them were asked to end, and the API socket of an agent that was killed.
    pub(super) fn own_files(&self) -> Vec<PathBuf> {
        self.file_names()
            .iter()
            .filter(|name| {
                name.starts_with(QDISC_PREFIX)
                    || [LOCK, BPFFS, "api.sock"].contains(&name.as_str())
                    || Store::FILES.contains(&name.as_str())
                    || Places::FILES.contains(&name.as_str())
                    || Endings::FILES.contains(&name.as_str())
            })
            .map(|name| self.path.join(name))
            .collect()
    }

    fn qdisc_note(&self, ifindex: u32, netns_cookie: u64) -> PathBuf {
        self.path.join(format!("{QDISC_PREFIX}{ifindex}-{netns_cookie:x}"))
    }

    fn file_names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}

/// Locks the pin directory itself, against an agent with another runtime directory.
pub(super) fn lock_pins(pin_path: &Path) -> anyhow::Result<Lock> {
    let directory = File::open(pin_path)
        .with_context(|| format!("pin_path `{}` cannot be opened", pin_path.display()))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Lock { _held: held }),
        Err((_, nix::Error::EWOULDBLOCK)) => {
            bail!("another lb-agent is running with pin_path `{}`", pin_path.display())
        }
        Err((_, error)) => {
            Err(error).with_context(|| format!("cannot lock pin_path `{}`", pin_path.display()))
        }
    }
}

/// Removes a file; one that is not there is as good.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    #[test]
    fn notes_are_found_again_and_by_namespace() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let state = StateDir::create(&directory.path().join("run"))?;
        state.note_qdisc(3, 0x1f)?;
        state.note_qdisc(4, 0xf)?;
        assert_eq!(state.noted_qdiscs(0x1f), [3]);
        assert_eq!(state.noted_qdiscs(0xf), [4]);
        state.forget_qdisc(3, 0x1f)?;
        state.forget_qdisc(3, 0x1f)?;
        assert!(state.noted_qdiscs(0x1f).is_empty());

        state.note_bpffs(Path::new("/sys/fs/bpf"))?;
        assert_eq!(state.noted_bpffs().as_deref(), Some(Path::new("/sys/fs/bpf")));
        Ok(())
    }

    proptest::proptest! {
        /// Whatever somebody has left there: it is no note of ours, or one.
        #[test]
        fn any_file_in_the_directory_is_harmless(
            name in proptest::prop_oneof![
                "[^/\u{0}]{1,80}",
                crate::mangle::mangled_text("clsact-7-1f").prop_map(|name| name.replace(['/', '\0'], "")),
            ],
            content in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let state = StateDir::create(directory.path()).expect("it is there");
            for name in [name.as_str(), LOCK, BPFFS] {
                // Some names are none.
                let _made = fs::write(directory.path().join(name), &content);
            }
            let lock = state.lock().expect("nobody holds it");
            proptest::prop_assert!(state.noted_qdiscs(0x1f).len() <= 1);
            proptest::prop_assert!(state.noted_bpffs().is_none_or(|it| it.as_os_str().len() == content.len()));
            let ours = state.own_files();
            proptest::prop_assert!(ours.iter().all(|path| path.parent() == Some(directory.path())));
            let refusal = state.lock().expect_err("it is held").to_string();
            proptest::prop_assert!(refusal.contains(&std::process::id().to_string()), "{}", refusal);
            drop(lock);
        }
    }

    #[test]
    fn second_agent_is_refused_and_told_the_first() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let state = StateDir::create(directory.path())?;
        let first = state.lock()?;
        let refusal = state.lock().unwrap_err().to_string();
        assert!(refusal.contains(&format!("pid {}", std::process::id())), "{refusal}");
        drop(first);
        state.lock()?;
        Ok(())
    }
}
