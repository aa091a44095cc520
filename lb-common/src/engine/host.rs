//! The engine's host side: packets in memory and tables as ordinary maps, for tests, `explain` and
//! the comparison with the kernel.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::Hash,
    net::Ipv4Addr,
    vec::Vec,
};

use super::{
    Context, Decision, EditError, Packet, TableFull, Tables, checksum, commit, edit::translate_v4,
};
use crate::abi::{
    BackendV4, DropReason, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, HalfOpenRate, Limits,
    NetU32, Refusals, ReplyDefaultKeyV4, ReplyDefaultV4, ReplyKeyV4, ReplyRecordV4, RingDescriptor,
    Slot, Verdict,
};
use crate::rules::{Rule, is_broken};

/// A packet in memory, whose checksums are complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPacket(
    /// From the Ethernet header on.
    pub Vec<u8>,
);

impl Packet for HostPacket {
    fn length_bytes(&self) -> usize {
        self.0.len()
    }

    fn window<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.get_mut(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn fix_l4_checksum(
        &mut self,
        offset: usize,
        change: checksum::Change,
    ) -> Result<(), EditError> {
        checksum::rewrite(self.window_mut::<2>(offset).ok_or(EditError)?, change);
        Ok(())
    }
}

/// Tables in memory. Writes go through cells, as the kernel's go through map helpers.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// Limits of records, from `META`.
    pub limits: Limits,
    /// `FRONTENDS_V4`.
    pub frontends_v4: HashMap<FrontendKeyV4, Frontend>,
    /// `RINGS`.
    pub rings: HashMap<u32, RingDescriptor>,
    /// `RING_SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS_V4`.
    pub backends_v4: HashMap<u32, BackendV4>,
    /// `FLOWS_V4`.
    pub flows_v4: RefCell<RecordTable<FlowKeyV4, FlowRecord>>,
    /// `HALF_FLOWS_V4`.
    pub half_flows_v4: RefCell<RecordTable<FlowKeyV4, FlowRecord>>,
    /// `REFUSALS`.
    pub refusals: RefCell<HashMap<u32, Refusals>>,
    /// `HALF_OPEN_RATE`.
    pub half_open_rate: Cell<HalfOpenRate>,
    /// `REPLY_DEFAULTS_V4`.
    pub reply_defaults_v4: HashMap<ReplyDefaultKeyV4, ReplyDefaultV4>,
    /// `LOCAL_V4`: network and prefix length.
    pub local_v4: Vec<(Ipv4Addr, u32)>,
    /// `REPLIES_V4`.
    pub replies_v4: RefCell<RecordTable<ReplyKeyV4, ReplyRecordV4>>,
    /// `HALF_REPLIES_V4`.
    pub half_replies_v4: RefCell<RecordTable<ReplyKeyV4, ReplyRecordV4>>,
}

/// A hash map with room for so many entries.
#[derive(Clone, Debug)]
pub struct RecordTable<K, V> {
    entries: HashMap<K, (V, u64)>,
    /// Entries that it has room for.
    pub entries_max: usize,
    /// What it does when there is no room: replace what was not looked at for longest, or refuse.
    pub evicts: bool,
    uses: Cell<u64>,
}

impl<K, V> Default for RecordTable<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), entries_max: 0, evicts: false, uses: Cell::new(0) }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> RecordTable<K, V> {
    /// A table that refuses what it has no room for.
    #[must_use]
    pub fn refusing(entries_max: usize) -> Self {
        Self { entries_max, ..Self::default() }
    }

    /// A table that makes room.
    #[must_use]
    pub fn evicting(entries_max: usize) -> Self {
        Self { entries_max, evicts: true, ..Self::default() }
    }

    /// Looks up an entry.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        Some(self.entries.get(key)?.0)
    }

    /// Inserts or overwrites an entry.
    pub fn put(&mut self, key: K, value: V) -> Result<(), TableFull> {
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            if !self.evicts && !is_broken(Rule::EstablishedAreNeverEvicted) {
                return Err(TableFull);
            }
            let oldest = self.entries.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = *oldest.ok_or(TableFull)?.0;
            self.entries.remove(&oldest);
        }
        let used = self.next_use();
        self.entries.insert(key, (value, used));
        Ok(())
    }

    /// Changes an entry that is there.
    pub fn touch(&mut self, key: &K, change: impl FnOnce(&mut V)) {
        let now = self.next_use();
        if let Some((value, used)) = self.entries.get_mut(key) {
            change(value);
            *used = now;
        }
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (value, _))| (key, value))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn next_use(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}

impl HostTables {
    /// Empty tables with room for so many records in each table.
    #[must_use]
    pub fn with_room(limits: Limits, records_max: usize, half_open_max: usize) -> Self {
        Self {
            limits,
            flows_v4: RecordTable::refusing(records_max).into(),
            half_flows_v4: RecordTable::evicting(half_open_max).into(),
            replies_v4: RecordTable::refusing(records_max).into(),
            half_replies_v4: RecordTable::evicting(half_open_max).into(),
            ..Self::default()
        }
    }
}

impl Tables for HostTables {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn frontend_v4(&self, key: &FrontendKeyV4) -> Option<Frontend> {
        self.frontends_v4.get(key).copied()
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        // An array of the kernel has every element; those never written are zero.
        Some(self.rings.get(&ring).copied().unwrap_or_default())
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(usize::try_from(index).ok()?).copied()
    }

    fn backend_v4(&self, number: u32) -> Option<BackendV4> {
        Some(self.backends_v4.get(&number).copied().unwrap_or_default())
    }

    fn flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord> {
        self.flows_v4.borrow().get(key)
    }

    fn half_flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord> {
        self.half_flows_v4.borrow().get(key)
    }

    fn put_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        self.flows_v4.borrow_mut().put(*key, *record)
    }

    fn put_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        self.half_flows_v4.borrow_mut().put(*key, *record)
    }

    fn touch_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) {
        self.flows_v4.borrow_mut().touch(key, |known| touch_flow(known, record));
    }

    fn touch_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) {
        self.half_flows_v4.borrow_mut().touch(key, |known| touch_flow(known, record));
    }

    fn remove_flow_v4(&self, key: &FlowKeyV4) {
        self.flows_v4.borrow_mut().remove(key);
    }

    fn remove_half_flow_v4(&self, key: &FlowKeyV4) {
        self.half_flows_v4.borrow_mut().remove(key);
    }

    fn refusals(&self, ring: u32) -> Refusals {
        self.refusals.borrow().get(&ring).copied().unwrap_or_default()
    }

    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool) {
        let mut refusals = self.refusals.borrow_mut();
        let note = refusals.entry(ring).or_default();
        note.refused_tick = tick;
        if is_full {
            note.full_tick = tick;
        }
    }

    fn half_open_count(&self, tick: u32) -> u32 {
        let rate = self.half_open_rate.get();
        if rate.tick == tick { rate.count } else { 0 }
    }

    fn count_half_open(&self, tick: u32) {
        let count = self.half_open_count(tick) + 1;
        self.half_open_rate.set(HalfOpenRate { tick, count });
    }

    fn reply_default_v4(&self, key: &ReplyDefaultKeyV4) -> Option<ReplyDefaultV4> {
        self.reply_defaults_v4.get(key).copied()
    }

    fn is_local_v4(&self, address: NetU32) -> bool {
        self.local_v4.iter().any(|(network, bits)| {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (address.get() ^ network.to_bits()) & mask == 0
        })
    }

    fn reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        self.replies_v4.borrow().get(key)
    }

    fn half_reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        self.half_replies_v4.borrow().get(key)
    }

    fn put_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        self.replies_v4.borrow_mut().put(*key, *record)
    }

    fn put_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        self.half_replies_v4.borrow_mut().put(*key, *record)
    }

    fn touch_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) {
        self.replies_v4.borrow_mut().touch(key, |known| touch_reply(known, record));
    }

    fn touch_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) {
        self.half_replies_v4.borrow_mut().touch(key, |known| touch_reply(known, record));
    }

    fn remove_reply_v4(&self, key: &ReplyKeyV4) {
        self.replies_v4.borrow_mut().remove(key);
    }

    fn remove_half_reply_v4(&self, key: &ReplyKeyV4) {
        self.half_replies_v4.borrow_mut().remove(key);
    }
}

fn touch_flow(known: &mut FlowRecord, record: &FlowRecord) {
    known.last_seen_tick = record.last_seen_tick;
    known.class = record.class;
}

fn touch_reply(known: &mut ReplyRecordV4, record: &ReplyRecordV4) {
    known.last_seen_tick = record.last_seen_tick;
    known.class = record.class;
    known.ifindex = record.ifindex;
}

/// Decides on a packet and carries the decision out, as a hook does.
pub fn run(
    packet: &mut HostPacket,
    tables: &HostTables,
    context: &Context,
    decide: impl Fn(&HostPacket, &HostTables, &Context) -> Decision,
) -> Decision {
    let decision = decide(packet, tables, context);
    if let Err(reason) = commit(tables, &decision) {
        return Decision::drop(reason, decision.backend);
    }
    if let Some(edit) = &decision.edit
        && decision.verdict != Verdict::Drop
        && translate_v4(packet, edit).is_err()
    {
        return Decision::drop(DropReason::EditFailed, decision.backend);
    }
    decision
}
