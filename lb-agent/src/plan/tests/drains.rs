//! Backends that are told to leave: nobody is refused for their sake while others live.

use std::{collections::BTreeSet, sync::Arc};

use insta::assert_snapshot;
use lb_common::abi::{RINGS_PER_SERVICE, TAKES_NEW};

use super::{Node, backend, service, snapshot};
use crate::{
    model::{Backend, BackendPath, BackendState, Snapshot},
    plan::{
        Action, Kernel, KernelBackend, KernelError, KernelRing, KernelState, apply, instance_hash,
        ring_of, service_hash, service_of, state_bits,
    },
};

/// Who is to take new flows, and by which rings of which services.
#[derive(Default)]
pub(super) struct Drains {
    takers: BTreeSet<[u64; 2]>,
    served: BTreeSet<([u64; 2], u32)>,
}

impl Drains {
    pub(super) fn expect(&mut self, snapshot: &Snapshot) {
        (self.takers, self.served) = Default::default();
        for service in snapshot.services.values() {
            let takers = service.backends.iter().filter(|it| state_bits(it) & TAKES_NEW != 0);
            self.takers.extend(takers.map(|it| instance_hash(&service.name, it)));
            let rings = service.frontends.iter().map(|frontend| ring_of(0, frontend));
            self.served.extend(rings.map(|ring| (service_hash(&service.name), ring)));
        }
    }

    /// No client is refused because somebody merely drains while others live: a ring that leads to a
    /// backend is replaced before that one takes no new flows any more.
    pub(super) fn check(&self, kernel: &KernelState, number: u32, state: u8) {
        let held = &kernel.backends[&number];
        if held.state & !state != TAKES_NEW {
            return;
        }
        let is_led_to = |(ring, held_ring): (&u32, &KernelRing)| {
            let name = kernel.services.get(&held.service).copied().unwrap_or_default();
            service_of(*ring) == held.service
                && self.served.contains(&(name, ring - held.service * RINGS_PER_SERVICE))
                && held_ring.slots.iter().any(|slot| slot.cur() == number)
        };
        let takes_over = |other: &KernelBackend| {
            (other.service, other.address.is_ipv4()) == (held.service, held.address.is_ipv4())
                && self.takers.contains(&other.instance_hash)
                && other.state & TAKES_NEW != 0
                && match other.path {
                    BackendPath::Local { ifindex } => kernel.reply_interfaces.contains(&ifindex),
                    BackendPath::Routed => true,
                }
        };
        if kernel.rings.iter().any(is_led_to) {
            let other = kernel.backends.iter().find(|(_, other)| takes_over(other));
            assert!(
                other.is_none(),
                "{number} drains, {other:?} lives, and clients are refused:\n{kernel}"
            );
        }
    }
}

fn web(backends: Vec<Backend>) -> Snapshot {
    snapshot(vec![service("web", &[80], backends)])
}

fn two() -> Snapshot {
    web(vec![backend("1", 1, 1), backend("2", 2, 2)])
}

/// The first of two drains, and the other does if it does not live.
fn drained(other_lives: bool) -> Snapshot {
    let mut backends = vec![backend("1", 1, 1), backend("2", 2, 2)];
    backends[0].state = BackendState::Draining;
    if !other_lives {
        backends[1].state = BackendState::Draining;
    }
    web(backends)
}

/// A kernel that refuses rings.
struct Refusing(KernelState);
impl Kernel for Refusing {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        if let Action::PublishRing { .. } = action {
            let cause = "no luck".to_owned();
            return Err(KernelError { action: action.to_string(), cause, is_absent: false });
        }
        self.0.execute(action)
    }
}

/// Who drains goes on taking new flows as long as the ring that leads there cannot be replaced.
#[test]
fn a_drain_waits_for_room() {
    let mut node = Node::new(2 * 1021);
    node.step(&web(vec![backend("1", 1, 1)]));
    node.step(&two());
    let waiting = node.step(&drained(true));
    assert!(!waiting.contains("backend 1"), "{waiting}");
    // With nobody else, nobody loses by it.
    let alone = node.planner.plan(&node.kernel, &drained(false), &node.sight()).to_string();
    assert!(alone.contains("backend 1: takes old"), "{alone}");
    node.now_ms += 2000;
    assert_snapshot!(node.step(&drained(true)), @"
    ring 0: publish 1021 slots at 0, epoch 3: 2 x 1021; 1021 moving
    backend 1: takes old
    again at 8473086 ms
    ");
}

/// Who fails is out at once, whether or not there is room for a ring without it, and whether or not the
/// kernel takes one.
#[test]
fn who_fails_waits_for_no_ring() {
    let mut snapshot = two();
    let web = snapshot.services.values_mut().next().expect("a service");
    Arc::make_mut(web).backends[0].state = BackendState::Unhealthy;
    let mut node = Node::new(2 * 1021);
    node.step(&self::web(vec![backend("1", 1, 1)]));
    node.step(&two());
    let plan = node.planner.plan(&node.kernel, &snapshot, &node.sight()).to_string();
    assert!(plan.starts_with("backend 1: takes old but datagrams\n"), "{plan}");
    assert!(!plan.contains("publish"), "{plan}");

    let mut node = Node::new(16 * 1021);
    node.settle(&two());
    let plan = node.planner.plan(&node.kernel, &snapshot, &node.sight());
    let mut kernel = Refusing(node.kernel.clone());
    let applied = apply(plan.actions, &mut kernel, &mut node.kernel);
    assert_eq!((applied.failures.len(), applied.skipped, applied.done), (1, 0, 1));
    let held = kernel.0.backends.values().filter(|held| held.state & TAKES_NEW != 0);
    assert_eq!(held.count(), 1);
}

/// The same, when it is the kernel that refuses the ring.
#[test]
fn a_drain_waits_for_the_kernel() {
    let mut node = Node::new(16 * 1021);
    node.settle(&two());
    let plan = node.planner.plan(&node.kernel, &drained(true), &node.sight());
    let mut kernel = Refusing(node.kernel.clone());
    let applied = apply(plan.actions, &mut kernel, &mut node.kernel);
    assert_eq!((applied.failures.len(), applied.skipped, applied.done), (1, 1, 0));
    assert_eq!(kernel.0, node.kernel);
    assert_snapshot!(node.step(&drained(true)), @"
    ring 0: publish 1021 slots at 2042, epoch 2: 2 x 1021; 510 moving
    backend 1: takes old
    again at 8472160 ms
    ");
}
