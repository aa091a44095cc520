//! Connections of backends whose replies are translated by a default: no record tells of them, so
//! the sockets in the container are counted.
//!
//! Somebody asks, and gets what was found last; the counting itself is done by a task of its own, at
//! most once in [`PAUSE`] and only as long as somebody asks. What is not asked for costs nothing.
//!
//! A count has [`COUNT_MAX`]. What it has not come to keeps the figure that it had, and the next count
//! begins with it: so on a node with more than that each has its turn, and is only older.

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
/// Time for one count; what it has not come to is left to the next one.
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
        self.lock().wanted = wanted;
        self.0.asked.notify_one();
    }

    /// Counts whenever somebody has asked. Ends never.
    pub(super) async fn run(self, containers: Arc<dyn Containers>) {
        let mut latest = String::new();
        loop {
            if timeout(FORGET, self.0.asked.notified()).await.is_err() {
                self.lock().counted = Arc::default();
                self.0.asked.notified().await;
            }
            let wanted = in_turn(std::mem::take(&mut self.lock().wanted), &latest);
            let containers = Arc::clone(&containers);
            let deadline = Instant::now() + COUNT_MAX;
            let counting = tokio::task::spawn_blocking(move || {
                let look =
                    |instance: &str, ports: &[SocketAddr]| look(&*containers, instance, ports);
                let round = count(&wanted, look, || Instant::now() >= deadline);
                (wanted, round)
            });
            match counting.await {
                Ok((wanted, round)) => {
                    note_latest(&wanted, &round, &mut latest);
                    let left = &wanted[round.reached..];
                    let counted = with_left(round.counted, left, &self.counted());
                    self.lock().counted = Arc::new(counted);
                }
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

/// Remembers behind whom the next count begins.
fn note_latest(wanted: &[Wanted], round: &Round, latest: &mut String) {
    if let Some(last) = wanted[..round.reached].last() {
        latest.clone_from(&last.instance);
    }
}

/// What one count has come to.
#[derive(PartialEq, Eq, Debug)]
struct Round {
    counted: HashMap<NameHash, u64>,
    /// Backends that it has come to, from the first one on.
    reached: usize,
}

/// Container by container, since a dump tells of all ports of one; begins behind the one that was
/// looked into last, which may be gone.
fn in_turn(mut wanted: Vec<Wanted>, latest: &str) -> Vec<Wanted> {
    wanted.sort_by(|one, other| one.instance.cmp(&other.instance));
    let first = wanted.partition_point(|it| it.instance.as_str() <= latest);
    wanted.rotate_left(first);
    wanted
}

/// Counts container by container until all are counted or the time is over. `look` gives a count for
/// each address, or nothing.
fn count(
    wanted: &[Wanted],
    mut look: impl FnMut(&str, &[SocketAddr]) -> Option<Vec<u64>>,
    mut is_over: impl FnMut() -> bool,
) -> Round {
    let mut round = Round { counted: HashMap::new(), reached: 0 };
    for of_one in wanted.chunk_by(|one, other| one.instance == other.instance) {
        if is_over() {
            let left = wanted.len() - round.reached;
            tracing::debug!("no time to count the connections of {left} backends; they are next");
            break;
        }
        let addresses: Vec<SocketAddr> = of_one.iter().map(|it| it.address).collect();
        let found = look(&of_one[0].instance, &addresses).unwrap_or_default();
        round.counted.extend(of_one.iter().map(|it| it.key).zip(found));
        round.reached += of_one.len();
    }
    round
}

/// What was counted now, and what was known before of those whose turn is next.
fn with_left(
    mut counted: HashMap<NameHash, u64>,
    left: &[Wanted],
    before: &HashMap<NameHash, u64>,
) -> HashMap<NameHash, u64> {
    counted.extend(left.iter().filter_map(|it| Some((it.key, *before.get(&it.key)?))));
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
        let round = count(&all, look, || false);
        assert_eq!(looks, [("a".to_owned(), 2), ("b".to_owned(), 1), ("gone".to_owned(), 1)]);
        assert_eq!(round.counted, [([1, 0], 7), ([2, 0], 7), ([3, 0], 7)].into());
        assert_eq!(round.reached, 4);
    }

    /// Counts in a row: each is given containers by their letters, a big one having two backends, and
    /// has time for so many. Expected: the containers that it looks into, in order.
    #[track_caller]
    fn check(name: &str, counts: &[(&str, usize, &str)]) {
        let mut latest = String::new();
        for (index, (letters, time, expected)) in counts.iter().enumerate() {
            let of_letter = |letter: char| {
                let backends = if letter.is_uppercase() { 2 } else { 1 };
                vec![wanted(u64::from(letter), &letter.to_string()); backends]
            };
            let wanted = in_turn(letters.chars().flat_map(of_letter).collect(), &latest);
            let (mut looks, mut asked) = (String::new(), 0);
            let look = |instance: &str, addresses: &[SocketAddr]| {
                looks.push_str(instance);
                Some(vec![1; addresses.len()])
            };
            let is_over = || {
                asked += 1;
                asked > *time
            };
            let round = count(&wanted, look, is_over);
            assert_eq!(looks, *expected, "{name}, count {index}");
            note_latest(&wanted, &round, &mut latest);
        }
    }

    #[test]
    fn each_count_begins_where_the_latest_has_ended() {
        check("time for all", &[("cab", 9, "abc"), ("cab", 9, "abc")]);
        check(
            "time for two of five",
            &[("abcde", 2, "ab"), ("abcde", 2, "cd"), ("abcde", 2, "ea")],
        );
        check("time for one", &[("ab", 1, "a"), ("ab", 1, "b"), ("ab", 1, "a")]);
        check("two backends of one", &[("aBc", 1, "B"), ("aBc", 1, "a"), ("aBc", 2, "cB")]);
        check("the latest is gone", &[("abcd", 2, "ab"), ("acd", 2, "cd"), ("acd", 1, "a")]);
        check("all behind it are gone", &[("abcd", 3, "abc"), ("ab", 1, "a"), ("ab", 1, "b")]);
        check("one comes behind it", &[("bd", 1, "b"), ("bcd", 1, "c"), ("bcd", 1, "d")]);
        check("none, and then some", &[("", 3, ""), ("ab", 1, "a"), ("", 3, ""), ("ab", 1, "b")]);
        check("no time at all", &[("ab", 1, "a"), ("ab", 0, ""), ("ab", 1, "b")]);
    }

    #[test]
    fn what_there_is_no_time_for_keeps_its_figure() {
        let before = [([1, 0], 5), ([2, 0], 6), ([9, 0], 7)].into();
        let left = [wanted(2, "b"), wanted(3, "c")];
        // The first one was looked into and is gone; nobody asks for the last one any more.
        assert_eq!(with_left(HashMap::new(), &left, &before), [([2, 0], 6)].into());
        let counted = [([1, 0], 8)].into();
        assert_eq!(with_left(counted, &left, &before), [([1, 0], 8), ([2, 0], 6)].into());
    }
}
