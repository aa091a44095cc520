//! Which of this node's own clients see a service.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// Which of this node's own clients see a service. Those outside come through the front interfaces
/// and always do.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Visibility {
    /// The node's own processes, and containers that share its network.
    pub node: bool,
    /// All containers.
    pub containers: bool,
    /// Containers on these networks.
    pub networks: BTreeSet<String>,
}

/// Which backend a client of this node would rather have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// Whichever the ring says.
    #[default]
    Any,
    /// One on this node, if there is any.
    Node,
}

impl Default for Visibility {
    fn default() -> Self {
        Self { node: true, containers: true, networks: BTreeSet::new() }
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.node, "node"), (self.containers, "containers")];
        let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned());
        let networks = self.networks.iter().map(|name| format!("network:{name}"));
        let words: Vec<String> = words.chain(networks).collect();
        formatter.write_str(if words.is_empty() { "none" } else { "" })?;
        formatter.write_str(&words.join(","))
    }
}
