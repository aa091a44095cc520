//! Runs a case by the real programs, with `BPF_PROG_TEST_RUN`, in a network namespace of its own.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRunOptions, Xdp},
};
use lb_common::abi::{
    DropReason, FAMILY_V4, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, Limits, Meta,
    PROTOCOL_TCP, ReplyDefaultKeyV4, ReplyDefaultV4, ReplyKeyV4, ReplyRecordV4, RingDescriptor,
    Verdict, map_names, program_names, ring_number, ticks_from_ns,
};

use super::{
    Case, KnownFlow, KnownReply, Program, RING_SIZE, Step,
    cases::{NEXT_HOP_MACS, frontend_keys},
};

/// Index of the interface that leads to backend 3 and to the clients.
pub const EGRESS_IFINDEX: u32 = 9;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

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
/// a route to backend 3; the namespace goes with the thread.
pub struct KernelBed {
    ebpf: Ebpf,
}

impl KernelBed {
    /// Loads the object with tables as a case wants them.
    pub fn new(object: &[u8], records_max: u32) -> anyhow::Result<Self> {
        enter_namespace()?;
        let mut loader = EbpfLoader::new();
        for name in
            [map_names::FLOWS_V4, map_names::FLOWS_V6, map_names::REPLIES_V4, map_names::REPLIES_V6]
        {
            loader.map_max_entries(name, records_max);
        }
        loader.map_max_entries(map_names::RING_SLOTS, RING_SIZE);
        let mut ebpf = loader.load(object).context("loading the object")?;
        for name in [program_names::TC_FRONT, program_names::TC_REPLY] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().context(name)?;
        }
        let program: &mut Xdp =
            ebpf.program_mut(program_names::XDP_FRONT).context("XDP")?.try_into()?;
        program.load()?;
        Ok(Self { ebpf })
    }

    /// Runs a case and compares.
    pub fn run(&mut self, case: &Case) -> anyhow::Result<()> {
        self.fill(case)?;
        for (index, step) in case.steps.iter().enumerate() {
            self.step(step).with_context(|| format!("case `{}`, packet {index}", case.name))?;
        }
        self.compare(case).with_context(|| format!("case `{}`, afterwards", case.name))
    }

    fn fill(&mut self, case: &Case) -> anyhow::Result<()> {
        let world = &case.world;
        let meta = Meta {
            abi_version: lb_common::abi::ABI_VERSION,
            flags: world.flags,
            hash_seed: 7,
            limits: Limits::with_cpus(1),
        };
        self.array(map_names::META)?.set(0, meta, 0)?;
        let ring = ring_number(0, FAMILY_V4, PROTOCOL_TCP);
        let mut frontends: BpfHashMap<_, FrontendKeyV4, Frontend> =
            self.map(map_names::FRONTENDS_V4)?.try_into()?;
        for key in frontend_keys() {
            let flags = world.frontend_flags;
            frontends.insert(key, Frontend { ring, flags, ..Frontend::default() }, 0)?;
        }
        let descriptor =
            world.ring.map_or(RingDescriptor::NONE, |_| RingDescriptor::new(0, RING_SIZE, 1));
        self.array(map_names::RINGS)?.set(ring, descriptor.raw(), 0)?;
        let now_tick = now_tick();
        let slot = world.slots.slot(world.ring.unwrap_or(0), now_tick);
        let mut slots = self.array(map_names::RING_SLOTS)?;
        for index in 0..RING_SIZE {
            slots.set(index, slot.raw(), 0)?;
        }
        let mut backends = self.array(map_names::BACKENDS_V4)?;
        for (number, backend) in &world.backends {
            backends.set(*number, *backend, 0)?;
        }
        let may_send = u64::from(world.xdp_may_send);
        self.array(map_names::XDP_EGRESS)?.set(EGRESS_IFINDEX, may_send, 0)?;
        for flow in &world.flows {
            let name = if flow.is_half { map_names::HALF_FLOWS_V4 } else { map_names::FLOWS_V4 };
            let mut table: BpfHashMap<_, FlowKeyV4, FlowRecord> = self.map(name)?.try_into()?;
            table.insert(flow.key, flow.record(now_tick), 0)?;
        }
        for reply in &world.replies {
            let name =
                if reply.is_half { map_names::HALF_REPLIES_V4 } else { map_names::REPLIES_V4 };
            let mut table: BpfHashMap<_, ReplyKeyV4, ReplyRecordV4> = self.map(name)?.try_into()?;
            let record = ReplyRecordV4 {
                last_seen_tick: now_tick.wrapping_sub(reply.age_ticks),
                ..reply.record
            };
            table.insert(reply.key, record, 0)?;
        }
        let mut defaults: BpfHashMap<_, ReplyDefaultKeyV4, ReplyDefaultV4> =
            self.map(map_names::REPLY_DEFAULTS_V4)?.try_into()?;
        for (key, default) in &world.reply_defaults {
            defaults.insert(key, default, 0)?;
        }
        let mut local: LpmTrie<_, u32, u32> = self.map(map_names::LOCAL_V4)?.try_into()?;
        for (network, bits) in &world.local {
            let raw = u32::from_ne_bytes(network.octets());
            local.insert(&lpm_trie::Key::new(*bits, raw), 1, 0)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let drops_before = self.drops(step.reason)?;
        let mut output = vec![0; step.input.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&step.input);
        options.data_out = Some(&mut output);
        let (result, expected) = match step.program {
            Program::TcFront | Program::TcReply => {
                let name = if step.program == Program::TcFront {
                    program_names::TC_FRONT
                } else {
                    program_names::TC_REPLY
                };
                let program: &mut SchedClassifier =
                    self.ebpf.program_mut(name).context(name)?.try_into()?;
                (program.test_run(options)?, tc_action(step.verdict))
            }
            Program::XdpFront => {
                let program: &mut Xdp =
                    self.ebpf.program_mut(program_names::XDP_FRONT).context("XDP")?.try_into()?;
                (program.test_run(options)?, xdp_action(step.verdict))
            }
        };
        ensure!(
            result.return_value == expected,
            "returned {}, expected {expected}",
            result.return_value
        );
        output.truncate(result.data_size_out as usize);
        if step.verdict != Verdict::Drop {
            let wanted = step.output.as_ref().unwrap_or(&step.input);
            ensure!(&output == wanted, "left as\n{output:02x?}\nexpected\n{wanted:02x?}");
        } else if step.input != output {
            bail!("a dropped packet was changed: {output:02x?}");
        }
        let counted = self.drops(step.reason)? - drops_before;
        let wanted = u64::from(step.reason != DropReason::None);
        ensure!(counted == wanted, "counted {counted} drops for {:?}", step.reason);
        Ok(())
    }

    fn compare(&mut self, case: &Case) -> anyhow::Result<()> {
        let now_tick = now_tick();
        let mut flows = Vec::new();
        let mut replies = Vec::new();
        for (name, is_half) in [(map_names::FLOWS_V4, false), (map_names::HALF_FLOWS_V4, true)] {
            let table: BpfHashMap<_, FlowKeyV4, FlowRecord> = self.map(name)?.try_into()?;
            for entry in &table {
                let (key, record) = entry?;
                let FlowRecord { backend, generation, class, .. } = record;
                let age_ticks = age_ticks(now_tick, record.last_seen_tick);
                flows.push(KnownFlow { key, backend, generation, age_ticks, class, is_half });
            }
        }
        for (name, is_half) in [(map_names::REPLIES_V4, false), (map_names::HALF_REPLIES_V4, true)]
        {
            let table: BpfHashMap<_, ReplyKeyV4, ReplyRecordV4> = self.map(name)?.try_into()?;
            for entry in &table {
                let (key, record) = entry?;
                let age_ticks = age_ticks(now_tick, record.last_seen_tick);
                let record = ReplyRecordV4 { last_seen_tick: 0, ..record };
                replies.push(KnownReply { key, record, age_ticks, is_half });
            }
        }
        super::host::compare(case, &flows, &replies);
        Ok(())
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, V>> {
        self.map(name)?.try_into().with_context(|| name.to_owned())
    }

    fn drops(&mut self, reason: DropReason) -> anyhow::Result<u64> {
        let drops: PerCpuArray<_, u64> = self.map(map_names::DROPS)?.try_into()?;
        Ok(drops.get(&(reason as u32), 0)?.iter().sum())
    }
}

fn tc_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
        Verdict::Deliver | Verdict::Route | Verdict::Reply => TC_ACT_REDIRECT,
    }
}

fn xdp_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass | Verdict::Deliver => XDP_PASS,
        Verdict::Drop => XDP_DROP,
        Verdict::Route | Verdict::Reply => XDP_REDIRECT,
    }
}

fn now_tick() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("the monotonic clock can always be read");
    let seconds = u64::try_from(now.tv_sec()).expect("time since boot is positive");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("so is its fraction");
    ticks_from_ns(seconds * 1_000_000_000 + nanoseconds)
}

/// Moves this thread into a new namespace with one interface, by which backend 3 and the clients
/// are reached.
pub fn enter_namespace() -> anyhow::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("unshare(CLONE_NEWNET): run as root")?;
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let (far, near) = NEXT_HOP_MACS;
    let commands = [
        "ip link set lo up".to_owned(),
        format!(
            "ip link add egress index {EGRESS_IFINDEX} address {} type veth peer name far",
            mac(near)
        ),
        "ip address add 10.9.0.1/24 dev egress".to_owned(),
        "ip link set egress up".to_owned(),
        "ip link set far up".to_owned(),
        format!("ip neighbour replace 10.9.0.2 lladdr {} dev egress", mac(far)),
        "ip route add 198.51.100.0/24 via 10.9.0.2".to_owned(),
        "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
    ];
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        let output = Command::new(words[0])
            .args(&words[1..])
            .output()
            .with_context(|| format!("running `{command}`"))?;
        ensure!(
            output.status.success(),
            "`{command}`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Cases have ages in steps of ten ticks, since the clock goes on while one runs.
fn age_ticks(now_tick: u32, last_seen_tick: u32) -> u32 {
    let age_ticks = now_tick.wrapping_sub(last_seen_tick);
    age_ticks - age_ticks % 10
}
