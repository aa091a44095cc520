//! Who may run a command, and who waits: commands that never end must not keep others from theirs.
//!
//! Each turn has a place among those of its container, of its service, and of all. Those whose commands
//! do not end have a part of the places only, however many they are; a service that has just begun to
//! hang has not all of them either. Knows nothing of Docker.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::provider::docker::container_of;

/// So many commands at once, of these.
#[derive(Debug)]
struct Bound {
    max: usize,
    whose: &'static str,
}

/// Each of them costs Docker and the node some tens of milliseconds.
const ALL: Bound = Bound { max: 16, whose: "" };
/// Those of a service hang together, with the same line and the same database.
const SERVICE: Bound = Bound { max: ALL.max / 2, whose: " of this service" };
/// The other places are left to those whose commands end.
const LATE: Bound =
    Bound { max: ALL.max / 2, whose: " of containers whose last one did not end in time" };
/// Nor do those of one service keep others from ending in time again.
const LATE_OF_SERVICE: Bound = Bound {
    max: LATE.max / 2,
    whose: " of containers of this service whose last one did not end in time",
};
const CONTAINER: Bound = Bound { max: 2, whose: " of this container" };

/// After that a container has another chance: its probe may be another by now.
const LATE_FOR: Duration = Duration::from_hours(1);
/// From one word about those who get no turn to the next.
const PAUSE: Duration = Duration::from_mins(5);
/// Letters of a container's id that are shown, as Docker does.
const ID_SHOWN: usize = 12;

/// Who may run a command.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    late: Arc<Semaphore>,
    register: Arc<Mutex<Register>>,
}

/// Who runs commands, and what came of the last ones.
#[derive(Debug, Default)]
struct Register {
    /// As long as somebody has or wants a turn.
    services: HashMap<String, Weak<Semaphore>>,
    late_of_services: HashMap<String, Weak<Semaphore>>,
    /// By instance; the same.
    containers: HashMap<String, Weak<Semaphore>>,
    /// Instances whose latest command took all the time there was, and when it ended.
    late: HashMap<String, Instant>,
    /// By number, so in the order in which they were given.
    taken: BTreeMap<u64, Taken>,
    next_number: u64,
    complained_at: Option<Instant>,
}

#[derive(Debug)]
struct Taken {
    service: String,
    instance: String,
    since: Instant,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    register: Arc<Mutex<Register>>,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new() -> Self {
        let semaphore = |bound: &Bound| Arc::new(Semaphore::new(bound.max));
        Self { all: semaphore(&ALL), late: semaphore(&LATE), register: Arc::default() }
    }

    /// A turn for a command of this container of this service, once there is one. An error says whom it
    /// waits for.
    pub(super) async fn take(
        &self,
        service: &str,
        instance: &str,
        limit: Instant,
    ) -> Result<Turn, String> {
        let own = semaphore(&mut lock(&self.register).containers, instance, &CONTAINER);
        // A container that waits for itself takes nothing from others.
        let mut permits = vec![acquire(own, limit, &CONTAINER).await?];
        for (turns, bound) in self.bounds(service, instance) {
            let permit = acquire(turns, limit, bound).await;
            permits.push(permit.inspect_err(|_| self.complain())?);
        }
        let number = lock(&self.register).begin(service, instance);
        Ok(Turn { number, register: Arc::clone(&self.register), _permits: permits })
    }

    /// Where a command needs a place beside that of its container. Whoever waits has places only where
    /// fewer wait.
    fn bounds(&self, service: &str, instance: &str) -> Vec<(Arc<Semaphore>, &'static Bound)> {
        let mut register = lock(&self.register);
        let mut bounds = Vec::new();
        if register.is_late(instance) {
            let of_service = semaphore(&mut register.late_of_services, service, &LATE_OF_SERVICE);
            bounds.extend([(of_service, &LATE_OF_SERVICE), (Arc::clone(&self.late), &LATE)]);
        }
        let of_service = semaphore(&mut register.services, service, &SERVICE);
        bounds.extend([(of_service, &SERVICE), (Arc::clone(&self.all), &ALL)]);
        bounds
    }

    /// Somebody got no turn.
    fn complain(&self) {
        let complaint = lock(&self.register).complaint();
        if let Some(complaint) = complaint {
            tracing::warn!("{complaint}");
        }
    }
}

impl Turn {
    /// Its command has ended. `is_late`: not before its time was over.
    pub(super) fn end(self, is_late: bool) {
        lock(&self.register).end(self.number, is_late);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Unless it has ended already.
        lock(&self.register).taken.remove(&self.number);
    }
}

impl Register {
    fn begin(&mut self, service: &str, instance: &str) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let (service, instance) = (service.to_owned(), instance.to_owned());
        self.taken.insert(number, Taken { service, instance, since: Instant::now() });
        number
    }

    fn end(&mut self, number: u64, is_late: bool) {
        let Some(Taken { instance, .. }) = self.taken.remove(&number) else { return };
        if is_late {
            self.late.retain(|_, ended| ended.elapsed() < LATE_FOR);
            self.late.insert(instance, Instant::now());
        } else {
            self.late.remove(&instance);
        }
    }

    fn is_late(&self, instance: &str) -> bool {
        self.late.get(instance).is_some_and(|ended| ended.elapsed() < LATE_FOR)
    }

    /// Who keeps others from their turns, unless that was said a while ago.
    fn complaint(&mut self) -> Option<String> {
        if self.complained_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let longest = self.taken.values().next()?;
        let Taken { service, instance, since } = longest;
        let same = self.taken.values().filter(|taken| taken.service == *service).count();
        let container = container_of(instance);
        let complaint = format!(
            "a probe's command got no turn, as {} others are under way, {same} of them of service \
             `{service}`: the first for {} s, in container {}. Let it end sooner, or give its probe a \
             shorter timeout",
            self.taken.len(),
            since.elapsed().as_secs(),
            container.get(..ID_SHOWN).unwrap_or(container),
        );
        self.complained_at = Some(Instant::now());
        Some(complaint)
    }
}

/// Nothing is left half done by a panic.
fn lock(register: &Mutex<Register>) -> MutexGuard<'_, Register> {
    register.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one of this name. Of those that nobody has or wants any more nothing is kept.
fn semaphore(
    known: &mut HashMap<String, Weak<Semaphore>>,
    name: &str,
    bound: &Bound,
) -> Arc<Semaphore> {
    if let Some(known) = known.get(name).and_then(Weak::upgrade) {
        return known;
    }
    known.retain(|_, turns| turns.strong_count() > 0);
    let turns = Arc::new(Semaphore::new(bound.max));
    known.insert(name.to_owned(), Arc::downgrade(&turns));
    turns
}

async fn acquire(
    turns: Arc<Semaphore>,
    limit: Instant,
    bound: &Bound,
) -> Result<OwnedSemaphorePermit, String> {
    let Bound { max, whose } = bound;
    match timeout_at(limit, turns.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(format!("{max} other commands{whose} are under way; it has to wait")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of commands that never end.
    const LONG: Duration = Duration::from_mins(1);
    /// What a command of two seconds waits for its turn.
    const SOON: Duration = Duration::from_secs(1);

    async fn take(turns: &Turns, service: &str, instance: &str) -> Result<Turn, String> {
        turns.take(service, instance, Instant::now() + SOON).await
    }

    /// Commands of this container never end, and are run again and again.
    fn hang(turns: &Turns, service: &str, instance: &str) {
        for _ in 0..CONTAINER.max {
            let (turns, service, instance) =
                (turns.clone(), service.to_owned(), instance.to_owned());
            tokio::spawn(async move {
                loop {
                    let turn = turns.take(&service, &instance, Instant::now() + LONG / 2).await;
                    if let Ok(turn) = turn {
                        tokio::time::sleep(LONG).await;
                        turn.end(true);
                    }
                    tokio::time::sleep(SOON).await;
                }
            });
        }
    }

    /// Runs commands of this container as long as they hang ten times, and counts those that got no turn.
    async fn starved(turns: &Turns, service: &str, instance: &str) -> usize {
        let end = Instant::now() + 10 * LONG;
        let mut starved = 0;
        while Instant::now() < end {
            match take(turns, service, instance).await {
                Ok(turn) => turn.end(false),
                Err(_) => starved += 1,
            }
            tokio::time::sleep(SOON).await;
        }
        starved
    }

    #[tokio::test(start_paused = true)]
    async fn no_container_takes_the_turns_of_others() {
        let turns = Turns::new();
        let mut taken = Vec::new();
        for _ in 0..CONTAINER.max {
            taken.push(take(&turns, "web", "greedy").await.expect("a turn"));
        }
        let error = take(&turns, "web", "greedy").await.expect_err("it has its share");
        assert_eq!(error, "2 other commands of this container are under way; it has to wait");
        for number in CONTAINER.max..ALL.max {
            let name = number.to_string();
            taken.push(take(&turns, &name, &name).await.expect("a turn"));
        }
        let error = take(&turns, "shop", "one more").await.expect_err("all are taken");
        assert_eq!(error, "16 other commands are under way; it has to wait");
        // Who waits is served when another one ends, and nothing is kept of those who are done.
        let waiting = take(&turns, "web", "greedy");
        drop(taken);
        drop(waiting.await.expect("a turn"));
        drop(take(&turns, "shop", "another").await.expect("a turn"));
        let register = lock(&turns.register);
        assert_eq!((register.containers.len(), register.services.len()), (1, 1));
        assert!(register.taken.is_empty() && register.late.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_service_that_hangs_takes_the_turns_of_others() {
        let turns = Turns::new();
        for number in 0..ALL.max {
            hang(&turns, "hung", &format!("hung-{number}"));
        }
        tokio::time::sleep(SOON).await;
        let error = take(&turns, "hung", "another").await.expect_err("it has its share");
        assert_eq!(error, "8 other commands of this service are under way; it has to wait");
        assert_eq!(starved(&turns, "web", "web-1").await, 0, "from the beginning");
        // Nor of a container that was late once, and of those of its own that are well.
        take(&turns, "web", "web-1").await.expect("a turn").end(true);
        assert_eq!(starved(&turns, "web", "web-1").await, 0, "who was late");
        assert_eq!(starved(&turns, "hung", "another").await, 0, "its own");
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_takes_no_turns_from_those_who_do_not() {
        let turns = Turns::new();
        for number in 0..2 * ALL.max {
            let name = format!("hung-{number}");
            hang(&turns, &name, &name);
        }
        // Each has one chance, more or less at once.
        tokio::time::sleep(10 * LONG).await;
        let starved = starved(&turns, "web", "web-1").await;
        assert_eq!(starved, 0);
        // What is kept of those who are late ends.
        let turn = take(&turns, "web", "web-1").await.expect("a turn");
        turn.end(true);
        assert!(lock(&turns.register).is_late("web-1"));
        tokio::time::sleep(LATE_FOR).await;
        assert!(!lock(&turns.register).is_late("web-1"));
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_gets_no_turn_is_told_of_once_in_a_while() {
        let turns = Turns::new();
        let complaint = || lock(&turns.register).complaint();
        assert_eq!(complaint(), None, "nobody is under way");
        let id = "0123456789abcdef@17";
        let first = take(&turns, "web", id).await.expect("a turn");
        tokio::time::sleep(LONG / 2).await;
        let others = [("web", "b@1"), ("shop", "c@1")];
        let mut taken = Vec::new();
        for (service, instance) in others {
            taken.push(take(&turns, service, instance).await.expect("a turn"));
        }
        let expected = "a probe's command got no turn, as 3 others are under way, 2 of them of \
                        service `web`: the first for 30 s, in container 0123456789ab. Let it end \
                        sooner, or give its probe a shorter timeout";
        assert_eq!(complaint().as_deref(), Some(expected));
        assert_eq!(complaint(), None, "it was said");
        drop(first);
        tokio::time::sleep(PAUSE).await;
        let said = complaint().expect("it was said long ago");
        assert!(said.contains("the first for 300 s, in container b."), "{said}");
    }
}
