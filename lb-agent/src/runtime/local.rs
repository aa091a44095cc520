//! Addresses of the node and subnets of its containers, as they were when last looked at.

use std::mem;

use super::node::Node;
use crate::model::LocalPrefixes;

#[derive(Debug, Default)]
pub(super) struct Local {
    prefixes: Option<LocalPrefixes>,
    is_fresh: bool,
}

impl Local {
    /// Something has happened that may have changed them.
    pub(super) fn set_stale(&mut self) {
        self.is_fresh = false;
    }

    /// Lists them anew if that is due. True: they are others now.
    pub(super) fn look(&mut self, node: &impl Node) -> bool {
        if mem::replace(&mut self.is_fresh, true) {
            return false;
        }
        match node.local() {
            Ok(prefixes) => {
                let is_changed = self.prefixes.as_ref() != Some(&prefixes);
                self.prefixes = Some(prefixes);
                is_changed
            }
            Err(error) => {
                // What was known stays in force.
                tracing::warn!("{error}");
                false
            }
        }
    }

    /// What is known; `None`: nothing yet.
    pub(super) fn prefixes(&self) -> Option<LocalPrefixes> {
        self.prefixes.clone()
    }
}
