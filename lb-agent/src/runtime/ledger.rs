//! What the providers told last, and who of them has told nothing yet.
//!
//! Claims stay in force until the same provider replaces them: trouble removes nothing. An instance
//! that was reported gone stays out even while older claims still name it. As long as one of them is
//! silent, or knows that it does not know everything, what nobody claims may live: see `protect`.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::{
    api::types::{ProviderState, ProviderView},
    model::{Backend, Claim, Claims, Refusal, ServiceName},
};

/// Deaths remembered per provider until its claims agree; the oldest in order go first.
const GONE_MAX: usize = 65_536;

/// The latest word of every enabled provider.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Ledger {
    providers: BTreeMap<&'static str, Entry>,
    /// Services whose claims are others than when this was asked last.
    touched: BTreeSet<ServiceName>,
    /// Whether there was everything when that was asked last.
    was_complete: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Entry {
    /// `None`: it has told nothing yet.
    claims: Option<Claims>,
    /// Where in its claims those of a service are.
    by_service: BTreeMap<ServiceName, Vec<usize>>,
    /// It was started anew and has told nothing since; its claims are those of its predecessor.
    is_restarting: bool,
    trouble: Option<String>,
    gone: BTreeSet<String>,
}

impl Ledger {
    /// Waits for these providers.
    pub(super) fn new(providers: &[&'static str]) -> Self {
        let providers = providers.iter().map(|name| (*name, Entry::default())).collect();
        Self { providers, ..Self::default() }
    }

    /// Replaces a provider's claims. True: something changed.
    pub(super) fn set_claims(&mut self, provider: &'static str, claims: Claims) -> bool {
        let entry = self.providers.entry(provider).or_default();
        if !entry.gone.is_empty() {
            let instances: BTreeSet<&str> = instances(&claims).collect();
            entry.gone.retain(|instance| instances.contains(instance.as_str()));
        }
        let is_changed = entry.claims.as_ref() != Some(&claims);
        if is_changed {
            let before = entry.claims.as_ref().map_or(&[][..], |claims| &claims.claims);
            self.touched.extend(changed_services(before, &claims.claims));
            entry.by_service = by_service(&claims.claims);
        }
        entry.claims = Some(claims);
        mem::take(&mut entry.is_restarting) || is_changed
    }

    /// The provider is started anew: it knows nothing, and what it told stays in force meanwhile.
    pub(super) fn set_restarting(&mut self, provider: &'static str) {
        self.providers.entry(provider).or_default().is_restarting = true;
    }

    /// Whether the provider sees its source. True: something changed.
    pub(super) fn set_trouble(&mut self, provider: &'static str, trouble: Option<String>) -> bool {
        let entry = self.providers.entry(provider).or_default();
        let is_changed = entry.trouble != trouble;
        entry.trouble = trouble;
        is_changed
    }

    /// An instance is dead. Returns what was claimed for it.
    pub(super) fn set_gone(
        &mut self,
        provider: &'static str,
        instance: &str,
    ) -> Vec<(ServiceName, Backend)> {
        // Static backends have no instance: they cannot die, only be taken out of the file.
        if instance.is_empty() {
            return Vec::new();
        }
        let entry = self.providers.entry(provider).or_default();
        let forgotten = if entry.gone.len() >= GONE_MAX { entry.gone.pop_first() } else { None };
        entry.gone.insert(instance.to_owned());
        let named = |instance: &str| -> Vec<(ServiceName, Backend)> {
            let claims = entry.claims.iter().flat_map(|claims| &claims.claims);
            let of_it = claims.filter_map(|claim| {
                let backend = claim.backend.as_ref()?;
                (backend.instance == instance).then(|| (claim.service.clone(), backend.clone()))
            });
            of_it.collect()
        };
        let gone = named(instance);
        let back = forgotten.map_or_else(Vec::new, |instance| named(&instance));
        self.touched.extend(gone.iter().chain(&back).map(|(service, _)| service.clone()));
        gone
    }

    /// Services whose claims in force may be others than when this was called last.
    pub(super) fn take_touched(&mut self) -> BTreeSet<ServiceName> {
        self.was_complete = self.is_complete();
        mem::take(&mut self.touched)
    }

    /// Whether every provider has told all that there is, and that was taken.
    pub(super) fn is_taken_completely(&self) -> bool {
        self.was_complete && self.is_complete()
    }

    /// Providers that have told nothing yet, or nothing since they were started anew.
    pub(super) fn silent(&self) -> impl Iterator<Item = &'static str> {
        let is_silent = |entry: &Entry| entry.claims.is_none() || entry.is_restarting;
        let silent = self.providers.iter().filter(move |(_, entry)| is_silent(entry));
        silent.map(|(name, _)| *name)
    }

    /// Whether a provider knows that it does not know everything.
    pub(super) fn is_partial(&self) -> bool {
        self.providers.values().flat_map(|entry| &entry.claims).any(|claims| claims.is_partial)
    }

    /// Whether every provider has told all that there is.
    pub(super) fn is_complete(&self) -> bool {
        self.silent().next().is_none() && !self.is_partial()
    }

    /// All backends that are named by claims, also the dead and the refused.
    pub(super) fn named(&self) -> impl Iterator<Item = (&ServiceName, &Backend)> {
        let claims = self.providers.values().flat_map(|entry| &entry.claims);
        let claims = claims.flat_map(|claims| &claims.claims);
        claims.filter_map(|claim| Some((&claim.service, claim.backend.as_ref()?)))
    }

    /// Claims in force, with their backends: all that was told, without the dead. The service of a dead
    /// backend keeps its frontend until the provider takes it away.
    pub(super) fn in_force(
        &self,
    ) -> impl Iterator<Item = (&'static str, &Claim, Option<&Backend>)> {
        self.providers.iter().flat_map(|(name, entry)| {
            let claims = entry.claims.iter().flat_map(|claims| &claims.claims);
            claims.map(|claim| (*name, claim, entry.backend_in_force(claim)))
        })
    }

    /// Claims in force, of all services or of some.
    pub(super) fn claims_of(&self, services: Option<&BTreeSet<ServiceName>>) -> Vec<Claim> {
        let in_force = |claim: &Claim, backend: Option<&Backend>| Claim {
            backend: backend.cloned(),
            ..claim.clone()
        };
        let Some(services) = services else {
            return self.in_force().map(|(_, claim, backend)| in_force(claim, backend)).collect();
        };
        let mut asked = Vec::new();
        for entry in self.providers.values() {
            let indexes = services.iter().filter_map(|name| entry.by_service.get(name)).flatten();
            let claims = entry.claims.as_ref().map_or(&[][..], |claims| &claims.claims);
            let claims = indexes.filter_map(|index| claims.get(*index));
            asked.extend(claims.map(|claim| in_force(claim, entry.backend_in_force(claim))));
        }
        asked
    }

    /// What the providers themselves refused.
    pub(super) fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.providers.values().flat_map(|entry| &entry.claims).flat_map(|claims| &claims.refusals)
    }

    /// What providers complain about.
    pub(super) fn troubles(&self) -> BTreeMap<&'static str, String> {
        let troubles = self.providers.iter();
        troubles.filter_map(|(name, entry)| Some((*name, entry.trouble.clone()?))).collect()
    }

    /// For the API.
    pub(super) fn views(&self) -> Vec<ProviderView> {
        let view = |(name, entry): (&&'static str, &Entry)| ProviderView {
            name: (*name).to_owned(),
            state: match (&entry.trouble, &entry.claims) {
                (Some(_), _) => ProviderState::Trouble,
                (None, None) => ProviderState::Silent,
                (None, Some(_)) => ProviderState::Ok,
            },
            trouble: entry.trouble.clone(),
            claims: entry.claims.as_ref().map_or(0, |claims| claims.claims.len() as u64),
        };
        self.providers.iter().map(view).collect()
    }
}

impl Entry {
    /// The backend of a claim, if it is not dead.
    fn backend_in_force<'a>(&self, claim: &'a Claim) -> Option<&'a Backend> {
        let is_there = |backend: &&Backend| {
            backend.instance.is_empty() || !self.gone.contains(&backend.instance)
        };
        claim.backend.as_ref().filter(is_there)
    }
}

fn by_service(claims: &[Claim]) -> BTreeMap<ServiceName, Vec<usize>> {
    let mut by_service: BTreeMap<ServiceName, Vec<usize>> = BTreeMap::new();
    for (index, claim) in claims.iter().enumerate() {
        by_service.entry(claim.service.clone()).or_default().push(index);
    }
    by_service
}

/// Services of which something else is claimed, or in another order.
fn changed_services(before: &[Claim], now: &[Claim]) -> BTreeSet<ServiceName> {
    // Mostly one container comes or goes: what stands before and behind it is what it was.
    let same = before.iter().zip(now).take_while(|(before, now)| before == now).count();
    let (before, now) = (&before[same..], &now[same..]);
    let ends = before.iter().rev().zip(now.iter().rev());
    let same = ends.take_while(|(before, now)| before == now).count();
    let both = [&before[..before.len() - same], &now[..now.len() - same]];
    let mut services: BTreeMap<&ServiceName, [Vec<&Claim>; 2]> = BTreeMap::new();
    for (index, claims) in both.into_iter().enumerate() {
        for claim in claims {
            services.entry(&claim.service).or_default()[index].push(claim);
        }
    }
    services.retain(|_, [before, now]| before != now);
    services.into_keys().cloned().collect()
}

fn instances(claims: &Claims) -> impl Iterator<Item = &str> {
    let backends = claims.claims.iter().filter_map(|claim| claim.backend.as_ref());
    backends.map(|backend| backend.instance.as_str())
}

#[cfg(test)]
mod tests;
