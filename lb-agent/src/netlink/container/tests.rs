//! Which interface is chosen, and which containers are refused, in what words.

use super::*;

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const HOST_VETH: u32 = 62;
const NAMESPACE_NUMBER: i32 = 7;

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        peer_index: None,
        peer_namespace: None,
        bridge_index: None,
    }
}

fn veth(index: u32, name: &str, peer_index: u32) -> Link {
    Link {
        peer_index: Some(peer_index),
        peer_namespace: Some(0),
        ..link(index, name, Some("veth"))
    }
}

fn route(interface: u32) -> DefaultRoute {
    DefaultRoute { metric: 0, interface, source: None }
}

fn address(interface: u32, last: u8) -> Address {
    Address { interface, address: IpAddr::from([172, 18, 0, last]) }
}

fn exit() -> Exit {
    Exit {
        interface: "eth0".to_owned(),
        index: ETH0,
        peer_index: HOST_VETH,
        address: IpAddr::from([172, 18, 0, 3]),
    }
}

#[track_caller]
fn choose(routes: &[DefaultRoute], links: &[Link], addresses: &[Address]) -> String {
    let mut all = vec![link(1, "lo", None)];
    all.extend_from_slice(links);
    let all = all.into_iter().map(|link| (link.index, link)).collect();
    match choose_exit(routes, &all, addresses) {
        Ok(exit) => format!("{} {} -> {}", exit.interface, exit.address, exit.peer_index),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn bridge_network() {
    let chosen = choose(&[route(ETH0)], &[veth(ETH0, "eth0", HOST_VETH)], &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"eth0 172.18.0.3 -> 62");
}

#[test]
fn of_two_networks_the_one_with_the_default_route() {
    let links = [veth(ETH0, "eth0", 60), veth(ETH1, "eth1", HOST_VETH)];
    let addresses = [address(ETH0, 2), address(ETH1, 3)];
    insta::assert_snapshot!(choose(&[route(ETH1)], &links, &addresses), @"eth1 172.18.0.3 -> 62");
}

#[test]
fn first_of_several_addresses() {
    let addresses = [address(ETH0, 3), address(ETH0, 4)];
    let chosen = choose(&[route(ETH0)], &[veth(ETH0, "eth0", HOST_VETH)], &addresses);
    insta::assert_snapshot!(chosen, @"eth0 172.18.0.3 -> 62");
}

#[test]
fn source_of_the_default_route_before_all_other_addresses() {
    let route = DefaultRoute { source: Some(IpAddr::from([172, 18, 0, 4])), ..route(ETH0) };
    let addresses = [address(ETH0, 3), address(ETH0, 4)];
    let chosen = choose(&[route], &[veth(ETH0, "eth0", HOST_VETH)], &addresses);
    insta::assert_snapshot!(chosen, @"eth0 172.18.0.4 -> 62");
}

#[test]
fn no_network() {
    insta::assert_snapshot!(choose(&[], &[], &[]), @"the container has no network (`network_mode: none`); put it on a bridge network");
}

#[test]
fn internal_network() {
    let chosen = choose(&[], &[veth(ETH0, "eth0", HOST_VETH)], &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"the container has no default route, so its replies could not leave it: all its networks are `internal`; connect it to a bridge network as well");
}

#[test]
fn macvlan_network() {
    let chosen =
        choose(&[route(ETH0)], &[link(ETH0, "eth0", Some("macvlan"))], &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"the container's default route leaves by `eth0`, which is a `macvlan` interface: it has no end on this node where packets could be handed over; put the container on a bridge network");
}

#[test]
fn ipvlan_network() {
    let chosen = choose(&[route(ETH0)], &[link(ETH0, "eth0", Some("ipvlan"))], &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"the container's default route leaves by `eth0`, which is an `ipvlan` interface: it has no end on this node where packets could be handed over; put the container on a bridge network");
}

#[test]
fn tunnel_as_default_route() {
    let links = [veth(ETH0, "eth0", HOST_VETH), link(ETH1, "tun0", Some("tun"))];
    let chosen = choose(&[route(ETH1), route(ETH0)], &links, &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"the container's default route leaves by `tun0`, which is an interface of kind `tun` and not a veth; only containers on bridge networks can be served");
}

#[test]
fn hardware_in_the_container() {
    let chosen = choose(&[route(ETH0)], &[link(ETH0, "eth0", None)], &[address(ETH0, 3)]);
    insta::assert_snapshot!(chosen, @"the container's default route leaves by `eth0`, which is a device of its own and not a veth; only containers on bridge networks can be served");
}

#[test]
fn veth_without_address() {
    let chosen = choose(&[route(ETH0)], &[veth(ETH0, "eth0", HOST_VETH)], &[address(ETH1, 3)]);
    insta::assert_snapshot!(chosen, @"the container's interface `eth0` has a default route and no address");
}

#[test]
fn route_by_a_link_that_is_gone() {
    let chosen = choose(&[route(ETH1)], &[veth(ETH0, "eth0", HOST_VETH)], &[address(ETH0, 3)]);
    assert_eq!(chosen, NetworkRefusal::NoDefaultRoute.to_string());
}

fn way(address: &str) -> ContainerWay {
    ContainerWay {
        address: address.parse().expect("an address"),
        interface: "eth0".to_owned(),
        ifindex: HOST_VETH,
        host_interface: "veth5cf98f6".to_owned(),
        bridge: None,
    }
}

#[test]
fn either_family_is_enough() {
    let refused = || Err(NetworkError::from(NetworkRefusal::NoDefaultRoute));
    let failed = || {
        let source = io::ErrorKind::TimedOut.into();
        Err(NetworkError::Failed { pid: 1, action: "list its routes", source })
    };
    let (v4, v6) = (|| Ok(way("172.18.0.3")), || Ok(way("fd00::3")));
    let check = |v4, v6, expected: &str| {
        let shown = match join_ways(v4, v6) {
            Ok(network) => {
                let second = network.second.map(|way| way.address.to_string());
                format!("{} {}", network.first.address, second.unwrap_or_default())
            }
            Err(error) => error.to_string(),
        };
        assert!(shown.starts_with(expected), "{shown}");
    };
    check(v4(), v6(), "172.18.0.3 fd00::3");
    check(v4(), refused(), "172.18.0.3 ");
    check(refused(), v6(), "fd00::3 ");
    check(refused(), refused(), "the container has no default route");
    // What is not known now is no reason to take an address away.
    check(v4(), failed(), "cannot read the network");
    check(failed(), v6(), "cannot read the network");
}

/// The link that the node has at the peer's index; `true`: it is the other end.
#[track_caller]
fn check_host(host: Option<&Link>, number: Option<i32>, expected: bool) {
    let checked = check_host_end(&exit(), host.cloned(), number);
    assert_eq!(checked.is_ok(), expected, "{host:?} with number {number:?}: {checked:?}");
}

#[test]
fn other_end_must_point_back() {
    let good =
        Link { peer_namespace: Some(NAMESPACE_NUMBER), ..veth(HOST_VETH, "veth5cf98f6", ETH0) };
    let number = Some(NAMESPACE_NUMBER);
    check_host(Some(&good), number, true);
    check_host(None, number, false);
    // Other links that happen to have the index.
    check_host(Some(&Link { peer_index: Some(ETH1), ..good.clone() }), number, false);
    check_host(Some(&Link { peer_index: None, ..good.clone() }), number, false);
    check_host(Some(&Link { kind: Some("vlan".to_owned()), ..good.clone() }), number, false);
    check_host(Some(&Link { kind: None, ..good.clone() }), number, false);
    // A veth to the same index in another namespace.
    check_host(Some(&Link { peer_namespace: Some(8), ..good.clone() }), number, false);
    check_host(Some(&good), Some(8), false);
    // Nobody knows which namespaces are meant: no proof.
    check_host(Some(&good), None, false);
    check_host(Some(&Link { peer_namespace: None, ..good }), None, false);
}

#[test]
fn overlay_without_gateway_network() {
    let refusal = check_host_end(&exit(), None, None).expect_err("no such link");
    insta::assert_snapshot!(refusal, @"the other end of the container's interface `eth0` is not in this node's network namespace: it belongs to another one, as that of an overlay network; connect the container to a bridge network as well, or run the agent in the network namespace of the host");
}

#[test]
fn our_own_namespace_is_the_network_of_the_host() {
    let process = Process::open(std::process::id()).expect("our own process");
    let error = container_network(&process).expect_err("we are no container");
    assert!(
        matches!(error, NetworkError::Refused(NetworkRefusal::HostNetwork)),
        "expected the network of the host, got {error}"
    );
}

#[test]
fn dead_process_has_no_network() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("`sleep` starts");
    let process = Process::open(child.id()).expect("a child that runs");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let error = container_network(&process).expect_err("nobody there");
    assert!(matches!(error, NetworkError::Gone { .. }), "expected gone, got {error}");
}
