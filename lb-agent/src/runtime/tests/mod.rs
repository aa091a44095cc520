//! The runtime with a fake node and providers played by the test.

mod bed;
mod faults;
mod health;
mod lifecycle;
mod partial;
mod scale;
mod steering;
mod views;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bed::{Bed, address, addresses, container, entry, served};
use insta::assert_snapshot;

use super::reconciler::{PATIENCE, RESYNC};
use crate::{
    api::{
        table,
        types::{ProviderState, RefusedBy},
    },
    plan::{Action, KernelState},
    provider::ProviderEvent,
};

const SECOND: Duration = Duration::from_secs(1);

/// Two containers at port 1, one at port 2, a static backend at port 3; settled.
async fn running() -> Bed {
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &docker_claims()).await;
    bed.claims("file", &file_claims()).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(bed.served(3), addresses(&[100]));
    bed.take_log();
    bed
}

fn docker_claims() -> [crate::model::Claim; 3] {
    [container(1, 1), container(1, 2), container(2, 3)]
}

fn file_claims() -> [crate::model::Claim; 1] {
    [entry(3, 100)]
}

#[tokio::test(start_paused = true)]
async fn restart_changes_nothing() {
    let before = running().await.kill().await;
    let bed = Bed::new(before.clone());
    bed.claims("file", &file_claims()).await;
    bed.wait(SECOND / 2).await;
    bed.claims("docker", &docker_claims()).await;
    bed.wait(300 * SECOND).await;
    assert_eq!(bed.take_log(), []);
    assert_eq!(bed.stop().await, before);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_planned_before_everybody_has_spoken() {
    let before = running().await.kill().await;
    let bed = Bed::new(before);
    bed.claims("file", &[entry(3, 100), entry(4, 101)]).await;
    bed.wait(PATIENCE / 2).await;
    assert_eq!(bed.take_log(), []);
    bed.claims("docker", &docker_claims()).await;
    bed.settle().await;
    assert_ne!(bed.take_log(), [], "at once when the last one has spoken");
    // What the predecessor may have freed rests before it is used.
    bed.wait(SECOND).await;
    assert_eq!(bed.served(4), addresses(&[101]));
}

#[tokio::test(start_paused = true)]
async fn empty_node_waits_for_nobody() {
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &file_claims()).await;
    bed.settle().await;
    assert_eq!(bed.served(3), addresses(&[100]));
}

#[tokio::test(start_paused = true)]
async fn silent_provider_loses_nothing_while_others_are_served() {
    let bed = Bed::new(running().await.kill().await);
    let trouble = Some("cannot reach the daemon".to_owned());
    bed.send(ProviderEvent::Status { provider: "docker", trouble }).await;
    // The file has another backend and another service than before.
    bed.claims("file", &[entry(3, 101), entry(4, 102)]).await;
    bed.wait(200 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(bed.served(3), addresses(&[101]), "its own provider has spoken");
    assert_eq!(bed.served(4), addresses(&[102]));
    let removed = bed.take_log().into_iter().filter(|action| {
        matches!(
            action,
            Action::ClearService { .. }
                | Action::DeleteFrontend { .. }
                | Action::DeleteVip { .. }
                | Action::DetachReply { .. }
                | Action::ClearRing { .. }
        )
    });
    assert_eq!(removed.collect::<Vec<_>>(), []);
    // Docker is back, and one service is gone meanwhile.
    bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[]));
}

#[tokio::test(start_paused = true)]
async fn provider_in_trouble_keeps_what_it_told() {
    let bed = running().await;
    let trouble = Some("the daemon went away; trying again".to_owned());
    bed.send(ProviderEvent::Status { provider: "docker", trouble: trouble.clone() }).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.take_log(), []);
    let provider = bed.view().await.status.providers[0].clone();
    assert_eq!((provider.state, provider.trouble), (ProviderState::Trouble, trouble));
}

#[tokio::test(start_paused = true)]
async fn death_is_stored_before_anything_else() {
    let bed = running().await;
    // Both are in the channel before the runtime wakes: a change that needs a plan, and a death.
    bed.claims("file", &[entry(3, 100), entry(5, 105)]).await;
    bed.gone("c2").await;
    bed.settle().await;
    let log = bed.take_log();
    let Some(Action::SetBackendState { number, state: 0 }) = log.first() else {
        panic!("the first action is another: {log:?}");
    };
    assert_eq!(bed.node().kernel.backends.get(number).map(|dead| dead.address), Some(address(2)));
    assert_eq!(bed.served(1), addresses(&[1]));
    assert_eq!(bed.served(5), addresses(&[105]));
}

#[tokio::test(start_paused = true)]
async fn death_interrupts_a_plan() {
    let bed = running().await;
    let events = bed.events.clone();
    let mut countdown = 3;
    bed.refuse(move |_| {
        countdown -= 1;
        if countdown == 0 {
            let instance = "c1".to_owned();
            let death = ProviderEvent::Gone { provider: "docker", instance };
            events.try_send(death.into()).expect("room");
        }
        false
    });
    let many: Vec<_> = (10..60).map(|id| entry(u16::from(id), id)).collect();
    bed.claims("file", &many).await;
    bed.settle().await;
    let log = bed.take_log();
    assert!(log.len() > 100, "the plan was completed after all");
    assert!(
        matches!(log[3], Action::SetBackendState { state: 0, .. }),
        "the fourth action: {:?}",
        log[3]
    );
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(bed.served(59), addresses(&[59]));
}

#[tokio::test(start_paused = true)]
async fn dead_instance_stays_out_although_it_is_still_listed() {
    let bed = running().await;
    bed.gone("c1").await;
    bed.settle().await;
    // A listing that was taken before the death.
    bed.claims("docker", &docker_claims()).await;
    bed.wait(5 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    // Its successor at the same place.
    let mut successor = container(1, 1);
    if let Some(backend) = &mut successor.backend {
        backend.instance = "c1-again".to_owned();
        backend.started_at_ms = 2;
    }
    bed.claims("docker", &[successor, container(1, 2), container(2, 3)]).await;
    bed.wait(5 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn last_death_leaves_a_service_without_backends() {
    let bed = running().await;
    bed.gone("c3").await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(2), addresses(&[]));
    assert!(bed.node().kernel.frontends.contains_key(&bed::frontend(2)), "clients are still told");
}

#[tokio::test(start_paused = true)]
async fn veth_that_cannot_be_attached_keeps_only_its_backend_out() {
    let bed = Bed::new(KernelState::default());
    bed.refuse(|action| matches!(action, Action::AttachReply { ifindex: 2 }));
    bed.claims("docker", &docker_claims()).await;
    bed.claims("file", &file_claims()).await;
    bed.settle().await;
    assert_eq!(bed.served(1), addresses(&[1]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(bed.served(3), addresses(&[100]));
    let view = bed.view().await;
    let refusal = &view.status.refusals[0];
    assert_eq!(refusal.refused_by, RefusedBy::Planner);
    assert_snapshot!(format!("{}: {}", refusal.object, refusal.message), @"backend `shop-s1-2` of service `compose/shop/s1:80`: try: the fake refuses");
    // It works at the next attempt.
    bed.refuse(|_| false);
    bed.wait(2 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.view().await.status.refusals, []);
}

#[tokio::test(start_paused = true)]
async fn refused_ring_spoils_its_service_only_and_is_tried_again() {
    let bed = Bed::new(KernelState::default());
    let attempts = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&attempts);
    let mut refused_ring = None;
    bed.refuse(move |action| match action {
        // The first ring that comes, for good.
        Action::PublishRing { ring, .. } if *refused_ring.get_or_insert(*ring) == *ring => {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        }
        _ => false,
    });
    bed.claims("docker", &docker_claims()).await;
    bed.claims("file", &file_claims()).await;
    bed.settle().await;
    let served = [bed.served(1), bed.served(2), bed.served(3)];
    assert_eq!(served.iter().filter(|addresses| addresses.is_empty()).count(), 1, "{served:?}");
    bed.wait(60 * SECOND).await;
    // After 1, 2, 4, 8, 16 and 32 seconds more, or so; not at every tick.
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((5..=8).contains(&attempts), "{attempts} attempts");
    assert_eq!(bed.view().await.status.reconcile.failed_actions, 1);
    bed.refuse(|_| false);
    bed.wait(60 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(bed.served(3), addresses(&[100]));
}

/// The claim of container `id` of `service` for port 1.
fn rival(service: u16, id: u8, since_ms: u64) -> crate::model::Claim {
    let mut claim = container(service, id);
    claim.frontend = bed::frontend(1);
    claim.since_ms = since_ms;
    claim
}

#[tokio::test(start_paused = true)]
async fn redeployed_service_keeps_its_frontend_from_an_intruder() {
    let intruder = rival(2, 9, 2);
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    // Replica by replica: the last old one goes when the new ones are there.
    for replicas in [
        vec![rival(1, 1, 1), intruder.clone()],
        vec![rival(1, 1, 1), rival(1, 3, 3), intruder.clone()],
        vec![rival(1, 3, 3), intruder.clone()],
        vec![rival(1, 3, 3), rival(1, 4, 4), intruder.clone()],
    ] {
        bed.claims("docker", &replicas).await;
        bed.wait(10 * SECOND).await;
        assert!(!bed.served(1).contains(&address(9)), "{replicas:?}");
    }
    assert_eq!(bed.served(1), addresses(&[3, 4]));
    // Until its slots have come to rest.
    bed.wait(300 * SECOND).await;
    // Who has it is what the kernel holds: a new agent decides the same.
    let before = bed.kill().await;
    let bed = Bed::new(before.clone());
    bed.claims("file", &[]).await;
    bed.claims("docker", &[intruder.clone(), rival(1, 4, 4), rival(1, 3, 3)]).await;
    bed.wait(300 * SECOND).await;
    assert_eq!(bed.take_log(), []);
    assert_eq!(bed.node().kernel, before);
    let refusal = bed.view().await.status.refusals[0].clone();
    assert_eq!((refusal.refused_by, refusal.object), (RefusedBy::Arbiter, intruder.source.clone()));
    // It is the intruder's turn when nobody else wants it.
    bed.claims("docker", &[intruder]).await;
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[9]));
}

#[tokio::test(start_paused = true)]
async fn bursts_of_events_make_one_plan() {
    let bed = running().await;
    let rounds = bed.view().await.status.reconcile.rounds;
    for id in 4..104 {
        bed.claims("docker", &[container(1, 1), container(1, 2), container(2, id)]).await;
    }
    bed.settle().await;
    assert_eq!(bed.served(2), addresses(&[103]));
    // One that does it, and one that finds nothing left to do.
    assert_eq!(bed.view().await.status.reconcile.rounds, rounds + 2);
}

#[tokio::test(start_paused = true)]
async fn same_claims_again_are_no_work() {
    let bed = running().await;
    let rounds = bed.view().await.status.reconcile.rounds;
    for _ in 0..10 {
        bed.claims("docker", &docker_claims()).await;
        bed.settle().await;
    }
    assert_eq!(bed.view().await.status.reconcile.rounds, rounds);
}

#[tokio::test(start_paused = true)]
async fn change_behind_our_back_is_repaired() {
    let bed = running().await;
    {
        let mut node = bed.node();
        node.kernel.reply_interfaces.remove(&1);
        node.kernel.frontends.remove(&bed::frontend(3));
    }
    bed.wait(RESYNC + SECOND).await;
    assert!(bed.node().kernel.reply_interfaces.contains(&1));
    assert_eq!(bed.served(3), addresses(&[100]));
}

#[tokio::test(start_paused = true)]
async fn unreadable_kernel_is_shown_and_read_again() {
    let bed = running().await;
    bed.node().is_unreadable = true;
    bed.wait(RESYNC + SECOND).await;
    let refusals = bed.view().await.status.refusals.clone();
    assert_eq!(refusals.len(), 1);
    assert_snapshot!(format!("{}: {}", refusals[0].object, refusals[0].message), @"the kernel's tables: the fake cannot be read");
    bed.node().is_unreadable = false;
    bed.claims("file", &[entry(6, 106)]).await;
    bed.wait(60 * SECOND).await;
    assert_eq!(bed.served(6), addresses(&[106]));
    assert_eq!(bed.view().await.status.refusals, []);
}

#[tokio::test(start_paused = true)]
async fn sweeps_go_on_without_events() {
    let bed = running().await;
    let counts = || {
        let node = bed.node();
        (node.sweeps, node.looks)
    };
    let before = counts();
    bed.wait(100 * SECOND).await;
    let after = counts();
    let (swept, looked) = (after.0 - before.0, after.1 - before.1);
    assert!((99..=101).contains(&swept), "{swept} sweeps in 100 seconds");
    assert!((9..=11).contains(&looked), "{looked} looks in 100 seconds");
}

#[tokio::test(start_paused = true)]
async fn stopping_leaves_everything() {
    let bed = running().await;
    let kernel = bed.stop().await;
    assert_eq!(served(&kernel, 1), addresses(&[1, 2]));
    assert_eq!(served(&kernel, 3), addresses(&[100]));
}

#[tokio::test(start_paused = true)]
async fn view_shows_what_is_served() {
    let bed = running().await;
    let view = bed.view().await;
    assert_snapshot!(table::vips(&view.vips), @r#"
    VIP         BALANCER  FRONTEND  SERVICE             STATE
    192.0.2.10  -         tcp/1     compose/shop/s1:80  serving
    192.0.2.10  -         tcp/2     compose/shop/s2:80  serving
    192.0.2.10  -         tcp/3     file/s3             serving
    "#);
    assert_snapshot!(table::services(&view.services), @"
    SERVICE             FRONTENDS           RING  HEALTHY  STATE    CONNS  FLOWS  IN  OUT  SOURCE
    compose/shop/s1:80  tcp://192.0.2.10:1  1021      2/2  serving      -      0  0B   0B  docker
    compose/shop/s2:80  tcp://192.0.2.10:2  1021      1/1  serving      -      0  0B   0B  docker
    file/s3             tcp://192.0.2.10:3  1021      1/1  serving      -      0  0B   0B  file
    ");
    assert_snapshot!(table::backends(&view.backends, false), @"
    SERVICE             BACKEND        ADDRESS        WEIGHT   SHARE  STATE    REPLIES                                 CONNS  FLOWS  IN  OUT
    compose/shop/s1:80  shop-s1-1      10.0.0.1:80       100   50.0%  healthy  recorded (other ways in are not known)      -      0  0B   0B
    compose/shop/s1:80  shop-s1-2      10.0.0.2:80       100   50.0%  healthy  recorded (other ways in are not known)      -      0  0B   0B
    compose/shop/s2:80  shop-s2-3      10.0.0.3:80       100  100.0%  healthy  recorded (other ways in are not known)      -      0  0B   0B
    file/s3             10.0.0.100:80  10.0.0.100:80     100  100.0%  healthy  recorded (other ways in are not known)      -      0  0B   0B
    ");
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_an_interruption_is_left_out_as_after_any_other() {
    let bed = running().await;
    let events = bed.events.clone();
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    bed.refuse(move |action| {
        let is_it = matches!(
            action,
            Action::WriteBackend { backend, .. } if backend.address == address(5)
        );
        if is_it && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            // Somebody dies meanwhile, so the rest of the plan waits.
            let (provider, instance) = ("docker", "c2".to_owned());
            events.try_send(ProviderEvent::Gone { provider, instance }.into()).expect("room");
        }
        is_it
    });
    let mut claims = docker_claims().to_vec();
    claims.push(container(1, 5));
    bed.claims("docker", &claims).await;
    bed.settle().await;
    assert_eq!(bed.served(1), addresses(&[1]));
    assert_eq!(tried.load(Ordering::Relaxed), 1, "at once, again and again");
    let view = bed.view().await;
    let refusals = &view.status.refusals;
    assert!(refusals.iter().any(|it| it.object.contains("shop-s1-5")), "{refusals:?}");
    bed.refuse(|_| false);
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 5]));
}

#[tokio::test(start_paused = true)]
async fn the_node_hears_of_veths_before_the_plan_that_needs_them() {
    let bed = running().await;
    bed.node().heard.clear();
    let mut claims = docker_claims().to_vec();
    claims.push(container(1, 5));
    bed.claims("docker", &claims).await;
    bed.settle().await;
    assert_eq!(bed.served(1), addresses(&[1, 2, 5]));
    // Not of those that have the program.
    assert_eq!(bed.node().heard, ["expects {5}", "attaches 5", "expects no more"]);
}
