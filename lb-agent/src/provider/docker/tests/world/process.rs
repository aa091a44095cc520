//! Processes of the made-up node.

use std::sync::Arc;

use tokio::sync::watch;

use super::{super::super::host::Process, id};
use crate::netlink::BootTicks;

/// A process of the made-up node.
pub(crate) struct FakeProcess {
    pub(super) container: String,
    pub(super) started_at: BootTicks,
    pub(super) alive: watch::Receiver<bool>,
}

impl FakeProcess {
    /// A process outside of any world, and what ends it.
    pub(crate) fn new() -> (Arc<Self>, watch::Sender<bool>) {
        let (end, alive) = watch::channel(true);
        (Arc::new(Self { container: id(1), started_at: BootTicks(1), alive }), end)
    }
}

impl Process for FakeProcess {
    fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    async fn ended(&self) {
        let mut alive = self.alive.clone();
        // The sender is dropped with the run, and that is the end as well.
        let _dropped = alive.wait_for(|alive| !alive).await;
    }

    /// The kernel knows for sure for every other container only, as for those that move their
    /// processes to other control groups.
    fn was_of(&self, container: &str, at: BootTicks) -> bool {
        let is_named = container.ends_with(['0', '2', '4', '6', '8']);
        is_named && self.container == container && self.started_at < at
    }
}
