//! What the programs tell of a packet is what the engine decides on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::{
    TestRun as _,
    programs::{SchedClassifier, TestRunOptions, Xdp},
};
use lb_agent::{
    datapath::{Datapath, TcMode, TraceReader, now_tick},
    model::{BackendPath, FrontendAddress, Ports, Protocol},
    plan::{Action, Kernel as _, KernelBackend, KernelRing},
};
use lb_common::{
    abi::{
        BackendV4, BackendV6, DropReason, FAMILY_V4, FAMILY_V6, Frontend, FrontendKeyV4,
        FrontendKeyV6, Hook, Limits, NetAddr6, NetU16, NetU32, PATH_LOCAL, PATH_RECORDS_REPLIES,
        PATH_ROUTED, PROTOCOL_ANY, PROTOCOL_TCP, RingDescriptor, SCOPE_FRONT, Slot, TAKES_NEW,
        TAKES_OLD, TRACE_ANY_REASON, TraceEvent, TraceFilter, Verdict, XdpInterface, map_names,
        program_names, ring_number,
    },
    engine::{
        Context, Family, front,
        host::{Decide, HostPacket, HostTables, run},
        reply, trace,
        wire::link,
    },
};

use crate::{sandbox::Sandbox, sandboxed};

const LOOPBACK_IFINDEX: u32 = 1;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ROUTED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const BACKEND6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// The interface of test runs: the loopback device.
const INGRESS: u32 = 1;
const RING_SIZE: u32 = 1021;
const STATE: u8 = TAKES_NEW | TAKES_OLD;

/// Services by number: TCP port 80 of the VIP to a container, port 8080 to a machine that the
/// sandbox forwards nothing to, port 80 of the IPv6 VIP to a container.
const SERVICES: [(IpAddr, u16, IpAddr); 3] = [
    (IpAddr::V4(VIP), 80, IpAddr::V4(BACKEND)),
    (IpAddr::V4(VIP), 8080, IpAddr::V4(ROUTED)),
    (IpAddr::V6(VIP6), 80, IpAddr::V6(BACKEND6)),
];

fn fill(datapath: &mut Datapath) {
    for (service, (vip, port, backend)) in (0..).zip(SERVICES) {
        let number = service + 1;
        let ifindex = 40 + number;
        let is_routed = backend == IpAddr::V4(ROUTED);
        let path = if is_routed { BackendPath::Routed } else { BackendPath::Local { ifindex } };
        let family = if vip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
        let frontend =
            FrontendAddress { vip, protocol: Protocol::Tcp, ports: Ports::one(port).unwrap() };
        let backend = KernelBackend {
            instance_hash: [number.into(), 1],
            service,
            generation: 1,
            address: (backend, 9000).into(),
            path,
            state: STATE,
            records_replies: true,
        };
        let content = KernelRing {
            start: service * RING_SIZE,
            epoch: 1,
            slots: vec![Slot::plain(number); RING_SIZE as usize].into(),
        };
        let ring = ring_number(service, family, PROTOCOL_TCP);
        for action in [
            Action::WriteService { number: service, name_hash: [number.into(), 2] },
            Action::WriteBackend { number, backend },
            Action::PublishRing { ring, content },
            Action::PutVip { vip },
            Action::PutFrontend { frontend, service, records_replies: true, flags: 0 },
        ] {
            datapath.execute(&action).unwrap();
        }
    }
}

/// The same tables on the host.
fn tables_v4() -> HostTables<NetU32> {
    let mut tables = HostTables::with_room(Limits::with_cpus(1), 16, 16);
    let key = |port, protocol| FrontendKeyV4 {
        vip: VIP.into(),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    for (service, port, address, path, ifindex) in
        [(0, 80, BACKEND, PATH_LOCAL, 41), (1, 8080, ROUTED, PATH_ROUTED, 0)]
    {
        let ring = ring_number(service, FAMILY_V4, PROTOCOL_TCP);
        let frontend = Frontend { service, ring, ..Frontend::default() };
        let start = service * RING_SIZE;
        tables.frontends.insert(key(port, PROTOCOL_TCP), frontend);
        tables.frontends.insert(key(0, PROTOCOL_ANY), frontend);
        tables.rings.insert(ring, RingDescriptor::new(start, RING_SIZE, 1));
        tables.slots.extend(vec![Slot::plain(service + 1); RING_SIZE as usize]);
        let backend = BackendV4 {
            address: address.into(),
            port: NetU16::new(9000),
            state: STATE,
            path: path | PATH_RECORDS_REPLIES,
            ifindex,
            generation: 1,
        };
        tables.backends.insert(service + 1, backend);
    }
    tables
}

/// The same tables on the host.
fn tables_v6() -> HostTables<NetAddr6> {
    let ring = ring_number(2, FAMILY_V6, PROTOCOL_TCP);
    let frontend = Frontend { service: 2, ring, ..Frontend::default() };
    let key = |port, protocol| FrontendKeyV6 {
        vip: VIP6.into(),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    let backend = BackendV6 {
        address: BACKEND6.into(),
        port: NetU16::new(9000),
        state: STATE,
        path: PATH_LOCAL | PATH_RECORDS_REPLIES,
        ifindex: 43,
        generation: 1,
        reserved: 0,
    };
    HostTables {
        frontends: [key(80, PROTOCOL_TCP), key(0, PROTOCOL_ANY)].map(|key| (key, frontend)).into(),
        rings: [(ring, RingDescriptor::new(0, RING_SIZE, 1))].into(),
        slots: vec![Slot::plain(3); RING_SIZE as usize],
        backends: [(3, backend)].into(),
        ..HostTables::with_room(Limits::with_cpus(1), 16, 16)
    }
}

fn context() -> Context {
    Context {
        now_tick: now_tick(),
        now_moment: 0,
        ingress_ifindex: INGRESS,
        reply_ifindex: INGRESS,
        hash_seed: 7,
        meta_flags: 0,
    }
}

/// What the host's engine decides, as an event of time 0; `late`: what only the kernel finds out.
fn expected<A: Family>(
    frame: &[u8],
    tables: &HostTables<A>,
    hook: Hook,
    late: DropReason,
) -> TraceEvent
where
    HostTables<A>: lb_common::engine::RecordTables<A>,
{
    let mut packet = HostPacket(frame.to_vec());
    let headers = A::parse(&packet, link(&packet, 0).l3_offset);
    let decide: Decide<A> = if hook == Hook::TcReply { reply } else { front };
    let mut decision = run(&mut packet, tables, &context(), decide).expect("the family");
    if late != DropReason::None {
        let backend = decision.backend;
        decision.drop(late, backend);
    }
    let mut event = TraceEvent::default();
    trace::describe(hook as u32, 0, &context(), &headers, &decision, &mut event);
    event
}

/// A segment to a device without an address, as the loopback device is.
fn segment(source: IpAddr, destination: IpAddr, ports: [u16; 2], flags: u8, ttl: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6]);
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            builder.ipv4(source.octets(), destination.octets(), ttl)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            builder.ipv6(source.octets(), destination.octets(), ttl)
        }
        _ => panic!("one family"),
    };
    let mut header = etherparse::TcpHeader::new(ports[0], ports[1], 1, 1000);
    (header.syn, header.ack) = (flags & 2 != 0, flags & 16 != 0);
    let mut bytes = Vec::new();
    builder.tcp_header(header).write(&mut bytes, b"payload").unwrap();
    bytes
}

fn syn(port: u16) -> Vec<u8> {
    segment(CLIENT.into(), VIP.into(), [40_000, port], 2, 64)
}

struct Bed<'a> {
    sandbox: &'a Sandbox,
    datapath: Datapath,
    reader: TraceReader,
}

impl<'a> Bed<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let mut datapath = sandbox.open(TcMode::Auto);
        fill(&mut datapath);
        // Programs run for tests see the loopback device, whose address is zero.
        let mut interfaces = sandbox.array::<u64>(map_names::XDP_INTERFACES);
        interfaces.set(LOOPBACK_IFINDEX, XdpInterface::receiving([0; 6]).raw(), 0).unwrap();
        let reader = datapath.take_trace().expect("there is one");
        Self { sandbox, datapath, reader }
    }

    /// All packets, or those that this changes.
    fn trace(&mut self, change: impl FnOnce(&mut TraceFilter)) {
        let mut filter = TraceFilter {
            families: 3,
            reason: TRACE_ANY_REASON,
            verdicts: u32::MAX,
            until_tick: now_tick() + 1000,
            ..TraceFilter::default()
        };
        change(&mut filter);
        self.datapath.set_trace_filters(&[None, Some(filter)]).unwrap();
    }

    /// Runs a program and returns what it tells.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Option<TraceEvent> {
        let path = |name| self.sandbox.pins().join("programs").join(name);
        let mut output = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut output);
        let tc = |name| SchedClassifier::from_pin(path(name)).unwrap();
        let result = match hook {
            Hook::TcFront => tc(program_names::TC_FRONT).test_run(options),
            Hook::TcReply => tc(program_names::TC_REPLY).test_run(options),
            Hook::Xdp => {
                let path = path(program_names::XDP_FRONT);
                Xdp::from_pin(path, aya_obj::programs::XdpAttachType::Interface)
                    .unwrap()
                    .test_run(options)
            }
            Hook::Socket => panic!("the kernel runs no calls of sockets for tests"),
        };
        result.unwrap();
        self.reader.next_event()
    }

    #[track_caller]
    fn check(
        &mut self,
        name: &str,
        hook: Hook,
        frame: &[u8],
        expected: TraceEvent,
        verdict: Verdict,
    ) {
        let event = self.run(hook, frame).unwrap_or_else(|| panic!("{name}: nothing is told"));
        assert!(event.time_ns > 0, "{name}");
        let expected = TraceEvent { time_ns: event.time_ns, filters: 0b10, ..expected };
        assert_eq!(event, expected, "{name}");
        assert_eq!(event.verdict, verdict as u32, "{name}");
        assert_eq!(self.reader.next_event(), None, "{name}: told twice");
    }
}

sandboxed! {
    fn what_is_told_is_what_was_decided(sandbox) {
        let mut bed = Bed::new(sandbox);
        bed.trace(|_| {});
        let mut broken = syn(80);
        // The TCP header's length: 12 bytes.
        broken[14 + 20 + 12] = 0x30;
        let expired = segment(CLIENT.into(), VIP.into(), [40_001, 80], 2, 1);
        let land = segment(VIP.into(), VIP.into(), [80, 80], 2, 64);
        let own = segment(BACKEND.into(), CLIENT.into(), [5000, 443], 2, 64);
        let none = DropReason::None;
        let cases = [
            ("to a container", Hook::TcFront, syn(80), none, Verdict::Deliver),
            ("the same again", Hook::TcFront, syn(80), none, Verdict::Deliver),
            ("a closed port", Hook::TcFront, syn(81), none, Verdict::Answer),
            ("no hops left", Hook::TcFront, expired, none, Verdict::Answer),
            ("a broken header", Hook::TcFront, broken, none, Verdict::Drop),
            ("no forwarding", Hook::TcFront, syn(8080), DropReason::ForwardingDisabled, Verdict::Drop),
            ("by XDP, from itself", Hook::Xdp, land, none, Verdict::Drop),
            ("the container's own", Hook::TcReply, own, none, Verdict::Pass),
        ];
        let tables = tables_v4();
        for (name, hook, frame, late, verdict) in cases {
            let expected = expected::<NetU32>(&frame, &tables, hook, late);
            bed.check(name, hook, &frame, expected, verdict);
        }
        let frame = segment(CLIENT6.into(), VIP6.into(), [40_000, 80], 2, 64);
        let expected = expected::<NetAddr6>(&frame, &tables_v6(), Hook::TcFront, none);
        bed.check("IPv6", Hook::TcFront, &frame, expected, Verdict::Deliver);
    }

    fn only_what_is_asked_for_is_told(sandbox) {
        let mut bed = Bed::new(sandbox);
        assert_eq!(bed.run(Hook::TcFront, &syn(80)), None, "nobody traces");
        bed.trace(|filter| filter.port = 81);
        assert_eq!(bed.run(Hook::TcFront, &syn(80)), None, "another port");
        assert!(bed.run(Hook::TcFront, &syn(81)).is_some());
        bed.trace(|filter| filter.backend = 1);
        assert_eq!(bed.run(Hook::TcFront, &syn(81)), None, "no backend");
        assert!(bed.run(Hook::TcFront, &syn(80)).is_some());
        // The clock of the programs may be a little behind.
        bed.trace(|filter| filter.until_tick = now_tick() - 2);
        assert_eq!(bed.run(Hook::TcFront, &syn(80)), None, "its time is over");
        bed.trace(|_| {});
        bed.datapath.set_trace_filters(&[]).unwrap();
        assert_eq!(bed.run(Hook::TcFront, &syn(80)), None, "nobody traces any more");

        // The next agent finds it switched off, whatever became of this one.
        bed.trace(|_| {});
        let Bed { datapath, reader, .. } = bed;
        drop((datapath, reader));
        let mut datapath = sandbox.open(TcMode::Auto);
        let reader = datapath.take_trace().unwrap();
        let mut bed = Bed { sandbox, datapath, reader };
        assert_eq!(bed.run(Hook::TcFront, &syn(80)), None);
    }

    fn what_is_too_much_is_counted(sandbox) {
        const PACKETS: u64 = 4_000;
        let mut bed = Bed::new(sandbox);
        bed.trace(|_| {});
        let before = bed.reader.lost().unwrap();
        let mut told = 0;
        let path = sandbox.pins().join("programs").join(program_names::TC_FRONT);
        let program = SchedClassifier::from_pin(path).unwrap();
        let mut frame = syn(80);
        frame[14 + 20 + 12] = 0x30;
        for _ in 0..PACKETS {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            program.test_run(options).unwrap();
        }
        while bed.reader.next_event().is_some() {
            told += 1;
        }
        // The buffer holds less than 2,000.
        assert!((500..2_000).contains(&told), "{told}");
        assert_eq!(told + bed.reader.lost().unwrap() - before, PACKETS);
    }
}
