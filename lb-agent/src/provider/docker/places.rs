//! The file that keeps by what names renamed containers are known, while no agent runs.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::kept::KeptFile;

/// Name of the file in the agent's runtime directory.
const FILE: &str = "places.json";
/// Its name until it is complete.
const UNFINISHED: &str = "places.json.new";
/// What the file looks like.
const VERSION: u32 = 1;
/// A longer file is not ours: 4,096 containers at under 512 bytes each.
const BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The names that containers had before they were renamed, by their instances.
pub(super) type FormerNames = BTreeMap<String, String>;

/// Where they are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places(KeptFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    former_names: FormerNames,
}

impl Places {
    /// Names of its files, for whoever removes them.
    pub const FILES: [&str; 2] = [FILE, UNFINISHED];

    /// In this directory, which is there.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self(KeptFile::at(directory, Self::FILES, BYTES_MAX))
    }

    /// What a predecessor kept. A file that cannot be read is no reason to serve nobody: those who were
    /// renamed have the places of their new names then.
    pub(super) fn load(&self) -> FormerNames {
        self.read().unwrap_or_else(|cause| {
            let path = self.0.path().display();
            tracing::warn!("former names of containers cannot be read from `{path}`: {cause}");
            FormerNames::default()
        })
    }

    fn read(&self) -> Result<FormerNames, String> {
        let content = self.0.read_version(VERSION, |content: &Content| content.version)?;
        Ok(content.map(|content| content.former_names).unwrap_or_default())
    }

    /// Keeps these and no others.
    pub(super) fn save(&self, former_names: FormerNames) -> io::Result<()> {
        self.0.replace(&Content { version: VERSION, former_names })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// What somebody could have left there: pieces of such a file, or anything.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(r#"{"version":1,"former_names":{"#.to_owned()),
            Just(r#"{"former_names":{"a":"b"},"version":"#.to_owned()),
            Just("}}".to_owned()),
            r#""[a-f0-9@]{0,6}":"\\PC{0,6}",?"#,
            "[0-9]{1,12}",
            r#"[\[\]{}:,"\\]{0,3}"#,
        ];
        prop_oneof![
            4 => prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().into()),
            1 => prop::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_file_is_read_or_refused(text in text()) {
            let directory = tempfile::tempdir().expect("a directory");
            let places = Places::at(directory.path());
            fs::write(directory.path().join(FILE), &text).expect("written");
            match places.read() {
                // Nobody is named who is not in it, and it is the same when it is kept again.
                Ok(names) => {
                    let text = String::from_utf8(text).expect("JSON is text");
                    prop_assert!(names.keys().all(|instance| text.contains(instance)), "{}", text);
                    places.save(names.clone()).expect("it is kept");
                    prop_assert_eq!(places.read(), Ok(names));
                }
                Err(cause) => {
                    let is_told = cause.starts_with("not understood in line ")
                        || cause.starts_with("it has version ");
                    prop_assert!(is_told, "{}", cause);
                    prop_assert_eq!(places.load(), FormerNames::default());
                }
            }
        }

        #[test]
        fn any_names_are_read_as_they_were_kept(
            names in prop::collection::btree_map(any::<String>(), any::<String>(), 0..20),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let places = Places::at(directory.path());
            places.save(names.clone()).expect("it is kept");
            prop_assert_eq!(places.read(), Ok(names));
        }
    }

    #[test]
    fn former_names_are_kept_in_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let places = Places::at(directory.path());
        assert_eq!(places.load(), FormerNames::default());
        let names: FormerNames = [("id@1".to_owned(), "web".to_owned())].into();
        for _ in 0..2 {
            places.save(names.clone()).expect("it is kept");
            assert_eq!(places.load(), names);
        }
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_names_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let places = Places::at(directory.path());
        for (text, expected) in [
            ("{", "not understood in line 1"),
            (r#"{"version":2,"former_names":{}}"#, "it has version 2, not 1"),
            (r#"{"version":1,"former_names":{"a":1}}"#, "not understood in line 1"),
        ] {
            fs::write(directory.path().join(FILE), text).expect("written");
            assert_eq!(places.read(), Err(expected.to_owned()), "{text}");
            assert_eq!(places.load(), FormerNames::default());
        }
    }
}
