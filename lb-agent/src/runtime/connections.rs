//! Connections of backends whose replies are translated by a default: no record tells of them, so
//! the sockets in the container are counted.
//!
//! Somebody asks, and gets what was found last; the counting itself is done by a task of its own, at
//! most once in [`PAUSE`] and only as long as somebody asks. What is not asked for costs nothing.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    health::check::Containers,
    model::{BackendPath, Snapshot},
    netlink::{Namespace, Process, established},
    plan::{KernelState, NameHash, instance_hash},
};

/// Time between two counts; also what a count may be old when it is shown, and a bit more.
const PAUSE: Duration = Duration::from_secs(5);
/// Time for one count; what it has not come to is not known.
const COUNT_MAX: Duration = Duration::from_secs(2);
/// Without a question for so long, what was counted is forgotten.
const FORGET: Duration = Duration::from_mins(1);

/// What was counted, and what is to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: Vec<Wanted>,
    counted: Arc<HashMap<NameHash, u64>>,
}

/// A backend whose sockets are to be counted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    key: NameHash,
    /// By it the container is found.
    instance: String,
    address: SocketAddr,
}

impl Connections {
    /// What was counted last, by backend.
    pub(super) fn counted(&self) -> Arc<HashMap<NameHash, u64>> {
        Arc::clone(&self.lock().counted)
    }

    /// Asks for the backends of containers of whose connections no records are made.
    pub(super) fn ask(&self, snapshot: &Snapshot, kernel: &KernelState) {
        let is_fixed = |held: &&crate::plan::KernelBackend| {
            !held.records_replies && matches!(held.path, BackendPath::Local { .. })
        };
        let held = kernel.backends.values().filter(is_fixed);
        let fixed: std::collections::HashSet<_> = held.map(|held| held.instance_hash).collect();
        let mut wanted = Vec::new();
        if !fixed.is_empty() {
            for service in snapshot.services.values() {
                for backend in &service.backends {
                    let key = instance_hash(&service.name, backend);
                    if fixed.contains(&key) {
                        let (instance, address) = (backend.instance.clone(), backend.address);
                        wanted.push(Wanted { key, instance, address });
                    }
                }
            }
        }
        // A dump tells of all ports of a container.
        wanted.sort_by(|one, other| one.instance.cmp(&other.instance));
        self.lock().wanted = wanted;
        self.0.asked.notify_one();
    }

    /// Counts whenever somebody has asked. Ends never.
    pub(super) async fn run(self, containers: Arc<dyn Containers>) {
        loop {
            if timeout(FORGET, self.0.asked.notified()).await.is_err() {
                self.lock().counted = Arc::default();
                self.0.asked.notified().await;
            }
            let wanted = std::mem::take(&mut self.lock().wanted);
            let containers = Arc::clone(&containers);
            let deadline = Instant::now() + COUNT_MAX;
            let count = tokio::task::spawn_blocking(move || {
                count(&wanted, |instance, ports| look(&*containers, instance, ports), deadline)
            });
            match count.await {
                Ok(counted) => self.lock().counted = Arc::new(counted),
                Err(error) => tracing::warn!("connections could not be counted: {error}"),
            }
            sleep(PAUSE).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is right by itself.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts container by container until all are counted or the time is over. `look` gives a count for
/// each address, or nothing.
fn count(
    wanted: &[Wanted],
    mut look: impl FnMut(&str, &[SocketAddr]) -> Option<Vec<u64>>,
    deadline: Instant,
) -> HashMap<NameHash, u64> {
    let mut counted = HashMap::new();
    for of_one in wanted.chunk_by(|one, other| one.instance == other.instance) {
        if Instant::now() >= deadline {
            tracing::debug!("too many containers to count the connections of all");
            break;
        }
        let addresses: Vec<SocketAddr> = of_one.iter().map(|it| it.address).collect();
        let found = look(&of_one[0].instance, &addresses).unwrap_or_default();
        counted.extend(of_one.iter().map(|it| it.key).zip(found));
    }
    counted
}

/// One that has just ended has nothing to tell.
fn look(containers: &dyn Containers, instance: &str, addresses: &[SocketAddr]) -> Option<Vec<u64>> {
    let process: Arc<Process> = containers.process(instance)?;
    let namespace = Namespace::of(&process).ok()?;
    match established(&namespace, addresses) {
        Ok(counts) => Some(counts),
        Err(error) => {
            tracing::debug!("connections of `{instance}` cannot be counted: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(number: u64, instance: &str) -> Wanted {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        Wanted { key: [number, 0], instance: instance.to_owned(), address }
    }

    #[test]
    fn one_look_into_each_container() {
        let all = [wanted(1, "a"), wanted(2, "a"), wanted(3, "b"), wanted(4, "gone")];
        let mut looks = Vec::new();
        let look = |instance: &str, addresses: &[SocketAddr]| {
            looks.push((instance.to_owned(), addresses.len()));
            (instance != "gone").then(|| vec![7; addresses.len()])
        };
        let later = Instant::now() + Duration::from_hours(1);
        let counted = count(&all, look, later);
        assert_eq!(looks, [("a".to_owned(), 2), ("b".to_owned(), 1), ("gone".to_owned(), 1)]);
        assert_eq!(counted, [([1, 0], 7), ([2, 0], 7), ([3, 0], 7)].into());
    }

    #[test]
    fn what_there_is_no_time_for_is_not_known() {
        let look = |_: &str, _: &[SocketAddr]| Some(vec![1]);
        assert_eq!(count(&[wanted(1, "a")], look, Instant::now()), HashMap::new());
    }
}
