//! Random lives of a node: snapshots come and go, actions fail by a seed (mostly one in ten), the
//! agent is restarted at any moment. After every single action the tables must be fit for packets; in the end they must
//! hold the last snapshot and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{
        BACKEND_NONE, META_ROUTED_BACKENDS, SLOT_MOVING, SLOT_PLAIN, SLOT_SETTLED, Slot, TAKES_OLD,
        TAKES_OLD_DATAGRAMS, TICK_NS, ticks_from_seconds,
    },
    slots::SlotTimes,
};
use proptest::prelude::*;

use super::{
    backend, drains::Drains, holds::assert_holds, reply_flows::ReplyFlows, service, sight,
    snapshot, tick_at,
};
use crate::{
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, Ports, Protocol, Service, ServiceName,
        Snapshot, WaysIn,
    },
    plan::{
        Action, Kernel, KernelError, KernelState, Planner, Settings, Sight, Times,
        extents::ADOPTION_REST_MS, reconcile, ring_of, service_of,
    },
};

const QUARANTINE_MS: u64 = 2000;
const TIMES: Times = Times {
    tcp: SlotTimes {
        settle_ticks: ticks_from_seconds(20),
        grace_ticks: ticks_from_seconds(3),
        hold_ticks: ticks_from_seconds(8),
    },
    datagrams: SlotTimes { settle_ticks: ticks_from_seconds(5), grace_ticks: 0, hold_ticks: 0 },
};
const SETTINGS: Settings =
    Settings { ring_slots: 16 * 1021, quarantine_ms: QUARANTINE_MS, times: TIMES };

/// A kernel that fails at random, by a seed, and checks after each action what readers would see.
struct Auditor {
    state: KernelState,
    now_ms: u64,
    random: u64,
    fail_percent: u64,
    /// Extents that were published, with the time of their end.
    left_extents: Vec<(u32, u32, u64)>,
    /// When a slot referred to a backend number last.
    referred: BTreeMap<u32, u64>,
    /// Every number that an instance ever had.
    numbers: BTreeMap<[u64; 2], BTreeSet<u32>>,
    /// (number, generation) pairs that were given out.
    generations: BTreeSet<(u32, u32)>,
    /// What the next plans see: rings whose flows were left without a record, and which slots have
    /// a record of another backend, by their index modulo 3.
    refused_ticks: BTreeMap<u32, u32>,
    others: Option<u32>,
    /// Whose the flows without a record are, by ring and slot.
    unrecorded: BTreeMap<u32, Vec<u32>>,
    reply_flows: ReplyFlows,
    drains: Drains,
}

impl Auditor {
    fn new(seed: u64) -> Self {
        Self {
            state: KernelState::default(),
            now_ms: 10_000,
            random: seed,
            // From lives with hardly a fault to such where half of everything fails.
            fail_percent: [2, 10, 10, 50][usize::try_from(seed % 4).unwrap_or(0)],
            left_extents: Vec::new(),
            referred: BTreeMap::new(),
            numbers: BTreeMap::new(),
            generations: BTreeSet::new(),
            refused_ticks: BTreeMap::new(),
            others: None,
            unrecorded: BTreeMap::new(),
            reply_flows: ReplyFlows::default(),
            drains: Drains::default(),
        }
    }

    /// Another process takes over: who read a descriptor before that has long finished.
    fn restart(&mut self) {
        let left_at_most_ms = self.now_ms + ADOPTION_REST_MS - QUARANTINE_MS;
        for (_, _, left_ms) in &mut self.left_extents {
            *left_ms = (*left_ms).min(left_at_most_ms);
        }
    }

    fn sight(&self, now_ms: u64) -> Sight {
        let mut sight = sight(now_ms);
        sight.refused_ticks.clone_from(&self.refused_ticks);
        if let Some((remainder, scan)) = self.others.zip(sight.scan.as_mut()) {
            for ring in self.state.rings.keys() {
                for slot in (0..1021).filter(|slot| slot % 3 == remainder) {
                    scan.note_other(*ring, slot);
                }
            }
        }
        sight
    }

    /// Splitmix64.
    fn is_failing(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % 100 < self.fail_percent
    }

    fn before(&mut self, action: &Action) {
        let state = &self.state;
        match action {
            Action::WriteBackend { number, backend } => {
                let last = self.referred.get(number);
                let is_rested = last.is_none_or(|last| last + QUARANTINE_MS <= self.now_ms);
                assert!(is_rested, "{action} too early");
                assert!(!state.backends.contains_key(number), "{action} overwrites");
                assert!(self.generations.insert((*number, backend.generation)), "{action} again");
                assert_ne!(backend.generation, 0);
                self.numbers.entry(backend.instance_hash).or_default().insert(*number);
            }
            Action::PublishRing { content, .. } => {
                let start = content.start;
                let end = start + u32::try_from(content.slots.len()).unwrap();
                assert!(end <= SETTINGS.ring_slots);
                for (from, to, left_ms) in &self.left_extents {
                    let is_rested = left_ms + QUARANTINE_MS <= self.now_ms;
                    assert!(is_rested || end <= *from || *to <= start, "{action} too early");
                }
                for ring in state.rings.values() {
                    let to = ring.start + u32::try_from(ring.slots.len()).unwrap();
                    assert!(end <= ring.start || to <= start, "{action} overwrites a ring");
                }
            }
            Action::WriteService { number, .. } => {
                assert!(!state.services.contains_key(number), "{action} overwrites");
            }
            Action::SetBackendState { number, state: bits } => {
                self.drains.check(state, *number, *bits);
            }
            _ => {}
        }
        if let Action::PublishRing { ring, .. } | Action::ClearRing { ring } = action
            && let Some(old) = state.rings.get(ring)
        {
            let end = old.start + u32::try_from(old.slots.len()).unwrap();
            self.left_extents.push((old.start, end, self.now_ms));
            for slot in &old.slots {
                self.referred.insert(slot.cur(), self.now_ms);
                self.referred.insert(slot.old(), self.now_ms);
            }
        }
        match action {
            Action::PublishRing { ring, content } => self.publish(*ring, &content.slots),
            Action::ClearRing { ring } => {
                self.unrecorded.remove(ring);
            }
            _ => {}
        }
    }

    /// Flows without a record stay where they are: with the default of their slot, until they are
    /// over or their backend is gone.
    fn publish(&mut self, ring: u32, slots: &crate::plan::Slots) {
        let default =
            |slot: &Slot| if slot.state() == SLOT_MOVING { slot.old() } else { slot.cur() };
        let defaults: Vec<u32> = slots.iter().map(default).collect();
        let Some(before) = self.state.rings.get(&ring) else {
            assert!(slots.iter().all(|slot| slot.state() == SLOT_PLAIN), "ring {ring} is new");
            self.unrecorded.insert(ring, defaults);
            return;
        };
        let now_tick = tick_at(self.now_ms);
        let is_udp = ring % 2 == 1;
        let times = if is_udp { TIMES.datagrams } else { TIMES.tcp };
        let keeps = if is_udp { TAKES_OLD_DATAGRAMS } else { TAKES_OLD };
        let owners = self.unrecorded.get_mut(&ring).unwrap();
        for (index, (before, after)) in before.slots.iter().zip(slots).enumerate() {
            let words = || format!("ring {ring}, slot {index}: {before:?} becomes {after:?}");
            let owner = owners[index];
            let backend = self.state.backends.get(&owner);
            let is_gone = backend.is_none_or(|backend| backend.state & keeps == 0);
            let mut quiet_ticks = before.age_ticks(now_tick);
            if let Some(refused_tick) = self.refused_ticks.get(&ring) {
                quiet_ticks = quiet_ticks.min(now_tick - refused_tick);
            }
            let is_over = before.state() == SLOT_MOVING
                && quiet_ticks > times.settle_ticks + times.grace_ticks;
            assert!(defaults[index] == owner || is_gone || is_over, "{}", words());
            if after.state() == SLOT_PLAIN && before.state() != SLOT_PLAIN {
                let has_other = self.others.is_some_and(|it| index % 3 == it as usize);
                assert!(before.state() == SLOT_SETTLED && !has_other, "{}", words());
                assert!(before.age_ticks(now_tick) > 2, "{}", words());
            }
            if before.state() == SLOT_PLAIN && after.cur() != before.cur() {
                assert_ne!(after.state(), SLOT_PLAIN, "{}", words());
            }
            owners[index] = defaults[index];
        }
    }

    /// What holds after every action.
    fn after(&mut self, action: &Action) {
        let state = &self.state;
        for (number, ring) in &state.rings {
            assert!(state.services.contains_key(&service_of(*number)), "{action}");
            for backend in ring.slots.iter().flat_map(|slot| [slot.cur(), slot.old()]) {
                let is_known = backend == BACKEND_NONE || state.backends.contains_key(&backend);
                assert!(is_known, "{action}: ring {number} refers to backend {backend}");
            }
        }
        for (frontend, service) in &state.frontends {
            assert!(state.services.contains_key(service), "{action}: {frontend}");
            assert!(state.rings.contains_key(&ring_of(*service, frontend)), "{action}: {frontend}");
        }
        for (number, backend) in &state.backends {
            assert!(state.services.contains_key(&backend.service), "{action}: backend {number}");
            match backend.path {
                BackendPath::Local { ifindex } => {
                    assert!(state.reply_interfaces.contains(&ifindex), "{action}: {number}");
                }
                BackendPath::Routed => {
                    assert_ne!(state.flags & META_ROUTED_BACKENDS, 0, "{action}: {number}");
                }
            }
        }
    }
}

impl Kernel for Auditor {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        if self.is_failing() {
            let cause = "no luck".to_owned();
            return Err(KernelError { action: action.to_string(), cause, is_absent: false });
        }
        self.before(action);
        self.reply_flows.pass(&self.state, self.now_ms);
        self.state.absorb(action.clone());
        self.reply_flows.pass(&self.state, self.now_ms);
        let settle_ms = u64::from(TIMES.tcp.settle_ticks) * TICK_NS / 1_000_000;
        self.reply_flows.check(&self.state, self.now_ms, settle_ms, action);
        self.after(action);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Step {
    snapshot: Snapshot,
    wait_ms: u64,
    restart: bool,
    /// A ring of which a flow is left without a record.
    refused_ring: Option<u32>,
    others: Option<u32>,
    /// All other services stay what they were.
    only: Option<usize>,
}

impl Step {
    /// What is wanted from now on, after this.
    fn wanted(&self, before: &Snapshot) -> Snapshot {
        let Some(index) = self.only else { return self.snapshot.clone() };
        let name = ServiceName(format!("s{index}"));
        let mut after = before.clone();
        after.services.remove(&name);
        if let Some(service) = self.snapshot.services.get(&name) {
            let mut service = (**service).clone();
            let is_taken = |it: &FrontendAddress| {
                after.services.values().any(|other| other.frontends.contains(it))
            };
            service.frontends.retain(|frontend| !is_taken(frontend));
            if !service.frontends.is_empty() {
                after.services.insert(name, service.into());
            }
        }
        after
    }
}

fn any_backend() -> impl Strategy<Value = Backend> {
    let state = prop_oneof![
        4 => Just(BackendState::Healthy),
        1 => Just(BackendState::Starting),
        1 => Just(BackendState::Unhealthy),
        1 => Just(BackendState::Draining),
        1 => Just(BackendState::Disabled),
    ];
    let weight = prop_oneof![4 => Just(100_u16), 1 => Just(0), 1 => Just(50)];
    let ways_in = prop_oneof![4 => Just(WaysIn::OnlyOurs), 1 => Just(WaysIn::Published)];
    (0..3_u8, 0..2_u8, state, weight, prop::bool::weighted(0.2), ways_in).prop_map(
        |(place, instance, state, weight, is_routed, ways_in)| {
            let mut backend =
                backend(&place.to_string(), u64::from(instance), 1 + place * 2 + instance);
            (backend.state, backend.weight) = (state, weight);
            backend.replies.ways_in = ways_in;
            if is_routed {
                backend.path = BackendPath::Routed;
            }
            backend
        },
    )
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    // Which of three services has which frontend, and the backends of each.
    let owners = prop::collection::vec(0..4_usize, 4);
    let of_service = (prop::collection::vec(any_backend(), 0..4), prop::bool::weighted(0.4));
    let backends = prop::collection::vec(of_service, 3);
    (owners, backends).prop_map(|(owners, backends)| {
        let all = backends.into_iter().enumerate();
        let services = all.filter_map(|(index, (mut backends, are_routed))| {
            if are_routed {
                for backend in &mut backends {
                    backend.path = BackendPath::Routed;
                }
            }
            let ports: Vec<u16> = (80..)
                .zip(&owners)
                .filter(|(_, owner)| **owner == index)
                .map(|(it, _)| it)
                .collect();
            let unique: BTreeMap<_, _> = backends
                .into_iter()
                .map(|it| ((it.place.clone(), it.instance.clone()), it))
                .collect();
            let backends = unique.into_values().collect();
            (!ports.is_empty()).then(|| {
                let service = service(&format!("s{index}"), &ports, backends);
                let protocol =
                    |it| if Some(it) == Ports::one(83) { Protocol::Udp } else { Protocol::Tcp };
                let of_protocol =
                    |it: FrontendAddress| FrontendAddress { protocol: protocol(it.ports), ..it };
                let frontends = service.frontends.into_iter().map(of_protocol).collect();
                Service { frontends, ..service }
            })
        });
        snapshot(services.collect())
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let wait_ms =
        prop_oneof![Just(0_u64), 1..200_u64, 500..2500_u64, Just(10_000_u64), Just(30_000_u64)];
    let refused_ring = prop::option::weighted(0.2, 0..8_u32);
    let others = prop::option::weighted(0.5, 0..3_u32);
    let only = prop::option::weighted(0.5, 0..4_usize);
    (any_snapshot(), wait_ms, prop::bool::weighted(0.2), refused_ring, others, only).prop_map(
        |(snapshot, wait_ms, restart, refused_ring, others, only)| Step {
            snapshot,
            wait_ms,
            restart,
            refused_ring,
            others,
            only,
        },
    )
}

fn live(steps: &[Step], seed: u64) -> Auditor {
    let mut auditor = Auditor::new(seed);
    let mut mirror = KernelState::default();
    let mut planner = Planner::new(SETTINGS);
    let mut wanted = Snapshot::default();
    for step in steps {
        wanted = step.wanted(&wanted);
        if step.restart {
            planner = Planner::new(SETTINGS);
            mirror = auditor.state.clone();
            auditor.restart();
        }
        auditor.others = step.others;
        auditor.drains.expect(&wanted);
        if let Some(ring) = step.refused_ring {
            auditor.refused_ticks.insert(ring, tick_at(auditor.now_ms));
        }
        let view = auditor.sight(auditor.now_ms);
        let mut sight = || view.clone();
        reconcile(&mut planner, &mut auditor, &mut mirror, &wanted, &mut sight);
        assert_eq!(mirror, auditor.state);
        auditor.now_ms += step.wait_ms;
        auditor.reply_flows.pass(&auditor.state, auditor.now_ms);
    }
    (auditor.fail_percent, auditor.others) = (0, None);
    let is_plain = |state: &KernelState| {
        let mut slots = state.rings.values().flat_map(|ring| &ring.slots);
        slots.all(|slot| slot.state() == SLOT_PLAIN)
    };
    let mut is_over = false;
    for _ in 0..100 {
        let view = auditor.sight(auditor.now_ms);
        let mut sight = || view.clone();
        let outcome = reconcile(&mut planner, &mut auditor, &mut mirror, &wanted, &mut sight);
        assert!(outcome.is_settled, "{outcome:?}");
        is_over = outcome.due_ms.is_none() && is_plain(&auditor.state);
        if is_over {
            break;
        }
        // Settled slots wait for a scan, which has no time of its own.
        auditor.now_ms = auditor.now_ms.max(outcome.due_ms.unwrap_or(auditor.now_ms + 5000));
    }
    assert!(is_over, "it is never settled:\n{}", auditor.state);
    assert_holds(&auditor.state, &wanted);
    // A successor finds nothing to do, and keeps quiet when the quarantine is over.
    let mut successor = Planner::new(SETTINGS);
    for later_ms in [0, QUARANTINE_MS] {
        let plan =
            successor.plan(&auditor.state, &wanted, &auditor.sight(auditor.now_ms + later_ms));
        assert_eq!(plan.actions, [], "{plan}");
    }
    auditor
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_life_ends_with_what_is_wanted(
        steps in prop::collection::vec(any_step(), 1..12),
        seed in any::<u64>(),
    ) {
        live(&steps, seed);
    }

    /// Without faults one plan suffices for what is wanted, and a backend that stays keeps its
    /// number and its slots.
    #[test]
    fn what_survives_stays_where_it_is(before in any_snapshot(), after in any_snapshot()) {
        let mut planner = Planner::new(SETTINGS);
        let mut state = KernelState::default();
        let mut numbers = Vec::new();
        for snapshot in [&before, &after] {
            for action in planner.plan(&state, snapshot, &sight(1)).actions {
                state.absorb(action);
            }
            // Another frontend is the first of its ring only when its predecessor has left, and flags
            // are not raised and lowered at once.
            for action in planner.plan(&state, snapshot, &sight(1)).actions {
                let is_next = matches!(
                    action,
                    Action::PutFrontend { records_replies: false, .. }
                        | Action::SetRecordsReplies { records_replies: false, .. }
                        | Action::PutReplyDefault { .. }
                        | Action::SetFlags { .. }
                );
                prop_assert!(is_next, "{}", action);
                state.absorb(action);
            }
            let again = planner.plan(&state, snapshot, &sight(1));
            prop_assert_eq!(again.actions, []);
            let by_hash: BTreeMap<[u64; 2], (u32, u32)> = state
                .backends
                .iter()
                .map(|(number, backend)| (backend.instance_hash, (*number, backend.generation)))
                .collect();
            numbers.push(by_hash);
        }
        for (hash, number) in &numbers[0] {
            prop_assert_eq!(numbers[1].get(hash), Some(number));
        }
    }
}

/// The faults are real.
#[test]
fn faults_do_happen() {
    let mut auditor = Auditor::new(1);
    assert_eq!(auditor.fail_percent, 10);
    let failing = (0..1000).filter(|_| auditor.is_failing()).count();
    assert!((50..150).contains(&failing), "{failing}");
}

/// A reply program that cannot be attached costs its own backend and nothing else.
#[test]
fn a_veth_that_refuses_is_left_out() {
    struct Refusing(KernelState);
    impl Kernel for Refusing {
        fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
            if *action == (Action::AttachReply { ifindex: 2 }) {
                let cause = "no such device".to_owned();
                return Err(KernelError { action: action.to_string(), cause, is_absent: true });
            }
            self.0.execute(action)
        }
    }
    let backends = vec![backend("1", 1, 1), backend("2", 2, 2)];
    let snapshot = snapshot(vec![service("web", &[80], backends)]);
    let mut planner = Planner::new(SETTINGS);
    let mut kernel = Refusing(KernelState::default());
    let mut mirror = KernelState::default();
    let mut attempts = Vec::new();
    let mut now_ms = 0;
    for _ in 0..7 {
        let outcome =
            reconcile(&mut planner, &mut kernel, &mut mirror, &snapshot, &mut || sight(now_ms));
        assert!(outcome.is_settled);
        let [refusal] = &outcome.refusals[..] else { panic!("{outcome:?}") };
        assert_eq!(refusal.object, "backend `web-2` of service `web`");
        assert_eq!(refusal.message, "veth 2: attach: no such device");
        assert_eq!(outcome.failures.len(), 1);
        assert_eq!(mirror.rings[&0].slots[0].cur(), 1);
        attempts.push(now_ms);
        now_ms = outcome.due_ms.unwrap();
    }
    assert_eq!(attempts, [0, 1000, 3000, 7000, 15_000, 31_000, 61_000]);
}
