//! The runtime's side of health: what was told about the backends of the snapshot, and what follows
//! for each service.
//!
//! It neither waits nor probes. Backends of the snapshot become targets, for health to follow; what
//! health found out so far becomes their state.

use std::{
    borrow::Cow,
    cell::OnceCell,
    collections::{
        BTreeMap, HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    panic::{Candidate, panic},
    stats::{ProbeStats, Stats},
    target::{Change, Standing, Target, TargetKey},
    tracker::Health,
};
use crate::{
    api::types::ProbeView,
    arbiter,
    model::{Backend, BackendState, InitialState, Probe, Service, ServiceName, Snapshot},
    plan::{KernelState, instance_hash},
};

/// All targets, as the prober is told them.
pub type Targets = Arc<Vec<Arc<Target>>>;

/// What is known of the backends of the snapshot.
#[derive(Debug, Default)]
pub struct HealthView {
    entries: HashMap<TargetKey, Entry>,
    targets: watch::Sender<Targets>,
    stats: Arc<Stats>,
    panics: BTreeMap<ServiceName, PanicState>,
    next_generation: u64,
    round: u64,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    standing: Standing,
    /// What its latest change of health was caused by.
    cause: Option<String>,
    /// The latest snapshot that had it.
    round: u64,
}

/// A service in panic, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PanicState {
    /// Backends that are healthy.
    pub healthy: usize,
    /// Backends that take new flows although they fail.
    pub drafted: usize,
    /// Backends that are healthy or unhealthy.
    pub judged: usize,
}

impl HealthView {
    /// What is to be probed, whenever it changes.
    pub fn targets(&self) -> watch::Receiver<Targets> {
        self.targets.subscribe()
    }

    /// Where the prober counts, and everybody else reads.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// What the probes of a backend came to, for people.
    pub fn probe_view(&self, service: &ServiceName, backend: &Backend) -> Option<ProbeView> {
        let key = instance_hash(service, backend);
        self.entries.get(&key)?.target.probe.as_ref()?;
        let stats = self.stats.of(key).unwrap_or_default();
        let counted = stats.passed + stats.failed;
        let sum_ms = stats.durations.sum.as_secs_f64() * 1000.0;
        Some(ProbeView {
            passed: stats.passed,
            failed: stats.failed,
            inconclusive: stats.inconclusive,
            latest: stats.latest.into_owned(),
            mean_ms: if counted == 0 { 0.0 } else { sum_ms / counted as f64 },
            changes: stats.changes,
        })
    }

    /// Takes in what health found out. True: the snapshot has to be made anew.
    pub fn take(&mut self, changes: &[Change]) -> bool {
        let mut is_changed = false;
        for change in changes {
            let entry = self.entries.get_mut(&change.key);
            let Some(entry) = entry.filter(|it| it.target.generation == change.generation) else {
                continue;
            };
            if entry.standing.health != change.standing.health {
                log(&entry.target, change);
                entry.cause = Some(change.cause.clone());
            }
            is_changed |= entry.standing != change.standing;
            entry.standing = change.standing;
        }
        is_changed
    }

    /// Gives the backends of a snapshot the states that are known of them, and tells health whom it
    /// has to follow. A backend that nothing is known of yet begins as a predecessor of this agent
    /// left it in the kernel.
    pub fn apply(&mut self, snapshot: &mut Snapshot, kernel: &KernelState) {
        // Few plans have new backends.
        let held = OnceCell::new();
        self.apply_to(snapshot, |key| held.get_or_init(|| kernel.states()).get(&key).copied());
    }

    fn apply_to(&mut self, snapshot: &mut Snapshot, adopted: impl Fn(TargetKey) -> Option<u8>) {
        self.round += 1;
        let mut is_changed = false;
        let mut targets = Vec::with_capacity(self.entries.len());
        let mut panics = BTreeMap::new();
        for service in snapshot.services.values_mut() {
            let probe = service.policy.probe().map(Arc::new);
            let mut standings = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                // Who is taken out by an operator is left alone.
                if backend.state == BackendState::Disabled {
                    standings.push(None);
                    continue;
                }
                let (entry, is_new) = self.follow(service, backend, probe.as_ref(), &adopted);
                targets.push(Arc::clone(&entry.target));
                standings.push(Some(entry.standing));
                is_changed |= is_new;
            }
            if let Some(state) = judge(service, &standings) {
                panics.insert(service.name.clone(), state);
            }
        }
        let round = self.round;
        let known = self.entries.len();
        self.entries.retain(|_, entry| entry.round == round);
        if is_changed || known != self.entries.len() {
            self.targets.send_replace(Arc::new(targets));
        }
        self.tell_panics(panics);
    }

    /// The entry of a backend, and whether health has to be told of it.
    fn follow(
        &mut self,
        service: &Service,
        backend: &Backend,
        probe: Option<&Arc<Probe>>,
        adopted: impl Fn(TargetKey) -> Option<u8>,
    ) -> (&Entry, bool) {
        let name = &service.name;
        let key = instance_hash(name, backend);
        let (entry, is_new) = match self.entries.entry(key) {
            Occupied(entry) if entry.get().target.is_of(backend, probe) => {
                (entry.into_mut(), false)
            }
            Occupied(entry) => {
                let entry = entry.into_mut();
                let generation = entry.target.generation;
                let health = entry.standing.health;
                entry.target = Arc::new(Target::new(name, backend, probe, generation, health));
                (entry, true)
            }
            Vacant(entry) => {
                let generation = self.next_generation;
                self.next_generation += 1;
                let assumed = assumed(adopted(key), service.policy.probe_initial.value);
                let target = Target::new(name, backend, probe, generation, assumed);
                let target = Arc::new(target);
                let standing = Standing::assumed(target.assumed);
                (entry.insert(Entry { target, standing, cause: None, round: 0 }), true)
            }
        };
        entry.round = self.round;
        (entry, is_new)
    }

    /// The state to show for a backend. In panic the snapshot says that it takes new flows, which is
    /// not what is known of it.
    pub fn shown_state(&self, service: &ServiceName, backend: &Backend) -> BackendState {
        if !self.panics.contains_key(service) || backend.state != BackendState::Healthy {
            return backend.state;
        }
        let entry = self.entries.get(&instance_hash(service, backend));
        entry.map_or(backend.state, |entry| state_of(entry.standing.health))
    }

    /// What was found that keeps a backend from being healthy, for people: what its latest change was
    /// caused by; of one that has not changed since it is known, what its latest probe came to.
    pub fn found(&self, service: &ServiceName, backend: &Backend) -> Option<Cow<'static, str>> {
        let key = instance_hash(service, backend);
        let entry = self.entries.get(&key)?;
        if entry.standing.health == Health::Healthy {
            return None;
        }
        let stats = || self.stats.of(key);
        let is_probed = |stats: &ProbeStats| stats.passed + stats.failed + stats.inconclusive > 0;
        let probed = || stats().filter(is_probed).map(|stats| stats.latest);
        entry.cause.clone().map(Cow::Owned).or_else(probed)
    }

    /// What its latest change of health was caused by.
    pub fn cause(&self, service: &ServiceName, backend: &Backend) -> Option<&str> {
        self.entries.get(&instance_hash(service, backend))?.cause.as_deref()
    }

    /// Services in panic.
    pub fn panics(&self) -> &BTreeMap<ServiceName, PanicState> {
        &self.panics
    }

    fn tell_panics(&mut self, panics: BTreeMap<ServiceName, PanicState>) {
        for (name, state) in &panics {
            if self.panics.get(name) != Some(state) {
                let PanicState { healthy, drafted, judged } = state;
                tracing::error!(
                    "{name}: PANIC: only {healthy} of {judged} backends pass their probes; \
                     {drafted} that fail get new connections all the same, because they live. \
                     Look at what they have in common: a dependency, or the probe itself"
                );
            }
        }
        for name in self.panics.keys().filter(|name| !panics.contains_key(*name)) {
            tracing::warn!("{name}: the panic is over");
        }
        self.panics = panics;
    }
}

/// Gives the backends of a service their states; some of those that fail may have to serve.
fn judge(service: &mut Arc<Service>, standings: &[Option<Standing>]) -> Option<PanicState> {
    let mut judged = Vec::with_capacity(standings.len());
    // Most services are left as they are, and shared.
    let mut changed = Vec::new();
    for (index, (backend, standing)) in service.backends.iter().zip(standings).enumerate() {
        // Who is asked to leave, or not to come yet, stays what he is.
        let Some(standing) = standing.filter(|_| backend.state == BackendState::Healthy) else {
            continue;
        };
        judged.push((index, standing));
        let state = state_of(standing.health);
        if state != backend.state {
            changed.push((index, state));
        }
    }
    for (index, state) in changed {
        Arc::make_mut(service).backends[index].state = state;
    }
    arbiter::yield_to_exclusive(service);
    let mut candidates = Vec::new();
    let mut indexes = Vec::new();
    for (index, standing) in judged {
        if service.backends[index].weight > 0 {
            indexes.push(index);
            candidates.push(Candidate {
                health: standing.health,
                was_healthy: standing.was_healthy,
                is_refusing: standing.is_refusing,
            });
        }
    }
    let panic = panic(&candidates, service.policy.panic_percent.value)?;
    for candidate in &panic.drafted {
        let backend = &mut Arc::make_mut(service).backends[indexes[*candidate]];
        backend.state = BackendState::Healthy;
    }
    Some(PanicState { healthy: panic.healthy, drafted: panic.drafted.len(), judged: panic.judged })
}

fn state_of(health: Health) -> BackendState {
    match health {
        Health::Starting => BackendState::Starting,
        Health::Healthy => BackendState::Healthy,
        Health::Unhealthy => BackendState::Unhealthy,
    }
}

/// What state bits in the kernel say about the health of a backend that a predecessor of this agent
/// followed; without them, what its service says of the new.
fn assumed(held: Option<u8>, initial: InitialState) -> Health {
    match held {
        Some(bits) if bits & lb_common::abi::TAKES_NEW != 0 => Health::Healthy,
        Some(bits) if bits & lb_common::abi::TAKES_OLD != 0 => Health::Unhealthy,
        None if initial == InitialState::Healthy => Health::Healthy,
        Some(_) | None => Health::Starting,
    }
}

fn log(target: &Target, change: &Change) {
    let Target { display_name, address, .. } = target;
    let Change { standing, cause, .. } = change;
    match standing.health {
        Health::Healthy => tracing::info!("{display_name} ({address}) is healthy: {cause}"),
        Health::Starting => tracing::info!("{display_name} ({address}) is starting: {cause}"),
        Health::Unhealthy => tracing::warn!("{display_name} ({address}) is unhealthy: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::abi::{TAKES_NEW, TAKES_OLD};

    use super::*;
    use crate::model::{BackendPath, Origin, Policy, ProbeKind, Setting};

    fn policy() -> Policy {
        let probe = Setting::new(Some(ProbeKind::Tcp { port: None }), Origin::Default);
        Policy { probe, ..Policy::default() }
    }

    fn backend(number: u8, instance: &str, state: BackendState) -> Backend {
        Backend {
            place: number.to_string(),
            instance: instance.to_owned(),
            display_name: format!("web-{number}"),
            address: format!("10.0.0.{number}:80").parse().expect("an address"),
            weight: 100,
            path: BackendPath::Routed,
            state,
            started_at_ms: 0,
            reported: None,
            asked_to_end: None,
            replies: crate::model::ReplyFacts::default(),
        }
    }

    fn name() -> ServiceName {
        ServiceName("web".to_owned())
    }

    fn snapshot(backends: &[Backend], policy: Policy) -> Snapshot {
        let service = Service {
            name: name(),
            frontends: BTreeSet::new(),
            backends: backends.to_vec(),
            policy: Arc::new(policy),
            exclusive: BTreeSet::new(),
        };
        let services = BTreeMap::from([(name(), service.into())]);
        Snapshot { services, ..Snapshot::default() }
    }

    /// Applies, and returns the states of the snapshot and those that are shown.
    fn apply(view: &mut HealthView, backends: &[Backend], held: Option<u8>) -> String {
        apply_with(view, backends, held, policy())
    }

    fn apply_with(
        view: &mut HealthView,
        backends: &[Backend],
        held: Option<u8>,
        policy: Policy,
    ) -> String {
        let mut snapshot = snapshot(backends, policy);
        view.apply_to(&mut snapshot, |_| held);
        let service = &snapshot.services[&name()];
        let states = service.backends.iter().map(|backend| {
            let shown = view.shown_state(&name(), backend);
            if shown == backend.state { shown.to_string() } else { format!("{shown}!") }
        });
        states.collect::<Vec<_>>().join(" ")
    }

    fn tell(view: &mut HealthView, backend: &Backend, health: Health) -> bool {
        let key = instance_hash(&name(), backend);
        let generation = view.entries[&key].target.generation;
        let standing = Standing { health, was_healthy: true, is_refusing: false };
        view.take(&[Change { key, generation, standing, cause: "a test".to_owned() }])
    }

    #[test]
    fn who_is_probed_starts_and_who_is_not_is_healthy() {
        use BackendState::{Disabled, Draining, Healthy};
        let mut view = HealthView::default();
        let backends = [
            backend(1, "a", Healthy),
            backend(2, "b", Healthy),
            backend(3, "c", Draining),
            backend(4, "d", Disabled),
        ];
        assert_eq!(apply(&mut view, &backends, None), "starting starting draining disabled");
        assert_eq!(view.targets().borrow().len(), 3);
        tell(&mut view, &backends[0], Health::Healthy);
        assert_eq!(apply(&mut view, &backends, None), "healthy starting draining disabled");
        let initial = Setting::new(InitialState::Healthy, Origin::Default);
        for policy in [Policy::default(), Policy { probe_initial: initial, ..policy() }] {
            let shown = apply_with(&mut HealthView::default(), &backends, None, policy);
            assert_eq!(shown, "healthy healthy draining disabled");
        }
    }

    #[test]
    fn a_new_agent_begins_with_what_the_kernel_holds() {
        let backends = [backend(1, "a", BackendState::Healthy)];
        for (held, expected) in [
            (TAKES_NEW | TAKES_OLD, "healthy"),
            // It is the only one, so that it is used although it fails.
            (TAKES_OLD, "unhealthy!"),
            (0, "starting"),
        ] {
            assert_eq!(apply(&mut HealthView::default(), &backends, Some(held)), expected);
        }
    }

    #[test]
    fn health_is_told_of_changes_only_and_a_recreated_backend_begins_anew() {
        let mut view = HealthView::default();
        let mut targets = view.targets();
        let first = backend(1, "a", BackendState::Healthy);
        let second = backend(2, "b", BackendState::Healthy);
        apply(&mut view, std::slice::from_ref(&first), None);
        assert!(targets.has_changed().expect("the view is there"));
        let generation = targets.borrow_and_update()[0].generation;
        assert!(tell(&mut view, &first, Health::Healthy));
        assert!(!tell(&mut view, &first, Health::Healthy));
        apply(&mut view, std::slice::from_ref(&first), None);
        assert!(!targets.has_changed().expect("the view is there"));
        let both = [first.clone(), second];
        assert_eq!(apply(&mut view, &both, None), "healthy starting");
        assert_eq!(targets.borrow_and_update().len(), 2);
        // Gone and back between two looks of the prober.
        apply(&mut view, &both[1..], None);
        assert_eq!(apply(&mut view, &both, None), "starting starting");
        assert_ne!(targets.borrow_and_update()[0].generation, generation);
        let key = instance_hash(&name(), &first);
        let standing = Standing::assumed(Health::Healthy);
        let late = Change { key, generation, standing, cause: "late".to_owned() };
        assert!(!view.take(&[late]), "a change of its former self");
    }

    #[test]
    fn other_settings_are_told_and_keep_the_state() {
        let mut view = HealthView::default();
        let mut targets = view.targets();
        let one = backend(1, "a", BackendState::Healthy);
        apply(&mut view, std::slice::from_ref(&one), None);
        tell(&mut view, &one, Health::Healthy);
        let generation = targets.borrow_and_update()[0].generation;
        let interval = Setting::new(1, Origin::Default);
        let other = Policy { probe_interval_ms: interval, ..policy() };
        assert_eq!(apply_with(&mut view, &[one], None, other), "healthy");
        let told = targets.borrow_and_update()[0].clone();
        assert_eq!((told.generation, told.assumed), (generation, Health::Healthy));
    }

    #[test]
    fn panic_uses_who_fails_and_shows_it() {
        let mut view = HealthView::default();
        let mut backends = [1, 2, 3].map(|number| backend(number, "a", BackendState::Healthy));
        apply(&mut view, &backends, None);
        for (healths, expected, is_panic) in [
            ([Health::Healthy; 3], "healthy healthy healthy", false),
            (
                [Health::Healthy, Health::Unhealthy, Health::Unhealthy],
                "healthy unhealthy unhealthy",
                false,
            ),
            ([Health::Unhealthy; 3], "unhealthy! unhealthy! unhealthy!", true),
            (
                [Health::Unhealthy, Health::Unhealthy, Health::Healthy],
                "unhealthy unhealthy healthy",
                false,
            ),
        ] {
            for (backend, health) in backends.iter().zip(healths) {
                tell(&mut view, backend, health);
            }
            assert_eq!(apply(&mut view, &backends, None), expected);
            assert_eq!(view.panics().contains_key(&name()), is_panic);
        }
        // Draining: never. Of weight 0: neither.
        backends[1].state = BackendState::Draining;
        backends[2].weight = 0;
        tell(&mut view, &backends[2], Health::Unhealthy);
        assert_eq!(apply(&mut view, &backends, None), "unhealthy! draining unhealthy");
        let state = view.panics()[&name()];
        assert_eq!((state.healthy, state.drafted, state.judged), (0, 1, 1));
    }
}
