//! The tables of recorded flows and replies, and the sweep that removes what is dead and finds out
//! which slots have no records left.
//!
//! The programs insert and refresh records, and never look for old ones. A call of the sweep looks
//! at a bounded number of entries and the next goes on from there.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::AddAssign,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use lb_common::{
    abi::{
        CLASS_CLOSING_BY_CLIENT, CLASS_DATAGRAM, CLASS_ESTABLISHED, FlowKeyV4, FlowKeyV6,
        FlowRecord, Frontend, Limits, Meta, NetAddr6, NetU32, ReplyKeyV4, ReplyKeyV6,
        ReplyRecordV4, ReplyRecordV6, RingDescriptor, SCOPE_FRONT, Slot, map_names,
    },
    engine::{Family, is_fresh, slot_hash},
    slots::{self, Sweep},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    mapped::MappedArray,
    sys,
    tables::{Tables, is_absent, take},
};
use crate::plan::Scan;

/// Entries of one table that one call looks at: some milliseconds of work.
const ENTRIES_PER_CALL: u64 = 16_384;
/// Entries that one bpf(2) call returns.
const BATCH: usize = 2_048;

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

/// A hash map that is read in batches over several calls.
#[derive(Debug)]
pub(super) struct RecordTable<K, V> {
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
    /// Where the next batch begins; `None`: at the beginning.
    cursor: Option<u32>,
    /// Entries left in the table by the present pass.
    counting: u64,
    /// Entries that the last whole pass left in the table.
    counted: u64,
    keys: Vec<K>,
    values: Vec<V>,
}

/// The tables that are swept. Half-open replies are turned over by the data path alone.
#[derive(Debug)]
pub(super) struct Records {
    half_flows_v4: RecordTable<FlowKeyV4, FlowRecord>,
    half_flows_v6: RecordTable<FlowKeyV6, FlowRecord>,
    pub(super) flows_v4: RecordTable<FlowKeyV4, FlowRecord>,
    pub(super) flows_v6: RecordTable<FlowKeyV6, FlowRecord>,
    pub(super) replies_v4: RecordTable<ReplyKeyV4, ReplyRecordV4>,
    pub(super) replies_v6: RecordTable<ReplyKeyV6, ReplyRecordV6>,
    /// `None`: the next call begins one.
    progress: Option<ScanProgress>,
    /// Connections whose replies are recorded: IPv4, IPv6.
    connections: [Connections; 2],
}

/// Connections by backend number.
#[derive(Debug, Default)]
struct Connections {
    /// Of the present pass.
    counting: RefCell<BTreeMap<u32, u64>>,
    /// Of the last whole one.
    counted: Option<BTreeMap<u32, u64>>,
}

impl Connections {
    fn note(&self, backend: u32, class: u16) {
        if matches!(u32::from(class), CLASS_ESTABLISHED | CLASS_CLOSING_BY_CLIENT | CLASS_DATAGRAM)
        {
            *self.counting.borrow_mut().entry(backend).or_default() += 1;
        }
    }

    fn end_call(&mut self, pass: &Pass) {
        if pass.is_whole {
            self.counted = Some(self.counting.take());
        }
    }
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
        Ok(Self {
            half_flows_v4: RecordTable::take(ebpf, map_names::HALF_FLOWS_V4)?,
            half_flows_v6: RecordTable::take(ebpf, map_names::HALF_FLOWS_V6)?,
            flows_v4: RecordTable::take(ebpf, map_names::FLOWS_V4)?,
            flows_v6: RecordTable::take(ebpf, map_names::FLOWS_V6)?,
            replies_v4: RecordTable::take(ebpf, map_names::REPLIES_V4)?,
            replies_v6: RecordTable::take(ebpf, map_names::REPLIES_V6)?,
            progress: None,
            connections: Default::default(),
        })
    }

    /// Connections by backend number, of those whose replies are recorded.
    pub(super) fn connections(&self) -> Option<BTreeMap<u32, u64>> {
        let [v4, v6] = self.connections.each_ref().map(|family| family.counted.clone());
        // A backend is of one family.
        let (mut all, v6) = (v4?, v6?);
        all.extend(v6);
        Some(all)
    }

    fn begin(&mut self, now_tick: u32) -> ScanProgress {
        self.half_flows_v4.rewind();
        self.half_flows_v6.rewind();
        self.flows_v4.rewind();
        self.flows_v6.rewind();
        ScanProgress {
            scan: Scan::begin(now_tick),
            half_flows_done: [false; 2],
            flows_done: [false; 2],
        }
    }
}

impl Tables {
    /// Deletes records that are dead, and those that say what their slot says. When a whole scan of
    /// the flows is over, tells what it found.
    pub(super) fn sweep(&mut self, now_tick: u32) -> anyhow::Result<SweepReport> {
        // After an error some entries have not been seen: the scan begins anew.
        let progress = match self.records.progress.take() {
            Some(progress) => progress,
            None => self.records.begin(now_tick),
        };
        let (flows, progress) = self.sweep_flows(progress, now_tick)?;
        let replies = self.sweep_replies(now_tick)?;
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
        mut progress: ScanProgress,
        now_tick: u32,
    ) -> anyhow::Result<(Pass, ScanProgress)> {
        let Self { records, backends_v4, backends_v6, meta, .. } = self;
        let Meta { hash_seed, limits, .. } = meta.load(0).unwrap_or_default();
        let rings = Rings { headers: &self.rings, ring_slots: &self.ring_slots, hash_seed };
        let frontends = &self.frontends;
        let place_v4 = |key: &FlowKeyV4| rings.place::<NetU32>(key, |it| frontends.lookup_v4(*it));
        let place_v6 = |key: &FlowKeyV6| rings.place::<NetAddr6>(key, |it| frontends.lookup_v6(it));
        let judge_v4 = |key: &FlowKeyV4, flow: &FlowRecord| {
            let backend = NetU32::backend(&backends_v4.load(flow.backend).unwrap_or_default());
            let slot = place_v4(key).map(|place| place.slot);
            Ok(slots::sweep(flow, &backend, slot, &limits, now_tick))
        };
        let judge_v6 = |key: &FlowKeyV6, flow: &FlowRecord| {
            let backend = NetAddr6::backend(&backends_v6.load(flow.backend).unwrap_or_default());
            let slot = place_v6(key).map(|place| place.slot);
            Ok(slots::sweep(flow, &backend, slot, &limits, now_tick))
        };
        let ScanProgress { scan, half_flows_done, flows_done } = &mut progress;
        let scan = RefCell::new(scan);
        let note = |place: Option<Place>| {
            if let Some(place) = place {
                scan.borrow_mut().note_other(place.ring, place.index);
            }
            Ok(())
        };
        let mut total = Pass::default();
        let tables = [
            (&mut records.half_flows_v4, &mut records.half_flows_v6, half_flows_done),
            (&mut records.flows_v4, &mut records.flows_v6, flows_done),
        ];
        for (table_v4, table_v6, [is_done_v4, is_done_v6]) in tables {
            if !*is_done_v4 {
                let pass = table_v4.sweep(judge_v4, |key| note(place_v4(key)))?;
                *is_done_v4 = pass.is_whole;
                total += pass;
            }
            if !*is_done_v6 {
                let pass = table_v6.sweep(judge_v6, |key| note(place_v6(key)))?;
                *is_done_v6 = pass.is_whole;
                total += pass;
            }
            if !(*is_done_v4 && *is_done_v6) {
                break;
            }
        }
        Ok((total, progress))
    }

    fn sweep_replies(&mut self, now_tick: u32) -> anyhow::Result<Pass> {
        let Self { records, backends_v4, backends_v6, meta, .. } = self;
        let limits = meta.load(0).unwrap_or_default().limits;
        let Records {
            replies_v4, replies_v6, connections: [connections_v4, connections_v6], ..
        } = records;
        let mut total = replies_v4.sweep(
            |_, reply| {
                let generation = backends_v4.load(reply.backend).unwrap_or_default().generation;
                let is_known = reply.generation == generation;
                let seen = (reply.class, reply.last_seen_tick);
                let verdict = judge_reply(is_known, seen, &limits, now_tick);
                if verdict == Sweep::Ignore {
                    connections_v4.note(reply.backend, reply.class);
                }
                Ok(verdict)
            },
            |_| Ok(()),
        )?;
        connections_v4.end_call(&total);
        let pass = replies_v6.sweep(
            |_, reply| {
                let generation = backends_v6.load(reply.backend).unwrap_or_default().generation;
                let is_known = reply.generation == generation;
                let seen = (reply.class, reply.last_seen_tick);
                let verdict = judge_reply(is_known, seen, &limits, now_tick);
                if verdict == Sweep::Ignore {
                    connections_v6.note(reply.backend, reply.class);
                }
                Ok(verdict)
            },
            |_| Ok(()),
        )?;
        connections_v6.end_call(&pass);
        total += pass;
        Ok(total)
    }
}

/// A reply says nothing about slots: it stays as long as its flow may live.
fn judge_reply(
    is_known: bool,
    (class, last_seen_tick): (u16, u32),
    limits: &Limits,
    now_tick: u32,
) -> Sweep {
    let is_alive = is_known && is_fresh(u32::from(class), last_seen_tick, limits, now_tick);
    if is_alive { Sweep::Ignore } else { Sweep::Delete }
}

/// The rings of all services.
struct Rings<'a> {
    headers: &'a MappedArray<u64>,
    ring_slots: &'a MappedArray<u64>,
    hash_seed: u64,
}

/// Where a flow falls.
struct Place {
    ring: u32,
    /// Within the ring.
    index: u32,
    slot: Slot,
}

impl Rings<'_> {
    /// Finds a flow's slot as the data path does; `None`: its frontend is no more.
    fn place<A: Family>(
        &self,
        flow: &A::FlowKey,
        find: impl Fn(&A::FrontendKey) -> Frontend,
    ) -> Option<Place> {
        let flow = A::tuple(flow);
        let protocol = u8::try_from(flow.protocol).ok()?;
        let key = A::frontend_key(flow.server, flow.server_port, protocol, SCOPE_FRONT);
        let frontend = find(&key);
        if !frontend.is_served() {
            return None;
        }
        let ring = frontend.ring;
        let descriptor = RingDescriptor::from_raw(self.headers.load(ring).unwrap_or_default());
        if descriptor.size() == 0 {
            return None;
        }
        let index = descriptor.slot_index(slot_hash(self.hash_seed, frontend.flags, &flow));
        let slot = self.ring_slots.load(index).map(Slot::from_raw)?;
        Some(Place { ring, index: index - descriptor.start(), slot })
    }
}

#[derive(Clone, Copy, Default)]
struct Pass {
    seen: u64,
    deleted: u64,
    /// The last entry of the table was reached.
    is_whole: bool,
}

impl AddAssign for Pass {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.deleted += other.deleted;
    }
}

impl<K, V> RecordTable<K, V>
where
    K: Pod + FromBytes + IntoBytes + Immutable,
    V: Pod + FromBytes + IntoBytes + Immutable,
{
    fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Self> {
        let map = take(ebpf, name)?;
        let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else {
            anyhow::bail!("map `{name}` of the embedded BPF object is no hash map");
        };
        Ok(Self {
            fd: data.fd().as_fd().try_clone_to_owned()?,
            map: HashMap::try_from(map)?,
            cursor: None,
            counting: 0,
            counted: 0,
            keys: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Entries that the last whole pass left in the table.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    /// The next call begins with the first entry.
    fn rewind(&mut self) {
        (self.cursor, self.counting) = (None, 0);
    }

    /// Looks at the next entries, deletes those that are to be deleted, asked a second time of what
    /// is in the table at that moment, and notes those that are to be kept.
    fn sweep(
        &mut self,
        judge: impl Fn(&K, &V) -> anyhow::Result<Sweep>,
        mut note: impl FnMut(&K) -> anyhow::Result<()>,
    ) -> anyhow::Result<Pass> {
        let mut pass = Pass::default();
        while pass.seen < ENTRIES_PER_CALL {
            let (count, is_last) = self.next_batch()?;
            for index in 0..count {
                let (key, value) = (self.keys[index], self.values[index]);
                let mut verdict = judge(&key, &value)?;
                if verdict == Sweep::Delete {
                    // The data path may have been quicker.
                    let Some(value) = self.get(&key)? else { continue };
                    verdict = judge(&key, &value)?;
                }
                match verdict {
                    Sweep::Delete => {
                        self.remove(&key)?;
                        pass.deleted += 1;
                        continue;
                    }
                    Sweep::Keep => note(&key)?,
                    Sweep::Ignore => {}
                }
                self.counting += 1;
            }
            pass.seen += count as u64;
            if is_last {
                self.counted = std::mem::take(&mut self.counting);
                pass.is_whole = true;
                break;
            }
        }
        Ok(pass)
    }

    /// Fills the buffers; says with how many entries and whether these were the last of the table.
    fn next_batch(&mut self) -> anyhow::Result<(usize, bool)> {
        let Self { fd, cursor, keys, values, .. } = self;
        let mut room = keys.len().max(BATCH);
        let batch = loop {
            keys.resize_with(room, K::new_zeroed);
            values.resize_with(room, V::new_zeroed);
            match sys::lookup_batch(fd.as_fd(), *cursor, keys, values) {
                // Many keys in one bucket; there are never more than the table has room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                result => break result?,
            }
        };
        *cursor = batch.next;
        Ok((batch.count, batch.next.is_none()))
    }

    fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        match self.map.remove(key) {
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
