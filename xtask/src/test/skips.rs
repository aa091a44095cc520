//! Tests that were skipped, and the list of those that may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::workspace;

/// Tells tests where to record that they were skipped: a line `SKIP <test>: <reason>` each.
pub(super) const VARIABLE: &str = "LB_SKIP_LOG";

/// The list of tests that may be skipped under CI.
pub(super) const ALLOWED_FILE: &str = "tests/skips.toml";

/// A test that was skipped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skip {
    pub(super) test: String,
    pub(super) reason: String,
}

/// The file that the tests of one run write to.
pub(super) struct SkipLog {
    path: PathBuf,
}

impl SkipLog {
    pub(super) fn create() -> Result<Self> {
        let directory = workspace::target_dir();
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join(format!("skipped-tests.{}", std::process::id()));
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<Vec<Skip>> {
        let text = fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(parse_log(&text))
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // A file that stays behind in the target directory does no harm.
        drop(fs::remove_file(&self.path));
    }
}

fn parse_log(log: &str) -> Vec<Skip> {
    log.lines()
        .filter_map(|line| line.strip_prefix("SKIP "))
        .map(|line| {
            // The name may be a path with `::` in it.
            let (test, reason) = line.split_once(": ").unwrap_or((line, "no reason given"));
            Skip { test: test.to_owned(), reason: reason.to_owned() }
        })
        .collect()
}

/// The list of tests that may be skipped.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allowed {
    #[serde(default)]
    skip: Vec<AllowedSkip>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedSkip {
    test: String,
    #[expect(dead_code, reason = "for the reader of the file; that it is there is checked")]
    reason: String,
}

impl Allowed {
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string(workspace::path(ALLOWED_FILE))
            .with_context(|| format!("cannot read {ALLOWED_FILE}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).with_context(|| format!("in {ALLOWED_FILE}"))
    }

    pub(super) fn contains(&self, test: &str) -> bool {
        self.skip.iter().any(|allowed| allowed.test == test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_read() {
        let skip =
            |test: &str, reason: &str| Skip { test: test.to_owned(), reason: reason.to_owned() };
        let text = "SKIP docker::restart: needs dockerd: not found\n\nSKIP bare\nnoise\n";
        assert_eq!(
            parse_log(text),
            [skip("docker::restart", "needs dockerd: not found"), skip("bare", "no reason given")]
        );
    }

    #[test]
    fn a_listed_skip_needs_its_reason() {
        let listed = Allowed::parse("[[skip]]\ntest = \"a\"\nreason = \"no IPVS\"\n").unwrap();
        assert!(listed.contains("a") && !listed.contains("b"));
        assert!(Allowed::parse("[[skip]]\ntest = \"a\"\n").is_err());
        assert!(!Allowed::parse("# nothing\n").unwrap().contains("a"));
    }

    #[test]
    fn the_list_of_this_tree_is_valid() {
        Allowed::read().unwrap();
    }
}
