//! What is no longer to be there: taken from new traffic at once, from the tables when no reader can
//! see it any more.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
};

use lb_common::abi::{META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, RINGS_PER_SERVICE};

use super::{Action, KernelBackend, draft::Draft, planner::Planner};
use crate::model::BackendPath;

impl Planner {
    pub(super) fn removals(&mut self, draft: &mut Draft<'_>) {
        let kernel = draft.kernel;
        for ring in kernel.rings.keys() {
            if !draft.rings_wanted.contains(ring) {
                draft.push(Action::ClearRing { ring: *ring });
            }
        }
        let remaining = self.gone_backends(draft);
        self.links(draft, &remaining);
        draft.flags(&remaining);
        self.gone_services(draft, &remaining);
    }

    /// Returns what the tables hold of gone backends after this plan.
    fn gone_backends<'a>(&mut self, draft: &mut Draft<'a>) -> Vec<&'a KernelBackend> {
        let referenced = OnceCell::new();
        self.backend_clocks.begin();
        let mut remaining = Vec::new();
        for (number, backend) in &draft.kernel.backends {
            let number = *number;
            if draft.backends_wanted.contains(number) {
                continue;
            }
            if backend.state != 0 {
                draft.push(Action::SetBackendState { number, state: 0 });
            } else if !referenced.get_or_init(|| self.referenced(draft)).contains(number)
                && self.backend_clocks.is_over(number, draft.now_ms)
            {
                draft.push(Action::ClearBackend { number });
                continue;
            }
            remaining.push(backend);
        }
        remaining
    }

    fn gone_services(&mut self, draft: &mut Draft<'_>, remaining: &[&KernelBackend]) {
        self.service_clocks.begin();
        let kernel = draft.kernel;
        let is_gone = |number: &&u32| !draft.is_service_wanted(**number);
        let gone: Vec<u32> = kernel.services.keys().filter(is_gone).copied().collect();
        if gone.is_empty() {
            return;
        }
        let at_frontends: HashSet<u32> = kernel.frontends.values().copied().collect();
        let mut backends: HashMap<u32, usize> = HashMap::new();
        for backend in remaining {
            *backends.entry(backend.service).or_default() += 1;
        }
        for number in gone {
            let first_ring = number * RINGS_PER_SERVICE;
            let mut rings = kernel.rings.range(first_ring..first_ring + RINGS_PER_SERVICE);
            if rings.next().is_some() || at_frontends.contains(&number) {
                continue;
            }
            if self.service_clocks.is_over(number, draft.now_ms) && !backends.contains_key(&number)
            {
                draft.push(Action::ClearService { number });
            }
        }
    }

    /// The reply program stays as long as the tables hold a backend behind the veth, or a default for
    /// its replies, and until the last recorded flow is over.
    fn links(&mut self, draft: &mut Draft<'_>, remaining: &[&KernelBackend]) {
        let kernel = draft.kernel;
        let clocks = &mut self.reply_clocks.links;
        clocks.begin();
        let still = remaining.iter().filter_map(|backend| match backend.path {
            BackendPath::Local { ifindex } => Some(ifindex),
            BackendPath::Routed => None,
        });
        let still: HashSet<u32> = still.collect();
        for ifindex in &kernel.reply_interfaces {
            if draft.replies_wanted.contains(ifindex) || still.contains(ifindex) {
                continue;
            }
            let is_over = clocks.is_over(*ifindex, draft.now_ms);
            if is_over && !draft.reply_default_links.contains(ifindex) {
                draft.push(Action::DetachReply { ifindex: *ifindex });
            }
        }
    }
}

impl Draft<'_> {
    fn flags(&mut self, remaining: &[&KernelBackend]) {
        let is_routed = self.is_routed_wanted
            || remaining.iter().any(|backend| backend.path == BackendPath::Routed);
        let mut flags = self.kernel.flags & !(META_ROUTED_BACKENDS | META_REPLY_DEFAULTS);
        if is_routed {
            flags |= META_ROUTED_BACKENDS;
        }
        if !self.reply_default_links.is_empty() {
            flags |= META_REPLY_DEFAULTS;
        }
        if flags & !self.kernel.flags != 0 {
            // What is raised is needed at once; what is lowered is so in the end, by another plan.
            flags |= self.kernel.flags;
        }
        if flags != self.kernel.flags {
            self.push(Action::SetFlags { flags });
        }
    }
}
