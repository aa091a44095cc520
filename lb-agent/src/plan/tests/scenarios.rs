//! What happens to a node, step by step, as an operator would read it.

use insta::assert_snapshot;
use lb_common::abi::{Slot, TAKES_NEW};

use super::{Node, backend, frontend, service, snapshot};
use crate::{
    model::{Backend, BackendPath, BackendState, Protocol, Snapshot},
    plan::{Kernel as _, KernelBackend, KernelRing},
};

const POOL: u32 = 16 * 1021;

fn web(backends: Vec<Backend>) -> Snapshot {
    snapshot(vec![service("web", &[80], backends)])
}

fn two() -> Snapshot {
    web(vec![backend("1", 1, 1), backend("2", 2, 2)])
}

#[test]
fn a_service_is_made_from_the_inside_out() {
    let mut node = Node::new(POOL);
    assert_snapshot!(node.step(&two()), @"
    veth 1: attach
    veth 2: attach
    service 0: write #8898fe82
    backend 1: write #ea183219 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old
    backend 2: write #ec48f769 10.0.0.2:8080 by veth 2, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 0, epoch 1: 1 x 510, 2 x 511
    vip 192.0.2.10: put
    frontend tcp://192.0.2.10:80: put service 0
    ");
    assert_snapshot!(node.kernel, @"
    flags 0x0
    vip 192.0.2.10
    frontend tcp://192.0.2.10:80 -> service 0
    service 0 #8898fe82
    ring 0: 1021 slots at 0, epoch 1: 1 x 510, 2 x 511
    backend 1: #ea183219 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old
    backend 2: #ec48f769 10.0.0.2:8080 by veth 2, service 0, generation 1, takes new and old
    veth 1: attached
    veth 2: attached
    ");
    assert_eq!(node.step(&two()), "");
}

#[test]
fn death_comes_first_and_numbers_rest() {
    let mut node = Node::new(POOL);
    node.step(&two());
    let one = web(vec![backend("2", 2, 2)]);
    assert_snapshot!(node.step(&one), @"
    backend 1: takes nothing
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 1021; 510 moving
    again at 55098 ms
    ");
    assert_snapshot!(node.step(&one), @"again at 12000 ms");
    node.now_ms += 1999;
    assert_snapshot!(node.step(&one), @"again at 12000 ms");
    node.now_ms += 1;
    assert_snapshot!(node.step(&one), @"
    backend 1: clear
    again at 56024 ms
    ");
    assert_snapshot!(node.step(&one), @"again at 56024 ms");
    assert_snapshot!(node.kernel, @"
    flags 0x0
    vip 192.0.2.10
    frontend tcp://192.0.2.10:80 -> service 0
    service 0 #8898fe82
    ring 0: 1021 slots at 1021, epoch 2: 2 x 1021; 510 moving
    backend 2: #ec48f769 10.0.0.2:8080 by veth 2, service 0, generation 1, takes new and old
    backend 1: free, generation 1
    veth 1: attached
    veth 2: attached
    ");
}

/// Between any two actions of a plan clients come: a SYN whose slot is still of a backend that takes no
/// more new flows would be refused.
#[track_caller]
fn check_nobody_is_refused(node: &mut Node, snapshot: &Snapshot) {
    let plan = node.planner.plan(&node.kernel, snapshot, &node.sight());
    assert!(!plan.actions.is_empty());
    for action in &plan.actions {
        node.kernel.execute(action).unwrap();
        let takes_new =
            |number| node.kernel.backends.get(number).is_some_and(|it| it.state & TAKES_NEW != 0);
        let refused = node.owners().iter().filter(|number| !takes_new(number)).count();
        assert_eq!(refused, 0, "slots after `{action}`");
    }
}

#[test]
fn who_takes_no_more_new_flows_refuses_none() {
    use BackendState::{Draining, Healthy};
    let first = |state, weight| {
        web(vec![Backend { weight, state, ..backend("1", 1, 1) }, backend("2", 2, 2)])
    };
    let mut node = Node::new(POOL);
    node.step(&two());
    for (state, weight) in [(Draining, 100), (Healthy, 0)] {
        check_nobody_is_refused(&mut node, &first(state, weight));
        node.now_ms += 2000;
        check_nobody_is_refused(&mut node, &two());
        node.now_ms += 2000;
    }
}

#[test]
fn the_last_backend_leaves_a_ring_of_nobody() {
    let mut node = Node::new(POOL);
    node.step(&web(vec![backend("1", 1, 1)]));
    assert_snapshot!(node.step(&web(vec![])), @"
    backend 1: takes nothing
    ring 0: publish 1021 slots at 1021, epoch 2: nobody 1021; 1021 moving
    again at 55098 ms
    ");
    assert_snapshot!(node.step(&web(vec![backend("1", 9, 9)])), @"
    veth 9: attach
    backend 2: write #6961ffd6 10.0.0.9:8080 by veth 9, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 2042, epoch 3: 2 x 1021; 1021 moving
    again at 12000 ms
    ");
}

#[test]
fn a_service_is_taken_away_from_the_outside_in() {
    let mut node = Node::new(POOL);
    node.step(&two());
    let nothing = Snapshot::default();
    assert_snapshot!(node.step(&nothing), @"
    backend 1: takes nothing
    backend 2: takes nothing
    frontend tcp://192.0.2.10:80: delete
    vip 192.0.2.10: delete
    ring 0: clear
    ");
    assert_snapshot!(node.step(&nothing), @"again at 12000 ms");
    node.now_ms += 2000;
    assert_snapshot!(node.step(&nothing), @"
    backend 1: clear
    backend 2: clear
    service 0: clear
    again at 8412957 ms
    ");
    assert_snapshot!(node.kernel, @"
    flags 0x0
    backend 1: free, generation 1
    backend 2: free, generation 1
    veth 1: attached
    veth 2: attached
    ");
    // Until the flows of containers that may still live are over.
    node.now_ms = 8_412_957;
    assert_snapshot!(node.step(&nothing), @"
    veth 1: detach
    veth 2: detach
    ");
    assert_eq!(node.step(&nothing), "");
}

#[test]
fn a_service_number_stays_as_long_as_its_backends() {
    let mut node = Node::new(POOL);
    node.step(&two());
    let nothing = Snapshot::default();
    node.settle(&nothing);
    // The store of one state byte was lost.
    node.kernel.backends.update(1, |backend| backend.state = 3);
    node.now_ms += 2000;
    assert_snapshot!(node.step(&nothing), @"
    backend 1: takes nothing
    backend 2: clear
    again at 8412957 ms
    ");
    node.settle(&nothing);
    node.now_ms += 2000;
    assert_snapshot!(node.step(&nothing), @"
    backend 1: clear
    service 0: clear
    again at 8412957 ms
    ");
}

#[test]
fn a_replacement_inherits_its_predecessors_slots() {
    let mut node = Node::new(POOL);
    let others = [backend("2", 2, 2), backend("3", 3, 3)];
    let with = |first| web([&others[..], &[first]].concat());
    node.settle(&with(backend("1", 1, 1)));
    let before = node.owners();
    assert_snapshot!(node.step(&with(backend("1", 4, 4))), @"
    backend 1: takes nothing
    veth 4: attach
    backend 4: write #cafbe7a2 10.0.0.4:8080 by veth 4, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 341, 3 x 340, 4 x 340; 340 moving
    again at 55098 ms
    ");
    let inherited: Vec<u32> = before.iter().map(|it| if *it == 1 { 4 } else { *it }).collect();
    assert_eq!(node.owners(), inherited);
}

#[test]
fn of_two_instances_at_one_place_the_newest_that_takes_flows_has_the_slots() {
    let mut node = Node::new(POOL);
    let old = backend("1", 1, 1);
    let mut new = Backend { state: BackendState::Starting, ..backend("1", 2, 2) };
    node.settle(&web(vec![old.clone(), new.clone()]));
    assert_eq!(node.owners(), vec![1; 1021]);
    new.state = BackendState::Healthy;
    node.settle(&web(vec![old.clone(), new.clone()]));
    assert_eq!(node.owners(), vec![2; 1021]);
    new.state = BackendState::Unhealthy;
    assert_snapshot!(node.step(&web(vec![old, new])), @"
    backend 2: takes old but datagrams
    ring 0: publish 1021 slots at 2042, epoch 3: 1 x 1021; 1021 settled
    ");
}

#[test]
fn states_and_weights_change_in_place() {
    let mut node = Node::new(POOL);
    node.settle(&two());
    let mut second = Backend { state: BackendState::Draining, ..backend("2", 2, 2) };
    assert_snapshot!(node.step(&web(vec![backend("1", 1, 1), second.clone()])), @"
    ring 0: publish 1021 slots at 1021, epoch 2: 1 x 1021; 511 moving
    backend 2: takes old
    again at 8472160 ms
    ");
    second.state = BackendState::Healthy;
    second.weight = 50;
    assert_snapshot!(node.step(&web(vec![backend("1", 1, 1), second.clone()])), @"
    backend 2: takes new and old
    ring 0: publish 1021 slots at 2042, epoch 3: 1 x 681, 2 x 340; 171 moving; 340 settled
    again at 8472160 ms
    ");
    second.weight = 0;
    assert_snapshot!(node.step(&web(vec![backend("1", 1, 1), second])), @"
    ring 0: publish 1021 slots at 3063, epoch 4: 1 x 1021; 511 moving
    backend 2: takes old
    again at 8472160 ms
    ");
}

#[test]
fn a_restarted_agent_changes_nothing_that_is_right() {
    let mut node = Node::new(POOL);
    node.rest(&two(), 60_000);
    let before = node.kernel.clone();
    node.restart();
    assert_eq!(node.step(&two()), "");
    assert_eq!(node.kernel, before);
}

#[test]
fn a_restarted_agent_waits_before_it_fills_an_extent() {
    let mut node = Node::new(POOL);
    node.rest(&two(), 60_000);
    node.restart();
    let one = web(vec![backend("2", 2, 2)]);
    assert_snapshot!(node.step(&one), @"
    backend 1: takes nothing
    refused: service `web`: no 1021 free slots in one piece for its ring: the pool of 16336 slots is full of rings and of extents that rest; the ring stays as it is until there are. If this lasts, raise `ring_slots` in [tables] of the config
    again at 60050 ms
    ");
    node.now_ms += 50;
    assert_snapshot!(node.step(&one), @"
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 1021; 510 moving
    again at 107295 ms
    ");
}

#[test]
fn a_container_started_again_is_another_instance() {
    let mut node = Node::new(POOL);
    node.settle(&two());
    let restarted = Backend { instance: "c1@2".to_owned(), ..backend("1", 1, 1) };
    assert_snapshot!(node.step(&web(vec![restarted, backend("2", 2, 2)])), @"
    backend 1: takes nothing
    backend 3: write #166eb62f 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 1021, epoch 2: 2 x 511, 3 x 510; 510 moving
    again at 55098 ms
    ");
}

#[test]
fn a_number_comes_back_with_the_next_generation() {
    let mut node = Node::new(POOL);
    node.kernel.free_generations = (1..=65_535).map(|number| (number, 7)).collect();
    node.kernel.free_generations.insert(1, u32::MAX);
    let three = web((1..=3).map(|it| backend(&it.to_string(), 1, it)).collect());
    // Everything free rests after a restart; here only the numbers matter.
    node.planner.adopt(&node.kernel, 0);
    node.settle(&three);
    let generations: Vec<(u32, u32)> =
        node.kernel.backends.iter().map(|(number, it)| (*number, it.generation)).collect();
    assert_eq!(generations, [(1, 1), (2, 8), (65_536, 1)]);
    assert_eq!(node.kernel.free_generations.len(), 65_533);
}

#[test]
fn a_frontend_moves_to_another_service() {
    let mut node = Node::new(POOL);
    let old = service("old", &[80], vec![backend("1", 1, 1)]);
    let new = service("new", &[80, 81], vec![backend("1", 2, 2)]);
    node.rest(&snapshot(vec![old]), 60_000);
    assert_snapshot!(node.step(&snapshot(vec![new])), @"
    backend 1: takes nothing
    veth 2: attach
    service 1: write #64b4d130
    backend 2: write #38eff5a5 10.0.0.2:8080 by veth 2, service 1, generation 1, takes new and old
    ring 4: publish 1021 slots at 1021, epoch 1: 2 x 1021
    frontend tcp://192.0.2.10:80: put service 1
    frontend tcp://192.0.2.10:81: put service 1, recorded
    ring 0: clear
    ");
}

#[test]
fn routed_backends_switch_the_front_on() {
    let mut node = Node::new(POOL);
    let routed = Backend { path: BackendPath::Routed, ..backend("1", 1, 1) };
    assert_snapshot!(node.step(&web(vec![routed])), @"
    flags: 0x1
    service 0: write #8898fe82
    backend 1: write #c0a93c3d 10.0.0.1:8080 routed, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 0, epoch 1: 1 x 1021
    vip 192.0.2.10: put
    frontend tcp://192.0.2.10:80: put service 0
    ");
    node.settle(&web(vec![]));
    node.now_ms += 2000;
    assert_snapshot!(node.step(&web(vec![])), @"
    backend 1: clear
    flags: 0x0
    again at 56024 ms
    ");
}

#[test]
fn protocols_and_families_have_rings_of_their_own() {
    let mut node = Node::new(POOL);
    let mut both = service("dns", &[53], vec![backend("1", 1, 1)]);
    let mut udp = frontend(53);
    udp.protocol = Protocol::Udp;
    let mut v6 = frontend(53);
    v6.vip = "2001:db8::1".parse().unwrap();
    both.frontends.extend([udp, v6]);
    let mut v6_backend = backend("1", 2, 2);
    v6_backend.address = "[2001:db8::2]:53".parse().unwrap();
    both.backends.push(v6_backend);
    assert_snapshot!(node.step(&snapshot(vec![both])), @"
    veth 1: attach
    veth 2: attach
    service 0: write #6229d5d1
    backend 1: write #e17f112f 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old
    backend 2: write #c9af38cb [2001:db8::2]:53 by veth 2, service 0, generation 1, takes new and old
    ring 0: publish 1021 slots at 0, epoch 1: 1 x 1021
    ring 1: publish 1021 slots at 1021, epoch 1: 1 x 1021
    ring 2: publish 1021 slots at 2042, epoch 1: 2 x 1021
    vip 192.0.2.10: put
    vip 2001:db8::1: put
    frontend tcp://192.0.2.10:53: put service 0
    frontend udp://192.0.2.10:53: put service 0, recorded
    frontend tcp://[2001:db8::1]:53: put service 0
    ");
}

#[test]
fn what_has_no_room_is_refused_by_name() {
    let mut node = Node::new(4 * 1021);
    let services = |names: &[&str]| {
        let service =
            |(index, name): (u16, &&str)| service(name, &[80 + index], vec![backend("1", 1, 1)]);
        snapshot((0..).zip(names).map(service).collect())
    };
    assert_snapshot!(node.step(&services(&["a", "b", "c", "d"])), @"
    veth 1: attach
    service 0: write #a1d65498
    service 1: write #c1e226b7
    service 2: write #0e8c6862
    backend 1: write #733f8c72 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old
    backend 2: write #5712b7f4 10.0.0.1:8080 by veth 1, service 1, generation 1, takes new and old
    backend 3: write #ccdadb09 10.0.0.1:8080 by veth 1, service 2, generation 1, takes new and old
    ring 0: publish 1021 slots at 0, epoch 1: 1 x 1021
    ring 4: publish 1021 slots at 1021, epoch 1: 2 x 1021
    ring 8: publish 1021 slots at 2042, epoch 1: 3 x 1021
    vip 192.0.2.10: put
    frontend tcp://192.0.2.10:80: put service 0
    frontend tcp://192.0.2.10:81: put service 1
    frontend tcp://192.0.2.10:82: put service 2
    refused: service `d`: its ring finds no room in the pool of 4084 slots; remove services, or raise `ring_slots` in [tables] of the config and run `lb-agent uninstall` before the next start
    ");
    // The others go on.
    assert_snapshot!(node.step(&services(&["a", "b", "d"])), @"
    backend 3: takes nothing
    frontend tcp://192.0.2.10:82: delete
    ring 8: clear
    refused: service `d`: its ring finds no room in the pool of 4084 slots; remove services, or raise `ring_slots` in [tables] of the config and run `lb-agent uninstall` before the next start
    ");
}

#[test]
fn a_full_pool_is_waited_for() {
    let mut node = Node::new(2 * 1021);
    node.step(&web(vec![backend("1", 1, 1)]));
    node.step(&two());
    assert_snapshot!(node.step(&web(vec![backend("2", 2, 2)])), @"
    backend 1: takes nothing
    refused: service `web`: no 1021 free slots in one piece for its ring: the pool of 2042 slots is full of rings and of extents that rest; the ring stays as it is until there are. If this lasts, raise `ring_slots` in [tables] of the config
    again at 12000 ms
    ");
    node.now_ms += 2000;
    assert_snapshot!(node.step(&web(vec![backend("2", 2, 2)])), @"
    ring 0: publish 1021 slots at 0, epoch 3: 2 x 1021; 1021 moving
    again at 56024 ms
    ");
}

#[test]
fn a_ring_keeps_its_size() {
    let mut node = Node::new(POOL);
    let mut many =
        service("web", &[80], (1..=11).map(|it| backend(&it.to_string(), 1, it)).collect());
    node.settle(&two());
    many.policy = super::sized(2039);
    let outcome = node.settle(&snapshot(vec![many]));
    assert_eq!(node.owners().len(), 1021);
    let refusals: Vec<String> = outcome.refusals.into_iter().map(|it| it.message).collect();
    assert_snapshot!(refusals.join("\n"), @"
    `ring_size` asks for 2039 slots, and its ring has 1021: a ring keeps its size as long as the service exists, so the new size counts when the service is made anew
    its ring of 1021 slots has 11 backends, less than 100 slots for each: shares are coarse, and more connections move when backends come and go. A ring keeps its size as long as the service exists; set `ring_size`, or make the service anew
    ");
}

#[test]
fn inconsistent_tables_are_repaired() {
    let mut node = Node::new(POOL);
    node.rest(&two(), 60_000);
    let right = node.kernel.clone();
    // A double of backend 1, a backend of a service that is not there, frontends and rings of
    // services that are not there, a ring that points to nobody.
    let double = right.backends[&1].clone();
    let stray = KernelBackend { service: 77, instance_hash: [7, 7], ..double.clone() };
    node.kernel.backends.insert(9, double);
    node.kernel.backends.insert(10, stray);
    node.kernel.frontends.insert(frontend(99), 78);
    let ring = KernelRing { start: 5000, epoch: 1, ..right.rings[&0].clone() };
    node.kernel.rings.insert(79 * 4, ring);
    let ring = node.kernel.rings.get_mut(&0).unwrap();
    let wrong = |(place, slot): (usize, &Slot)| if place == 17 { Slot::plain(33) } else { *slot };
    ring.slots = ring.slots.iter().enumerate().map(wrong).collect();
    node.kernel.services.insert(80, [8, 8]);
    node.kernel.reply_interfaces.insert(500);
    node.restart();
    node.rest(&two(), 9_000_000);
    node.kernel.free_generations.clear();
    let ring = node.kernel.rings.get_mut(&0).unwrap();
    (ring.start, ring.epoch) = (right.rings[&0].start, right.rings[&0].epoch);
    assert_eq!(node.kernel.to_string(), right.to_string());
    assert_eq!(node.kernel, right);
}

#[test]
fn a_lost_reply_program_is_attached_again() {
    let mut node = Node::new(POOL);
    node.settle(&two());
    node.kernel.execute(&crate::plan::Action::DetachReply { ifindex: 2 }).unwrap();
    assert_snapshot!(node.step(&two()), @"veth 2: attach");
}
