//! What is to be there: numbers for services and backends, rings, frontends.

use std::sync::Arc;

use lb_common::abi::{self, MAX_BACKENDS, MAX_SERVICES, RingDescriptor};

use super::{
    Action, KernelBackend, KernelError, KernelRing, KernelState, Plan,
    draft::Draft,
    extents::{Extent, Extents},
    hash::{NameHash, NumberIndex},
    keys::{BackendKeys, Keys, Known, ServiceKeys},
    memo::RingMemo,
    numbers::{Clocks, NumberSet, Turn, next_generation},
    replies::ReplyClocks,
    ring::{NewRing, Pool, RingMember, choose_sizes, desired_owners, warn_if_coarse},
    ring_of,
    settled::Settled,
    sight::{Sight, Times},
    slots::{Circumstances, Watch},
    state_bits,
    trouble::{Subject, Troubles},
};
use crate::model::{Backend, BackendPath, Service, Snapshot};

/// What a planner must be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Entries of the map `RING_SLOTS`.
    pub ring_slots: u32,
    /// How long extents and numbers rest before they are used again. No program and no reader runs
    /// longer than this.
    pub quarantine_ms: u64,
    /// Times of slots.
    pub times: Times,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ring_slots: abi::DEFAULT_RING_SLOTS, quarantine_ms: 2000, times: Times::default() }
    }
}

/// Makes plans, and remembers between them what the kernel's tables do not show: since when numbers
/// and extents rest, what failed, which rings are known to be right, and which services settled. Losing it (a restart) costs
/// some time and nothing else.
#[derive(Clone, Debug)]
pub struct Planner {
    settings: Settings,
    pub(super) keys: Keys,
    extents: Extents,
    service_turn: Turn,
    backend_turn: Turn,
    pub(super) service_clocks: Clocks,
    pub(super) backend_clocks: Clocks,
    pub(super) rings: NumberIndex<RingMemo>,
    pub(super) reply_clocks: ReplyClocks,
    pub(super) troubles: Troubles,
}

/// A service that is to be there.
pub(super) struct Wanted<'a> {
    pub(super) service: &'a Service,
    pub(super) keys: Arc<ServiceKeys>,
    /// That it is as it should be, as far as is known.
    pub(super) settled: Option<Arc<Settled>>,
    pub(super) number: u32,
    is_new: bool,
    /// Its rings with their sizes.
    pub(super) rings: Vec<(u32, u32)>,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            keys: Keys::default(),
            extents: Extents::new(settings.ring_slots, settings.quarantine_ms),
            service_turn: Turn::new(0..=MAX_SERVICES - 1),
            backend_turn: Turn::new(1..=MAX_BACKENDS),
            service_clocks: Clocks::new(settings.quarantine_ms),
            backend_clocks: Clocks::new(settings.quarantine_ms),
            rings: NumberIndex::default(),
            reply_clocks: ReplyClocks::new(&settings.times),
            troubles: Troubles::default(),
        }
    }

    /// Looks at what a predecessor left, as early as possible: what it may have freed shortly before
    /// it ended begins to rest now and not with the first plan.
    pub fn adopt(&mut self, kernel: &KernelState, now_ms: u64) {
        let never_used = kernel.services.is_empty()
            && kernel.backends.is_empty()
            && kernel.free_generations.is_empty()
            && kernel.rings.is_empty();
        self.extents.observe(&kernel.rings, never_used, now_ms);
        self.service_turn.start_behind(kernel.services.keys().copied());
        let numbers = kernel.backends.keys().chain(kernel.free_generations.keys());
        self.backend_turn.start_behind(numbers.copied());
    }

    /// What to change so that the kernel holds the snapshot. Plan again after the actions have been
    /// executed, until there are none: resting times begin when a plan sees what is no longer used.
    pub fn plan(&mut self, kernel: &KernelState, snapshot: &Snapshot, sight: &Sight) -> Plan {
        #[cfg(test)]
        let of_one_that_forgets = self.plan_of_one_that_forgets(kernel, snapshot, sight);
        let plan = self.make_plan(kernel, snapshot, sight);
        #[cfg(test)]
        assert!(of_one_that_forgets.is_none_or(|it| it == plan), "not what it is from nothing");
        plan
    }

    pub(super) fn make_plan(
        &mut self,
        kernel: &KernelState,
        snapshot: &Snapshot,
        sight: &Sight,
    ) -> Plan {
        let now_ms = sight.now_ms;
        self.adopt(kernel, now_ms);
        self.troubles.forget_old(now_ms);
        self.look_at_rings(kernel);
        let mut draft = Draft::new(kernel, sight);
        let wanted = self.services(&mut draft, snapshot);
        for service in &wanted {
            self.service(&mut draft, service);
        }
        draft.frontends(&wanted);
        self.replies(&mut draft);
        self.removals(&mut draft);
        let due_ms = [
            self.service_clocks.next_over_ms(now_ms),
            self.backend_clocks.next_over_ms(now_ms),
            self.troubles.next_retry_ms(now_ms),
            self.extents.next_free_ms().filter(|_| draft.waits_for_extents),
            draft.slots_due_ms,
            self.reply_clocks.next_over_ms(now_ms),
        ];
        draft.finish(due_ms.into_iter().flatten().min())
    }

    /// Whether a plan would find slots that change, although services and tables are what they were.
    pub fn is_due(&self, sight: &Sight) -> bool {
        let is_due = |(ring, memo): (&u32, &RingMemo)| {
            memo.watch.as_ref().is_some_and(|watch| watch.is_due(*ring, sight))
        };
        self.rings.iter().any(is_due)
    }

    /// Hears that the kernel refused an action, so that the next plan can do without it.
    pub fn note_failure(&mut self, action: &Action, error: &KernelError, now_ms: u64) {
        self.troubles.note(action, error, now_ms);
    }

    /// Hears that an action of the plan was not tried.
    pub fn note_interrupted(&mut self, action: &Action) {
        if let Action::PublishRing { content, .. } = action {
            self.extents.mark_unused(Extent::of(content));
        }
    }

    /// Gives every service its number, and its rings their sizes, which are known since
    /// [`Self::look_at_rings`].
    fn services<'a>(&mut self, draft: &mut Draft<'_>, snapshot: &'a Snapshot) -> Vec<Wanted<'a>> {
        let mut wanted = Vec::new();
        let mut new_rings = Vec::new();
        debug_assert!(self.rings.keys().all(|ring| draft.kernel.rings.contains_key(ring)));
        let known = self.keys.of_all(snapshot);
        for (service, known) in snapshot.services.values().zip(known) {
            let Known { keys, settled, .. } = known;
            let held = draft.services_by_hash.get(&keys.service).copied();
            let taken = &draft.services_taken;
            let number = held.or_else(|| self.service_turn.next(|number| taken[number as usize]));
            let Some(number) = number else {
                let message = format!(
                    "no service number is free: {MAX_SERVICES} are in use or rest; it is tried \
                     again when one is free"
                );
                draft.refuse(format!("service `{}`", service.name), message);
                continue;
            };
            draft.services_taken[number as usize] = true;
            let mut rings: Vec<u32> =
                service.frontends.iter().map(|frontend| ring_of(number, frontend)).collect();
            rings.sort_unstable();
            rings.dedup();
            let members = keys.count_places();
            let is_missing = |ring: &&u32| !self.rings.contains_key(*ring);
            new_rings.extend(
                rings
                    .iter()
                    .filter(is_missing)
                    .map(|_| NewRing { asked: service.ring_size(), members }),
            );
            wanted.push((service, (keys, settled), number, held.is_none(), rings));
        }
        let held = self.rings.values().map(RingMemo::slots);
        let pool = Pool {
            slots: self.settings.ring_slots,
            used: held.clone().fold(0, u32::saturating_add),
            largest: held.max().unwrap_or(0),
        };
        let mut sizes = choose_sizes(&new_rings, pool).into_iter();
        wanted
            .into_iter()
            .map(|(service, (keys, settled), number, is_new, rings)| {
                let rings = rings.into_iter().filter_map(|ring| {
                    let held = self.rings.get(&ring).map(RingMemo::slots);
                    let size = held.or_else(|| sizes.next().flatten());
                    if size.is_none() {
                        self.refuse_ring(draft, service);
                    }
                    Some((ring, size?))
                });
                Wanted { service, keys, settled, number, is_new, rings: rings.collect() }
            })
            .collect()
    }

    fn refuse_ring(&self, draft: &mut Draft<'_>, service: &Service) {
        let message = format!(
            "its ring finds no room in the pool of {} slots; remove services, or raise `ring_slots` \
             in [tables] of the config and run `lb-agent uninstall` before the next start",
            self.settings.ring_slots
        );
        draft.refuse(format!("service `{}`", service.name), message);
    }

    /// Its number, its backends, its rings.
    fn service(&mut self, draft: &mut Draft<'_>, wanted: &Wanted<'_>) {
        // Nothing is left of a service without ring; a new one is not begun.
        if wanted.rings.is_empty() {
            return;
        }
        draft.services_wanted[wanted.number as usize] = true;
        if self.leave_settled(draft, wanted) {
            return;
        }
        let before = draft.progress();
        if wanted.is_new {
            let name_hash = wanted.keys.service;
            draft.push(Action::WriteService { number: wanted.number, name_hash });
        }
        let members = self.backends(draft, wanted);
        for (ring, size) in &wanted.rings {
            draft.rings_wanted.insert(*ring);
            let is_v4 = is_ring_v4(*ring);
            let of_family: Vec<RingMember> =
                members.iter().filter(|it| it.0 == is_v4).map(|it| it.1).collect();
            warn_if_coarse(draft, wanted.service, *size, of_family.len());
            self.ring(draft, wanted, *ring, *size, of_family);
        }
        if draft.progress() == before {
            self.note_settled(draft.kernel, wanted);
        }
    }

    /// Gives every backend its number. Returns the ring members, each with whether it is IPv4.
    fn backends(&mut self, draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Vec<(bool, RingMember)> {
        let mut members = Vec::new();
        for place in wanted.keys.places(wanted.service) {
            // One of each family.
            let mut newest: [Option<(&Backend, BackendKeys, u32)>; 2] = [None; 2];
            for (backend, keys) in place {
                let number = self.backend(draft, wanted, backend, keys.instance);
                let Some(number) = number else { continue };
                let newest = &mut newest[usize::from(backend.address.is_ipv6())];
                let is_newer = newest.is_none_or(|(other, ..)| age(backend) > age(other));
                if backend.state.takes_new() && backend.weight > 0 && is_newer {
                    *newest = Some((backend, *keys, number));
                }
            }
            for (backend, keys, number) in newest.into_iter().flatten() {
                let BackendKeys { place, .. } = keys;
                let member = RingMember { place, number, weight: backend.weight };
                members.push((backend.address.is_ipv4(), member));
            }
        }
        members
    }

    /// Its number; `None` when it cannot get traffic.
    fn backend(
        &mut self,
        draft: &mut Draft<'_>,
        wanted: &Wanted<'_>,
        backend: &Backend,
        hash: NameHash,
    ) -> Option<u32> {
        let is_reachable = self.is_reachable(draft, wanted.service, backend);
        let state = state_bits(backend);
        let held = draft
            .kernel
            .backends
            .find(wanted.number, &hash)
            .filter(|(_, held)| (held.address, held.path) == (backend.address, backend.path));
        if let Some((number, held)) = held {
            draft.backends_wanted.insert(number);
            draft.set_state(number, state);
            draft.is_routed_wanted |= backend.path == BackendPath::Routed;
            draft.lead(wanted.number, (number, Some(held)), backend);
            if held.state != state {
                draft.push(Action::SetBackendState { number, state });
            }
            return is_reachable.then_some(number);
        }
        if !is_reachable {
            return None;
        }
        if let Some(trouble) = self.troubles.current(Subject::Backend(hash), draft.now_ms) {
            draft.refuse(backend_object(wanted.service, backend), trouble.cause.clone());
            return None;
        }
        let number = self.new_backend_number(draft, wanted.service)?;
        draft.set_state(number, state);
        draft.lead(wanted.number, (number, None), backend);
        draft.is_routed_wanted |= backend.path == BackendPath::Routed;
        let content = KernelBackend {
            instance_hash: hash,
            service: wanted.number,
            generation: next_generation(draft.kernel.free_generations.get(&number).copied()),
            address: backend.address,
            path: backend.path,
            state,
            records_replies: true,
        };
        draft.push(Action::WriteBackend { number, backend: content });
        Some(number)
    }

    fn new_backend_number(&mut self, draft: &mut Draft<'_>, service: &Service) -> Option<u32> {
        if !draft.is_out_of_backends {
            let number = self.backend_turn.next(|number| {
                draft.kernel.backends.contains_key(&number)
                    || draft.backends_wanted.contains(number)
            });
            if let Some(number) = number {
                draft.backends_wanted.insert(number);
                return Some(number);
            }
            draft.is_out_of_backends = true;
        }
        let message = format!(
            "some of its backends get no number: {MAX_BACKENDS} are in use or rest; they are tried \
             again when numbers are free"
        );
        draft.refuse(format!("service `{}`", service.name), message);
        None
    }

    /// Whether replies of the backend will be translated; asks for the reply program.
    fn is_reachable(&self, draft: &mut Draft<'_>, service: &Service, backend: &Backend) -> bool {
        let BackendPath::Local { ifindex } = backend.path else { return true };
        if draft.replies_wanted.contains(&ifindex) {
            return true;
        }
        if !draft.kernel.reply_interfaces.contains(&ifindex) {
            if let Some(trouble) = self.troubles.current(Subject::Reply(ifindex), draft.now_ms) {
                draft.refuse(backend_object(service, backend), trouble.cause.clone());
                return false;
            }
            draft.push(Action::AttachReply { ifindex });
        }
        draft.replies_wanted.insert(ifindex);
        true
    }

    /// Publishes a ring where it is not right already.
    fn ring(
        &mut self,
        draft: &mut Draft<'_>,
        wanted: &Wanted<'_>,
        ring: u32,
        size: u32,
        members: Vec<RingMember>,
    ) {
        let circumstances = Circumstances::new(ring, &self.settings.times, draft.sight);
        let held = draft.kernel.rings.get(&ring);
        let memo = self.rings.get_mut(&ring);
        let has_members = memo.as_ref().is_some_and(|memo| memo.members.as_ref() == Some(&members));
        let slots = match (held, &memo) {
            (Some(held), Some(memo)) if has_members => {
                let Some(watch) = &memo.watch else { return };
                if !watch.is_due(ring, draft.sight) && !watch.misses_old(draft, &circumstances) {
                    draft.watch(watch);
                    return;
                }
                circumstances.advanced(draft, &held.slots)
            }
            _ => {
                let owners = desired_owners(&members, size);
                circumstances.assigned(draft, held.map(|ring| &ring.slots), &owners)
            }
        };
        let watch = Watch::of(&slots, &circumstances);
        if let Some(watch) = &watch {
            draft.watch(watch);
        }
        if let (Some(held), Some(memo)) = (held, memo)
            && held.slots == slots
        {
            (memo.members, memo.watch) = (Some(members), watch);
            return;
        }
        let Some(start) = self.extent(draft, wanted.service, size, has_members) else {
            if held.is_none() {
                draft.rings_wanted.remove(&ring);
            } else if !members.is_empty() {
                draft.keep_ring(ring);
            }
            return;
        };
        let epoch = held.map_or(0, |ring| ring.epoch).wrapping_add(1);
        // As it will be read back.
        let epoch = RingDescriptor::new(0, 0, epoch).epoch();
        let memo = RingMemo {
            start,
            epoch,
            size: slots.len(),
            numbers: NumberSet::new().of_slots(&slots),
            members: Some(members),
            watch,
        };
        if let Some(before) = self.rings.insert(ring, memo) {
            draft.replaced.extend(before.numbers);
        }
        draft.push(Action::PublishRing {
            ring,
            content: KernelRing { start, epoch, slots: slots.into() },
        });
    }

    /// Where a ring can be written. Nobody misses anything while one with the same members waits.
    fn extent(
        &mut self,
        draft: &mut Draft<'_>,
        service: &Service,
        size: u32,
        has_members: bool,
    ) -> Option<u32> {
        let free = draft.free_extents.get_or_insert_with(|| self.extents.free());
        if let Some(extent) = free.take(size) {
            self.extents.mark_used(extent);
            return Some(extent.start);
        }
        draft.waits_for_extents = true;
        if !has_members {
            let message = format!(
                "no {size} free slots in one piece for its ring: the pool of {} slots is full of \
                 rings and of extents that rest; the ring stays as it is until there are. If this \
                 lasts, raise `ring_slots` in [tables] of the config",
                self.settings.ring_slots
            );
            draft.refuse(format!("service `{}`", service.name), message);
        }
        None
    }
}

/// Order in which instances of one place came.
fn age(backend: &Backend) -> (u64, &str) {
    (backend.started_at_ms, &backend.instance)
}

fn is_ring_v4(ring: u32) -> bool {
    (ring % abi::RINGS_PER_SERVICE) / 2 == abi::FAMILY_V4
}

fn backend_object(service: &Service, backend: &Backend) -> String {
    format!("backend `{}` of service `{}`", backend.display_name, service.name)
}
