//! Drain, grace and slow start, down to what the kernel holds.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::abi::{SLOT_MOVING, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS};

use super::{
    SECOND,
    bed::{Bed, address, addresses, container, entry},
    health::{probed, tell},
};
use crate::{
    health::tracker::Health::{Healthy, Unhealthy},
    model::{BackendState, Claim, Origin, Setting, Wishes},
    plan::{Action, KernelState},
};

fn seconds(seconds: u32) -> Setting<u32> {
    Setting::new(seconds, Origin::Default)
}

/// A container at port 1 in a state that Docker gives it, draining for 30 seconds.
fn told(id: u8, state: BackendState) -> Claim {
    let mut claim = container(1, id);
    let wishes = Wishes { drain_seconds: Some(seconds(30)), ..(*claim.wishes).clone() };
    claim.wishes = Arc::new(wishes);
    if let Some(backend) = &mut claim.backend {
        backend.state = state;
    }
    claim
}

fn bits(bed: &Bed, id: u8) -> u8 {
    let node = bed.node();
    let held = node.kernel.backends.values().find(|held| held.address == address(id));
    held.map_or(0, |held| held.state)
}

fn shown(view: &crate::api::types::View, id: u8) -> String {
    let backend = view.backends.iter().find(|backend| backend.address == address(id));
    backend.map_or_else(|| "none".to_owned(), |backend| backend.state.to_string())
}

/// Slots that a backend has, and those whose unrecorded flows are its.
fn slots(bed: &Bed, id: u8) -> (usize, usize) {
    let node = bed.node();
    let held = node.kernel.backends.iter().find(|(_, held)| held.address == address(id));
    let Some((number, _)) = held else { return (0, 0) };
    let slots = || node.kernel.rings.values().flat_map(|ring| &ring.slots);
    let has = slots().filter(|slot| slot.cur() == *number).count();
    let keeps = slots().filter(|slot| slot.state() == SLOT_MOVING && slot.old() == *number);
    (has, keeps.count())
}

#[tokio::test(start_paused = true)]
async fn drain_keeps_flows_until_its_deadline() {
    use BackendState::{Draining, Healthy};
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    bed.claims("docker", &[told(1, Healthy), told(2, Healthy)]).await;
    bed.wait(300 * SECOND).await;
    let before = slots(&bed, 1);
    assert!(before.0 > 400 && before.1 == 0, "{before:?}");
    bed.claims("docker", &[told(1, Draining), told(2, Healthy)]).await;
    bed.settle().await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(bits(&bed, 1), TAKES_OLD | TAKES_OLD_DATAGRAMS);
    bed.wait(3 * SECOND).await;
    assert_eq!(slots(&bed, 1), (0, before.0), "its flows stay its own");
    bed.wait(26 * SECOND).await;
    assert_eq!(bits(&bed, 1), TAKES_OLD | TAKES_OLD_DATAGRAMS, "29 s are not 30");
    assert_eq!(shown(&*bed.view().await, 1), "draining");
    bed.wait(2 * SECOND).await;
    assert_eq!(bits(&bed, 1), 0);
    assert_eq!(shown(&*bed.view().await, 1), "gone");
    bed.wait(5 * SECOND).await;
    assert_eq!(slots(&bed, 1), (0, 0), "what it had is told that it is over");
    // It is asked back while its process lives.
    bed.claims("docker", &[told(1, Healthy), told(2, Healthy)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn drain_begins_anew_with_the_agent() {
    use BackendState::{Draining, Healthy};
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    bed.claims("docker", &[told(1, Healthy), told(2, Healthy)]).await;
    bed.wait(100 * SECOND).await;
    let claims = [told(1, Draining), told(2, Healthy)];
    bed.claims("docker", &claims).await;
    bed.wait(20 * SECOND).await;
    let bed = Bed::new(bed.kill().await);
    bed.claims("file", &[]).await;
    bed.claims("docker", &claims).await;
    bed.wait(29 * SECOND).await;
    assert_eq!(bits(&bed, 1), TAKES_OLD | TAKES_OLD_DATAGRAMS);
    bed.wait(2 * SECOND).await;
    assert_eq!(bits(&bed, 1), 0);
}

#[tokio::test(start_paused = true)]
async fn frozen_takes_nothing_new_although_it_has_no_probe() {
    use BackendState::{Healthy, Unhealthy};
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    bed.claims("docker", &[told(1, Healthy), told(2, Healthy)]).await;
    bed.wait(SECOND).await;
    bed.claims("docker", &[told(1, Unhealthy), told(2, Healthy)]).await;
    bed.wait(SECOND).await;
    assert_eq!((bed.served(1), bits(&bed, 1)), (addresses(&[2]), TAKES_OLD));
    bed.claims("docker", &[told(1, Unhealthy), told(2, Unhealthy)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[]), "panic does not wake up the frozen");
    bed.claims("docker", &[told(1, Healthy), told(2, Healthy)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn who_is_unhealthy_for_longer_than_its_grace_is_gone_until_it_passes() {
    let graced = |id| {
        let claim = probed(id);
        let unhealthy_grace_seconds = Some(seconds(60));
        let wishes = Wishes { unhealthy_grace_seconds, ..(*claim.wishes).clone() };
        Claim { wishes: Arc::new(wishes), ..claim }
    };
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &[graced(1), graced(2)]).await;
    bed.claims("file", &[]).await;
    bed.wait(SECOND).await;
    tell(&bed, 1, Healthy).await;
    tell(&bed, 2, Healthy).await;
    tell(&bed, 1, Unhealthy).await;
    assert_eq!(bits(&bed, 1), TAKES_OLD);
    bed.wait(57 * SECOND).await;
    assert_eq!(bits(&bed, 1), TAKES_OLD);
    bed.wait(3 * SECOND).await;
    assert_eq!(bits(&bed, 1), 0);
    assert_eq!(shown(&*bed.view().await, 1), "gone");
    let followed: usize = bed.targets.borrow().iter().map(|group| group.len()).sum();
    assert_eq!(followed, 2, "it is probed all the same");
    tell(&bed, 1, Healthy).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(bits(&bed, 1) & TAKES_NEW, TAKES_NEW);
}

#[tokio::test(start_paused = true)]
async fn slow_start_moves_slots_step_by_step() {
    let slow = |id| {
        let claim = probed(id);
        let slow_start_seconds = Some(seconds(90));
        let ring_size = container(1, 1).wishes.ring_size.clone();
        let wishes = Wishes { slow_start_seconds, ring_size, ..(*claim.wishes).clone() };
        Claim { wishes: Arc::new(wishes), ..claim }
    };
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &[slow(1), slow(2), slow(3)]).await;
    bed.claims("file", &[]).await;
    bed.wait(SECOND).await;
    tell(&bed, 1, Healthy).await;
    bed.wait(200 * SECOND).await;
    assert_eq!(slots(&bed, 1), (1021, 0), "alone it has everything");
    bed.take_log();
    tell(&bed, 2, Healthy).await;
    bed.wait(3 * SECOND).await;
    tell(&bed, 3, Healthy).await;
    let mut seen = BTreeMap::new();
    for second in 0..120 {
        let (has, keeps) = slots(&bed, 2);
        assert_eq!(keeps, 0, "only others lose slots");
        seen.insert(has, second);
        bed.wait(SECOND).await;
    }
    let shares: Vec<usize> = seen.keys().copied().collect();
    assert!(shares.len() <= 12, "{seen:?}");
    assert!(shares[0] < 100 && *shares.last().expect("some") >= 339, "{seen:?}");
    let (first, others) = (slots(&bed, 1), [slots(&bed, 2).0, slots(&bed, 3).0]);
    assert_eq!(first.0 + others[0] + others[1], 1021);
    assert!(first.0 + 2 >= 340 && first.0 <= 342, "{first:?}");
    // One ring per step for both, beside those of their coming and of slots that come to rest.
    let rings = bed.take_log().into_iter();
    let rings = rings.filter(|action| matches!(action, Action::PublishRing { .. })).count();
    assert!(rings <= 14, "{rings} rings");
}

/// A static backend at port 1, whose service drains for 30 seconds.
fn listed(id: u8) -> Claim {
    let claim = entry(1, id);
    let wishes = Wishes { drain_seconds: Some(seconds(30)), ..(*claim.wishes).clone() };
    Claim { wishes: Arc::new(wishes), ..claim }
}

#[tokio::test(start_paused = true)]
async fn who_is_taken_out_of_the_file_drains() {
    const DRAINS: u8 = TAKES_OLD | TAKES_OLD_DATAGRAMS;
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &[]).await;
    bed.claims("file", &[listed(1), listed(2), listed(3)]).await;
    bed.wait(300 * SECOND).await;
    let before = slots(&bed, 1);
    bed.claims("file", &[listed(2), listed(3)]).await;
    bed.settle().await;
    assert_eq!((bits(&bed, 1), bed.served(1)), (DRAINS, addresses(&[2, 3])));
    let view = bed.view().await;
    let reason = view.backends.iter().find(|it| it.address == address(1));
    let reason = reason.and_then(|it| it.state_reason.clone()).unwrap_or_default();
    assert!(reason.starts_with("no longer in the file, "), "{reason}");
    bed.wait(20 * SECOND).await;
    assert_eq!(slots(&bed, 1), (0, before.0), "its flows stay its own");
    // Others are claimed meanwhile, the agent is killed, and while none runs the file changes again.
    bed.claims("docker", &[container(2, 9)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bits(&bed, 1), DRAINS);
    let bed = Bed::new(bed.kill().await);
    bed.claims("docker", &[container(2, 9)]).await;
    bed.claims("file", &[listed(2)]).await;
    bed.wait(29 * SECOND).await;
    assert_eq!((bits(&bed, 1), bits(&bed, 3)), (DRAINS, DRAINS));
    // One is written again, the other one's time is over.
    bed.claims("file", &[listed(2), listed(3)]).await;
    bed.wait(2 * SECOND).await;
    assert_eq!((bits(&bed, 1), bed.served(1)), (0, addresses(&[2, 3])));
    bed.wait(5 * SECOND).await;
    assert_eq!(shown(&*bed.view().await, 1), "none");
    // With its service goes everybody.
    bed.claims("file", &[]).await;
    bed.settle().await;
    assert_eq!((bits(&bed, 2), bits(&bed, 3)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_swaps_all_its_backends_refuses_nobody() {
    let bed = Bed::new(KernelState::default());
    bed.claims("docker", &[]).await;
    bed.claims("file", &[listed(1), listed(2)]).await;
    bed.wait(300 * SECOND).await;
    bed.take_log();
    bed.claims("file", &[listed(3), listed(4)]).await;
    bed.settle().await;
    assert_eq!(bed.served(1), addresses(&[3, 4]));
    let log = bed.take_log();
    let at = |is_it: fn(&Action) -> bool| log.iter().position(is_it).expect("it was done");
    let published = at(|action| matches!(action, Action::PublishRing { .. }));
    let restricted = at(|action| matches!(action, Action::SetBackendState { .. }));
    assert!(published < restricted, "{log:#?}");
}
