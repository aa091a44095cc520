//! The real programs, run by `BPF_PROG_TEST_RUN` in a network namespace of their own.
//!
//! What a test run cannot show: VLAN tags beside the packet, which only a device puts there (those in
//! the bytes it shows); packets that a device has to cut into segments; checksums that a device has
//! begun or will finish; and what the redirects lead to. Tests with real interfaces show these.

mod namespace;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRunOptions, Xdp},
};
use lb_common::abi::{
    BackendCounters, DROP_REASON_SLOTS, DropReason, FAMILY_V4, FAMILY_V6, FlowInsertions, FlowRoom,
    HOOK_COUNT, HalfOpenRate, Hook, Meta, NetAddr6, NetU32, PROTOCOL_TCP, PROTOCOL_UDP, Refusals,
    RingDescriptor, VERDICT_SLOTS, Verdict, XdpInterface, map_names, program_names, ring_number,
    ticks_from_ns, verdict_index,
};
use lb_common::engine::answer::ANSWER_BUCKET_COUNT;

pub use self::namespace::{EGRESS_IFINDEX, EGRESS_MACS, enter_namespace};
use super::{
    Action, Counted, HALF_OPEN_MAX, HASH_SEED, INGRESS_IFINDEX, Outcome, Program, RING_SIZE, World,
    builder::MACS,
    family::{BedFamily, Dump},
    frontends::{Written, publish_world},
};

/// `TC_ACT_UNSPEC`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
const TC_ACTIONS: [(u32, Action); 3] =
    [(u32::MAX, Action::Pass), (2, Action::Drop), (7, Action::Redirect)];
/// `XDP_PASS`, `XDP_DROP`, `XDP_REDIRECT`.
const XDP_ACTIONS: [(u32, Action); 3] =
    [(2, Action::Pass), (1, Action::Drop), (4, Action::Redirect)];
/// The one that programs run on: some tables are each CPU's own.
const CPU: usize = 0;
/// Numbers of backends, from 1.
const BACKENDS: u32 = 3;
/// Packets whose fragments are remembered.
const FRAGMENTS_MAX: u32 = 256;

/// The object under test: `LB_OBJECT`, or else the one that `cargo xtask build-ebpf` makes.
pub fn object_bytes() -> anyhow::Result<Vec<u8>> {
    let path = std::env::var_os("LB_OBJECT").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../lb-ebpf/target/bpfel-unknown-none/release/lb-ebpf")
        },
        PathBuf::from,
    );
    std::fs::read(&path)
        .with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))
}

/// The object of the benchmark's harness, built beside it.
pub fn bench_object_bytes() -> anyhow::Result<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../lb-ebpf/target/bpfel-unknown-none/release/lb-bench-ebpf");
    std::fs::read(&path)
        .with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))
}

/// The loaded programs. The thread that makes a bed moves into a network namespace of its own, with
/// a route to backend 3 and the clients, and to one CPU; the namespace goes with the thread.
pub struct KernelBed {
    ebpf: Ebpf,
    written: Written,
    egress_mtu: u32,
    /// Counters at the last packet: drops, then verdicts, then refusals.
    counters: Vec<u64>,
}

impl KernelBed {
    /// Loads the object with room for so many established records in each table.
    pub fn new(object: &[u8], records_max: u32) -> anyhow::Result<Self> {
        enter_namespace()?;
        let mut cpus = nix::sched::CpuSet::new();
        cpus.set(CPU)?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
        let mut loader = EbpfLoader::new();
        for (names, entries_max) in [
            ([NetU32::FLOWS, NetAddr6::FLOWS], [records_max, HALF_OPEN_MAX]),
            ([NetU32::REPLIES, NetAddr6::REPLIES], [records_max, HALF_OPEN_MAX]),
        ] {
            for family in names {
                loader.map_max_entries(family[0], entries_max[0]);
                loader.map_max_entries(family[1], entries_max[1]);
            }
        }
        loader.map_max_entries(map_names::RING_SLOTS, RING_SIZE);
        loader.map_max_entries(map_names::FRAGMENTS_V4, FRAGMENTS_MAX);
        loader.map_max_entries(map_names::FRAGMENTS_V6, FRAGMENTS_MAX);
        let mut ebpf = loader.load(object).context("loading the object")?;
        for name in [program_names::TC_FRONT, program_names::TC_REPLY] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().context(name)?;
        }
        let program: &mut Xdp =
            ebpf.program_mut(program_names::XDP_FRONT).context("XDP")?.try_into()?;
        program.load()?;
        let mut bed =
            Self { ebpf, written: Written::default(), egress_mtu: 1500, counters: Vec::new() };
        bed.counters = bed.read_counters()?;
        Ok(bed)
    }

    /// Makes the tables what a world wants, whatever they were.
    pub fn fill(&mut self, world: &World, now_tick: u32) -> anyhow::Result<()> {
        let meta = Meta {
            abi_version: lb_common::abi::ABI_VERSION,
            flags: world.flags,
            hash_seed: HASH_SEED,
            limits: world.limits(),
        };
        self.array(map_names::META)?.set(0, meta, 0)?;
        publish_world(&mut self.ebpf, &mut self.written, world)?;
        let descriptor =
            world.ring.map_or(RingDescriptor::NONE, |_| RingDescriptor::new(0, RING_SIZE, 1));
        for (family, protocol) in
            [(0, PROTOCOL_TCP), (0, PROTOCOL_UDP), (1, PROTOCOL_TCP), (1, PROTOCOL_UDP)]
        {
            let ring = ring_number(0, family, protocol);
            self.array(map_names::RINGS)?.set(ring, descriptor.raw(), 0)?;
            self.array(map_names::REFUSALS)?.set(ring, Refusals::default(), 0)?;
        }
        let mut slots = self.array(map_names::RING_SLOTS)?;
        for (index, slot) in (0..).zip(world.all_slots(now_tick)) {
            slots.set(index, slot.raw(), 0)?;
        }
        self.fill_family::<NetU32>(world, now_tick)?;
        self.fill_family::<NetAddr6>(world, now_tick)?;
        let mut interfaces = self.array(map_names::XDP_INTERFACES)?;
        interfaces.set(INGRESS_IFINDEX, XdpInterface::receiving(MACS.0).raw(), 0)?;
        let egress = XdpInterface::sending(EGRESS_MACS.1);
        let egress = if world.xdp_may_send { egress } else { XdpInterface::NONE };
        interfaces.set(EGRESS_IFINDEX, egress.raw(), 0)?;
        self.set_per_cpu(map_names::HALF_OPEN_RATE, 0, HalfOpenRate::default())?;
        for family in [FAMILY_V4, FAMILY_V6] {
            self.set_flow_room(family, world.room(), FlowInsertions::default())?;
        }
        self.set_answer_buckets(None)?;
        if self.egress_mtu != world.egress_mtu {
            namespace::set_egress_mtu(world.egress_mtu)?;
            self.egress_mtu = world.egress_mtu;
        }
        Ok(())
    }

    fn fill_family<A: BedFamily>(&mut self, world: &World, now_tick: u32) -> anyhow::Result<()> {
        let mut backends = self.array::<A::BackendRecord>(A::BACKENDS)?;
        for number in 1..=MAX_BACKEND {
            backends.set(number, A::BackendRecord::default(), 0)?;
        }
        for (number, backend) in &world.backends {
            ensure!(*number <= MAX_BACKEND, "backend {number} would stay for the next world");
            if let Some(record) = A::backend_record(backend) {
                backends.set(*number, record, 0)?;
            }
        }
        for name in A::FLOWS {
            clear(&mut self.hash::<A::FlowKey, lb_common::abi::FlowRecord>(name)?)?;
        }
        for flow in &world.flows {
            let Some((key, record)) = A::known_flow(flow, now_tick) else { continue };
            let name = A::FLOWS[usize::from(flow.is_half)];
            self.hash(name)?.insert(key, record, 0).context("a record")?;
        }
        for name in A::REPLIES {
            clear(&mut self.hash::<A::ReplyKey, A::ReplyRecord>(name)?)?;
        }
        for reply in &world.replies {
            let Some((key, record)) = A::known_reply(reply, now_tick) else { continue };
            let name = A::REPLIES[usize::from(reply.is_half)];
            self.hash(name)?.insert(key, record, 0).context("a record")?;
        }
        clear(&mut self.hash::<A::FragmentKey, A::FragmentRecord>(A::FRAGMENTS)?)?;
        let mut defaults = self.hash::<A::ReplyDefaultKey, A::ReplyDefault>(A::REPLY_DEFAULTS)?;
        clear(&mut defaults)?;
        for (key, default) in world.reply_defaults.iter().filter_map(A::known_default) {
            defaults.insert(key, default, 0)?;
        }
        let mut local: LpmTrie<_, A::Octets, u32> = self.map(A::LOCAL)?.try_into()?;
        let known = local.keys().collect::<Result<Vec<_>, _>>()?;
        for key in known {
            local.remove(&key)?;
        }
        for (network, bits, kind) in &world.local {
            let Some(address) = A::address(*network) else { continue };
            local.insert(&lpm_trie::Key::new(*bits, address.octets()), *kind, 0)?;
        }
        Ok(())
    }

    /// What a program makes of a packet; `None`: the kernel makes no packet of the bytes.
    pub fn send(&mut self, program: Program, input: &[u8]) -> anyhow::Result<Option<Outcome>> {
        let mut output = vec![0; input.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(input);
        options.data_out = Some(&mut output);
        let name = program.name();
        let result = if program == Program::XdpFront {
            let program: &mut Xdp = self.ebpf.program_mut(name).context(name)?.try_into()?;
            program.test_run(options)
        } else {
            let program: &mut SchedClassifier =
                self.ebpf.program_mut(name).context(name)?.try_into()?;
            program.test_run(options)
        };
        let result = match result {
            Ok(result) => result,
            Err(error) if is_invalid(&error) => return Ok(None),
            Err(error) => return Err(error).context(name),
        };
        output.truncate(result.data_size_out as usize);
        let actions = if program == Program::XdpFront { XDP_ACTIONS } else { TC_ACTIONS };
        let is_it = |(code, _): &&(u32, Action)| *code == result.return_value;
        let known = actions.iter().find(is_it).map(|(_, action)| *action);
        let action = known.with_context(|| format!("{name} returned {}", result.return_value))?;
        let Counted { verdict, reason, refusals } = self.counted(program)?;
        Ok(Some(Outcome { action, verdict, reason, refusals, output }))
    }

    /// Fills the buckets of answers, and empties one of them for as long as the test may run.
    pub fn set_answer_buckets(&mut self, exhausted: Option<u32>) -> anyhow::Result<()> {
        (0..ANSWER_BUCKET_COUNT).try_for_each(|bucket| {
            let full_at_ns = if exhausted == Some(bucket) { u64::MAX / 2 } else { 0 };
            self.set_per_cpu("ANSWER_BUCKETS", bucket, full_at_ns)
        })
    }

    /// What the programs counted since the last packet.
    fn counted(&mut self, program: Program) -> anyhow::Result<Counted> {
        let counters = self.read_counters()?;
        let before = std::mem::replace(&mut self.counters, counters);
        let Counted { mut verdict, mut reason, mut refusals } = Counted::NOTHING;
        for (index, (after, before)) in (0_u32..).zip(self.counters.iter().zip(before)) {
            if *after == before {
                continue;
            }
            ensure!(*after == before + 1, "counter {index} went from {before} to {after}");
            if index < DROP_REASON_SLOTS {
                let found = DropReason::ALL.iter().find(|reason| **reason as u32 == index);
                ensure!(reason == DropReason::None, "two reasons counted, {reason:?} is one");
                reason = *found.with_context(|| format!("reason {index} has no name"))?;
            } else if index >= DROP_REASON_SLOTS + HOOK_COUNT * VERDICT_SLOTS {
                refusals += 1;
            } else {
                let is_it = |verdict: &Verdict| {
                    verdict_index(program.hook(), *verdict) == index - DROP_REASON_SLOTS
                };
                ensure!(verdict.is_none(), "two verdicts counted, {verdict:?} is one");
                let found = VERDICTS.into_iter().find(is_it);
                verdict = Some(found.with_context(|| format!("verdict {index} of another hook"))?);
            }
        }
        Ok(Counted { verdict, reason, refusals })
    }

    /// Reasons, verdicts of each hook, and refusals of each backend.
    fn read_counters(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut counters = Vec::new();
        for (name, length) in [
            (map_names::DROPS, DROP_REASON_SLOTS),
            (map_names::VERDICTS, HOOK_COUNT * VERDICT_SLOTS),
        ] {
            let map: PerCpuArray<_, u64> = self.map(name)?.try_into()?;
            for index in 0..length {
                counters.push(map.get(&index, 0)?.iter().sum());
            }
        }
        let backends: PerCpuArray<_, BackendCounters> =
            self.map(map_names::BACKEND_COUNTERS)?.try_into()?;
        for number in 1..=BACKENDS {
            let refusals = backends.get(&number, 0)?.iter().map(|it| u64::from(it.refusals)).sum();
            counters.push(refusals);
        }
        Ok(counters)
    }

    /// The records, with their times.
    pub fn dump<A: BedFamily>(&mut self) -> anyhow::Result<Dump<A>> {
        let mut dump = Dump {
            flows: std::collections::HashMap::new(),
            replies: std::collections::HashMap::new(),
            defaults: std::collections::HashMap::new(),
            fragments: std::collections::HashMap::new(),
            refusals: [Refusals::default(); 2],
            half_open: HalfOpenRate::default(),
            flow_insertions: FlowInsertions::default(),
        };
        for (name, is_half) in A::FLOWS.into_iter().zip([false, true]) {
            for entry in &self.hash(name)? {
                let (key, record) = entry?;
                dump.flows.insert((key, is_half), record);
            }
        }
        for (name, is_half) in A::REPLIES.into_iter().zip([false, true]) {
            for entry in &self.hash(name)? {
                let (key, record) = entry?;
                dump.replies.insert((key, is_half), record);
            }
        }
        for entry in &self.hash(A::REPLY_DEFAULTS)? {
            let (key, default) = entry?;
            dump.defaults.insert(key, default);
        }
        for entry in &self.hash(A::FRAGMENTS)? {
            let (key, record) = entry?;
            dump.fragments.insert(key, record);
        }
        for (note, protocol) in dump.refusals.iter_mut().zip([PROTOCOL_TCP, PROTOCOL_UDP]) {
            let ring = ring_number(0, A::NUMBER, protocol);
            *note = self.array(map_names::REFUSALS)?.get(&ring, 0)?;
        }
        dump.half_open = self.half_open_rate()?;
        dump.flow_insertions = self.flow_insertions(A::NUMBER)?;
        Ok(dump)
    }

    pub(super) fn half_open_rate(&mut self) -> anyhow::Result<HalfOpenRate> {
        let rate: PerCpuArray<_, HalfOpenRate> = self.map(map_names::HALF_OPEN_RATE)?.try_into()?;
        Ok(rate.get(&0, 0)?[CPU])
    }

    pub(super) fn flow_insertions(&mut self, family: u32) -> anyhow::Result<FlowInsertions> {
        let counts: PerCpuArray<_, FlowInsertions> =
            self.map(map_names::FLOW_INSERTIONS)?.try_into()?;
        Ok(counts.get(&family, 0)?[CPU])
    }

    pub(super) fn set_flow_room(
        &mut self,
        family: u32,
        room: FlowRoom,
        inserted: FlowInsertions,
    ) -> anyhow::Result<()> {
        self.array(map_names::FLOW_ROOM)?.set(family, room, 0)?;
        self.set_per_cpu(map_names::FLOW_INSERTIONS, family, inserted)
    }

    pub(super) fn set_per_cpu<V: aya::Pod>(
        &mut self,
        name: &str,
        index: u32,
        value: V,
    ) -> anyhow::Result<()> {
        let cpus =
            aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
        let mut map: PerCpuArray<_, V> = self.map(name)?.try_into()?;
        map.set(index, aya::maps::PerCpuValues::try_from(vec![value; cpus])?, 0)?;
        Ok(())
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    pub(super) fn array<V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<Array<&mut MapData, V>> {
        self.map(name)?.try_into().with_context(|| name.to_owned())
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<BpfHashMap<&mut MapData, K, V>> {
        self.map(name)?.try_into().with_context(|| name.to_owned())
    }
}

/// Highest number of a backend in any world.
pub(super) const MAX_BACKEND: u32 = 7;

/// All verdicts.
const VERDICTS: [Verdict; 6] = [
    Verdict::Pass,
    Verdict::Deliver,
    Verdict::Route,
    Verdict::Reply,
    Verdict::Drop,
    Verdict::Answer,
];

pub(super) fn clear<K: aya::Pod, V: aya::Pod>(
    map: &mut BpfHashMap<&mut MapData, K, V>,
) -> anyhow::Result<()> {
    let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::TcFront => program_names::TC_FRONT,
            Self::TcReply => program_names::TC_REPLY,
            Self::XdpFront => program_names::XDP_FRONT,
        }
    }

    const fn hook(self) -> Hook {
        match self {
            Self::TcFront => Hook::TcFront,
            Self::TcReply => Hook::TcReply,
            Self::XdpFront => Hook::Xdp,
        }
    }
}

/// The kernel's idea of the bytes: too short, too long.
fn is_invalid(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error() == Some(libc::EINVAL);
        }
        cause = error.source();
    }
    false
}

/// The tick that it is now for the programs, which read the coarse clock: it lags by up to 10 ms.
#[must_use]
pub fn now_tick() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)
        .expect("the monotonic clock can always be read");
    let seconds = u64::try_from(now.tv_sec()).expect("time since boot is positive");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("so is its fraction");
    ticks_from_ns(seconds * 1_000_000_000 + nanoseconds)
}
