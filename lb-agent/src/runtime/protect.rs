//! What a plan may not do while a provider has not spoken, or does not know everything.
//!
//! After a start the kernel may hold services of a provider whose source is away, lists nothing, or
//! cannot look at all its objects. Until it knows everything, a backend that nobody claims keeps its
//! state, its slots and its frontends, if it can be alive: a container whose veth is gone is dead.
//! What is known is served and updated meanwhile.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use lb_common::abi::{BACKEND_NONE, RingDescriptor, SLOT_MOVING, Slot};

use crate::{
    model::BackendPath,
    plan::{self, Action, KernelBackend, KernelRing, KernelState, NameHash},
};

/// What the providers name.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Services that are to be there.
    pub(super) services: HashSet<NameHash>,
    /// Backends that are named, also those that are dead or refused: their provider knows them.
    pub(super) backends: HashSet<NameHash>,
    /// A provider has told nothing at all: services that nobody claims stay, whatever they have.
    pub(super) is_silent: bool,
}

/// What stays as it is.
#[derive(Debug)]
pub(super) struct Protection<'a> {
    kernel: &'a KernelState,
    is_silent: bool,
    /// Services that are to be there.
    known: BTreeSet<u32>,
    backends: BTreeSet<u32>,
    /// Their services, veths and VIPs.
    services: BTreeSet<u32>,
    links: BTreeSet<u32>,
    vips: BTreeSet<IpAddr>,
}

impl<'a> Protection<'a> {
    /// `kernel` must be as it was read lately, so that it has no veths that are gone.
    pub(super) fn new(kernel: &'a KernelState, claimed: &Claimed) -> Self {
        let services = kernel.services.iter();
        let known = services.filter(|(_, name)| claimed.services.contains(*name));
        let mut this = Self {
            kernel,
            is_silent: claimed.is_silent,
            known: known.map(|(number, _)| *number).collect(),
            backends: BTreeSet::new(),
            services: BTreeSet::new(),
            links: BTreeSet::new(),
            vips: BTreeSet::new(),
        };
        for (number, backend) in &kernel.backends {
            if backend.state == 0 || claimed.backends.contains(&backend.instance_hash) {
                continue;
            }
            if this.may_live(backend) {
                this.backends.insert(*number);
                this.services.insert(backend.service);
                if let BackendPath::Local { ifindex } = backend.path {
                    this.links.insert(ifindex);
                }
            }
        }
        let frontends = kernel.frontends.iter();
        let kept = frontends.filter(|(_, service)| this.services.contains(*service));
        this.vips = kept.map(|(frontend, _)| frontend.vip).collect();
        this
    }

    /// How many backends stay although nobody claims them.
    pub(super) fn kept_backends(&self) -> usize {
        self.backends.len()
    }

    /// The actions, or as much of them as takes nothing away from what stays.
    pub(super) fn soften(&self, actions: Vec<Action>) -> Vec<Action> {
        actions.into_iter().filter_map(|action| self.softened(action)).collect()
    }

    fn may_live(&self, backend: &KernelBackend) -> bool {
        match backend.path {
            BackendPath::Local { ifindex } => self.kernel.reply_interfaces.contains(&ifindex),
            // Nobody knows these in part only: who names the service has told all of them.
            BackendPath::Routed => self.is_unheard_of(backend.service),
        }
    }

    /// Nobody claims the service, and somebody has not spoken.
    fn is_unheard_of(&self, service: u32) -> bool {
        self.is_silent && !self.known.contains(&service)
    }

    fn keeps_service(&self, number: u32) -> bool {
        self.services.contains(&number) || self.is_unheard_of(number)
    }

    fn softened(&self, action: Action) -> Option<Action> {
        let kernel = self.kernel;
        let is_allowed = match &action {
            Action::SetBackendState { number, .. } => !self.backends.contains(number),
            Action::ClearBackend { number } => {
                let held = kernel.backends.get(number);
                !self.backends.contains(number)
                    && held.is_none_or(|backend| !self.is_unheard_of(backend.service))
            }
            Action::ClearRing { ring } => !self.keeps_service(plan::service_of(*ring)),
            Action::DeleteFrontend { frontend } => {
                kernel.frontends.get(frontend).is_none_or(|service| !self.keeps_service(*service))
            }
            // While somebody is silent, these may belong to what nobody has claimed yet.
            Action::ClearService { number } => !self.is_silent && !self.keeps_service(*number),
            Action::DetachReply { ifindex } => !self.is_silent && !self.links.contains(ifindex),
            Action::DeleteVip { vip } => !self.is_silent && !self.vips.contains(vip),
            Action::SetFlags { flags } if self.is_silent => {
                let flags = flags | kernel.flags;
                return (flags != kernel.flags).then_some(Action::SetFlags { flags });
            }
            Action::PublishRing { ring, content } => {
                if let Some(held) = kernel.rings.get(ring) {
                    let content = self.ring_with_kept(held, content)?;
                    return Some(Action::PublishRing { ring: *ring, content });
                }
                true
            }
            Action::SetFlags { .. }
            | Action::AttachReply { .. }
            | Action::WriteService { .. }
            | Action::WriteBackend { .. }
            | Action::SetRecordsReplies { .. }
            | Action::PutReplyDefault { .. }
            // Only when its frontend has not led there for long, or the veth is gone.
            | Action::DeleteReplyDefault { .. }
            | Action::PutLocal { .. }
            | Action::DeleteLocal { .. }
            | Action::PutVip { .. }
            | Action::PutFrontend { .. } => true,
        };
        is_allowed.then_some(action)
    }

    /// The new ring, with the slots of those that stay as they are; `None`: nothing is new.
    fn ring_with_kept(&self, held: &KernelRing, new: &KernelRing) -> Option<KernelRing> {
        // Also as the owner of what is not recorded, whoever takes new flows.
        let is_kept = |slot: &Slot| {
            self.backends.contains(&slot.cur())
                || (slot.state() == SLOT_MOVING && self.backends.contains(&slot.old()))
        };
        if !held.slots.iter().any(is_kept) {
            return Some(new.clone());
        }
        let slots = held.slots.iter().zip(&new.slots);
        let slots: Vec<_> = slots
            .map(|(held, new)| if is_kept(held) { self.slot_with_kept(*held, *new) } else { *new })
            .collect();
        if held.slots == slots {
            return None;
        }
        // Another epoch than the planner has chosen: it remembers what it put into that one, and
        // must look at this one again.
        let epoch = RingDescriptor::new(0, 0, new.epoch.wrapping_add(1)).epoch();
        Some(KernelRing { start: new.start, epoch, slots: slots.into() })
    }
}

impl Protection<'_> {
    /// A slot as it is, for the sake of one of its backends; the other stays only if it has a part in
    /// the new slot. If it has none, its number may be another's soon.
    fn slot_with_kept(&self, held: Slot, new: Slot) -> Slot {
        let stays = |number: u32| {
            self.backends.contains(&number) || [new.cur(), new.old()].contains(&number)
        };
        if !stays(held.cur()) {
            return held.with_cur_of(new);
        }
        if held.state() == SLOT_MOVING && !stays(held.old()) {
            return held.with_old(BACKEND_NONE);
        }
        let is_to_change = held.cur() != new.cur();
        if held.state() == SLOT_MOVING && is_to_change && !self.backends.contains(&held.cur()) {
            // Its flows are recorded; whoever drains, or merely is not to have the slot, gets no others.
            return held.with_cur_of(new);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::SLOT_SETTLED;

    use crate::model::{FrontendAddress, Ports, Protocol};

    fn frontend(port: u16) -> FrontendAddress {
        let vip = [192, 0, 2, u8::try_from(port).expect("small")].into();
        FrontendAddress { vip, protocol: Protocol::Tcp, ports: Ports::one(port).expect("a port") }
    }

    fn backend(service: u32, hash: u64, path: BackendPath) -> KernelBackend {
        KernelBackend {
            instance_hash: [hash, 0],
            service,
            generation: 1,
            address: ([10, 0, 0, 1], 80).into(),
            path,
            state: 3,
            records_replies: true,
        }
    }

    fn ring(epoch: u32, owners: &[u32]) -> KernelRing {
        let slots = owners.iter().map(|owner| Slot::plain(*owner)).collect();
        KernelRing { start: 0, epoch, slots }
    }

    /// Services 1 and 2 are claimed, 3 and 4 are not; each has a frontend at its number. Backend 1
    /// is claimed, 2 lives, the veth of 3 is gone, 4 is routed.
    fn kernel() -> KernelState {
        let local = |ifindex| BackendPath::Local { ifindex };
        KernelState {
            services: [(1, [1, 0]), (2, [2, 0]), (3, [3, 0]), (4, [4, 0])].into(),
            backends: [
                (1, backend(1, 11, local(61))),
                (2, backend(1, 12, local(62))),
                (3, backend(3, 13, local(63))),
                (4, backend(4, 14, BackendPath::Routed)),
            ]
            .into(),
            rings: [(4, ring(7, &[1, 2, 3, 2]))].into(),
            frontends: (1..=4)
                .map(|port| (frontend(port.try_into().expect("small")), port))
                .collect(),
            reply_interfaces: [61, 62].into(),
            flags: 0b10,
            ..KernelState::default()
        }
    }

    /// What becomes of an action when a provider is silent, and when it knows a part only.
    #[track_caller]
    fn check(action: &Action, silent: Option<Action>, partial: Option<Action>) {
        for (is_silent, expected) in [(true, silent), (false, partial)] {
            let claimed = Claimed {
                services: [[1, 0], [2, 0]].into(),
                backends: [[11, 0]].into(),
                is_silent,
            };
            let kernel = kernel();
            let kept = Protection::new(&kernel, &claimed).soften(vec![action.clone()]);
            assert_eq!(kept, Vec::from_iter(expected), "silent: {is_silent}");
        }
    }

    #[track_caller]
    fn check_allowed(action: &Action, is_in_silence: bool, is_in_part: bool) {
        let kept = |is_kept: bool| is_kept.then(|| action.clone());
        check(action, kept(is_in_silence), kept(is_in_part));
    }

    #[test]
    fn who_may_live_keeps_its_state() {
        for (number, is_in_silence, is_in_part) in
            [(1, true, true), (2, false, false), (3, true, true), (4, false, true)]
        {
            let action = Action::SetBackendState { number, state: 0 };
            check_allowed(&action, is_in_silence, is_in_part);
        }
        check_allowed(&Action::ClearBackend { number: 2 }, false, false);
        check_allowed(&Action::ClearBackend { number: 3 }, false, true);
    }

    #[test]
    fn services_of_those_stay_and_others_change() {
        for (service, is_in_silence, is_in_part) in
            [(1, false, false), (2, true, true), (3, false, true), (4, false, true)]
        {
            let port = service.try_into().expect("small");
            let action = Action::DeleteFrontend { frontend: frontend(port) };
            check_allowed(&action, is_in_silence, is_in_part);
            check_allowed(&Action::ClearRing { ring: service * 4 }, is_in_silence, is_in_part);
            check_allowed(&Action::ClearService { number: service }, false, is_in_part);
            let action = Action::DeleteVip { vip: frontend(port).vip };
            check_allowed(&action, false, is_in_part);
        }
        check_allowed(&Action::DetachReply { ifindex: 62 }, false, false);
        check_allowed(&Action::DetachReply { ifindex: 61 }, false, true);
        check_allowed(
            &Action::PutFrontend {
                frontend: frontend(5),
                service: 1,
                records_replies: true,
                flags: 0,
            },
            true,
            true,
        );
        check_allowed(&Action::AttachReply { ifindex: 9 }, true, true);
    }

    #[test]
    fn slots_of_those_stay_and_others_change() {
        let publish = |content| Action::PublishRing { ring: 4, content };
        let softened = Some(publish(ring(9, &[1, 2, 1, 2])));
        check(&publish(ring(8, &[1, 1, 1, 1])), softened.clone(), softened);
        check(&publish(ring(8, &[1, 1, 3, 1])), None, None);
        check_allowed(&Action::PublishRing { ring: 8, content: ring(1, &[1]) }, true, true);
    }

    #[test]
    fn slots_that_move_away_from_those_stay() {
        let slot = |old| Slot::new(1, old, SLOT_MOVING, 100);
        let mut kernel = kernel();
        let held = KernelRing { start: 0, epoch: 7, slots: vec![slot(2), Slot::plain(1)].into() };
        kernel.rings = [(4, held)].into();
        let claimed = Claimed {
            services: [[1, 0], [2, 0]].into(),
            backends: [[11, 0]].into(),
            is_silent: false,
        };
        let protection = Protection::new(&kernel, &claimed);
        // The planner takes 2 for gone, and has another owner for the plain slot.
        let new = KernelRing { start: 8, epoch: 8, slots: vec![slot(0), Slot::plain(4)].into() };
        let softened = protection.soften(vec![Action::PublishRing { ring: 4, content: new }]);
        let slots = vec![slot(2), Slot::plain(4)].into();
        let content = KernelRing { start: 8, epoch: 9, slots };
        assert_eq!(softened, [Action::PublishRing { ring: 4, content }]);
    }

    /// What becomes of a slot that keeps backend 2, of which the planner knows nothing.
    #[track_caller]
    fn check_slot(held: Slot, new: Slot, expected: Slot) {
        let mut kernel = kernel();
        // So that there is something to publish whatever becomes of the slot.
        let ring = |slot, other| KernelRing {
            start: 0,
            epoch: 7,
            slots: vec![slot, Slot::plain(other)].into(),
        };
        kernel.rings = [(4, ring(held, 1))].into();
        let claimed = Claimed {
            services: [[1, 0], [2, 0]].into(),
            backends: [[11, 0]].into(),
            is_silent: false,
        };
        let action = Action::PublishRing { ring: 4, content: ring(new, 4) };
        let actions = Protection::new(&kernel, &claimed).soften(vec![action]);
        let [Action::PublishRing { content, .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert_eq!(content.slots[0].raw(), expected.raw(), "{:?}", content.slots[0]);
    }

    #[test]
    fn a_kept_slot_names_nobody_who_is_gone() {
        let moving = |old, cur| Slot::new(cur, old, SLOT_MOVING, 100);
        let settled = |cur| Slot::new(cur, 0, SLOT_SETTLED, 500);
        // Backend 3 is gone, and its number soon another's; 1 and 4 are the planner's.
        for (held, new, expected) in [
            (moving(3, 2), moving(0, 1).with_cur(1, 500), moving(0, 2)),
            (moving(3, 2), settled(1), moving(0, 2)),
            (moving(0, 2), moving(0, 1).with_cur(1, 500), moving(0, 2)),
            // It has flows of its own and is alive.
            (moving(4, 2), moving(4, 1).with_cur(1, 500), moving(4, 2)),
            (moving(4, 2), settled(4), moving(4, 2)),
            (moving(2, 3), settled(1), moving(2, 1).with_cur(1, 500)),
            (moving(2, 3), moving(0, 0).with_cur(0, 500), moving(2, 0).with_cur(0, 500)),
            (moving(2, 1), moving(0, 1), moving(2, 1)),
            // The same owner, which has it for as long as it had: nothing is published for that.
            (moving(2, 4), settled(4), moving(2, 4)),
            // The planner's drains: it is to get no new flows, and those that it has are recorded.
            (moving(2, 4), moving(4, 1).with_cur(1, 500), moving(2, 1).with_cur(1, 500)),
            (settled(2), Slot::new(1, 2, SLOT_MOVING, 500), settled(2)),
            (Slot::plain(2), Slot::new(1, 0, SLOT_MOVING, 500), Slot::plain(2)),
        ] {
            check_slot(held, new, expected);
        }
    }

    #[test]
    fn flags_are_only_added_in_silence() {
        let set = |flags| Some(Action::SetFlags { flags });
        check(&Action::SetFlags { flags: 0 }, None, set(0));
        check(&Action::SetFlags { flags: 0b01 }, set(0b11), set(0b01));
    }
}
