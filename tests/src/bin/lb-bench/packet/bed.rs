//! Both objects, loaded, with tables of a large node.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRunOptions, Xdp},
};
use lb_common::abi::{
    ABI_VERSION, FAMILY_V4, FAMILY_V6, FlowRoom, Hook, Limits, Meta, Verdict, map_names,
    program_names, verdict_index,
};
use lb_tests::packets;

use super::{
    rows::Row,
    tables::{self, Service},
};

const TEMPLATE_WORDS: usize = 9;
/// Answers are limited: this refills what they may take.
const PAUSE_BEFORE_FEW: Duration = Duration::from_millis(110);

/// As the harness knows it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sequence {
    template: [u64; TEMPLATE_WORDS],
    flow_mask: u32,
    is_v6: u32,
    address_offset: u32,
    port_offset: u32,
}

// SAFETY: `repr(C)`, words only, no padding.
unsafe impl aya::Pod for Sequence {}

pub(crate) struct Bed {
    harness: Ebpf,
    product: Ebpf,
    /// What the tables of records are filled for.
    recorded: Option<(Service, u32)>,
}

/// What loading the programs took.
pub(crate) struct Loading {
    /// The name of a program, and how many instructions the verifier has looked at.
    pub(crate) programs: Vec<(&'static str, u32)>,
    pub(crate) time: Duration,
}

impl Bed {
    pub(crate) fn new() -> Result<(Self, Loading)> {
        packets::enter_namespace()?;
        prepare_routes()?;
        let object = packets::object_bytes()?;
        let harness = packets::bench_object_bytes()?;
        let mut harness = Ebpf::load(&harness).context("loading the harness")?;
        let mut product = EbpfLoader::new().load(&object).context("loading the object")?;
        let start = Instant::now();
        for name in [program_names::TC_FRONT, program_names::TC_REPLY] {
            load_tc(&mut product, name)?;
        }
        load_xdp(&mut product, program_names::XDP_FRONT)?;
        let time = start.elapsed();
        for name in ["bench_tc", "bench_tracked_tc", "empty_tc"] {
            load_tc(&mut harness, name)?;
        }
        for name in ["bench_xdp", "bench_tracked_xdp", "empty_xdp", "floor_xdp"] {
            load_xdp(&mut harness, name)?;
        }
        let mut programs = Vec::new();
        for name in [program_names::TC_FRONT, program_names::TC_REPLY, program_names::XDP_FRONT] {
            let info = product.program(name).context(name)?.info()?;
            programs.push((name, info.verified_instruction_count().unwrap_or(0)));
        }
        tables::fill(&mut product)?;
        Ok((Self { harness, product, recorded: None }, Loading { programs, time }))
    }

    /// Thread time per packet over one slice.
    pub(crate) fn slice(&mut self, row: &Row, packets: u32) -> Result<f64> {
        let packets = packets.min(row.packets_max);
        self.prepare(row)?;
        if row.packets_max < u32::MAX {
            std::thread::sleep(PAUSE_BEFORE_FEW);
        }
        let before = self.verdicts(row)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&row.frame);
        options.repeat = packets;
        let start_ns = thread_time_ns()?;
        match (row.is_xdp, row.is_tracked) {
            (false, false) => tc(&mut self.harness, "bench_tc")?.test_run(options)?,
            (false, true) => tc(&mut self.harness, "bench_tracked_tc")?.test_run(options)?,
            (true, false) => xdp(&mut self.harness, "bench_xdp")?.test_run(options)?,
            (true, true) => xdp(&mut self.harness, "bench_tracked_xdp")?.test_run(options)?,
        };
        let time_ns = thread_time_ns()? - start_ns;
        if let (Some(before), Some(after)) = (before, self.verdicts(row)?) {
            let counted = after - before;
            // One packet in 65,536 looks as if its checksum were a device's, and is TC's.
            ensure!(
                counted >= u64::from(packets) - u64::from(packets) / 1000,
                "{}: of {packets} packets only {counted} got the verdict",
                row.name,
            );
        }
        Ok(time_ns / f64::from(packets))
    }

    fn prepare(&mut self, row: &Row) -> Result<()> {
        if let Some(service) = row.recorded {
            if self.recorded != Some((service, row.flows)) {
                tables::forget(&mut self.product)?;
            }
            // Anew in each round, so that no record gets old.
            tables::record(&mut self.product, service, row.flows)?;
            self.recorded = Some((service, row.flows));
        }
        let limits = Limits { half_open_per_tick: u32::MAX, ..Limits::with_cpus(1) };
        let meta = Meta { abi_version: ABI_VERSION, flags: row.flags, hash_seed: 7, limits };
        tables::array(&mut self.product, map_names::META)?.set(0, meta, 0)?;
        for family in [FAMILY_V4, FAMILY_V6] {
            let room = FlowRoom { epoch: 1, per_cpu: u32::MAX };
            tables::array(&mut self.product, map_names::FLOW_ROOM)?.set(family, room, 0)?;
        }
        let mut sequence = Sequence {
            template: [0; TEMPLATE_WORDS],
            flow_mask: row.flows - 1,
            is_v6: u32::from(row.is_v6),
            address_offset: row.offsets.0,
            port_offset: row.offsets.1,
        };
        for (word, chunk) in sequence.template.iter_mut().zip(row.frame.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(bytes);
        }
        let mut map: Array<_, Sequence> =
            self.harness.map_mut("SEQUENCE").context("SEQUENCE")?.try_into()?;
        map.set(0, sequence, 0)?;
        self.aim(row)
    }

    /// Makes the row's program the one under test.
    fn aim(&mut self, row: &Row) -> Result<()> {
        let is_ours = row.verdict.is_some();
        let source = if is_ours { &mut self.product } else { &mut self.harness };
        let fd: ProgramFd = if row.is_xdp {
            xdp(source, row.program)?.fd()?.try_clone()?
        } else {
            tc(source, row.program)?.fd()?.try_clone()?
        };
        let map = if row.is_xdp { "XDP_UNDER_TEST" } else { "TC_UNDER_TEST" };
        let mut under_test: ProgramArray<_> = self.harness.map_mut(map).context(map)?.try_into()?;
        under_test.set(0, &fd, 0)?;
        Ok(())
    }

    /// How often the row's program has come to the row's verdict; `None` where that is not counted.
    fn verdicts(&self, row: &Row) -> Result<Option<u64>> {
        let hook = match row.program {
            program_names::TC_FRONT => Hook::TcFront,
            program_names::TC_REPLY => Hook::TcReply,
            _ => Hook::Xdp,
        };
        let Some(verdict) = row.verdict else { return Ok(None) };
        // What XDP leaves to TC is TC's to count.
        if row.is_xdp && verdict == Verdict::Pass {
            return Ok(None);
        }
        let map = self.product.map(map_names::VERDICTS).context("VERDICTS")?;
        let verdicts: PerCpuArray<_, u64> = map.try_into()?;
        Ok(Some(verdicts.get(&verdict_index(hook, verdict), 0)?.iter().sum()))
    }
}

/// Routes and neighbours of all clients and routed backends, beyond those of the packet cases.
fn prepare_routes() -> Result<()> {
    let commands = [
        "ip route add default via 10.9.0.2",
        "ip route add 10.80.0.0/16 via 10.9.0.2",
        "sysctl -qw net.ipv6.conf.egress.disable_ipv6=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        "ip -6 address replace fd00:9::1/64 dev egress nodad",
        "ip -6 neighbour replace fd00:9::2 lladdr 02:00:00:00:09:02 dev egress",
        "ip -6 route replace default via fd00:9::2",
        "ip -6 route replace fd00:80::/32 via fd00:9::2",
    ];
    for command in commands {
        let mut words = command.split(' ');
        let program = words.next().context("an empty command")?;
        let output = Command::new(program).args(words).output().context(command)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{command}`: {error}");
    }
    Ok(())
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

fn thread_time_ns() -> Result<f64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
