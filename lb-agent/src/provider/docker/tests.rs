//! The provider against a made-up node: the kernel tells the truth, the daemon does not.

mod world;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use world::{World, id};

use super::{
    ClaimsOf,
    follow::{Pace, follow},
};
use crate::{
    labels::ContainerFacts,
    model::{
        Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, Protocol, Refusal,
        ServiceName,
    },
    netlink::NetworkRefusal,
    provider::ProviderEvent,
};

const RESYNC: Duration = Duration::from_secs(30);

/// A provider at work in a world, and what it has said so far.
struct Session {
    world: World,
    events: mpsc::Receiver<ProviderEvent>,
    provider: JoinHandle<()>,
    /// The claims in force, `instance address name`; `None`: none were sent yet.
    claims: Option<Vec<String>>,
    refusals: Vec<Refusal>,
    gone: BTreeSet<String>,
    trouble: Option<String>,
    messages: usize,
}

impl Session {
    fn start(world: &World) -> Self {
        let (sender, events) = mpsc::channel(16);
        let pace = Pace::new(RESYNC);
        let source = "unix:///docker.sock".to_owned();
        let provider = follow(world.clone(), world.clone(), pace, source, claims_of(), sender);
        Self {
            world: world.clone(),
            events,
            provider: tokio::spawn(provider),
            claims: None,
            refusals: Vec::new(),
            gone: BTreeSet::new(),
            trouble: None,
            messages: 0,
        }
    }

    /// Lets time pass and takes in what the provider says, checking what must always hold.
    async fn pass(&mut self, time: Duration) {
        let events = &mut self.events;
        let mut received = Vec::new();
        let _time_is_over = timeout(time, async {
            while let Some(event) = events.recv().await {
                received.push(event);
            }
        })
        .await;
        for event in received {
            self.receive(event);
        }
    }

    fn receive(&mut self, event: ProviderEvent) {
        self.messages += 1;
        match event {
            ProviderEvent::Claims { claims, .. } => {
                let new: Vec<String> = claims.claims.iter().map(shown).collect();
                let instances: BTreeSet<&str> = new.iter().map(|claim| instance(claim)).collect();
                for before in self.claims.iter().flatten().map(|claim| instance(claim)) {
                    let is_withdrawn = !instances.contains(before) && !self.gone.contains(before);
                    let world = self.world.lock();
                    let refused = !world.truth().iter().any(|claim| instance(claim) == before);
                    assert!(
                        !is_withdrawn || !world.lives(before) || refused,
                        "`{before}` lives and was withdrawn"
                    );
                }
                for after in &instances {
                    assert!(!self.gone.contains(*after), "`{after}` came back from the dead");
                }
                self.claims = Some(new);
                self.refusals = claims.refusals;
            }
            ProviderEvent::Gone { instance, .. } => {
                assert!(
                    !self.world.lock().lives(&instance),
                    "`{instance}` lives and is called dead"
                );
                self.gone.insert(instance);
            }
            ProviderEvent::Status { trouble, .. } => self.trouble = trouble,
        }
    }

    /// What is served: the claims without what has been called dead since.
    fn served(&self) -> Vec<String> {
        let claims = self.claims.iter().flatten();
        claims.filter(|claim| !self.gone.contains(instance(claim))).cloned().collect()
    }

    #[track_caller]
    fn check_truth(&self) {
        assert!(self.claims.is_some(), "no claims yet: {:?}", self.trouble);
        assert_eq!(self.served(), self.world.lock().truth());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.provider.abort();
    }
}

fn shown(claim: &Claim) -> String {
    let Some(backend) = &claim.backend else { return claim.source.clone() };
    format!("{} {} {}", backend.instance, backend.address.ip(), backend.display_name)
}

fn instance(claim: &str) -> &str {
    claim.split(' ').next().unwrap_or(claim)
}

fn claims_of() -> ClaimsOf {
    Arc::new(|facts: &ContainerFacts| {
        let backend = Backend {
            place: facts.name.clone(),
            instance: super::instance(&facts.id, facts.started_at_ms),
            display_name: facts.name.clone(),
            address: (facts.address, 6379).into(),
            weight: 100,
            path: BackendPath::Local { ifindex: facts.ifindex },
            state: BackendState::Healthy,
            started_at_ms: facts.started_at_ms,
        };
        let frontend =
            FrontendAddress { vip: [192, 0, 2, 10].into(), protocol: Protocol::Tcp, port: 6379 };
        let claim = Claim {
            service: ServiceName("docker/redis:6379".to_owned()),
            frontend,
            backend: Some(backend),
            ring_size: None,
            since_ms: facts.created_at_ms,
            source: facts.name.clone(),
        };
        Claims { claims: vec![claim], refusals: Vec::new() }
    })
}

/// Claims made by the real parser name instances as we do, or `Gone` would miss them.
#[test]
fn instances_are_named_as_labels_name_them() {
    let facts = ContainerFacts {
        id: id(1),
        name: "redis-1".to_owned(),
        image: "redis".to_owned(),
        labels: [("aliyun.lb.port_6379".to_owned(), "tcp://slb:6379".to_owned())].into(),
        created_at_ms: 1,
        started_at_ms: 1_787_390_142_123,
        address: [172, 17, 0, 2].into(),
        ifindex: 62,
    };
    let vip = [192, 0, 2, 10].into();
    let balancer = crate::config::Balancer { name: "slb".to_owned(), id: None, vip };
    let claims = crate::labels::claims(&facts, &crate::labels::BalancerIndex::new(&[balancer]));
    let backend = claims.claims[0].backend.as_ref().expect("a container is a backend");
    assert_eq!(backend.instance, super::instance(&facts.id, facts.started_at_ms));
}

#[test]
fn endpoints() {
    let check = |endpoint: &str, expected: bool| {
        let settings = super::Settings::new(endpoint, RESYNC);
        assert_eq!(settings.is_ok(), expected, "{endpoint}");
    };
    check("unix:///var/run/docker.sock", true);
    check("unix://docker.sock", false);
    check("unix:///", false);
    check("/var/run/docker.sock", false);
    check("tcp://192.0.2.1:2375", false);
    let error = super::Settings::new("tcp://192.0.2.1:2375", RESYNC).expect_err("not local");
    insta::assert_snapshot!(error, @"docker endpoint `tcp://192.0.2.1:2375` is not understood: expected `unix:///PATH/TO/docker.sock`, the socket of the daemon of this node");
}

#[tokio::test(start_paused = true)]
async fn labelled_containers_are_claimed_all_at_once() {
    let world = World::default();
    for number in 1..=20 {
        world.lock().start(number, number != 3);
    }
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_eq!(session.served().len(), 19);
    // One message with all claims and one that all is well: never a part of them.
    assert_eq!(session.messages, 2);
    assert_eq!(session.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn dead_container_is_gone_before_docker_tells() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().start(2, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().down = true;
    world.lock().break_streams();
    world.lock().kill(1);
    session.pass(Duration::from_millis(1)).await;
    assert_eq!(session.gone.len(), 1);
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn new_container_is_served_without_waiting_for_a_listing() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    let listings = world.lock().listings;
    world.lock().start(2, true);
    session.pass(Duration::from_millis(10)).await;
    session.check_truth();
    assert_eq!(world.lock().listings, listings);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(world.lock().listings, listings + 1, "a listing follows");
}

#[tokio::test(start_paused = true)]
async fn restarted_container_is_another_instance_with_another_address() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    let before = session.served();
    world.lock().kill(1);
    world.lock().start(1, true);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_ne!(session.served(), before);
    assert_eq!(session.gone.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn empty_listing_removes_nothing_that_lives() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().start(2, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().lists_nothing = true;
    session.pass(2 * RESYNC).await;
    session.check_truth();
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"Docker at `unix:///docker.sock` does not list containers `c1`, `c2`, but the kernel says that they live; they stay");
    // One of them dies: the empty listing is right about that one.
    world.lock().kill(2);
    session.pass(RESYNC).await;
    session.check_truth();
    world.lock().lists_nothing = false;
    session.pass(RESYNC).await;
    assert_eq!(session.trouble, None);
    assert_eq!(session.served().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn daemon_that_is_away_removes_nothing_and_is_found_again() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().start(2, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().down = true;
    world.lock().break_streams();
    session.pass(Duration::from_millis(1)).await;
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"Docker at `unix:///docker.sock` does not answer: the stream of events ended; 2 containers stay as they are, trying again");
    session.pass(10 * RESYNC).await;
    session.check_truth();
    // What happens meanwhile is known when it is back, without waiting for the next full listing.
    world.lock().kill(1);
    world.lock().start(3, true);
    world.lock().down = false;
    session.pass(Duration::from_secs(6)).await;
    session.check_truth();
    assert_eq!(session.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn daemon_that_is_away_at_the_start_leaves_everything_as_it_is() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().down = true;
    let mut session = Session::start(&world);
    session.pass(RESYNC).await;
    assert_eq!(session.claims, None, "nothing is known, so nothing is claimed");
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"Docker at `unix:///docker.sock` does not answer: connection refused; 0 containers stay as they are, trying again");
    world.lock().down = false;
    session.pass(Duration::from_secs(6)).await;
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn first_listing_that_is_empty_is_asked_for_twice() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().lists_nothing = true;
    let mut session = Session::start(&world);
    session.pass(Duration::from_millis(50)).await;
    assert_eq!(session.claims, None, "one empty listing is not believed");
    world.lock().lists_nothing = false;
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();

    let world = World::default();
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.claims, Some(Vec::new()), "two are");
}

#[tokio::test(start_paused = true)]
async fn container_that_cannot_be_inspected_delays_the_others_for_a_moment_only() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().start(2, true);
    world.lock().broken.insert(id(1));
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(3)).await;
    assert_eq!(session.served().len(), 1);
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"cannot look at container `c1`: `State.StartedAt` is no timestamp: `soon`; what is known of it stays, trying again");
    let inspections = world.lock().inspections;
    session.pass(10 * RESYNC).await;
    let more = world.lock().inspections - inspections;
    assert!(more < 400, "{more} inspections in {} s", 10 * RESYNC.as_secs());
    world.lock().broken.clear();
    session.pass(RESYNC).await;
    session.check_truth();
    assert_eq!(session.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn known_container_that_cannot_be_inspected_stays() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().broken.insert(id(1));
    session.pass(10 * RESYNC).await;
    session.check_truth();
    assert!(session.trouble.is_some());
}

#[tokio::test(start_paused = true)]
async fn moment_without_default_route_is_not_refused() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().readdress(1);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_eq!(session.refusals, []);
}

#[tokio::test(start_paused = true)]
async fn container_without_network_is_refused_by_name_and_label() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().refuse(1, NetworkRefusal::NoNetwork);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.served(), Vec::<String>::new());
    insta::assert_debug_snapshot!(session.refusals, @r#"
    [
        Refusal {
            object: "container `c1`",
            key: Some(
                "aliyun.lb.port_6379",
            ),
            message: "the container has no network (`network_mode: none`); put it on a bridge network",
        },
    ]
    "#);
}

#[tokio::test(start_paused = true)]
async fn rename_is_seen() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().rename(1);
    session.pass(Duration::from_millis(10)).await;
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn containers_without_our_labels_cost_nothing() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    let before = world.questions();
    for _ in 0..100 {
        world.lock().start(9, false);
        world.lock().kill(9);
        session.pass(Duration::from_millis(10)).await;
    }
    assert_eq!(world.questions(), before);
}

#[tokio::test(start_paused = true)]
async fn ends_when_nobody_listens() {
    let world = World::default();
    let (sender, events) = mpsc::channel(16);
    let source = "unix:///docker.sock".to_owned();
    let provider = follow(world.clone(), world, Pace::new(RESYNC), source, claims_of(), sender);
    let provider = tokio::spawn(provider);
    sleep(Duration::from_secs(1)).await;
    drop(events);
    timeout(Duration::from_secs(1), provider).await.expect("in time").expect("without panic");
}

/// Something that happens on the node.
#[derive(Clone, Debug)]
enum Step {
    Start(u8),
    StartUnlabelled(u8),
    Kill(u8),
    Restart(u8),
    Readdress(u8),
    Rename(u8),
    DaemonGoes,
    DaemonComes,
    StreamsBreak,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..12_u8;
    prop_oneof![
        4 => number.clone().prop_map(Step::Start),
        1 => (12..14_u8).prop_map(Step::StartUnlabelled),
        3 => number.clone().prop_map(Step::Kill),
        2 => number.clone().prop_map(Step::Restart),
        1 => number.clone().prop_map(Step::Readdress),
        1 => number.prop_map(Step::Rename),
        1 => Just(Step::DaemonGoes),
        2 => Just(Step::DaemonComes),
        1 => Just(Step::StreamsBreak),
        6 => (0..400_u64).prop_map(Step::Time),
        1 => (0..60_000_u64).prop_map(Step::Time),
    ]
}

fn take(world: &World, step: &Step) -> Duration {
    let mut world = world.lock();
    match *step {
        Step::Start(number) => world.start(number, true),
        Step::StartUnlabelled(number) => world.start(number, false),
        Step::Kill(number) => world.kill(number),
        Step::Restart(number) => {
            world.kill(number);
            world.start(number, true);
        }
        Step::Readdress(number) => world.readdress(number),
        Step::Rename(number) => world.rename(number),
        Step::DaemonGoes => {
            world.down = true;
            world.break_streams();
        }
        Step::DaemonComes => world.down = false,
        Step::StreamsBreak => world.break_streams(),
        Step::Time(milliseconds) => return Duration::from_millis(milliseconds),
    }
    Duration::ZERO
}

/// Whatever the daemon does: no living container is withdrawn, every dead one that was served is
/// gone at once, and in the end the claims are the truth.
async fn faults_do_no_harm(steps: Vec<Step>, percent: u64, seed: u64) {
    let world = World::default();
    world.lock().faults.percent = percent;
    world.lock().faults.random = seed;
    let mut session = Session::start(&world);
    for step in &steps {
        let time = take(&world, step);
        session.pass(time.max(Duration::from_millis(1))).await;
        for claim in session.served() {
            let served = instance(&claim);
            assert!(!world.lock().ended.contains(served), "`{served}` is dead and served");
        }
    }
    {
        let mut world = world.lock();
        world.faults.percent = 0;
        world.down = false;
    }
    // Questions that were asked before may hang until their time limit, one after another.
    session.pass(6 * RESYNC).await;
    session.check_truth();
    assert_eq!(session.trouble, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fault_of_the_daemon_withdraws_a_living_container(
        steps in proptest::collection::vec(step(), 1..80),
        percent in 0..40_u64,
        seed in any::<u64>(),
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(faults_do_no_harm(steps, percent, seed));
    }
}
