//! The maps.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use lb_common::{
    abi::{
        BackendCounters, BackendIdentity, BackendV4, BackendV6, ClassNetwork, Client,
        DEFAULT_HALF_OPEN_RECORDS, DEFAULT_RECORDS, DEFAULT_RING_SLOTS, DROP_REASON_SLOTS,
        FRONTEND_BUCKETS, FRONTEND_WAYS, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6, FlowInsertions,
        FlowKeyV4, FlowKeyV6, FlowRecord, FlowRoom, FragmentKeyV4, FragmentKeyV6, FragmentRecordV4,
        FragmentRecordV6, HOOK_COUNT, HalfOpenRate, MAX_BACKENDS, MAX_CLASS_NETWORKS, MAX_CLIENTS,
        MAX_CONNECTED_DATAGRAMS, MAX_FRAGMENTED, MAX_LOCAL, MAX_REACH_ENTRIES, MAX_REACH_LISTS,
        MAX_SERVICES, MAX_XDP_IFINDEX, Meta, NetAddr6, NetU32, OBSERVATIONS_BYTES, Observation,
        PORT_LIST_RANGES, PORT_LISTS, RINGS_PER_SERVICE, ReachKey, ReachList, Refusals,
        ReplyDefaultKeyV4, ReplyDefaultKeyV6, ReplyDefaultV4, ReplyDefaultV6, ReplyKeyV4,
        ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, ServiceIdentity, ServiceScope, SocketPeer,
        SocketPeers, TRACE_BYTES, TRACE_FILTERS as FILTERS, TraceEvent, TraceFilter, TraceState,
        VERDICT_SLOTS, VIP_FILTER_WORDS,
    },
    engine::{Context, Decision, Family, answer::ANSWER_BUCKET_COUNT, wire::Headers},
};

pub const MAPPED: usize = BPF_F_MMAPABLE as usize;
const UNALLOCATED: usize = BPF_F_NO_PREALLOC as usize;
/// Backend 0 is "none".
pub const BACKENDS: usize = MAX_BACKENDS as usize + 1;
/// Two halves.
const BUCKETS: usize = 2 * FRONTEND_BUCKETS as usize;
pub const RECORDS: usize = DEFAULT_RECORDS as usize;
pub const HALF_OPEN_RECORDS: usize = DEFAULT_HALF_OPEN_RECORDS as usize;
pub const FRAGMENTED: usize = MAX_FRAGMENTED as usize;
const RINGS_LEN: usize = (MAX_SERVICES * RINGS_PER_SERVICE) as usize;
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
pub static LOCAL_V6: LpmTrie<NetAddr6, u32, { MAX_LOCAL as usize }> = LpmTrie::new();
#[btf_map]
pub static FRAGMENTS_V4: LruHashMap<FragmentKeyV4, FragmentRecordV4, FRAGMENTED> =
    LruHashMap::new();
#[btf_map]
pub static FRAGMENTS_V6: LruHashMap<FragmentKeyV6, FragmentRecordV6, FRAGMENTED> =
    LruHashMap::new();
#[btf_map]
pub static REFUSALS: Array<Refusals, RINGS_LEN, MAPPED> = Array::new();
#[btf_map]
pub static HALF_OPEN_RATE: PerCpuArray<HalfOpenRate, 1> = PerCpuArray::new();
#[btf_map]
pub static FLOW_ROOM: Array<FlowRoom, 2, MAPPED> = Array::new();
#[btf_map]
pub static FLOW_INSERTIONS: PerCpuArray<FlowInsertions, 2> = PerCpuArray::new();
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters, BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static OBSERVATIONS: RingBuf<Observation, { OBSERVATIONS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DROP_REASON_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, VERDICTS_LEN> = PerCpuArray::new();
#[btf_map]
pub static XDP_INTERFACES: Array<u64, { MAX_XDP_IFINDEX as usize }, MAPPED> = Array::new();

#[btf_map]
pub static TRACE: RingBuf<TraceEvent, { TRACE_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static TRACE_FILTERS: Array<TraceFilter, { FILTERS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static TRACE_STATE: PerCpuArray<TraceState, 1> = PerCpuArray::new();

#[btf_map]
pub static CLIENTS: HashMap<u64, Client, { MAX_CLIENTS as usize }, UNALLOCATED> = HashMap::new();
// Elements that nobody has made take no memory, and one that was taken out is not used for another key
// while somebody may read it.
#[btf_map]
pub static CLASS_NETWORKS: HashMap<
    ClassNetwork,
    u64,
    { MAX_CLASS_NETWORKS as usize },
    UNALLOCATED,
> = HashMap::new();
#[btf_map]
pub static REACH_LISTS: HashMap<ReachKey, ReachList, { MAX_REACH_LISTS as usize }, UNALLOCATED> =
    HashMap::new();
#[btf_map]
pub static REACH_ENTRIES: Array<u64, { MAX_REACH_ENTRIES as usize }, MAPPED> = Array::new();
#[btf_map]
pub static SERVICE_SCOPES: Array<ServiceScope, { MAX_SERVICES as usize }, MAPPED> = Array::new();
#[btf_map]
pub static BACKEND_NETWORKS: Array<u64, BACKENDS, MAPPED> = Array::new();
#[btf_map]
pub static CONNECTED: SkStorage<SocketPeer> = SkStorage::new();
#[btf_map]
pub static CONNECTED_DATAGRAMS: LruHashMap<u64, u64, { MAX_CONNECTED_DATAGRAMS as usize }> =
    LruHashMap::new();
#[btf_map]
pub static DATAGRAM_PEERS: SkStorage<SocketPeers> = SkStorage::new();

/// Where this CPU writes an event.
#[btf_map]
pub static TRACE_EVENT: PerCpuArray<TraceEvent, 1> = PerCpuArray::new();

/// Whether the kernel has `bpf_check_mtu` (Linux 5.12). A constant when the programs are loaded, so that
/// an older verifier never sees the call.
#[unsafe(no_mangle)]
pub static HAS_CHECK_MTU: Global<u32> = Global::new(1);

/// Whether the kernel has `bpf_ktime_get_coarse_ns` (Linux 5.11), as above.
#[unsafe(no_mangle)]
pub static HAS_COARSE_CLOCK: Global<u32> = Global::new(1);

/// Whether a program of sockets can say which error its caller gets (Linux 6.1); as above.
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u32> = Global::new(1);

/// Whether the kernel has multipath TCP and `bpf_skc_to_mptcp_sock` (Linux 5.19); as above.
#[unsafe(no_mangle)]
pub static HAS_MPTCP_SOCK: Global<u32> = Global::new(0);

/// A call to this address, and the port below, is the agent's, which wants to know the cookie of the
/// caller's namespace; 0: nobody asks. As above.
#[unsafe(no_mangle)]
pub static COOKIE_ADDRESS: Global<u32> = Global::new(0);

/// See [`COOKIE_ADDRESS`].
#[unsafe(no_mangle)]
pub static COOKIE_PORT: Global<u32> = Global::new(0);

/// Whether the host leads containers to networks that they are not on.
#[unsafe(no_mangle)]
pub static ROUTES_ACROSS: Global<u32> = Global::new(0);

/// When this CPU's buckets of answers are full again, by `AnswerKind::bucket`.
#[btf_map]
pub static ANSWER_BUCKETS: PerCpuArray<u64, { ANSWER_BUCKET_COUNT as usize }> = PerCpuArray::new();

/// A packet's headers and the decision on it.
#[repr(C, align(8))]
pub struct Scratch<A: Family> {
    pub context: Context,
    /// VLAN tags, in the bytes and beside them.
    pub tags: u32,
    pub headers: Headers<A>,
    pub decision: Decision<A>,
    /// Interface that the packet leaves by.
    pub egress_ifindex: u32,
    /// MTU of the way there; 0: the interface knows.
    pub egress_mtu: u32,
}

/// A packet and what is being decided on it, which is too large for the stack. A program is not interrupted
/// by another of its kind on its CPU, and none reads what another has left there.
#[btf_map]
pub static SCRATCH_V4: PerCpuArray<Scratch<NetU32>, 1> = PerCpuArray::new();
#[btf_map]
pub static SCRATCH_V6: PerCpuArray<Scratch<NetAddr6>, 1> = PerCpuArray::new();
