//! Which addresses are the node's and its containers', as the data path is told.

use lb_common::abi::MAX_LOCAL;

use super::{Action, KernelState, draft::Draft};
use crate::model::{IpPrefix, LocalKind, LocalPrefixes};

impl Draft<'_> {
    /// Addresses for which no default counts. False: they are not known, or too many.
    pub(super) fn local(&mut self) -> bool {
        let Some(wanted) = &self.sight.local else { return false };
        let kernel = self.kernel;
        // First those without which the node may be cut off, whatever room there is.
        for want_primary in [true, false] {
            if !want_primary && !self.has_room_for(wanted) {
                return false;
            }
            for (prefix, kind) in wanted {
                let is_primary = *kind == LocalKind::Primary;
                if is_primary == want_primary && kernel.local.get(prefix) != Some(kind) {
                    self.push(Action::PutLocal { prefix: *prefix, kind: *kind });
                }
            }
        }
        for prefix in kernel.local.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            if !self.may_come_back(prefix) {
                self.push(Action::DeleteLocal { prefix: *prefix });
            }
        }
        true
    }

    /// A virtual address that the node called from and has no more. While a link is down or a lease is over
    /// it is nobody's, and what gives it back to the node (DHCP, for one) must reach the node.
    fn may_come_back(&self, prefix: &IpPrefix) -> bool {
        let KernelState { local, vips, .. } = self.kernel;
        local.get(prefix) == Some(&LocalKind::Primary) && vips.contains(&prefix.address())
    }

    fn has_room_for(&mut self, wanted: &LocalPrefixes) -> bool {
        for is_v4 in [true, false] {
            let count = wanted.keys().filter(|it| it.address().is_ipv4() == is_v4).count();
            if count > MAX_LOCAL as usize {
                let message = format!(
                    "has {count} addresses and container subnets of one family, and the tables have \
                     room for {MAX_LOCAL}: replies are translated by records only, which costs a \
                     lookup for each packet; remove addresses that nobody needs"
                );
                self.refuse("the node".to_owned(), message);
                return false;
            }
        }
        true
    }
}
