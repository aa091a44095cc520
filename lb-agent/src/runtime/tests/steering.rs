//! Orders of operators, down to what the kernel holds, and the events that tell of them.

use super::{
    SECOND,
    bed::{Bed, addresses, container, entry},
};
use crate::{
    api::{
        steer::{Order, SteerError},
        types::View,
    },
    model::BackendState,
    plan::{Action, KernelState},
    steering::Store,
};

/// State of a backend, why, and its weight.
fn shown(view: &View, name: &str) -> String {
    let backend = view.backends.iter().find(|backend| backend.display_name == name);
    let backend = backend.unwrap_or_else(|| panic!("no {name}"));
    let reason = backend.state_reason.as_deref().unwrap_or("-");
    format!("{}, {}, weight {}", backend.state, reason, backend.weight)
}

async fn with_two(store: Option<Store>) -> Bed {
    let bed = Bed::with_store(KernelState::default(), store);
    bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
    bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
    bed.wait(100 * SECOND).await;
    bed
}

fn what(bed: &Bed) -> Vec<String> {
    let line = |event: crate::api::events::EventView| {
        let backend = event.backend.unwrap_or_default();
        format!("{} {backend} {} ({})", event.object, event.what, event.why.unwrap_or_default())
    };
    bed.journal.after(0).into_iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn orders_are_in_force_when_they_are_answered() {
    let bed = with_two(None).await;
    let known = what(&bed).len();
    let answer = bed.steer("shop-s1-1", Order::Drain).await.expect("it is there");
    assert_eq!(answer.done, ["shop-s1-1 of compose/shop/s1:80: drain"]);
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(
        shown(&*bed.view().await, "shop-s1-1"),
        "draining, drained by root, 300 s left, weight 100"
    );
    bed.steer("shop-s1-1", Order::Undrain).await.expect("it is there");
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    bed.steer("10.0.0.2:80", Order::Disable).await.expect("it is there");
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1]));
    assert_eq!(shown(&*bed.view().await, "shop-s1-2"), "disabled, disabled by root, weight 100");
    bed.steer("10.0.0.2", Order::Enable).await.expect("it is there");
    bed.steer("shop-s1-1", Order::Weight { weight: Some(0) }).await.expect("it is there");
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    bed.steer("shop-s1-1", Order::Weight { weight: None }).await.expect("it is there");
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    let error = bed.steer("shop-s1-9", Order::Drain).await.expect_err("nobody");
    assert_eq!(
        error.to_string(),
        "there is no backend `shop-s1-9`; `lbctl backend list` shows all"
    );
    let service = "compose/shop/s1:80";
    assert_eq!(
        what(&bed)[known..],
        [
            format!("{service} shop-s1-1 told: drain (root says so)"),
            format!("{service} shop-s1-1 healthy -> draining (drained by root)"),
            format!("{service} shop-s1-1 told: serve (root says so)"),
            format!("{service} shop-s1-1 draining -> healthy ()"),
            format!("{service} shop-s1-2 told: disable (root says so)"),
            format!("{service} shop-s1-2 healthy -> disabled (disabled by root)"),
            format!("{service} shop-s1-2 told: serve (root says so)"),
            format!("{service} shop-s1-2 disabled -> healthy ()"),
            format!("{service} shop-s1-1 told: weight 0 (root says so)"),
            format!("{service} shop-s1-1 weight 100 -> 0 ()"),
            format!("{service} shop-s1-1 told: weight 100, as asked for (root says so)"),
            format!("{service} shop-s1-1 weight 0 -> 100 ()"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn orders_outlive_the_agent_and_not_the_backend() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path());
    let bed = with_two(Some(store.clone())).await;
    bed.steer("shop-s1-1", Order::Drain).await.expect("it is there");
    bed.steer("10.0.0.100:80", Order::Disable).await.expect("it is there");
    bed.wait(100 * SECOND).await;
    let kernel = bed.kill().await;
    let bed = Bed::with_store(kernel, Some(store.clone()));
    bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
    // Who is silent, or does not know everything, forgets nobody.
    bed.wait(10 * SECOND).await;
    bed.partial("docker", &[container(1, 2)]).await;
    bed.wait(10 * SECOND).await;
    bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
    bed.wait(10 * SECOND).await;
    assert_eq!((bed.served(1), bed.served(3)), (addresses(&[2]), addresses(&[101])));
    // Another run of the container.
    bed.gone("c1").await;
    let mut again = container(1, 1);
    if let Some(backend) = &mut again.backend {
        backend.instance = "c1-again".to_owned();
    }
    bed.claims("docker", &[again, container(1, 2)]).await;
    bed.claims("file", &[entry(3, 101)]).await;
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.served(3), addresses(&[100, 101]), "it was away, and its order went with it");
    assert_eq!(store.load().map(|steering| steering.is_empty()), Ok(true));
}

/// Between two networks, or two configurations of labels, nobody asks for a container that lives.
#[tokio::test(start_paused = true)]
async fn an_order_outlives_a_while_without_claims() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path());
    let bed = with_two(Some(store.clone())).await;
    let both = [container(1, 1), container(1, 2)];
    let away = |seconds| {
        let (bed, both) = (&bed, &both);
        async move {
            bed.claims("docker", &both[1..]).await;
            bed.wait(seconds * SECOND).await;
            bed.claims("docker", both).await;
            bed.wait(SECOND).await;
            bed.served(1)
        }
    };
    bed.steer("shop-s1-1", Order::Disable).await.expect("it is there");
    assert_eq!(away(500).await, addresses(&[2]));
    assert_eq!(away(500).await, addresses(&[2]), "it has been there in between");
    assert_eq!(away(700).await, addresses(&[1, 2]), "for too long");
    bed.steer("shop-s1-1", Order::Disable).await.expect("it is there");
    bed.claims("docker", &both[1..]).await;
    bed.wait(SECOND).await;
    bed.gone("c1").await;
    bed.wait(SECOND).await;
    assert_eq!(store.load().map(|steering| steering.is_empty()), Ok(true), "it died");
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_a_change_of_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = with_two(Some(Store::at(directory.path()))).await;
    bed.steer("shop-s1-1", Order::Drain).await.expect("it is there");
    bed.wait(SECOND).await;
    let known = what(&bed).len();
    // Another container takes over its name, and its place with that.
    let mut old = container(1, 1);
    let mut new = container(1, 3);
    for (claim, place) in [(&mut old, "web-old"), (&mut new, "1")] {
        let backend = claim.backend.as_mut().expect("it has one");
        backend.place = place.to_owned();
    }
    bed.claims("docker", &[old, container(1, 2), new]).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2, 3]));
    let left = "draining, drained by root, 199 s left, weight 100";
    assert_eq!(shown(&*bed.view().await, "shop-s1-1"), left);
    let came = "compose/shop/s1:80 shop-s1-3 came at 10.0.0.3:80, healthy ()";
    assert_eq!(what(&bed)[known..], [came], "nobody else came or went");
    bed.steer("shop-s1-1", Order::Undrain).await.expect("it is there");
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_in_the_file_can_be_taken_out_and_not_be_kept() {
    let bed = with_two(None).await;
    bed.claims("file", &[entry(3, 101)]).await;
    bed.wait(SECOND).await;
    let name = "10.0.0.100:80";
    let told = shown(&*bed.view().await, name);
    assert!(told.starts_with("draining, no longer in the file, "), "{told}");
    for order in [Order::Undrain, Order::Enable, Order::Weight { weight: Some(7) }] {
        let error = bed.steer(name, order).await.expect_err("it leaves");
        let service = entry(3, 100).service;
        assert_eq!(
            error.to_string(),
            format!(
                "`{name}` of `{service}` is no longer in the file, and drains; write it into the file \
                 again"
            )
        );
    }
    bed.steer(name, Order::Disable).await.expect("it is there");
    bed.wait(SECOND).await;
    let view = bed.view().await;
    let there = view.backends.iter().any(|it| it.display_name == name);
    assert!(!there, "its time is over at once");
    bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.served(3), addresses(&[100, 101]), "the order went with it");
}

#[tokio::test(start_paused = true)]
async fn who_is_told_to_end_can_be_kept() {
    let bed = with_two(None).await;
    let ending = |asked_to_end| {
        let mut ending = container(1, 1);
        if let Some(backend) = &mut ending.backend {
            backend.state = BackendState::Draining;
            backend.asked_to_end = Some(asked_to_end);
        }
        ending
    };
    bed.claims("docker", &[ending(1), container(1, 2)]).await;
    bed.wait(SECOND).await;
    assert_eq!(
        shown(&*bed.view().await, "shop-s1-1"),
        "draining, told to end, 299 s left, weight 100"
    );
    bed.steer("shop-s1-1", Order::Undrain).await.expect("it is there");
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
    assert_eq!(
        shown(&*bed.view().await, "shop-s1-1"),
        "healthy, told to end, kept by root, weight 100"
    );
    // Asked again: that was not meant.
    bed.claims("docker", &[ending(2), container(1, 2)]).await;
    bed.wait(SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
    assert_eq!(
        shown(&*bed.view().await, "shop-s1-1"),
        "draining, told to end, 299 s left, weight 100"
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_kept_is_in_force_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = with_two(Some(Store::at(&directory.path().join("nowhere")))).await;
    let answer = bed.steer("shop-s1-1", Order::Drain).await.expect("it is there");
    let warning = answer.warning.expect("it is not kept");
    assert!(warning.starts_with("cannot be kept in `state_path`"), "{warning}");
    assert_eq!(bed.served(1), addresses(&[2]));
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_is_not_told_as_done() {
    let bed = with_two(None).await;
    bed.refuse(|action| matches!(action, Action::SetBackendState { .. }));
    let answer = bed.steer("shop-s1-1", Order::Drain).await.expect("it is there");
    assert_eq!(answer.done, ["shop-s1-1 of compose/shop/s1:80: drain"]);
    let pending = answer.pending.expect("the kernel refuses");
    assert_eq!(
        pending,
        "backend 10.0.0.1:80 of service `compose/shop/s1:80`: try: the fake refuses"
    );
    // What concerns others is no matter of this order.
    let answer = bed.steer("10.0.0.100", Order::Weight { weight: Some(7) }).await.expect("there");
    assert_eq!(answer.pending, None);
    bed.node().refuse = None;
    bed.wait(60 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]), "tried again");
    bed.node().is_unreadable = true;
    bed.refuse(|_| true);
    let answer = bed.steer("shop-s1-1", Order::Undrain).await.expect("it is there");
    assert!(answer.pending.is_some(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn orders_wait_until_it_is_known_what_there_is() {
    let bed = with_two(None).await;
    let kernel = bed.kill().await;
    for is_speaking in [true, false] {
        let bed = Bed::new(kernel.clone());
        let (taken, answer) = bed.give("shop-s1-1", Order::Drain).await;
        bed.wait(2 * SECOND).await;
        if is_speaking {
            bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
            bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
            taken.await.expect("taken");
            let answer = answer.await.expect("an answer").expect("it is there");
            assert_eq!((answer.done.len(), answer.pending), (1, None));
            assert_eq!(bed.served(1), addresses(&[2]));
        } else {
            bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
            taken.await.expect("taken");
            let error = answer.await.expect("an answer").expect_err("not known");
            assert_eq!(
                error,
                SteerError::NotKnown(
                    "there is no backend `shop-s1-1`; `lbctl backend list` shows all; not said yet \
                     what there is: docker"
                        .to_owned()
                )
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_giver_has_given_up_is_none() {
    let bed = with_two(None).await;
    let bed = Bed::new(bed.kill().await);
    drop(bed.give("shop-s1-1", Order::Drain).await);
    bed.claims("file", &[entry(3, 100), entry(3, 101)]).await;
    bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
    bed.wait(60 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_happens_and_why() {
    let bed = with_two(None).await;
    let known = what(&bed).len();
    bed.gone("c1").await;
    bed.claims("docker", &[container(1, 2)]).await;
    let mut intruder = container(1, 9);
    intruder.service.0 = "docker/intruder".into();
    intruder.since_ms = 2;
    bed.wait(SECOND).await;
    bed.claims("docker", &[container(1, 2), intruder]).await;
    bed.wait(SECOND).await;
    let view = bed.view().await;
    assert_eq!(view.conflicts.len(), 1);
    assert_eq!(&*view.conflicts[0].contender.0, "docker/intruder");
    assert_eq!(&*view.conflicts[0].owner.0, "compose/shop/s1:80");
    assert!(view.conflicts[0].since_ms > 0);
    let trouble = Some("the daemon is away".to_owned());
    let away = crate::provider::ProviderEvent::Status { provider: "docker", trouble };
    bed.send(away).await;
    bed.wait(SECOND).await;
    bed.claims("docker", &[container(1, 2)]).await;
    bed.wait(SECOND).await;
    let told = what(&bed)[known..].join("\n");
    insta::assert_snapshot!(told, @"
    compose/shop/s1:80 shop-s1-1 went (its process has ended)
    docker/intruder  conflict: wants tcp://192.0.2.10:1, but compose/shop/s1:80 has tcp://192.0.2.10:1 ()
    container `shop-s1-9`  not granted (wants tcp://192.0.2.10:1 for the service `docker/intruder`, but that belongs to the service `compose/shop/s1:80`, by the older claim of container `shop-s1-2`; use another front port or VIP, or remove one of the two)
    docker  in trouble (the daemon is away)
    docker/intruder  no longer in conflict about tcp://192.0.2.10:1 ()
    container `shop-s1-9`  no longer refused ()
    ");
}
