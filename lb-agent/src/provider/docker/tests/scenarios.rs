//! One situation each.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    super::{
        Settings,
        engine::{Event, What},
        follow::{Pace, follow},
        instance,
        look::{Condition, Look},
        state::{Effect, State},
    },
    session::{RESYNC, Session, claims_of},
    world::{FakeProcess, World, id},
};
use crate::{
    config::LabelsConfig,
    labels::{ContainerFacts, Reader},
    model::WaysIn,
    netlink::NetworkRefusal,
    provider::ProviderEvent,
};

/// Claims made by the real parser name instances as we do, or `Gone` would miss them.
#[test]
fn instances_are_named_as_labels_name_them() {
    let facts = ContainerFacts {
        id: id(1),
        name: "redis-1".to_owned(),
        former_name: None,
        image: "redis".to_owned(),
        labels: [("aliyun.lb.port_6379".to_owned(), "tcp://slb:6379".to_owned())].into(),
        service_labels: [].into(),
        environment: [].into(),
        ports: [].into(),
        created_at_ms: 1,
        started_at_ms: 1_787_390_142_123,
        address: [172, 17, 0, 2].into(),
        ifindex: 62,
        ways_in: WaysIn::OnlyOurs,
        network: Some("front".into()),
        second: None,
    };
    let vip = [192, 0, 2, 10].into();
    let balancer = crate::config::Balancer { name: "slb".to_owned(), id: None, vip };
    let config = LabelsConfig { balancers: vec![balancer], ..LabelsConfig::default() };
    let claims = Reader::new(&config).claims(&facts);
    let backend = claims.claims[0].backend.as_ref().expect("a container is a backend");
    assert_eq!(backend.instance, instance(&facts.id, facts.started_at_ms));
    assert_eq!(backend.network, facts.network, "socket calls are led by it");
}

#[test]
fn endpoints() {
    let check = |endpoint: &str, expected: bool| {
        let settings = Settings::new(endpoint, RESYNC);
        assert_eq!(settings.is_ok(), expected, "{endpoint}");
    };
    check("unix:///var/run/docker.sock", true);
    check("unix://docker.sock", false);
    check("unix:///", false);
    check("/var/run/docker.sock", false);
    check("tcp://192.0.2.1:2375", false);
    let error = Settings::new("tcp://192.0.2.1:2375", RESYNC).expect_err("not local");
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
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"Docker at `unix:///docker.sock` does not answer: connection refused; trying again");
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
    assert!(session.is_partial, "as far as they go");
    // That Docker lists others shows that there are none of ours.
    world.lock().start(9, false);
    session.pass(2 * RESYNC).await;
    assert!(!session.is_partial);
}

#[tokio::test(start_paused = true)]
async fn listing_that_stays_empty_for_a_while_is_never_all() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().start(2, true);
    world.lock().lists_nothing = true;
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.claims, Some(Vec::new()));
    assert!(session.is_partial);
    world.lock().lists_nothing = false;
    while session.is_partial {
        session.pass(Duration::from_millis(1)).await;
    }
    session.check_truth();
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
    insta::assert_snapshot!(session.trouble.clone().expect("it is said"), @"cannot look at container `c1`: `State.StartedAt` is no timestamp: `soon`; 1 container could not be looked at; nothing is removed meanwhile, trying again");
    assert!(session.is_partial);
    let inspections = world.lock().inspections;
    session.pass(10 * RESYNC).await;
    let more = world.lock().inspections - inspections;
    assert!(more < 400, "{more} inspections in {} s", 10 * RESYNC.as_secs());
    world.lock().broken.clear();
    session.pass(RESYNC).await;
    session.check_truth();
    assert_eq!(session.trouble, None);
    assert!(!session.is_partial);
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
async fn internal_network_with_a_default_route_is_refused_all_the_same() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.networks, [Some("docker0".into())].into());
    world.lock().make_internal(1);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    let refusal = session.refusals.first().expect("it is refused");
    insta::assert_snapshot!(refusal.message, @"the container's default route leaves by the network `inside`, which is `internal`: it is not to be reached from outside; connect the container to another bridge network as well");
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
async fn what_happens_during_a_look_is_looked_at_again() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().rename(1);
    session.pass(Duration::from_millis(1)).await;
    world.lock().rename(1);
    session.pass(Duration::from_millis(20)).await;
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn container_that_dies_during_a_look_does_not_come_back() {
    for offset_ms in 1..8 {
        let world = World::default();
        world.lock().start(1, true);
        let mut session = Session::start(&world);
        session.pass(Duration::from_secs(1)).await;
        world.lock().rename(1);
        session.pass(Duration::from_millis(offset_ms)).await;
        world.lock().kill(1);
        session.pass(Duration::from_secs(1)).await;
        session.check_truth();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_told_is_seen_in_the_next_listing() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().mute = true;
    world.lock().rename(1);
    world.lock().mute = false;
    world.lock().start(2, true);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn container_that_starts_while_a_listing_is_made_is_not_missed_in_it() {
    for offset_ms in 130..170 {
        let world = World::default();
        world.lock().start(1, true);
        let mut session = Session::start(&world);
        session.pass(Duration::from_secs(1)).await;
        // A listing follows 150 ms after this.
        world.lock().rename(1);
        session.pass(Duration::from_millis(offset_ms)).await;
        world.lock().start(2, true);
        session.pass(Duration::from_secs(1)).await;
        session.check_truth();
        assert_eq!(session.troubles, Vec::<String>::new(), "after {offset_ms} ms");
    }
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

/// The death of a process is told before the next run of its container is found, as a rule. Where it
/// is not, the end of the old run is not lost.
#[test]
fn new_run_ends_the_one_before() {
    let mut state = State::new("unix:///docker.sock".to_owned(), claims_of());
    state.happened(&Event { container: id(1), labelled: Some(true), what: What::Changed });
    let mut ends = Vec::new();
    let mut told = Vec::new();
    for started_at_ms in [1, 2] {
        let (process, end) = FakeProcess::new();
        ends.push(end);
        let facts = ContainerFacts {
            id: id(1),
            name: "c1".to_owned(),
            former_name: None,
            image: "redis".to_owned(),
            labels: [].into(),
            service_labels: [].into(),
            environment: [].into(),
            ports: [].into(),
            created_at_ms: 1,
            started_at_ms,
            address: [172, 17, 0, 2].into(),
            ifindex: 62,
            ways_in: WaysIn::OnlyOurs,
            network: None,
            second: None,
        };
        state.looked(&id(1), Look::Running(facts.into(), Condition::default(), process));
        told.extend(state.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Send(ProviderEvent::Gone { instance, .. }) => Some(format!("{instance} ends")),
            Effect::Watch { instance, .. } => Some(format!("{instance} runs")),
            _ => None,
        }));
    }
    let instances = told.join(", ").replace(&id(1), "1");
    assert_eq!(instances, "1@1 runs, 1@1 ends, 1@2 runs");
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
