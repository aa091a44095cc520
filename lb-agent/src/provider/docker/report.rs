//! What the provider says in words: what is wrong with Docker, and which containers are refused.

use super::{look::Refused, state::CONTAINERS_MAX};
use crate::{
    labels::shown,
    model::{Claims, Refusal},
};

/// Most containers that are named in one message.
const NAMES_MAX: usize = 3;

/// Everything that can be wrong at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Trouble {
    /// Why Docker could not be asked.
    pub(super) unanswered: Option<String>,
    /// How many containers are known to run.
    pub(super) running: usize,
    /// Those that live and that Docker does not list.
    pub(super) unlisted: Vec<String>,
    /// Those that could not be looked at several times in a row. One failed look is not worth a word.
    pub(super) failing: Vec<String>,
    /// Why the first of them could not.
    pub(super) failure: Option<String>,
    /// How many are not known at all, because they could not be looked at.
    pub(super) unknown: usize,
    /// How many are too many.
    pub(super) left_out: usize,
}

impl Trouble {
    /// What is wrong and what is being done about it; `None`: all is well. It changes only when
    /// something changes.
    pub(super) fn describe(&self, source: &str) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(reason) = &self.unanswered {
            let kept = match self.running {
                0 => String::new(),
                1 => "1 container stays as it is, ".to_owned(),
                running => format!("{running} containers stay as they are, "),
            };
            parts.push(format!(
                "Docker at `{source}` does not answer: {reason}; {kept}trying again"
            ));
        }
        if !self.unlisted.is_empty() {
            let names = names(&self.unlisted);
            let (one, many) = ("it lives; it stays", "they live; they stay");
            let kept = if self.unlisted.len() == 1 { one } else { many };
            parts.push(format!(
                "Docker at `{source}` does not list {names}, but the kernel says that {kept}"
            ));
        }
        if let Some(failure) = &self.failure {
            let names = names(&self.failing);
            let kept = match self.unknown {
                0 => "what is known stays".to_owned(),
                1 => "1 container could not be looked at; nothing is removed meanwhile".to_owned(),
                unknown => format!(
                    "{unknown} containers could not be looked at; nothing is removed meanwhile"
                ),
            };
            parts.push(format!("cannot look at {names}: {failure}; {kept}, trying again"));
        }
        if self.left_out > 0 {
            parts.push(format!(
                "there are more than {CONTAINERS_MAX} labelled containers: {} are left out, the \
                 newest of those that were not served before",
                self.left_out
            ));
        }
        (!parts.is_empty()).then(|| parts.join(". "))
    }
}

/// ``container `a` ``, ``containers `a`, `b`, `c` and 4 more``.
fn names(names: &[String]) -> String {
    let noun = if names.len() == 1 { "container" } else { "containers" };
    let quoted = names.iter().take(NAMES_MAX).map(|name| format!("`{}`", shown(name)));
    let listed = quoted.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => format!("{noun} {listed}"),
        more => format!("{noun} {listed} and {more} more"),
    }
}

/// A refusal for each way in which it asks.
pub(super) fn claims_of_refused(refused: &Refused) -> Claims {
    let refusals = refused.keys.iter().map(|key| Refusal {
        object: format!("container `{}`", shown(&refused.name)),
        key: key.clone(),
        message: refused.reason.clone(),
    });
    Claims { refusals: refusals.collect(), ..Claims::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_at_once() {
        let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let trouble = Trouble {
            unanswered: Some("connection refused".to_owned()),
            running: 1,
            unlisted: named(&["a"]),
            failing: named(&["b", "c", "d", "e", "f"]),
            failure: Some("no answer within 5 s".to_owned()),
            unknown: 4,
            left_out: 2,
        };
        let described = trouble.describe("unix:///docker.sock").expect("trouble");
        insta::assert_snapshot!(described.replace(". ", ".\n"), @r"
        Docker at `unix:///docker.sock` does not answer: connection refused; 1 container stays as it is, trying again.
        Docker at `unix:///docker.sock` does not list container `a`, but the kernel says that it lives; it stays.
        cannot look at containers `b`, `c`, `d` and 2 more: no answer within 5 s; 4 containers could not be looked at; nothing is removed meanwhile, trying again.
        there are more than 4096 labelled containers: 2 are left out, the newest of those that were not served before
        ");
        assert_eq!(Trouble::default().describe("unix:///docker.sock"), None);
    }
}
