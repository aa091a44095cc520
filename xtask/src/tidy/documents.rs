//! Documents that list what the code defines.

use crate::workspace;

const REASONS_SOURCE: &str = "lb-common/src/abi/numbers.rs";
const REASONS_DOCUMENT: &str = "docs/drop-reasons.md";

/// Number and name of every drop reason, from lines such as `NoBackend = 4, "no_backend";`.
fn drop_reasons(source: &str) -> Vec<(u32, &str)> {
    let body = source.split("drop_reasons! {").nth(1).unwrap_or_default();
    body.lines()
        .take_while(|line| *line != "}")
        .filter_map(|line| {
            let (number, name) = line.split_once(" = ")?.1.split_once(", ")?;
            Some((number.parse().ok()?, name.trim_matches(['"', ';'])))
        })
        .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace::path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_drop_reason_is_explained() {
    let (source, document) = (read(REASONS_SOURCE), read(REASONS_DOCUMENT));
    let reasons = drop_reasons(&source);
    assert!(reasons.len() > 5, "{REASONS_SOURCE} was not understood: {reasons:?}");
    for (number, name) in reasons {
        let row = format!("| {number} | `{name}` | ");
        assert!(
            document.lines().any(|line| line.starts_with(&row)),
            "{REASONS_DOCUMENT} has no row that begins with {row:?}"
        );
    }
}

#[test]
fn no_drop_reason_is_explained_that_does_not_exist() {
    let (source, document) = (read(REASONS_SOURCE), read(REASONS_DOCUMENT));
    let reasons = drop_reasons(&source);
    for row in document.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let Some(number) = cells[0].parse::<u32>().ok() else { continue };
        let name = cells[1].trim_matches('`');
        assert!(
            reasons.contains(&(number, name)),
            "{REASONS_DOCUMENT} explains {number} `{name}`, which {REASONS_SOURCE} does not have"
        );
    }
}

/// Commands that the documents tell the reader to type must exist.
#[test]
fn commands_in_the_documents_exist() {
    use clap::CommandFactory as _;
    let command = crate::Options::command();
    let known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for path in ["README.md", "docs/development.md"] {
        for (index, line) in read(path).lines().enumerate() {
            for rest in line.split("cargo xtask ").skip(1) {
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '-').next().unwrap();
                assert!(known.contains(&name), "{path}:{}: no such command: {name}", index + 1);
            }
        }
    }
}
