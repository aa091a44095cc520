//! The runtime's side of health: what was told about the backends of the snapshot, and what follows
//! for each service.
//!
//! It neither waits nor probes. Backends of the snapshot become targets, for health to follow; what
//! health found out so far becomes their state.

use std::{
    borrow::Cow,
    collections::{
        BTreeMap, HashSet,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::Arc,
};

use lb_common::abi::{TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS};
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
    model::{Backend, BackendState, Beside, InitialState, Probe, Service, ServiceName, Snapshot},
    plan::{HashIndex, HeldStates, KernelState, instance_hash},
};

/// Targets of one service. As long as none of them changes, it is the same allocation.
pub type TargetGroup = Arc<Vec<Arc<Target>>>;

/// All targets, as the prober is told them.
pub type Targets = Arc<Vec<TargetGroup>>;

/// What is known of the backends of the snapshot.
#[derive(Debug, Default)]
pub struct HealthView {
    entries: HashIndex<Entry>,
    services: BTreeMap<ServiceName, Judged>,
    targets: watch::Sender<Targets>,
    stats: Arc<Stats>,
    panics: BTreeMap<ServiceName, PanicState>,
    next_generation: u64,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    standing: Standing,
    /// What its latest change of health was caused by.
    cause: Option<String>,
    /// As it was when it was judged last.
    service: Arc<Service>,
}

/// What became of a service. As long as it comes as it did, and nothing new is known of its backends,
/// it becomes the same again.
#[derive(Debug)]
struct Judged {
    /// As it came.
    before: Arc<Service>,
    /// With the states of its backends.
    after: Arc<Service>,
    panic: Option<PanicState>,
    /// Its backends that are followed.
    targets: TargetGroup,
    /// Something new is known.
    is_stale: bool,
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
    /// It is only the data path that saw them fail, and there is nobody else.
    pub is_last_resort: bool,
}

impl Judged {
    /// Whether something else would become of the service, now that this is known of its backends.
    fn would_be_another(&self, standing: impl Fn(&TargetKey) -> Option<Standing>) -> bool {
        let mut targets = self.targets.iter();
        let standings = self.before.backends.iter().map(|backend| {
            let is_followed = backend.state != BackendState::Disabled;
            is_followed.then(|| targets.next().and_then(|it| standing(&it.key))).flatten()
        });
        let standings: Vec<_> = standings.collect();
        let mut service = Arc::clone(&self.before);
        let panic = judge(&mut service, &standings);
        panic != self.panic || service != self.after
    }
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
    pub fn probe_view(&self, key: TargetKey) -> Option<ProbeView> {
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
        let mut doubtful = HashSet::new();
        for change in changes {
            let entry = self.entries.get_mut(&change.key);
            let Some(entry) = entry.filter(|it| it.target.generation == change.generation) else {
                continue;
            };
            if entry.standing.health != change.standing.health {
                log(&entry.target, change);
                entry.cause = Some(change.cause.clone());
            }
            if entry.standing == change.standing {
                continue;
            }
            let is_other_health = entry.standing.health != change.standing.health;
            entry.standing = change.standing;
            match self.services.get_mut(&entry.service.name) {
                Some(judged) if is_other_health => judged.is_stale = true,
                Some(_) => drop(doubtful.insert(entry.service.name.clone())),
                None => {}
            }
            is_changed |= is_other_health;
        }
        // How it fails may change with every probe, and mostly nothing follows from that.
        for name in doubtful {
            let entries = &self.entries;
            if let Some(judged) = self.services.get_mut(&name)
                && !judged.is_stale
                && judged.would_be_another(|key| Some(entries.get(key)?.standing))
            {
                judged.is_stale = true;
                is_changed = true;
            }
        }
        is_changed
    }

    /// Gives the backends of a snapshot the states that are known of them, and tells health whom it
    /// has to follow. A backend that nothing is known of yet begins as a predecessor of this agent
    /// left it in the kernel.
    pub fn apply(&mut self, snapshot: &mut Snapshot, kernel: &KernelState) {
        // Few plans have new backends.
        let held = HeldStates::new(kernel);
        self.apply_to(snapshot, |service, key| held.of(service, &key));
    }

    fn apply_to(
        &mut self,
        snapshot: &mut Snapshot,
        adopted: impl Fn(&ServiceName, TargetKey) -> Option<u8>,
    ) {
        let mut judged = Beside::new(&mut self.services);
        let mut others = Vec::new();
        for (name, service) in &mut snapshot.services {
            match judged.same(service, |judged| &judged.before) {
                Some(judged) if !judged.is_stale => {
                    if !Arc::ptr_eq(&judged.after, service) {
                        *service = Arc::clone(&judged.after);
                    }
                }
                _ => others.push(name.clone()),
            }
        }
        let mut is_changed = false;
        let mut panics = self.panics.clone();
        for name in others {
            let Some(service) = snapshot.services.get_mut(&name) else { continue };
            is_changed |= self.judge(service, &adopted);
            match self.services.get(&name).and_then(|judged| judged.panic) {
                Some(panic) => drop(panics.insert(name, panic)),
                None => drop(panics.remove(&name)),
            }
        }
        if self.services.len() > snapshot.services.len() {
            let entries = &mut self.entries;
            self.services.retain(|name, judged| {
                let is_there = snapshot.services.contains_key(name);
                if !is_there {
                    is_changed |= !judged.targets.is_empty();
                    judged.targets.iter().for_each(|it| drop(entries.remove(&it.key)));
                    panics.remove(name);
                }
                is_there
            });
        }
        if is_changed {
            self.send_targets();
        }
        self.tell_panics(panics);
    }

    /// Gives the backends of a service their states. True: others are to be followed than before.
    fn judge(
        &mut self,
        service: &mut Arc<Service>,
        adopted: impl Fn(&ServiceName, TargetKey) -> Option<u8>,
    ) -> bool {
        let before = Arc::clone(service);
        let probe = service.policy.probe().map(Arc::new);
        let known = self.services.remove(&service.name).map(|it| it.targets).unwrap_or_default();
        let mut targets = Vec::with_capacity(service.backends.len());
        let mut standings = Vec::with_capacity(service.backends.len());
        for backend in &before.backends {
            // Who is taken out by an operator is left alone.
            if backend.state == BackendState::Disabled {
                standings.push(None);
                continue;
            }
            let entry = self.follow(&before, backend, probe.as_ref(), &adopted);
            targets.push(Arc::clone(&entry.target));
            standings.push(Some(entry.standing));
        }
        let is_same = known.len() == targets.len()
            && known.iter().zip(&targets).all(|(known, it)| Arc::ptr_eq(known, it));
        let targets = if is_same { known } else { self.replaced(&known, targets) };
        let panic = judge(service, &standings);
        let after = Arc::clone(service);
        let judged = Judged { before, after, panic, targets, is_stale: false };
        self.services.insert(service.name.clone(), judged);
        !is_same
    }

    /// Others are followed from now on.
    fn replaced(&mut self, known: &TargetGroup, targets: Vec<Arc<Target>>) -> TargetGroup {
        let there: HashSet<TargetKey> = targets.iter().map(|target| target.key).collect();
        for gone in known.iter().filter(|target| !there.contains(&target.key)) {
            self.entries.remove(&gone.key);
        }
        Arc::new(targets)
    }

    fn send_targets(&self) {
        let followed = self.services.values().filter(|judged| !judged.targets.is_empty());
        let groups = followed.map(|judged| Arc::clone(&judged.targets));
        self.targets.send_replace(Arc::new(groups.collect()));
    }

    /// The entry of a backend, whose target is another one where health has to be told of it.
    fn follow(
        &mut self,
        service: &Arc<Service>,
        backend: &Backend,
        probe: Option<&Arc<Probe>>,
        adopted: impl Fn(&ServiceName, TargetKey) -> Option<u8>,
    ) -> &Entry {
        let key = instance_hash(&service.name, backend);
        match self.entries.entry(key) {
            Occupied(entry) => {
                let entry = entry.into_mut();
                entry.service = Arc::clone(service);
                let is_same = entry.target.is_of(service, backend, probe);
                if !is_same {
                    let generation = entry.target.generation;
                    let health = entry.standing.health;
                    let target = Target::new(service, backend, probe, generation, health);
                    entry.target = Arc::new(target);
                }
                entry
            }
            Vacant(entry) => {
                let generation = self.next_generation;
                self.next_generation += 1;
                let assumed =
                    assumed(adopted(&service.name, key), service.policy.probe_initial.value);
                let target = Target::new(service, backend, probe, generation, assumed);
                let target = Arc::new(target);
                let standing = Standing::assumed(target.assumed);
                let service = Arc::clone(service);
                entry.insert(Entry { target, standing, cause: None, service })
            }
        }
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
    pub fn found(&self, key: TargetKey) -> Option<Cow<'static, str>> {
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
                let PanicState { healthy, drafted, judged, is_last_resort } = state;
                if *is_last_resort {
                    tracing::warn!(
                        "{name}: no backend is left but {drafted} that the traffic shows to fail; \
                         they get new connections all the same, because there is nobody else"
                    );
                    continue;
                }
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
                is_observed: standing.is_observed,
            });
        }
    }
    let panic = panic(&candidates, service.policy.panic_percent.value)?;
    for candidate in &panic.drafted {
        let backend = &mut Arc::make_mut(service).backends[indexes[*candidate]];
        backend.state = BackendState::Healthy;
    }
    Some(PanicState {
        healthy: panic.healthy,
        drafted: panic.drafted.len(),
        judged: panic.judged,
        is_last_resort: panic.is_last_resort,
    })
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
///
/// One of weight 0 takes no new flows, whatever its health; but only one that is unhealthy gives its flows
/// of UDP away.
fn assumed(held: Option<u8>, initial: InitialState) -> Health {
    match held {
        Some(bits) if bits & (TAKES_NEW | TAKES_OLD_DATAGRAMS) != 0 => Health::Healthy,
        Some(bits) if bits & TAKES_OLD != 0 => Health::Unhealthy,
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
mod tests;
