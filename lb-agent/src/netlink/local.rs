//! Which destinations are this node's own: its addresses and the subnets of its containers.
//!
//! A container's subnet is that of an address of its bridge. Subnets of front interfaces, and of
//! bridges that have one as a port, are where clients are.

use std::{collections::BTreeSet, io, net::IpAddr};

use super::{
    link::{all_addresses, bridges, link_at},
    socket::RouteSocket,
};
use crate::model::IpPrefix;

/// Addresses of this node, each by itself, and subnets of its bridges but for `fronts`.
pub fn local_prefixes(fronts: &BTreeSet<u32>) -> io::Result<BTreeSet<IpPrefix>> {
    let mut socket = RouteSocket::open()?;
    let mut bridges: BTreeSet<u32> = bridges(&mut socket)?.into_keys().collect();
    for front in fronts {
        bridges.remove(front);
        if let Some(bridge) = link_at(&mut socket, *front)?.and_then(|link| link.bridge_index) {
            bridges.remove(&bridge);
        }
    }
    let mut local = BTreeSet::new();
    for (address, length, interface) in all_addresses(&mut socket)? {
        if is_link_local(address) {
            continue;
        }
        local.insert(IpPrefix::host(address));
        if bridges.contains(&interface) {
            local.insert(IpPrefix::of(address, length));
        }
    }
    Ok(local)
}

/// No packet to such an address is forwarded, and every interface has one.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_local_and_link_local_ones_are_not() {
        let local = local_prefixes(&BTreeSet::new()).expect("netlink answers");
        assert!(local.contains(&IpPrefix::host([127, 0, 0, 1].into())), "{local:?}");
        for (address, expected) in
            [("169.254.1.2", true), ("fe80::1", true), ("fd00::1", false), ("10.0.0.1", false)]
        {
            assert_eq!(is_link_local(address.parse().expect("an address")), expected, "{address}");
        }
    }
}
