//! Small files that outlive the agent: read up to a limit, replaced as a whole, so that an agent that
//! is killed while it writes leaves the former one. Knows nothing of what is in them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A file of the agent's runtime directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeptFile {
    path: PathBuf,
    unfinished: PathBuf,
    bytes_max: u64,
}

impl KeptFile {
    /// The file of this name, whose name is the other one until it is complete. A longer one than
    /// `bytes_max` is not ours.
    pub(crate) fn at(directory: &Path, [name, unfinished]: [&str; 2], bytes_max: u64) -> Self {
        let (path, unfinished) = (directory.join(name), directory.join(unfinished));
        Self { path, unfinished, bytes_max }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; `None`: there is none.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut text = Vec::new();
        file.take(self.bytes_max + 1).read_to_end(&mut text)?;
        if text.len() as u64 > self.bytes_max {
            let message = format!("it is longer than {} bytes", self.bytes_max);
            return Err(io::Error::other(message));
        }
        Ok(Some(text))
    }

    /// Keeps this and nothing else.
    pub(crate) fn replace(&self, text: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&self.unfinished)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&self.unfinished, &self.path)
    }
}
