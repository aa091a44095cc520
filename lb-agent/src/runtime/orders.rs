//! Orders of operators where the runtime keeps them: in force, in the file, and beside what providers
//! say of the same backends.

use std::collections::{BTreeMap, BTreeSet};

use super::{leaving::Leaving, ledger::Ledger};
use crate::{
    api::steer::{SteerError, SteerRequest, SteeringView},
    model::{Backend, BackendState, QuietServices, ServiceName, Snapshot},
    steering::{Giver, Steering, Store, Subject, Told},
};

/// Time for which a container that is not known to be dead may be asked for by nobody without its orders
/// being forgotten: it may be between two networks, or its labels between two configurations.
const AWAY_MAX_MS: u64 = 10 * 60 * 1000;

/// Orders, and what they meet.
#[derive(Debug)]
pub(super) struct Orders {
    steering: Steering,
    store: Option<Store>,
    /// Of orders for containers that nobody asks for: since when.
    away: BTreeMap<Subject, u64>,
    /// Instances with orders that have died, until those are forgotten.
    dead: BTreeSet<String>,
    /// Backends that are not in order by the word of their provider.
    provided: BTreeMap<Subject, BackendState>,
    /// Services all of whose backends are in order.
    in_order: QuietServices,
}

impl Orders {
    /// Those that a predecessor kept.
    pub(super) fn load(store: Option<Store>) -> Self {
        let loaded = store.as_ref().map_or_else(|| Ok(Steering::default()), Store::load);
        let steering = loaded.unwrap_or_else(|message| {
            tracing::error!("{message}");
            Steering::default()
        });
        Self {
            steering,
            store,
            away: BTreeMap::new(),
            dead: BTreeSet::new(),
            provided: BTreeMap::new(),
            in_order: QuietServices::default(),
        }
    }

    /// Takes an order for those named backends that are served.
    pub(super) fn take<'a>(
        &mut self,
        request: &SteerRequest,
        named: impl Iterator<Item = (&'a ServiceName, &'a Backend)>,
        is_served: impl Fn(&Subject) -> bool,
        giver: Giver<'_>,
    ) -> Result<Vec<Told>, SteerError> {
        let served = named.filter(|(service, backend)| is_served(&Subject::new(service, backend)));
        self.steering.take(request, served, giver)
    }

    /// Keeps them in the file. Returns what is to be said when that is not possible.
    pub(super) fn save(&self) -> Option<String> {
        let error = self.store.as_ref()?.save(&self.steering).err()?;
        let message =
            format!("cannot be kept in `state_path` and is forgotten with the agent: {error}");
        tracing::warn!("orders of operators: {message}");
        Some(message)
    }

    /// An instance is dead: what it was told is forgotten when nobody names it any more.
    pub(super) fn has_died(&mut self, instance: &str) {
        if self.steering.is_about(instance) {
            self.dead.insert(instance.to_owned());
        }
    }

    /// Gives the backends of a snapshot what operators want, and forgets orders for those who are
    /// gone.
    pub(super) fn apply(
        &mut self,
        snapshot: &mut Snapshot,
        ledger: &Ledger,
        leaving: &Leaving,
        now_ms: u64,
    ) {
        self.provided.clear();
        let Self { provided, in_order, .. } = self;
        in_order.look_at_others(&mut snapshot.services, |service| {
            let other = service.backends.iter().filter(|it| it.state != BackendState::Healthy);
            let before = provided.len();
            provided.extend(other.map(|it| (Subject::new(&service.name, it), it.state)));
            provided.len() == before
        });
        if self.steering.is_empty() {
            return;
        }
        // Who is not named by those who do not know everything may be there.
        if ledger.is_complete() {
            let there = ledger.named().chain(leaving.backends());
            let there: BTreeSet<Subject> =
                there.map(|(service, backend)| Subject::new(service, backend)).collect();
            if self.forget_others(&there, now_ms) {
                self.save();
            }
        }
        self.steering.apply(snapshot);
    }

    /// Forgets orders for those who are gone, and for containers that are away for too long. True: there
    /// were some.
    fn forget_others(&mut self, there: &BTreeSet<Subject>, now_ms: u64) -> bool {
        let Self { steering, away, dead, .. } = self;
        let mut still_away = BTreeMap::new();
        let has_forgotten = steering.retain(|subject| {
            if there.contains(subject) {
                return true;
            }
            if subject.instance.is_empty() || dead.contains(&subject.instance) {
                return false;
            }
            let since_ms = away.get(subject).copied().unwrap_or(now_ms);
            still_away.insert(subject.clone(), since_ms);
            now_ms.saturating_sub(since_ms) < AWAY_MAX_MS
        });
        *away = still_away;
        dead.retain(|instance| steering.is_about(instance));
        has_forgotten
    }

    /// What operators want of a backend.
    pub(super) fn of(&self, service: &ServiceName, backend: &Backend) -> Option<&SteeringView> {
        self.steering.of(service, backend)
    }

    /// What its provider says of it, other than that it runs.
    pub(super) fn provided(
        &self,
        service: &ServiceName,
        backend: &Backend,
    ) -> Option<BackendState> {
        if self.provided.is_empty() {
            return None;
        }
        self.provided.get(&Subject::new(service, backend)).copied()
    }
}
