//! The engine's host side: packets in memory and tables as ordinary maps, for tests, `explain` and
//! the comparison with the kernel.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    vec::Vec,
};

use super::{
    Backend, Context, Decision, EditError, EditKind, Family, Packet, RecordTables, TableFull,
    Tables, Way,
    answer::{answer, write},
    checksum, commit, translate,
    wire::{Headers, Network, link},
};
use crate::{
    abi::{
        DropReason, FlowInsertions, FlowRecord, FlowRoom, Frontend, FrontendState, HalfOpenRate,
        Limits, NetU16, PROTOCOL_ANY, Refusals, RingDescriptor, SCOPE_FRONT, Slot, Verdict,
    },
    frontends::FrontendKey,
    rules::{Rule, is_broken},
};

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

/// Tables of one family in memory. Writes go through cells, as the kernel's go through map helpers.
#[derive(Clone, Debug)]
pub struct HostTables<A: Family> {
    /// Limits of records, from `META`.
    pub limits: Limits,
    /// `FRONTENDS_*`, the entries of VIPs (port 0, `PROTOCOL_ANY`) among them.
    pub frontends: HashMap<A::FrontendKey, Frontend>,
    /// `PORT_LISTS_*`: the last port of the range that begins with the key's.
    pub wide_frontends: Vec<(A::FrontendKey, u16, Frontend)>,
    /// `RINGS`.
    pub rings: BTreeMap<u32, RingDescriptor>,
    /// `RING_SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS_*`.
    pub backends: BTreeMap<u32, A::BackendRecord>,
    /// `FLOWS_*`.
    pub flows: RefCell<RecordTable<A::FlowKey, FlowRecord>>,
    /// `HALF_FLOWS_*`.
    pub half_flows: RefCell<RecordTable<A::FlowKey, FlowRecord>>,
    /// `REFUSALS`.
    pub refusals: RefCell<BTreeMap<u32, Refusals>>,
    /// `HALF_OPEN_RATE`.
    pub half_open_rate: Cell<HalfOpenRate>,
    /// `FLOW_ROOM` of the family.
    pub flow_room: FlowRoom,
    /// `FLOW_INSERTIONS` of the family.
    pub flow_insertions: Cell<FlowInsertions>,
    /// `REPLY_DEFAULTS_*`.
    pub reply_defaults: RefCell<HashMap<A::ReplyDefaultKey, A::ReplyDefault>>,
    /// `LOCAL_*`: network, prefix length, and what it is.
    pub local: Vec<(IpAddr, u32, u32)>,
    /// `REPLIES_*`.
    pub replies: RefCell<RecordTable<A::ReplyKey, A::ReplyRecord>>,
    /// `HALF_REPLIES_*`.
    pub half_replies: RefCell<RecordTable<A::ReplyKey, A::ReplyRecord>>,
    /// `FRAGMENTS_*`.
    pub fragments: RefCell<HashMap<A::FragmentKey, A::FragmentRecord>>,
}

/// A hash map with room for so many entries.
#[derive(Clone, Debug)]
pub struct RecordTable<K, V> {
    entries: HashMap<K, (V, u64)>,
    /// Entries that it has room for.
    pub entries_max: usize,
    /// What it does when there is no room: replace what was not looked at for longest, or refuse.
    pub evicts: bool,
    /// It takes nothing new, as the kernel's when it is busy.
    pub is_blocked: bool,
    uses: Cell<u64>,
}

impl<K, V> Default for RecordTable<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            entries_max: 0,
            evicts: false,
            is_blocked: false,
            uses: Cell::new(0),
        }
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
        if self.is_blocked && !self.entries.contains_key(&key) {
            return Err(TableFull);
        }
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

impl<A: Family> Default for HostTables<A> {
    fn default() -> Self {
        Self::with_room(Limits::default(), 0, 0)
    }
}

impl<A: Family> HostTables<A> {
    /// Empty tables with room for so many records in each table.
    #[must_use]
    pub fn with_room(limits: Limits, records_max: usize, half_open_max: usize) -> Self {
        let room = u32::try_from(records_max).unwrap_or(u32::MAX);
        Self {
            limits,
            frontends: HashMap::new(),
            wide_frontends: Vec::new(),
            rings: BTreeMap::new(),
            slots: Vec::new(),
            backends: BTreeMap::new(),
            flows: RecordTable::refusing(records_max).into(),
            half_flows: RecordTable::evicting(half_open_max).into(),
            refusals: RefCell::default(),
            half_open_rate: Cell::default(),
            flow_room: FlowRoom::default().after_pass(room, 0, 0, 1),
            flow_insertions: Cell::default(),
            reply_defaults: RefCell::default(),
            local: Vec::new(),
            replies: RecordTable::refusing(records_max).into(),
            half_replies: RecordTable::evicting(half_open_max).into(),
            fragments: RefCell::default(),
        }
    }
}

impl<A: Family + Into<IpAddr>> Tables<A> for HostTables<A> {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn frontend(&self, key: &A::FrontendKey) -> Frontend {
        A::find_frontend(&self.frontends, &self.wide_frontends, key)
    }

    fn may_be_vip(&self, address: A) -> bool {
        let key = A::frontend_key(address, NetU16::new(0), PROTOCOL_ANY, SCOPE_FRONT);
        A::find_frontend(&self.frontends, &self.wide_frontends, &key).is_vip()
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        // An array of the kernel has every element; those never written are zero.
        Some(self.rings.get(&ring).copied().unwrap_or_default())
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(usize::try_from(index).ok()?).copied()
    }

    fn backend(&self, number: u32) -> Option<Backend<A>> {
        Some(A::backend(&self.backends.get(&number).copied().unwrap_or_default()))
    }

    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.flows.borrow().get(key)
    }

    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.half_flows.borrow().get(key)
    }

    fn refusals(&self, ring: u32) -> Refusals {
        self.refusals.borrow().get(&ring).copied().unwrap_or_default()
    }

    fn half_open_count(&self, tick: u32) -> u32 {
        let rate = self.half_open_rate.get();
        if rate.tick == tick { rate.count } else { 0 }
    }

    fn flow_room(&self) -> u32 {
        self.flow_room.left(self.flow_insertions.get())
    }

    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault> {
        self.reply_defaults.borrow().get(key).copied()
    }

    fn local(&self, address: A) -> u32 {
        let address = address.into();
        let all =
            self.local.iter().filter(|(network, bits, _)| has_prefix(address, *network, *bits));
        all.max_by_key(|(_, bits, _)| *bits).map_or(0, |(.., kind)| *kind)
    }

    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.replies.borrow().get(key)
    }

    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.half_replies.borrow().get(key)
    }

    fn fragment(&self, key: &A::FragmentKey) -> Option<A::FragmentRecord> {
        self.fragments.borrow().get(key).copied()
    }
}

impl<A: Family + Into<IpAddr>> RecordTables<A> for HostTables<A> {
    fn put_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull> {
        self.flows.borrow_mut().put(*key, *record)
    }

    fn put_half_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull> {
        self.half_flows.borrow_mut().put(*key, *record)
    }

    fn touch_flow(&self, key: &A::FlowKey, record: &FlowRecord) {
        self.flows.borrow_mut().touch(key, |known| touch_flow(known, record));
    }

    fn touch_half_flow(&self, key: &A::FlowKey, record: &FlowRecord) {
        self.half_flows.borrow_mut().touch(key, |known| touch_flow(known, record));
    }

    fn remove_flow(&self, key: &A::FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn remove_half_flow(&self, key: &A::FlowKey) {
        self.half_flows.borrow_mut().remove(key);
    }

    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool) {
        let mut refusals = self.refusals.borrow_mut();
        let note = refusals.entry(ring).or_default();
        note.refused_tick = tick;
        if is_full {
            note.full_tick = tick;
        }
    }

    fn count_half_open(&self, tick: u32) {
        let rate = self.half_open_rate.get();
        let count = if rate.tick == tick { rate.count } else { 0 };
        self.half_open_rate.set(HalfOpenRate { tick, count: count + 1 });
    }

    fn uncount_half_open(&self, tick: u32) {
        let rate = self.half_open_rate.get();
        if rate.tick == tick {
            let count = rate.count.saturating_sub(1);
            self.half_open_rate.set(HalfOpenRate { count, ..rate });
        }
    }

    fn count_insertion(&self) {
        let epoch = self.flow_room.epoch;
        let count = self.flow_insertions.get().since(epoch).saturating_add(1);
        self.flow_insertions.set(FlowInsertions { epoch, count });
    }

    fn put_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull> {
        self.replies.borrow_mut().put(*key, *record)
    }

    fn put_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull> {
        self.half_replies.borrow_mut().put(*key, *record)
    }

    fn touch_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) {
        self.replies.borrow_mut().touch(key, |known| touch_reply::<A>(known, record));
    }

    fn touch_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) {
        self.half_replies.borrow_mut().touch(key, |known| touch_reply::<A>(known, record));
    }

    fn remove_reply(&self, key: &A::ReplyKey) {
        self.replies.borrow_mut().remove(key);
    }

    fn remove_half_reply(&self, key: &A::ReplyKey) {
        self.half_replies.borrow_mut().remove(key);
    }

    fn mark_reply_default(&self, key: &A::ReplyDefaultKey) {
        if let Some(default) = self.reply_defaults.borrow_mut().get_mut(key) {
            A::mark_foreign(default);
        }
    }

    fn put_fragment(&self, key: &A::FragmentKey, record: &A::FragmentRecord) {
        self.fragments.borrow_mut().insert(*key, *record);
    }
}

/// What [`crate::frontends::lookup`] is to find, put as simply as can be.
pub(crate) fn frontend<const W: usize, K: FrontendKey<W> + Hash>(
    single: &HashMap<K, Frontend>,
    wide: &[(K, u16, Frontend)],
    key: &K,
) -> Frontend {
    let port = key.port().get();
    let of = |found: &Frontend, state| Frontend { state, ..*found };
    if port != 0 {
        if let Some(found) = single.get(key) {
            return of(found, FrontendState::Served);
        }
        let width = |(first, last, _): &(K, u16, Frontend)| {
            (*last - first.port().get(), first.port().get())
        };
        let covering = wide.iter().filter(|(first, last, _)| {
            first.wide() == key.wide() && (first.port().get()..=*last).contains(&port)
        });
        if let Some((_, _, found)) = covering.min_by_key(|range| width(range)) {
            return of(found, FrontendState::Served);
        }
    }
    let vip = single.get(&key.vip());
    vip.map(|found| of(found, FrontendState::Unserved)).unwrap_or_default()
}

fn has_prefix(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let different = address.to_bits() ^ network.to_bits();
            different.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let different = address.to_bits() ^ network.to_bits();
            different.leading_zeros() >= bits
        }
        _ => false,
    }
}

fn touch_flow(known: &mut FlowRecord, record: &FlowRecord) {
    known.last_seen_tick = record.last_seen_tick;
    known.class = record.class;
}

fn touch_reply<A: Family>(known: &mut A::ReplyRecord, record: &A::ReplyRecord) {
    let Way { class, ifindex, last_seen_tick, client_end, backend_end, .. } = A::way(record);
    let before = A::way(known);
    *known = A::reply_record(&Way {
        class,
        ifindex,
        last_seen_tick,
        client_end: if client_end == 0 { before.client_end } else { client_end },
        backend_end: if backend_end == 0 { before.backend_end } else { backend_end },
        ..before
    });
}

/// How a hook decides on what a family's parser has found.
pub type Decide<A> = fn(&HostPacket, &Headers<A>, &HostTables<A>, &Context, &mut Decision<A>);

/// Decides on a packet of a family and carries the decision out, as a hook does; `None`: it is no
/// packet of this family.
pub fn run<A: Family>(
    packet: &mut HostPacket,
    tables: &HostTables<A>,
    context: &Context,
    decide: Decide<A>,
) -> Option<Decision<A>>
where
    HostTables<A>: RecordTables<A>,
{
    let link = link(packet, 0);
    let network = if A::IS_V6 { Network::V6 } else { Network::V4 };
    if link.network != network {
        return None;
    }
    let headers = A::parse(packet, link.l3_offset);
    let mut decision = Decision::pass();
    decide(packet, &headers, tables, context, &mut decision);
    if decision.has_doubt() {
        decision.settle_doubt(false);
    }
    if let Err(reason) = commit(tables, &decision) {
        let backend = decision.backend;
        decision.drop(reason, backend);
    }
    let backend = decision.backend;
    let result = match decision.edit {
        EditKind::Packet => translate::translate(packet, &decision.translation),
        EditKind::Error => translate::translate_error(packet, &decision.error),
        EditKind::None if decision.verdict == Verdict::Answer => {
            if let Some(answer) = answer(packet, &headers, decision.answer, 0) {
                write(packet, &answer)
            } else {
                decision.drop(decision.unanswered(), backend);
                Ok(())
            }
        }
        EditKind::None => Ok(()),
    };
    if result.is_err() {
        decision.drop(DropReason::EditFailed, backend);
    }
    Some(decision)
}
