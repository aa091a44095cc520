//! Large nodes. Times are printed, not asserted: `cargo test --release scale -- --nocapture`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use lb_common::abi::DEFAULT_RING_SLOTS;

use super::Node;
use crate::model::{
    Backend, BackendPath, BackendState, FrontendAddress, Ports, Protocol, ReplyFacts, Service,
    ServiceName, Snapshot, WaysIn,
};

fn large_service(index: u16, backends: u16) -> Service {
    let [high, low] = index.to_be_bytes();
    let backend = |place: u16| Backend {
        place: format!("{place:04}"),
        instance: format!("{index:032x}{place:032x}@1700000000000"),
        display_name: format!("service-{index}-{place}"),
        address: SocketAddr::from(([10, high, low, u8::try_from(place % 256).unwrap()], 8080)),
        weight: 100,
        path: BackendPath::Local { ifindex: 10 + u32::from(index) * 16 + u32::from(place) },
        state: BackendState::Healthy,
        started_at_ms: 1,
        reported: None,
        asked_to_end: None,
        network: None,
        replies: ReplyFacts { ways_in: WaysIn::OnlyOurs, only_answers: false },
    };
    let vip = Ipv4Addr::new(192, 0, 2, 1).into();
    Service {
        name: ServiceName(format!("compose/project/service-{index}:8080").into()),
        frontends: [FrontendAddress {
            vip,
            protocol: Protocol::Tcp,
            ports: Ports::one(1000 + index).expect("a port"),
        }]
        .into(),
        backends: (0..backends).map(backend).collect(),
        policy: Arc::default(),
        exclusive: [].into(),
    }
}

#[test]
fn a_thousand_services_with_ten_thousand_backends() {
    let mut node = Node::new(DEFAULT_RING_SLOTS);
    let mut snapshot = Snapshot::default();
    for index in 0..1000 {
        let service = large_service(index, 10);
        snapshot.services.insert(service.name.clone(), service.into());
    }
    let begin = Instant::now();
    let plan = node.planner.plan(&node.kernel, &snapshot, &node.sight());
    println!("plan from nothing: {:?}, {} actions", begin.elapsed(), plan.actions.len());
    assert_eq!(plan.refusals, []);
    let begin = Instant::now();
    let outcome = node.settle(&snapshot);
    println!("reconcile from nothing: {:?}", begin.elapsed());
    assert_eq!(outcome.refusals, []);
    assert_eq!((node.kernel.backends.len(), node.kernel.rings.len()), (10_000, 1000));

    let begin = Instant::now();
    assert_eq!(node.settle(&snapshot).done, 0);
    println!("nothing to do: {:?}", begin.elapsed());

    let changed = snapshot.services.values_mut().nth(500).unwrap();
    Arc::make_mut(changed).backends.remove(3);
    let begin = Instant::now();
    let plan = node.planner.plan(&node.kernel, &snapshot, &node.sight());
    println!("one container gone: {:?}", begin.elapsed());
    assert_eq!(plan.actions.len(), 2);

    node.restart();
    let begin = Instant::now();
    let plan = node.planner.plan(&node.kernel, &snapshot, &node.sight());
    println!("first plan after a restart: {:?}", begin.elapsed());
    assert_eq!(plan.actions.len(), 1);
}

#[test]
fn the_largest_service() {
    let mut node = Node::new(DEFAULT_RING_SLOTS);
    let service = large_service(1, 1310);
    let snapshot = Snapshot {
        services: [(service.name.clone(), service.into())].into(),
        ..Snapshot::default()
    };
    let begin = Instant::now();
    assert_eq!(node.settle(&snapshot).refusals, []);
    println!("1,310 backends: {:?}", begin.elapsed());
    assert_eq!(node.kernel.rings.values().next().unwrap().slots.len(), 131_071);
}

#[test]
fn numbers_run_out_for_the_newest_only() {
    let mut node = Node::new(64 * 1024 * 1024);
    let mut snapshot = Snapshot::default();
    for index in 0..51 {
        let service = large_service(index, 1300);
        snapshot.services.insert(service.name.clone(), service.into());
    }
    let outcome = node.settle(&snapshot);
    assert_eq!(node.kernel.backends.len(), 65_536);
    let refused: Vec<&str> = outcome.refusals.iter().map(|it| it.object.as_str()).collect();
    assert_eq!(refused, ["service `compose/project/service-9:8080`"]);
}
