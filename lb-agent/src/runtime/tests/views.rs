//! Views and the tables of socket calls, and what is more urgent than they are.

use super::{
    bed::{Bed, addresses, container},
    *,
};
use crate::{
    runtime::Event,
    sockets::{Clients, ContainerClient, SocketTables},
};

/// Two containers of one service, and a way to tell of deaths while a view is being made.
async fn two() -> (Bed, impl Fn(&'static str) + Send + Clone + 'static) {
    let bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    bed.claims("docker", &[container(1, 1), container(1, 2)]).await;
    bed.wait(10 * SECOND).await;
    let events = bed.events.clone();
    let die = move |instance: &'static str| {
        let instance = instance.to_owned();
        let event = Event::from(ProviderEvent::Gone { provider: "docker", instance });
        events.try_send(event).expect("room");
    };
    (bed, die)
}

#[tokio::test(start_paused = true)]
async fn death_goes_before_a_view_that_is_being_made() {
    let (bed, die) = two().await;
    let mut is_first = true;
    bed.node().on_view = Some(Box::new(move || {
        if std::mem::take(&mut is_first) {
            die("c1");
        }
    }));
    let view = bed.view().await;
    assert_eq!(bed.served(1), addresses(&[2]));
    let first = view.backends.iter().find(|backend| backend.address == address(1));
    let state = first.map_or_else(|| "none".to_owned(), |backend| backend.state.to_string());
    assert_ne!(state, "healthy", "the view is of what is in force");
}

#[tokio::test(start_paused = true)]
async fn deaths_without_end_do_not_keep_a_view_back() {
    let (bed, die) = two().await;
    bed.node().on_view = Some(Box::new(move || die("another")));
    let view = bed.view().await;
    assert_eq!(view.backends.len(), 2);
    // The same for the one that nobody has asked for.
    bed.gone("c1").await;
    bed.wait(5 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[2]));
}

#[tokio::test(start_paused = true)]
async fn calls_are_told_what_a_plan_leads_to_at_once_and_the_rest_at_rest() {
    let bed = running().await;
    let told = || {
        let tables = &bed.node().socket_tables;
        (tables.scopes.len(), tables.kept.is_all)
    };
    assert_eq!(told(), (3, false));
    bed.claims("docker", &[&docker_claims()[..], &[container(2, 4)]].concat()).await;
    bed.settle().await;
    assert_eq!(bed.served(2), addresses(&[3, 4]));
    assert_eq!(told(), (1, true));
    bed.wait(Duration::from_millis(40)).await;
    assert_eq!(told(), (1, true));
    bed.wait(Duration::from_millis(20)).await;
    assert_eq!(told(), (3, false));
}

/// Whoever stops an agent in between leaves tables that say all.
#[tokio::test(start_paused = true)]
async fn tables_that_wait_are_made_in_the_end() {
    let bed = running().await;
    bed.claims("docker", &[&docker_claims()[..], &[container(2, 4)]].concat()).await;
    bed.settle().await;
    assert!(bed.node().socket_tables.kept.is_all);
    bed.stop.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(!bed.node().socket_tables.kept.is_all);
    assert_eq!(bed.node().socket_tables.scopes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_named_when_the_tables_know_it() {
    let bed = running().await;
    let client = ContainerClient { name: "shop".to_owned(), cookie: 7, ..Default::default() };
    let containers = [("1234".to_owned(), client)].into();
    let clients = Clients { node: 1, containers, ..Clients::default() };
    bed.events.send(Event::Clients(clients)).await.expect("the runtime runs");
    // A plan that comes first leads it nowhere.
    bed.claims("docker", &[&docker_claims()[..], &[container(2, 4)]].concat()).await;
    let view = bed.view().await;
    assert!(view.callers.callers.is_empty() && view.status.sockets.clients.is_empty());
    assert!(bed.node().socket_tables.clients.is_empty());
    bed.wait(Duration::from_millis(10)).await;
    let view = bed.view().await;
    assert_eq!(view.status.sockets.clients, ["shop"]);
    assert_eq!(view.callers.callers.len(), 1);
    assert_eq!(bed.node().socket_tables.clients.len(), 2);
}

/// Whoever traces need not wait for the tables, but calls must be balanced.
#[tokio::test(start_paused = true)]
async fn a_caller_is_found_as_soon_as_it_is_told() {
    let bed = running().await;
    let unknown = bed.caller("shop").await.expect_err("nobody was told of");
    assert!(unknown.contains("none, and others that are not known yet"), "{unknown}");
    let client = ContainerClient { name: "shop".to_owned(), cookie: 7, ..Default::default() };
    let containers = [("1234".to_owned(), client)].into();
    let clients = Clients { node: 1, containers, ..Clients::default() };
    bed.events.send(Event::Clients(clients)).await.expect("the runtime runs");
    bed.settle().await;
    assert_eq!((bed.caller("shop").await, bed.caller("node").await), (Ok(7), Ok(1)));
    let unknown = bed.caller("web").await.expect_err("there is none");
    assert!(unknown.contains("no container `web` runs on this node, where there are shop;"));
    bed.node().has_no_calls = true;
    let off = bed.caller("shop").await.expect_err("nobody balances calls");
    assert_eq!(off, "socket calls are not balanced: `enabled` in [cgroup] is false");
}

#[tokio::test(start_paused = true)]
async fn tables_that_nobody_reads_are_cleared_once_and_not_made() {
    let bed = running().await;
    assert_eq!(bed.node().socket_tables.scopes.len(), 3);
    bed.node().has_no_calls = true;
    let before = bed.node().socket_tables_set;
    bed.claims("docker", &[&docker_claims()[..], &[container(2, 4)]].concat()).await;
    bed.wait(Duration::from_millis(60)).await;
    assert_eq!(bed.served(2), addresses(&[3, 4]));
    let is_empty = |bed: &Bed| bed.node().socket_tables == SocketTables::default();
    assert!(is_empty(&bed) && bed.node().socket_tables_set == before + 1);
    // Neither another plan nor a look at everything makes them.
    bed.claims("docker", &docker_claims()).await;
    bed.wait(Duration::from_mins(3)).await;
    assert_eq!(bed.served(2), addresses(&[3]));
    assert!(is_empty(&bed) && bed.node().socket_tables_set == before + 1);
}

#[tokio::test(start_paused = true)]
async fn tables_follow_calls_that_are_lost_and_found() {
    let bed = running().await;
    for is_lost in [true, false, true, false] {
        bed.node().finds_no_calls = Some(is_lost);
        bed.wait(Duration::from_secs(11)).await;
        let services = if is_lost { 0 } else { 3 };
        assert_eq!(bed.node().socket_tables.scopes.len(), services, "{is_lost}");
        assert_eq!(bed.view().await.status.sockets.is_on(), !is_lost);
    }
}
