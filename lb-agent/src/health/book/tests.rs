//! Targets that come, change and go, in virtual time.

use proptest::prelude::*;

use super::*;
use crate::{
    health::{fixtures, outcome::FailureKind},
    model::HttpProbe,
};

fn probe(rise: u16, fall: u16) -> Probe {
    Probe { rise, fall, ..fixtures::probe() }
}

fn target(number: u64, generation: u64, probe: Option<Probe>, assumed: Health) -> Target {
    Target { generation, ..fixtures::target(number, probe.map(Arc::new), assumed) }
}

fn passed() -> Outcome {
    Outcome::Passed("connected".into())
}

fn refused() -> Outcome {
    Outcome::failed(FailureKind::Refused, "connection refused")
}

fn late() -> Outcome {
    Outcome::failed(FailureKind::Late, "no answer")
}

/// A book and its clock.
struct Bed {
    book: Book,
    now_ms: u64,
    changes: Vec<String>,
}

impl Bed {
    fn new() -> Self {
        Self { book: Book::new(1, 100), now_ms: 0, changes: Vec::new() }
    }

    fn set(&mut self, targets: &[Target]) {
        let targets = targets.iter().cloned().map(Arc::new).collect();
        for change in self.book.set_targets(&[Arc::new(targets)], self.now_ms) {
            self.note(&change);
        }
    }

    fn note(&mut self, change: &Change) {
        let Change { key, standing, cause, .. } = change;
        let flags = if standing.is_refusing { " (refusing)" } else { "" };
        self.changes.push(format!("{} {:?}{flags}: {cause}", key[0], standing.health));
    }

    /// Waits for the next probe.
    fn job(&mut self) -> Job {
        let due_ms = self.book.next_due_ms().expect("something is due");
        self.now_ms = self.now_ms.max(due_ms);
        self.book.next_job(self.now_ms).expect("it is due")
    }

    fn finish(&mut self, job: &Job, outcome: &Outcome) {
        if let Some(change) = self.book.finished(job.ticket, outcome, self.now_ms) {
            self.note(&change);
        }
    }

    /// The next probes come to these outcomes.
    fn run(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let job = self.job();
            self.finish(&job, outcome);
        }
    }

    fn changes(&mut self) -> String {
        mem::take(&mut self.changes).join("\n")
    }
}

#[test]
fn a_new_backend_is_probed_at_once_and_again_soon_until_it_is_known() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(2, 3)), Health::Starting)]);
    bed.run(&[refused(), refused(), passed(), passed()]);
    assert_eq!(bed.changes(), "1 Healthy: connected");
    assert!((750..1000).contains(&bed.now_ms), "{} ms for three doubts", bed.now_ms);
    let healthy_at_ms = bed.now_ms;
    bed.run(&[late()]);
    assert!(bed.now_ms - healthy_at_ms >= 1000, "settled: at its own moment");
    let doubt_at_ms = bed.now_ms;
    bed.run(&[late(), late()]);
    assert_eq!(bed.changes(), "1 Unhealthy: no answer");
    assert!(bed.now_ms - doubt_at_ms < 1000, "in doubt: soon");
}

#[test]
fn initial_delay_is_waited_for_and_only_by_who_starts() {
    let mut bed = Bed::new();
    let slow = Probe { initial_delay_ms: 10_000, ..probe(1, 1) };
    bed.set(&[target(1, 1, Some(slow.clone()), Health::Starting)]);
    bed.job();
    assert_eq!(bed.now_ms, 10_000);
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(slow), Health::Healthy)]);
    bed.job();
    assert!(bed.now_ms < 2000);
}

#[test]
fn what_could_not_be_probed_changes_nothing() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(1, 2)), Health::Healthy)]);
    let none = Outcome::Inconclusive("no descriptors".to_owned());
    bed.run(&[late(), none.clone(), none.clone(), none.clone(), passed()]);
    assert_eq!(bed.changes(), "");
    bed.run(&[late(), none, late()]);
    assert_eq!(bed.changes(), "1 Unhealthy: no answer");
}

#[test]
fn results_of_a_predecessor_do_not_count() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(1, 1)), Health::Starting)]);
    let of_predecessor = bed.job();
    bed.set(&[target(1, 2, Some(probe(1, 1)), Health::Starting)]);
    bed.finish(&of_predecessor, &passed());
    assert_eq!(bed.changes(), "", "a quick recreate is not served before its own probe passes");
    bed.run(&[passed()]);
    assert_eq!(bed.changes(), "1 Healthy: connected");
    let of_absent = bed.job();
    bed.set(&[]);
    bed.finish(&of_absent, &refused());
    assert_eq!((bed.changes(), bed.book.in_flight()), (String::new(), 0));
    assert_eq!(bed.book.next_due_ms(), None);
}

#[test]
fn health_is_kept_across_other_settings_whose_old_results_do_not_count() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(1, 1)), Health::Healthy)]);
    let of_old_settings = bed.job();
    let http = Probe { kind: ProbeKind::Http(HttpProbe::default()), ..probe(1, 1) };
    bed.set(&[target(1, 1, Some(http.clone()), Health::Healthy)]);
    bed.finish(&of_old_settings, &refused());
    assert_eq!(bed.changes(), "");
    assert_eq!(bed.job().probe.kind, http.kind, "the new probe is made at once");
    // Another backend comes: nothing changes for the first.
    let known = target(1, 1, Some(http), Health::Healthy);
    bed.set(&[known.clone(), target(2, 2, Some(probe(1, 1)), Health::Starting)]);
    assert_eq!(bed.changes(), "");
    bed.set(&[Target { probe: None, ..known }]);
    assert_eq!((bed.changes(), bed.book.next_due_ms()), (String::new(), None));
}

#[test]
fn who_loses_its_probe_while_unhealthy_is_healthy() {
    let mut bed = Bed::new();
    let probed = target(1, 1, Some(probe(1, 1)), Health::Healthy);
    bed.set(std::slice::from_ref(&probed));
    bed.run(&[refused()]);
    bed.set(&[Target { probe: None, ..probed }]);
    assert_eq!(
        bed.changes(),
        "1 Unhealthy (refusing): connection refused\n1 Healthy: its probe is another one"
    );
}

#[test]
fn refusing_is_said_of_the_port_of_the_traffic_only() {
    let mut bed = Bed::new();
    let elsewhere = Probe { kind: ProbeKind::Tcp { port: Some(81) }, ..probe(1, 1) };
    bed.set(&[target(1, 1, Some(elsewhere), Health::Healthy)]);
    bed.run(&[refused()]);
    assert_eq!(bed.changes(), "1 Unhealthy: connection refused");
    let same = Probe { kind: ProbeKind::Tcp { port: Some(80) }, ..probe(1, 1) };
    bed.set(&[target(2, 1, Some(same), Health::Healthy)]);
    bed.run(&[refused(), late()]);
    assert_eq!(bed.changes(), "2 Unhealthy (refusing): connection refused\n2 Unhealthy: no answer");
}

#[test]
fn a_reported_failure_takes_out_at_once_and_the_probe_brings_back() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(2, 3)), Health::Healthy)]);
    let begun_before = bed.job();
    let report = |bed: &mut Bed| {
        let change = bed.book.report_failure([1, 1], true, "refused a SYN", bed.now_ms);
        bed.note(&change.expect("it was healthy"));
    };
    report(&mut bed);
    assert_eq!(bed.changes(), "1 Unhealthy (refusing): refused a SYN");
    assert_eq!(bed.book.next_due_ms(), Some(bed.now_ms), "probed at once");
    let probed_at_once = bed.job();
    bed.finish(&begun_before, &passed());
    bed.finish(&probed_at_once, &passed());
    assert_eq!(bed.changes(), "1 Unhealthy: connected", "the probe of before does not count");
    bed.run(&[passed()]);
    assert_eq!(bed.changes(), "1 Healthy: connected");
    assert_eq!(bed.book.report_failure([9, 9], true, "", 0), None);
}

#[test]
fn who_has_no_probe_comes_back_by_connecting() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, None, Health::Healthy)]);
    assert_eq!(bed.book.next_due_ms(), None);
    let change = bed.book.report_failure([1, 1], true, "refused a SYN", 5);
    bed.note(&change.expect("it was healthy"));
    bed.run(&[refused(), passed(), passed()]);
    assert_eq!(
        bed.changes(),
        "1 Unhealthy (refusing): refused a SYN\n1 Unhealthy: connected\n1 Healthy: connected"
    );
    assert_eq!(bed.book.next_due_ms(), None, "and is not probed any longer");
}

#[test]
fn who_is_out_already_is_not_reported_again() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, None, Health::Healthy)]);
    assert!(bed.book.report_failure([1, 1], true, "refused a SYN", 0).is_some());
    let under_way = bed.job();
    assert!(bed.book.inquiry([1, 1]).is_none());
    assert_eq!(bed.book.report_failure([1, 1], true, "refused a SYN", 1), None);
    bed.finish(&under_way, &passed());
    bed.run(&[passed()]);
    assert_eq!(
        bed.changes(),
        "1 Unhealthy: connected\n1 Healthy: connected",
        "what was under way counts"
    );
}

#[test]
fn who_answers_nobody_is_tried_again_after_a_while_and_each_time_later() {
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, None, Health::Healthy)]);
    for seconds in [30, 60, 120, 240, 240] {
        let reported_ms = bed.now_ms;
        let change = bed.book.report_failure([1, 1], false, "does not answer SYNs", bed.now_ms);
        bed.note(&change.expect("it was healthy"));
        while bed.book.next_due_ms().is_some() {
            bed.run(&[late()]);
        }
        assert_eq!((bed.now_ms - reported_ms) / 1000, seconds);
        assert_eq!(
            bed.changes(),
            "1 Unhealthy: does not answer SYNs\n\
             1 Healthy: nobody answers this node; clients may try"
        );
    }
    // It has passed: all is forgotten.
    assert!(bed.book.report_failure([1, 1], false, "", bed.now_ms).is_some());
    bed.run(&vec![passed(); 32]);
    let reported_ms = bed.now_ms;
    assert!(bed.book.report_failure([1, 1], false, "", bed.now_ms).is_some());
    while bed.book.next_due_ms().is_some() {
        bed.run(&[late()]);
    }
    assert_eq!((bed.now_ms - reported_ms) / 1000, 30);
}

#[test]
fn who_refuses_stays_out_and_so_does_who_has_a_probe() {
    let probed = target(1, 1, Some(probe(1, 1)), Health::Healthy);
    let not_probed = target(1, 1, None, Health::Healthy);
    for (target, outcome) in [(probed, late()), (not_probed, refused())] {
        let mut bed = Bed::new();
        bed.set(&[target]);
        assert!(bed.book.report_failure([1, 1], false, "", 0).is_some());
        while bed.now_ms < 1_000_000 {
            bed.run(std::slice::from_ref(&outcome));
            assert_eq!(bed.book.targets[&[1, 1]].tracker.health(), Health::Unhealthy);
        }
    }
}

#[test]
fn what_the_data_path_saw_is_its_own_until_a_probe_says_the_same() {
    let observed = |bed: &Bed| bed.book.targets[&[1, 1]].announced.is_observed;
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, Some(probe(1, 3)), Health::Healthy)]);
    assert!(bed.book.report_failure([1, 1], true, "", 0).is_some());
    assert!(observed(&bed));
    bed.run(&[refused()]);
    assert!(!observed(&bed));
    // Its probe that nobody chose says nothing that the data path has not said.
    let mut bed = Bed::new();
    bed.set(&[target(1, 1, None, Health::Healthy)]);
    assert!(bed.book.report_failure([1, 1], true, "", 0).is_some());
    bed.run(&[refused(), refused()]);
    assert!(observed(&bed));
    bed.run(&[passed(), passed()]);
    assert!(!observed(&bed));
}

#[test]
fn a_case_is_about_one_port_of_who_is_watched_and_healthy() {
    let well = target(1, 1, None, Health::Healthy);
    let every_port = "10.0.0.1:0".parse().expect("an address");
    for (name, target, expected) in [
        ("well", well.clone(), true),
        ("not watched", Target { is_watched: false, ..well.clone() }, false),
        ("of every port", Target { address: every_port, ..well }, false),
        ("starting", target(1, 1, Some(probe(1, 1)), Health::Starting), false),
        ("known to fail", target(1, 1, Some(probe(1, 1)), Health::Unhealthy), false),
    ] {
        let mut bed = Bed::new();
        bed.set(&[target]);
        assert_eq!(bed.book.inquiry([1, 1]).is_some(), expected, "{name}");
    }
    assert!(Bed::new().book.inquiry([1, 1]).is_none(), "unknown");
}

#[test]
fn docker_is_believed_at_once() {
    let mut bed = Bed::new();
    let docker = Probe { kind: ProbeKind::Docker, ..probe(9, 9) };
    let said =
        |reported| Target { reported, ..target(1, 1, Some(docker.clone()), Health::Starting) };
    bed.set(&[said(Some(ReportedHealth::Starting))]);
    assert_eq!((bed.changes(), bed.book.next_due_ms()), (String::new(), None));
    for reported in [ReportedHealth::Healthy, ReportedHealth::Unhealthy, ReportedHealth::Starting] {
        bed.set(&[said(Some(reported))]);
    }
    bed.set(&[said(None)]);
    insta::assert_snapshot!(bed.changes(), @r"
    1 Healthy: Docker says: healthy
    1 Unhealthy: Docker says: unhealthy
    1 Healthy: is to be probed by its HEALTHCHECK and has none, so it counts as healthy; give its image one, or choose another probe
    ");
    // A daemon that was started anew knows nothing yet of those that run on.
    for reported in [ReportedHealth::Starting, ReportedHealth::Healthy, ReportedHealth::Starting] {
        bed.set(&[said(Some(reported))]);
    }
    assert_eq!(bed.changes(), "");
    // What the data path saw counts more, until a connection says otherwise.
    bed.now_ms += 120_000;
    bed.set(&[said(Some(ReportedHealth::Healthy))]);
    let change = bed.book.report_failure([1, 1], true, "refused a SYN", bed.now_ms);
    bed.note(&change.expect("it was healthy"));
    bed.run(&[passed(), passed()]);
    assert_eq!(
        bed.changes(),
        "1 Unhealthy (refusing): refused a SYN\n1 Unhealthy: connected\n1 Healthy: Docker says: healthy"
    );
    assert_eq!(bed.book.next_due_ms(), None);
}

#[test]
fn no_more_are_under_way_than_allowed_and_all_get_their_turn() {
    let mut book = Book::new(1, 10);
    let targets = (0..1000)
        .map(|number| Arc::new(target(number, 1, Some(probe(1, 1)), Health::Starting)))
        .collect();
    book.set_targets(&[Arc::new(targets)], 0);
    let mut seen = HashSet::new();
    let mut now_ms = 0;
    // All of them never answer: each probe takes its whole timeout.
    while seen.len() < 1000 {
        let jobs: Vec<Job> = std::iter::from_fn(|| book.next_job(now_ms)).collect();
        assert!(jobs.len() <= 10 && book.in_flight() == jobs.len());
        now_ms += 1000;
        for job in jobs {
            seen.insert(job.target.key);
            book.finished(job.ticket, &late(), now_ms);
        }
        assert!(now_ms <= 100_000, "nobody is probed twice before all were probed once");
    }
}

#[test]
fn one_container_does_not_take_the_turns_of_others() {
    let mut book = Book::new(1, 40);
    let of = |instance: &str, numbers: std::ops::Range<u64>| -> Vec<_> {
        let instance = instance.to_owned();
        let one = |number| Target {
            instance: instance.clone(),
            ..target(number, 1, Some(probe(1, 1)), Health::Starting)
        };
        numbers.map(|number| Arc::new(one(number))).collect()
    };
    let others = of("", 200..220).into_iter().chain(of("good@1", 300..304));
    let all: Vec<_> = of("greedy@1", 0..200).into_iter().chain(others).collect();
    book.set_targets(&[Arc::new(all.clone())], 0);
    let begin = |book: &mut Book, now_ms| -> Vec<Job> {
        std::iter::from_fn(|| book.next_job(now_ms)).collect()
    };
    let is_greedy = |job: &&Job| job.target.instance == "greedy@1";
    let jobs = begin(&mut book, 0);
    assert_eq!((jobs.len(), jobs.iter().filter(is_greedy).count()), (40, 16));
    // All of its own get their turn, in the order in which they were due; none is probed twice
    // before.
    let mut seen: Vec<u64> = Vec::new();
    let (mut under_way, mut now_ms) = (jobs, 0);
    while seen.len() < 200 {
        assert!(under_way.iter().filter(is_greedy).count() <= 16);
        now_ms += 100;
        for job in under_way.drain(..) {
            if is_greedy(&&job) {
                seen.push(job.target.key[0]);
            }
            book.finished(job.ticket, &late(), now_ms);
        }
        // Some of those that wait go meanwhile.
        if seen.len() == 160 {
            let gone = |it: &&Arc<Target>| !(160..180).contains(&it.key[0]);
            let rest = all.iter().filter(gone).cloned().collect();
            book.set_targets(&[Arc::new(rest)], now_ms);
            seen.extend(160..180);
        }
        under_way = begin(&mut book, now_ms);
    }
    let distinct: HashSet<u64> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), 200, "{seen:?}");
}

proptest! {
    /// However targets come and go: each probe that began has to end once, each probed target is
    /// either waiting or under way, and the book knows exactly who is there.
    #[test]
    fn nothing_is_forgotten(
        steps in prop::collection::vec((0_u8..6, 0_u64..6, 0_u64..3, any::<bool>()), 1..120),
    ) {
        let mut book = Book::new(3, 4);
        let mut wanted: HashMap<u64, Target> = HashMap::new();
        let mut groups = [TargetGroup::default(), TargetGroup::default()];
        let mut under_way: Vec<Job> = Vec::new();
        let mut now_ms = 0;
        for (step, number, generation, flag) in steps {
            now_ms += 100;
            match step {
                0 | 1 => {
                    let probe = flag.then(|| probe(1, u16::from(step)));
                    wanted.insert(number, target(number, generation, probe, Health::Starting));
                }
                2 => drop(wanted.remove(&number)),
                3 => under_way.extend(book.next_job(now_ms)),
                4 => {
                    if let Some(job) = under_way.pop() {
                        let outcome = if flag { passed() } else { refused() };
                        book.finished(job.ticket, &outcome, now_ms);
                    }
                }
                _ => drop(book.report_failure([number, 1], flag, "", now_ms)),
            }
            // A group that nothing has changed in is the same as before.
            for (parity, group) in (0..2).zip(&mut groups) {
                let ours = wanted.values().filter(|it| it.key[0] % 2 == parity);
                let mut ours: Vec<_> = ours.cloned().map(Arc::new).collect();
                ours.sort_by_key(|target| target.key);
                if **group != ours {
                    *group = Arc::new(ours);
                }
            }
            book.set_targets(&groups, now_ms);
            prop_assert_eq!(book.in_flight(), under_way.len());
            prop_assert_eq!(book.targets.len(), wanted.len());
            prop_assert_eq!(book.keys.len(), wanted.len());
        }
        // When all have ended, exactly those that are to be probed wait.
        for job in under_way {
            book.finished(job.ticket, &passed(), now_ms);
        }
        let probed = book.targets.values().filter(|entry| entry.probe().is_some()).count();
        prop_assert_eq!(book.schedule.waiting(), probed);
        for (key, entry) in &book.targets {
            prop_assert_eq!(&*entry.target, &wanted[&key[0]]);
            prop_assert_eq!(book.keys.get(&entry.number), Some(key));
        }
    }
}
