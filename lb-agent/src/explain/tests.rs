//! Questions about tables in memory.

use insta::assert_snapshot;
use lb_common::{
    abi::{
        BackendV4, BackendV6, CLASS_ESTABLISHED, CLASS_HALF_OPEN, FAMILY_V4, FAMILY_V6,
        FRONTEND_DROPS, FRONTEND_RECORDS_REPLIES, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4,
        FrontendKeyV6, LOCAL_PRIMARY, Limits, META_REPLY_DEFAULTS, NetAddr6, NetU32, PATH_LOCAL,
        PATH_ROUTED, PROTOCOL_ANY, REPLY_DEFAULT_AMBIGUOUS, REPLY_DEFAULT_FOREIGN,
        ReplyDefaultKeyV4, ReplyDefaultV4, ReplyKeyV4, ReplyRecordV4, RingDescriptor, SCOPE_FRONT,
        SLOT_MOVING, SLOT_SETTLED, Slot, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS, affinity_flags,
        ring_number,
    },
    engine::host::HostTables,
};

use super::*;

const NOW: u32 = 100_000;
const VIP: [u8; 4] = [203, 0, 113, 10];

fn context(meta_flags: u32) -> Context {
    Context {
        now_tick: NOW,
        now_moment: 0,
        ingress_ifindex: 2,
        reply_ifindex: 2,
        hash_seed: 7,
        meta_flags,
    }
}

fn backend(host: u8, state: u8) -> BackendV4 {
    BackendV4 {
        address: NetU32::from_wire([10, 0, 0, host]),
        port: NetU16::new(8080),
        state,
        path: PATH_LOCAL,
        ifindex: 40 + u32::from(host),
        generation: 5,
    }
}

/// Service 3 at TCP port 80 of the VIP, with a ring of one kind of slot and backends 1 to 3, of which
/// the second is draining and the third gone.
fn tables(slot: Slot, frontend_flags: u32) -> HostTables<NetU32> {
    let ring = ring_number(3, FAMILY_V4, PROTOCOL_TCP);
    let frontend = Frontend { service: 3, ring, flags: frontend_flags, ..Frontend::default() };
    let key = |port, protocol| FrontendKeyV4 {
        vip: NetU32::from_wire(VIP),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    HostTables {
        frontends: [key(80, PROTOCOL_TCP), key(0, PROTOCOL_ANY)].map(|key| (key, frontend)).into(),
        rings: [(ring, RingDescriptor::new(100, 1021, 4))].into(),
        slots: vec![slot; 1200],
        backends: [
            (1, backend(1, TAKES_NEW | TAKES_OLD)),
            (2, backend(2, TAKES_OLD)),
            (3, backend(3, 0)),
        ]
        .into(),
        ..HostTables::with_room(Limits::with_cpus(1), 16, 16)
    }
}

fn flow_key() -> FlowKeyV4 {
    FlowKeyV4 {
        client: NetU32::from_wire([192, 0, 2, 7]),
        vip: NetU32::from_wire(VIP),
        client_port: NetU16::new(40_000),
        vip_port: NetU16::new(80),
        protocol: PROTOCOL_TCP.into(),
    }
}

fn query(vip: &str, packet: PacketWord) -> ExplainQuery {
    ExplainQuery {
        client: "192.0.2.7:40000".parse().unwrap(),
        vip: vip.parse().unwrap(),
        protocol: Protocol::Tcp,
        packet,
        is_reply: false,
    }
}

fn explained_with(
    tables: &HostTables<NetU32>,
    query: &ExplainQuery,
    meta_flags: u32,
) -> Explanation {
    let (IpAddr::V4(client), IpAddr::V4(vip)) = (query.client.ip(), query.vip.ip()) else {
        panic!("an IPv4 question")
    };
    explain::<NetU32, _>(query, client.into(), vip.into(), tables, &context(meta_flags))
}

fn explained(tables: &HostTables<NetU32>, vip: &str, packet: PacketWord) -> String {
    explained_with(tables, &query(vip, packet), 0).lines().join("\n")
}

/// The port of backend 1 has a default with these flags.
fn put_reply_default(tables: &HostTables<NetU32>, flags: u16) {
    let key = ReplyDefaultKeyV4 {
        ifindex: 41,
        backend: NetU32::from_wire([10, 0, 0, 1]),
        backend_port: NetU16::new(8080),
        pad: 0,
        protocol: PROTOCOL_TCP.into(),
    };
    let default = ReplyDefaultV4 {
        vip: NetU32::from_wire(VIP),
        vip_port: NetU16::new(80),
        flags,
        backend: 1,
        ifindex: 2,
    };
    tables.reply_defaults.borrow_mut().insert(key, default);
}

#[test]
fn plain_slot() {
    let tables = tables(Slot::plain(1), 0);
    put_reply_default(&tables, 0);
    let query = query("203.0.113.10:80", PacketWord::Syn);
    let explanation = explained_with(&tables, &query, META_REPLY_DEFAULTS);
    assert_snapshot!(explanation.lines().join("\n"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new, old; generation 5
      reply_default from 203.0.113.10:80 (backend 1)
    decision: deliver to 10.0.0.1:8080 (backend 1); replies by_default
    ");
    let without = explained_with(&tables, &query, 0);
    assert_snapshot!(without.notes.join("\n"), @"nothing says how replies are translated: a defect of the agent, please report it");
}

#[test]
fn moving_slot() {
    let slot = Slot::new(1, 2, SLOT_MOVING, NOW - 30);
    let check = |packet| explained(&tables(slot, 0), "203.0.113.10:80", packet);
    assert_snapshot!(check(PacketWord::Syn), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      moving, cur backend 1, old backend 2, since 32 s
      flows         none
      half_flows    none
      backend       backend 2 at 10.0.0.2:8080, local behind interface 42, takes old; generation 5
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new, old; generation 5
      reply_default none
    decision: deliver to 10.0.0.1:8080 (backend 1); flow record: put_half half_open
    note: nothing says how replies are translated: a defect of the agent, please report it
    ");
    assert_snapshot!(check(PacketWord::Data), @"
    tcp data 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      moving, cur backend 1, old backend 2, since 32 s
      flows         none
      half_flows    none
      backend       backend 2 at 10.0.0.2:8080, local behind interface 42, takes old; generation 5
      reply_default none
    decision: deliver to 10.0.0.2:8080 (backend 2)
    note: nothing says how replies are translated: a defect of the agent, please report it
    ");
}

#[test]
fn records_of_a_settled_slot() {
    let check = |backend, class, age_ticks, packet| {
        let tables = tables(Slot::new(1, 0, SLOT_SETTLED, NOW - 30), 0);
        let record = FlowRecord { backend, generation: 5, last_seen_tick: NOW - age_ticks, class };
        tables.flows.borrow_mut().put(flow_key(), record).unwrap();
        explained(&tables, "203.0.113.10:80", packet)
    };
    assert_snapshot!(check(2, CLASS_ESTABLISHED, 10, PacketWord::Data), @"
    tcp data 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      settled, cur backend 1, since 32 s
      flows         live: backend 2, established, 10 s old; generation 5
      backend       backend 2 at 10.0.0.2:8080, local behind interface 42, takes old; generation 5
      reply_default none
    decision: deliver to 10.0.0.2:8080 (backend 2); flow record: touch established
    note: nothing says how replies are translated: a defect of the agent, please report it
    ");
    assert_snapshot!(check(3, CLASS_HALF_OPEN, 10, PacketWord::Rst), @"
    tcp rst 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      settled, cur backend 1, since 32 s
      flows         dead: backend 3, half_open, 10 s old; generation 5
      backend       backend 3 at 10.0.0.3:8080, local behind interface 43, takes nothing: gone; generation 5
      half_flows    none
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new, old; generation 5
      reply_default none
    decision: deliver to 10.0.0.1:8080 (backend 1)
    note: nothing says how replies are translated: a defect of the agent, please report it
    ");
}

#[test]
fn recorded_replies() {
    let tables = tables(Slot::plain(1), FRONTEND_RECORDS_REPLIES | affinity_flags(24));
    let key = ReplyKeyV4 {
        ifindex: 41,
        backend: NetU32::from_wire([10, 0, 0, 1]),
        client: NetU32::from_wire([192, 0, 2, 7]),
        backend_port: NetU16::new(8080),
        client_port: NetU16::new(40_000),
        protocol: PROTOCOL_TCP.into(),
        reserved: 0,
    };
    let record = ReplyRecordV4 {
        vip: NetU32::from_wire(VIP),
        vip_port: NetU16::new(81),
        class: CLASS_ESTABLISHED as u16,
        backend: 1,
        generation: 5,
        ifindex: 2,
        last_seen_tick: NOW - 100,
        ..ReplyRecordV4::default()
    };
    assert_snapshot!(explained(&tables, "203.0.113.10:80", PacketWord::Syn), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3, records_replies, affinity/24
      hash          0xd4e8f0f0 of the client's address, 24 bits
      ring 12       1021 slots, publication 4
      slot 849      plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new, old; generation 5
      replies       none
      half_replies  none
    decision: deliver to 10.0.0.1:8080 (backend 1); reply record: put_half; replies recorded
    ");
    tables.replies.borrow_mut().put(key, record).unwrap();
    assert_snapshot!(explained(&tables, "203.0.113.10:80", PacketWord::Syn), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3, records_replies, affinity/24
      hash          0xd4e8f0f0 of the client's address, 24 bits
      ring 12       1021 slots, publication 4
      slot 849      plain, cur backend 1
      backend       backend 1 at 10.0.0.1:8080, local behind interface 41, takes new, old; generation 5
      replies       from 203.0.113.10:81 (backend 1), established, 107 s old
    decision: answer reset (backend 1), tuple_collision
    ");
}

/// What backend 1 sends to the client, behind its own interface.
#[test]
fn what_a_container_sends() {
    let tables = tables(Slot::plain(1), 0);
    put_reply_default(&tables, 0);
    let check = |packet| {
        let query = ExplainQuery { is_reply: true, ..query("10.0.0.1:8080", packet) };
        let context = Context { ingress_ifindex: 41, ..context(META_REPLY_DEFAULTS) };
        let client = NetU32::from_wire([192, 0, 2, 7]);
        let backend = NetU32::from_wire([10, 0, 0, 1]);
        let explanation = explain::<NetU32, _>(&query, client, backend, &tables, &context);
        explanation.lines().join("\n")
    };
    assert_snapshot!(check(PacketWord::SynAck), @"
    tcp synack 10.0.0.1:8080 > 192.0.2.7:40000
      reply_default from 203.0.113.10:80 (backend 1)
    decision: reply from 203.0.113.10:80 (backend 1)
    ");
    assert_snapshot!(check(PacketWord::Syn), @"
    tcp syn 10.0.0.1:8080 > 192.0.2.7:40000
      reply_default from 203.0.113.10:80 (backend 1)
    decision: pass; reply record: put_foreign
    note: it is no reply to a client of a virtual address: the packet leaves as the backend's own
    ");
    put_reply_default(&tables, REPLY_DEFAULT_AMBIGUOUS | REPLY_DEFAULT_FOREIGN);
    let key = ReplyKeyV4 {
        ifindex: 41,
        backend: NetU32::from_wire([10, 0, 0, 1]),
        client: NetU32::from_wire([192, 0, 2, 7]),
        backend_port: NetU16::new(8080),
        client_port: NetU16::new(40_000),
        protocol: PROTOCOL_TCP.into(),
        reserved: 0,
    };
    let foreign = ReplyRecordV4 {
        class: CLASS_ESTABLISHED as u16,
        last_seen_tick: NOW - 100,
        ..ReplyRecordV4::default()
    };
    tables.replies.borrow_mut().put(key, foreign).unwrap();
    assert_snapshot!(check(PacketWord::Data), @"
    tcp data 10.0.0.1:8080 > 192.0.2.7:40000
      reply_default from 203.0.113.10:80 (backend 1), ambiguous, foreign
      replies       not ours: stays as it is, established, 107 s old
    decision: pass; reply record: touch
    note: it is no reply to a client of a virtual address: the packet leaves as the backend's own
    ");
}

#[test]
fn what_is_not_forwarded() {
    let check = |slot, flags, vip| explained(&tables(slot, flags), vip, PacketWord::Syn);
    let plain = Slot::plain(1);
    assert_snapshot!(check(plain, 0, "203.0.113.10:81"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:81
      frontend      unserved
    decision: answer reset, no_frontend
    ");
    let mut own = tables(plain, 0);
    own.local.push(([203, 0, 113, 10].into(), 32, LOCAL_PRIMARY));
    assert_snapshot!(explained(&own, "203.0.113.10:81", PacketWord::Syn), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:81
      frontend      unserved
    decision: pass
    note: the address is the node's own, too, and no frontend takes this port of it: the packet is the system's own
    ");
    assert_snapshot!(check(plain, FRONTEND_DROPS, "203.0.113.10:81"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:81
      frontend      unserved, drops
    decision: drop, no_frontend
    ");
    assert_snapshot!(check(Slot::plain(3), 0, "203.0.113.10:80"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      plain, cur backend 3
      backend       backend 3 at 10.0.0.3:8080, local behind interface 43, takes nothing: gone; generation 5
    decision: answer reset, no_backend
    ");
    assert_snapshot!(check(Slot::plain(2), 0, "203.0.113.10:80"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       1021 slots, publication 4
      slot 244      plain, cur backend 2
      backend       backend 2 at 10.0.0.2:8080, local behind interface 42, takes old; generation 5
    decision: answer reset, no_backend
    ");
    assert_snapshot!(check(plain, 0, "203.0.113.11:80"), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.11:80
      frontend      unknown
    decision: pass
    note: the destination is no virtual address of this node: the packet is the system's own
    ");
    let mut empty = tables(plain, 0);
    empty.rings.clear();
    assert_snapshot!(explained(&empty, "203.0.113.10:80", PacketWord::Syn), @"
    tcp syn 192.0.2.7:40000 > 203.0.113.10:80
      frontend      served by service number 3
      hash          0x3d335149 of the flow
      ring 12       none was published
    decision: answer reset, no_backend
    ");
}

#[test]
fn datagram_by_ipv6_to_a_routed_backend() {
    let address = |last| NetAddr6::from(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
    let ring = ring_number(0, FAMILY_V6, PROTOCOL_UDP);
    let key = FrontendKeyV6 {
        vip: address(1),
        port: NetU16::new(53),
        protocol: PROTOCOL_UDP,
        scope: SCOPE_FRONT,
    };
    let backend = BackendV6 {
        address: address(9),
        port: NetU16::new(0),
        state: TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS,
        path: PATH_ROUTED,
        ifindex: 0,
        generation: 1,
        reserved: 0,
    };
    let tables = HostTables::<NetAddr6> {
        frontends: [(key, Frontend { ring, ..Frontend::default() })].into(),
        rings: [(ring, RingDescriptor::new(0, 1021, 1))].into(),
        slots: vec![Slot::plain(7); 1021],
        backends: [(7, backend)].into(),
        ..HostTables::default()
    };
    let query = ExplainQuery {
        client: "[fd00::7]:5353".parse().unwrap(),
        vip: "[fd00::1]:53".parse().unwrap(),
        protocol: Protocol::Udp,
        packet: PacketWord::Syn,
        is_reply: false,
    };
    let mut explanation = explain(&query, address(7), address(1), &tables, &context(0));
    for backend in explanation.backends_mut() {
        backend.name = Some("dns-1".to_owned());
    }
    explanation.name_service("file/dns");
    assert_snapshot!(explanation.lines().join("\n"), @"
    udp datagram [fd00::7]:5353 > [fd00::1]:53
      frontend      served by file/dns
      hash          0x1a215b01 of the flow
      ring 3        1021 slots, publication 1
      slot 104      plain, cur dns-1
      backend       dns-1 at [fd00::9]:0, routed, takes new, old, old_datagrams; generation 1
      reply_default none
    decision: route to [fd00::9]:53 (dns-1)
    note: whether there is a way to the backend, and how large a packet it carries, is the routing table's to say: `ip route get`
    note: nothing says how replies are translated: a defect of the agent, please report it
    ");
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
}
