//! What limits on records let through, and what they keep alive: histories of packets in tables that are
//! pure memory.

use std::net::Ipv4Addr;

use lb_common::{
    abi::{
        BACKEND_NONE, BackendV4, CLASS_CLOSED, CLASS_RESET, DEFAULT_HALF_OPEN_RECORDS,
        DEFAULT_RECORDS, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, Limits,
        META_REPLY_DEFAULTS, NetU16, NetU32, PATH_LOCAL, PROTOCOL_ANY, PROTOCOL_TCP,
        RingDescriptor, SCOPE_FRONT, SLOT_MOVING, SLOT_SETTLED, Slot, TAKES_NEW, TAKES_OLD,
        ticks_from_seconds,
    },
    engine::{
        Context, front,
        host::{HostPacket, HostTables, RecordTable, run},
    },
    slots::{Moment, SlotTimes, advance},
};

const VIP: [u8; 4] = [10, 0, 0, 1];
const CUR: [u8; 4] = [172, 17, 0, 2];
const OLD: [u8; 4] = [172, 17, 0, 3];
const NOW: u32 = 1000;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A service on a slot that is moving from one backend to another.
fn tables(limits: Limits) -> HostTables<NetU32> {
    let mut tables = HostTables {
        rings: [(0, RingDescriptor::new(0, 1, 1))].into(),
        slots: vec![Slot::new(1, 2, SLOT_MOVING, NOW - 100)],
        ..HostTables::with_room(
            limits,
            DEFAULT_RECORDS as usize,
            DEFAULT_HALF_OPEN_RECORDS as usize,
        )
    };
    for (port, protocol) in [(80, PROTOCOL_TCP), (0, PROTOCOL_ANY)] {
        let vip = Ipv4Addr::from(VIP).into();
        let key = FrontendKeyV4 { vip, port: NetU16::new(port), protocol, scope: SCOPE_FRONT };
        tables.frontends.insert(key, Frontend::default());
    }
    for (number, address) in [(1, CUR), (2, OLD)] {
        let backend = BackendV4 {
            address: Ipv4Addr::from(address).into(),
            port: NetU16::new(8080),
            state: TAKES_NEW | TAKES_OLD,
            ifindex: 2 + number,
            generation: 5,
            path: PATH_LOCAL,
        };
        tables.backends.insert(number, backend);
    }
    tables
}

fn tcp(client: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    bytes.extend(client.0);
    bytes.extend(VIP);
    bytes.extend(client.1.to_be_bytes());
    bytes.extend(80_u16.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    bytes
}

/// Where a packet of a client goes.
fn send(tables: &HostTables<NetU32>, now_tick: u32, client: ([u8; 4], u16), flags: u8) -> [u8; 4] {
    let mut packet = HostPacket(tcp(client, flags));
    let context = Context {
        now_moment: 0,
        now_tick,
        ingress_ifindex: 1,
        reply_ifindex: 1,
        hash_seed: 7,
        meta_flags: META_REPLY_DEFAULTS,
    };
    run(&mut packet, tables, &context, front).expect("a decision");
    packet.0[30..34].try_into().expect("four bytes")
}

/// Connections of a second on one CPU of many, and how many of them go to `cur`.
fn connections_to_cur(count: u16, flags: &[u8]) -> u16 {
    let tables = tables(Limits::with_cpus(128));
    (0..count)
        .filter(|port| {
            let client = ([198, 51, 100, 7], 1024 + port);
            flags.iter().map(|flags| send(&tables, NOW, client, *flags)).all(|to| to == CUR)
        })
        .count()
        .try_into()
        .expect("no more than there were")
}

#[test]
fn what_anybody_may_have_sent_and_what_is_lost_at_the_end_moves_no_flow() {
    // From the last packet of a flow of `old` to its next.
    for (name, class, age_seconds, expected) in [
        ("a RST with any sequence number, then silence", CLASS_RESET, 7200, OLD),
        ("a RST, and the time of an open connection", CLASS_RESET, 8500, CUR),
        ("both FINs, and data sent again", CLASS_CLOSED, 110, OLD),
        ("both FINs, and nothing for long", CLASS_CLOSED, 130, CUR),
    ] {
        let mut tables = tables(Limits::with_cpus(1));
        tables.slots = vec![Slot::new(1, BACKEND_NONE, SLOT_SETTLED, NOW)];
        let client = ([198, 51, 100, 7], 40000);
        let key = FlowKeyV4 {
            client: Ipv4Addr::from(client.0).into(),
            vip: Ipv4Addr::from(VIP).into(),
            client_port: NetU16::new(client.1),
            vip_port: NetU16::new(80),
            protocol: PROTOCOL_TCP.into(),
        };
        let record = FlowRecord { backend: 2, generation: 5, last_seen_tick: NOW, class };
        tables.flows.borrow_mut().put(key, record).expect("room");
        let later = NOW + ticks_from_seconds(age_seconds);
        assert_eq!(send(&tables, later, client, ACK), expected, "{name}");
    }
}

/// A slot that waits for a replacement: its connections are recorded, or `cur` keeps them as its default.
#[test]
fn a_connection_that_began_in_a_flood_outlives_the_replacement_of_a_gone_backend() {
    const REPLACEMENT: [u8; 4] = [172, 17, 0, 4];
    let limits = Limits { half_open_per_tick: 16, ..Limits::with_cpus(1) };
    for (name, strangers, expected) in [("quiet", 0_u32, REPLACEMENT), ("a flood", 80, CUR)] {
        let mut tables = tables(limits);
        tables.half_flows = RecordTable::evicting(64).into();
        let replacement =
            BackendV4 { address: Ipv4Addr::from(REPLACEMENT).into(), ..tables.backends[&1] };
        tables.backends.insert(3, replacement);
        let held = Slot::new(1, BACKEND_NONE, SLOT_MOVING, NOW);
        tables.slots = vec![held];
        let client = ([198, 51, 100, 7], 40000);
        assert_eq!(send(&tables, NOW + 1, client, SYN), CUR, "{name}");
        for number in 0..strangers {
            let stranger = ([198, 18, 0, number as u8], 40000);
            send(&tables, NOW + 1, stranger, SYN);
        }
        assert_eq!(send(&tables, NOW + 1, client, ACK), CUR, "{name}");

        let refused_tick = tables.refusals.borrow().get(&0).map_or(0, |it| it.refused_tick);
        let times = SlotTimes::tcp(&limits, ticks_from_seconds(60));
        let moment = Moment { now_tick: NOW + 5, refused_tick, times };
        tables.slots = vec![advance(held, 3, &moment, |_| false, None)];
        assert_eq!(send(&tables, NOW + 6, client, ACK), CUR, "{name}: its backend lives");
        // And those that come then.
        let new = ([198, 51, 100, 7], 40001);
        assert_eq!(send(&tables, NOW + 6, new, SYN), REPLACEMENT, "{name}");
        // What has no record belongs to the default.
        let unknown = ([198, 51, 100, 7], 40002);
        assert_eq!(send(&tables, NOW + 6, unknown, ACK), expected, "{name}");
    }
}

#[test]
fn a_limit_on_half_open_records_is_for_those_that_stay_half_open() {
    let limit = u16::try_from(Limits::with_cpus(128).half_open_per_tick).expect("few");
    for (name, flags, expected) in
        [("connections", &[SYN, ACK][..], 5000), ("a flood of SYNs", &[SYN], limit)]
    {
        assert_eq!(connections_to_cur(5000, flags), expected, "{name}");
    }
}
