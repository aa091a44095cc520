//! What was granted last, so that a change of one service costs no look at those that have nothing to
//! do with it.
//!
//! It is always what [`super::arbitrate`] makes of all claims. Where nothing was refused and nobody is in
//! anybody's way, the services depend on their own claims only, and those whose claims have not
//! changed stay; everything else is arbitrated anew.

use std::{collections::BTreeSet, mem, sync::Arc};

use super::{Incumbents, Limits, Outcome, outcome, union};
use crate::model::{Claim, FrontendAddress, Refusal, Service, ServiceName, Snapshot};

/// More changes than this are not looked at one by one.
const TOUCHED_MAX: usize = 128;
/// Entries that a frontend of one port may need: its own, and its VIP's.
const ENTRIES_MAX: usize = 2;

/// The latest outcome.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    snapshot: Snapshot,
    refusals: Vec<Refusal>,
    /// Something was refused, beside what is told of services that wait for each other.
    is_refused: bool,
    /// What it depends on beside the claims; `None`: nothing was arbitrated yet.
    incumbents: Option<Incumbents>,
}

impl Granted {
    /// What the node should have.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What was not granted.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Brings it up to date. `touched` are the services whose claims may be others than before;
    /// `claims` gives those of all services, or only of the touched ones.
    pub fn update(
        &mut self,
        touched: &BTreeSet<ServiceName>,
        incumbents: Incumbents,
        claims: impl Fn(Option<&BTreeSet<ServiceName>>) -> Vec<Claim>,
    ) {
        let is_settled = touched.is_empty()
            && self.incumbents.as_ref().is_some_and(|it| self.is_simple() || *it == incumbents);
        if is_settled {
            return;
        }
        if !self.is_simple()
            || touched.len() > TOUCHED_MAX
            || !self
                .replace(touched, || outcome(claims(Some(touched)), &incumbents, Limits::default()))
        {
            let before = mem::take(&mut self.snapshot);
            let Outcome { snapshot, refusals, circles } =
                outcome(claims(None), &incumbents, Limits::default());
            self.snapshot = snapshot;
            self.is_refused = !refusals.is_empty();
            self.refusals = union(refusals, circles);
            self.share(&before);
        }
        self.incumbents = Some(incumbents);
    }

    /// Services that are as they were are the same as before, for those who remember them.
    fn share(&mut self, before: &Snapshot) {
        for (name, service) in &mut self.snapshot.services {
            if let Some(known) = before.services.get(name).filter(|known| *known == service) {
                *service = Arc::clone(known);
            }
        }
    }

    /// Whether nothing was refused, and no address chosen.
    fn is_simple(&self) -> bool {
        let Snapshot { conflicts, names, .. } = &self.snapshot;
        self.incumbents.is_some() && !self.is_refused && conflicts.is_empty() && names.is_empty()
    }

    /// Puts services in the place of the touched ones. False: they are in somebody's way, or in their
    /// own, or there may be no room.
    fn replace(
        &mut self,
        touched: &BTreeSet<ServiceName>,
        arbitrate: impl FnOnce() -> Outcome,
    ) -> bool {
        let Outcome { snapshot: new, refusals, .. } = arbitrate();
        // Whether services wait for each other is seen of all of them only.
        let waits = |service: &Arc<Service>| !service.policy.depends.value.is_empty();
        let mut before = touched.iter().filter_map(|name| self.snapshot.services.get(name));
        if !refusals.is_empty()
            || !new.conflicts.is_empty()
            || !new.names.is_empty()
            || new.services.values().any(waits)
            || before.any(waits)
        {
            return false;
        }
        let others = || {
            let services = self.snapshot.services.iter();
            services.filter(|(name, _)| !touched.contains(*name)).map(|(_, service)| &**service)
        };
        let frontends = || new.services.values().flat_map(|service| &service.frontends);
        let is_in_the_way = |other: &FrontendAddress| {
            frontends().any(|one| {
                (one.vip, one.protocol) == (other.vip, other.protocol)
                    && one.ports.overlap(other.ports)
            })
        };
        if frontends().any(|frontend| frontend.ports.is_wide())
            || others().flat_map(|service| &service.frontends).any(is_in_the_way)
            || !has_room(others().chain(new.services.values().map(|service| &**service)))
        {
            return false;
        }
        let services = &mut self.snapshot.services;
        services.retain(|name, _| !touched.contains(name));
        services.extend(new.services);
        true
    }
}

/// Whether there is room for these, counted generously.
fn has_room<'a>(services: impl Iterator<Item = &'a Service>) -> bool {
    let limits = Limits::default();
    let (mut count, mut backends, mut frontends) = (0, 0, 0);
    for service in services {
        count += 1;
        backends += service.backends.len();
        frontends += service.frontends.len();
    }
    count <= limits.services
        && backends <= limits.backends
        && frontends * (ENTRIES_MAX + 1) <= limits.frontends
}

#[cfg(test)]
mod tests;
