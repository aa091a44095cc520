//! What a service's policy means for its frontends in the tables.

use lb_common::abi::{FRONTEND_DROPS, affinity_flags};

use super::draft::Draft;
use crate::model::{Affinity, FrontendAddress, Policy, Service, Unreachable};

impl Draft<'_> {
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
