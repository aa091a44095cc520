//! Records in the real maps: what the sweep deletes, what the scan finds.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{sandbox::Sandbox, sandboxed, tables::a_backend};
use lb_agent::{
    datapath::{Datapath, Options, TcMode},
    model::{FrontendAddress, Ports, Protocol},
    plan::{Action, Kernel as _, KernelRing, Scan},
};
use lb_common::abi::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_RESET, CLASS_RESUMED,
    CLOSED_SECONDS, CLOSING_SECONDS, ESTABLISHED_SECONDS, FAMILY_V4, FAMILY_V6, FlowInsertions,
    FlowKeyV4, FlowKeyV6, FlowRecord, FlowRoom, HALF_OPEN_SECONDS, NetU16, PROTOCOL_TCP,
    ReplyKeyV4, ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, SLOT_MOVING, SLOT_SETTLED, Slot,
    TAKES_NEW, TAKES_OLD, map_names, ring_number, ticks_from_seconds,
};

/// A table of flows and one of replies, in one family.
struct FlowTables<FK: aya::Pod, RK: aya::Pod, R: aya::Pod> {
    flows: aya::maps::HashMap<aya::maps::MapData, FK, FlowRecord>,
    replies: aya::maps::HashMap<aya::maps::MapData, RK, R>,
}

type FlowsV4 = FlowTables<FlowKeyV4, ReplyKeyV4, ReplyRecordV4>;
type FlowsV6 = FlowTables<FlowKeyV6, ReplyKeyV6, ReplyRecordV6>;

fn tables_v4(sandbox: &Sandbox) -> FlowsV4 {
    FlowTables {
        flows: sandbox.hash_map(map_names::FLOWS_V4),
        replies: sandbox.hash_map(map_names::REPLIES_V4),
    }
}

fn tables_v6(sandbox: &Sandbox) -> FlowsV6 {
    FlowTables {
        flows: sandbox.hash_map(map_names::FLOWS_V6),
        replies: sandbox.hash_map(map_names::REPLIES_V6),
    }
}

fn flow_v4(client_port: u16) -> FlowKeyV4 {
    FlowKeyV4 {
        client: Ipv4Addr::new(198, 51, 100, 1).into(),
        vip: Ipv4Addr::new(192, 0, 2, 10).into(),
        client_port: NetU16::new(client_port),
        vip_port: NetU16::new(80),
        protocol: PROTOCOL_TCP.into(),
    }
}

fn reply_v4(client_port: u16, backend: u32) -> (ReplyKeyV4, ReplyRecordV4) {
    let flow = flow_v4(client_port);
    let key = ReplyKeyV4 {
        client: flow.client,
        client_port: flow.client_port,
        backend: Ipv4Addr::new(10, 0, 0, 1).into(),
        backend_port: NetU16::new(8080),
        protocol: flow.protocol,
        ..ReplyKeyV4::default()
    };
    let (vip, vip_port) = (flow.vip, flow.vip_port);
    let record = ReplyRecordV4 {
        vip,
        vip_port,
        backend,
        generation: 7,
        class: u16::try_from(CLASS_ESTABLISHED).unwrap(),
        last_seen_tick: NOW,
        ..ReplyRecordV4::default()
    };
    (key, record)
}

/// Serves the flows of [`flow_v4`] by a ring of such slots.
fn serve(datapath: &mut Datapath, slot: Slot) {
    serve_at(datapath, "192.0.2.10", ring_number(0, FAMILY_V4, PROTOCOL_TCP), slot);
}

fn serve_at(datapath: &mut Datapath, vip: &str, ring: u32, slot: Slot) {
    let frontend = FrontendAddress {
        vip: vip.parse().unwrap(),
        protocol: Protocol::Tcp,
        ports: Ports::one(80).unwrap(),
    };
    let start = if slot.state() == SLOT_MOVING { 0 } else { 2_000 };
    let content = KernelRing { start, epoch: 1, slots: vec![slot; 1021].into() };
    datapath.execute(&Action::PublishRing { ring, content }).unwrap();
    datapath
        .execute(&Action::PutFrontend { frontend, service: 0, records_replies: false, flags: 0 })
        .unwrap();
}

fn record(backend: u32, generation: u32, last_seen_tick: u32, class: u32) -> FlowRecord {
    FlowRecord { backend, generation, last_seen_tick, class }
}

/// Client ports of the flows and of the replies that are left.
fn left_v4(tables: &FlowsV4) -> (Vec<u16>, Vec<u16>) {
    let ports = |mut ports: Vec<u16>| {
        ports.sort_unstable();
        ports
    };
    (
        ports(tables.flows.keys().map(|key| key.unwrap().client_port.get()).collect()),
        ports(tables.replies.keys().map(|key| key.unwrap().client_port.get()).collect()),
    )
}

const NOW: u32 = 1_000_000;

sandboxed! {
    fn dead_flows_and_their_replies_are_swept(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let all = TAKES_NEW | TAKES_OLD;
        for (number, generation, state) in [(1, 7, all), (2, 7, TAKES_OLD), (3, 7, 0), (4, 8, all)] {
            let backend = a_backend("10.0.0.1:8080", generation, state);
            datapath.execute(&Action::WriteBackend { number, backend }).unwrap();
        }
        serve(&mut datapath, Slot::new(1, 2, SLOT_MOVING, NOW - 10));
        // A packet under way may be a little behind.
        let old = NOW - ticks_from_seconds(ESTABLISHED_SECONDS) - 3;
        let older_than_a_syn = NOW - ticks_from_seconds(HALF_OPEN_SECONDS) - 3;
        // Client port, record, whether it stays.
        let cases = [
            (1, record(1, 7, NOW, CLASS_ESTABLISHED), true),
            (2, record(1, 7, older_than_a_syn, CLASS_ESTABLISHED), true),
            (3, record(1, 7, older_than_a_syn, CLASS_HALF_OPEN), false),
            (4, record(1, 7, old, CLASS_ESTABLISHED), false),
            (5, record(2, 7, NOW, CLASS_ESTABLISHED), true),
            (6, record(3, 7, NOW, CLASS_ESTABLISHED), false),
            (7, record(4, 7, NOW, CLASS_ESTABLISHED), false),
            (8, record(70_000, 7, NOW, CLASS_ESTABLISHED), false),
            // Anybody may have sent the RST.
            (9, record(1, 7, older_than_a_syn, CLASS_RESET), true),
            (10, record(1, 7, NOW - ticks_from_seconds(CLOSING_SECONDS), CLASS_CLOSED), true),
            (11, record(1, 7, NOW - ticks_from_seconds(CLOSING_SECONDS) - 3, CLASS_CLOSED), false),
        ];
        let mut tables = tables_v4(sandbox);
        for (port, record, _) in cases {
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
            let (key, reply) = reply_v4(port, record.backend);
            tables.replies.insert(key, reply, 0).unwrap();
        }
        // Replies have a time of their own, and end when their backend's number is another's.
        let (key, reply) = reply_v4(5, 1);
        for (ifindex, last_seen_tick, generation) in [(5, old, 7), (6, old + 4, 7), (7, NOW, 6)] {
            let key = ReplyKeyV4 { ifindex, client_port: NetU16::new(100), ..key };
            let reply = ReplyRecordV4 { last_seen_tick, generation, ..reply };
            tables.replies.insert(key, reply, 0).unwrap();
        }

        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        let stay: Vec<u16> = cases.iter().filter(|case| case.2).map(|case| case.0).collect();
        assert_eq!(left_v4(&tables), (stay, vec![1, 2, 3, 4, 5, 6, 9, 10, 11, 100]));
        assert_eq!((report.flows_seen, report.flows_deleted), (11, 6));
        assert_eq!((report.replies_seen, report.replies_deleted), (14, 4));
        let counters = datapath.counters(&[]).unwrap();
        assert_eq!((counters.records.flows_v4, counters.records.replies_v4), (5, 10));
        assert_eq!(counters.records.limit, 4_096);

        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!((report.flows_deleted, report.replies_deleted), (0, 0));

        // A frontend may come back; what its flows may need holds all slots of the ring.
        let vip = "192.0.2.10".parse().unwrap();
        let frontend = FrontendAddress { vip, protocol: Protocol::Tcp, ports: Ports::one(80).unwrap() };
        datapath.execute(&Action::DeleteFrontend { frontend }).unwrap();
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!(report.flows_deleted, 0);
        let scan = report.scan.unwrap();
        assert!((0..1021).all(|slot| scan.finding(0, slot).has_other));
        assert!(!scan.finding(1, 0).has_other);
        for number in [1, 2] {
            datapath.execute(&Action::SetBackendState { number, state: 0 }).unwrap();
        }
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!(report.flows_deleted, 5);
        assert!(!report.scan.unwrap().finding(0, 0).has_other);
    }

    fn half_open_replies_are_swept_as_if_room_were_scarce(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("10.0.0.1:8080", 7, TAKES_NEW | TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        let syn = ticks_from_seconds(HALF_OPEN_SECONDS);
        let closed = ticks_from_seconds(CLOSED_SECONDS);
        // Class, backend, generation, age, whether it stays.
        let cases = [
            (CLASS_HALF_OPEN, 1, 7, 0, true),
            (CLASS_HALF_OPEN, 1, 7, syn, true),
            (CLASS_HALF_OPEN, 1, 7, syn + 3, false),
            (CLASS_ANSWERED, 1, 7, syn, true),
            (CLASS_ANSWERED, 1, 7, syn + 3, false),
            // What came in mid-stream is a connection.
            (CLASS_RESUMED, 1, 7, syn + 3, true),
            // A SYN and a RST: else a flood of both would stay for hours.
            (CLASS_RESET, 1, 7, closed, true),
            (CLASS_RESET, 1, 7, closed + 3, false),
            (CLASS_HALF_OPEN, 1, 6, 0, false),
            // Of a foreign flow.
            (CLASS_HALF_OPEN, 0, 0, syn, true),
            (CLASS_HALF_OPEN, 0, 0, syn + 3, false),
        ];
        let mut table = sandbox.lru_hash_map(map_names::HALF_REPLIES_V4);
        for (port, (class, backend, generation, age_ticks, _)) in (1..).zip(cases) {
            let (key, reply) = reply_v4(port, backend);
            let (class, last_seen_tick) = (u16::try_from(class).unwrap(), NOW - age_ticks);
            let reply = ReplyRecordV4 { generation, class, last_seen_tick, ..reply };
            table.insert(key, reply, 0).unwrap();
        }
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        let mut left: Vec<u16> =
            table.keys().map(|key: Result<ReplyKeyV4, _>| key.unwrap().client_port.get()).collect();
        left.sort_unstable();
        let stay = (1..).zip(cases).filter(|(_, case)| case.4).map(|(port, _)| port);
        assert_eq!(left, stay.collect::<Vec<u16>>());
        assert_eq!((report.replies_seen, report.replies_deleted), (11, 5));
    }

    fn scan_finds_the_slots_that_need_their_records(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        for number in [1, 2] {
            let backend = a_backend("10.0.0.1:8080", 7, TAKES_NEW | TAKES_OLD);
            datapath.execute(&Action::WriteBackend { number, backend }).unwrap();
        }
        let mut tables = tables_v4(sandbox);
        let mut half_flows = sandbox.lru_hash_map(map_names::HALF_FLOWS_V4);
        let others = |scan: &Scan| (0..1021).filter(|it| scan.finding(0, *it).has_other).count();
        let insert = |tables: &mut FlowsV4| {
            for (port, backend) in [(1, 1), (2, 2), (3, 1)] {
                let record = record(backend, 7, NOW, CLASS_ESTABLISHED);
                tables.flows.insert(flow_v4(port), record, 0).unwrap();
            }
        };
        insert(&mut tables);
        half_flows.insert(flow_v4(4), record(2, 7, NOW, CLASS_HALF_OPEN), 0).unwrap();
        half_flows.insert(flow_v4(5), record(1, 7, NOW, CLASS_HALF_OPEN), 0).unwrap();

        // Moving: all are needed, and the slots are not asked for.
        serve(&mut datapath, Slot::new(1, 2, SLOT_MOVING, NOW - 10));
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (5, 0));
        assert_eq!(others(&report.scan.unwrap()), 0);

        // Settled just now: somebody may still see it moving.
        serve(&mut datapath, Slot::new(1, 0, SLOT_SETTLED, NOW - 2));
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!(report.flows_deleted, 0);

        // Settled: those of the owner say what the slot says, the others hold it.
        let report = datapath.sweep(&|| NOW + 1, &mut || false).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (5, 3));
        let scan = report.scan.unwrap();
        assert_eq!(others(&scan), 2);
        assert_eq!(scan.finding(0, 0).begun_tick, NOW + 1);
        assert_eq!(left_v4(&tables).0, [2]);

        // The last flow of another is over.
        datapath.execute(&Action::SetBackendState { number: 2, state: 0 }).unwrap();
        let report = datapath.sweep(&|| NOW + 1, &mut || false).unwrap();
        assert_eq!((report.flows_deleted, others(&report.scan.unwrap())), (2, 0));

        // Plain: what a late CPU wrote goes.
        serve(&mut datapath, Slot::plain(1));
        insert(&mut tables);
        assert_eq!(datapath.sweep(&|| NOW + 1, &mut || false).unwrap().flows_deleted, 3);
    }

    fn scan_of_many_records_takes_several_calls(sandbox) {
        let options = Options { records: 40_000, ..sandbox.options(TcMode::Auto) };
        let mut datapath = Datapath::open(&options).unwrap();
        let backend = a_backend("10.0.0.1:8080", 7, TAKES_NEW | TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        serve(&mut datapath, Slot::new(2, 0, SLOT_SETTLED, NOW - 10));
        let mut tables = tables_v4(sandbox);
        for port in 0..40_000 {
            let record = record(1, 7, NOW, CLASS_ESTABLISHED);
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
        }
        for round in 0..2 {
            let scans: Vec<Option<Scan>> =
                (0..3).map(|call| datapath.sweep(&|| NOW + round * 3 + call, &mut || false).unwrap().scan).collect();
            let [None, None, Some(scan)] = &scans[..] else { panic!("{scans:?}") };
            assert_eq!(scan.finding(0, 0).begun_tick, NOW + round * 3);
            assert!((0..1021).all(|slot| scan.finding(0, slot).has_other));
        }
    }

    fn a_crowded_table_loses_what_seems_to_have_ended(sandbox) {
        const RECORDS: u32 = 4_096;
        let options = Options { records: RECORDS, ..sandbox.options(TcMode::Auto) };
        let mut datapath = Datapath::open(&options).unwrap();
        let backend = a_backend("10.0.0.1:8080", 7, TAKES_NEW | TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        serve(&mut datapath, Slot::new(2, 1, SLOT_MOVING, NOW - 10));
        let mut tables = tables_v4(sandbox);
        let ended = NOW - ticks_from_seconds(CLOSED_SECONDS) - 3;
        let mut insert = |port, class, last_seen_tick| {
            let record = record(1, 7, last_seen_tick, class);
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
            let (key, reply) = reply_v4(port, 1);
            let class = u16::try_from(class).unwrap();
            tables.replies.insert(key, ReplyRecordV4 { class, last_seen_tick, ..reply }, 0).unwrap();
        };
        insert(1, CLASS_RESET, ended);
        insert(2, CLASS_RESET, NOW);
        for port in 3..=2_048 {
            insert(port, CLASS_ESTABLISHED, ended);
        }
        let deleted = |datapath: &mut Datapath| {
            let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
            (report.flows_deleted, report.replies_deleted)
        };
        // Half full it is not crowded yet, and it has to be counted first.
        assert_eq!([(); 2].map(|()| deleted(&mut datapath)), [(0, 0); 2]);
        insert(2_049, CLASS_ESTABLISHED, ended);
        assert_eq!([(); 3].map(|()| deleted(&mut datapath)), [(0, 0), (1, 1), (0, 0)]);
        let (flows, replies) = left_v4(&tables);
        assert_eq!((flows[0], replies[0]), (2, 2));
    }

    fn an_eighth_of_the_room_is_left_to_handshakes(sandbox) {
        const RECORDS: u32 = 4_096;
        let options = Options { records: RECORDS, ..sandbox.options(TcMode::Auto) };
        let mut datapath = Datapath::open(&options).unwrap();
        let online = u32::try_from(aya::util::online_cpus().unwrap().len()).unwrap();
        let rooms = sandbox.array::<FlowRoom>(map_names::FLOW_ROOM);
        let room = |left: u32, epoch| FlowRoom { epoch, per_cpu: left / online };
        let share = RECORDS / 8 * 7;
        for family in [FAMILY_V4, FAMILY_V6] {
            assert_eq!(rooms.get(&family, 0).unwrap(), room(share, 1));
        }
        // As it was found, also after a restart.
        drop(datapath);
        datapath = Datapath::open(&options).unwrap();
        assert_eq!(rooms.get(&FAMILY_V4, 0).unwrap(), room(share, 1));

        let backend = a_backend("10.0.0.1:8080", 7, TAKES_NEW | TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        serve(&mut datapath, Slot::new(2, 1, SLOT_MOVING, NOW - 10));
        let mut tables = tables_v4(sandbox);
        for port in 0..3_000 {
            let record = record(1, 7, NOW, CLASS_ESTABLISHED);
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
        }
        let insertions =
            RefCell::new(sandbox.per_cpu_array::<FlowInsertions>(map_names::FLOW_INSERTIONS));
        let insert = |count| {
            let other_epoch = FlowInsertions { epoch: 7, count: 1000 };
            let mut counts = vec![other_epoch; aya::util::nr_cpus().unwrap()];
            counts[0] = FlowInsertions { epoch: 1, count };
            insertions.borrow_mut().set(FAMILY_V4, counts.try_into().unwrap(), 0).unwrap();
        };
        // What was inserted before the pass began is counted by it; 84 come while it goes on: the
        // clock is asked when it begins, and again in between.
        let inserted = Cell::new(3_000);
        let clock = || {
            insert(inserted.replace(3_084));
            NOW
        };
        datapath.sweep(&clock, &mut || false).unwrap();
        assert_eq!(rooms.get(&FAMILY_V4, 0).unwrap(), room(share - 3_000 - 84, 2));
        assert_eq!(rooms.get(&FAMILY_V6, 0).unwrap(), room(share, 2));

        // More than its share is no room.
        for port in 3_000..4_000 {
            let record = record(1, 7, NOW, CLASS_ESTABLISHED);
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
        }
        datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!(rooms.get(&FAMILY_V4, 0).unwrap(), room(0, 3));
    }

    fn flows_of_the_other_family_are_swept_by_their_own_backends(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("[fd00::1]:8080", 7, TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        let ring = ring_number(0, FAMILY_V6, PROTOCOL_TCP);
        serve_at(&mut datapath, "2001:db8::2", ring, Slot::new(1, 0, SLOT_MOVING, NOW - 10));
        let mut tables = tables_v6(sandbox);
        let flow = |port| FlowKeyV6 {
            client: "2001:db8::1".parse::<Ipv6Addr>().unwrap().into(),
            vip: "2001:db8::2".parse::<Ipv6Addr>().unwrap().into(),
            client_port: NetU16::new(port),
            vip_port: NetU16::new(80),
            protocol: PROTOCOL_TCP.into(),
        };
        for (port, generation) in [(1, 7), (2, 6)] {
            let key = flow(port);
            let record = record(1, generation, NOW, CLASS_ESTABLISHED);
            tables.flows.insert(key, record, 0).unwrap();
            let reply = ReplyKeyV6 {
                client: key.client,
                client_port: key.client_port,
                protocol: key.protocol,
                ..ReplyKeyV6::default()
            };
            let (vip, vip_port) = (key.vip, key.vip_port);
            let value = ReplyRecordV6 {
                vip,
                vip_port,
                backend: 1,
                generation,
                last_seen_tick: NOW,
                ..ReplyRecordV6::default()
            };
            tables.replies.insert(reply, value, 0).unwrap();
        }
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!((report.flows_deleted, report.replies_deleted), (1, 1));
        assert!(tables.flows.get(&flow(1), 0).is_ok());
        assert_eq!(tables.replies.keys().count(), 1);
    }

    fn interrupted_sweep_goes_on_with_the_other_tables(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("10.0.0.1:8080", 7, TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        serve(&mut datapath, Slot::new(1, 0, SLOT_MOVING, NOW - 10));
        let mut tables = tables_v4(sandbox);
        let mut half_flows = sandbox.lru_hash_map(map_names::HALF_FLOWS_V4);
        let mut half_replies = sandbox.lru_hash_map(map_names::HALF_REPLIES_V4);
        // What there is is of a generation that is over.
        for (port, class) in [(1, CLASS_HALF_OPEN), (2, CLASS_ESTABLISHED)] {
            let flow = record(1, 6, NOW, class);
            let (key, reply) = reply_v4(port, 1);
            let reply = ReplyRecordV4 { generation: 6, ..reply };
            if class == CLASS_HALF_OPEN {
                half_flows.insert(flow_v4(port), flow, 0).unwrap();
                half_replies.insert(key, reply, 0).unwrap();
            } else {
                tables.flows.insert(flow_v4(port), flow, 0).unwrap();
                tables.replies.insert(key, reply, 0).unwrap();
            }
        }
        for round in 0..2 {
            let reports: Vec<_> =
                (0..4).map(|_| datapath.sweep(&|| NOW, &mut || true).unwrap()).collect();
            let deleted = reports.iter().map(|it| (it.flows_deleted, it.replies_deleted));
            let expected =
                if round == 0 { [(1, 0), (1, 0), (0, 1), (0, 1)] } else { [(0, 0); 4] };
            assert_eq!(deleted.collect::<Vec<_>>(), expected);
            assert!(reports.iter().all(|it| it.is_interrupted));
            let scans = reports.iter().map(|it| it.scan.is_some());
            assert_eq!(scans.collect::<Vec<_>>(), [false, true, false, false]);
        }
        assert!(datapath.sweep(&|| NOW, &mut || true).unwrap().is_interrupted);
        // From then on each is whole, and a whole scan.
        for _ in 0..3 {
            let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
            assert!(!report.is_interrupted && report.scan.is_some());
        }
    }

    fn full_table_is_swept_entirely(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("10.0.0.1:8080", 7, TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
        serve(&mut datapath, Slot::new(1, 0, SLOT_MOVING, NOW - 10));
        let mut tables = tables_v4(sandbox);
        for port in 0..4_096 {
            let generation = if port % 4 == 0 { 7 } else { 6 };
            let record = record(1, generation, NOW, CLASS_ESTABLISHED);
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
            let (key, reply) = reply_v4(port, 1);
            tables.replies.insert(key, ReplyRecordV4 { generation, ..reply }, 0).unwrap();
        }
        let report = datapath.sweep(&|| NOW, &mut || false).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (4_096, 3_072));
        assert_eq!((report.replies_seen, report.replies_deleted), (4_096, 3_072));
        let stay: Vec<u16> = (0..4_096).filter(|port| port % 4 == 0).collect();
        assert_eq!(left_v4(&tables), (stay.clone(), stay));
    }
}
