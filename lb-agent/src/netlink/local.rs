//! Which destinations are this node's own: its addresses and the subnets of its containers.
//!
//! A container's subnet is that of an address of its bridge. Subnets of front interfaces, and of
//! bridges that have one as a port, are where clients are.
//!
//! Of its addresses some are the node's primary ones: what it calls from, and is called at by those who
//! mean the node. The others are there for something: virtual addresses of keepalived or of a routing
//! daemon, for example.

use std::{collections::BTreeSet, io, net::IpAddr};

use super::{
    link::{Family, FullAddress, Link, all_addresses, bridges, default_routes, link_named},
    socket::RouteSocket,
};
use crate::model::{IpPrefix, LocalKind, LocalPrefixes};

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
const LOOPBACK_INDEX: u32 = 1;

/// Addresses of this node, each by itself, and subnets of its bridges but for `fronts`. These are named,
/// since one that is made anew has another index.
pub fn local_prefixes(fronts: &[String]) -> io::Result<LocalPrefixes> {
    let mut socket = RouteSocket::open()?;
    let bridges = bridges(&mut socket)?;
    let mut links = Vec::new();
    for front in fronts.iter().filter(|front| (1..libc::IFNAMSIZ).contains(&front.len())) {
        links.extend(link_named(&mut socket, front)?);
    }
    let bridges = of_containers(bridges.into_values(), fronts, &links);
    let mut ways_out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let routes = default_routes(&mut socket, family)?;
        ways_out.extend(routes.iter().map(|route| (family, route.interface, route.source)));
    }
    let mut all = all_addresses(&mut socket)?;
    all.retain(|it| !is_link_local(it.address));
    let primary = primary(&all, &ways_out);
    let mut local = LocalPrefixes::new();
    // A subnet of one address is that address.
    for it in all.iter().filter(|it| bridges.contains(&it.interface)) {
        local.insert(IpPrefix::of(it.address, it.prefix_length), LocalKind::Containers);
    }
    for FullAddress { address, .. } in all {
        let is_primary = primary.contains(&address);
        let kind = if is_primary { LocalKind::Primary } else { LocalKind::Node };
        local.insert(IpPrefix::host(address), kind);
    }
    Ok(local)
}

/// An address that brings a subnet is one that the node uses there, if no older one did so before. Virtual
/// addresses have a subnet of their own mostly, but so have those of many clouds' machines: there it is the
/// one that the default route is used with. `ways_out`: interface and source of the default routes.
fn primary(all: &[FullAddress], ways_out: &[(Family, u32, Option<IpAddr>)]) -> BTreeSet<IpAddr> {
    let brings_subnet = |it: &&FullAddress| {
        let is_v4 = it.address.is_ipv4();
        it.interface != LOOPBACK_INDEX
            && it.prefix_length < if is_v4 { 32 } else { 128 }
            && !(is_v4 && it.is_secondary)
    };
    let mut primary: BTreeSet<IpAddr> =
        all.iter().filter(brings_subnet).map(|it| it.address).collect();
    for (family, interface, source) in ways_out {
        let is_there =
            |it: &&FullAddress| it.interface == *interface && Family::of(it.address) == *family;
        let with_subnet = || all.iter().filter(is_there).any(|it| brings_subnet(&it));
        match source {
            Some(source) => primary.extend([*source]),
            None if with_subnet() => {}
            None => primary.extend(all.iter().find(is_there).map(|it| it.address)),
        }
    }
    primary
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
        let loopback = IpPrefix::host([127, 0, 0, 1].into());
        assert_eq!(local.get(&loopback), Some(&LocalKind::Node), "{local:?}");
        for (address, expected) in
            [("169.254.1.2", true), ("fe80::1", true), ("fd00::1", false), ("10.0.0.1", false)]
        {
            assert_eq!(is_link_local(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[test]
    fn primary_addresses_are_those_that_the_node_uses_itself() {
        const FRONT: u32 = 2;
        let check = |what: &str, all: &[(&str, u32)], ways: &[Option<&str>], expected: &[&str]| {
            let all: Vec<FullAddress> = all
                .iter()
                .map(|(text, interface)| {
                    let is_secondary = text.ends_with('+');
                    let (address, length) =
                        text.trim_end_matches('+').split_once('/').expect("address/length");
                    FullAddress {
                        address: address.parse().expect("an address"),
                        prefix_length: length.parse().expect("a length"),
                        interface: *interface,
                        is_secondary,
                    }
                })
                .collect();
            let v6 = all.iter().any(|it| it.address.is_ipv6());
            let family = if v6 { Family::V6 } else { Family::V4 };
            let ways: Vec<_> = ways
                .iter()
                .map(|source| (family, FRONT, source.map(|it| it.parse().expect("an address"))))
                .collect();
            let found: Vec<String> = primary(&all, &ways).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{what}");
        };
        let node = ("192.0.2.1/24", FRONT);
        check("one address", &[node], &[], &["192.0.2.1"]);
        check("keepalived's", &[node, ("192.0.2.10/32", FRONT)], &[None], &["192.0.2.1"]);
        check("keepalived's first", &[("192.0.2.10/32", FRONT), node], &[None], &["192.0.2.1"]);
        check(
            "a second of the subnet",
            &[node, ("192.0.2.10/24+", FRONT)],
            &[None],
            &["192.0.2.1"],
        );
        check("one of `lo`", &[node, ("198.51.100.1/24", 1)], &[None], &["192.0.2.1"]);
        check("a bridge", &[node, ("172.17.0.1/16", 5)], &[None], &["172.17.0.1", "192.0.2.1"]);
        let single = ("192.0.2.1/32", FRONT);
        check("a cloud's", &[single, ("192.0.2.10/32", FRONT)], &[None], &["192.0.2.1"]);
        let virtual_first = [("192.0.2.10/32", FRONT), single];
        check("a cloud's, by the route", &virtual_first, &[Some("192.0.2.1")], &["192.0.2.1"]);
        check("no way out", &[single], &[], &[]);
        check("a way out elsewhere", &[("192.0.2.1/32", 7)], &[None], &[]);
        let temporary = [("2001:db8::1/64", FRONT), ("2001:db8::2/64+", FRONT)];
        check("a temporary one", &temporary, &[None], &["2001:db8::1", "2001:db8::2"]);
        check("DHCPv6", &[("2001:db8::1/128", FRONT)], &[None], &["2001:db8::1"]);
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
