//! Holds the map layouts and their version together.
//!
//! An agent adopts pinned maps of its own ABI version without a look at what the values mean. So a
//! change in lb-common/src/abi at an unchanged version is a mistake; lb-common/abi.fingerprint
//! records which sources belong to which version, and a test compares.

use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::workspace;

const SOURCES: &str = "lb-common/src/abi";
const FINGERPRINT: &str = "lb-common/abi.fingerprint";

/// A version and a hash of the sources that define it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    version: u32,
    hash: String,
}

impl Fingerprint {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| !line.starts_with('#') && !line.trim().is_empty())?;
        let (version, hash) = line.split_once(' ')?;
        Some(Self { version: version.parse().ok()?, hash: hash.trim().to_owned() })
    }

    fn render(&self) -> String {
        format!(
            "# Version and hash of the sources in src/abi, by `cargo xtask bless-abi`.\n{} {}\n",
            self.version, self.hash
        )
    }
}

/// The subcommand `bless-abi`: records the sources as those of their version.
pub(crate) fn bless() -> Result<ExitCode> {
    let current = current()?;
    let path = workspace::path(FINGERPRINT);
    std::fs::write(&path, current.render())
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{FINGERPRINT}: ABI version {}", current.version);
    Ok(ExitCode::SUCCESS)
}

/// Whether the sources are the ones that were recorded for their version.
#[cfg_attr(not(test), expect(dead_code, reason = "only the tidy test compares"))]
pub(crate) fn check() -> Result<()> {
    let path = workspace::path(FINGERPRINT);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {FINGERPRINT}; `cargo xtask bless-abi` makes it"))?;
    let recorded = Fingerprint::parse(&text)
        .with_context(|| format!("{FINGERPRINT} has no line `<version> <hash>`"))?;
    compare(&recorded, &current()?)
}

fn compare(recorded: &Fingerprint, current: &Fingerprint) -> Result<()> {
    if recorded == current {
        return Ok(());
    }
    if recorded.version == current.version {
        bail!(
            "{SOURCES} has changed at ABI version {}: raise ABI_VERSION in {SOURCES}/mod.rs, so that \
             agents do not adopt maps that mean something else, and run `cargo xtask bless-abi`. (A \
             change that leaves every layout, number and meaning as it was needs only the second.)",
            current.version
        );
    }
    bail!(
        "ABI version {} is not recorded ({FINGERPRINT} has {}): run `cargo xtask bless-abi`",
        current.version,
        recorded.version
    );
}

fn current() -> Result<Fingerprint> {
    let mut files = rust_files(&workspace::path(SOURCES))?;
    files.sort();
    let mut hasher = SipHasher13::new();
    let mut version = None;
    for file in &files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let meaning = meaning_of(&text);
        version = version.or_else(|| version_in(&meaning));
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        hasher.write(name.as_bytes());
        hasher.write(meaning.as_bytes());
        hasher.write_u8(0);
    }
    let version = version.with_context(|| format!("{SOURCES} has no ABI_VERSION"))?;
    Ok(Fingerprint { version, hash: format!("{:032x}", u128::from(hasher.finish128())) })
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// A source without what does not matter to the layout: comments, white space, and the tests at its
/// end.
fn meaning_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .collect()
}

fn version_in(meaning: &str) -> Option<u32> {
    let rest = meaning.split("ABI_VERSION:u32=").nth(1)?;
    rest.split(';').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_white_space_do_not_count() {
        let before = "/// A.\npub struct A {\n    /// Port.\n    pub port: u16, // network\n}\n";
        let after = "//! More.\npub struct A { pub port: u16, }\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(meaning_of(before), meaning_of(after));
        assert_ne!(meaning_of(before), meaning_of("pub struct A { pub port: u32, }"));
    }

    #[test]
    fn version_is_found_in_the_sources() {
        assert_eq!(version_in(&meaning_of("pub const ABI_VERSION: u32 = 12;\n")), Some(12));
        assert_eq!(version_in("nothing"), None);
    }

    #[test]
    fn fingerprint_is_read_as_it_is_written() {
        let fingerprint = Fingerprint { version: 3, hash: "00ff".to_owned() };
        assert_eq!(Fingerprint::parse(&fingerprint.render()), Some(fingerprint));
        assert_eq!(Fingerprint::parse("# nothing\n"), None);
    }

    #[test]
    fn a_change_needs_a_new_version() {
        let fingerprint = |version, hash: &str| Fingerprint { version, hash: hash.to_owned() };
        let message = |recorded, current| compare(&recorded, &current).unwrap_err().to_string();
        assert!(compare(&fingerprint(1, "a"), &fingerprint(1, "a")).is_ok());
        assert!(message(fingerprint(1, "a"), fingerprint(1, "b")).contains("raise ABI_VERSION"));
        assert!(message(fingerprint(1, "a"), fingerprint(2, "b")).contains("bless-abi"));
        assert!(message(fingerprint(1, "a"), fingerprint(2, "a")).contains("not recorded"));
    }
}
