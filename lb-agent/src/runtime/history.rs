//! What has changed, and why, on its way into the journal.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{clock::wall_clock_ms, orders::Orders, view};
use crate::{
    api::{events::ConflictView, steer::Will, types::RefusalView},
    arbiter,
    health::HealthView,
    journal::{BackendSeen, Chronicle, Draft, Journal, Moment, Seen},
    lifecycle::{Clock, Lifecycle},
    model::{Backend, BackendState, Beside, Conflict, Service, ServiceName, Snapshot},
    provider::file,
    steering::Subject,
};

/// Deaths that are remembered until they are written down.
const DEATHS_MAX: usize = 65_536;

/// What there is now.
pub(super) struct Present<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) health: &'a HealthView,
    pub(super) lifecycle: &'a Lifecycle,
    pub(super) orders: &'a Orders,
    pub(super) refusals: Vec<RefusalView>,
    pub(super) troubles: BTreeMap<&'static str, String>,
}

/// Writes the journal.
#[derive(Debug)]
pub(super) struct History {
    journal: Arc<Journal>,
    chronicle: Chronicle,
    /// Services as they were, and whether they were in panic: what is shared with them is the same.
    services: BTreeMap<ServiceName, (Arc<Service>, bool)>,
    /// Each with the time at which it was first seen, in milliseconds since the epoch.
    conflicts: BTreeMap<Conflict, u64>,
    /// Instances that have died since the latest comparison.
    deaths: BTreeSet<String>,
}

impl History {
    /// That nothing is known of.
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self {
            journal,
            chronicle: Chronicle::default(),
            services: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            deaths: BTreeSet::new(),
        }
    }

    /// An instance is dead.
    pub(super) fn has_died(&mut self, instance: &str) {
        if self.deaths.len() < DEATHS_MAX {
            self.deaths.insert(instance.to_owned());
        }
    }

    /// Writes events down.
    pub(super) fn note(&self, drafts: Vec<Draft>, now_ms: u64) {
        if !drafts.is_empty() {
            self.journal.write(drafts, Moment { at_ms: wall_clock_ms(), uptime_ms: now_ms });
        }
    }

    /// Writes down what has changed.
    pub(super) fn write(&mut self, present: &Present<'_>, now_ms: u64) {
        let mut drafts = self.compare_conflicts(present.snapshot);
        let changed = self.changed(present);
        let deaths = &self.deaths;
        let seen = present.seen(&changed);
        let why = |subject: &Subject| present.why(subject, deaths);
        drafts.extend(self.chronicle.compare(seen, &changed, why));
        self.deaths.clear();
        self.note(drafts, now_ms);
    }

    /// Services that are not what they were. In panic what is shown of a backend is not in the service.
    fn changed(&mut self, present: &Present<'_>) -> BTreeSet<ServiceName> {
        let services = &present.snapshot.services;
        let mut known = Beside::new(&self.services);
        let mut others = Vec::new();
        for (name, service) in services {
            let is_panic = present.health.panics().contains_key(name);
            let was_panic = known.same(service, |(then, _)| then).map(|(_, was_panic)| *was_panic);
            if is_panic || was_panic != Some(false) {
                others.push((name.clone(), (Arc::clone(service), is_panic)));
            }
        }
        let mut changed: BTreeSet<_> = others.iter().map(|(name, _)| name.clone()).collect();
        self.services.extend(others);
        if self.services.len() > services.len() {
            let gone = self.services.extract_if(.., |name, _| !services.contains_key(name));
            changed.extend(gone.map(|(name, _)| name));
        }
        changed
    }

    fn compare_conflicts(&mut self, snapshot: &Snapshot) -> Vec<Draft> {
        let at_ms = wall_clock_ms();
        let mut before = mem::take(&mut self.conflicts);
        let mut drafts = Vec::new();
        for conflict in &snapshot.conflicts {
            let since_ms = before.remove(conflict);
            if since_ms.is_none() {
                let Conflict { frontend, contender, owner, owned, .. } = conflict;
                let what = format!("conflict: wants {frontend}, but {owner} has {owned}");
                drafts.push(Draft::of(&contender.0, what));
            }
            self.conflicts.insert(conflict.clone(), since_ms.unwrap_or(at_ms));
        }
        drafts.extend(before.into_keys().map(|Conflict { frontend, contender, .. }| {
            Draft::of(&contender.0, format!("no longer in conflict about {frontend}"))
        }));
        drafts
    }

    /// For the API.
    pub(super) fn conflicts(&self, snapshot: &Snapshot) -> Vec<ConflictView> {
        let view = |conflict: &Conflict| ConflictView {
            frontend: conflict.frontend,
            owned: conflict.owned,
            owner: conflict.owner.clone(),
            owner_source: conflict.owner_source.clone(),
            contender: conflict.contender.clone(),
            contender_source: conflict.contender_source.clone(),
            since_ms: self.conflicts.get(conflict).copied().unwrap_or_default(),
        };
        snapshot.conflicts.iter().map(view).collect()
    }
}

impl Present<'_> {
    fn seen(&self, changed: &BTreeSet<ServiceName>) -> Seen {
        let services = changed.iter().filter_map(|name| self.snapshot.services.get(name));
        let backends = services.clone().flat_map(|service| {
            // It changes by itself, step by step.
            let grows = service.policy.slow_start_seconds.value > 0;
            service.backends.iter().map(move |backend| {
                let seen = BackendSeen {
                    name: backend.display_name.clone(),
                    address: backend.address,
                    state: self.health.shown_state(&service.name, backend),
                    weight: (!grows).then_some(backend.weight),
                    yields: arbiter::yields(service, backend),
                };
                (Subject::new(&service.name, backend), seen)
            })
        });
        let replicas = services
            .clone()
            .filter_map(|service| Some((service.name.clone(), view::replicas(service)?)));
        let replicas = replicas.collect();
        let frontends = services.flat_map(|service| {
            service.frontends.iter().map(|frontend| (*frontend, service.name.clone()))
        });
        let refusals =
            self.refusals.iter().map(|refusal| (refusal.object.clone(), refusal.message.clone()));
        Seen {
            backends: backends.collect(),
            frontends: frontends.collect(),
            replicas,
            panics: self.health.panics().keys().cloned().collect(),
            refusals: refusals.collect(),
            troubles: self.troubles.clone(),
        }
    }

    /// Why a backend is what it is now, or is no longer there.
    fn why(&self, subject: &Subject, deaths: &BTreeSet<String>) -> Option<String> {
        let service = self.snapshot.services.get(&subject.service);
        let backend = service.and_then(|service| {
            Some((service, service.backends.iter().find(|it| subject.is(it))?))
        });
        let Some((service, backend)) = backend else {
            let is_dead = deaths.contains(&subject.instance);
            return is_dead.then(|| "its process has ended".to_owned());
        };
        let reason = reason(service, backend, self.orders, self.lifecycle, None, None);
        reason.or_else(|| self.health.cause(&service.name, backend).map(str::to_owned))
    }
}

/// Why a backend is in its state: what it was told, else what its probes found, if that is given.
/// With the time that it is now, also how long that lasts.
pub(super) fn reason(
    service: &Service,
    backend: &Backend,
    orders: &Orders,
    lifecycle: &Lifecycle,
    found: Option<&str>,
    now_ms: Option<u64>,
) -> Option<String> {
    let name = &service.name;
    let order = orders.of(name, backend);
    let who = match (order.and_then(|order| order.will), orders.provided(name, backend)) {
        (Some(Will::Drain), _) => order.map(|order| format!("drained by {}", order.by)),
        (Some(Will::Disable), _) => order.map(|order| format!("disabled by {}", order.by)),
        (Some(Will::Serve), Some(BackendState::Draining))
            if !matches!(backend.state, BackendState::Draining | BackendState::Gone) =>
        {
            order.map(|order| format!("told to end, kept by {}", order.by))
        }
        (_, Some(BackendState::Draining)) if backend.instance.is_empty() => {
            Some(file::LEFT.to_owned())
        }
        (_, Some(BackendState::Draining)) => Some("told to end".to_owned()),
        (_, Some(BackendState::Unhealthy)) => Some("paused".to_owned()),
        _ => None,
    };
    let who = who.or_else(|| found.map(str::to_owned));
    let has_clock = matches!(
        backend.state,
        BackendState::Draining | BackendState::Unhealthy | BackendState::Gone
    );
    let clock = if has_clock { lifecycle.clock(name, &service.policy, backend) } else { None };
    let time = match (backend.state, clock) {
        (BackendState::Gone, Some(Clock::Drain(_))) => Some("its time to drain is over".to_owned()),
        (BackendState::Gone, Some(Clock::Grace(_))) => Some("unhealthy for too long".to_owned()),
        (_, Some(clock)) => now_ms.map(|now_ms| {
            let left = clock.ends_ms().saturating_sub(now_ms).div_ceil(1000);
            format!("{left} s left")
        }),
        (_, None) => None,
    };
    let parts: Vec<String> = who.into_iter().chain(time).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
