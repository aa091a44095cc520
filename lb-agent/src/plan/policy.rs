//! Frontends and VIPs, and what a service's policy means for them in the tables.

use std::collections::BTreeSet;

use lb_common::abi::{FRONTEND_DROPS, affinity_flags};

use super::{Action, draft::Draft, planner::Wanted, ring_of};
use crate::model::{Affinity, FrontendAddress, Policy, Service, Unreachable};

impl Draft<'_> {
    /// Frontends whose ring is there, and their VIPs.
    pub(super) fn frontends(&mut self, wanted: &[Wanted<'_>]) {
        for Wanted { service, number, .. } in wanted {
            for frontend in &service.frontends {
                if self.rings_wanted.contains(&ring_of(*number, frontend)) {
                    self.frontends_wanted.insert(*frontend, *number);
                    self.want_flags(service, *frontend, *number);
                }
            }
        }
        let kernel = self.kernel;
        let vips: BTreeSet<_> = self.frontends_wanted.keys().map(|frontend| frontend.vip).collect();
        for vip in vips.difference(&kernel.vips) {
            self.push(Action::PutVip { vip: *vip });
        }
        for vip in kernel.vips.difference(&vips) {
            self.push(Action::DeleteVip { vip: *vip });
        }
        for frontend in kernel.frontends.keys() {
            if !self.frontends_wanted.contains_key(frontend) {
                self.push(Action::DeleteFrontend { frontend: *frontend });
            }
        }
    }

    /// Puts frontends that are not in the tables as they should be. Flows of all are recorded but those of
    /// the first one of each ring.
    pub(super) fn put_frontends(&mut self, first_of: impl Fn(u32) -> Option<FrontendAddress>) {
        let kernel = self.kernel;
        let mut puts = Vec::new();
        for (frontend, service) in &self.frontends_wanted {
            let records_replies = first_of(ring_of(*service, frontend)) != Some(*frontend);
            let flags = self.frontend_flags.get(frontend).copied().unwrap_or(0);
            if kernel.frontends.get(frontend) != Some(service)
                || kernel.recorded_frontends.contains(frontend) != records_replies
                || kernel.frontend_flags.get(frontend).copied().unwrap_or(0) != flags
            {
                let (frontend, service) = (*frontend, *service);
                puts.push(Action::PutFrontend { frontend, service, records_replies, flags });
            }
        }
        for action in puts {
            self.push(action);
        }
    }

    /// Says what the tables are to say of a frontend. Affinity is part of the hash that leads flows to
    /// their slots: with another one, flows that nothing records would find other backends. So a
    /// frontend keeps the one that it was made with.
    pub(super) fn want_flags(&mut self, service: &Service, frontend: FrontendAddress, number: u32) {
        let mut flags = flags_of(&service.policy, &frontend);
        if self.kernel.frontends.get(&frontend) == Some(&number) {
            let held = self.kernel.frontend_flags.get(&frontend).copied().unwrap_or(0);
            if (held ^ flags) & !FRONTEND_DROPS != 0 {
                let message = format!(
                    "the affinity of the frontend {frontend} stays what it was when it was made, since \
                     connections would move; to change it, remove the frontend and add it again"
                );
                self.refuse(format!("service `{}`", service.name), message);
                flags = held & !FRONTEND_DROPS | flags & FRONTEND_DROPS;
            }
        }
        if flags != 0 {
            self.frontend_flags.insert(frontend, flags);
        }
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
