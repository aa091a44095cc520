//! The loop with probes that are made of nothing, in virtual time.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::sleep;

use super::*;
use crate::{
    health::{fixtures, passive::Sign, stats::PassiveStats, target::Target, tracker::Health},
    model::Probe,
};

/// Answers after a while, as it is told to.
#[derive(Default)]
struct Fake {
    /// Milliseconds to the answer, and whether it is a success; by number.
    answers: Mutex<HashMap<u64, (u64, bool)>>,
    /// Those whose failures are refused connections.
    refusing: Mutex<HashSet<u64>>,
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
        } else if self.refusing.lock().expect("no panic").contains(&number) {
            Outcome::failed(FailureKind::Refused, "connection refused")
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

/// Backends that send so many packets from one question to the next.
#[derive(Default)]
struct Talk {
    packets: AtomicU64,
    step: AtomicU64,
}

impl Witness for Talk {
    fn packets_from(&self, _backend: u32) -> Option<u64> {
        Some(self.packets.fetch_add(self.step.load(Relaxed), Relaxed))
    }
}

struct Bed {
    talk: Arc<Talk>,
    fake: Arc<Fake>,
    targets: watch::Sender<Targets>,
    observations: mpsc::Sender<Observation>,
    changes: mpsc::Receiver<Vec<Change>>,
    stats: Arc<Stats>,
}

impl Bed {
    fn new(in_flight_max: usize) -> Self {
        let fake = Arc::new(Fake::default());
        let talk = Arc::new(Talk::default());
        let stats = Arc::new(Stats::default());
        let (targets, targets_receiver) = watch::channel(Targets::default());
        let (observations, observations_receiver) = mpsc::channel(8);
        let (changes_sender, changes) = mpsc::channel(1024);
        let channels = HealthChannels {
            targets: targets_receiver,
            observations: observations_receiver,
            witness: Arc::clone(&talk) as Arc<dyn Witness>,
            changes: changes_sender,
            stats: Arc::clone(&stats),
        };
        tokio::spawn(run(Arc::clone(&fake), Settings { seed: 1, in_flight_max }, channels));
        Self { talk, fake, targets, observations, changes, stats }
    }

    fn set(&self, numbers: impl IntoIterator<Item = u64>, assumed: Health) {
        let probe = Arc::new(Probe { fall: 2, ..fixtures::probe() });
        let target = |number| {
            Arc::new(Target {
                // Each but the even ones has an address of its own.
                address: SocketAddr::from(([10, 0, (number >> 9) as u8, (number >> 1) as u8], 80)),
                instance: String::new(),
                is_watched: number != UNWATCHED,
                is_routed: number >= ROUTED,
                ..fixtures::target(number, Some(Arc::clone(&probe)), assumed)
            })
        };
        let group = numbers.into_iter().map(target).collect();
        self.targets.send_replace(Arc::new(vec![Arc::new(group)]));
    }

    fn answer(&self, number: u64, wait_ms: u64, passes: bool) {
        self.fake.answers.lock().expect("no panic").insert(number, (wait_ms, passes));
    }

    async fn observe(&self, number: u64, sign: Sign) {
        let observation = Observation { key: [number, 1], backend: 1, sign };
        self.observations.send(observation).await.expect("health runs");
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

/// Number of a target of which nobody wants to know what the data path sees.
const UNWATCHED: u64 = 500;
/// Those from here on are on other machines.
const ROUTED: u64 = 20_000;
const HOUR_MS: u64 = 3_600_000;

/// What the data path saw of a healthy backend, and what became of it: how long it took, and the cause.
struct Seen {
    number: u64,
    sign: Sign,
    /// Milliseconds until it answers this node, and whether it then accepts or refuses.
    answer: (u64, bool),
    /// Packets that it sends to its clients meanwhile.
    packets: u64,
}

impl Seen {
    async fn outcome(self) -> (Option<(Duration, String)>, PassiveStats) {
        self.outcome_within(400).await
    }

    async fn outcome_within(self, limit_ms: u64) -> (Option<(Duration, String)>, PassiveStats) {
        let Self { number, sign, answer: (wait_ms, passes), packets } = self;
        let mut bed = Bed::new(10);
        bed.set([number], Health::Healthy);
        sleep(Duration::from_secs(10)).await;
        bed.answer(number, wait_ms, passes);
        bed.fake.refusing.lock().expect("no panic").insert(number);
        bed.talk.step.store(packets, Relaxed);
        let began = Instant::now();
        // The data path goes on telling while it lasts.
        for _ in 0..10 {
            bed.observe(number, sign).await;
        }
        let change = tokio::time::timeout(Duration::from_millis(limit_ms), bed.next()).await;
        let seen = change.ok().filter(|change| change.standing.is_observed);
        let stats = bed.stats.passive()[&sign];
        assert_eq!(stats.observations, 10);
        (seen.map(|change| (began.elapsed(), change.cause)), stats)
    }
}

#[tokio::test(start_paused = true)]
async fn who_refuses_clients_and_this_node_is_out_at_once() {
    let seen = Seen { number: 1, sign: Sign::Refused, answer: (1, false), packets: 3 };
    let (seen, stats) = seen.outcome().await;
    let (took, cause) = seen.expect("it has failed");
    assert!(took < Duration::from_millis(5), "{took:?}");
    assert_eq!(cause, "refused connections, as the data path saw");
    assert_eq!((stats.failures, stats.dismissed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_to_clients_and_this_node_is_out_soon() {
    for (number, window_ms) in [(1, 30), (ROUTED, 300)] {
        let seen = Seen { number, sign: Sign::Silent, answer: (HOUR_MS, true), packets: 0 };
        // Its own probe takes longer than that to find out: two of a second each.
        let (seen, _) = seen.outcome_within(2000).await;
        let (took, cause) = seen.expect("it has failed");
        let expected = Duration::from_millis(window_ms)..Duration::from_millis(window_ms + 10);
        assert!(expected.contains(&took), "{took:?}");
        assert_eq!(cause, "does not answer SYNs, as the data path saw");
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_node_does_not_see_comes_to_nothing() {
    for (name, number, sign, answer, packets) in [
        ("a refusal that a client provoked", 1, Sign::Refused, (1, true), 0),
        ("SYNs that cannot be answered", 1, Sign::Silent, (1, true), 0),
        ("an answer that takes its time", 1, Sign::Silent, (25, true), 0),
        ("a far backend", ROUTED, Sign::Silent, (250, true), 0),
        ("a full backlog", 1, Sign::Silent, (HOUR_MS, true), 1),
    ] {
        let (seen, stats) = Seen { number, sign, answer, packets }.outcome().await;
        assert_eq!(seen, None, "{name}");
        assert_eq!((stats.failures, stats.dismissed), (0, 1), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_where_nobody_wants_to_know() {
    let seen = Seen { number: UNWATCHED, sign: Sign::Refused, answer: (1, false), packets: 0 };
    let (seen, stats) = seen.outcome().await;
    assert_eq!((seen, stats.failures, stats.dismissed), (None, 0, 0));
    let mut bed = Bed::new(10);
    bed.set([1], Health::Starting);
    bed.observe(77, Sign::Refused).await;
    assert_eq!(bed.next().await.standing.health, Health::Healthy, "what is unknown harms nobody");
}

#[tokio::test(start_paused = true)]
async fn one_address_fails_in_all_its_services() {
    let mut bed = Bed::new(10);
    bed.set([2, 3, 4], Health::Healthy);
    sleep(Duration::from_secs(10)).await;
    for number in [2, 3] {
        bed.answer(number, 1, false);
        bed.fake.refusing.lock().expect("no panic").insert(number);
    }
    bed.observe(2, Sign::Refused).await;
    let mut changes = bed.changes.recv().await.expect("health runs");
    changes.sort_by_key(|change| change.key);
    let keys: Vec<_> = changes.iter().map(|change| change.key[0]).collect();
    assert_eq!(keys, [2, 3]);
    assert!(changes.iter().all(|change| change.standing.is_refusing));
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
    let probe = Probe { timeout_ms: 50, ..fixtures::probe() };
    let job = fixtures::job(probe, ([10, 0, 0, 1], 80).into());
    let outcome = super::probe(Arc::new(Hog), job).await.outcome;
    assert_eq!(outcome, Outcome::Inconclusive("the node is too busy to probe in time".to_owned()));
}

/// Says after so many milliseconds that it was late.
struct Late(u64);

impl Check for Late {
    async fn check(&self, _job: &Job) -> Outcome {
        sleep(Duration::from_millis(self.0)).await;
        Outcome::failed(FailureKind::Late, "it was late")
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_nobody_tells_of_has_not_failed() {
    let command = || ProbeKind::Command { argv: vec!["true".to_owned()] };
    let failed = |text: &'static str| Outcome::failed(FailureKind::Late, text);
    let unknown = || Outcome::Inconclusive("nobody says what became of the command".to_owned());
    let cases = [
        // A second of its own, half a one in which it waits for its turn, and what it takes to end it.
        (command(), 1400, failed("it was late")),
        (command(), 1600, failed("it was late")),
        (command(), 6400, failed("it was late")),
        (command(), 6600, unknown()),
        (ProbeKind::Tcp { port: None }, 900, failed("it was late")),
        (ProbeKind::Tcp { port: None }, 1100, failed("no answer within 1000 ms")),
    ];
    for (kind, after_ms, expected) in cases {
        let case = format!("{kind:?} after {after_ms} ms");
        let probe = Probe { kind, timeout_ms: 1000, ..fixtures::probe() };
        let job = fixtures::job(probe, ([10, 0, 0, 1], 80).into());
        let outcome = super::probe(Arc::new(Late(after_ms)), job).await.outcome;
        assert_eq!(outcome, expected, "{case}");
    }
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
async fn probes_under_way_are_told_until_they_have_ended() {
    let bed = Bed::new(10);
    let under_way = || bed.stats.total().1.in_flight;
    let begins = async || {
        while under_way() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    bed.answer(1, 500, true);
    bed.set([1], Health::Healthy);
    for _ in 0..3 {
        begins().await;
        assert_eq!(under_way(), 1);
        // The next comes two seconds after the one before.
        sleep(Duration::from_millis(600)).await;
        assert_eq!(under_way(), 0);
    }
    // Whoever has gone is probed to the end.
    begins().await;
    bed.set([], Health::Healthy);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((under_way(), bed.stats.total().1.targets), (0, 0));
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
