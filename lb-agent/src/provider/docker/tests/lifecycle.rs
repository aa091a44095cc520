//! Containers that are told to end, frozen and thawed, renamed, and that die while Docker is away.

use std::{collections::BTreeMap, time::Duration};

use super::{
    session::{RESYNC, Session},
    world::{World, id},
};
use crate::model::BackendState::{Draining, Healthy, Unhealthy};

#[tokio::test(start_paused = true)]
async fn container_that_is_asked_to_end_drains_until_its_death() {
    let world = World::default();
    for number in 1..=3 {
        world.lock().start(number, true);
    }
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    let questions = world.questions();
    for (number, signal) in [(1, "15"), (2, "SIGHUP"), (3, "9")] {
        world.lock().signal(number, signal);
    }
    session.pass(Duration::from_millis(1)).await;
    let states = |session: &Session| session.states.values().copied().collect::<Vec<_>>();
    assert_eq!(states(&session), [Draining, Healthy, Healthy]);
    assert_eq!(world.questions(), questions, "nobody has to be asked");
    // Full listings and looks say nothing about it.
    session.pass(3 * RESYNC).await;
    assert_eq!(states(&session), [Draining, Healthy, Healthy]);
    world.lock().kill(1);
    session.pass(Duration::from_millis(1)).await;
    assert_eq!(session.served().len(), 2);
    world.lock().start(1, true);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_eq!(states(&session), [Healthy; 3], "another run");
}

/// Docker answers no questions about a container while it starts it.
#[tokio::test(start_paused = true)]
async fn veth_of_a_container_that_starts_is_told_before_it_is_known() {
    let world = World::default();
    let mut session = Session::start(&world);
    session.pass(3 * RESYNC).await;
    let mut check = async |number, labelled, expected: &[u32]| {
        world.lock().start(number, labelled);
        session.pass(Duration::from_secs(1)).await;
        world.lock().kill(number);
        session.pass(Duration::from_secs(1)).await;
        assert_eq!(session.expected, expected);
    };
    check(1, true, &[62]).await;
    check(2, false, &[62]).await;
    check(1, true, &[62, 62]).await;
}

#[tokio::test(start_paused = true)]
async fn signal_to_a_former_run_says_nothing_about_the_next() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    {
        // All of it between two looks of the provider.
        let mut world = world.lock();
        world.signal(1, "15");
        world.kill(1);
        world.start(1, true);
    }
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_eq!(session.states["c1"], Healthy);
    // The signal of a container that is not known yet.
    {
        let mut world = world.lock();
        world.start(2, true);
        world.signal(2, "15");
    }
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.states["c2"], Draining);
}

#[tokio::test(start_paused = true)]
async fn frozen_container_takes_nothing_new_until_it_is_thawed() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    for (is_paused, expected) in [(true, Unhealthy), (false, Healthy), (true, Unhealthy)] {
        world.lock().pause(1, is_paused);
        session.pass(Duration::from_millis(10)).await;
        assert_eq!(session.states["c1"], expected);
    }
    world.lock().signal(1, "TERM");
    session.pass(Duration::from_millis(10)).await;
    assert_eq!(session.states["c1"], Draining);
    session.check_truth();
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_set_back_neither_lose_nor_revive_a_drain() {
    let world = World::default();
    world.lock().set_clock(1_000_000);
    for number in 1..=2 {
        world.lock().start(number, true);
    }
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    // Asked to end at a time before it was started.
    world.lock().set_clock(1000);
    world.lock().signal(1, "TERM");
    session.pass(Duration::from_millis(10)).await;
    assert_eq!((session.states["c1"], session.states["c2"]), (Draining, Healthy));
    // Started at a time before the run before it was asked to end.
    world.lock().set_clock(1_000_000);
    world.lock().signal(2, "TERM");
    session.pass(Duration::from_millis(10)).await;
    assert_eq!(session.states["c2"], Draining);
    world.lock().kill(2);
    world.lock().set_clock(2000);
    world.lock().start(2, true);
    session.pass(Duration::from_secs(1)).await;
    session.check_truth();
    assert_eq!((session.states["c1"], session.states["c2"]), (Draining, Healthy));
}

#[tokio::test(start_paused = true)]
async fn the_past_that_is_told_again_says_nothing_about_the_next_run() {
    let world = World::default();
    world.lock().start(1, true);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    {
        let mut world = world.lock();
        world.signal(1, "TERM");
        world.kill(1);
        world.start(1, true);
    }
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.states["c1"], Healthy);
    // A new connection begins with the latest events of all; here it breaks after the signal.
    world.lock().tell_past(4);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.states["c1"], Healthy, "it was heard of before");
    // One that was not heard of then, and the death that followed it.
    world.lock().mute = true;
    world.lock().signal(1, "INT");
    world.lock().kill(1);
    world.lock().start(1, true);
    world.lock().mute = false;
    session.pass(Duration::from_mins(1)).await;
    assert_eq!(session.states["c1"], Healthy);
    world.lock().tell_past(usize::MAX);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.states["c1"], Healthy);
    // What follows is for the run that lives.
    world.lock().signal(1, "INT");
    session.pass(Duration::from_millis(10)).await;
    assert_eq!(session.states["c1"], Draining);
}

#[tokio::test(start_paused = true)]
async fn the_past_that_is_told_again_leaves_the_drain_of_the_next_run() {
    for lost in [false, true] {
        let world = World::default();
        world.lock().start(1, true);
        let mut session = Session::start(&world);
        session.pass(Duration::from_secs(1)).await;
        world.lock().signal(1, "TERM");
        world.lock().mute = lost;
        world.lock().kill(1);
        world.lock().mute = false;
        world.lock().start(1, true);
        session.pass(Duration::from_secs(1)).await;
        world.lock().signal(1, "TERM");
        session.pass(Duration::from_secs(1)).await;
        assert_eq!(session.states["c1"], Draining);
        // As far as the signal to the former run, its death, the signal to this one.
        for told in [4, 5, usize::MAX, usize::MAX] {
            world.lock().tell_past(told);
            session.pass(Duration::from_mins(1)).await;
            session.check_truth();
            assert_eq!(session.states["c1"], Draining, "after {told} events, lost: {lost}");
        }
        world.lock().kill(1);
        world.lock().start(1, true);
        session.pass(Duration::from_secs(1)).await;
        session.check_states();
    }
}

/// As after a reload, and after a restart of the agent.
#[tokio::test(start_paused = true)]
async fn a_provider_goes_on_with_the_drains_of_the_one_before() {
    for told in [0, 4, 5, usize::MAX] {
        let world = World::default();
        for number in 1..=3 {
            world.lock().start(number, true);
        }
        let mut session = Session::start(&world);
        session.pass(Duration::from_secs(1)).await;
        world.lock().signal(1, "TERM");
        world.lock().kill(1);
        world.lock().start(1, true);
        session.pass(Duration::from_secs(1)).await;
        for number in 1..=2 {
            world.lock().signal(number, "TERM");
        }
        session.pass(Duration::from_secs(1)).await;
        for _ in 0..2 {
            // Docker has forgotten what happened, or all but the beginning.
            world.lock().tell_past(told);
            drop(session);
            session = Session::start(&world);
            session.pass(Duration::from_secs(1)).await;
            session.check_truth();
            session.check_states();
            assert_eq!(world.lock().asked_to_end.len(), 2);
        }
        // Who ends is forgotten, also while nobody looks.
        world.lock().kill(1);
        session.pass(Duration::from_secs(1)).await;
        drop(session);
        world.lock().kill(2);
        for number in 1..=2 {
            world.lock().start(number, true);
        }
        session = Session::start(&world);
        session.pass(Duration::from_secs(1)).await;
        session.check_truth();
        session.check_states();
        assert_eq!(world.lock().asked_to_end.len(), 0);
    }
}

/// Its daemon came back without its past, which it keeps nowhere.
#[tokio::test(start_paused = true)]
async fn signal_to_a_run_that_was_never_seen_is_not_for_the_next() {
    let world = World::default();
    world.lock().start(1, true);
    world.lock().broken.insert(id(1));
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    world.lock().signal(1, "TERM");
    session.pass(Duration::from_secs(1)).await;
    world.lock().break_streams();
    world.lock().kill(1);
    world.lock().start(1, true);
    session.pass(Duration::from_secs(10)).await;
    world.lock().broken.clear();
    session.pass(RESYNC).await;
    session.check_truth();
    session.check_states();
}

#[tokio::test(start_paused = true)]
async fn renamed_container_keeps_its_place_until_another_bears_its_name() {
    let world = World::default();
    for number in 1..=2 {
        world.lock().start(number, true);
    }
    let mut session = Session::start(&world);
    let check = async |session: &mut Session, expected: &[(&str, &str)]| {
        session.pass(Duration::from_secs(1)).await;
        session.check_truth();
        let places = session.places.iter().map(|(name, place)| (name.as_str(), place.as_str()));
        assert_eq!(places.collect::<Vec<_>>(), expected);
    };
    check(&mut session, &[("c1", "c1"), ("c2", "c2")]).await;
    for name in ["old", "older"] {
        world.lock().rename_to(1, name);
        check(&mut session, &[("c2", "c2"), (name, "c1")]).await;
    }
    // A provider that knows nothing, as after a start of the agent.
    drop(session);
    let mut session = Session::start(&world);
    check(&mut session, &[("c2", "c2"), ("older", "c1")]).await;
    // Another one that has run beside it takes over the name, and with it the place.
    world.lock().rename_to(2, "c1");
    check(&mut session, &[("c1", "c1"), ("older", "older")]).await;
    session.pass(RESYNC).await;
    check(&mut session, &[("c1", "c1"), ("older", "older")]).await;
    world.lock().start(3, true);
    world.lock().rename_to(3, "c2");
    check(&mut session, &[("c1", "c1"), ("c2", "c2"), ("older", "older")]).await;
    // Its own name again, and another run.
    world.lock().rename_to(1, "c1-again");
    world.lock().rename_to(1, "older");
    check(&mut session, &[("c1", "c1"), ("c2", "c2"), ("older", "older")]).await;
    world.lock().rename_to(1, "web");
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(world.lock().former_names.len(), 1);
    world.lock().kill(1);
    world.lock().start(1, true);
    check(&mut session, &[("c1", "c1"), ("c2", "c2"), ("web", "web")]).await;
    assert_eq!(world.lock().former_names.len(), 0);
}

/// Names are changed one behind the other, and seen as it comes.
#[tokio::test(start_paused = true)]
async fn a_name_that_goes_on_takes_its_place_along_whoever_is_looked_at_first() {
    for (first, second) in [(1, 2), (2, 1)] {
        // As a deployment does, and an exchange.
        for (renamed, expected) in [
            ([(1, "old"), (2, "c1")], [("c1", "c1"), ("old", "old")]),
            ([(1, "c2"), (2, "c1")], [("c1", "c1"), ("c2", "c2")]),
        ] {
            let world = World::default();
            for number in 1..=2 {
                world.lock().start(number, true);
            }
            let mut session = Session::start(&world);
            session.pass(Duration::from_secs(1)).await;
            let names = BTreeMap::from(renamed);
            world.lock().mute = true;
            for (number, name) in &names {
                world.lock().rename_to(*number, name);
            }
            world.lock().mute = false;
            for number in [first, second] {
                world.lock().rename_to(number, names[&number]);
                session.pass(Duration::from_millis(20)).await;
            }
            session.pass(Duration::from_secs(1)).await;
            session.check_truth();
            let places = session.places.iter();
            let places = places.map(|(name, place)| (name.as_str(), place.as_str()));
            assert_eq!(places.collect::<Vec<_>>(), expected, "{first} first");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deaths_are_told_by_a_provider_that_cannot_ask_docker() {
    let world = World::default();
    for number in 1..=3 {
        world.lock().start(number, true);
    }
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.served().len(), 3);
    {
        // It is stopped before it could tell of a death.
        let mut world = world.lock();
        world.down = true;
        world.break_streams();
        world.kill(1);
    }
    drop(session);
    let mut session = Session::start(&world);
    session.pass(Duration::from_millis(1)).await;
    assert_eq!(session.gone.len(), 1);
    world.lock().kill(2);
    session.pass(Duration::from_millis(1)).await;
    assert_eq!(session.gone.len(), 2);
    assert_eq!(session.claims, None, "it knows nothing else");
    // And once only.
    drop(session);
    let mut session = Session::start(&world);
    session.pass(Duration::from_secs(1)).await;
    assert_eq!(session.gone.len(), 0);
    world.lock().down = false;
    session.pass(Duration::from_secs(10)).await;
    session.check_truth();
}
