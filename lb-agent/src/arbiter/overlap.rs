//! Frontends that have ports in common.

use std::collections::BTreeMap;

use super::Owner;
use crate::model::FrontendAddress;

/// The frontends that lose some of their ports to another service's, each with one of those.
pub(super) fn losers(
    owners: &BTreeMap<FrontendAddress, Owner<'_>>,
) -> BTreeMap<FrontendAddress, FrontendAddress> {
    let mut losers = BTreeMap::new();
    let all: Vec<(&FrontendAddress, &Owner<'_>)> = owners.iter().collect();
    for at_place in all
        .chunk_by(|(left, _), (right, _)| (left.vip, left.protocol) == (right.vip, right.protocol))
    {
        // Single ports are apart by themselves.
        if at_place.iter().any(|(frontend, _)| frontend.ports.is_wide()) {
            losers_of_place(at_place.to_vec(), &mut losers);
        }
    }
    losers
}

fn losers_of_place(
    mut frontends: Vec<(&FrontendAddress, &Owner<'_>)>,
    losers: &mut BTreeMap<FrontendAddress, FrontendAddress>,
) {
    frontends.sort_by(|(_, left), (_, right)| left.rank().cmp(&right.rank()));
    let (mut granted, mut granted_wide) = (Vec::new(), Vec::new());
    for (frontend, owner) in frontends {
        let rivals = if frontend.ports.is_wide() { &granted } else { &granted_wide };
        let winner = rivals.iter().find(|(other, rival): &&(&FrontendAddress, &Owner<'_>)| {
            frontend.ports.overlap(other.ports) && !may_overlap(owner, rival)
        });
        if let Some((winner, _)) = winner {
            losers.insert(*frontend, **winner);
            continue;
        }
        granted.push((frontend, owner));
        if frontend.ports.is_wide() {
            granted_wide.push((frontend, owner));
        }
    }
}

/// One service's, or meant so by the operator.
fn may_overlap(one: &Owner<'_>, other: &Owner<'_>) -> bool {
    one.claim.service == other.claim.service
        || (one.claim.since_ms == 0 && other.claim.since_ms == 0)
}
