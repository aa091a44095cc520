//! The tables of recorded flows and replies, and the sweep that removes what is dead and finds out
//! which slots have no records left.
//!
//! The programs insert and refresh records, and never look for old ones. A call of the sweep looks
//! at a bounded number of entries and the next goes on from there.

use std::{
    collections::BTreeMap,
    mem::{offset_of, size_of},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{MapData, PerCpuArray},
};
use lb_common::{
    abi::{
        BackendIdentity, FAMILY_V4, FAMILY_V6, FlowInsertions, FlowKeyV4, FlowKeyV6, FlowRecord,
        FlowRoom, Frontend, Limits, Meta, NetAddr6, NetU32, Refusals, ReplyKeyV4, ReplyKeyV6,
        ReplyRecordV4, ReplyRecordV6, RingDescriptor, SCOPE_FRONT, Slot, map_names, reply_class,
        ring_number,
    },
    engine::{Backend, Family, is_fresh, is_spent, slot_hash},
    slots::{self, Sweep},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    connections::Connections,
    mapped::MappedArray,
    record_table::{Kept, Pass, RecordTable},
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

impl Tables {
    /// Deletes records that are dead, and those that say what their slot says. When a whole scan of
    /// the flows is over, tells what it found. `clock` tells the present tick.
    pub(super) fn sweep(&mut self, clock: &dyn Fn() -> u32) -> anyhow::Result<SweepReport> {
        // After an error some entries have not been seen: the scan begins anew.
        let mut progress = match self.records.progress.take() {
            Some(progress) => progress,
            None => self.records.begin(clock())?,
        };
        let flows = self.sweep_flows(&mut progress, clock)?;
        let replies = self.sweep_replies(clock)?;
        let scan = if progress.flows_done == [true; 2] {
            Some(progress.scan)
        } else {
            self.records.progress = Some(progress);
            None
        };
        Ok(SweepReport {
            flows_seen: flows.seen,
            flows_deleted: flows.deleted,
            replies_seen: replies.seen,
            replies_deleted: replies.deleted,
            scan,
        })
    }

    fn sweep_flows(
        &mut self,
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
        let [half_done_v4, half_done_v6] = half_flows_done;
        // What was reset before it was open needs no place.
        let mut total = v4.sweep(&mut records.half_flows_v4, true, half_done_v4, scan)?;
        total += v6.sweep(&mut records.half_flows_v6, true, half_done_v6, scan)?;
        if *half_done_v4 && *half_done_v6 {
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

    fn sweep_replies(&mut self, clock: &dyn Fn() -> u32) -> anyhow::Result<Pass> {
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
        let mut total = half_replies_v4.sweep(clock, judge_half_v4, |_, _, _| {})?;
        total += half_replies_v6.sweep(clock, judge_half_v6, |_, _, _| {})?;
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
        total += pass;
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

/// What a sweep of flows knows.
struct Sweeper<'a> {
    headers: &'a MappedArray<u64>,
    ring_slots: &'a MappedArray<u64>,
    refusals: &'a MappedArray<Refusals>,
    identities: &'a MappedArray<BackendIdentity>,
    hash_seed: u64,
    limits: Limits,
    clock: &'a dyn Fn() -> u32,
}

/// The same of one family.
struct SweptFamily<'a, A: Family> {
    sweeper: &'a Sweeper<'a>,
    /// `FAMILY_*`.
    family: u32,
    backend: &'a dyn Fn(u32) -> Backend<A>,
    frontend: &'a dyn Fn(&A::FrontendKey) -> Frontend,
}

/// Where a flow falls.
struct Place {
    ring: u32,
    /// Within the ring.
    index: u32,
    slot: Slot,
}

impl<A: Family<FlowKey: SweptKey>> SweptFamily<'_, A> {
    /// Goes on in one of the family's tables, unless all of it is done. From a crowded one flows go
    /// that have ended, as far as was seen.
    fn sweep(
        &self,
        table: &mut RecordTable<A::FlowKey, FlowRecord>,
        is_crowded: bool,
        is_done: &mut bool,
        scan: &mut Scan,
    ) -> anyhow::Result<Pass> {
        if *is_done {
            return Ok(Pass::default());
        }
        let pass = table.sweep(
            self.sweeper.clock,
            |key, flow, now_tick| {
                let limits = &self.sweeper.limits;
                if is_crowded && is_spent(flow.class, flow.last_seen_tick, limits, now_tick, true) {
                    return Sweep::Delete;
                }
                let slot = self.place(key).map(|place| place.slot);
                slots::sweep(flow, &(self.backend)(flow.backend), slot, limits, now_tick)
            },
            |kept, key, flow| self.note(kept, key, flow, scan),
        )?;
        *is_done = pass.is_whole;
        Ok(pass)
    }

    fn note(&self, kept: Kept, key: &A::FlowKey, flow: &FlowRecord, scan: &mut Scan) {
        let place = self.place(key);
        // A flow without a frontend falls, when it has one again, on the ring that it has now.
        let ring = place.as_ref().map_or_else(|| self.ring_of(key, flow), |place| place.ring);
        match (kept, place) {
            (Kept::Found, Some(place)) => scan.note_other(ring, place.index),
            (Kept::Found, None) => scan.note_others(ring),
            (Kept::Rewritten, _) => {
                let word = self.sweeper.refusals.shared::<AtomicU64>(ring);
                if let Some(word) = word {
                    note_refusal(word, (self.sweeper.clock)());
                }
            }
        }
    }

    /// The ring of the service that a record's backend has.
    fn ring_of(&self, key: &A::FlowKey, flow: &FlowRecord) -> u32 {
        let service = self.sweeper.identities.load(flow.backend).unwrap_or_default().service;
        let protocol = u8::try_from(A::tuple(key).protocol).unwrap_or_default();
        ring_number(service, self.family, protocol)
    }

    /// Finds a flow's slot as the data path does; `None`: it has no frontend, or that no ring.
    fn place(&self, flow: &A::FlowKey) -> Option<Place> {
        let flow = A::tuple(flow);
        let protocol = u8::try_from(flow.protocol).ok()?;
        let key = A::frontend_key(flow.server, flow.server_port, protocol, SCOPE_FRONT);
        let frontend = (self.frontend)(&key);
        if !frontend.is_served() {
            return None;
        }
        let Sweeper { headers, ring_slots, hash_seed, .. } = self.sweeper;
        let ring = frontend.ring;
        let descriptor = RingDescriptor::from_raw(headers.load(ring).unwrap_or_default());
        if descriptor.size() == 0 {
            return None;
        }
        let index = descriptor.slot_index(slot_hash(*hash_seed, frontend.flags, &flow));
        let slot = ring_slots.load(index).map(Slot::from_raw)?;
        Some(Place { ring, index: index - descriptor.start(), slot })
    }
}

/// Stores [`Refusals::refused_tick`] and leaves the other half of the word, which the data path may be
/// storing.
fn note_refusal(word: &AtomicU64, tick: u32) {
    const OFFSET: usize = offset_of!(Refusals, refused_tick);
    let mut known = word.load(Ordering::Acquire);
    loop {
        let mut bytes = known.to_ne_bytes();
        bytes[OFFSET..OFFSET + size_of::<u32>()].copy_from_slice(&tick.to_ne_bytes());
        let noted = u64::from_ne_bytes(bytes);
        match word.compare_exchange(known, noted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(stored) => known = stored,
        }
    }
}

/// A key that is read from a table of the kernel.
trait SweptKey: Pod + FromBytes + IntoBytes + Immutable {}
impl SweptKey for FlowKeyV4 {}
impl SweptKey for FlowKeyV6 {}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::{AtomicU64, FromBytes as _, Ordering, Refusals, note_refusal};

    #[test]
    fn a_refusal_is_noted_beside_what_the_data_path_stores() {
        let before = Refusals { refused_tick: 5, full_tick: 7 };
        let word = AtomicU64::new(u64::read_from_bytes(before.as_bytes()).expect("eight bytes"));
        note_refusal(&word, 9);
        let after = word.load(Ordering::Acquire);
        let after = Refusals::read_from_bytes(after.as_bytes()).expect("eight bytes");
        assert_eq!(after, Refusals { refused_tick: 9, full_tick: 7 });
    }
}
