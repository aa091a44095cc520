//! The tables of recorded flows and replies, and the sweep that removes what is dead and finds out
//! which slots have no records left.
//!
//! The programs insert and refresh records, and never look for old ones. A call of the sweep looks
//! at a bounded number of entries and the next goes on from there.

mod flows;

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use lb_common::{
    abi::{
        FAMILY_V4, FAMILY_V6, FlowInsertions, FlowKeyV4, FlowKeyV6, FlowRecord, FlowRoom, Limits,
        Meta, NetAddr6, NetU32, ReplyKeyV4, ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, map_names,
        reply_class,
    },
    engine::{Family as _, is_fresh, is_spent},
    slots::Sweep,
};

use self::flows::{Sweeper, SweptFamily};
use super::{
    connections::Connections,
    mapped::MappedArray,
    record_table::{Pass, RecordTable},
    tables::{Tables, mapped, take},
};
use crate::plan::Scan;

/// What a sweep did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Records of flows that were looked at.
    pub flows_seen: u64,
    /// Records of flows that were dead or superfluous and are deleted.
    pub flows_deleted: u64,
    /// Records of replies that were looked at.
    pub replies_seen: u64,
    /// Records of replies that were dead and are deleted.
    pub replies_deleted: u64,
    /// The scan of all flows that was finished by this call.
    pub scan: Option<Scan>,
    /// Something was more urgent; some tables were left for the next call.
    pub is_interrupted: bool,
}

impl SweepReport {
    fn add(&mut self, part: Part, pass: &Pass) {
        let (seen, deleted) = match part {
            Part::HalfFlows | Part::Flows => (&mut self.flows_seen, &mut self.flows_deleted),
            Part::HalfReplies | Part::Replies => {
                (&mut self.replies_seen, &mut self.replies_deleted)
            }
        };
        *seen += pass.seen;
        *deleted += pass.deleted;
    }
}

/// The tables that are swept.
pub(super) struct Records {
    half_flows_v4: RecordTable<FlowKeyV4, FlowRecord>,
    half_flows_v6: RecordTable<FlowKeyV6, FlowRecord>,
    pub(super) flows_v4: RecordTable<FlowKeyV4, FlowRecord>,
    pub(super) flows_v6: RecordTable<FlowKeyV6, FlowRecord>,
    half_replies_v4: RecordTable<ReplyKeyV4, ReplyRecordV4>,
    half_replies_v6: RecordTable<ReplyKeyV6, ReplyRecordV6>,
    pub(super) replies_v4: RecordTable<ReplyKeyV4, ReplyRecordV4>,
    pub(super) replies_v6: RecordTable<ReplyKeyV6, ReplyRecordV6>,
    flow_room: MappedArray<FlowRoom>,
    flow_insertions: PerCpuArray<MapData, FlowInsertions>,
    /// Records put into a family's table in this epoch before the scan that is under way.
    inserted_before: [u64; 2],
    /// `None`: the next call begins one.
    progress: Option<ScanProgress>,
    /// Index of the part that the next call begins with.
    next_part: usize,
    /// Connections whose replies are recorded: IPv4, IPv6.
    connections: [Connections; 2],
}

/// A scan of all flows that is under way. Half-open records come first, since records move from
/// there to the established ones: none is missed.
#[derive(Debug)]
struct ScanProgress {
    scan: Scan,
    /// Whether each table was read to its end: IPv4, IPv6.
    half_flows_done: [bool; 2],
    flows_done: [bool; 2],
}

impl Records {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut records = Self {
            half_flows_v4: RecordTable::take(ebpf, map_names::HALF_FLOWS_V4)?,
            half_flows_v6: RecordTable::take(ebpf, map_names::HALF_FLOWS_V6)?,
            flows_v4: RecordTable::take(ebpf, map_names::FLOWS_V4)?,
            flows_v6: RecordTable::take(ebpf, map_names::FLOWS_V6)?,
            half_replies_v4: RecordTable::take(ebpf, map_names::HALF_REPLIES_V4)?,
            half_replies_v6: RecordTable::take(ebpf, map_names::HALF_REPLIES_V6)?,
            replies_v4: RecordTable::take(ebpf, map_names::REPLIES_V4)?,
            replies_v6: RecordTable::take(ebpf, map_names::REPLIES_V6)?,
            flow_room: mapped(ebpf, map_names::FLOW_ROOM)?,
            flow_insertions: PerCpuArray::try_from(take(ebpf, map_names::FLOW_INSERTIONS)?)?,
            inserted_before: [0; 2],
            progress: None,
            next_part: 0,
            connections: Default::default(),
        };
        for family in [FAMILY_V4, FAMILY_V6] {
            if records.room(family).epoch == 0 {
                // New tables: nobody has counted them, and nothing is in them that was not inserted
                // in this epoch.
                records.publish_room(family)?;
            }
        }
        Ok(records)
    }

    /// Connections by backend number, of those whose replies are recorded.
    pub(super) fn connections(&self) -> Option<BTreeMap<u32, u64>> {
        let [v4, v6] = &self.connections;
        // A backend is of one family.
        let mut all = v4.counted()?.clone();
        all.extend(v6.counted()?);
        Some(all)
    }

    /// How many records of flows of `old` a family's table has room for.
    pub(super) fn room(&self, family: u32) -> FlowRoom {
        self.flow_room.load(family).unwrap_or_default()
    }

    /// Says how much room there is after a pass that began no earlier than the last was over.
    fn publish_room(&mut self, family: u32) -> anyhow::Result<()> {
        let before = self.room(family);
        let (counted, entries_max) = if family == FAMILY_V4 {
            (self.flows_v4.counted(), self.flows_v4.entries_max())
        } else {
            (self.flows_v6.counted(), self.flows_v6.entries_max())
        };
        // The scan has counted what was there before it.
        let inserted = self.inserted(family)?.saturating_sub(self.inserted_before[family as usize]);
        let room = before.after_pass(entries_max, counted, inserted, super::online_cpus()?);
        self.flow_room.store(family, &room, 0).context("`FLOW_ROOM` is too short")
    }

    /// Records that all CPUs have put into a family's table in this epoch.
    fn inserted(&self, family: u32) -> anyhow::Result<u64> {
        let epoch = self.room(family).epoch;
        let counts = self.flow_insertions.get(&family, 0).context("`FLOW_INSERTIONS`")?;
        Ok(counts.iter().map(|count| u64::from(count.since(epoch))).sum())
    }

    fn begin(&mut self, now_tick: u32) -> anyhow::Result<ScanProgress> {
        self.inserted_before = [self.inserted(FAMILY_V4)?, self.inserted(FAMILY_V6)?];
        self.half_flows_v4.rewind();
        self.half_flows_v6.rewind();
        self.flows_v4.rewind();
        self.flows_v6.rewind();
        Ok(ScanProgress {
            scan: Scan::begin(now_tick),
            half_flows_done: [false; 2],
            flows_done: [false; 2],
        })
    }
}

/// What is swept without a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    HalfFlows,
    Flows,
    HalfReplies,
    Replies,
}

impl Part {
    const ALL: [Self; 4] = [Self::HalfFlows, Self::Flows, Self::HalfReplies, Self::Replies];
}

impl Tables {
    /// Deletes records that are dead, and those that say what their slot says. When a whole scan of
    /// the flows is over, tells what it found. `clock` tells the present tick; `is_urgent` is asked
    /// between tables, and the next call goes on with those that were left.
    pub(super) fn sweep(
        &mut self,
        clock: &dyn Fn() -> u32,
        is_urgent: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<SweepReport> {
        // After an error some entries have not been seen: the scan begins anew.
        let mut progress = match self.records.progress.take() {
            Some(progress) => progress,
            None => self.records.begin(clock())?,
        };
        let mut report = SweepReport::default();
        let first = self.records.next_part;
        for index in 0..Part::ALL.len() {
            if index > 0 && is_urgent() {
                report.is_interrupted = true;
                break;
            }
            let index = (first + index) % Part::ALL.len();
            self.records.next_part = (index + 1) % Part::ALL.len();
            let part = Part::ALL[index];
            let pass = match part {
                Part::HalfFlows | Part::Flows => self.sweep_flows(part, &mut progress, clock)?,
                Part::HalfReplies | Part::Replies => self.sweep_replies(part, clock)?,
            };
            report.add(part, &pass);
        }
        if !report.is_interrupted {
            // Flows follow half-open ones in one call, so that a scan takes no second one.
            self.records.next_part = 0;
        }
        if progress.flows_done == [true; 2] {
            report.scan = Some(progress.scan);
        } else {
            self.records.progress = Some(progress);
        }
        Ok(report)
    }

    fn sweep_flows(
        &mut self,
        part: Part,
        progress: &mut ScanProgress,
        clock: &dyn Fn() -> u32,
    ) -> anyhow::Result<Pass> {
        let Self { records, backends_v4, backends_v6, frontends, .. } = self;
        let Meta { hash_seed, limits, .. } = self.meta.load(0).unwrap_or_default();
        let sweeper = Sweeper {
            headers: &self.rings,
            ring_slots: &self.ring_slots,
            refusals: &self.refusals,
            identities: &self.identities,
            hash_seed,
            limits,
            clock,
        };
        let v4 = SweptFamily::<NetU32> {
            sweeper: &sweeper,
            family: FAMILY_V4,
            backend: &|number| NetU32::backend(&backends_v4.load(number).unwrap_or_default()),
            frontend: &|key| frontends.lookup_v4(*key),
        };
        let v6 = SweptFamily::<NetAddr6> {
            sweeper: &sweeper,
            family: FAMILY_V6,
            backend: &|number| NetAddr6::backend(&backends_v6.load(number).unwrap_or_default()),
            frontend: &|key| frontends.lookup_v6(key),
        };
        let ScanProgress { scan, half_flows_done, flows_done } = progress;
        if part == Part::HalfFlows {
            let [done_v4, done_v6] = half_flows_done;
            // What was reset before it was open needs no place.
            let mut total = v4.sweep(&mut records.half_flows_v4, true, done_v4, scan)?;
            total += v6.sweep(&mut records.half_flows_v6, true, done_v6, scan)?;
            return Ok(total);
        }
        let mut total = Pass::default();
        if *half_flows_done == [true; 2] {
            let was_done = *flows_done;
            let [done_v4, done_v6] = flows_done;
            let is_crowded = records.flows_v4.is_crowded();
            total += v4.sweep(&mut records.flows_v4, is_crowded, done_v4, scan)?;
            let is_crowded = records.flows_v6.is_crowded();
            total += v6.sweep(&mut records.flows_v6, is_crowded, done_v6, scan)?;
            for (family, (was_done, is_done)) in
                [FAMILY_V4, FAMILY_V6].into_iter().zip(was_done.into_iter().zip(*flows_done))
            {
                if is_done && !was_done {
                    records.publish_room(family)?;
                }
            }
        }
        Ok(total)
    }

    fn sweep_replies(&mut self, part: Part, clock: &dyn Fn() -> u32) -> anyhow::Result<Pass> {
        let Self { records, backends_v4, backends_v6, meta, .. } = self;
        let limits = meta.load(0).unwrap_or_default().limits;
        let Records {
            half_replies_v4,
            half_replies_v6,
            replies_v4,
            replies_v6,
            connections: [connections_v4, connections_v6],
            ..
        } = &mut **records;
        // Half-open records make room as if it were scarce, as those of flows do.
        let class_v4 = |it: &ReplyRecordV4| reply_class(it.class, it.client_end, it.backend_end);
        let class_v6 = |it: &ReplyRecordV6| reply_class(it.class, it.client_end, it.backend_end);
        let judge_v4 = |reply: &ReplyRecordV4, now_tick: u32, is_crowded: bool| {
            let generation = backends_v4.load(reply.backend).unwrap_or_default().generation;
            let is_known = reply.generation == generation;
            let (class, tick) = (class_v4(reply), reply.last_seen_tick);
            judge_reply(is_known, class, tick, &limits, now_tick, is_crowded)
        };
        let judge_v6 = |reply: &ReplyRecordV6, now_tick: u32, is_crowded: bool| {
            let generation = backends_v6.load(reply.backend).unwrap_or_default().generation;
            let is_known = reply.generation == generation;
            let (class, tick) = (class_v6(reply), reply.last_seen_tick);
            judge_reply(is_known, class, tick, &limits, now_tick, is_crowded)
        };
        let judge_half_v4 = |_: &_, reply: &_, now_tick| judge_v4(reply, now_tick, true);
        let judge_half_v6 = |_: &_, reply: &_, now_tick| judge_v6(reply, now_tick, true);
        if part == Part::HalfReplies {
            let mut total = half_replies_v4.sweep(clock, judge_half_v4, |_, _, _| {})?;
            total += half_replies_v6.sweep(clock, judge_half_v6, |_, _, _| {})?;
            return Ok(total);
        }
        let is_crowded = replies_v4.is_crowded();
        let pass = replies_v4.sweep(
            clock,
            |_, reply, now_tick| {
                let verdict = judge_v4(reply, now_tick, is_crowded);
                if verdict == Sweep::Ignore {
                    connections_v4.note(reply.backend, class_v4(reply));
                }
                verdict
            },
            |_, _, _| {},
        )?;
        connections_v4.end_call(&pass);
        let mut total = pass;
        let is_crowded = replies_v6.is_crowded();
        let pass = replies_v6.sweep(
            clock,
            |_, reply, now_tick| {
                let verdict = judge_v6(reply, now_tick, is_crowded);
                if verdict == Sweep::Ignore {
                    connections_v6.note(reply.backend, class_v6(reply));
                }
                verdict
            },
            |_, _, _| {},
        )?;
        connections_v6.end_call(&pass);
        total += pass;
        Ok(total)
    }
}

/// A reply says nothing about slots: it stays as long as its flow may live.
fn judge_reply(
    is_known: bool,
    class: u32,
    last_seen_tick: u32,
    limits: &Limits,
    now_tick: u32,
    is_crowded: bool,
) -> Sweep {
    // Of replies nobody needs those of closed flows for long.
    let is_alive = is_known
        && is_fresh(class, last_seen_tick, limits, now_tick)
        && !is_spent(class, last_seen_tick, limits, now_tick, is_crowded);
    if is_alive { Sweep::Ignore } else { Sweep::Delete }
}
