//! Maps against a model: what was executed is what is read, also by the next agent; and the sweep.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use lb_agent::{
    datapath::{Datapath, Options, TcMode},
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, Ports, Protocol, Service, ServiceName,
        Snapshot,
    },
    plan::{
        Action, Kernel as _, KernelBackend, KernelRing, KernelState, Planner, Scan, Settings,
        Sight, reconcile,
    },
};
use lb_common::abi::{
    BackendCounters, CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, ESTABLISHED_SECONDS,
    FlowKeyV4, FlowKeyV6, FlowRecord, HALF_OPEN_SECONDS, Hook, META_TRACES, NetU16, PROTOCOL_TCP,
    ReplyKeyV4, ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, SLOT_MOVING, SLOT_SETTLED, Slot,
    TAKES_NEW, TAKES_OLD, Verdict, map_names, ticks_from_seconds, verdict_index,
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use crate::{
    sandbox::{Sandbox, ifindex},
    sandboxed,
};

const CONTAINERS: [&str; 2] = ["cont0", "cont1"];

/// Few enough that actions meet, the ends of the tables among them.
fn number() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1, 2, 3, 65_536])
}

fn service() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1, 4_095])
}

fn ring() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1, 2, 3, 16_383])
}

fn hash() -> impl Strategy<Value = [u64; 2]> {
    (any::<u64>(), 1..=u64::MAX).prop_map(|(one, two)| [one, two])
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1_u32..4).prop_map(|last| Ipv4Addr::from(0x0a00_0000 + last).into()),
        (1_u128..4).prop_map(|last| Ipv6Addr::from(0xfd00 << 112 | last).into()),
    ]
}

fn path() -> impl Strategy<Value = BackendPath> {
    prop_oneof![
        Just(BackendPath::Routed),
        any::<u32>().prop_map(|ifindex| BackendPath::Local { ifindex }),
    ]
}

fn backend() -> impl Strategy<Value = KernelBackend> {
    (hash(), service(), 1..=u32::MAX, address(), any::<u16>(), path(), 0_u8..4).prop_map(
        |(instance_hash, service, generation, ip, port, path, state)| KernelBackend {
            instance_hash,
            service,
            generation,
            address: SocketAddr::new(ip, port),
            path,
            state,
        },
    )
}

fn frontend() -> impl Strategy<Value = FrontendAddress> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let ports = prop_oneof![
        2 => (1_u16..4).prop_map(|port| (port, port)),
        2 => (1_u16..4, 1_u16..3).prop_map(|(first, more)| (first, first + more)),
        1 => Just((1, u16::MAX)),
    ];
    (address(), protocol, ports).prop_map(|(vip, protocol, (first, last))| FrontendAddress {
        vip,
        protocol,
        ports: Ports::range(first, last).unwrap(),
    })
}

/// A ring in one of the two extents that are its own.
fn publish() -> impl Strategy<Value = Action> {
    let slot = (0_u32..=65_536, 0_u32..=65_536, 0_u8..3, any::<u32>())
        .prop_map(|(cur, old, state, since)| Slot::new(cur, old, state, since));
    (0_u32..5, 0_u32..2, 0_u32..1 << 18, prop::collection::vec(slot, 1..50)).prop_map(
        |(index, half, epoch, slots)| Action::PublishRing {
            ring: [0, 1, 2, 3, 16_383][index as usize],
            content: KernelRing { start: 65_536 - (index * 2 + half + 1) * 50, epoch, slots },
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let interface = || prop::sample::select(CONTAINERS.map(ifindex).to_vec());
    prop_oneof![
        interface().prop_map(|ifindex| Action::AttachReply { ifindex }),
        interface().prop_map(|ifindex| Action::DetachReply { ifindex }),
        any::<u32>().prop_map(|flags| Action::SetFlags { flags: flags & !META_TRACES }),
        (service(), hash())
            .prop_map(|(number, name_hash)| Action::WriteService { number, name_hash }),
        service().prop_map(|number| Action::ClearService { number }),
        (number(), backend())
            .prop_map(|(number, backend)| Action::WriteBackend { number, backend }),
        (number(), 0_u8..4).prop_map(|(number, state)| Action::SetBackendState { number, state }),
        number().prop_map(|number| Action::ClearBackend { number }),
        publish(),
        ring().prop_map(|ring| Action::ClearRing { ring }),
        address().prop_map(|vip| Action::PutVip { vip }),
        address().prop_map(|vip| Action::DeleteVip { vip }),
        (frontend(), service())
            .prop_map(|(frontend, service)| Action::PutFrontend { frontend, service }),
        frontend().prop_map(|frontend| Action::DeleteFrontend { frontend }),
    ]
}

#[track_caller]
fn check_refused(datapath: &mut Datapath, action: &Action, expected: &str) {
    let before = datapath.read_state().unwrap();
    let refusal = datapath.execute(action).unwrap_err();
    assert!(refusal.to_string().contains(expected), "{refusal}");
    assert!(!refusal.is_absent);
    assert_eq!(datapath.read_state().unwrap(), before, "{refusal}");
}

fn a_backend(address: &str, generation: u32, state: u8) -> KernelBackend {
    KernelBackend {
        instance_hash: [5, 6],
        service: 0,
        generation,
        address: address.parse().unwrap(),
        path: BackendPath::Routed,
        state,
    }
}

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
    let frontend = FrontendAddress {
        vip: "192.0.2.10".parse().unwrap(),
        protocol: Protocol::Tcp,
        ports: Ports::one(80).unwrap(),
    };
    let start = if slot.state() == SLOT_MOVING { 0 } else { 2_000 };
    let content = KernelRing { start, epoch: 1, slots: vec![slot; 1021] };
    datapath.execute(&Action::PublishRing { ring: 0, content }).unwrap();
    datapath.execute(&Action::PutFrontend { frontend, service: 0 }).unwrap();
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
    fn what_was_executed_is_what_is_read(sandbox) {
        let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
        let actions = prop::collection::vec(action(), 1..60);
        let mut model = KernelState::default();
        for round in 0..24 {
            let mode = if round % 2 == 0 { TcMode::Tcx } else { TcMode::Clsact };
            let mut datapath = sandbox.open(mode);
            assert_eq!(datapath.read_state().unwrap(), model, "the next agent finds the same");
            for action in actions.new_tree(&mut runner).unwrap().current() {
                model.execute(&action).unwrap();
                datapath.execute(&action).unwrap();
                datapath.execute(&action).expect("actions are idempotent");
                assert_eq!(datapath.read_state().unwrap(), model, "after {action:?}");
            }
        }
    }

    fn impossible_actions_change_nothing(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let good = a_backend("10.0.0.1:80", 1, 3);
        let slots = vec![Slot::plain(1); 100];
        let write = |number, backend: &KernelBackend| Action::WriteBackend {
            number,
            backend: backend.clone(),
        };
        let publish = |ring, start, slots: &[Slot]| Action::PublishRing {
            ring,
            content: KernelRing { start, epoch: 1, slots: slots.to_vec() },
        };
        datapath.execute(&write(1, &good)).unwrap();
        datapath.execute(&publish(4, 1_000, &slots)).unwrap();

        let mut check = |action: &Action, expected| check_refused(&mut datapath, action, expected);
        check(&write(0, &good), "backend number 0 is not from 1 to 65536");
        check(&write(65_537, &good), "backend number 65537");
        check(&write(2, &KernelBackend { service: 4_096, ..good.clone() }), "service number 4096");
        check(&write(2, &KernelBackend { instance_hash: [0; 2], ..good.clone() }), "not zero");
        check(&write(2, &a_backend("0.0.0.0:80", 1, 3)), "no address of a backend");
        check(&Action::ClearBackend { number: 0 }, "backend number 0");
        check(&Action::WriteService { number: 4_096, name_hash: [1, 1] }, "service number 4096");
        check(&Action::WriteService { number: 1, name_hash: [0; 2] }, "not zero");
        check(&publish(5, 1_099, &slots), "overlap with the 100 from 1000 of ring 4");
        check(&publish(5, 65_437, &slots), "do not fit in a table of 65536");
        check(&publish(5, 0, &[]), "a ring has 1 to");
        check(&publish(16_384, 0, &slots), "ring number 16384");
        check(&Action::ClearRing { ring: 16_384 }, "ring number 16384");
        let frontend = FrontendAddress {
            vip: "192.0.2.10".parse().unwrap(),
            protocol: Protocol::Tcp,
            ports: Ports::one(80).unwrap(),
        };
        check(&Action::PutFrontend { frontend, service: 4_096 }, "service number 4096");
    }

    fn full_table_is_said_to_be_full(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let mut results = (0..=16_384_u32).map(|last| {
            let vip = Ipv4Addr::from(0xc000_0200 + last).into();
            datapath.execute(&Action::PutVip { vip })
        });
        let refusal = results.find_map(Result::err).unwrap();
        assert!(refusal.to_string().contains("VIP 192.0.66.0: the table is full"), "{refusal}");
    }

    fn a_thousand_ports_of_one_vip_are_published_at_once(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let vip = "192.0.2.10".parse().unwrap();
        let service = |ports: std::ops::Range<u16>| {
            let backend = Backend {
                place: "1".to_owned(),
                instance: String::new(),
                display_name: "10.0.0.1".to_owned(),
                address: "10.0.0.1:0".parse().unwrap(),
                weight: 100,
                path: BackendPath::Routed,
                state: BackendState::Healthy,
                started_at_ms: 0,
            };
            let frontend = |port| FrontendAddress {
                vip,
                protocol: Protocol::Tcp,
                ports: Ports::one(port).unwrap(),
            };
            let name = ServiceName("file/ports".to_owned());
            Service {
                name,
                frontends: ports.map(frontend).collect(),
                backends: vec![backend],
                ring_size: None,
            }
        };
        let mut planner = Planner::new(Settings { ring_slots: 65_536, ..Settings::default() });
        let mut mirror = datapath.read_state().unwrap();
        // All of them, then all of them moved by one half: 500 go, 500 come.
        for (what, ports) in [("added", 1000..2000), ("half of them replaced", 1500..2500)] {
            let started = Instant::now();
            let service = service(ports);
            let snapshot = Snapshot { services: [(service.name.clone(), service)].into() };
            let outcome = reconcile(&mut planner, &mut datapath, &mut mirror, &snapshot, &mut Sight::default);
            let took = started.elapsed();
            println!("1,000 ports {what}: {} actions in {took:?}", outcome.done);
            assert!(outcome.is_settled && outcome.failures.is_empty(), "{outcome:?}");
            assert_eq!(mirror.frontends.len(), 1000);
            assert_eq!(datapath.read_state().unwrap(), mirror);
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
    }

    fn state_byte_is_stored_alone_and_in_the_right_family(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        for address in ["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:81"] {
            let backend = a_backend(address, 1, TAKES_NEW | TAKES_OLD);
            let write = Action::WriteBackend { number: 9, backend: backend.clone() };
            datapath.execute(&write).unwrap();
            for state in [0, TAKES_OLD, TAKES_NEW | TAKES_OLD] {
                datapath.execute(&Action::SetBackendState { number: 9, state }).unwrap();
                let expected = KernelBackend { state, ..backend.clone() };
                assert_eq!(datapath.read_state().unwrap().backends[&9], expected);
            }
        }
    }

    fn cleared_backend_is_gone_for_the_data_path_too(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("10.0.0.1:80", 3, TAKES_NEW | TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 9, backend }).unwrap();
        datapath.execute(&Action::ClearBackend { number: 9 }).unwrap();
        let array = sandbox.array::<lb_common::abi::BackendV4>(map_names::BACKENDS_V4);
        let record = array.get(&9, 0).unwrap();
        assert_eq!((record.state, record.generation), (0, 3));
        // A late state change does not revive what is in the record.
        let late = Action::SetBackendState { number: 9, state: TAKES_OLD };
        datapath.execute(&late).unwrap();
        assert_eq!(array.get(&9, 0).unwrap().state, 0);
    }

    fn dead_flows_and_their_replies_are_swept(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let all = TAKES_NEW | TAKES_OLD;
        for (number, generation, state) in [(1, 7, all), (2, 7, TAKES_OLD), (3, 7, 0), (4, 8, all)] {
            let backend = a_backend("10.0.0.1:8080", generation, state);
            datapath.execute(&Action::WriteBackend { number, backend }).unwrap();
        }
        serve(&mut datapath, Slot::new(1, 2, SLOT_MOVING, NOW - 10));
        let old = NOW - ticks_from_seconds(ESTABLISHED_SECONDS) - 1;
        let older_than_a_syn = NOW - ticks_from_seconds(HALF_OPEN_SECONDS) - 1;
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
        ];
        let mut tables = tables_v4(sandbox);
        for (port, record, _) in cases {
            tables.flows.insert(flow_v4(port), record, 0).unwrap();
            let (key, reply) = reply_v4(port, record.backend);
            tables.replies.insert(key, reply, 0).unwrap();
        }
        // Replies have a time of their own, and end when their backend's number is another's.
        let (key, reply) = reply_v4(5, 1);
        for (ifindex, last_seen_tick, generation) in [(5, old, 7), (6, old + 2, 7), (7, NOW, 6)] {
            let key = ReplyKeyV4 { ifindex, client_port: NetU16::new(100), ..key };
            let reply = ReplyRecordV4 { last_seen_tick, generation, ..reply };
            tables.replies.insert(key, reply, 0).unwrap();
        }

        let report = datapath.sweep(NOW).unwrap();
        let stay: Vec<u16> = cases.iter().filter(|case| case.2).map(|case| case.0).collect();
        assert_eq!(left_v4(&tables), (stay, vec![1, 2, 3, 4, 5, 6, 100]));
        assert_eq!((report.flows_seen, report.flows_deleted), (8, 5));
        assert_eq!((report.replies_seen, report.replies_deleted), (11, 4));
        let counters = datapath.counters(&[]).unwrap();
        assert_eq!((counters.records.flows_v4, counters.records.replies_v4), (3, 7));
        assert_eq!(counters.records.limit, 4_096);

        let report = datapath.sweep(NOW).unwrap();
        assert_eq!((report.flows_deleted, report.replies_deleted), (0, 0));

        // Nobody is led by records of a frontend that is no more.
        let vip = "192.0.2.10".parse().unwrap();
        let frontend = FrontendAddress { vip, protocol: Protocol::Tcp, ports: Ports::one(80).unwrap() };
        datapath.execute(&Action::DeleteFrontend { frontend }).unwrap();
        assert_eq!(datapath.sweep(NOW).unwrap().flows_deleted, 3);
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
        let report = datapath.sweep(NOW).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (5, 0));
        assert_eq!(others(&report.scan.unwrap()), 0);

        // Settled just now: somebody may still see it moving.
        serve(&mut datapath, Slot::new(1, 0, SLOT_SETTLED, NOW - 2));
        let report = datapath.sweep(NOW).unwrap();
        assert_eq!(report.flows_deleted, 0);

        // Settled: those of the owner say what the slot says, the others hold it.
        let report = datapath.sweep(NOW + 1).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (5, 3));
        let scan = report.scan.unwrap();
        assert_eq!(others(&scan), 2);
        assert_eq!(scan.finding(0, 0).begun_tick, NOW + 1);
        assert_eq!(left_v4(&tables).0, [2]);

        // The last flow of another is over.
        datapath.execute(&Action::SetBackendState { number: 2, state: 0 }).unwrap();
        let report = datapath.sweep(NOW + 1).unwrap();
        assert_eq!((report.flows_deleted, others(&report.scan.unwrap())), (2, 0));

        // Plain: what a late CPU wrote goes.
        serve(&mut datapath, Slot::plain(1));
        insert(&mut tables);
        assert_eq!(datapath.sweep(NOW + 1).unwrap().flows_deleted, 3);
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
                (0..3).map(|call| datapath.sweep(NOW + round * 3 + call).unwrap().scan).collect();
            let [None, None, Some(scan)] = &scans[..] else { panic!("{scans:?}") };
            assert_eq!(scan.finding(0, 0).begun_tick, NOW + round * 3);
            assert!((0..1021).all(|slot| scan.finding(0, slot).has_other));
        }
    }

    fn flows_of_the_other_family_are_swept_by_their_own_backends(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("[fd00::1]:8080", 7, TAKES_OLD);
        datapath.execute(&Action::WriteBackend { number: 1, backend }).unwrap();
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
        let report = datapath.sweep(NOW).unwrap();
        assert_eq!((report.flows_deleted, report.replies_deleted), (1, 1));
        assert!(tables.flows.get(&flow(1), 0).is_ok());
        assert_eq!(tables.replies.keys().count(), 1);
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
        let report = datapath.sweep(NOW).unwrap();
        assert_eq!((report.flows_seen, report.flows_deleted), (4_096, 3_072));
        assert_eq!((report.replies_seen, report.replies_deleted), (4_096, 3_072));
        let stay: Vec<u16> = (0..4_096).filter(|port| port % 4 == 0).collect();
        assert_eq!(left_v4(&tables), (stay.clone(), stay));
    }

    fn counters_are_summed_and_begin_anew_with_each_backend(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let backend = a_backend("10.0.0.1:8080", 1, TAKES_NEW);
        let write = |backend: &KernelBackend| Action::WriteBackend {
            number: 3,
            backend: backend.clone(),
        };
        datapath.execute(&write(&backend)).unwrap();
        let cpus = aya::util::nr_cpus().unwrap();
        let per_cpu = |value: u64| aya::maps::PerCpuValues::try_from(vec![value; cpus]).unwrap();
        let one = BackendCounters { packets_in: 1, bytes_in: 2, packets_out: 3, bytes_out: 4, flows: 5 };
        let all = cpus as u64;
        let sum = BackendCounters {
            packets_in: all,
            bytes_in: 2 * all,
            packets_out: 3 * all,
            bytes_out: 4 * all,
            flows: 5 * all,
        };
        let path = |name: &str| sandbox.pins().join("maps").join(name);
        let open = |name: &str| {
            aya::maps::Map::PerCpuArray(aya::maps::MapData::from_pin(path(name)).unwrap())
        };
        let mut backends: aya::maps::PerCpuArray<_, BackendCounters> =
            open(map_names::BACKEND_COUNTERS).try_into().unwrap();
        let values = aya::maps::PerCpuValues::try_from(vec![one; cpus]).unwrap();
        backends.set(3, values, 0).unwrap();
        let mut drops: aya::maps::PerCpuArray<_, u64> = open(map_names::DROPS).try_into().unwrap();
        drops.set(DropReason::NoBackend as u32, per_cpu(6), 0).unwrap();
        let mut verdicts: aya::maps::PerCpuArray<_, u64> =
            open(map_names::VERDICTS).try_into().unwrap();
        verdicts.set(verdict_index(Hook::Xdp, Verdict::Route), per_cpu(7), 0).unwrap();

        let counters = datapath.counters(&[3, 4]).unwrap();
        let expected = BTreeMap::from([(3, sum), (4, BackendCounters::default())]);
        assert_eq!(counters.backends, expected);
        assert_eq!(counters.drops.len(), DropReason::ALL.len());
        assert!(counters.drops.contains(&(DropReason::NoBackend, 6 * all)));
        assert!(counters.verdicts.contains(&(Hook::Xdp, Verdict::Route, 7 * all)));

        datapath.execute(&write(&backend)).unwrap();
        assert_eq!(datapath.counters(&[3]).unwrap().backends[&3], sum, "the same backend");
        let next = KernelBackend { generation: 2, ..backend };
        datapath.execute(&write(&next)).unwrap();
        assert_eq!(datapath.counters(&[3]).unwrap().backends[&3], BackendCounters::default());
        assert!(datapath.counters(&[65_537]).is_err());
    }
}
