//! Slots on their way from one backend to another, through every state, with the agent started anew
//! in each of them.

use insta::assert_snapshot;
use lb_common::abi::{SLOT_MOVING, Slot};

use super::{Node, backend, frontend, service, snapshot, tick_at};
use crate::{
    model::{
        Backend,
        BackendState::{self, Draining, Healthy},
        Protocol, Snapshot,
    },
    plan::Action,
};

const POOL: u32 = 16 * 1021;

fn in_state(first: BackendState, protocol: Protocol) -> Snapshot {
    let backends = vec![Backend { state: first, ..backend("1", 1, 1) }, backend("2", 2, 2)];
    let mut web = service("web", &[], backends);
    let mut frontend = frontend(80);
    frontend.protocol = protocol;
    web.frontends.insert(frontend);
    snapshot(vec![web])
}

fn tcp(first: BackendState) -> Snapshot {
    in_state(first, Protocol::Tcp)
}

/// One step, and another by a successor, which finds nothing left to do and waits for what moves.
fn step(node: &mut Node, snapshot: &Snapshot) -> String {
    let shown = node.step(snapshot);
    node.restart();
    // What its predecessor may have freed rests.
    node.planner.adopt(&node.kernel, 0);
    let again = node.step(snapshot);
    assert!(again.lines().all(|line| line.starts_with("again")), "{again}");
    let mut slots = node.kernel.rings.values().flat_map(|ring| &ring.slots);
    assert!(slots.all(|slot| slot.state() != SLOT_MOVING) || !again.is_empty());
    shown
}

#[test]
fn a_drained_backend_keeps_its_flows_until_they_are_over() {
    let mut node = Node::new(POOL);
    node.rest(&tcp(Healthy), 60_000);
    let draining = tcp(Draining);
    assert_snapshot!(step(&mut node, &draining), @"
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 1021; 510 moving
    backend 1: takes old
    again at 8522160 ms
    ");
    let moved: Vec<Slot> = node.kernel.rings[&0].slots.iter().copied().collect();
    let moving = moved.iter().filter(|slot| slot.state() == SLOT_MOVING);
    assert!(moving.clone().count() > 400);
    assert!(moving.clone().all(|slot| (slot.cur(), slot.old()) == (2, 1)));
    assert!(moved.iter().all(|slot| slot.cur() == 2));

    // Its last recorded flow keeps its slot from becoming plain.
    let last = moved.iter().position(|slot| slot.state() == SLOT_MOVING).unwrap();
    node.others.insert((0, u32::try_from(last).unwrap()));
    node.now_ms += 8_460_000;
    assert_snapshot!(step(&mut node, &draining), @"again at 8522148 ms");
    node.now_ms += 3_000;
    assert_snapshot!(step(&mut node, &draining), @"ring 0: publish 1021 slots at 0, epoch 3: 2 x 1021; 510 settled");
    node.now_ms += 4_000;
    assert_snapshot!(step(&mut node, &draining), @"ring 0: publish 1021 slots at 1021, epoch 4: 2 x 1021; 1 settled");
    node.now_ms += 3_600_000;
    assert_snapshot!(step(&mut node, &draining), @"");
    node.others.clear();
    node.now_ms += 5_000;
    assert_snapshot!(step(&mut node, &draining), @"ring 0: publish 1021 slots at 0, epoch 5: 2 x 1021");
}

#[test]
fn a_slot_of_a_gone_backend_waits_for_a_replacement() {
    let mut node = Node::new(POOL);
    node.rest(&tcp(Healthy), 60_000);
    let gone = snapshot(vec![service("web", &[80], vec![backend("2", 2, 2)])]);
    assert_snapshot!(step(&mut node, &gone), @"
    backend 1: takes nothing
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 1021; 510 moving
    again at 107245 ms
    ");
    node.now_ms += 30_000;
    // Nobody has moved twice: the replacement takes the slots that its predecessor had.
    let replaced =
        snapshot(vec![service("web", &[80], vec![backend("1", 3, 3), backend("2", 2, 2)])]);
    assert_snapshot!(step(&mut node, &replaced), @"
    veth 3: attach
    backend 3: write #ccabf939 10.0.0.3:8080 by veth 3, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 0, epoch 3: 2 x 511, 3 x 510; 510 moving
    backend 1: clear
    again at 141540 ms
    ");
    node.now_ms += 61_000;
    assert_snapshot!(step(&mut node, &replaced), @"
    ring 0: publish 1021 slots at 1021, epoch 4: 2 x 511, 3 x 510; 510 settled
    again at 8490957 ms
    ");
    node.now_ms += 5_000;
    assert_snapshot!(step(&mut node, &replaced), @"
    ring 0: publish 1021 slots at 0, epoch 5: 2 x 511, 3 x 510
    again at 8551957 ms
    ");
}

#[test]
fn the_owner_of_the_unrecorded_stays_whoever_takes_new_flows() {
    let mut node = Node::new(POOL);
    let all = |states: [BackendState; 3]| {
        let one = |(state, host): (BackendState, u8)| Backend {
            state,
            ..backend(&host.to_string(), u64::from(host), host)
        };
        snapshot(vec![service("web", &[80], states.into_iter().zip(1..).map(one).collect())])
    };
    node.rest(&all([Healthy, Draining, Draining]), 60_000);
    for states in [[Draining, Healthy, Draining], [Draining, Draining, Healthy]] {
        node.now_ms += 1_000;
        step(&mut node, &all(states));
        assert!(node.kernel.rings[&0].slots.iter().all(|slot| slot.old() == 1));
    }
    // Back where it was: settled, and not plain, since the flows of the others are recorded.
    node.now_ms += 1_000;
    assert_snapshot!(step(&mut node, &all([Healthy, Draining, Draining])), @"
    backend 1: takes new and old
    ring 0: publish 1021 slots at 1021, epoch 4: 1 x 1021; 1021 settled
    backend 3: takes old
    ");
}

#[test]
fn a_refused_record_postpones_settling_also_after_a_restart() {
    let mut node = Node::new(POOL);
    node.rest(&tcp(Healthy), 60_000);
    let draining = tcp(Draining);
    node.step(&draining);
    node.now_ms += 8_000_000;
    node.refused_ticks.insert(0, tick_at(node.now_ms));
    node.now_ms += 463_000;
    assert_snapshot!(step(&mut node, &draining), @"again at 16522377 ms");
    node.now_ms += 8_002_000;
    assert_snapshot!(step(&mut node, &draining), @"ring 0: publish 1021 slots at 0, epoch 3: 2 x 1021; 510 settled");
}

#[test]
fn an_unhealthy_backend_keeps_connections_and_no_datagrams() {
    for (protocol, ring, is_kept) in [(Protocol::Tcp, 0, true), (Protocol::Udp, 1, false)] {
        let mut node = Node::new(POOL);
        node.rest(&in_state(Healthy, protocol), 60_000);
        node.step(&in_state(BackendState::Unhealthy, protocol));
        let slots = &node.kernel.rings[&ring].slots;
        assert_eq!(slots.iter().any(|slot| slot.old() == 1), is_kept, "{protocol}");
        assert!(slots.iter().any(|slot| slot.state() == SLOT_MOVING), "{protocol}");
        // The numbers of owners are not given back.
        node.rest(&snapshot(vec![]), 120_000);
        assert_eq!(node.kernel.backends.len(), 0);
    }
}

#[test]
fn states_are_stored_before_rings() {
    let mut node = Node::new(POOL);
    node.rest(&tcp(Healthy), 60_000);
    let plan = node.planner.plan(&node.kernel, &tcp(BackendState::Disabled), &node.sight());
    let [Action::SetBackendState { number: 1, state: 0 }, Action::PublishRing { content, .. }] =
        &plan.actions[..]
    else {
        panic!("{plan}")
    };
    // Gone already: it owns nothing.
    assert!(content.slots.iter().all(|slot| slot.old() == 0));
}
