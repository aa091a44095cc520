//! `lbctl doctor`: what an operator must know about this node, said before it is asked.
//!
//! Looking and judging are apart: [`gather`] reads the node and asks the agent, where it runs;
//! [`examine`] is pure, and all that it knows is in [`facts`]. Needs neither the kernel's rights nor the
//! agent; what it may not read, it says. Changes nothing.

mod checks;
pub mod facts;
pub mod gather;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::checks::examine;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something is not served, or not as one may think.
    Warning,
    /// Something is broken.
    Error,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the check; several findings may have the same.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What follows from it.
    pub why: Option<String>,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Finding {
    fn ok(check: &str, what: impl Into<String>) -> Self {
        let (check, what) = (check.to_owned(), what.into());
        Self { check, level: Level::Ok, what, why: None, todo: None }
    }

    fn warning(check: &str, what: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(check, what) }
    }

    fn error(check: &str, what: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::ok(check, what) }
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    fn so(self, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..self }
    }
}

/// All findings, in the order in which an operator should read them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// They.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst level.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// For people; control characters are not escaped.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { check, level, what, why, todo } in &self.findings {
            writeln!(formatter, "{:<8} {check:<11} {what}", level.name())?;
            for (word, text) in [("why:", why), ("do:", todo)] {
                if let Some(text) = text {
                    writeln!(formatter, "{:20} {word:<4} {text}", "")?;
                }
            }
        }
        let [ok, warnings, errors] =
            [Level::Ok, Level::Warning, Level::Error].map(|level| self.count(level));
        writeln!(formatter, "{ok} ok, {warnings} warnings, {errors} errors")
    }
}
