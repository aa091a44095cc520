//! The rules, each a function of one file.

use super::SourceFile;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn module_documentation(file: &SourceFile) -> Vec<String> {
    let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let documented = first.starts_with("//!") || first.starts_with("#!");
    if !file.is_rust() || documented {
        return Vec::new();
    }
    vec!["does not open with `//!`: say what the module owns, and what it must not do".to_owned()]
}

pub(super) fn file_length(file: &SourceFile) -> Vec<String> {
    let lines = file.text.lines().count();
    if !file.is_rust() || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("has {lines} lines, more than {FILE_LINES_MAX}: split it")]
}

pub(super) fn function_length(file: &SourceFile) -> Vec<String> {
    if !file.is_rust() {
        return Vec::new();
    }
    functions(&file.text)
        .filter(|function| function.lines > FUNCTION_LINES_MAX)
        .map(|Function { name, line, lines }| {
            format!("{line}: `{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}: split it")
        })
        .collect()
}

pub(super) fn unfinished(file: &SourceFile) -> Vec<String> {
    // In pieces, so that this file does not complain about itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!(")];
    let mut complaints = Vec::new();
    for (number, line) in numbered(&file.text) {
        if let Some(mark) = marks.iter().find(|mark| contains_word(line, mark))
            && !explains(line, mark)
        {
            complaints.push(format!("{number}: {mark} without saying what is missing, and why"));
        }
        if let Some(found) = macros.iter().find(|found| file.is_rust() && line.contains(**found)) {
            complaints.push(format!("{number}: `{found}` must not stay"));
        }
    }
    complaints
}

pub(super) fn ignored_test(file: &SourceFile) -> Vec<String> {
    let attribute = concat!("#[ign", "ore");
    complain_about(file, file.is_rust(), &[attribute], |_| {
        "a test is ignored: let it skip itself, with a line for tests/skips.toml".to_owned()
    })
}

pub(super) fn foreign_words(file: &SourceFile) -> Vec<String> {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "issue"),
        concat!("issue", " #"),
        concat!("this ", "session"),
        concat!("the ", "grader"),
    ];
    complain_about(file, true, &words, |word| {
        format!("`{word}` says nothing to who reads the product")
    })
}

pub(super) fn white_space(file: &SourceFile) -> Vec<String> {
    let mut complaints = Vec::new();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        complaints.push("its last line has no end".to_owned());
    }
    for (number, line) in numbered(&file.text) {
        let has_tab = file.is_rust() && line.contains('\t');
        if line.ends_with([' ', '\t', '\r']) || has_tab {
            complaints.push(format!("{number}: a tab, or white space at the end of the line"));
        }
    }
    complaints
}

fn complain_about(
    file: &SourceFile,
    applies: bool,
    words: &[&str],
    complaint: impl Fn(&str) -> String,
) -> Vec<String> {
    if !applies {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in numbered(&file.text) {
        for word in words.iter().filter(|word| line.contains(**word)) {
            complaints.push(format!("{number}: {}", complaint(word)));
        }
    }
    complaints
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_letter = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + word.len()..]);
        !is_letter(before.chars().next_back()) && !is_letter(after.chars().next())
    })
}

/// `MARK: words enough to know what is meant`.
fn explains(line: &str, mark: &str) -> bool {
    let rest = line.split(mark).nth(1).unwrap_or_default();
    rest.strip_prefix(": ").is_some_and(|text| text.split_whitespace().count() >= 4)
}

/// A function in the text of a file.
#[derive(Debug, PartialEq, Eq)]
struct Function<'text> {
    name: &'text str,
    line: usize,
    /// From its first line to the closing brace.
    lines: usize,
}

/// Finds functions by the shape that rustfmt gives them: the closing brace stands under the first
/// letter of the line that has `fn`.
fn functions(text: &str) -> impl Iterator<Item = Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    (0..lines.len()).filter_map(move |start| {
        let name = function_name(lines[start])?;
        let indent = lines[start].len() - lines[start].trim_start().len();
        for (distance, line) in lines[start..].iter().enumerate() {
            let own = line.len() - line.trim_start().len() == indent && line.len() > indent;
            if distance == 0 && (line.ends_with('}') || line.ends_with(';')) {
                return None;
            }
            // A declaration in a trait, or a macro's body without rustfmt's shape.
            if own && line.trim_start().starts_with(')') && line.ends_with(';') {
                return None;
            }
            if own && line.trim_start().starts_with('}') {
                return Some(Function { name, line: start + 1, lines: distance + 1 });
            }
        }
        None
    })
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if rest.starts_with("//") {
        return None;
    }
    let modifiers = ["const ", "async ", "unsafe ", "extern \"C\" ", "pub "];
    loop {
        if let Some(found) = modifiers.iter().find_map(|modifier| rest.strip_prefix(modifier)) {
            rest = found;
        } else if let Some(found) = rest.strip_prefix("pub(") {
            rest = found.split_once(") ")?.1;
        } else {
            break;
        }
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(text: &str) -> SourceFile {
        SourceFile { path: "src/lib.rs".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn modules_have_to_open_with_documentation() {
        assert!(module_documentation(&rust("//! Owns.\nfn main() {}\n")).is_empty());
        assert!(module_documentation(&rust("\n#![no_std]\n")).is_empty());
        assert_eq!(module_documentation(&rust("use std::fmt;\n")).len(), 1);
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let body = "        call();\n".repeat(80);
        let text = format!(
            "impl A {{\n    pub(crate) const fn long<T>(\n        a: T,\n    ) -> u32 {{\n{body}    \
             }}\n\n    fn short() {{\n        call();\n    }}\n}}\n"
        );
        let names: Vec<(&str, usize, usize)> =
            functions(&text).map(|found| (found.name, found.line, found.lines)).collect();
        assert_eq!(names, [("long", 2, 84), ("short", 87, 3)]);
        assert_eq!(function_length(&rust(&text)).len(), 1);
        assert!(file_length(&rust(&text)).is_empty());
        assert_eq!(file_length(&rust(&"\n".repeat(501))).len(), 1);
    }

    #[test]
    fn declarations_are_no_functions() {
        let text = "trait A {\n    fn a(&self);\n    fn b(\n        c: u32,\n    ) -> u32;\n}\n";
        assert_eq!(functions(text).collect::<Vec<_>>(), []);
    }

    #[test]
    fn unfinished_work_needs_words() {
        let mark = concat!("TO", "DO");
        assert_eq!(unfinished(&rust(&format!("// {mark}\n// {mark}: later\n"))).len(), 2);
        let explained = format!("// {mark}: read the tag from the metadata, once TC has VLAN\n");
        assert!(unfinished(&rust(&explained)).is_empty());
        assert!(unfinished(&rust("let mastodon = A_TODOS;\n")).is_empty());
        assert_eq!(unfinished(&rust(concat!("to", "do!()\n"))).len(), 1);
    }

    #[test]
    fn words_and_white_space() {
        assert_eq!(foreign_words(&rust(concat!("// see /wo", "rk/main\n"))).len(), 1);
        assert_eq!(ignored_test(&rust(concat!("#[ign", "ore = \"slow\"]\n"))).len(), 1);
        assert_eq!(white_space(&rust("a \nb\tc\nd")).len(), 3);
    }
}
