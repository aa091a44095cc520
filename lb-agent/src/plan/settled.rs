//! Services that a plan left as they were, and that are as they were still: the next plan need not look
//! at their backends again, of which there may be thousands.
//!
//! A plan is what it would be without this: tests compare each of a small node with one that forgets.

use std::sync::Arc;

use super::{
    KernelState,
    draft::Draft,
    held::OfService,
    memo::RingMemo,
    planner::{Planner, Wanted},
    replies::ring_of_datagrams,
};
use crate::model::BackendPath;
#[cfg(test)]
use {
    super::{Plan, sight::Sight},
    crate::model::Snapshot,
};

/// What a plan found of a service that was as it should be, all its backends routed.
#[derive(Debug)]
pub(super) struct Settled {
    /// Its number.
    number: u32,
    /// Its backends in the kernel.
    held: Option<OfService>,
    /// Those of them that are to be there: number and state bits.
    backends: Vec<(u32, u8)>,
    /// Rings of datagrams, not all of which are answers.
    unasked: Vec<u32>,
}

impl Settled {
    /// `None`: of others than routed backends more is to be seen than this.
    fn of(kernel: &KernelState, wanted: &Wanted<'_>) -> Option<Self> {
        let mut backends = Vec::with_capacity(wanted.service.backends.len());
        let mut unasked = Vec::new();
        for (backend, keys) in wanted.service.backends.iter().zip(&wanted.keys.backends) {
            let (number, held) = kernel.backends.find(wanted.number, &keys.instance)?;
            if backend.path != BackendPath::Routed || !held.records_replies {
                return None;
            }
            backends.push((number, held.state));
            let ring = ring_of_datagrams(wanted.number, backend.address);
            if !backend.replies.only_answers && !unasked.contains(&ring) {
                unasked.push(ring);
            }
        }
        let held = kernel.backends.of_service(wanted.number).cloned();
        Some(Self { number: wanted.number, held, backends, unasked })
    }

    fn is_of(&self, kernel: &KernelState, number: u32) -> bool {
        let is_same = match (&self.held, kernel.backends.of_service(number)) {
            (None, None) => true,
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            _ => false,
        };
        self.number == number && is_same
    }
}

impl Planner {
    /// Leaves a service as it is, if that is known to be right.
    pub(super) fn leave_settled(&self, draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> bool {
        let settled = wanted.settled.as_ref().filter(|it| it.is_of(draft.kernel, wanted.number));
        let Some(settled) = settled.filter(|_| self.are_rings_settled(wanted)) else {
            return false;
        };
        for (ring, _) in &wanted.rings {
            draft.rings_wanted.insert(*ring);
        }
        for (number, state) in &settled.backends {
            draft.backends_wanted.insert(*number);
            draft.set_state(*number, *state);
            draft.is_routed_wanted = true;
        }
        draft.unasked.extend(&settled.unasked);
        true
    }

    /// Remembers that this plan has nothing to do for a service.
    pub(super) fn note_settled(&mut self, kernel: &KernelState, wanted: &Wanted<'_>) {
        if self.are_rings_settled(wanted)
            && let Some(settled) = Settled::of(kernel, wanted)
        {
            self.keys.note_settled(&wanted.service.name, settled);
        }
    }

    /// What a plan would be if nothing was known to be settled, where that is no great work.
    #[cfg(test)]
    pub(super) fn plan_of_one_that_forgets(
        &self,
        kernel: &KernelState,
        snapshot: &Snapshot,
        sight: &Sight,
    ) -> Option<Plan> {
        (kernel.backends.len() < 100).then(|| {
            let mut other = self.clone();
            other.keys.forget_settled();
            other.make_plan(kernel, snapshot, sight)
        })
    }

    fn are_rings_settled(&self, wanted: &Wanted<'_>) -> bool {
        wanted.rings.iter().all(|(ring, _)| self.rings.get(ring).is_some_and(RingMemo::is_settled))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        model::{Backend, BackendPath, BackendState, Service, Snapshot},
        plan::tests::{Node, backend, service, snapshot},
    };

    const POOL: u32 = 16 * 1021;

    fn routed(number: u8) -> Backend {
        let local = backend(&number.to_string(), u64::from(number), number);
        Backend { path: BackendPath::Routed, ..local }
    }

    fn settled(node: &Node) -> Vec<&str> {
        let mut names: Vec<&str> = node.planner.keys.settled().map(|name| &*name.0).collect();
        names.sort_unstable();
        names
    }

    /// Of a service of routed backends, one of containers, and one without any.
    fn three() -> Snapshot {
        snapshot(vec![
            service("far", &[80], vec![routed(1), routed(2)]),
            service("near", &[81], vec![backend("3", 3, 3)]),
            service("none", &[82], vec![]),
        ])
    }

    #[test]
    fn what_is_as_it_should_be_is_settled_until_anything_changes() {
        let mut node = Node::new(POOL);
        let mut wanted = three();
        node.step(&wanted);
        assert!(settled(&node).is_empty(), "it was just made");
        node.settle(&wanted);
        assert_eq!(settled(&node), ["far", "none"]);

        // Somebody else changes a table: it is repaired.
        node.kernel.backends.update(1, |backend| backend.state = 0);
        assert!(node.step(&wanted).contains("backend 1"));
        node.settle(&wanted);
        let ring = node.kernel.rings.values_mut().next().expect("a ring");
        ring.epoch += 1;
        assert!(!node.step(&wanted).contains("ring"), "its slots are right");
        node.settle(&wanted);
        assert_eq!(settled(&node), ["far", "none"]);

        // Another state is wanted, while slots move the service is looked at.
        let change = |service: &mut Service| service.backends[0].state = BackendState::Draining;
        let far = wanted.services.values_mut().next().expect("the first");
        change(Arc::make_mut(far));
        assert!(node.step(&wanted).contains("backend 1"));
        node.settle(&wanted);
        assert_eq!(settled(&node), ["none"]);
        let later_ms = node.now_ms + 3 * 8_400_000;
        node.rest(&wanted, later_ms);
        assert_eq!(settled(&node), ["far", "none"]);

        let nothing = Snapshot::default();
        node.settle(&nothing);
        assert!(settled(&node).is_empty());
    }
}
