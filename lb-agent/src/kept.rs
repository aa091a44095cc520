//! Small files that outlive the agent: read up to a limit, replaced as a whole, so that an agent that
//! is killed while it writes leaves the former one. Knows nothing of what is in them, but that it is JSON
//! of some version.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

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

    /// What is in it, if `version_of` that is `version`; `None`: there is no file. An error says what is
    /// wrong with it, and where, which is enough: it may hold anything.
    pub(crate) fn read_version<T: DeserializeOwned>(
        &self,
        version: u32,
        version_of: impl FnOnce(&T) -> u32,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.read().map_err(|error| error.to_string())? else { return Ok(None) };
        let content: T = serde_json::from_slice(&text)
            .map_err(|error| format!("not understood in line {}", error.line()))?;
        match version_of(&content) {
            found if found == version => Ok(Some(content)),
            found => Err(format!("it has version {found}, not {version}")),
        }
    }

    /// Keeps this and nothing else.
    pub(crate) fn replace(&self, content: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(content).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&self.unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&self.unfinished, &self.path)
    }
}
