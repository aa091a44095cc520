//! The loop with probes that are made of nothing, in virtual time.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::sleep;

use super::*;
use crate::{
    health::{target::Target, tracker::Health},
    model::{Probe, ProbeKind, ProbePlace},
};

/// Answers after a while, as it is told to.
#[derive(Default)]
struct Fake {
    /// Milliseconds to the answer, and whether it is a success; by number.
    answers: Mutex<HashMap<u64, (u64, bool)>>,
    /// Probes begun, by number.
    begun: Mutex<HashMap<u64, u32>>,
    under_way: AtomicUsize,
    under_way_most: AtomicUsize,
}

impl Check for Fake {
    async fn check(&self, job: &Job) -> Outcome {
        let [number, _] = job.target.key;
        *self.begun.lock().expect("no panic").entry(number).or_default() += 1;
        let now = self.under_way.fetch_add(1, Relaxed) + 1;
        self.under_way_most.fetch_max(now, Relaxed);
        let (wait_ms, passes) =
            self.answers.lock().expect("no panic").get(&number).copied().unwrap_or((1, true));
        // A probe that is given up counts no longer.
        let _guard = Guard(&self.under_way);
        sleep(Duration::from_millis(wait_ms)).await;
        assert!(wait_ms != 13, "thirteen is unlucky");
        if passes {
            Outcome::Passed("fine".into())
        } else {
            Outcome::failed(FailureKind::Wrong, "not fine")
        }
    }
}

struct Guard<'a>(&'a AtomicUsize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Bed {
    fake: Arc<Fake>,
    targets: watch::Sender<Targets>,
    observations: mpsc::Sender<Observation>,
    changes: mpsc::Receiver<Vec<Change>>,
    stats: Arc<Stats>,
}

impl Bed {
    fn new(in_flight_max: usize) -> Self {
        let fake = Arc::new(Fake::default());
        let stats = Arc::new(Stats::default());
        let (targets, targets_receiver) = watch::channel(Targets::default());
        let (observations, observations_receiver) = mpsc::channel(8);
        let (changes_sender, changes) = mpsc::channel(1024);
        let channels = HealthChannels {
            targets: targets_receiver,
            observations: observations_receiver,
            changes: changes_sender,
            stats: Arc::clone(&stats),
        };
        tokio::spawn(run(Arc::clone(&fake), Settings { seed: 1, in_flight_max }, channels));
        Self { fake, targets, observations, changes, stats }
    }

    fn set(&self, numbers: impl IntoIterator<Item = u64>, assumed: Health) {
        let probe = Arc::new(Probe {
            kind: ProbeKind::Tcp { port: None },
            interval_ms: 2000,
            timeout_ms: 1000,
            initial_delay_ms: 0,
            rise: 1,
            fall: 2,
            place: ProbePlace::Auto,
        });
        let target = |number| {
            Arc::new(Target {
                key: [number, 1],
                generation: 1,
                display_name: String::new(),
                address: "10.0.0.1:80".parse().expect("an address"),
                instance: String::new(),
                probe: Some(Arc::clone(&probe)),
                reported: None,
                assumed,
            })
        };
        self.targets.send_replace(Arc::new(numbers.into_iter().map(target).collect()));
    }

    fn answer(&self, number: u64, wait_ms: u64, passes: bool) {
        self.fake.answers.lock().expect("no panic").insert(number, (wait_ms, passes));
    }

    async fn next(&mut self) -> Change {
        let mut changes = self.changes.recv().await.expect("health runs");
        assert_eq!(changes.len(), 1);
        changes.remove(0)
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_in_time_fails() {
    let mut bed = Bed::new(10);
    bed.answer(1, 3_600_000, true);
    bed.set([1], Health::Healthy);
    let change = bed.next().await;
    assert_eq!(change.standing.health, Health::Unhealthy);
    assert_eq!(change.cause, "no answer within 1000 ms");
    bed.answer(1, 1, true);
    assert_eq!(bed.next().await.standing.health, Health::Healthy);
    let stats = bed.stats.of([1, 1]).expect("it was probed");
    assert_eq!((stats.passed, stats.failed, stats.changes), (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_report_of_the_data_path_is_told_at_once() {
    let mut bed = Bed::new(10);
    bed.set([1], Health::Healthy);
    sleep(Duration::from_secs(10)).await;
    let reported_at = Instant::now();
    bed.answer(1, 1, false);
    let text = "refused a SYN".to_owned();
    let failure = Observation::Failure { key: [1, 1], is_refusing: true, text };
    bed.observations.send(failure).await.expect("health runs");
    let change = bed.next().await;
    assert!(reported_at.elapsed() < Duration::from_millis(5));
    assert_eq!((change.standing.is_refusing, change.cause.as_str()), (true, "refused a SYN"));
}

#[tokio::test(start_paused = true)]
async fn a_doubt_of_the_data_path_is_looked_at_at_once() {
    let mut bed = Bed::new(10);
    bed.set([1], Health::Healthy);
    sleep(Duration::from_secs(10)).await;
    bed.answer(1, 1, false);
    let doubted_at = Instant::now();
    bed.observations.send(Observation::Doubt { key: [1, 1] }).await.expect("health runs");
    assert_eq!(bed.next().await.standing.health, Health::Unhealthy);
    // One probe at once, the second an eighth of the interval later.
    assert!(doubted_at.elapsed() < Duration::from_millis(400), "{:?}", doubted_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_breaks_says_nothing_and_is_made_again() {
    let mut bed = Bed::new(1);
    bed.answer(1, 13, true);
    bed.set([1, 2], Health::Starting);
    assert_eq!(bed.next().await.key, [2, 1]);
    sleep(Duration::from_secs(1)).await;
    bed.answer(1, 1, true);
    assert_eq!(bed.next().await.key, [1, 1]);
    assert!(bed.stats.of([1, 1]).expect("it was probed").inconclusive > 0);
}

/// Keeps the thread for itself, and never answers.
struct Hog;

impl Check for Hog {
    async fn check(&self, _job: &Job) -> Outcome {
        std::thread::sleep(Duration::from_millis(50) + 2 * LATENESS_MAX);
        std::future::pending().await
    }
}

#[tokio::test]
async fn who_is_probed_by_a_busy_node_has_not_failed() {
    let probe = Probe {
        kind: ProbeKind::Tcp { port: None },
        interval_ms: 1000,
        timeout_ms: 50,
        initial_delay_ms: 0,
        rise: 1,
        fall: 1,
        place: ProbePlace::Auto,
    };
    let target = Target {
        key: [1, 1],
        generation: 1,
        display_name: String::new(),
        address: "10.0.0.1:80".parse().expect("an address"),
        instance: String::new(),
        probe: Some(Arc::new(probe)),
        reported: None,
        assumed: Health::Starting,
    };
    let mut book = Book::new(1, 1);
    book.set_targets(&[Arc::new(target)], 0);
    let job = book.next_job(0).expect("it is due");
    let outcome = super::probe(Arc::new(Hog), job).await.outcome;
    assert_eq!(outcome, Outcome::Inconclusive("the node is too busy to probe in time".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_probes_are_made_in_their_time() {
    let bed = Bed::new(IN_FLIGHT_MAX);
    bed.set(0..10_000, Health::Healthy);
    sleep(Duration::from_secs(20)).await;
    let begun = bed.fake.begun.lock().expect("no panic").clone();
    assert_eq!(begun.len(), 10_000);
    assert!(begun.values().all(|count| (9..=11).contains(count)), "each of them every 2 s");
    // Of 5 in a millisecond, answered in one, hardly any are under way.
    assert!(bed.fake.under_way_most.load(Relaxed) < 100);
    let (total, schedule) = bed.stats.total();
    assert!((95_000..105_000).contains(&total.passed), "{}", total.passed);
    assert_eq!(schedule.targets, 10_000);
}

#[tokio::test(start_paused = true)]
async fn the_silent_do_not_starve_the_others() {
    let mut bed = Bed::new(50);
    for number in 0..1000 {
        bed.answer(number, 3_600_000, true);
    }
    bed.set(0..1001, Health::Starting);
    // 1000 timeouts of a second, 50 at once: one round takes 20 s.
    let started = Instant::now();
    while bed.next().await.key != [1000, 1] {}
    assert!(started.elapsed() <= Duration::from_secs(21), "{:?}", started.elapsed());
    assert_eq!(bed.fake.under_way_most.load(Relaxed), 50);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens() {
    let Bed { mut changes, targets, .. } = Bed::new(1);
    changes.close();
    drop(changes);
    targets.closed().await;
}
