//! The maps, and the engine's view of them.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    abi::{
        BackendCounters, BackendIdentity, BackendV4, BackendV6, DEFAULT_RECORDS,
        DEFAULT_RING_SLOTS, DROP_REASON_SLOTS, FlowKeyV4, FlowKeyV6, FlowRecord, Frontend,
        FrontendKeyV4, FrontendKeyV6, HOOK_COUNT, MAX_BACKENDS, MAX_FRONTENDS, MAX_SERVICES,
        MAX_XDP_IFINDEX, Meta, RINGS_PER_SERVICE, ReplyKeyV4, ReplyKeyV6, ReplyRecordV4,
        ReplyRecordV6, RingDescriptor, ServiceIdentity, Slot, VERDICT_SLOTS,
    },
    engine::{TableFull, Tables},
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Backend 0 is "none".
const BACKENDS: usize = MAX_BACKENDS as usize + 1;
const FRONTENDS: usize = MAX_FRONTENDS as usize;
const RECORDS: usize = DEFAULT_RECORDS as usize;
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
