//! What becomes of calls, on tables in memory.

use std::{collections::HashMap, net::IpAddr, vec, vec::Vec};

use super::{
    ATTEMPTS, Call, Decision, REFUSED, TIMED_OUT, UNREACHABLE, decide, find,
    host::HostSocketTables, is_behind, place_for, sender, socket_hash, translate_back,
};
use crate::{
    abi::{
        BackendV4, BackendV6, CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, Client, DropReason,
        FAMILY_V4, FRONTEND_DROPS, Frontend, FrontendState, LOCAL_NODE, LOCAL_PRIMARY, NetAddr6,
        NetU16, NetU32, PATH_LOCAL, PATH_ROUTED, PROTOCOL_ANY, PROTOCOL_TCP, PROTOCOL_UDP,
        ReachEntry, ReachKey, RingDescriptor, SCOPE_FRONT, SCOPE_SECOND_HALF, SOCKET_PEERS,
        ServiceScope, Slot, SocketPeer, SocketPeers, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS,
        VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS, VISIBLE_TO_NOBODY, VISIBLE_TO_NODE, Verdict,
        affinity_flags, ring_number,
    },
    engine::Family,
};

pub(super) const SERVICE: u32 = 3;
pub(super) const RING_SIZE: u32 = 1021;
pub(super) const NODE: u64 = 1;
pub(super) const FRONT_CONTAINER: u64 = 100;
pub(super) const BACK_CONTAINER: u64 = 101;
const STRANGER: u64 = 999;
pub(super) const FRONT_NET: u64 = 0xf;
pub(super) const BACK_NET: u64 = 0xb;
pub(super) const ALL: u8 = TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS;
pub(super) const EVERYBODY: u32 = VISIBLE_TO_NODE | VISIBLE_TO_CONTAINERS;

/// A family with a VIP and addresses for backends.
pub(super) trait Sample: Family + Into<IpAddr> {
    fn vip() -> Self;
    fn other() -> Self;
    fn backend_record(number: u32, path: u8, state: u8, port: u16) -> Self::BackendRecord;
}

impl Sample for NetU32 {
    fn vip() -> Self {
        NetU32::new(0xc000_020a)
    }

    fn other() -> Self {
        NetU32::new(0xc000_020b)
    }

    fn backend_record(number: u32, path: u8, state: u8, port: u16) -> BackendV4 {
        BackendV4 {
            address: NetU32::new(0x0a09_0100 + number),
            port: NetU16::new(port),
            state,
            path,
            ifindex: if path == PATH_LOCAL { 40 + number } else { 0 },
            generation: 5,
        }
    }
}

impl Sample for NetAddr6 {
    fn vip() -> Self {
        NetAddr6::from_raw([1, 2, 3, 4])
    }

    fn other() -> Self {
        NetAddr6::from_raw([1, 2, 3, 5])
    }

    fn backend_record(number: u32, path: u8, state: u8, port: u16) -> BackendV6 {
        BackendV6 {
            address: NetAddr6::from_raw([9, 9, 9, number]),
            port: NetU16::new(port),
            state,
            path,
            ifindex: if path == PATH_LOCAL { 40 + number } else { 0 },
            generation: 5,
            reserved: 0,
        }
    }
}

/// The class of a container is its namespace here.
fn client(kind: u32, class: u64) -> Client {
    Client { kind, class, ..Client::default() }
}

fn on(class: u64, network: u64) -> ClassNetwork {
    ClassNetwork { class, network }
}

pub(super) fn entries(family: u32, numbers: &[u32]) -> Vec<ReachEntry> {
    numbers.iter().map(|number| ReachEntry::new(SERVICE, family, *number, 5)).collect()
}

pub(super) fn key(class: u64, family: u32) -> ReachKey {
    ReachKey { class, service: SERVICE, family }
}

/// Backends 1 to 3, in turns in the ring; 1 and 2 are containers on the network of those in front.
pub(super) fn tables<A: Sample>() -> HostSocketTables<A> {
    let mut tables = HostSocketTables::<A>::default();
    for number in 1..=3 {
        let path = if number == 3 { PATH_ROUTED } else { PATH_LOCAL };
        let record = A::backend_record(number, path, ALL, 8080);
        tables.packets.backends.insert(number, record);
    }
    tables.packets.slots = (0..RING_SIZE).map(|slot| Slot::plain(1 + slot % 3)).collect();
    for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
        let ring = ring_number(SERVICE, A::NUMBER, protocol);
        tables.packets.rings.insert(ring, RingDescriptor::new(0, RING_SIZE, 1));
        let key = A::frontend_key(A::vip(), NetU16::new(80), protocol, SCOPE_FRONT);
        let frontend = Frontend { state: FrontendState::Served, service: SERVICE, ring, flags: 0 };
        tables.packets.frontends.insert(key, frontend);
    }
    let key = A::frontend_key(A::vip(), NetU16::new(0), PROTOCOL_ANY, SCOPE_FRONT);
    let vip = Frontend { state: FrontendState::Unserved, ..Frontend::default() };
    tables.packets.frontends.insert(key, vip);
    tables.clients = HashMap::from([
        (NODE, client(CLIENT_NODE, 0)),
        (FRONT_CONTAINER, client(CLIENT_CONTAINER, FRONT_CONTAINER)),
        (BACK_CONTAINER, client(CLIENT_CONTAINER, BACK_CONTAINER)),
    ]);
    tables.class_networks =
        [on(FRONT_CONTAINER, 0x77), on(FRONT_CONTAINER, FRONT_NET), on(BACK_CONTAINER, BACK_NET)]
            .into();
    tables.scopes.insert(SERVICE, ServiceScope { flags: EVERYBODY, ..ServiceScope::default() });
    tables.networks = HashMap::from([(1, FRONT_NET), (2, FRONT_NET)]);
    tables
}

pub(super) fn call<A: Sample>(client: u64) -> Call<A> {
    Call {
        vip: A::vip(),
        port: NetU16::new(80),
        protocol: PROTOCOL_TCP.into(),
        client,
        hash: 0,
        hash_seed: 7,
        routes_across: 0,
    }
}

/// What becomes of calls that fall everywhere on the ring: how many each backend got, and refusals.
fn spread<A: Sample>(
    tables: &HostSocketTables<A>,
    call: Call<A>,
) -> (Vec<u32>, Vec<(DropReason, i32)>) {
    let mut shares = vec![0; 4];
    let mut refusals = Vec::new();
    for slot in 0..RING_SIZE {
        // The middle of each slot.
        let hash = ((u64::from(slot) << 32 | 1 << 31) / u64::from(RING_SIZE)) as u32;
        let decision = decide(tables, &Call { hash, ..call }, None);
        match decision.verdict {
            Verdict::Drop => refusals.push((decision.reason, decision.errno)),
            _ => shares[decision.backend as usize] += 1,
        }
    }
    refusals.dedup();
    (shares, refusals)
}

fn both(check: impl Fn(&str)) {
    check("v4");
    check("v6");
}

#[test]
fn calls_spread_as_the_ring_says_in_both_families() {
    let (shares, refusals) = spread(&tables::<NetU32>(), call(FRONT_CONTAINER));
    assert_eq!((shares, refusals), (vec![0, 341, 340, 340], vec![]));
    let (shares, _) = spread(&tables::<NetAddr6>(), call(NODE));
    assert_eq!(shares, [0, 341, 340, 340]);
}

#[test]
fn what_is_chosen_is_translated() {
    let tables = tables::<NetU32>();
    let decision = decide(&tables, &call(FRONT_CONTAINER), None);
    assert_eq!(decision.verdict, Verdict::Deliver);
    assert_eq!(decision.address, NetU32::new(0x0a09_0101));
    assert_eq!((decision.port.get(), decision.generation, decision.service), (8080, 5, SERVICE));
    assert_eq!(decision.is_new, 1);
    let peer = decision.peer(&call(FRONT_CONTAINER), 1);
    assert!(peer.is_whole());
    assert_eq!((peer.vip_port.get(), peer.port.get(), peer.backend), (80, 8080, 1));
}

#[test]
fn a_backend_without_port_gets_the_port_of_the_call() {
    let mut tables = tables::<NetU32>();
    for number in 1..=3 {
        let record = NetU32::backend_record(number, PATH_LOCAL, ALL, 0);
        tables.packets.backends.insert(number, record);
    }
    assert_eq!(decide(&tables, &call(NODE), None).port.get(), 80);
}

#[test]
fn what_is_no_vip_is_left_alone() {
    both(|family| {
        let decision = if family == "v4" {
            let call = Call { vip: NetU32::other(), ..call(NODE) };
            decide(&tables(), &call, None).verdict
        } else {
            let call = Call { vip: NetAddr6::other(), ..call(NODE) };
            decide(&tables(), &call, None).verdict
        };
        assert_eq!(decision, Verdict::Pass, "{family}");
    });
}

#[test]
fn a_port_of_a_vip_without_service_is_refused_unless_the_node_may_listen_there() {
    let mut tables = tables::<NetU32>();
    let wrong = Call { port: NetU16::new(81), ..call(NODE) };
    let decision = decide(&tables, &wrong, None);
    assert_eq!((decision.reason, decision.errno), (DropReason::NoFrontend, REFUSED));
    for kind in [LOCAL_NODE, LOCAL_PRIMARY] {
        tables.packets.local = vec![(IpAddr::from([192, 0, 2, 10]), 32, kind)];
        assert_eq!(decide(&tables, &wrong, None).verdict, Verdict::Pass);
    }
    // Where there is a service, it is served all the same.
    assert_eq!(decide(&tables, &call(NODE), None).verdict, Verdict::Deliver);
}

#[test]
fn a_service_is_there_for_those_that_it_names() {
    let check = |flags: u32, networks: [u64; 4], client: u64, expected: Verdict| {
        let mut tables = tables::<NetU32>();
        tables.networks.clear();
        // The half that does not count says something else.
        let others = [0x77, BACK_NET, 0, 0];
        for (half, networks) in [(0, [networks, others]), (SCOPE_SECOND_HALF, [others, networks])] {
            let flags = flags | half;
            tables.scopes.insert(SERVICE, ServiceScope { flags, reserved: 0, networks });
            let decision = decide(&tables, &call(client), None);
            assert_eq!(decision.verdict, expected, "{flags} {networks:?} {client}");
            if expected == Verdict::Drop {
                let told = (decision.reason, decision.errno);
                assert_eq!(told, (DropReason::NotVisible, UNREACHABLE));
            }
        }
    };
    let nowhere = [0; 4];
    let front = [0x1, FRONT_NET, 0, 0];
    for client in [NODE, FRONT_CONTAINER, BACK_CONTAINER, STRANGER] {
        check(EVERYBODY, nowhere, client, Verdict::Deliver);
        // Nobody of this node: as if it were not there.
        check(VISIBLE_TO_NOBODY, front, client, Verdict::Pass);
        // Nobody has said yet: not let out to wherever the address leads.
        check(0, front, client, Verdict::Drop);
    }
    check(VISIBLE_TO_NODE, nowhere, NODE, Verdict::Deliver);
    check(VISIBLE_TO_NODE, nowhere, FRONT_CONTAINER, Verdict::Drop);
    check(VISIBLE_TO_NODE, nowhere, STRANGER, Verdict::Drop);
    check(VISIBLE_TO_CONTAINERS, nowhere, NODE, Verdict::Drop);
    check(VISIBLE_TO_CONTAINERS, nowhere, STRANGER, Verdict::Deliver);
    check(VISIBLE_TO_NETWORKS, front, FRONT_CONTAINER, Verdict::Deliver);
    check(VISIBLE_TO_NETWORKS, front, BACK_CONTAINER, Verdict::Drop);
    check(VISIBLE_TO_NETWORKS, front, STRANGER, Verdict::Drop);
    check(VISIBLE_TO_NETWORKS, front, NODE, Verdict::Drop);
    // Networks that nobody has do not meet.
    check(VISIBLE_TO_NETWORKS, nowhere, BACK_CONTAINER, Verdict::Drop);
}

#[test]
fn whoever_cannot_reach_a_backend_is_not_led_there() {
    let check = |client: u64, routes_across: u32, expected: &[u32], refused: bool| {
        let tables = tables::<NetU32>();
        let (shares, refusals) = spread(&tables, Call { routes_across, ..call(client) });
        assert_eq!(shares, expected, "{client} {routes_across}");
        assert_eq!(refusals.is_empty(), !refused, "{client}: {refusals:?}");
    };
    // Backend 3 is reached by the routing table.
    check(BACK_CONTAINER, 0, &[0, 0, 0, RING_SIZE], false);
    check(BACK_CONTAINER, 1, &[0, 341, 340, 340], false);
    check(FRONT_CONTAINER, 0, &[0, 341, 340, 340], false);
    check(NODE, 0, &[0, 341, 340, 340], false);
    check(STRANGER, 0, &[0, 341, 340, 340], false);
    let mut tables = tables::<NetU32>();
    tables.networks.insert(3, FRONT_NET);
    let (_, refusals) = spread(&tables, call(BACK_CONTAINER));
    assert_eq!(refusals, [(DropReason::OtherNetwork, UNREACHABLE)]);
}

#[test]
fn a_death_is_passed_over_before_the_ring_follows() {
    let mut tables = tables::<NetU32>();
    let dying = NetU32::backend_record(1, PATH_LOCAL, TAKES_OLD, 8080);
    tables.packets.backends.insert(1, dying);
    let (shares, refusals) = spread(&tables, call(FRONT_CONTAINER));
    assert_eq!((shares[1], refusals), (0, vec![]));
    assert!(shares[2] > 300 && shares[3] > 300, "{shares:?}");
    for number in 1..=3 {
        let gone = NetU32::backend_record(number, PATH_LOCAL, 0, 8080);
        tables.packets.backends.insert(number, gone);
    }
    let (_, refusals) = spread(&tables, call(FRONT_CONTAINER));
    assert_eq!(refusals, [(DropReason::NoBackend, REFUSED)]);
}

#[test]
fn a_ring_without_slots_refuses() {
    let mut tables = tables::<NetU32>();
    tables.packets.rings.clear();
    let decision = decide(&tables, &call(NODE), None);
    assert_eq!((decision.reason, decision.errno), (DropReason::NoBackend, REFUSED));
}

#[test]
fn a_service_that_drops_lets_its_clients_time_out_at_once() {
    let mut tables = tables::<NetU32>();
    tables.packets.rings.clear();
    for frontend in tables.packets.frontends.values_mut() {
        frontend.flags = FRONTEND_DROPS;
    }
    assert_eq!(decide(&tables, &call(NODE), None).errno, TIMED_OUT);
    let wrong = Call { port: NetU16::new(81), ..call(NODE) };
    assert_eq!(decide(&tables, &wrong, None).errno, TIMED_OUT);
}

#[test]
fn with_affinity_a_namespace_has_one_backend() {
    let mut tables = tables::<NetU32>();
    for frontend in tables.packets.frontends.values_mut() {
        frontend.flags = affinity_flags(32);
    }
    let mut backends = Vec::new();
    for client in 0..30 {
        let (shares, _) = spread(&tables, call(client));
        assert_eq!(shares.iter().filter(|share| **share > 0).count(), 1, "{client}");
        backends.push(shares.iter().position(|share| *share > 0));
    }
    backends.sort_unstable();
    backends.dedup();
    assert_eq!(backends.len(), 3);
}

fn datagram(hash: u32) -> Call<NetU32> {
    Call { protocol: PROTOCOL_UDP.into(), hash, ..call(NODE) }
}

fn known(decision: &Decision<NetU32>) -> SocketPeer {
    decision.peer(&datagram(0), 1)
}

#[test]
fn datagrams_stay_where_the_socket_has_sent_before() {
    let mut tables = tables::<NetU32>();
    let first = decide(&tables, &datagram(0), None);
    assert_eq!((first.backend, first.is_new), (1, 1));
    let known = known(&first);
    // The ring gives the slot to another, and the flow stays.
    for slot in &mut tables.packets.slots {
        *slot = Slot::plain(2);
    }
    let again = decide(&tables, &datagram(0), Some(&known));
    assert_eq!((again.backend, again.is_new, again.address), (1, 0, first.address));
    // Draining keeps it, unhealthy and gone do not.
    let check = |state: u8, generation: u32, expected: (u32, u32)| {
        let mut tables = tables.clone();
        let mut record = NetU32::backend_record(1, PATH_LOCAL, state, 8080);
        record.generation = generation;
        tables.packets.backends.insert(1, record);
        let decision = decide(&tables, &datagram(0), Some(&known));
        assert_eq!((decision.backend, decision.is_new), expected, "{state} {generation}");
    };
    check(TAKES_OLD | TAKES_OLD_DATAGRAMS, 5, (1, 0));
    check(TAKES_OLD, 5, (2, 1));
    check(0, 5, (2, 1));
    check(ALL, 6, (2, 1));
    // Another service has the address now.
    let other = SocketPeer { service: SERVICE + 1, ..known }.sealed();
    assert_eq!(decide(&tables, &datagram(0), Some(&other)).backend, 2);
}

#[test]
fn datagrams_of_who_has_left_the_network_of_a_backend_go_elsewhere() {
    let mut tables = tables::<NetU32>();
    let sent = |client| Call { client, ..datagram(0) };
    let known = known(&decide(&tables, &sent(FRONT_CONTAINER), None));
    assert_eq!(known.backend, 1);
    let check = |tables: &HostSocketTables<NetU32>, call, expected: (u32, u32)| {
        let decision = decide(tables, &call, Some(&known));
        assert_eq!((decision.backend, decision.is_new), expected, "{call:?}");
    };
    check(&tables, sent(FRONT_CONTAINER), (1, 0));
    tables.networks.insert(1, BACK_NET);
    check(&tables, sent(FRONT_CONTAINER), (2, 1));
    check(&tables, sent(BACK_CONTAINER), (1, 0));
    // The node is on all networks, and so is everybody where the host leads across.
    check(&tables, sent(NODE), (1, 0));
    check(&tables, Call { routes_across: 1, ..sent(FRONT_CONTAINER) }, (1, 0));
}

#[test]
fn a_socket_always_falls_on_the_same_slot() {
    let port = NetU16::new(53);
    assert_eq!(socket_hash(7, 1234, port), socket_hash(7, 1234, port));
    let hashes: Vec<u32> = (0..3000).map(|socket| socket_hash(7, socket, port)).collect();
    let lower = hashes.iter().filter(|hash| **hash < u32::MAX / 3).count();
    assert!((850..1150).contains(&lower), "{lower}");
}

#[test]
fn a_peer_of_two_writers_counts_as_nothing() {
    let whole = known(&decide(&tables(), &datagram(0), None));
    let mut torn = whole;
    torn.backend = 2;
    assert!(whole.is_whole() && !torn.is_whole());
    assert!(!SocketPeer::default().is_whole());
    assert!(!SocketPeer::default().sealed().is_whole());
    let (address, port) = (whole.address, whole.port);
    let back = translate_back(&whole, FAMILY_V4, address, port);
    assert_eq!(back, Some((whole.vip, NetU16::new(80))));
    assert_eq!(translate_back(&torn, FAMILY_V4, address, port), None);
    assert_eq!(translate_back(&whole, FAMILY_V4, address, NetU16::new(1)), None);
    assert_eq!(translate_back(&whole, 1, address, port), None);
}

#[test]
fn of_more_addresses_than_a_socket_remembers_the_oldest_goes() {
    let mut peers = SocketPeers::default();
    let vip = |number: u32| NetAddr6::from_raw([number, 0, 0, 0]);
    let port = NetU16::new(53);
    let template = known(&decide(&tables(), &datagram(0), None));
    let remember = |peers: &mut SocketPeers, number| {
        let (place, turn) = place_for(peers, FAMILY_V4, vip(number), port);
        let peer = SocketPeer { vip: vip(number), vip_port: port, turn, ..template };
        peers.peers[place] = peer.sealed();
        place
    };
    for number in 1..=SOCKET_PEERS as u32 {
        remember(&mut peers, number);
    }
    // Known ones keep their place.
    let place = remember(&mut peers, 2);
    assert_eq!(place, remember(&mut peers, 2));
    let has = |peers: &SocketPeers, number| find(peers, FAMILY_V4, vip(number), port).is_some();
    assert!((1..=4).all(|number| has(&peers, number)));
    remember(&mut peers, 5);
    assert!(!has(&peers, 1) && (2..=5).all(|number| has(&peers, number)));
    assert!(find(&peers, 1, vip(2), port).is_none());
}

#[test]
fn an_answer_is_of_the_address_that_was_asked_for_last() {
    let template = known(&decide(&tables(), &datagram(0), None));
    let (address, port) = (template.address, template.port);
    let vip = |number: u32| NetAddr6::from_raw([number, 0, 0, 0]);
    let vip_port = NetU16::new(53);
    // Turns come round.
    for first in [0, u32::MAX - 1] {
        let mut peers = SocketPeers::default();
        peers.peers[3].turn = first;
        let mut send = |number: u32| {
            let (place, turn) = place_for(&peers, FAMILY_V4, vip(number), vip_port);
            let peer = SocketPeer { vip: vip(number), vip_port, turn, ..template };
            peers.peers[place] = peer.sealed();
            let behind: Vec<bool> = peers
                .peers
                .iter()
                .filter(|it| it.is_whole())
                .map(|it| is_behind(&peers, it))
                .collect();
            let named = sender(&peers, FAMILY_V4, address, port).map(|(vip, _)| vip.raw()[0]);
            (named, behind.iter().filter(|it| **it).count())
        };
        assert_eq!(send(7), (Some(7), 0));
        assert_eq!(send(8), (Some(8), 1));
        assert_eq!(send(7), (Some(7), 1));
        assert_eq!(send(9), (Some(9), 2));
        assert_eq!(send(8), (Some(8), 2));
        assert_eq!(sender(&peers, FAMILY_V4, address, NetU16::new(1)), None);
    }
}

#[test]
fn a_bounded_number_of_slots_is_looked_at() {
    let mut tables = tables::<NetU32>();
    tables.packets.slots = (0..RING_SIZE).map(|_| Slot::plain(0)).collect();
    let (_, refusals) = spread(&tables, call(NODE));
    assert_eq!(refusals, [(DropReason::NoBackend, REFUSED)]);
    const { assert!(ATTEMPTS <= 8) };
}
