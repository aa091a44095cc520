//! Questions about socket calls, on tables in memory.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use lb_common::{
    abi::{
        BackendV4, CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, Client, FAMILY_V4, Frontend,
        FrontendKeyV4, NetU16, NetU32, PATH_LOCAL, PREFERS_NODE, PROTOCOL_ANY, PROTOCOL_TCP,
        RingDescriptor, SCOPE_FRONT, ServiceScope, Slot, TAKES_NEW, VISIBLE_TO_CONTAINERS,
        VISIBLE_TO_NETWORKS, VISIBLE_TO_NOBODY, affinity_flags, ring_number,
    },
    engine::Context,
    socket::host::HostSocketTables,
};

use super::{Caller, explain_call};
use crate::{api::explain::CallQuery, model::Protocol, sockets::network_hash};

const VIP: [u8; 4] = [203, 0, 113, 10];
const NODE: u64 = 1;
const CLIENT: u64 = 2;
const STRANGER: u64 = 3;

/// Service 3 at TCP port 80 of the VIP, with one backend on the network `shop`.
fn tables(scope: ServiceScope, flags: u32, state: u8) -> HostSocketTables<NetU32> {
    let ring = ring_number(3, FAMILY_V4, PROTOCOL_TCP);
    let frontend = Frontend { service: 3, ring, flags, ..Frontend::default() };
    let key = |port, protocol| FrontendKeyV4 {
        vip: NetU32::from_wire(VIP),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    let mut tables = HostSocketTables::<NetU32>::default();
    tables.packets.frontends =
        [key(80, PROTOCOL_TCP), key(0, PROTOCOL_ANY)].map(|key| (key, frontend)).into();
    tables.packets.rings = [(ring, RingDescriptor::new(0, 1021, 4))].into();
    tables.packets.slots = vec![Slot::plain(1); 1021];
    let backend = BackendV4 {
        address: NetU32::from_wire([10, 0, 0, 1]),
        port: NetU16::new(8080),
        state,
        path: PATH_LOCAL,
        ifindex: 41,
        generation: 5,
    };
    tables.packets.backends = [(1, backend)].into();
    let on = |network: &str| Client {
        kind: CLIENT_CONTAINER,
        class: network_hash(network),
        ..Client::default()
    };
    let node = Client { kind: CLIENT_NODE, ..Client::default() };
    tables.clients = [(NODE, node), (CLIENT, on("shop")), (STRANGER, on("blog"))].into();
    let membership = |network: &str| ClassNetwork {
        class: network_hash(network),
        network: network_hash(network),
    };
    tables.class_networks = ["shop", "blog"].map(membership).into();
    tables.scopes = [(3, scope)].into();
    tables.networks = [(1, network_hash("shop"))].into();
    tables
}

fn explained(tables: &HostSocketTables<NetU32>, name: &str, cookie: u64, port: u16) -> String {
    let context = Context {
        now_tick: 0,
        now_moment: 0,
        ingress_ifindex: 0,
        reply_ifindex: 0,
        hash_seed: 7,
        meta_flags: 0,
    };
    let names = ["shop", "blog"].map(|name| (network_hash(name), name.to_owned()));
    let networks = BTreeMap::from(names);
    let caller = Caller { name: name.to_owned(), cookie, hash: 9, networks, routes_across: false };
    let query =
        CallQuery { from: name.to_owned(), vip: (VIP, port).into(), protocol: Protocol::Tcp };
    explain_call(&query, &caller, NetU32::from_wire(VIP), tables, &context).lines().join("\n")
}

fn scope(flags: u32) -> ServiceScope {
    let mut scope = ServiceScope { flags, ..ServiceScope::default() };
    if flags & VISIBLE_TO_NETWORKS != 0 {
        scope.networks[0][0] = network_hash("blog");
    }
    scope
}

#[test]
fn a_call_that_is_served() {
    let tables = tables(scope(VISIBLE_TO_CONTAINERS | PREFERS_NODE), 0, TAKES_NEW);
    assert_snapshot!(explained(&tables, "client", CLIENT, 80), @r#"
    tcp call of client to 203.0.113.10:80
      frontend      served by service number 3
      caller        client: container, on shop
      scope         containers, prefers the node: the caller sees it
      hash          0x00000009 of this call alone
      ring 12       1021 slots, publication 4
      slot 0        plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new; generation 5
      network       backend 1 by shop: reached
    decision: deliver to 10.0.0.1:8080 (backend 1)
    note: each call falls on a slot by chance; this is one of them
    "#);
}

#[test]
fn a_call_whose_backend_is_chosen_by_who_calls() {
    let tables = tables(scope(VISIBLE_TO_CONTAINERS), affinity_flags(32), TAKES_NEW);
    assert_snapshot!(explained(&tables, "elsewhere", 99, 80), @r#"
    tcp call of elsewhere to 203.0.113.10:80
      frontend      served by service number 3, affinity/32
      caller        elsewhere: unknown
      scope         containers: the caller sees it
      hash          0xe6be2c94 of the caller's namespace
      ring 12       1021 slots, publication 4
      slot 920      plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new; generation 5
      network       backend 1 by shop: reached
    decision: deliver to 10.0.0.1:8080 (backend 1)
    "#);
}

#[test]
fn a_call_to_a_backend_on_another_network() {
    let tables = tables(scope(VISIBLE_TO_CONTAINERS), 0, TAKES_NEW);
    assert_snapshot!(explained(&tables, "stranger", STRANGER, 80), @r#"
    tcp call of stranger to 203.0.113.10:80
      frontend      served by service number 3
      caller        stranger: container, on blog
      scope         containers: the caller sees it
      hash          0x00000009 of this call alone
      ring 12       1021 slots, publication 4
      slot 0        plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new; generation 5
      network       backend 1 by shop: not reached
      slot 631      plain, cur backend 1
      slot 241      plain, cur backend 1
      slot 872      plain, cur backend 1
      slot 482      plain, cur backend 1
      slot 92       plain, cur backend 1
      slot 723      plain, cur backend 1
      slot 333      plain, cur backend 1
    decision: drop EHOSTUNREACH, other_network
    note: each call falls on a slot by chance; this is one of them
    "#);
}

#[test]
fn a_call_to_what_one_does_not_see() {
    let tables = tables(scope(VISIBLE_TO_NETWORKS), 0, TAKES_NEW);
    assert_snapshot!(explained(&tables, "node", NODE, 80), @r#"
    tcp call of node to 203.0.113.10:80
      frontend      served by service number 3
      caller        node: node
      scope         network:blog: the caller does not see it
    decision: drop EHOSTUNREACH, not_visible
    "#);
}

#[test]
fn calls_to_a_wrong_port_to_nobody_and_without_a_backend() {
    let served = tables(scope(VISIBLE_TO_CONTAINERS), 0, TAKES_NEW);
    assert_snapshot!(explained(&served, "client", CLIENT, 81), @r#"
    tcp call of client to 203.0.113.10:81
      frontend      unserved
    decision: drop ECONNREFUSED, no_frontend
    "#);
    let nobodys = tables(scope(VISIBLE_TO_NOBODY), 0, TAKES_NEW);
    assert_snapshot!(explained(&nobodys, "client", CLIENT, 80), @r#"
    tcp call of client to 203.0.113.10:80
      frontend      served by service number 3
    decision: pass
    note: the call is left alone: the port is the node's own, or the service is visible to nobody on this node
    "#);
    let dead = tables(scope(VISIBLE_TO_CONTAINERS), 0, 0);
    assert_snapshot!(explained(&dead, "client", CLIENT, 80), @r#"
    tcp call of client to 203.0.113.10:80
      frontend      served by service number 3
      caller        client: container, on shop
      scope         containers: the caller sees it
      hash          0x00000009 of this call alone
      ring 12       1021 slots, publication 4
      slot 0        plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes nothing: gone; generation 5
      slot 631      plain, cur backend 1
      slot 241      plain, cur backend 1
      slot 872      plain, cur backend 1
      slot 482      plain, cur backend 1
      slot 92       plain, cur backend 1
      slot 723      plain, cur backend 1
      slot 333      plain, cur backend 1
    decision: drop ECONNREFUSED, no_backend
    note: each call falls on a slot by chance; this is one of them
    "#);
}
