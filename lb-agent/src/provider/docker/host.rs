//! What the provider needs to know from the kernel.

use std::{future::Future, io, sync::Arc, time::Duration};

use super::Runs;
use crate::netlink::{self, BootTicks, ContainerNetwork, NetworkError};

/// How often a process is looked at when it cannot be waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A container's main process. It never comes to mean another one.
pub(super) trait Process: Send + Sync + 'static {
    /// Whether it runs.
    fn is_alive(&self) -> bool;

    /// Resolves when it has ended.
    fn ended(&self) -> impl Future<Output = ()> + Send;

    /// Whether the kernel itself says that it is the container's, and was so at this moment. False
    /// proves nothing.
    fn was_of(&self, container: &str, at: BootTicks) -> bool;
}

/// Processes and namespaces of this node.
pub(super) trait Host: Send + Sync + 'static {
    /// Handle on a process.
    type Process: Process;

    /// The moment that it is.
    fn now(&self) -> io::Result<BootTicks>;

    /// The process that has this number now; `NotFound` when there is none.
    fn open(&self, pid: u32) -> io::Result<Self::Process>;

    /// Where the process is reached.
    fn network(
        &self,
        process: &Arc<Self::Process>,
    ) -> impl Future<Output = Result<ContainerNetwork, NetworkError>> + Send;

    /// A run of a container is followed from now on.
    fn begins(&self, instance: &str, process: &Arc<Self::Process>);

    /// It is over.
    fn ends(&self, instance: &str);
}

/// The real node.
pub(super) struct Node {
    runs: Runs,
}

impl Node {
    /// Tells `runs` which containers run.
    pub(super) fn new(runs: Runs) -> Self {
        Self { runs }
    }
}

impl Host for Node {
    type Process = netlink::Process;

    fn now(&self) -> io::Result<BootTicks> {
        BootTicks::now()
    }

    fn open(&self, pid: u32) -> io::Result<netlink::Process> {
        netlink::Process::open(pid)
    }

    async fn network(
        &self,
        process: &Arc<netlink::Process>,
    ) -> Result<ContainerNetwork, NetworkError> {
        let (pid, process) = (process.pid(), Arc::clone(process));
        let failed = |error| NetworkError::Failed {
            pid,
            action: "look into its namespace",
            source: io::Error::other(error),
        };
        tokio::task::spawn_blocking(move || netlink::container_network(&process))
            .await
            .map_err(failed)?
    }

    fn begins(&self, instance: &str, process: &Arc<netlink::Process>) {
        self.runs.begin(instance, process);
    }

    fn ends(&self, instance: &str) {
        self.runs.end(instance);
    }
}

impl Process for netlink::Process {
    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    async fn ended(&self) {
        if let Err(error) = self.ended().await {
            tracing::warn!(pid = self.pid(), %error, "cannot wait for a process, polling it");
            while self.is_alive() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    fn was_of(&self, container: &str, at: BootTicks) -> bool {
        self.started_at().is_ok_and(|started_at| started_at < at)
            && self.is_in_control_group_of(container).unwrap_or(false)
    }
}
