//! Random histories of a node, with a daemon that fails, lies, hangs and goes away.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    session::{RESYNC, Session, instance},
    world::World,
};
use crate::model::BackendState;

/// Something that happens on the node.
#[derive(Clone, Debug)]
enum Step {
    Start(u8),
    StartUnlabelled(u8),
    Kill(u8),
    Restart(u8),
    Readdress(u8),
    Rename(u8),
    Signal(u8),
    Pause(u8, bool),
    DaemonGoes,
    DaemonComes,
    StreamsBreak,
    /// Another provider goes on.
    Successor,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..6_u8;
    prop_oneof![
        4 => number.clone().prop_map(Step::Start),
        1 => (12..14_u8).prop_map(Step::StartUnlabelled),
        3 => number.clone().prop_map(Step::Kill),
        2 => number.clone().prop_map(Step::Restart),
        1 => number.clone().prop_map(Step::Readdress),
        1 => number.clone().prop_map(Step::Rename),
        2 => number.clone().prop_map(Step::Signal),
        1 => (number, any::<bool>()).prop_map(|(number, is_paused)| Step::Pause(number, is_paused)),
        1 => Just(Step::DaemonGoes),
        2 => Just(Step::DaemonComes),
        2 => Just(Step::StreamsBreak),
        1 => Just(Step::Successor),
        6 => (0..30_u64).prop_map(Step::Time),
        3 => (0..400_u64).prop_map(Step::Time),
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
        Step::Signal(number) => world.signal(number, "TERM"),
        Step::Pause(number, is_paused) => world.pause(number, is_paused),
        Step::Rename(number) => world.rename(number),
        Step::DaemonGoes => {
            world.down = true;
            world.break_streams();
        }
        Step::DaemonComes => world.down = false,
        Step::StreamsBreak => world.break_streams(),
        Step::Successor => {}
        Step::Time(milliseconds) => return Duration::from_millis(milliseconds),
    }
    Duration::ZERO
}

/// Whatever the daemon does: no living container is withdrawn, every dead one that was served is
/// gone at once, and in the end the claims are the truth, and nobody drains who was not asked to end.
/// Where it only goes away and comes back, everybody drains who was.
async fn faults_do_no_harm(steps: Vec<Step>, percent: u64, seed: u64) {
    let world = World::default();
    world.lock().faults.percent = percent;
    world.lock().faults.random = seed;
    world.lock().remember();
    let mut session = Session::start(&world);
    for step in &steps {
        if matches!(step, Step::Successor) {
            drop(session);
            session = Session::start(&world);
        }
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
        // The past once more: after it every signal was told, and every death.
        world.break_streams();
    }
    // Questions that were asked before may hang until their time limit, one after another.
    session.pass(6 * RESYNC).await;
    session.check_truth();
    assert_eq!(session.trouble, None);
    if percent == 0 {
        session.check_states();
    }
    let asked = world.lock().states();
    for (name, state) in &session.states {
        let is_asked = asked.get(name) == Some(&BackendState::Draining);
        assert!(is_asked || *state != BackendState::Draining, "nobody asked `{name}` to end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fault_of_the_daemon_withdraws_a_living_container(
        steps in proptest::collection::vec(step(), 1..80),
        percent in prop_oneof![Just(0), 0..40_u64],
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
