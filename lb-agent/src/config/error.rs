//! What is wrong with a file: every problem that was found, each with its place.

use std::fmt;

/// Everything that is wrong with a file. Displayed as one `file:line:column: message` per line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Name of the file.
    pub file_name: String,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// Where; `None` for the whole file.
    pub position: Option<Position>,
    /// What is wrong and what to do.
    pub message: String,
}

/// A place in a text file, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// A text and where its lines start, so that thousands of positions cost nothing.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(index, _)| index + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// Position of the byte with index `offset`.
    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }
}

impl ConfigError {
    /// A problem of the file as a whole.
    pub(super) fn whole_file(file_name: &str, message: String) -> Self {
        Self {
            file_name: file_name.to_owned(),
            problems: vec![Problem { position: None, message }],
        }
    }

    /// A problem at a byte of `text`.
    pub(super) fn at(file_name: &str, text: &str, offset: usize, message: String) -> Self {
        let position = Some(Lines::new(text).position(offset));
        Self { file_name: file_name.to_owned(), problems: vec![Problem { position, message }] }
    }

    /// What the TOML parser or serde had to say, in our words.
    pub(super) fn from_toml(file_name: &str, text: &str, error: &toml::de::Error) -> Self {
        let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let message = match error.message() {
            "duplicate key" => {
                format!("the key `{}` stands here a second time; keep one", key.escape_debug())
            }
            message => explain(message),
        };
        match error.span() {
            Some(span) => Self::at(file_name, text, span.start, message),
            None => Self::whole_file(file_name, message),
        }
    }
}

/// Serde speaks of fields and variants; the reader of a TOML file knows keys and values.
fn explain(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let (key, known) = rest.split_once(", expected ").unwrap_or((rest, "no key at all"));
        let known = known.strip_prefix("one of ").unwrap_or(known).replace(" or ", ", ");
        return format!("unknown key {key}; known keys here: {known}");
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (value, known) = rest.split_once(", expected ").unwrap_or((rest, "nothing"));
        let known = known.strip_prefix("one of ").unwrap_or(known).replace(" or ", ", ");
        return format!("unknown value {value}; allowed: {known}");
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("the key {key} is missing here; add it");
    }
    // The parser's own messages may span lines.
    let message = message.replace("expected i64", "expected a whole number");
    message.trim_end().replace('\n', "; ")
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            match problem.position {
                Some(Position { line, column }) => {
                    write!(formatter, "{}:{line}:{column}: {}", self.file_name, problem.message)?;
                }
                None => write!(formatter, "{}: {}", self.file_name, problem.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
