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
    link::{
        DefaultRoute, Family, FullAddress, Link, all_addresses, bridges, default_routes, link_named,
    },
    socket::RouteSocket,
};
use crate::model::{IpPrefix, LocalKind, LocalPrefixes};

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
const LOOPBACK_INDEX: u32 = 1;

/// Addresses of this node, each by itself, and subnets of its bridges but for `fronts`. These are named,
/// since one that is made anew has another index.
pub fn local_prefixes(fronts: &[String]) -> io::Result<LocalPrefixes> {
    let mut socket = RouteSocket::open()?;
    let (all, bridges) = seen(&mut socket, fronts)?;
    let ways_out = ways_out(&mut socket, &all)?;
    let networks = networks(&all, &bridges).map(|network| (network, LocalKind::Containers));
    // A subnet of one address is that address.
    Ok(networks.chain(kinds(&all, &ways_out)).collect())
}

/// The same without what they are, for those who look often.
pub fn local_networks(fronts: &[String]) -> io::Result<BTreeSet<IpPrefix>> {
    let (all, bridges) = seen(&mut RouteSocket::open()?, fronts)?;
    Ok(networks(&all, &bridges).chain(all.iter().map(|it| IpPrefix::host(it.address))).collect())
}

/// All addresses that packets come to, and the indexes of the bridges of containers.
fn seen(
    socket: &mut RouteSocket,
    fronts: &[String],
) -> io::Result<(Vec<FullAddress>, BTreeSet<u32>)> {
    let bridges = bridges(socket)?;
    let mut links = Vec::new();
    for front in fronts.iter().filter(|front| (1..libc::IFNAMSIZ).contains(&front.len())) {
        links.extend(link_named(socket, front)?);
    }
    let bridges = of_containers(bridges.into_values(), fronts, &links);
    let mut all = all_addresses(socket)?;
    all.retain(|it| !is_link_local(it.address));
    Ok((all, bridges))
}

/// The subnets of containers.
fn networks(all: &[FullAddress], bridges: &BTreeSet<u32>) -> impl Iterator<Item = IpPrefix> {
    let of_bridges = all.iter().filter(|it| bridges.contains(&it.interface));
    of_bridges.map(|it| IpPrefix::of(it.address, it.prefix_length))
}

/// Default routes of the families of whose addresses they say what nothing else does: there may be routes to all the world.
fn ways_out(
    socket: &mut RouteSocket,
    all: &[FullAddress],
) -> io::Result<Vec<(Family, DefaultRoute)>> {
    let mut ways_out = Vec::new();
    for (family, is_v4) in [(Family::V4, true), (Family::V6, false)] {
        let is_of_family = |it: &&FullAddress| it.address.is_ipv4() == is_v4;
        if all.iter().filter(is_of_family).any(may_be_of_a_route) {
            let routes = default_routes(socket, family)?.into_iter();
            ways_out.extend(routes.map(|route| (family, route)));
        }
    }
    Ok(ways_out)
}

/// What the node calls from, whatever its routes are. Of IPv4 the first address of each subnet, and what
/// was leased to it; a subnet of one address is mostly made for an address that moves. Of IPv6 all but those
/// that somebody has made not to be called from, as keepalived's; by time alone a last one is called from.
fn is_called_from(it: &FullAddress) -> bool {
    let brings_subnet = || it.prefix_length < 32 && !it.is_secondary;
    it.interface != LOOPBACK_INDEX
        && if it.address.is_ipv4() {
            !it.is_permanent || brings_subnet()
        } else {
            !it.is_deprecated || !it.is_permanent
        }
}

/// Whether routes may say that it is called from, which nothing else says.
fn may_be_of_a_route(it: &FullAddress) -> bool {
    !it.address.is_loopback() && !is_called_from(it)
}

/// All addresses with what they are. Where the default route of IPv4 is lost, it may have been used with any
/// that is not called from anyway, and that one may be what brings the route back.
fn kinds(
    all: &[FullAddress],
    ways_out: &[(Family, DefaultRoute)],
) -> impl Iterator<Item = (IpPrefix, LocalKind)> {
    let primary = primary(all, ways_out);
    let is_lost = !ways_out.iter().any(|(family, _)| *family == Family::V4);
    all.iter().map(move |it| {
        let kind = if primary.contains(&it.address) {
            LocalKind::Primary
        } else if is_lost && may_be_chosen(it) {
            LocalKind::Unclear
        } else {
            LocalKind::Node
        };
        (IpPrefix::host(it.address), kind)
    })
}

/// Whether the kernel may choose it for a route of IPv4 that names no source.
fn may_be_chosen(it: &FullAddress) -> bool {
    it.address.is_ipv4() && !it.address.is_loopback()
}

/// Beside what is called from anyway: the source of a default route, or what the kernel takes where it names
/// none (`inet_select_addr`): in many clouds a machine's only address is a subnet of its own, and between
/// routers that speak BGP it may stand on `lo` alone, or on an interface of its own.
fn primary(all: &[FullAddress], ways_out: &[(Family, DefaultRoute)]) -> BTreeSet<IpAddr> {
    let used = all.iter().filter(|it| is_called_from(it));
    let mut primary: BTreeSet<IpAddr> = used.map(|it| it.address).collect();
    for (family, DefaultRoute { interface, source, .. }) in ways_out {
        primary.extend(source);
        if source.is_some() || *family == Family::V6 {
            continue;
        }
        let anywhere = || all.iter().filter(|it| may_be_chosen(it));
        let on = |interface: u32| anywhere().filter(move |it| it.interface == interface);
        if !on(*interface).any(is_called_from) {
            let first = on(*interface).chain(on(LOOPBACK_INDEX)).chain(anywhere()).next();
            primary.extend(first.map(|it| it.address));
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

    const FRONT: u32 = 2;

    /// An address as `ip addr` has it, on the front or on the interface behind a `%`. Behind it: `+` if it is a
    /// secondary one, `~` if it is leased, `-` if it is deprecated.
    fn address(text: &str) -> FullAddress {
        let (text, interface) = text.split_once('%').unwrap_or((text, "2"));
        let (address, rest) = text.split_once('/').expect("address/length");
        FullAddress {
            address: address.parse().expect("an address"),
            prefix_length: rest.trim_end_matches(['+', '~', '-']).parse().expect("a length"),
            interface: interface.parse().expect("an index"),
            is_secondary: rest.contains('+'),
            is_permanent: !rest.contains('~'),
            is_deprecated: rest.contains('-'),
        }
    }

    #[test]
    fn primary_addresses_are_those_that_the_node_calls_from() {
        let check = |what: &str, all: &[&str], ways: &[Option<&str>], expected: &[&str]| {
            let all: Vec<FullAddress> = all.iter().map(|text| address(text)).collect();
            let is_v4 = all[0].address.is_ipv4();
            let family = if is_v4 { Family::V4 } else { Family::V6 };
            let source = |text: &str| text.parse().expect("an address");
            let way = |source| (family, DefaultRoute { metric: 0, interface: FRONT, source });
            let ways: Vec<_> = ways.iter().map(|it| way(it.map(source))).collect();
            let found: LocalPrefixes = kinds(&all, &ways).collect();
            let found: Vec<String> = found
                .into_iter()
                .filter(|(_, kind)| *kind != LocalKind::Node)
                .map(|(prefix, kind)| {
                    let unclear = if kind == LocalKind::Unclear { "?" } else { "" };
                    format!("{}{unclear}", prefix.address())
                })
                .collect();
            assert_eq!(found, expected, "{what}");
        };
        let (node, moved) = ("192.0.2.1/24", "192.0.2.10/32");
        check("one address", &[node], &[], &["192.0.2.1"]);
        check("keepalived's", &[node, moved], &[None], &["192.0.2.1"]);
        check("keepalived's first", &[moved, node], &[None], &["192.0.2.1"]);
        check("a second of the subnet", &[node, "192.0.2.10/24+"], &[None], &["192.0.2.1"]);
        check("two leases", &[node, "192.0.2.9/24+~"], &[None], &["192.0.2.1", "192.0.2.9"]);
        check("of `lo`", &[node, "198.51.100.1/24%1"], &[None], &["192.0.2.1"]);
        check("a bridge", &[node, "172.17.0.1/16%5"], &[None], &["172.17.0.1", "192.0.2.1"]);
        let single = "192.0.2.1/32";
        check("a cloud's", &[single, moved], &[None], &["192.0.2.1"]);
        check("a cloud's, leased", &[moved, "192.0.2.1/32~"], &[None], &["192.0.2.1"]);
        check("a cloud's, by the route", &[moved, single], &[Some("192.0.2.1")], &["192.0.2.1"]);
        let lost = [single, moved, "172.17.0.1/16%5"];
        check("a route that is lost", &lost, &[], &["172.17.0.1", "192.0.2.1?", "192.0.2.10?"]);
        check("no way out", &[node, moved], &[], &["192.0.2.1", "192.0.2.10?"]);
        check("of no way out", &["192.0.2.1/32%7", moved], &[None], &["192.0.2.10"]);
        check("on an interface of its own", &["192.0.2.1/32%7"], &[None], &["192.0.2.1"]);
        let on_lo = ["127.0.0.1/8%1", "192.0.2.1/32%1", "192.0.2.10/32%1"];
        check("unnumbered", &on_lo, &[None], &["192.0.2.1"]);

        let (slaac, dhcp) = ("2001:db8::1/64~", "2001:db8::2/128~");
        check("SLAAC and DHCPv6", &[slaac, dhcp], &[None], &["2001:db8::1", "2001:db8::2"]);
        check("temporary", &["2001:db8::2/64+~", slaac], &[], &["2001:db8::1", "2001:db8::2"]);
        check("a late router", &["2001:db8::1/64~-"], &[None], &["2001:db8::1"]);
        let moved = ["2001:db8::10/128-", "2001:db8::1/128"];
        check("keepalived's of IPv6", &moved, &[None], &["2001:db8::1"]);
        check("of `lo` and IPv6", &["2001:db8::10/128%1", slaac], &[None], &["2001:db8::1"]);
        check(
            "by a route of IPv6",
            &moved,
            &[Some("2001:db8::10")],
            &["2001:db8::1", "2001:db8::10"],
        );
    }

    /// On most nodes routes say nothing that addresses do not, and to read them may take long.
    #[test]
    fn routes_are_asked_where_addresses_do_not_say_it() {
        let is_asked = |all: &[&str]| all.iter().any(|text| may_be_of_a_route(&address(text)));
        let loopbacks = ["127.0.0.1/8%1", "::1/128%1"];
        assert!(!is_asked(&loopbacks));
        assert!(!is_asked(&["192.0.2.1/24", "172.17.0.1/16%5", "2001:db8::1/64~"]));
        for odd in ["192.0.2.10/32", "192.0.2.10/32%1", "192.0.2.10/24+", "2001:db8::10/128-"] {
            assert!(is_asked(&[odd]), "{odd}");
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
