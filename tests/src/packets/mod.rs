//! Packet cases: one list, in both families, run on the host's engine and by the real programs in the
//! kernel; and random packets on random tables, of which host and kernel must make the same.
//!
//! A case is data: what the tables hold, the packets that arrive, and for each of them the verdict,
//! the reason and the bytes that leave. Expected packets are built from scratch, so that their
//! checksums owe nothing to the code under test.

mod builder;
mod cases;
mod family;
mod frontends;
pub mod fuzz;
mod host;
mod kernel;
mod net;
mod witness;
mod world;

use anyhow::{Context as _, ensure};
pub use builder::{Body, PacketSpec, echo, icmp, icmp_error, packet, tcp, udp};
pub use cases::all;
pub use family::{BedFamily, Dump};
pub use frontends::{frontend, publish_frontends};
pub use host::HostBed;
pub use kernel::{
    EGRESS_IFINDEX, EGRESS_MACS, KernelBed, bench_object_bytes, enter_namespace, now_tick,
    object_bytes,
};
use lb_common::{
    abi::{BackendV4, DropReason, FlowRecord, NetAddr6, NetU32, Verdict},
    engine::Way,
};
pub use net::{BACKEND_ONE, BACKEND_THREE, BACKEND_TWO, CLIENT, NETS, Net, V4, V6, VIP, at};
use serde::{Deserialize, Serialize};
pub use witness::Witness;
pub use world::{
    BackendSpec, FrontendSpec, KnownFlow, KnownReply, ReplyDefaultSpec, SlotState, World,
};

/// Slots of the ring of service 0 in every world.
pub const RING_SIZE: u32 = 1021;
/// Interface index of the loopback device, on which test runs arrive.
pub const INGRESS_IFINDEX: u32 = 1;
/// Seed of the flow hash.
const HASH_SEED: u64 = 7;
/// Room in the tables of half-open records.
const HALF_OPEN_MAX: u32 = 1024;

/// Which program gets the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Program {
    /// `lb_tc_front`.
    TcFront,
    /// `lb_tc_reply`.
    TcReply,
    /// `lb_xdp_front`.
    XdpFront,
}

/// What a program tells the kernel to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Go on as if nothing had been.
    Pass,
    /// Drop it.
    Drop,
    /// Send it elsewhere.
    Redirect,
}

/// What came of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the kernel was told.
    pub action: Action,
    /// The verdict that was counted, if any: what is not ours at the first look is not counted.
    pub verdict: Option<Verdict>,
    /// The reason that was counted.
    pub reason: DropReason,
    /// Connections that a backend was seen to refuse by it.
    pub refusals: u64,
    /// The packet.
    pub output: Vec<u8>,
}

/// What a program counts of a packet.
struct Counted {
    verdict: Option<Verdict>,
    reason: DropReason,
    refusals: u64,
}

impl Counted {
    const NOTHING: Self = Self { verdict: None, reason: DropReason::None, refusals: 0 };

    fn drop(&mut self, reason: DropReason) {
        (self.verdict, self.reason) = (Some(Verdict::Drop), reason);
    }
}

impl Outcome {
    fn untouched(input: &[u8]) -> Self {
        Self {
            action: Action::Pass,
            verdict: None,
            reason: DropReason::None,
            refusals: 0,
            output: input.to_vec(),
        }
    }
}

/// One packet and what must come of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who gets it.
    pub program: Program,
    /// The packet.
    pub input: Vec<u8>,
    /// The verdict. XDP leaves to TC, unchanged, what it is not for: then `Pass`.
    pub verdict: Verdict,
    /// The reason, for drops and answers.
    pub reason: DropReason,
    /// Connections that a backend refuses by it.
    pub refusals: u64,
    /// The packet that leaves; `None`: unchanged, or dropped.
    pub output: Option<Vec<u8>>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The behaviour that it shows.
    pub name: String,
    /// The tables before.
    pub world: World,
    /// The packets, in order.
    pub steps: Vec<Step>,
    /// The recorded flows afterwards.
    pub flows_after: Vec<KnownFlow>,
    /// The recorded replies afterwards.
    pub replies_after: Vec<KnownReply>,
}

/// Backend 1 of IPv4: a container behind `INGRESS_IFINDEX`.
#[must_use]
pub fn backend_one(state: u8) -> BackendV4 {
    NetU32::backend_record(&V4.backend_one(state)).unwrap_or_default()
}

/// Backend 3 of IPv4: on another machine.
#[must_use]
pub fn backend_three(state: u8) -> BackendV4 {
    NetU32::backend_record(&V4.backend_three(state)).unwrap_or_default()
}

/// Runs a case on the host's engine and compares.
pub fn run_on_host(case: &Case) -> anyhow::Result<()> {
    let now_tick = 100_000;
    let mut bed = HostBed::new(&case.world, now_tick);
    for (index, step) in case.steps.iter().enumerate() {
        let outcome = bed.send(step.program, &step.input, now_tick);
        step.compare(&outcome).with_context(|| format!("case `{}`, packet {index}", case.name))?;
    }
    case.compare(bed.dump_v4(), now_tick)?;
    case.compare(bed.dump_v6(), now_tick)
}

/// Runs a case by the real programs and compares.
pub fn run_in_kernel(bed: &mut KernelBed, case: &Case) -> anyhow::Result<()> {
    bed.fill(&case.world, now_tick()).with_context(|| format!("case `{}`", case.name))?;
    for (index, step) in case.steps.iter().enumerate() {
        let place = || format!("case `{}`, packet {index}", case.name);
        let outcome = bed.send(step.program, &step.input).with_context(place)?;
        let outcome = outcome.context("the kernel makes no packet of it").with_context(place)?;
        step.compare(&outcome).with_context(place)?;
    }
    let (v4, v6) = (bed.dump::<NetU32>()?, bed.dump::<NetAddr6>()?);
    case.compare(v4, now_tick())?;
    case.compare(v6, now_tick())
}

impl Step {
    fn compare(&self, outcome: &Outcome) -> anyhow::Result<()> {
        let action = match self.verdict {
            Verdict::Pass => Action::Pass,
            Verdict::Drop => Action::Drop,
            _ => Action::Redirect,
        };
        let verdict = outcome.verdict.unwrap_or(Verdict::Pass);
        ensure!(
            (verdict, outcome.reason, outcome.action) == (self.verdict, self.reason, action),
            "{verdict:?} for {:?} ({:?}), expected {:?} for {:?}",
            outcome.reason,
            outcome.action,
            self.verdict,
            self.reason,
        );
        let refusals = outcome.refusals;
        ensure!(refusals == self.refusals, "{refusals} refusals, expected {}", self.refusals);
        let wanted = self.output.as_ref().unwrap_or(&self.input);
        ensure!(
            &outcome.output == wanted,
            "left as\n{:02x?}\nexpected\n{wanted:02x?}",
            outcome.output
        );
        Ok(())
    }
}

impl Case {
    /// Compares what is recorded with what is expected. Ages are in steps of ten ticks, since the
    /// kernel's clock goes on.
    fn compare<A: BedFamily>(&self, found: Dump<A>, now_tick: u32) -> anyhow::Result<()> {
        let found = found.aged(now_tick, 10);
        let flows = self.flows_after.iter().filter_map(|flow| {
            let (key, record) = A::known_flow(flow, 0)?;
            Some(((key, flow.is_half), FlowRecord { last_seen_tick: flow.age_ticks, ..record }))
        });
        let replies = self.replies_after.iter().filter_map(|reply| {
            let (key, record) = A::known_reply(reply, 0)?;
            let way = Way { last_seen_tick: reply.age_ticks, ..A::way(&record) };
            Some(((key, reply.is_half), A::reply_record(&way)))
        });
        let name = &self.name;
        let (flows, replies) = (flows.collect(), replies.collect());
        ensure!(found.flows == flows, "case `{name}`: {:#?}, expected {flows:#?}", found.flows);
        ensure!(
            found.replies == replies,
            "case `{name}`: {:#?}, expected {replies:#?}",
            found.replies
        );
        Ok(())
    }
}
