//! What the provider needs to know from the kernel.

use std::{future::Future, io, sync::Arc, time::Duration};

use super::{Endings, Places, Runs, endings::AskedToEnd, places::FormerNames};
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

    /// Index of the veth that became a port of this bridge last, if it has any.
    fn newest_port(&self, bridge: &str) -> impl Future<Output = Option<u32>> + Send;

    /// A run of a container is followed from now on.
    fn begins(&self, instance: &str, process: &Arc<Self::Process>);

    /// It is over, and whoever has to know was told.
    fn ends(&self, instance: &str);

    /// Runs that a predecessor of this provider followed, and did not tell the end of.
    fn followed(&self) -> Vec<(String, Arc<Self::Process>)>;

    /// The names that a predecessor kept.
    fn former_names(&self) -> FormerNames;

    /// Keeps these and no others.
    fn keep(&self, former_names: FormerNames) -> impl Future<Output = ()> + Send;

    /// The runs that a predecessor knew to be asked to end.
    fn asked_to_end(&self) -> AskedToEnd;

    /// Keeps these and no others.
    fn keep_asked(&self, asked: AskedToEnd);
}

/// The real node.
pub(super) struct Node {
    runs: Runs,
    places: Option<Places>,
    endings: Option<Endings>,
}

impl Node {
    /// Tells `runs` which containers run, and which of them were asked to end.
    pub(super) fn new(runs: Runs, places: Option<Places>, endings: Option<Endings>) -> Self {
        Self { runs, places, endings }
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

    async fn newest_port(&self, bridge: &str) -> Option<u32> {
        let bridge = bridge.to_owned();
        let found = tokio::task::spawn_blocking(move || netlink::newest_port(&bridge)).await;
        found.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look for the newest veth");
            None
        })
    }

    fn begins(&self, instance: &str, process: &Arc<netlink::Process>) {
        self.runs.begin(instance, process);
    }

    fn ends(&self, instance: &str) {
        self.runs.end(instance);
    }

    fn followed(&self) -> Vec<(String, Arc<netlink::Process>)> {
        self.runs.all()
    }

    fn former_names(&self) -> FormerNames {
        self.places.as_ref().map(Places::load).unwrap_or_default()
    }

    async fn keep(&self, former_names: FormerNames) {
        let Some(places) = self.places.clone() else { return };
        let saved = tokio::task::spawn_blocking(move || places.save(former_names)).await;
        if let Err(error) = saved.map_err(io::Error::other).flatten() {
            tracing::warn!(
                "former names of containers cannot be kept in `state_path`: {error}; who was renamed \
                 changes its place in the ring with the next start of the agent"
            );
        }
    }

    fn asked_to_end(&self) -> AskedToEnd {
        let load = || self.endings.as_ref().map(Endings::load).unwrap_or_default();
        self.runs.asked_to_end().unwrap_or_else(load)
    }

    fn keep_asked(&self, asked: AskedToEnd) {
        self.runs.set_asked_to_end(asked);
        let Some(endings) = self.endings.clone().filter(|_| self.runs.is_to_save()) else { return };
        let runs = self.runs.clone();
        // Deaths and drains do not wait for a disk.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = runs.save_asked_to_end(&endings) {
                tracing::warn!(
                    "which containers were asked to end cannot be kept in `state_path`: {error}; \
                     after the next start of the agent some of them may serve new clients again"
                );
            }
        });
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
