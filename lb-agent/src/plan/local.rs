//! Which addresses are the node's and its containers', as the data path is told.

use lb_common::abi::MAX_LOCAL;

use super::{Action, draft::Draft, policy::FrontendPair};
use crate::model::{IpPrefix, LocalKind, LocalPrefixes};

impl Draft<'_> {
    /// Addresses for which no default counts. False: they are not known, or too many.
    pub(super) fn local(&mut self) -> bool {
        let Some(wanted) = &self.sight.local else { return false };
        let kernel = self.kernel;
        let has_room = self.has_room_for(wanted);
        for (prefix, kind) in wanted {
            let held = kernel.local.get(prefix).copied();
            let kind = match (*kind, held) {
                (LocalKind::Unclear, Some(LocalKind::Primary)) => LocalKind::Primary,
                (LocalKind::Unclear, _) => LocalKind::Node,
                (kind, _) => kind,
            };
            // Without its own addresses the node may be cut off, whatever room there is.
            let may_put = has_room || held.is_some() || kind == LocalKind::Primary;
            if may_put && held != Some(kind) {
                self.push(Action::PutLocal { prefix: *prefix, kind });
            }
        }
        for (prefix, kind) in &kernel.local {
            let stays = *kind == LocalKind::Primary && self.is_vip(prefix);
            if !wanted.contains_key(prefix) && !stays {
                self.push(Action::DeleteLocal { prefix: *prefix });
            }
        }
        has_room
    }

    /// A virtual address that the node has called from and has no more stays its own. While a link is down
    /// or a lease is over it is nobody's, and what gives it back must reach the node.
    fn is_vip(&self, prefix: &IpPrefix) -> bool {
        let address = prefix.address();
        let is_wanted = |pair: &FrontendPair| pair.wanted.is_some() && pair.frontend.vip == address;
        self.kernel.vips.contains(&address) || self.frontend_pairs.iter().any(is_wanted)
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
