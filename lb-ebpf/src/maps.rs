//! The maps, and the engine's view of them.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use lb_common::{
    abi::{
        BackendCounters, BackendIdentity, BackendV4, BackendV6, DEFAULT_HALF_OPEN_RECORDS,
        DEFAULT_RECORDS, DEFAULT_RING_SLOTS, DROP_REASON_SLOTS, FlowKeyV4, FlowKeyV6, FlowRecord,
        Frontend, FrontendKeyV4, FrontendKeyV6, HOOK_COUNT, HalfOpenRate, Limits, MAX_BACKENDS,
        MAX_FRONTENDS, MAX_LOCAL, MAX_SERVICES, MAX_XDP_IFINDEX, Meta, NetU32, RINGS_PER_SERVICE,
        Refusals, ReplyDefaultKeyV4, ReplyDefaultKeyV6, ReplyDefaultV4, ReplyDefaultV6, ReplyKeyV4,
        ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, RingDescriptor, ServiceIdentity, Slot,
        VERDICT_SLOTS,
    },
    engine::{TableFull, Tables},
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Backend 0 is "none".
const BACKENDS: usize = MAX_BACKENDS as usize + 1;
const FRONTENDS: usize = MAX_FRONTENDS as usize;
const RECORDS: usize = DEFAULT_RECORDS as usize;
const HALF_OPEN_RECORDS: usize = DEFAULT_HALF_OPEN_RECORDS as usize;
const RINGS_LEN: usize = (MAX_SERVICES * RINGS_PER_SERVICE) as usize;
const VERDICTS_LEN: usize = (HOOK_COUNT * VERDICT_SLOTS) as usize;

#[btf_map]
pub static META: Array<Meta, 1, MAPPED> = Array::new();
#[btf_map]
pub static SERVICES: Array<ServiceIdentity, { MAX_SERVICES as usize }, MAPPED> = Array::new();
#[btf_map]
pub static FRONTENDS_V4: HashMap<FrontendKeyV4, Frontend, FRONTENDS> = HashMap::new();
#[btf_map]
pub static FRONTENDS_V6: HashMap<FrontendKeyV6, Frontend, FRONTENDS> = HashMap::new();
#[btf_map]
pub static RINGS: Array<u64, RINGS_LEN, MAPPED> = Array::new();
#[btf_map]
pub static RING_SLOTS: Array<u64, { DEFAULT_RING_SLOTS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static BACKENDS_V4: Array<BackendV4, BACKENDS, MAPPED> = Array::new();
#[btf_map]
pub static BACKENDS_V6: Array<BackendV6, BACKENDS, MAPPED> = Array::new();
#[btf_map]
pub static BACKEND_IDENTITIES: Array<BackendIdentity, BACKENDS, MAPPED> = Array::new();
#[btf_map]
pub static FLOWS_V4: HashMap<FlowKeyV4, FlowRecord, RECORDS> = HashMap::new();
#[btf_map]
pub static FLOWS_V6: HashMap<FlowKeyV6, FlowRecord, RECORDS> = HashMap::new();
#[btf_map]
pub static HALF_FLOWS_V4: LruHashMap<FlowKeyV4, FlowRecord, HALF_OPEN_RECORDS> = LruHashMap::new();
#[btf_map]
pub static HALF_FLOWS_V6: LruHashMap<FlowKeyV6, FlowRecord, HALF_OPEN_RECORDS> = LruHashMap::new();
#[btf_map]
pub static REPLIES_V4: HashMap<ReplyKeyV4, ReplyRecordV4, RECORDS> = HashMap::new();
#[btf_map]
pub static REPLIES_V6: HashMap<ReplyKeyV6, ReplyRecordV6, RECORDS> = HashMap::new();
#[btf_map]
pub static HALF_REPLIES_V4: LruHashMap<ReplyKeyV4, ReplyRecordV4, HALF_OPEN_RECORDS> =
    LruHashMap::new();
#[btf_map]
pub static HALF_REPLIES_V6: LruHashMap<ReplyKeyV6, ReplyRecordV6, HALF_OPEN_RECORDS> =
    LruHashMap::new();
#[btf_map]
pub static REPLY_DEFAULTS_V4: HashMap<ReplyDefaultKeyV4, ReplyDefaultV4, BACKENDS> = HashMap::new();
#[btf_map]
pub static REPLY_DEFAULTS_V6: HashMap<ReplyDefaultKeyV6, ReplyDefaultV6, BACKENDS> = HashMap::new();
#[btf_map]
pub static LOCAL_V4: LpmTrie<NetU32, u32, { MAX_LOCAL as usize }> = LpmTrie::new();
#[btf_map]
pub static REFUSALS: Array<Refusals, RINGS_LEN, MAPPED> = Array::new();
#[btf_map]
pub static HALF_OPEN_RATE: PerCpuArray<HalfOpenRate, 1> = PerCpuArray::new();
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters, BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DROP_REASON_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, VERDICTS_LEN> = PerCpuArray::new();
#[btf_map]
pub static XDP_EGRESS: Array<u64, { MAX_XDP_IFINDEX as usize }, MAPPED> = Array::new();

/// The maps of this object as the engine's tables.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn limits(&self) -> Limits {
        META.get(0).map_or(Limits::default(), |meta| meta.limits)
    }

    #[inline(always)]
    fn frontend_v4(&self, key: &FrontendKeyV4) -> Option<Frontend> {
        // SAFETY: only the agent writes; an entry that is replaced while we copy it is one frontend
        // or the other, since the kernel swaps elements of a hash map.
        unsafe { FRONTENDS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        RINGS.get(ring).map(|raw| RingDescriptor::from_raw(*raw))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        RING_SLOTS.get(index).map(|raw| Slot::from_raw(*raw))
    }

    #[inline(always)]
    fn backend_v4(&self, number: u32) -> Option<BackendV4> {
        BACKENDS_V4.get(number).copied()
    }

    #[inline(always)]
    fn flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord> {
        // SAFETY: an element that is removed and given to another flow while we copy it may yield
        // that flow's record, or parts of both: the generation rejects a backend that is not the
        // record's, and at worst one packet goes where its sender's next one does not.
        unsafe { FLOWS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn half_flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord> {
        // SAFETY: as above.
        unsafe { HALF_FLOWS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn put_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        FLOWS_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn put_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        HALF_FLOWS_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn touch_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) {
        touch_flow(FLOWS_V4.get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn touch_half_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) {
        touch_flow(HALF_FLOWS_V4.get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn remove_flow_v4(&self, key: &FlowKeyV4) {
        // Absent is fine, here and below.
        let _ = FLOWS_V4.remove(key);
    }

    #[inline(always)]
    fn remove_half_flow_v4(&self, key: &FlowKeyV4) {
        let _ = HALF_FLOWS_V4.remove(key);
    }

    #[inline(always)]
    fn refusals(&self, ring: u32) -> Refusals {
        REFUSALS.get(ring).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool) {
        let Some(note) = REFUSALS.get_ptr_mut(ring) else { return };
        // SAFETY: the element of an array stays where it is. CPUs may store at once: each stores a
        // tick that is now.
        unsafe {
            (&raw mut (*note).refused_tick).write_volatile(tick);
            if is_full {
                (&raw mut (*note).full_tick).write_volatile(tick);
            }
        }
    }

    #[inline(always)]
    fn half_open_count(&self, tick: u32) -> u32 {
        HALF_OPEN_RATE.get(0).map_or(0, |rate| if rate.tick == tick { rate.count } else { 0 })
    }

    #[inline(always)]
    fn count_half_open(&self, tick: u32) {
        let Some(rate) = HALF_OPEN_RATE.get_ptr_mut(0) else { return };
        // SAFETY: the pointer is to this CPU's element.
        unsafe {
            if (*rate).tick == tick {
                (*rate).count += 1;
            } else {
                *rate = HalfOpenRate { tick, count: 1 };
            }
        }
    }

    #[inline(always)]
    fn reply_default_v4(&self, key: &ReplyDefaultKeyV4) -> Option<ReplyDefaultV4> {
        // SAFETY: only the agent writes; elements of a hash map are swapped.
        unsafe { REPLY_DEFAULTS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn is_local_v4(&self, address: NetU32) -> bool {
        LOCAL_V4.get(&Key::new(32, address)).is_some()
    }

    #[inline(always)]
    fn reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        // SAFETY: as for flows; a record is removed only long after its flow's last packet.
        unsafe { REPLIES_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn half_reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        // SAFETY: an evicted element that is given to another flow while we copy it may yield parts
        // of both: one reply is lost, as the record is.
        unsafe { HALF_REPLIES_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn put_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        REPLIES_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn put_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        HALF_REPLIES_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn touch_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) {
        touch_reply(REPLIES_V4.get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn touch_half_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) {
        touch_reply(HALF_REPLIES_V4.get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn remove_reply_v4(&self, key: &ReplyKeyV4) {
        let _ = REPLIES_V4.remove(key);
    }

    #[inline(always)]
    fn remove_half_reply_v4(&self, key: &ReplyKeyV4) {
        let _ = HALF_REPLIES_V4.remove(key);
    }
}

/// Stores time and class in place. Volatile, so that each is one store of its own width.
#[inline(always)]
fn touch_flow(known: Option<*mut FlowRecord>, record: &FlowRecord) {
    let Some(known) = known else { return };
    // SAFETY: the element stays readable and writable until the program ends, even if it is removed
    // meanwhile; given to another flow, it would be a packet fresher than it is.
    unsafe {
        (&raw mut (*known).last_seen_tick).write_volatile(record.last_seen_tick);
        (&raw mut (*known).class).write_volatile(record.class);
    }
}

/// Stores time, class and front interface in place.
#[inline(always)]
fn touch_reply(known: Option<*mut ReplyRecordV4>, record: &ReplyRecordV4) {
    let Some(known) = known else { return };
    // SAFETY: as for flows.
    unsafe {
        (&raw mut (*known).last_seen_tick).write_volatile(record.last_seen_tick);
        (&raw mut (*known).class).write_volatile(record.class);
        (&raw mut (*known).ifindex).write_volatile(record.ifindex);
    }
}
