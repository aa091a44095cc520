//! What was granted last, so that a change of one service costs no look at those that have nothing to
//! do with it.
//!
//! It is always what [`super::arbitrate`] makes of all claims. What becomes of a service follows from
//! its own claims only, unless others want the same frontends, or ports of the same ranges; names find
//! addresses among all names, circles are seen of all services that wait, and the tables have room
//! for so many. So long as the services whose claims have changed meet nobody at their frontends, now or
//! before, and there is room for everybody, they alone are arbitrated, and all others stay as they
//! are; else everything is arbitrated anew.

mod usage;
mod wants;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use self::{usage::Usage, wants::Wants};
use super::{Holders, Limits, Outcome, Refusals, circles, outcome, pool::Names, union};
use crate::model::{Claim, Refusal, Service, ServiceName, Snapshot};

/// More changes than this are not looked at one by one.
const TOUCHED_MAX: usize = 128;

/// The latest outcome.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    limits: Limits,
    snapshot: Snapshot,
    /// What is told: `refused`, and `circles`.
    refusals: Vec<Refusal>,
    refused: Refusals,
    circles: BTreeSet<Refusal>,
    names: Names,
    wants: Wants,
    usage: Usage,
    /// Whether all this is of the latest claims.
    is_known: bool,
    /// Whether somebody waits for room that others have.
    is_short: bool,
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
        incumbents: &impl Holders,
        claims: impl Fn(Option<&BTreeSet<ServiceName>>) -> Vec<Claim>,
    ) {
        let of_touched = || if touched.is_empty() { Vec::new() } else { claims(Some(touched)) };
        // Who waits for room may get what any change leaves.
        let is_waiting = self.is_short && !touched.is_empty();
        if !self.is_known
            || is_waiting
            || touched.len() > TOUCHED_MAX
            || !self.wants.is_settled(incumbents)
            || !self.replace(touched, incumbents, of_touched())
        {
            self.arbitrate(incumbents, claims(None));
        }
    }

    /// Everything anew.
    fn arbitrate(&mut self, incumbents: &impl Holders, mut claims: Vec<Claim>) {
        let before = mem::take(&mut self.snapshot);
        self.refused.clear();
        self.names = Names::of(&claims, incumbents);
        self.names.give(&mut claims, &mut self.refused);
        self.wants = Wants::of(&claims, incumbents);
        let Outcome { snapshot, circles, is_short } =
            outcome(claims, incumbents, self.limits, &mut self.refused);
        self.snapshot = snapshot;
        self.snapshot.names = self.names.by_name();
        self.circles = circles;
        self.refusals = union(&self.refused, &self.circles);
        self.usage = self.snapshot.services.values().map(|it| Usage::of(it)).sum();
        (self.is_known, self.is_short) = (true, is_short);
        share(&mut self.snapshot.services, &before);
    }

    /// Puts services in the place of the touched ones. False: others may be concerned, and nothing
    /// that is remembered counts any more.
    fn replace(
        &mut self,
        touched: &BTreeSet<ServiceName>,
        incumbents: &impl Holders,
        mut claims: Vec<Claim>,
    ) -> bool {
        let Some(has_other_names) = self.names.replace(touched, &claims, incumbents) else {
            return false;
        };
        if has_other_names {
            self.snapshot.names = self.names.by_name();
        }
        if touched.is_empty() {
            return true;
        }
        let mut refused = Refusals::new();
        self.names.give(&mut claims, &mut refused);
        if !self.wants.replace(touched, &claims) {
            return false;
        }
        let Outcome { snapshot: mut new, is_short, .. } =
            outcome(claims, incumbents, self.limits, &mut refused);
        let before = touched.iter().filter_map(|name| self.snapshot.services.get(name));
        let before: Usage = before.map(|it| Usage::of(it)).sum();
        let now: Usage = new.services.values().map(|it| Usage::of(it)).sum();
        self.usage = self.usage.without(before).with(now);
        if is_short || !self.usage.is_within(self.limits) || !self.wants.is_within(self.limits) {
            return false;
        }
        share(&mut new.services, &self.snapshot);
        self.put(touched, new, refused);
        true
    }

    /// What became of the touched services, whatever else is as it was.
    fn put(&mut self, touched: &BTreeSet<ServiceName>, mut new: Snapshot, mut refused: Refusals) {
        let services = &mut self.snapshot.services;
        let (mut is_other_circle, mut is_other_refusal) = (false, false);
        for name in touched {
            let service = new.services.remove(name);
            // Who is there also decides who is meant.
            is_other_circle |= services.contains_key(name) != service.is_some()
                || !waits_for_the_same(services.get(name), service.as_ref());
            match service {
                Some(service) => drop(services.insert(name.clone(), service)),
                None => drop(services.remove(name)),
            }
            let refused = refused.remove(name);
            is_other_refusal |= self.refused.get(name) != refused.as_ref();
            match refused {
                Some(refused) => drop(self.refused.insert(name.clone(), refused)),
                None => drop(self.refused.remove(name)),
            }
        }
        if is_other_circle {
            self.circles = circles::told(services.values().map(|it| &**it));
        }
        if is_other_circle || is_other_refusal {
            self.refusals = union(&self.refused, &self.circles);
        }
    }
}

/// Whether a service has the same part in circles as before.
fn waits_for_the_same(before: Option<&Arc<Service>>, now: Option<&Arc<Service>>) -> bool {
    let depends = |service: Option<&Arc<Service>>| {
        let depends = service.map(|it| &it.policy.depends);
        depends.filter(|it| !it.value.is_empty()).cloned()
    };
    depends(before) == depends(now)
}

/// Services that are as they were are the same as before, for those who remember them.
fn share(services: &mut BTreeMap<ServiceName, Arc<Service>>, before: &Snapshot) {
    for (name, service) in services {
        if let Some(known) = before.services.get(name).filter(|known| *known == service) {
            *service = Arc::clone(known);
        }
    }
}

#[cfg(test)]
mod tests;
