//! The file that keeps which containers were asked to end, while no agent runs. Docker tells it for a
//! few minutes only.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::engine::Signalled;
use crate::kept::KeptFile;

/// Name of the file in the agent's runtime directory.
const FILE: &str = "endings.json";
/// Its name until it is complete.
const UNFINISHED: &str = "endings.json.new";
/// What the file looks like.
const VERSION: u32 = 1;
/// A longer file is not ours: 4,096 containers at under 512 bytes each.
const BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What asked runs of containers to end, by their instances.
pub(super) type AskedToEnd = BTreeMap<String, Signalled>;

/// Where it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endings(KeptFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    asked_to_end: AskedToEnd,
}

impl Endings {
    /// Names of its files, for whoever removes them.
    pub const FILES: [&str; 2] = [FILE, UNFINISHED];

    /// In this directory, which is there.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self(KeptFile::at(directory, Self::FILES, BYTES_MAX))
    }

    /// What a predecessor kept. A file that cannot be read is no reason to serve nobody: Docker still
    /// tells of those who were asked to end in the last minutes.
    pub(super) fn load(&self) -> AskedToEnd {
        self.read().unwrap_or_else(|cause| {
            let path = self.0.path().display();
            tracing::warn!(
                "which containers were asked to end cannot be read from `{path}`: {cause}"
            );
            AskedToEnd::default()
        })
    }

    fn read(&self) -> Result<AskedToEnd, String> {
        let content = self.0.read_version(VERSION, |content: &Content| content.version)?;
        Ok(content.map(|content| content.asked_to_end).unwrap_or_default())
    }

    /// Keeps these and no others.
    pub(super) fn save(&self, asked_to_end: AskedToEnd) -> io::Result<()> {
        self.0.replace(&Content { version: VERSION, asked_to_end })
    }
}

#[cfg(test)]
mod tests;
