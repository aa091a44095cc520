//! Tables of a large node: 4,096 services and 10,000 backends in each family, among them a service for
//! each way that a packet can take.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    sync::atomic::Ordering,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, MapData, lpm_trie},
};
use lb_common::{
    abi::{
        BackendV4, BackendV6, CLASS_ESTABLISHED, FRONTEND_BUCKETS, FRONTEND_WORDS_V4,
        FRONTEND_WORDS_V6, FlowRecord, FrontendKeyV4, FrontendKeyV6, NetAddr6, NetU16, NetU32,
        PATH_LOCAL, PATH_RECORDS_REPLIES, PATH_ROUTED, PROTOCOL_TCP, PROTOCOL_UDP, ReplyDefaultV4,
        ReplyDefaultV6, RingDescriptor, SCOPE_FRONT, SLOT_MOVING, SLOT_SETTLED, Slot, TAKES_NEW,
        TAKES_OLD, TAKES_OLD_DATAGRAMS, VIP_FILTER_WORDS, XdpInterface, map_names, ring_number,
        ticks_from_ns,
    },
    engine::{Family, Tuple, Way},
    frontends::{Editor, FrontendKey, FrontendMaps as _, HostMaps},
};
use lb_tests::packets::{EGRESS_IFINDEX, EGRESS_MACS};

use super::frames::{RECEIVER, client_of};

const SERVICES: u32 = 4096;
const BACKENDS: u32 = 10_000;
const BACKENDS_PER_SERVICE: u32 = 1000;
const RING_SIZE: u32 = 1021;
const BACKEND_PORT: u16 = 8080;
const FIRST_PORT: u16 = 80;
/// Test runs arrive on the loopback device.
const LOOPBACK_IFINDEX: u32 = 1;
const LOCAL_SUBNETS: u8 = 64;

/// The services that packets of the benchmark are for; the others only fill the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    LocalPlain = 0,
    LocalRecordsReplies = 1,
    LocalSettled = 2,
    LocalMoving = 3,
    WithoutBackend = 4,
    RoutedPlain = 5,
    RoutedRecordsReplies = 6,
    RoutedSettled = 7,
    RoutedMoving = 8,
}

const MEASURED: [Service; 9] = [
    Service::LocalPlain,
    Service::LocalRecordsReplies,
    Service::LocalSettled,
    Service::LocalMoving,
    Service::WithoutBackend,
    Service::RoutedPlain,
    Service::RoutedRecordsReplies,
    Service::RoutedSettled,
    Service::RoutedMoving,
];

impl Service {
    /// Where clients connect to, by TCP and UDP.
    pub(crate) fn frontend(self, is_v6: bool) -> SocketAddr {
        frontend_of(self as u32, is_v6)
    }

    /// The backend that every record is about.
    pub(crate) fn first_backend(self, is_v6: bool) -> SocketAddr {
        backend_of(self.backends().start, is_v6)
    }

    fn backends(self) -> Range<u32> {
        let start = 1 + self as u32 * BACKENDS_PER_SERVICE;
        start..start + BACKENDS_PER_SERVICE
    }

    fn records_replies(self) -> bool {
        matches!(self, Self::LocalRecordsReplies | Self::RoutedRecordsReplies)
    }

    /// The interface in the keys of replies.
    fn scope_ifindex(self) -> u32 {
        if is_routed(self.backends().start) { 0 } else { LOOPBACK_IFINDEX }
    }

    fn slot(self, index: u32, now_tick: u32) -> Slot {
        let backends = self.backends();
        let cur = backends.start + index % BACKENDS_PER_SERVICE;
        match self {
            Self::LocalSettled | Self::RoutedSettled => Slot::new(cur, 0, SLOT_SETTLED, now_tick),
            Self::LocalMoving | Self::RoutedMoving => {
                Slot::new(cur, backends.start, SLOT_MOVING, now_tick)
            }
            _ if self.records_replies() => Slot::plain(backends.start),
            _ => Slot::plain(cur),
        }
    }
}

/// An address that is not a VIP.
pub(crate) fn other(is_v6: bool) -> SocketAddr {
    let address: IpAddr = if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x99).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 99).into()
    };
    SocketAddr::new(address, FIRST_PORT)
}

fn frontend_of(service: u32, is_v6: bool) -> SocketAddr {
    let vip: IpAddr = if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 10).into()
    };
    SocketAddr::new(vip, FIRST_PORT + service as u16)
}

const fn is_routed(backend: u32) -> bool {
    backend > Service::RoutedPlain as u32 * BACKENDS_PER_SERVICE
}

fn backend_of(number: u32, is_v6: bool) -> SocketAddr {
    let [_, _, high, low] = number.to_be_bytes();
    let network = if is_routed(number) { 80 } else { 64 };
    let address: IpAddr = if is_v6 {
        Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, number as u16).into()
    } else {
        Ipv4Addr::new(10, network as u8, high, low).into()
    };
    SocketAddr::new(address, BACKEND_PORT)
}

/// What differs between the families in the maps.
pub(crate) trait BenchFamily<const W: usize>: Family {
    type Key: FrontendKey<W> + core::hash::Hash;
    /// An address in the key of a trie.
    type Raw: Pod;
    const FILTER: &str;
    const FRONTENDS: &str;
    const BACKENDS: &str;
    const FLOWS: &str;
    const REPLIES: &str;
    const REPLY_DEFAULTS: &str;
    const LOCAL: &str;

    fn of(address: IpAddr) -> Self;
    fn raw_of(address: Self) -> Self::Raw;
    fn key(vip: Self, port: u16, protocol: u8) -> Self::Key;
    fn backend_of(address: Self, state: u8, path: u8, ifindex: u32) -> Self::BackendRecord;
    fn default_of(vip: Self, port: u16, backend: u32) -> Self::ReplyDefault;
}

macro_rules! bench_family {
    (
        $family:ty, $words:ident, $key:ident, $backend:ident, $default:ident, $number:literal,
        $raw:ty, |$address:ident| $of:expr, { $($rest:ident: $value:expr),* }
    ) => {
        impl BenchFamily<$words> for $family {
            type Key = $key;
            type Raw = $raw;
            const FILTER: &str = concat!("VIP_FILTER_", $number);
            const FRONTENDS: &str = concat!("FRONTENDS_", $number);
            const BACKENDS: &str = concat!("BACKENDS_", $number);
            const FLOWS: &str = concat!("FLOWS_", $number);
            const REPLIES: &str = concat!("REPLIES_", $number);
            const REPLY_DEFAULTS: &str = concat!("REPLY_DEFAULTS_", $number);
            const LOCAL: &str = concat!("LOCAL_", $number);

            fn of($address: IpAddr) -> Self {
                $of
            }

            fn raw_of(address: Self) -> $raw {
                address.raw()
            }

            fn key(vip: Self, port: u16, protocol: u8) -> $key {
                $key { vip, port: NetU16::new(port), protocol, scope: SCOPE_FRONT }
            }

            fn backend_of(address: Self, state: u8, path: u8, ifindex: u32) -> $backend {
                let port = NetU16::new(BACKEND_PORT);
                $backend { address, port, state, path, ifindex, generation: 1, $($rest: $value),* }
            }

            fn default_of(vip: Self, port: u16, backend: u32) -> $default {
                let vip_port = NetU16::new(port);
                let ifindex = EGRESS_IFINDEX;
                $default { vip, vip_port, flags: 0, backend, ifindex, $($rest: $value),* }
            }
        }
    };
}

bench_family!(
    NetU32,
    FRONTEND_WORDS_V4,
    FrontendKeyV4,
    BackendV4,
    ReplyDefaultV4,
    "V4",
    u32,
    |address| match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(_) => Self::from_raw(0),
    },
    {}
);
bench_family!(
    NetAddr6, FRONTEND_WORDS_V6, FrontendKeyV6, BackendV6, ReplyDefaultV6, "V6",
    [u32; 4],
    |address| match address {
        IpAddr::V6(address) => address.into(),
        IpAddr::V4(_) => Self::from_raw([0; 4]),
    },
    { reserved: 0 }
);

/// Fills the tables of both families.
pub(crate) fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let mut interfaces = array(ebpf, map_names::XDP_INTERFACES)?;
    interfaces.set(LOOPBACK_IFINDEX, XdpInterface::receiving(RECEIVER).raw(), 0)?;
    interfaces.set(EGRESS_IFINDEX, XdpInterface::sending(EGRESS_MACS.1).raw(), 0)?;
    let now_tick = now_tick()?;
    let mut slots = array(ebpf, map_names::RING_SLOTS)?;
    for service in MEASURED {
        for index in 0..RING_SIZE {
            let at = service as u32 * RING_SIZE + index;
            slots.set(at, service.slot(index, now_tick).raw(), 0)?;
        }
    }
    fill_family::<NetU32, FRONTEND_WORDS_V4>(ebpf)?;
    fill_family::<NetAddr6, FRONTEND_WORDS_V6>(ebpf)
}

fn fill_family<A: BenchFamily<W>, const W: usize>(ebpf: &mut Ebpf) -> Result<()>
where
    A::BackendRecord: Pod,
    A::ReplyDefaultKey: Pod,
    A::ReplyDefault: Pod,
    [[u64; W]; 4]: Pod,
{
    let mut rings = array(ebpf, map_names::RINGS)?;
    for service in 0..SERVICES {
        let of = MEASURED.into_iter().find(|it| *it as u32 == service);
        let start = of.unwrap_or(Service::LocalPlain) as u32 * RING_SIZE;
        let ring = match of {
            Some(Service::WithoutBackend) => RingDescriptor::NONE,
            _ => RingDescriptor::new(start, RING_SIZE, 1),
        };
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            rings.set(ring_number(service, A::NUMBER, protocol), ring.raw(), 0)?;
        }
    }
    let mut backends = array(ebpf, A::BACKENDS)?;
    for number in 1..=BACKENDS {
        let of = MEASURED.into_iter().find(|it| it.backends().contains(&number));
        let (path, ifindex) =
            if is_routed(number) { (PATH_ROUTED, 0) } else { (PATH_LOCAL, LOOPBACK_IFINDEX) };
        let records = of.is_some_and(Service::records_replies);
        let path = path | if records { PATH_RECORDS_REPLIES } else { 0 };
        let address = A::of(backend_of(number, A::IS_V6).ip());
        let state = TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS;
        backends.set(number, A::backend_of(address, state, path, ifindex), 0)?;
    }
    fill_replies::<A, W>(ebpf)?;
    publish::<A, W>(ebpf)
}

fn fill_replies<A: BenchFamily<W>, const W: usize>(ebpf: &mut Ebpf) -> Result<()>
where
    A::ReplyDefaultKey: Pod,
    A::ReplyDefault: Pod,
{
    let mut defaults: BpfHashMap<_, A::ReplyDefaultKey, A::ReplyDefault> =
        ebpf.map_mut(A::REPLY_DEFAULTS).context(A::REPLY_DEFAULTS)?.try_into()?;
    for service in MEASURED.into_iter().filter(|it| !it.records_replies()) {
        for number in service.backends() {
            let reply = reply_of::<A, W>(number, 0);
            let vip = service.frontend(A::IS_V6);
            let key = A::reply_default_key(&reply, service.scope_ifindex());
            defaults.insert(key, A::default_of(A::of(vip.ip()), vip.port(), number), 0)?;
        }
    }
    let mut local: LpmTrie<_, A::Raw, u32> =
        ebpf.map_mut(A::LOCAL).context(A::LOCAL)?.try_into()?;
    for subnet in 0..LOCAL_SUBNETS {
        let (address, bits): (IpAddr, u32) = if A::IS_V6 {
            (Ipv6Addr::new(0xfd00, 64, 0, u16::from(subnet), 0, 0, 0, 0).into(), 64)
        } else {
            (Ipv4Addr::new(172, 16 + subnet / 16, subnet % 16 * 16, 0).into(), 20)
        };
        local.insert(&lpm_trie::Key::new(bits, A::raw_of(A::of(address))), 1, 0)?;
    }
    Ok(())
}

/// What a backend sends to the client of a flow.
fn reply_of<A: BenchFamily<W>, const W: usize>(backend: u32, flow: u32) -> Tuple<A> {
    let (server, client) = (backend_of(backend, A::IS_V6), client_of(A::IS_V6, flow));
    Tuple {
        client: A::of(client.ip()),
        server: A::of(server.ip()),
        client_port: NetU16::new(client.port()),
        server_port: NetU16::new(server.port()),
        protocol: u32::from(PROTOCOL_TCP),
    }
}

fn publish<A: BenchFamily<W>, const W: usize>(ebpf: &mut Ebpf) -> Result<()>
where
    [[u64; W]; 4]: Pod,
{
    let maps = HostMaps::<W>::new();
    let mut editor: Editor<W, A::Key> =
        Editor::adopt(&maps, 0, 0).map_err(|error| anyhow!("{error}"))?;
    let vip = A::of(frontend_of(0, A::IS_V6).ip());
    for service in 0..SERVICES {
        let port = frontend_of(service, A::IS_V6).port();
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            let key = A::key(vip, port, protocol);
            editor
                .put_frontend(&maps, &key, port, service, 0, 0)
                .map_err(|error| anyhow!("{key:?}: {error}"))?;
        }
    }
    editor.put_vip(&maps, &A::key(vip, 0, 0), 0, 0).map_err(|error| anyhow!("{error}"))?;
    let mut filter = array::<u64>(ebpf, A::FILTER)?;
    for index in 0..VIP_FILTER_WORDS {
        filter.set(index, maps.filter(index).context("filter")?.load(Ordering::Relaxed), 0)?;
    }
    let mut buckets = array::<[[u64; W]; 4]>(ebpf, A::FRONTENDS)?;
    for index in 0..2 * FRONTEND_BUCKETS {
        let bucket = maps.bucket(index).context("bucket")?;
        let words =
            bucket.each_ref().map(|it| it.each_ref().map(|word| word.load(Ordering::Relaxed)));
        if words != [[0; W]; 4] {
            buckets.set(index, words, 0)?;
        }
    }
    let header = maps.header().context("header")?.load(Ordering::Relaxed);
    array::<u64>(ebpf, map_names::FRONTEND_HEADERS)?.set(A::NUMBER, header, 0)?;
    Ok(())
}

/// Records the first so many flows of a service, in the tables that it uses; all others are forgotten.
pub(crate) fn record(ebpf: &mut Ebpf, service: Service, flows: u32) -> Result<()> {
    let now_tick = now_tick()?;
    let backend = service.backends().start;
    let vip = service.frontend(false);
    let mut table = flow_table(ebpf)?;
    for flow in 0..if service.records_replies() { 0 } else { flows } {
        let reply = reply_of::<NetU32, FRONTEND_WORDS_V4>(backend, flow);
        let server = <NetU32 as BenchFamily<FRONTEND_WORDS_V4>>::of(vip.ip());
        let tuple = Tuple { server, server_port: NetU16::new(vip.port()), ..reply };
        let class = CLASS_ESTABLISHED;
        let record = FlowRecord { backend, generation: 1, last_seen_tick: now_tick, class };
        table.insert(NetU32::flow_key(&tuple), record, 0)?;
    }
    let mut table = reply_table(ebpf)?;
    for flow in 0..if service.records_replies() { flows } else { 0 } {
        let reply = reply_of::<NetU32, FRONTEND_WORDS_V4>(backend, flow);
        let way = Way {
            vip: <NetU32 as BenchFamily<FRONTEND_WORDS_V4>>::of(vip.ip()),
            vip_port: NetU16::new(vip.port()),
            class: CLASS_ESTABLISHED as u16,
            backend,
            generation: 1,
            ifindex: EGRESS_IFINDEX,
            last_seen_tick: now_tick,
            client_end: 0,
            backend_end: 0,
        };
        let key = NetU32::reply_key(&reply, service.scope_ifindex());
        table.insert(key, NetU32::reply_record(&way), 0)?;
    }
    Ok(())
}

/// Forgets every flow.
pub(crate) fn forget(ebpf: &mut Ebpf) -> Result<()> {
    let mut flows = flow_table(ebpf)?;
    for key in flows.keys().collect::<Result<Vec<_>, _>>()? {
        flows.remove(&key)?;
    }
    let mut replies = reply_table(ebpf)?;
    for key in replies.keys().collect::<Result<Vec<_>, _>>()? {
        replies.remove(&key)?;
    }
    Ok(())
}

type FlowTable<'a> = BpfHashMap<&'a mut MapData, <NetU32 as Family>::FlowKey, FlowRecord>;
type ReplyTable<'a> =
    BpfHashMap<&'a mut MapData, <NetU32 as Family>::ReplyKey, <NetU32 as Family>::ReplyRecord>;

fn flow_table(ebpf: &mut Ebpf) -> Result<FlowTable<'_>> {
    let name = <NetU32 as BenchFamily<FRONTEND_WORDS_V4>>::FLOWS;
    Ok(ebpf.map_mut(name).context(name)?.try_into()?)
}

fn reply_table(ebpf: &mut Ebpf) -> Result<ReplyTable<'_>> {
    let name = <NetU32 as BenchFamily<FRONTEND_WORDS_V4>>::REPLIES;
    Ok(ebpf.map_mut(name).context(name)?.try_into()?)
}

/// An array of a loaded object.
pub(crate) fn array<'a, V: Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<Array<&'a mut MapData, V>> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
    map.try_into().with_context(|| name.to_owned())
}

fn now_tick() -> Result<u32> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let seconds = u64::try_from(now.tv_sec())?;
    Ok(ticks_from_ns(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec())?))
}
