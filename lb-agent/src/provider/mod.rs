//! Sources of truth. A provider observes and tells; it never touches the kernel.
//!
//! Level-triggered: a provider sends everything that it knows, each time. When it cannot look, it
//! sends a status and no claims, so that the last good ones stay in force.

pub mod docker;
pub mod file;

use crate::model::Claims;

/// What a provider sends to the runtime.
#[derive(Clone, PartialEq, Debug)]
pub enum ProviderEvent {
    /// All that it knows now; replaces what it sent before.
    Claims {
        /// Name of the provider: `docker`, `file`.
        provider: &'static str,
        /// Everything.
        claims: Claims,
    },
    /// The backends with this [`crate::model::Backend::instance`] are dead: out at once. Claims
    /// without them follow.
    Gone {
        /// Name of the provider.
        provider: &'static str,
        /// The instance.
        instance: String,
    },
    /// A container that will have claims is probably about to start behind this veth. Nothing but time
    /// depends on it.
    Expected {
        /// Index of the veth on the node.
        ifindex: u32,
    },
    /// Whether the provider can see its source.
    Status {
        /// Name of the provider.
        provider: &'static str,
        /// `None`: all is well. Else what is wrong and what is being done.
        trouble: Option<String>,
    },
}
