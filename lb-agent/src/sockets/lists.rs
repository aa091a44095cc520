//! What each class of clients reaches of a service, as lists for the programs.
//!
//! Nearly every service needs no more than the list of its members, which is looked at when no slot of
//! its ring that was tried takes a call. Slots of its own has a class that reaches some members and not
//! others, and every class of a service that prefers the node and has backends here and elsewhere: so
//! a call falls on a backend that it may have at the first try, and shares follow the weights.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::abi::{
    CLASS_ALL, CLIENT_CONTAINER, ClassNetwork, FAMILY_V4, FAMILY_V6, MAX_REACH_LISTS, PREFERS_NODE,
    ReachEntry, ReachKey, VISIBLE_TO_NOBODY,
};

use super::{Numbered, Reach, SocketTables};
use crate::{
    maglev::{self, Member},
    model::BackendPath,
    plan::{HeldBackends, KernelState, NameHash},
};

/// Sizes of slots, all primes, with the most members for which they are.
const SIZES: [(usize, u32); 4] = [(10, 251), (40, 1021), (160, 4093), (usize::MAX, 16_381)];

/// A member of a service, of one family.
#[derive(Clone, Copy)]
struct Candidate {
    entry: ReachEntry,
    place: NameHash,
    weight: u16,
    /// 0: reached by everybody.
    network: u64,
    is_local: bool,
}

/// The lists of all services that somebody of this node sees.
pub(super) fn lists(
    services: &[Numbered<'_>],
    kernel: &KernelState,
    tables: &SocketTables,
    routes_across: bool,
) -> BTreeMap<ReachKey, Arc<Reach>> {
    let held = &kernel.backends;
    let is_container = |client: &&lb_common::abi::Client| client.kind == CLIENT_CONTAINER;
    let classes: BTreeSet<u64> = if routes_across {
        BTreeSet::new()
    } else {
        tables.clients.values().filter(is_container).map(|client| client.class).collect()
    };
    let none = BTreeSet::new();
    let mut lists = BTreeMap::new();
    for numbered in services {
        // One that has one backend has nothing to choose from.
        if numbered.service.backends.len() < 2 {
            continue;
        }
        let Some(scope) = tables.scopes.get(&numbered.number) else { continue };
        if scope.flags & VISIBLE_TO_NOBODY != 0 {
            continue;
        }
        for family in [FAMILY_V4, FAMILY_V6] {
            let candidates = candidates(numbered, family, tables, held);
            let prefers_node = scope.flags & PREFERS_NODE != 0;
            // More than there is room for are not made; the first of them is refused where it is written.
            let classes = if lists.len() > MAX_REACH_LISTS as usize { &none } else { &classes };
            for (class, reach) in of_service(&candidates, prefers_node, classes, tables) {
                lists.insert(ReachKey { class, service: numbered.number, family }, reach);
            }
        }
    }
    lists
}

/// Who gets new flows, as in the rings: of those at one place the newest.
fn candidates(
    numbered: &Numbered<'_>,
    family: u32,
    tables: &SocketTables,
    held: &HeldBackends,
) -> Vec<Candidate> {
    let Numbered { service, keys, number } = numbered;
    let mut candidates = Vec::new();
    for place in keys.places(service) {
        let takes_new = place.filter(|(backend, _)| {
            backend.address.is_ipv4() == (family == FAMILY_V4)
                && backend.state.takes_new()
                && backend.weight > 0
        });
        let newest = takes_new.filter_map(|(backend, keys)| {
            let (backend_number, held) = held.find(*number, &keys.instance)?;
            Some((backend, keys, backend_number, held.generation))
        });
        let Some((backend, keys, backend_number, generation)) =
            newest.max_by_key(|(backend, ..)| backend.started_at_ms)
        else {
            continue;
        };
        candidates.push(Candidate {
            entry: ReachEntry::new(*number, family, backend_number, generation),
            place: keys.place,
            weight: backend.weight,
            network: tables.networks.get(&backend_number).copied().unwrap_or(0),
            is_local: matches!(backend.path, BackendPath::Local { .. }),
        });
    }
    candidates
}

/// The lists of one service and family, by class.
fn of_service(
    candidates: &[Candidate],
    prefers_node: bool,
    classes: &BTreeSet<u64>,
    tables: &SocketTables,
) -> Vec<(u64, Arc<Reach>)> {
    if candidates.len() < 2 {
        return Vec::new();
    }
    let mut lists = vec![(CLASS_ALL, Arc::new(reach(candidates, candidates.len(), prefers_node)))];
    let networks: BTreeSet<u64> = candidates.iter().map(|it| it.network).collect();
    if networks.len() < 2 {
        // Whoever reaches one reaches all.
        return lists;
    }
    // Many classes reach the same: one list is for all of them.
    let mut made: BTreeMap<Vec<u64>, Arc<Reach>> = BTreeMap::new();
    for class in classes {
        let is_on = |network: u64| {
            network == 0 || tables.class_networks.contains(&ClassNetwork { class: *class, network })
        };
        let reached: Vec<u64> =
            networks.iter().copied().filter(|network| is_on(*network)).collect();
        if reached.is_empty() || reached.len() == networks.len() {
            continue;
        }
        let list = made.entry(reached).or_insert_with_key(|reached| {
            let is_reached = |it: &&Candidate| reached.binary_search(&it.network).is_ok();
            let some: Vec<Candidate> = candidates.iter().filter(is_reached).copied().collect();
            Arc::new(reach(&some, candidates.len(), prefers_node))
        });
        lists.push((*class, Arc::clone(list)));
    }
    lists
}

/// The list of those that are reached, of so many in all.
fn reach(reached: &[Candidate], all: usize, prefers_node: bool) -> Reach {
    let (near, far): (Vec<Candidate>, Vec<Candidate>) =
        reached.iter().partition(|it| prefers_node && it.is_local);
    // Where none is here, those elsewhere are all that there is.
    let slots = if near.is_empty() { &far } else { &near };
    let entries = |of: &[Candidate]| of.iter().map(|it| it.entry).collect();
    Reach {
        slots: if slots.len() == all { Vec::new() } else { slots_of(slots) },
        near: entries(&near),
        far: entries(&far),
    }
}

fn slots_of(candidates: &[Candidate]) -> Vec<ReachEntry> {
    if let [only] = candidates {
        return vec![only.entry];
    }
    let size = SIZES.iter().find(|(most, _)| candidates.len() <= *most).map_or(251, |it| it.1);
    let member = |it: &Candidate| Member { key: it.place, weight: it.weight };
    let members: Vec<Member> = candidates.iter().map(member).collect();
    let owners = maglev::build(&members, size);
    owners.iter().filter_map(|owner| candidates.get(*owner as usize)).map(|it| it.entry).collect()
}
