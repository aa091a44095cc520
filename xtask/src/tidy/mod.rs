//! Rules of the source tree that no compiler checks, as tests.
//!
//! Each rule is a function from a file to complaints. An exception is written into [`EXCEPTIONS`]
//! with its reason, and must still be needed.

mod documents;
mod rules;

use std::path::Path;

use crate::workspace;

/// A file may break a rule where the reason says why.
struct Exception {
    path: &'static str,
    rule: &'static str,
    #[expect(dead_code, reason = "for the reader of the list")]
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        path: "tests/src/packets/cases/inbound.rs",
        rule: "function length",
        reason: "lists of cases: data without a branch",
    },
    Exception {
        path: "tests/src/packets/cases/outbound.rs",
        rule: "function length",
        reason: "lists of cases: data without a branch",
    },
];

/// Directories that hold no sources of ours.
const NOT_OURS: &[&str] = &["target", ".git", "node_modules"];

/// Kinds of files that are looked at.
const TEXT_EXTENSIONS: &[&str] =
    &["rs", "md", "toml", "sh", "yml", "yaml", "json", "service", "snap", "fingerprint"];

/// A text file of the tree.
struct SourceFile {
    /// From the root of the workspace.
    path: String,
    text: String,
}

impl SourceFile {
    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }
}

fn all_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    collect(workspace::root(), &mut files);
    files.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(files.len() > 20, "the tree was not found: {} files", files.len());
    files
}

fn collect(directory: &Path, files: &mut Vec<SourceFile>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !NOT_OURS.contains(&name.as_str()) {
                collect(&path, files);
            }
            continue;
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy());
        let is_text = match &extension {
            Some(extension) => TEXT_EXTENSIONS.contains(&extension.as_ref()),
            None => directory.file_name().is_some_and(|name| name == ".ci"),
        };
        if is_text {
            let relative = path.strip_prefix(workspace::root()).unwrap();
            files.push(SourceFile {
                path: relative.to_string_lossy().into_owned(),
                text: std::fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

/// Applies a rule to every file and fails with all complaints at once.
#[track_caller]
fn check_tree(rule: &str, complaints_of: impl Fn(&SourceFile) -> Vec<String>) {
    let mut complaints = Vec::new();
    for file in all_files() {
        let excepted = EXCEPTIONS
            .iter()
            .any(|exception| exception.path == file.path && exception.rule == rule);
        let found = complaints_of(&file);
        if excepted {
            if found.is_empty() {
                complaints
                    .push(format!("{}: needs no exception from `{rule}` any more", file.path));
            }
            continue;
        }
        complaints.extend(found.into_iter().map(|text| format!("{}: {text}", file.path)));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_module_says_what_it_owns() {
    check_tree("module documentation", rules::module_documentation);
}

#[test]
fn files_are_of_a_size_to_read() {
    check_tree("file length", rules::file_length);
}

#[test]
fn functions_are_of_a_size_to_read() {
    check_tree("function length", rules::function_length);
}

#[test]
fn nothing_is_left_undone_without_a_word() {
    check_tree("unfinished", rules::unfinished);
}

#[test]
fn no_test_is_ignored() {
    check_tree("ignored test", rules::ignored_test);
}

#[test]
fn the_tree_speaks_of_the_product_alone() {
    check_tree("foreign words", rules::foreign_words);
}

#[test]
fn lines_end_as_they_should() {
    check_tree("white space", rules::white_space);
}

#[test]
fn map_layouts_change_with_their_version_only() {
    crate::abi::check().unwrap_or_else(|error| panic!("{error:#}"));
}
