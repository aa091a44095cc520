//! A bpffs of our own, so that pins of a test are nobody else's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::MsFlags;

use crate::names::{self, Directory};

/// A mounted bpffs in a directory of ours; unmounted, with every pin in it, on drop.
#[derive(Debug)]
pub struct BpfFs {
    path: PathBuf,
}

impl BpfFs {
    /// Mounts one in the directory.
    pub fn mount(directory: &Directory) -> Result<Self> {
        let path = directory.join("bpf");
        std::fs::create_dir_all(&path)?;
        nix::mount::mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs at {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every pin and directory in it, relative, sorted.
    #[must_use]
    pub fn tree(&self) -> Vec<String> {
        tree(&self.path)
    }
}

/// Every file and directory below, relative, sorted.
#[must_use]
pub fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            found.extend(path.strip_prefix(root).map(|path| path.display().to_string()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        names::unmount_below(&self.path);
    }
}
