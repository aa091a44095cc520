//! The maps, and the engine's view of them.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    abi::{
        BackendCounters, BackendIdentity, BackendV4, BackendV6, DEFAULT_RECORDS,
        DEFAULT_RING_SLOTS, DROP_REASON_SLOTS, FAMILY_V4, FAMILY_V6, FRONTEND_BUCKETS,
        FRONTEND_WAYS, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6, FlowKeyV4, FlowKeyV6, FlowRecord,
        Frontend, FrontendKeyV4, FrontendKeyV6, HOOK_COUNT, MAX_BACKENDS, MAX_SERVICES,
        MAX_XDP_IFINDEX, Meta, NetU32, PORT_LIST_RANGES, PORT_LISTS, RINGS_PER_SERVICE, ReplyKeyV4,
        ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, RingDescriptor, ServiceIdentity, Slot,
        VERDICT_SLOTS, VIP_FILTER_WORDS,
    },
    engine::{TableFull, Tables},
    frontends::{self, Bucket, FrontendMaps, PortList},
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Backend 0 is "none".
const BACKENDS: usize = MAX_BACKENDS as usize + 1;
/// Two halves.
const BUCKETS: usize = 2 * FRONTEND_BUCKETS as usize;
const RECORDS: usize = DEFAULT_RECORDS as usize;
const VERDICTS_LEN: usize = (HOOK_COUNT * VERDICT_SLOTS) as usize;

// [`Bucket`] and [`PortList`] by their memory: the kernel takes neither atomics nor arrays of arrays
// as the type of a map's values.
type RawBucketV4 = [u64; FRONTEND_WAYS * FRONTEND_WORDS_V4];
type RawBucketV6 = [u64; FRONTEND_WAYS * FRONTEND_WORDS_V6];
type RawPortList = [u64; PORT_LIST_RANGES];

#[btf_map]
pub static META: Array<Meta, 1, MAPPED> = Array::new();
#[btf_map]
pub static SERVICES: Array<ServiceIdentity, { MAX_SERVICES as usize }, MAPPED> = Array::new();
#[btf_map]
pub static VIP_FILTER_V4: Array<u64, { VIP_FILTER_WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static VIP_FILTER_V6: Array<u64, { VIP_FILTER_WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static FRONTEND_HEADERS: Array<u64, 2, MAPPED> = Array::new();
#[btf_map]
pub static FRONTENDS_V4: Array<RawBucketV4, BUCKETS, MAPPED> = Array::new();
#[btf_map]
pub static FRONTENDS_V6: Array<RawBucketV6, BUCKETS, MAPPED> = Array::new();
#[btf_map]
pub static PORT_LISTS_V4: Array<RawPortList, { PORT_LISTS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static PORT_LISTS_V6: Array<RawPortList, { PORT_LISTS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static RINGS: Array<u64, { (MAX_SERVICES * RINGS_PER_SERVICE) as usize }, MAPPED> =
    Array::new();
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
pub static REPLIES_V4: HashMap<ReplyKeyV4, ReplyRecordV4, RECORDS> = HashMap::new();
#[btf_map]
pub static REPLIES_V6: HashMap<ReplyKeyV6, ReplyRecordV6, RECORDS> = HashMap::new();
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
    fn frontend_v4(&self, key: &FrontendKeyV4) -> Frontend {
        frontends::lookup(&FrontendsV4, key)
    }

    #[inline(always)]
    fn may_be_vip_v4(&self, address: NetU32) -> bool {
        let key = FrontendKeyV4 { vip: address, ..FrontendKeyV4::default() };
        frontends::may_be_vip(&FrontendsV4, &key)
    }

    #[inline(always)]
    fn frontend_v6(&self, key: &FrontendKeyV6) -> Frontend {
        frontends::lookup(&FrontendsV6, key)
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
    fn reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        // SAFETY: as above; a record is removed only long after its flow's last packet.
        unsafe { REPLIES_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn put_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        FLOWS_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn put_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        REPLIES_V4.insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn remove_flow_v4(&self, key: &FlowKeyV4) {
        // Absent is fine.
        let _ = FLOWS_V4.remove(key);
    }

    #[inline(always)]
    fn remove_reply_v4(&self, key: &ReplyKeyV4) {
        // Absent is fine.
        let _ = REPLIES_V4.remove(key);
    }
}

/// The frontend tables of IPv4.
struct FrontendsV4;
/// The frontend tables of IPv6.
struct FrontendsV6;

/// A value that the agent changes while we look at it: words, each loaded at once.
#[inline(always)]
fn shared<Raw, Shared, const N: usize>(
    map: &'static Array<Raw, N, MAPPED>,
    index: u32,
) -> Option<&'static Shared> {
    const { assert!(size_of::<Raw>() == size_of::<Shared>()) };
    // SAFETY: elements of an array stay where they are, and `Shared` is the same words as atomics.
    map.get_ptr(index).map(|element| unsafe { &*element.cast::<Shared>() })
}

/// A load of a whole word, which no other takes the place of. LLVM has no atomic one for BPF before
/// version 4 of the instruction set; an aligned plain one is the same instruction.
#[inline(always)]
fn load(word: &AtomicU64) -> u64 {
    // SAFETY: a reference is valid and aligned; other CPUs change the word by whole stores.
    unsafe { word.as_ptr().read_volatile() }
}

impl FrontendMaps<FRONTEND_WORDS_V4> for FrontendsV4 {
    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        shared(&VIP_FILTER_V4, index)
    }

    #[inline(always)]
    fn header(&self) -> Option<&AtomicU64> {
        shared(&FRONTEND_HEADERS, FAMILY_V4)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<FRONTEND_WORDS_V4>> {
        shared(&FRONTENDS_V4, index)
    }

    #[inline(always)]
    fn port_list(&self, index: u32) -> Option<&PortList> {
        shared(&PORT_LISTS_V4, index)
    }

    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        load(word)
    }
}

impl FrontendMaps<FRONTEND_WORDS_V6> for FrontendsV6 {
    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        shared(&VIP_FILTER_V6, index)
    }

    #[inline(always)]
    fn header(&self) -> Option<&AtomicU64> {
        shared(&FRONTEND_HEADERS, FAMILY_V6)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<FRONTEND_WORDS_V6>> {
        shared(&FRONTENDS_V6, index)
    }

    #[inline(always)]
    fn port_list(&self, index: u32) -> Option<&PortList> {
        shared(&PORT_LISTS_V6, index)
    }

    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        load(word)
    }
}
