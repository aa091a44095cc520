//! `BPF_PROG_TEST_RUN` of the release object's own programs, behind a small program that restores
//! the packet each time and chooses the flow.
//!
//! All rows run in one process on one CPU, interleaved in short slices; time is that of the thread.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap as BpfHashMap, MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRunOptions, Xdp},
};
use clap::Args;
use lb_common::abi::{
    ABI_VERSION, BackendV4, FAMILY_V4, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, Limits,
    META_ROUTED_BACKENDS, Meta, NetU16, PATH_RECORDS_REPLIES, PATH_ROUTED, PROTOCOL_TCP,
    ReplyKeyV4, ReplyRecordV4, RingDescriptor, Slot, TAKES_NEW, TAKES_OLD, map_names,
    program_names, ring_number,
};
use lb_tests::packets::{self, PacketSpec};

const SERVICES: u32 = 4096;
const BACKENDS: u32 = 10_000;
const RING_SIZE: u32 = 1021;
const TEMPLATE_WORDS: usize = 7;

/// Options of `bench packet`.
#[derive(Args)]
pub(crate) struct PacketOptions {
    /// Rounds over all rows.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Packets per slice.
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
}

/// As the programs know it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sequence {
    template: [u64; TEMPLATE_WORDS],
    flow_mask: u32,
    is_reply: u32,
}

// SAFETY: `repr(C)`, words only, no padding.
unsafe impl aya::Pod for Sequence {}

struct Row {
    name: &'static str,
    under_test: &'static str,
    packet: PacketSpec,
    flows: u32,
    is_reply: bool,
    /// Records are cleared before each slice, so that every packet begins a flow.
    is_new: bool,
    /// The row that this one is measured against.
    floor: &'static str,
    samples_ns: Vec<f64>,
}

pub(crate) fn run(options: &PacketOptions) -> Result<()> {
    let thread = std::thread::scope(|scope| scope.spawn(|| in_thread(options)).join());
    thread.map_err(|_| anyhow::anyhow!("the benchmark panicked"))?
}

/// The thread moves into a network namespace of its own and to one CPU.
fn in_thread(options: &PacketOptions) -> Result<()> {
    packets::enter_namespace()?;
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;

    let mut bed = Bed::new()?;
    let mut rows = rows();
    for round in 0..=options.rounds {
        for row in &mut rows {
            let sample = bed.slice(row, options.packets)?;
            // The first round fills caches and records.
            if round > 0 {
                row.samples_ns.push(sample);
            }
        }
    }
    print(&mut rows);
    Ok(())
}

fn rows() -> Vec<Row> {
    let (client, vip) = (packets::CLIENT, packets::VIP);
    let ack = |to| packets::tcp(client, to, ".").payload(6);
    let syn = |to| packets::tcp(client, to, "S").payload(6);
    let mut routed_vip = vip;
    routed_vip.set_port(81);
    let mut other = vip;
    other.set_ip([192, 0, 2, 99].into());
    let from = |backend| packets::tcp(backend, client, ".").payload(6);
    let (front, reply, xdp) =
        (program_names::TC_FRONT, program_names::TC_REPLY, program_names::XDP_FRONT);
    let row = |name, under_test, packet: PacketSpec, flows| Row {
        name,
        under_test,
        packet,
        flows,
        is_reply: false,
        is_new: false,
        floor: if under_test == xdp { "xdp floor: swap and send" } else { "tc empty" },
        samples_ns: Vec::new(),
    };
    vec![
        row("tc empty", "empty_tc", ack(vip), 1),
        row("tc not ours", front, ack(other), 1),
        row("tc forward, 1 known flow", front, ack(vip), 1),
        row("tc forward, 16k known flows", front, ack(vip), 16_384),
        Row { is_new: true, ..row("tc forward, each packet a new flow", front, syn(vip), 65_536) },
        Row { is_reply: true, ..row("tc reply, 1 flow", reply, from(packets::BACKEND_ONE), 1) },
        Row {
            is_reply: true,
            ..row("tc reply, 16k flows", reply, from(packets::BACKEND_ONE), 16_384)
        },
        Row { is_reply: true, ..row("tc reply, not ours", reply, from(packets::BACKEND_TWO), 1) },
        Row { floor: "xdp floor: swap and send", ..row("xdp empty", "empty_xdp", ack(vip), 1) },
        Row {
            floor: "xdp floor: swap and send",
            ..row("xdp floor: swap and send", "floor_xdp", ack(vip), 1)
        },
        row("xdp not ours", xdp, ack(other), 1),
        row("xdp forward (fib), 1 known flow", xdp, ack(routed_vip), 1),
        row("xdp forward (fib), 16k known flows", xdp, ack(routed_vip), 16_384),
        Row {
            is_new: true,
            ..row("xdp forward (fib), each a new flow", xdp, syn(routed_vip), 65_536)
        },
    ]
}

fn print(rows: &mut [Row]) {
    println!("ns per packet, harness included; ratio of minima to the row's floor");
    println!("{:<38} {:>8} {:>8} {:>8}   floor", "row", "min", "median", "ratio");
    let minima: Vec<(&str, f64)> = rows
        .iter_mut()
        .map(|row| {
            row.samples_ns.sort_by(f64::total_cmp);
            (row.name, row.samples_ns[0])
        })
        .collect();
    for row in rows {
        let floor = minima.iter().find(|(name, _)| *name == row.floor).map_or(f64::NAN, |f| f.1);
        println!(
            "{:<38} {:>8.1} {:>8.1} {:>8.2}   {}",
            row.name,
            row.samples_ns[0],
            row.samples_ns[row.samples_ns.len() / 2],
            row.samples_ns[0] / floor,
            row.floor,
        );
    }
}

/// Both objects, loaded, with tables of a large node.
struct Bed {
    harness: Ebpf,
    product: Ebpf,
}

impl Bed {
    fn new() -> Result<Self> {
        let object = packets::object_bytes()?;
        let harness = packets::bench_object_bytes()?;
        let mut bed = Self {
            harness: Ebpf::load(&harness).context("loading the harness")?,
            product: EbpfLoader::new().load(&object).context("loading the programs")?,
        };
        for name in ["bench_tc", "empty_tc"] {
            load_tc(&mut bed.harness, name)?;
        }
        for name in ["bench_xdp", "empty_xdp", "floor_xdp"] {
            load_xdp(&mut bed.harness, name)?;
        }
        for name in [program_names::TC_FRONT, program_names::TC_REPLY] {
            load_tc(&mut bed.product, name)?;
        }
        load_xdp(&mut bed.product, program_names::XDP_FRONT)?;
        bed.fill()?;
        Ok(bed)
    }

    fn fill(&mut self) -> Result<()> {
        let meta = Meta {
            abi_version: ABI_VERSION,
            flags: META_ROUTED_BACKENDS,
            hash_seed: 7,
            limits: Limits::with_cpus(1),
        };
        self.array(map_names::META)?.set(0, meta, 0)?;
        self.array(map_names::XDP_EGRESS)?.set(packets::EGRESS_IFINDEX, 1_u64, 0)?;
        let mut backends = self.array(map_names::BACKENDS_V4)?;
        for number in 1..=BACKENDS {
            let mut backend =
                BackendV4 { generation: 1, ..packets::backend_one(TAKES_NEW | TAKES_OLD) };
            backend.path |= PATH_RECORDS_REPLIES;
            backends.set(number, backend, 0)?;
        }
        let routed = BackendV4 {
            path: PATH_ROUTED | PATH_RECORDS_REPLIES,
            ..packets::backend_three(TAKES_NEW | TAKES_OLD)
        };
        backends.set(BACKENDS + 1, routed, 0)?;
        let mut slots = self.array(map_names::RING_SLOTS)?;
        for index in 0..2 * RING_SIZE {
            let number = if index < RING_SIZE { 1 + index % BACKENDS } else { BACKENDS + 1 };
            slots.set(index, Slot::plain(number).raw(), 0)?;
        }
        let mut rings = self.array(map_names::RINGS)?;
        for service in 0..SERVICES {
            let start = if service == 1 { RING_SIZE } else { 0 };
            let ring = ring_number(service, FAMILY_V4, PROTOCOL_TCP);
            rings.set(ring, RingDescriptor::new(start, RING_SIZE, 1).raw(), 0)?;
        }
        let mut frontends: BpfHashMap<_, FrontendKeyV4, Frontend> =
            self.product.map_mut(map_names::FRONTENDS_V4).context("FRONTENDS_V4")?.try_into()?;
        for service in 0..SERVICES {
            let key = FrontendKeyV4 {
                vip: (*packets::VIP.ip()).into(),
                port: NetU16::new(80 + service as u16),
                protocol: PROTOCOL_TCP,
                scope: 0,
            };
            let ring = ring_number(service, FAMILY_V4, PROTOCOL_TCP);
            frontends.insert(key, Frontend { service, ring, ..Frontend::default() }, 0)?;
        }
        Ok(())
    }

    /// Thread time per packet over one slice.
    fn slice(&mut self, row: &Row, packets: u32) -> Result<f64> {
        if row.is_new {
            self.clear_records()?;
        }
        let packets = if row.is_new { row.flows.min(packets) } else { packets };
        let bytes = row.packet.bytes();
        let mut sequence = Sequence {
            template: [0; TEMPLATE_WORDS],
            flow_mask: row.flows - 1,
            is_reply: u32::from(row.is_reply),
        };
        for (word, chunk) in sequence.template.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().context("eight bytes")?);
        }
        let mut map: Array<_, Sequence> =
            self.harness.map_mut("SEQUENCE").context("SEQUENCE")?.try_into()?;
        map.set(0, sequence, 0)?;
        let is_tc = row.floor.starts_with("tc");
        self.aim(row.under_test, is_tc)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&bytes);
        options.repeat = packets;
        let before_ns = thread_time_ns();
        if is_tc {
            tc(&mut self.harness, "bench_tc")?.test_run(options)?;
        } else {
            xdp(&mut self.harness, "bench_xdp")?.test_run(options)?;
        }
        Ok((thread_time_ns() - before_ns) / f64::from(packets))
    }

    /// Makes a program the one under test.
    fn aim(&mut self, name: &str, is_tc: bool) -> Result<()> {
        let source = if name.starts_with("lb_") { &mut self.product } else { &mut self.harness };
        let fd: ProgramFd = if is_tc {
            tc(source, name)?.fd()?.try_clone()?
        } else {
            xdp(source, name)?.fd()?.try_clone()?
        };
        let map = if is_tc { "TC_UNDER_TEST" } else { "XDP_UNDER_TEST" };
        let mut under_test: ProgramArray<_> = self.harness.map_mut(map).context(map)?.try_into()?;
        under_test.set(0, &fd, 0)?;
        Ok(())
    }

    fn clear_records(&mut self) -> Result<()> {
        let mut flows: BpfHashMap<_, FlowKeyV4, FlowRecord> =
            self.product.map_mut(map_names::FLOWS_V4).context("FLOWS_V4")?.try_into()?;
        let keys: Vec<_> = flows.keys().collect::<Result<_, _>>()?;
        for key in keys {
            flows.remove(&key)?;
        }
        let mut replies: BpfHashMap<_, ReplyKeyV4, ReplyRecordV4> =
            self.product.map_mut(map_names::REPLIES_V4).context("REPLIES_V4")?.try_into()?;
        let keys: Vec<_> = replies.keys().collect::<Result<_, _>>()?;
        for key in keys {
            replies.remove(&key)?;
        }
        Ok(())
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.product.map_mut(name).with_context(|| format!("no map {name}"))?;
        map.try_into().with_context(|| name.to_owned())
    }
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    program.try_into().with_context(|| name.to_owned())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    program.try_into().with_context(|| name.to_owned())
}

fn load_tc(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    tc(ebpf, name)?.load().with_context(|| format!("loading {name}"))
}

fn load_xdp(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    xdp(ebpf, name)?.load().with_context(|| format!("loading {name}"))
}

fn thread_time_ns() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("the thread's clock can always be read");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}
