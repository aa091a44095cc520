//! A provider that knows a part only, or nothing any more: who may live is kept.

use super::{
    SECOND,
    bed::{Bed, addresses, container, entry, frontend},
    docker_claims, file_claims, running,
};
use crate::{
    plan::{Action, KernelState},
    provider::ProviderEvent,
    runtime::Event,
};

/// Whoever asks for what the view does not show must know whether that means that it is not there.
#[tokio::test(start_paused = true)]
async fn a_view_is_complete_when_it_is_made_from_all_that_there_is() {
    let bed = Bed::new(running().await.kill().await);
    let is_complete = async |expected: bool, what: &str| {
        bed.wait(10 * SECOND).await;
        assert_eq!((bed.view().await.is_complete, what), (expected, what));
    };
    is_complete(false, "nobody has told anything").await;
    bed.claims("file", &file_claims()).await;
    is_complete(false, "Docker is away").await;
    bed.partial("docker", &docker_claims()).await;
    is_complete(false, "it does not know everything").await;
    bed.claims("docker", &docker_claims()).await;
    is_complete(true, "all is known").await;
    let trouble = Some("no answer".to_owned());
    bed.send(ProviderEvent::Status { provider: "docker", trouble }).await;
    is_complete(true, "what was told last stays in force").await;
    bed.events.send(Event::Restarting("docker")).await.expect("the runtime runs");
    is_complete(false, "it is started anew").await;
}

/// A runtime that was started anew, and knows nothing of Docker yet.
async fn restarted() -> Bed {
    let bed = Bed::new(running().await.kill().await);
    bed.claims("file", &file_claims()).await;
    bed
}

fn remove_veth(bed: &Bed, id: u8) {
    bed.node().kernel.reply_interfaces.remove(&id.into());
    bed.refuse(move |action| *action == Action::AttachReply { ifindex: id.into() });
}

#[tokio::test(start_paused = true)]
async fn empty_listing_after_a_restart_removes_only_who_has_no_veth() {
    let before = running().await.kill().await;
    let bed = Bed::new(before.clone());
    bed.claims("file", &file_claims()).await;
    bed.partial("docker", &[]).await;
    bed.wait(300 * SECOND).await;
    assert_eq!(bed.take_log(), []);
    assert_eq!(bed.node().kernel, before);
    // One dies: its veth goes with it.
    remove_veth(&bed, 1);
    bed.wait(15 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(bed.served(3), addresses(&[100]));
    // Then everything is known again.
    bed.claims("docker", &[container(1, 2)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert!(!bed.node().kernel.frontends.contains_key(&frontend(2)));
    assert_eq!(bed.node().kernel.backends.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn container_that_cannot_be_looked_at_keeps_its_slots() {
    let bed = restarted().await;
    let share = |bed: &Bed, id: u8| {
        let node = bed.node();
        let number = node.kernel.backends.iter().find(|(_, it)| it.address == super::address(id));
        let number = *number.expect("it is held").0;
        let slots = node.kernel.rings.values().flat_map(|ring| ring.slots.iter().enumerate());
        slots.filter(|(_, slot)| slot.cur() == number).map(|(index, _)| index).collect::<Vec<_>>()
    };
    let before = share(&bed, 2);
    // 1 is known, 2 and 3 are not; 4 is new.
    bed.partial("docker", &[container(1, 1), container(1, 4)]).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2, 4]));
    assert_eq!(bed.served(2), addresses(&[3]));
    assert_eq!(share(&bed, 2), before);
    bed.take_log();
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.take_log(), [], "it comes to rest");
    // The file is not affected.
    bed.claims("file", &[entry(4, 101)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(3), addresses(&[]));
    assert_eq!(bed.served(4), addresses(&[101]));
    // Everything is known: 2 lives, 3 does not.
    bed.claims("docker", &[container(1, 1), container(1, 2), container(1, 4)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2, 4]));
    assert!(!bed.node().kernel.frontends.contains_key(&frontend(2)));
    // The same claims as before, and this time they are all.
    bed.claims("docker", &[container(1, 1), container(1, 4)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 4]));
    assert_eq!(bed.node().kernel.backends.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn kept_backend_leaves_a_ring_that_its_members_already_have() {
    let bed = restarted().await;
    bed.partial("docker", &[container(1, 1)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    bed.claims("docker", &[container(1, 1)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1]));
    assert_eq!(bed.node().kernel.backends.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn kept_backend_leaves_a_ring_that_was_published_with_it() {
    let bed = restarted().await;
    bed.partial("docker", &[container(1, 1), container(1, 4)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2, 4]));
    bed.claims("docker", &[container(1, 1), container(1, 4)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 4]));
    assert_eq!(bed.node().kernel.backends.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_was_known_stays_when_later_claims_are_partial() {
    let bed = running().await;
    bed.partial("docker", &[container(1, 1)]).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[3]));
}

#[tokio::test(start_paused = true)]
async fn death_counts_although_the_claims_are_partial() {
    let bed = running().await;
    bed.gone("c2").await;
    bed.partial("docker", &[container(1, 1), container(2, 3)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1]));
}

#[tokio::test(start_paused = true)]
async fn dead_local_backend_is_out_while_docker_is_away() {
    let mut before = running().await.kill().await;
    before.reply_interfaces.remove(&1);
    let bed = Bed::new(before);
    bed.claims("file", &file_claims()).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(bed.served(2), addresses(&[3]));
}

#[tokio::test(start_paused = true)]
async fn provider_that_starts_anew_loses_nothing_until_it_knows_everything() {
    let bed = running().await;
    bed.events.send(Event::Restarting("docker")).await.expect("the runtime runs");
    bed.claims("file", &[entry(3, 100), entry(4, 101)]).await;
    bed.wait(100 * SECOND).await;
    bed.take_log();
    for claims in [&[][..], &[container(1, 1)]] {
        bed.partial("docker", claims).await;
        bed.wait(30 * SECOND).await;
        assert_eq!(bed.served(1), addresses(&[1, 2]));
        assert_eq!(bed.served(2), addresses(&[3]));
        assert_eq!(bed.served(4), addresses(&[101]));
    }
    bed.claims("docker", &docker_claims()[..2]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bed.served(2), addresses(&[]));
}

#[tokio::test(start_paused = true)]
async fn partial_claims_hold_nothing_up_on_an_empty_node() {
    let bed = Bed::new(KernelState::default());
    bed.partial("docker", &[]).await;
    bed.claims("file", &[entry(3, 100), entry(4, 101)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(4), addresses(&[101]));
    bed.claims("file", &file_claims()).await;
    bed.wait(30 * SECOND).await;
    assert!(!bed.node().kernel.frontends.contains_key(&frontend(4)));
    assert_eq!(bed.node().kernel.services.len(), 1);
}
