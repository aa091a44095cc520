//! What becomes of probed backends in the kernel; the prober is played by the test.

use std::sync::Arc;

use lb_common::abi::{TAKES_NEW, TAKES_OLD};

use super::{
    SECOND,
    bed::{Bed, address, addresses, container},
};
use crate::{
    api::{table, types::ServingState},
    health::{
        Change, Standing,
        tracker::Health::{self, Healthy, Unhealthy},
    },
    model::{Claim, Origin, ProbeKind, Setting, Wishes},
    plan::{Action, KernelState},
    runtime::Event,
};

/// The claim of a container at port 1 that is probed.
pub(super) fn probed(id: u8) -> Claim {
    let kind = ProbeKind::Tcp { port: None };
    let probe = Some(Setting::new(Some(kind), Origin::Default));
    let wishes = Arc::new(Wishes { probe, ..Wishes::default() });
    Claim { wishes, ..container(1, id) }
}

/// The same address and place as before, another run of the container.
fn recreated(id: u8) -> Claim {
    let mut claim = probed(id);
    if let Some(backend) = &mut claim.backend {
        backend.instance = format!("c{id}-again");
        backend.started_at_ms = 2;
    }
    claim
}

pub(super) async fn tell(bed: &Bed, id: u8, health: Health) {
    let target = {
        let targets = bed.targets.borrow();
        let target =
            targets.iter().flat_map(|it| it.iter()).find(|target| target.address == address(id));
        Arc::clone(target.expect("it is to be probed"))
    };
    let standing = Standing { health, was_healthy: true, is_refusing: false, is_observed: false };
    let (key, generation) = (target.key, target.generation);
    let has_fallen = standing.health == Unhealthy;
    let change =
        Change { key, generation, standing, has_fallen, cause: "the test says so".to_owned() };
    bed.events.send(Event::Health(vec![change])).await.expect("the runtime runs");
    bed.wait(SECOND).await;
}

async fn with_two_healthy() -> Bed {
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &[probed(1), probed(2)]).await;
    bed.claims("file", &[]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[]), "not before their probes pass");
    tell(&bed, 1, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1]));
    tell(&bed, 2, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    bed
}

fn state(bed: &Bed, id: u8) -> u8 {
    let node = bed.node();
    let held = node.kernel.backends.values().find(|held| held.address == address(id));
    held.expect("the kernel has it").state & (TAKES_NEW | TAKES_OLD)
}

#[tokio::test(start_paused = true)]
async fn unhealthy_gets_nothing_new_and_keeps_what_it_has() {
    let bed = with_two_healthy().await;
    tell(&bed, 1, Unhealthy).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(state(&bed, 1), TAKES_OLD);
    let view = bed.view().await;
    assert_eq!(view.services[0].state, ServingState::Degraded);
    let shown = table::backends(&view.backends, false);
    assert!(shown.contains("unhealthy (the test says so, 299 s left)"), "{shown}");
    tell(&bed, 1, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

/// Whose news come while a plan is executed does not wait for its end, which may be far when all
/// services are new; and among what is to be done nobody gets anything new before he gets nothing.
#[tokio::test(start_paused = true)]
async fn a_failure_interrupts_a_plan_and_comes_first() {
    let bed = with_two_healthy().await;
    bed.take_log();
    let target = {
        let targets = bed.targets.borrow();
        let mut targets = targets.iter().flat_map(|group| group.iter());
        Arc::clone(targets.find(|it| it.address == address(1)).expect("it is probed"))
    };
    let (key, generation) = (target.key, target.generation);
    let standing =
        Standing { health: Unhealthy, was_healthy: true, is_refusing: false, is_observed: false };
    let has_fallen = standing.health == Unhealthy;
    let change =
        Change { key, generation, standing, has_fallen, cause: "the test says so".to_owned() };
    let (events, mut news) = (bed.events.clone(), Some(Event::Health(vec![change])));
    bed.refuse(move |_| {
        if let Some(news) = news.take() {
            events.try_send(news).expect("room");
        }
        false
    });
    bed.claims("docker", &[probed(1), probed(2), container(2, 3), container(3, 4)]).await;
    bed.settle().await;
    let log = bed.take_log();
    let failed = Action::SetBackendState { number: 1, state: TAKES_OLD };
    assert_eq!(log.iter().position(|action| *action == failed), Some(1), "{log:#?}");
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!((bed.served(2), bed.served(3)), (addresses(&[3]), addresses(&[4])));
}

#[tokio::test(start_paused = true)]
async fn panic_keeps_the_living_and_says_so() {
    let bed = with_two_healthy().await;
    tell(&bed, 1, Unhealthy).await;
    tell(&bed, 2, Unhealthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]), "everybody fails, so everybody serves");
    let view = bed.view().await;
    assert_eq!(view.services[0].state, ServingState::Panic);
    assert_eq!(view.services[0].backends.unhealthy, 2);
    bed.gone("c1").await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]), "the gone: never");
    tell(&bed, 2, Healthy).await;
    assert_eq!(bed.view().await.services[0].state, ServingState::Serving);
}

#[tokio::test(start_paused = true)]
async fn a_quick_recreate_is_not_served_before_its_own_probe_passes() {
    let bed = with_two_healthy().await;
    bed.gone("c1").await;
    bed.claims("docker", &[recreated(1), probed(2)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    tell(&bed, 1, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn health_is_kept_across_an_unrelated_update_and_a_restart() {
    let bed = with_two_healthy().await;
    tell(&bed, 2, Unhealthy).await;
    let claims = [probed(1), probed(2), container(2, 3)];
    bed.claims("docker", &claims).await;
    // Until the slots that nobody had before have come to rest.
    bed.wait(200 * SECOND).await;
    assert_eq!((bed.served(1), bed.served(2)), (addresses(&[1]), addresses(&[3])));
    let before = bed.kill().await;
    let bed = Bed::new(before.clone());
    bed.claims("docker", &claims).await;
    bed.claims("file", &[]).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.take_log(), [], "what the kernel holds is believed until probes say otherwise");
    tell(&bed, 2, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

/// Blue, after green has taken over: it keeps its flows, of TCP and of UDP.
#[tokio::test(start_paused = true)]
async fn a_healthy_backend_of_weight_0_keeps_its_flows_across_a_restart() {
    let weightless = |id: u8| {
        let mut claim = probed(id);
        claim.backend.as_mut().expect("a container").weight = 0;
        let unhealthy_grace_seconds = Some(Setting::new(0, Origin::Default));
        let wishes = Wishes { unhealthy_grace_seconds, ..(*claim.wishes).clone() };
        Claim { wishes: Arc::new(wishes), ..claim }
    };
    let bed = with_two_healthy().await;
    let claims = [weightless(1), weightless(2), probed(3)];
    bed.claims("docker", &claims).await;
    bed.wait(SECOND).await;
    tell(&bed, 3, Healthy).await;
    bed.wait(9000 * SECOND).await;
    assert_eq!((bed.served(1), state(&bed, 1)), (addresses(&[3]), TAKES_OLD));
    let before = bed.kill().await;
    let bed = Bed::new(before);
    bed.claims("docker", &claims).await;
    bed.claims("file", &[]).await;
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.take_log(), [], "nothing that is right is changed");
    tell(&bed, 1, Unhealthy).await;
    assert_eq!(state(&bed, 1), 0, "it has no grace");
    assert_eq!(state(&bed, 2), TAKES_OLD);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_that_fails_keeps_the_last_good_backends() {
    let bed = with_two_healthy().await;
    bed.gone("c1").await;
    bed.claims("docker", &[recreated(1), probed(2)]).await;
    bed.wait(SECOND).await;
    // The new one never passes, and the last of the old fails its probe, too.
    tell(&bed, 2, Unhealthy).await;
    assert_eq!(bed.served(1), addresses(&[2]));
}

/// The claim of a container that wants the new flows for itself.
fn exclusive(id: u8) -> Claim {
    let claim = probed(id);
    let exclusive = Some(Setting::new(true, Origin::Default));
    let wishes = Arc::new(Wishes { exclusive, ..(*claim.wishes).clone() });
    Claim { wishes, ..claim }
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_an_exclusive_backend_that_fails_is_one_of_many() {
    let bed = Bed::new(KernelState::default());
    let claims: Vec<Claim> = (1..=12).map(probed).chain([exclusive(13)]).collect();
    bed.claims("docker", &claims).await;
    bed.claims("file", &[]).await;
    bed.wait(SECOND).await;
    for id in 1..=13 {
        tell(&bed, id, Healthy).await;
    }
    assert_eq!(bed.served(1), addresses(&[13]));
    // Nearly all fail, and the exclusive one among them: who is healthy keeps serving.
    for id in 2..=13 {
        tell(&bed, id, Unhealthy).await;
    }
    assert_eq!(bed.view().await.services[0].state, ServingState::Panic);
    let all: Vec<u8> = (1..=13).collect();
    assert_eq!(bed.served(1), addresses(&all));
    // It is alone again as soon as it passes, and that is no panic, whatever the others do.
    tell(&bed, 13, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[13]));
    assert_ne!(bed.view().await.services[0].state, ServingState::Panic);
}
