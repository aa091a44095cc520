//! Which destinations are this node's own: its addresses and the subnets of its containers.
//!
//! A container's subnet is that of an address of its bridge. Subnets of front interfaces, and of
//! bridges that have one as a port, are where clients are.

use std::{collections::BTreeSet, io, net::IpAddr};

use super::{
    link::{Link, all_addresses, bridges, link_named},
    socket::RouteSocket,
};
use crate::model::IpPrefix;

/// Addresses of this node, each by itself, and subnets of its bridges but for `fronts`. These are named,
/// since one that is made anew has another index.
pub fn local_prefixes(fronts: &[String]) -> io::Result<BTreeSet<IpPrefix>> {
    let mut socket = RouteSocket::open()?;
    let bridges = bridges(&mut socket)?;
    let mut links = Vec::new();
    for front in fronts.iter().filter(|front| (1..libc::IFNAMSIZ).contains(&front.len())) {
        links.extend(link_named(&mut socket, front)?);
    }
    let bridges = of_containers(bridges.into_values(), fronts, &links);
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

/// Indexes of the bridges that are no fronts, and have none as a port. `links`: the fronts that there are,
/// looked at later than the bridges, of which one may have been made anew in between.
fn of_containers(
    bridges: impl Iterator<Item = Link>,
    fronts: &[String],
    links: &[Link],
) -> BTreeSet<u32> {
    let is_front = |bridge: &Link| {
        let leads_to =
            |link: &Link| [Some(link.index), link.bridge_index].contains(&Some(bridge.index));
        fronts.contains(&bridge.name) || links.iter().any(leads_to)
    };
    bridges.filter(|bridge| !is_front(bridge)).map(|bridge| bridge.index).collect()
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
        let local =
            local_prefixes(&["no-such-front".to_owned(), "longer-than-a-name-is".to_owned()])
                .expect("netlink answers");
        assert!(local.contains(&IpPrefix::host([127, 0, 0, 1].into())), "{local:?}");
        for (address, expected) in
            [("169.254.1.2", true), ("fe80::1", true), ("fd00::1", false), ("10.0.0.1", false)]
        {
            assert_eq!(is_link_local(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[test]
    fn fronts_are_known_by_their_names_whatever_their_indexes() {
        let link = |index: u32, name: &str, bridge_index: Option<u32>| Link {
            index,
            name: name.to_owned(),
            kind: None,
            peer_index: None,
            peer_namespace: None,
            bridge_index,
        };
        let bridges = || [link(3, "docker0", None), link(4, "br0", None)].into_iter();
        for (what, fronts, links, expected) in [
            ("no front", &[][..], &[][..], &[3, 4][..]),
            ("a front that is absent", &["eth0"], &[], &[3, 4]),
            ("a front that is a bridge", &["br0"], &[link(4, "br0", None)], &[3]),
            ("one that is gone since", &["br0"], &[], &[3]),
            ("one that was made anew since", &["br0"], &[link(9, "br0", None)], &[3]),
            ("a front that is a port", &["eth0"], &[link(2, "eth0", Some(4))], &[3]),
        ] {
            let fronts: Vec<String> = fronts.iter().map(|&front| front.to_owned()).collect();
            let found = of_containers(bridges(), &fronts, links);
            assert_eq!(found, expected.iter().copied().collect(), "{what}");
        }
    }
}
