//! Runs a case by the real programs, with `BPF_PROG_TEST_RUN`, in a network namespace of its own.

use std::{collections::HashMap, path::PathBuf, process::Command};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap as BpfHashMap, Map, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRunOptions, Xdp},
};
use lb_common::abi::{
    DropReason, FAMILY_V4, FlowKeyV4, FlowRecord, Meta, PROTOCOL_TCP, ReplyKeyV4, ReplyRecordV4,
    RingDescriptor, Slot, Verdict, map_names, program_names, ring_number, ticks_from_ns,
};

use super::{Case, KnownFlow, Program, RING_SIZE, Step, cases::NEXT_HOP_MACS, frontends};

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
        let meta =
            Meta { abi_version: lb_common::abi::ABI_VERSION, flags: world.flags, hash_seed: 7 };
        self.array(map_names::META)?.set(0, meta, 0)?;
        let ring = ring_number(0, FAMILY_V4, PROTOCOL_TCP);
        frontends::publish_frontends(&mut self.ebpf, &frontends::of_cases())?;
        let descriptor =
            world.ring.map_or(RingDescriptor::NONE, |_| RingDescriptor::new(0, RING_SIZE, 1));
        self.array(map_names::RINGS)?.set(ring, descriptor.raw(), 0)?;
        let mut slots = self.array(map_names::RING_SLOTS)?;
        for index in 0..RING_SIZE {
            slots.set(index, Slot::plain(world.ring.unwrap_or(0)).raw(), 0)?;
        }
        let mut backends = self.array(map_names::BACKENDS_V4)?;
        for (number, backend) in &world.backends {
            backends.set(*number, *backend, 0)?;
        }
        let may_send = u64::from(world.xdp_may_send);
        self.array(map_names::XDP_EGRESS)?.set(EGRESS_IFINDEX, may_send, 0)?;
        let now_tick = now_tick();
        let mut flows = self.flows()?;
        for flow in &world.flows {
            let record = FlowRecord {
                backend: flow.backend,
                generation: flow.generation,
                last_seen_tick: now_tick - flow.age_ticks,
                class: flow.class,
            };
            flows.insert(flow.key, record, 0)?;
        }
        let mut replies = self.replies()?;
        for (key, record) in &world.replies {
            replies.insert(key, record, 0)?;
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
        let mut flows = HashMap::new();
        for entry in &self.flows()? {
            let (key, record) = entry?;
            let age_ticks = now_tick.wrapping_sub(record.last_seen_tick);
            let known = KnownFlow {
                key,
                backend: record.backend,
                generation: record.generation,
                // The clock goes on while the case runs.
                age_ticks: if age_ticks <= 2 { 0 } else { age_ticks },
                class: record.class,
            };
            flows.insert(key, known);
        }
        let expected: HashMap<_, _> =
            case.flows_after.iter().map(|flow| (flow.key, *flow)).collect();
        ensure!(flows == expected, "recorded flows {flows:#?}, expected {expected:#?}");
        let replies: Vec<ReplyKeyV4> = self.replies()?.keys().collect::<Result<_, _>>()?;
        ensure!(replies.len() == case.replies_after.len(), "recorded replies {replies:#?}");
        for key in &case.replies_after {
            ensure!(replies.contains(key), "no {key:?} in {replies:#?}");
        }
        Ok(())
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, V>> {
        self.map(name)?.try_into().with_context(|| name.to_owned())
    }

    fn flows(&mut self) -> anyhow::Result<BpfHashMap<&mut MapData, FlowKeyV4, FlowRecord>> {
        Ok(self.map(map_names::FLOWS_V4)?.try_into()?)
    }

    fn replies(&mut self) -> anyhow::Result<BpfHashMap<&mut MapData, ReplyKeyV4, ReplyRecordV4>> {
        Ok(self.map(map_names::REPLIES_V4)?.try_into()?)
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
