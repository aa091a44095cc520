//! What is refused of one container, as much of it as is told.

use std::collections::BTreeSet;

use super::super::aliyun::LabelError;
use crate::model::Refusal;

/// Refusals of one container that are told.
pub(super) const REFUSALS_MAX: usize = 256;

/// What is refused of one container.
pub(super) struct Refusals<'a> {
    object: &'a str,
    /// The same label is read for each of its ports.
    seen: BTreeSet<(Option<String>, String)>,
    /// Refusals for which there was no room.
    left_out: usize,
}

impl<'a> Refusals<'a> {
    /// Nothing is refused of `object`, which names the container.
    pub(super) fn new(object: &'a str) -> Self {
        Self { object, seen: BTreeSet::new(), left_out: 0 }
    }

    /// Refuses these labels.
    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = LabelError>) {
        for LabelError { key, message } in errors {
            let refusal = (Some(key), message);
            if self.seen.len() < REFUSALS_MAX {
                self.seen.insert(refusal);
            } else if !self.seen.contains(&refusal) {
                self.leave_out(1);
            }
        }
    }

    /// Refuses something that no single label is to blame for. There is always room for that.
    pub(super) fn container(&mut self, message: String) {
        self.seen.insert((None, message));
    }

    /// So many more are refused, without being told.
    pub(super) fn leave_out(&mut self, count: usize) {
        self.left_out = self.left_out.saturating_add(count);
    }

    /// What is told: the last says what is not.
    pub(super) fn told(mut self) -> Vec<Refusal> {
        if self.left_out > 0 {
            let message = format!(
                "{} more refusals of its labels are not listed; mend those that are",
                self.left_out
            );
            self.seen.insert((None, message));
        }
        let object = self.object;
        let told = self.seen.into_iter();
        told.map(|(key, message)| Refusal { object: object.to_owned(), key, message }).collect()
    }
}
