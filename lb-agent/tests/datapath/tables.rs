//! Maps against a model: what was executed is what is read, also by the next agent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use lb_agent::{
    datapath::{Datapath, TcMode},
    model::{
        Backend, BackendPath, BackendState, FrontendAddress, IpPrefix, LocalKind, Ports, Protocol,
        Service, ServiceName, Snapshot,
    },
    plan::{
        Action, Kernel as _, KernelBackend, KernelRing, KernelState, Planner, ReplyDefault,
        ReplyPort, Settings, Sight, reconcile,
    },
};
use lb_common::abi::{
    BackendCounters, DropReason, FRONTEND_DROPS, Hook, META_ROUTES_REPLIES, META_TRACES, Slot,
    TAKES_NEW, TAKES_OLD, Verdict, affinity_flags, map_names, verdict_index,
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use crate::{sandbox::ifindex, sandboxed};

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
    let rest = (0_u8..4, any::<bool>());
    (hash(), service(), 1..=u32::MAX, address(), any::<u16>(), path(), rest).prop_map(
        |(instance_hash, service, generation, ip, port, path, (state, records_replies))| {
            let address = SocketAddr::new(ip, port);
            KernelBackend {
                instance_hash,
                service,
                generation,
                address,
                path,
                state,
                records_replies,
            }
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
            content: KernelRing {
                start: 65_536 - (index * 2 + half + 1) * 50,
                epoch,
                slots: slots.into(),
            },
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let interface = || prop::sample::select(CONTAINERS.map(ifindex).to_vec());
    prop_oneof![
        interface().prop_map(|ifindex| Action::AttachReply { ifindex }),
        interface().prop_map(|ifindex| Action::DetachReply { ifindex }),
        any::<u32>().prop_map(|flags| Action::SetFlags {
            flags: flags & !(META_TRACES | META_ROUTES_REPLIES)
        }),
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
        (
            frontend(),
            service(),
            any::<bool>(),
            prop_oneof![Just(0), Just(FRONTEND_DROPS | affinity_flags(24))]
        )
            .prop_map(|(frontend, service, records_replies, flags)| Action::PutFrontend {
                frontend,
                service,
                records_replies,
                flags,
            }),
        frontend().prop_map(|frontend| Action::DeleteFrontend { frontend }),
        (number(), any::<bool>()).prop_map(|(number, records_replies)| {
            Action::SetRecordsReplies { number, records_replies }
        }),
        reply_default().prop_map(|(port, default)| Action::PutReplyDefault { port, default }),
        reply_default().prop_map(|(port, _)| Action::DeleteReplyDefault { port }),
        (prefix(), 1_u32..4).prop_map(|(prefix, kind)| Action::PutLocal {
            prefix,
            kind: LocalKind::from_abi(kind)
        }),
        prefix().prop_map(|prefix| Action::DeleteLocal { prefix }),
    ]
}

fn reply_default() -> impl Strategy<Value = (ReplyPort, ReplyDefault)> {
    let number = || prop::sample::select(vec![0, 1, u32::MAX]);
    let value = (number(), number(), any::<[bool; 2]>(), any::<u16>());
    (number(), frontend(), address(), value).prop_map(
        |(ifindex, vip, address, (backend, front_ifindex, flags, vip_port))| {
            let [is_ambiguous, has_other_ways] = flags;
            // VIP and backend are of one family.
            let address = if vip.vip.is_ipv4() == address.is_ipv4() { address } else { vip.vip };
            let address = SocketAddr::new(address, vip.ports.first());
            let protocol = vip.protocol;
            let vip_address = SocketAddr::new(vip.vip, vip_port);
            let vip = vip_address;
            let default =
                ReplyDefault { vip, backend, front_ifindex, is_ambiguous, has_other_ways };
            (ReplyPort { ifindex, address, protocol }, default)
        },
    )
}

fn prefix() -> impl Strategy<Value = IpPrefix> {
    (1_u32..4, prop::sample::select(vec![0, 1, 8, 31, 32]))
        .prop_map(|(last, length)| IpPrefix::of(Ipv4Addr::from(0x0a00_0000 + last).into(), length))
}

#[track_caller]
fn check_refused(datapath: &mut Datapath, action: &Action, expected: &str) {
    let before = datapath.read_state().unwrap();
    let refusal = datapath.execute(action).unwrap_err();
    assert!(refusal.to_string().contains(expected), "{refusal}");
    assert!(!refusal.is_absent);
    assert_eq!(datapath.read_state().unwrap(), before, "{refusal}");
}

pub(crate) fn a_backend(address: &str, generation: u32, state: u8) -> KernelBackend {
    KernelBackend {
        instance_hash: [5, 6],
        service: 0,
        generation,
        address: address.parse().unwrap(),
        path: BackendPath::Routed,
        state,
        records_replies: true,
    }
}

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
            content: KernelRing { start, epoch: 1, slots: slots.to_vec().into() },
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
        check(
            &Action::PutFrontend { frontend, service: 4_096, records_replies: false, flags: 0 },
            "service number 4096",
        );
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

    /// The kernel counts whatever is mapped of a map as the agent's memory.
    fn what_is_mapped_of_large_tables_is_given_back(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let mapped_kb = || {
            let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let (mut is_map, mut sum) = (false, 0);
            for line in text.lines() {
                if line.starts_with(|first: char| first.is_ascii_digit() || first.is_lowercase()) {
                    is_map = line.contains("bpf-map");
                } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_map) {
                    sum += rest.trim().trim_end_matches(" kB").parse::<u32>().unwrap();
                }
            }
            sum
        };
        let vips: Vec<IpAddr> = (0..2000_u32)
            .map(|last| if last % 2 == 0 {
                Ipv4Addr::from(0xc000_0200 + last).into()
            } else {
                Ipv6Addr::from(0xfd00 << 112 | u128::from(last)).into()
            })
            .collect();
        for vip in &vips {
            datapath.execute(&Action::PutVip { vip: *vip }).unwrap();
        }
        // They are all over tables of 4 and 8 MiB.
        let used = mapped_kb();
        assert!(used > 5_000, "{used} kB");
        let held = datapath.read_state().unwrap();
        assert_eq!(held.vips, vips.into_iter().collect());
        // Other tests of this process have maps, too, and not for long.
        let kept = || {
            assert_eq!(datapath.read_state().unwrap(), held);
            mapped_kb()
        };
        let kept = std::iter::repeat_with(kept).take(100).min();
        assert!(kept < Some(4_000), "{kept:?} kB of {used} kB");
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
                reported: None,
                asked_to_end: None,
                network: None,
                replies: lb_agent::model::ReplyFacts::default(),
                started_at_ms: 0,
            };
            let frontend = |port| FrontendAddress {
                vip,
                protocol: Protocol::Tcp,
                ports: Ports::one(port).unwrap(),
            };
            let name = ServiceName("file/ports".into());
            Service {
                name,
                frontends: ports.map(frontend).collect(),
                backends: vec![backend],
                policy: std::sync::Arc::default(),
                exclusive: std::collections::BTreeSet::default(),
            }
        };
        let mut planner = Planner::new(Settings { ring_slots: 65_536, ..Settings::default() });
        let mut mirror = datapath.read_state().unwrap();
        // All of them, then all of them moved by one half: 500 go, 500 come.
        for (what, ports) in [("added", 1000..2000), ("half of them replaced", 1500..2500)] {
            let started = Instant::now();
            let service = service(ports);
            let snapshot = Snapshot { services: [(service.name.clone(), service.into())].into(), ..Snapshot::default() };
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
        let one = BackendCounters {
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: 4,
            flows: 5,
            refusals: 6,
            sockets: 7,
            ..BackendCounters::default()
        };
        let all = cpus as u64;
        let sum = BackendCounters {
            packets_in: all,
            bytes_in: 2 * all,
            packets_out: 3 * all,
            bytes_out: 4 * all,
            flows: 5 * all,
            refusals: 6 * cpus as u32,
            sockets: 7 * cpus as u32,
            ..BackendCounters::default()
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
