//! Claims of all providers -> one snapshot, with every conflict as data. Pure; the result does not
//! depend on the order of the claims.
//!
//! Two services that want one frontend are in conflict: the one that has it keeps it, of two new
//! ones the older gets it, and the other is refused and told so. Nobody's backends are taken away by
//! another's claim, but for the config file: what stands there is meant. Claims of one service are
//! joined.
//!
//! Two frontends of one VIP and protocol that have some port in common are in conflict just so, unless
//! both are of the config file: there a port within a range, and a range within a wider one, is meant,
//! and the narrower wins.

mod circles;
mod granted;
mod incumbents;
mod overlap;
mod policy;
mod pool;
mod room;
#[cfg(test)]
mod tests;
mod unchecked;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
    sync::Arc,
};

use lb_common::abi;

pub use granted::Granted;
pub use incumbents::{Holders, Incumbents};
pub use policy::{yield_to_exclusive, yields};

use crate::{
    maglev::MEMBERS_MAX,
    model::{
        Backend, Claim, Conflict, Datagrams, FrontendAddress, Policy, Refusal, ReplyFacts, Service,
        ServiceName, Snapshot,
    },
    plan::service_hash,
};
use pool::Names;

/// What the tables have room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Services.
    pub services: usize,
    /// Backends of all services.
    pub backends: usize,
    /// Backends of one service.
    pub backends_per_service: usize,
    /// Single-port frontends, VIPs, and lists of ranges together, per address family.
    pub frontends: usize,
    /// Lists of ranges, one for each VIP and protocol that has some, per address family.
    pub port_lists: usize,
    /// Ranges of ports in one list.
    pub ranges_per_list: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: abi::MAX_SERVICES as usize,
            backends: abi::MAX_BACKENDS as usize,
            backends_per_service: MEMBERS_MAX,
            frontends: abi::MAX_FRONTENDS as usize,
            port_lists: abi::MAX_PORT_LISTS as usize,
            ranges_per_list: abi::PORT_LIST_RANGES,
        }
    }
}

/// What the node should have, and which claims it cannot grant.
///
/// Of several services that claim one frontend it belongs to, in this order:
/// 1. one of the config file (a claim with `since_ms` 0), even when a container's service has it:
///    an operator's file is deliberate;
/// 2. the incumbent. Age is no measure here: the claims of a service that is redeployed are all
///    younger than those of an intruder that was refused before;
/// 3. the one with the oldest claim, and of the same age the one whose name comes first.
///
/// An incumbent that no longer claims a frontend has lost it.
pub fn arbitrate(claims: Vec<Claim>, incumbents: &impl Holders) -> (Snapshot, Vec<Refusal>) {
    arbitrate_within(claims, incumbents, Limits::default())
}

/// [`arbitrate`] with other limits.
pub fn arbitrate_within(
    mut claims: Vec<Claim>,
    incumbents: &impl Holders,
    limits: Limits,
) -> (Snapshot, Vec<Refusal>) {
    let mut refusals = Refusals::new();
    let names = Names::of(&claims, incumbents);
    names.give(&mut claims, &mut refusals);
    let Outcome { mut snapshot, circles, .. } = outcome(claims, incumbents, limits, &mut refusals);
    snapshot.names = names.by_name();
    (snapshot, union(&refusals, &circles))
}

/// What is not granted, by the service that it was asked for.
type Refusals = BTreeMap<ServiceName, BTreeSet<Refusal>>;

/// What becomes of claims whose names have their addresses.
struct Outcome {
    snapshot: Snapshot,
    /// What is told of services that wait for each other, and are served all the same.
    circles: BTreeSet<Refusal>,
    /// Something finds no room that all services share.
    is_short: bool,
}

fn union(refusals: &Refusals, circles: &BTreeSet<Refusal>) -> Vec<Refusal> {
    let all: BTreeSet<&Refusal> = refusals.values().flatten().chain(circles).collect();
    all.into_iter().cloned().collect()
}

fn outcome(
    claims: Vec<Claim>,
    incumbents: &impl Holders,
    limits: Limits,
    refusals: &mut Refusals,
) -> Outcome {
    let (granted, conflicts) = resolve_conflicts(claims, incumbents, refusals);
    let services = join(granted, refusals);
    let circles = circles::told(services.values().map(|joined| &joined.service));
    let (mut snapshot, is_short) = room::fit(services, limits, refusals);
    snapshot.conflicts = conflicts;
    Outcome { snapshot, circles, is_short }
}

fn refuse(refusals: &mut Refusals, service: &ServiceName, object: &str, message: String) {
    let refusal = Refusal { object: object.to_owned(), key: None, message };
    refusals.entry(service.clone()).or_default().insert(refusal);
}

/// The service that a frontend belongs to, and the claim that it owes this to.
#[derive(Clone, Copy)]
struct Owner<'a> {
    claim: &'a Claim,
    is_incumbent: bool,
}

impl Owner<'_> {
    /// The smallest owns the frontend.
    fn rank(&self) -> impl Ord + '_ {
        let Claim { service, since_ms, source, .. } = self.claim;
        (*since_ms != 0, !self.is_incumbent, *since_ms, service, source)
    }
}

/// The claims whose service owns the frontend that they want, and the conflicts of the others.
fn resolve_conflicts(
    claims: Vec<Claim>,
    incumbents: &impl Holders,
    refusals: &mut Refusals,
) -> (Vec<Claim>, Vec<Conflict>) {
    let mut owners: BTreeMap<FrontendAddress, Owner<'_>> = BTreeMap::new();
    for claim in &claims {
        let best = owners.get(&claim.frontend);
        let is_incumbent = match best {
            // Most claims are of a service that was looked at: no need to hash its name again.
            Some(best) if best.claim.service == claim.service => best.is_incumbent,
            _ => incumbents
                .holder(&claim.frontend)
                .is_some_and(|incumbent| incumbent == service_hash(&claim.service)),
        };
        let rival = Owner { claim, is_incumbent };
        if best.is_none_or(|best| rival.rank() < best.rank()) {
            owners.insert(claim.frontend, rival);
        }
    }
    let overlaps = overlap::losers(&owners);
    let is_granted: Vec<bool> =
        claims.iter().map(|claim| is_granted(claim, &owners, &overlaps, refusals)).collect();
    let conflicts = conflicts(&claims, &owners, &overlaps);
    let granted = claims.into_iter().zip(is_granted).filter(|(_, is_granted)| *is_granted);
    (granted.map(|(claim, _)| claim).collect(), conflicts)
}

/// Who wants what another has: one for each frontend and service, however many claims want it.
fn conflicts(
    claims: &[Claim],
    owners: &BTreeMap<FrontendAddress, Owner<'_>>,
    overlaps: &BTreeMap<FrontendAddress, FrontendAddress>,
) -> Vec<Conflict> {
    let mut conflicts: BTreeMap<(FrontendAddress, &ServiceName), (&Claim, Conflict)> =
        BTreeMap::new();
    for claim in claims {
        let Claim { frontend, service, source, .. } = claim;
        let Some(best) = owners.get(frontend) else { continue };
        let owned = if best.claim.service == *service {
            let Some(other) = overlaps.get(frontend) else { continue };
            *other
        } else {
            *frontend
        };
        let Some(Owner { claim: holder, .. }) = owners.get(&owned) else { continue };
        let age = |claim: &Claim| (claim.since_ms, claim.source.clone());
        let known = conflicts.get(&(*frontend, service));
        if known.is_some_and(|(oldest, _)| age(oldest) <= age(claim)) {
            continue;
        }
        let conflict = Conflict {
            frontend: *frontend,
            contender: service.clone(),
            owned,
            owner: holder.service.clone(),
            owner_source: holder.source.clone(),
            contender_source: source.clone(),
        };
        conflicts.insert((*frontend, service), (claim, conflict));
    }
    conflicts.into_values().map(|(_, conflict)| conflict).collect()
}

fn is_granted(
    claim: &Claim,
    owners: &BTreeMap<FrontendAddress, Owner<'_>>,
    overlaps: &BTreeMap<FrontendAddress, FrontendAddress>,
    refusals: &mut Refusals,
) -> bool {
    let Claim { frontend, service, source, .. } = claim;
    if let Some(Owner { claim: owner, is_incumbent }) = owners.get(frontend)
        && owner.service != *service
    {
        let reason = if *is_incumbent && owner.since_ms >= claim.since_ms {
            "which has it already, by the claim of"
        } else {
            "by the older claim of"
        };
        // The address of a name is nobody's choice.
        let instead = match &claim.pooled {
            Some(pooled) => format!(
                "say the same `lb.share` in both to serve `{}` together, use another name",
                pooled.name
            ),
            None => "use another front port or VIP".to_owned(),
        };
        let message = format!(
            "wants {frontend} for the service `{service}`, but that belongs to the service `{}`, \
             {reason} {}; {instead}, or remove one of the two",
            owner.service, owner.source
        );
        refuse(refusals, service, source, message);
        return false;
    }
    if let Some(other) = overlaps.get(frontend)
        && let Some(Owner { claim: owner, .. }) = owners.get(other)
    {
        let message = format!(
            "wants {frontend} for the service `{service}`, but that has ports in common with \
             {other} of the service `{}`, by the claim of {}; use other front ports or another VIP, \
             or name both in the config file, where the narrower wins",
            owner.service, owner.source
        );
        refuse(refusals, service, source, message);
        return false;
    }
    if let Some(backend) = &claim.backend
        && backend.address.is_ipv4() != frontend.vip.is_ipv4()
    {
        let message = format!(
            "the backend {} and the frontend {frontend} are of different address families, which \
             are not translated into each other; use addresses of one family",
            backend.address
        );
        refuse(refusals, service, source, message);
        return false;
    }
    true
}

/// A service while its claims are joined.
struct Joined {
    service: Service,
    /// Backends by place, instance and whether they are IPv6, each with the source of its claim: one
    /// container may have an address of either family.
    backends: BTreeMap<(String, String, bool), (Backend, String)>,
    wished: policy::Wished,
    /// Age of its oldest claim.
    since_ms: u64,
}

fn join(mut claims: Vec<Claim>, refusals: &mut Refusals) -> BTreeMap<ServiceName, Joined> {
    // Of claims that contradict each other the same one is heard whatever the order of arrival.
    claims.sort_by(|left, right| rank(left).cmp(&rank(right)));
    let mut services = BTreeMap::new();
    for claim in claims {
        let joined = services.entry(claim.service.clone()).or_insert_with(|| Joined {
            service: Service {
                name: claim.service.clone(),
                frontends: BTreeSet::new(),
                backends: Vec::new(),
                policy: Arc::default(),
                exclusive: BTreeSet::new(),
            },
            backends: BTreeMap::new(),
            wished: policy::Wished::default(),
            since_ms: claim.since_ms,
        });
        joined.since_ms = joined.since_ms.min(claim.since_ms);
        joined.service.frontends.insert(claim.frontend);
        joined.wished.hear(claim.since_ms, &claim.wishes);
        let Some(backend) = claim.backend else { continue };
        if claim.wishes.exclusive.as_ref().is_some_and(|exclusive| exclusive.value) {
            joined.service.exclusive.insert((backend.place.clone(), backend.instance.clone()));
        }
        let key = (backend.place.clone(), backend.instance.clone(), backend.address.is_ipv6());
        match joined.backends.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert((backend, claim.source));
            }
            // The same backend at another frontend. If one claim knows of another way to it, there
            // is one.
            Entry::Occupied(mut entry) if is_same(&entry.get().0, &backend) => {
                let known = &mut entry.get_mut().0.replies.ways_in;
                *known = backend.replies.ways_in.max(*known);
            }
            Entry::Occupied(entry) => {
                let (first, first_source) = entry.get();
                let message = format!(
                    "{} describes the backend `{}` of the service `{}` as {}, and {first_source} \
                     as {}; the latter counts. Give the two different names",
                    claim.source, backend.place, claim.service, backend.address, first.address
                );
                refuse(refusals, &claim.service, &claim.source, message);
            }
        }
    }
    for joined in services.values_mut() {
        joined.settle(refusals);
    }
    services
}

impl Joined {
    /// What follows from all claims together.
    fn settle(&mut self, refusals: &mut Refusals) {
        let (policy, mut told) = mem::take(&mut self.wished).agree(&self.service.name);
        let backends = self.backends.values().map(|(backend, _)| backend);
        told.extend(unchecked::told(&self.service.name, &policy, backends));
        if !told.is_empty() {
            refusals.entry(self.service.name.clone()).or_default().extend(told);
        }
        let only_answers = policy.datagrams.value == Datagrams::Answers;
        for (backend, _) in self.backends.values_mut() {
            backend.replies.only_answers = only_answers;
        }
        if policy != Policy::default() {
            self.service.policy = Arc::new(policy);
        }
    }
}

/// Whether two claims describe one backend, however much each knows of the ways to it.
fn is_same(known: &Backend, other: &Backend) -> bool {
    let ways_in = known.replies.ways_in;
    let replies = ReplyFacts { ways_in, ..other.replies };
    *known == Backend { replies, ..other.clone() }
}

/// An order in which no two different claims are equal.
fn rank(claim: &Claim) -> impl Ord + '_ {
    let backend = claim.backend.as_ref().map(|backend| {
        let name = (&backend.place, &backend.instance, &backend.display_name);
        let policy = (backend.weight, backend.state, backend.started_at_ms, backend.replies);
        (name, backend.address, backend.path, &backend.network, policy)
    });
    (claim.since_ms, &claim.service, claim.frontend, &claim.source, backend)
}
