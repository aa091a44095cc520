//! Frontends and VIPs, and what a service's policy means for them in the tables.

use std::{collections::BTreeSet, mem};

use lb_common::abi::{FRONTEND_DROPS, affinity_flags};

use super::{Action, KernelState, draft::Draft, planner::Wanted, ring_of};
use crate::model::{Affinity, FrontendAddress, IpPrefix, LocalKind, Policy, Unreachable};

/// What the tables say of a frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrontendEntry {
    /// The number of its service.
    pub(super) service: u32,
    /// As in [`KernelState::frontend_flags`].
    pub(super) flags: u32,
}

/// A frontend that the tables have, or are to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrontendPair {
    pub(super) frontend: FrontendAddress,
    /// What they say of it now.
    pub(super) held: Option<FrontendEntry>,
    /// Whether each of its flows is recorded now.
    pub(super) is_recorded: bool,
    /// What they are to say.
    pub(super) wanted: Option<FrontendEntry>,
}

impl Draft<'_> {
    /// Frontends whose ring is there, and their VIPs.
    pub(super) fn frontends(&mut self, services: &[Wanted<'_>]) {
        let mut wanted = Vec::with_capacity(services.len());
        for Wanted { service, number, .. } in services {
            for frontend in &service.frontends {
                if let Some(why) = self.cuts_off_the_node(frontend) {
                    self.refuse(format!("service `{}`", service.name), why);
                } else if self.rings_wanted.contains(&ring_of(*number, frontend)) {
                    let flags = flags_of(&service.policy, frontend);
                    wanted.push((*frontend, FrontendEntry { service: *number, flags }));
                }
            }
        }
        wanted.sort_by_key(|(frontend, _)| *frontend);
        let mut pairs = pairs(self.kernel, wanted);
        for pair in &mut pairs {
            self.keep_affinity(pair, services);
        }
        let is_wanted = |pair: &&FrontendPair| pair.wanted.is_some();
        let mut vips: Vec<_> = pairs.iter().filter(is_wanted).map(|it| it.frontend.vip).collect();
        vips.dedup();
        let vips = BTreeSet::from_iter(vips);
        let kernel = self.kernel;
        for vip in vips.difference(&kernel.vips) {
            self.push(Action::PutVip { vip: *vip });
        }
        for vip in kernel.vips.difference(&vips) {
            self.push(Action::DeleteVip { vip: *vip });
        }
        for FrontendPair { frontend, .. } in pairs.iter().filter(|pair| !is_wanted(pair)) {
            self.push(Action::DeleteFrontend { frontend: *frontend });
        }
        self.frontend_pairs = pairs;
    }

    /// Why a frontend is not served by which the node itself could neither be reached nor call anybody. What
    /// is served already goes on being so: the address may just have come to this node.
    fn cuts_off_the_node(&self, frontend: &FrontendAddress) -> Option<String> {
        if !frontend.ports.are_most() || self.kernel.frontends.contains_key(frontend) {
            return None;
        }
        let vip = IpPrefix::host(frontend.vip);
        let was_primary = || self.kernel.local.get(&vip) == Some(&LocalKind::Primary);
        let why = match self.sight.local.as_ref().map(|local| local.get(&vip)) {
            None => "it is not known yet whether the address is the node's own",
            Some(Some(LocalKind::Primary)) => "the address is the node's own",
            Some(None | Some(LocalKind::Unclear)) if was_primary() => {
                "the address was the node's own, and may be again"
            }
            Some(_) => return None,
        };
        Some(format!(
            "the frontend {frontend} is not served: {why}, and so many ports are those of the node's own \
             programs, too, and of the answers to what they send; name fewer ports, or give the service \
             an address of its own"
        ))
    }

    /// Puts frontends that are not in the tables as they should be. Flows of all are recorded but those of
    /// the first one of each ring.
    pub(super) fn put_frontends(&mut self, first_of: impl Fn(u32) -> Option<FrontendAddress>) {
        for pair in mem::take(&mut self.frontend_pairs) {
            let FrontendPair { frontend, held, is_recorded, wanted } = pair;
            let Some(FrontendEntry { service, flags }) = wanted else { continue };
            let records_replies = first_of(ring_of(service, &frontend)) != Some(frontend);
            if held != wanted || is_recorded != records_replies {
                self.push(Action::PutFrontend { frontend, service, records_replies, flags });
            }
        }
    }

    /// Affinity is part of the hash that leads flows to their slots: with another one, flows that nothing
    /// records would find other backends. So a frontend keeps the one that it was made with.
    fn keep_affinity(&mut self, pair: &mut FrontendPair, services: &[Wanted<'_>]) {
        let (Some(held), Some(wanted)) = (pair.held, &mut pair.wanted) else { return };
        if held.service != wanted.service || (held.flags ^ wanted.flags) & !FRONTEND_DROPS == 0 {
            return;
        }
        wanted.flags = held.flags & !FRONTEND_DROPS | wanted.flags & FRONTEND_DROPS;
        let message = format!(
            "the affinity of the frontend {} stays what it was when it was made, since connections would \
             move; to change it, remove the frontend and add it again",
            pair.frontend
        );
        let service = services.iter().find(|it| it.number == held.service);
        let name = service.map_or_else(String::new, |it| it.service.name.to_string());
        self.refuse(format!("service `{name}`"), message);
    }
}

/// What the tables have beside what is wanted, which is sorted; of doubles the last one counts.
fn pairs(kernel: &KernelState, wanted: Vec<(FrontendAddress, FrontendEntry)>) -> Vec<FrontendPair> {
    let mut pairs = Vec::with_capacity(kernel.frontends.len().max(wanted.len()));
    let mut wanted = wanted.into_iter().peekable();
    let mut recorded = kernel.recorded_frontends.iter().peekable();
    let mut flags = kernel.frontend_flags.iter().peekable();
    let new = |(frontend, entry)| FrontendPair {
        frontend,
        held: None,
        is_recorded: false,
        wanted: Some(entry),
    };
    for (frontend, service) in &kernel.frontends {
        while let Some(before) = wanted.next_if(|(it, _)| it < frontend) {
            push_last(&mut pairs, new(before));
        }
        while recorded.next_if(|it| *it < frontend).is_some() {}
        while flags.next_if(|(it, _)| *it < frontend).is_some() {}
        let flags = flags.next_if(|(it, _)| *it == frontend).map_or(0, |(_, flags)| *flags);
        let mut pair = FrontendPair {
            frontend: *frontend,
            held: Some(FrontendEntry { service: *service, flags }),
            is_recorded: recorded.next_if_eq(&frontend).is_some(),
            wanted: None,
        };
        while let Some((_, entry)) = wanted.next_if(|(it, _)| it == frontend) {
            pair.wanted = Some(entry);
        }
        pairs.push(pair);
    }
    for last in wanted {
        push_last(&mut pairs, new(last));
    }
    pairs
}

fn push_last(pairs: &mut Vec<FrontendPair>, pair: FrontendPair) {
    match pairs.last_mut() {
        Some(last) if last.frontend == pair.frontend => *last = pair,
        _ => pairs.push(pair),
    }
}

fn flags_of(policy: &Policy, frontend: &FrontendAddress) -> u32 {
    let affinity = match policy.affinity.value {
        Affinity::None => 0,
        Affinity::Client { prefix_v4, .. } if frontend.vip.is_ipv4() => affinity_flags(prefix_v4),
        Affinity::Client { prefix_v6, .. } => affinity_flags(prefix_v6),
    };
    let drops = match policy.unreachable.value {
        Unreachable::Reject => 0,
        Unreachable::Drop => FRONTEND_DROPS,
    };
    affinity | drops
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Ports, Protocol};

    fn frontend(port: u16) -> FrontendAddress {
        let vip = Ipv4Addr::new(192, 0, 2, 1).into();
        FrontendAddress { vip, protocol: Protocol::Tcp, ports: Ports::one(port).expect("a port") }
    }

    proptest! {
        /// As if each was looked up in every table.
        #[test]
        fn what_is_held_stands_beside_what_is_wanted(
            held in prop::collection::btree_map(1..9_u16, 0..3_u32, 0..8),
            recorded in prop::collection::btree_set(1..9_u16, 0..8),
            flags in prop::collection::btree_map(1..9_u16, 1..3_u32, 0..8),
            wanted in prop::collection::vec((1..9_u16, 0..3_u32, 0..3_u32), 0..8),
        ) {
            let kernel = KernelState {
                frontends: held.iter().map(|(port, service)| (frontend(*port), *service)).collect(),
                recorded_frontends: recorded.iter().map(|port| frontend(*port)).collect(),
                frontend_flags: flags.iter().map(|(port, it)| (frontend(*port), *it)).collect(),
                ..KernelState::default()
            };
            let mut wanted: Vec<(FrontendAddress, FrontendEntry)> = wanted
                .into_iter()
                .map(|(port, service, flags)| (frontend(port), FrontendEntry { service, flags }))
                .collect();
            // Of doubles the last one.
            let last: BTreeMap<_, _> = wanted.iter().copied().collect();
            wanted.sort_by_key(|(frontend, _)| *frontend);
            let found = pairs(&kernel, wanted);
            let mut all: Vec<_> = kernel.frontends.keys().chain(last.keys()).copied().collect();
            all.sort_unstable();
            all.dedup();
            prop_assert!(found.iter().map(|pair| pair.frontend).eq(all));
            for FrontendPair { frontend, held, is_recorded, wanted } in found {
                let flags = kernel.frontend_flags.get(&frontend).copied().unwrap_or(0);
                let entry = kernel.frontends.get(&frontend);
                prop_assert_eq!(held, entry.map(|it| FrontendEntry { service: *it, flags }));
                let has_record = kernel.recorded_frontends.contains(&frontend);
                prop_assert_eq!(is_recorded, entry.is_some() && has_record);
                prop_assert_eq!(wanted, last.get(&frontend).copied());
            }
        }
    }
}
