//! Keys and values of every map, their limits, and the numbers that are fixed for ever.
//!
//! Everything in a map is `repr(C)`, free of padding, valid for any bit pattern and checked for its
//! size here. All of it is aligned to 8 bytes, since LLVM merges stores of neighbouring fields and
//! the verifier refuses a store to the stack that is wider than its alignment. A change of any layout or meaning in this module must raise [`ABI_VERSION`]: the agent
//! adopts pinned maps of its own version only.

mod backend;
mod class;
mod counters;
mod flow;
mod frontend;
mod net;
mod numbers;
mod ring;
mod service;
mod socket;
mod trace;
mod xdp;

pub use backend::{
    BACKEND_NONE, BackendIdentity, BackendV4, BackendV6, PATH_LOCAL, PATH_RECORDS_REPLIES,
    PATH_ROUTED, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS,
};
pub use class::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_LAST_ACK, CLASS_REOPENED,
    CLASS_RESET, CLASS_RESUMED, is_closing, is_near_reply_place, reply_class, reply_end,
    reply_place, reply_place_of,
};
pub use counters::{
    BackendCounters, HOOK_COUNT, Hook, OBSERVATION_REFUSED, OBSERVATION_SILENT, OBSERVATIONS_BYTES,
    Observation, VERDICT_SLOTS, moment_from_ns, verdict_index,
};
pub use flow::{
    FlowInsertions, FlowKeyV4, FlowKeyV6, FlowRecord, FlowRoom, FragmentKeyV4, FragmentKeyV6,
    FragmentRecordV4, FragmentRecordV6, HalfOpenRate, REPLY_DEFAULT_AMBIGUOUS,
    REPLY_DEFAULT_FOREIGN, REPLY_DEFAULT_OTHER_WAYS, Refusals, ReplyDefaultKeyV4,
    ReplyDefaultKeyV6, ReplyDefaultV4, ReplyDefaultV6, ReplyKeyV4, ReplyKeyV6, ReplyRecordV4,
    ReplyRecordV6,
};
pub use frontend::{
    FRONTEND_BUCKETS, FRONTEND_DROPS, FRONTEND_FLAGS_MASK, FRONTEND_RECORDS_REPLIES, FRONTEND_WAYS,
    FRONTEND_WORDS_V4, FRONTEND_WORDS_V6, Frontend, FrontendHeader, FrontendKeyV4, FrontendKeyV6,
    FrontendState, FrontendValue, MAX_FRONTENDS, MAX_PORT_LISTS, PORT_LIST_RANGES, PORT_LISTS,
    PROTOCOL_ANY, PROTOCOL_TCP, PROTOCOL_UDP, PortRange, SCOPE_FRONT, VIP_FILTER_WORDS,
    affinity_flags, affinity_prefix_bits,
};
pub use net::{NetAddr6, NetU16, NetU32};
pub use numbers::{DROP_REASON_SLOTS, DropReason, Verdict};
pub use ring::{
    FAMILY_V4, FAMILY_V6, RING_SIZES, RINGS_PER_SERVICE, RingDescriptor, SLOT_CHANGE_TICKS_MAX,
    SLOT_CHANGE_UNIT_TICKS, SLOT_MOVING, SLOT_PLAIN, SLOT_SETTLED, Slot, ring_number,
};
pub use service::{
    Limits, META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, META_ROUTES_REPLIES, META_TRACES, Meta,
    ServiceIdentity,
};
pub use socket::{
    CLASS_ALL, CLIENT_CONTAINER, CLIENT_NODE, ClassNetwork, Client, MAX_CLASS_NETWORKS,
    MAX_CLIENTS, MAX_CONNECTED_DATAGRAMS, MAX_REACH_ENTRIES, MAX_REACH_LISTS, PREFERS_NODE,
    ReachEntry, ReachKey, ReachList, SCOPE_HAS_SLOTS, SCOPE_NETWORKS, SCOPE_SECOND_HALF,
    SOCKET_PEERS, ServiceScope, SocketPeer, SocketPeers, VISIBLE_TO_CONTAINERS,
    VISIBLE_TO_NETWORKS, VISIBLE_TO_NOBODY, VISIBLE_TO_NODE, connected_backend, connected_to,
};
pub use trace::{
    TRACE_ANY_REASON, TRACE_BYTES, TRACE_EDIT_DESTINATION, TRACE_EDIT_NONE, TRACE_EDIT_SOURCE,
    TRACE_FILTERS, TraceEvent, TraceFilter, TraceState,
};
pub use xdp::XdpInterface;

/// Version of everything in this module. Maps pinned under another version are not adopted.
pub const ABI_VERSION: u32 = 9;

/// Services that the tables have room for; service numbers are `0..MAX_SERVICES`.
pub const MAX_SERVICES: u32 = 4096;
/// Backends that the tables have room for; backend numbers are `1..=MAX_BACKENDS`.
pub const MAX_BACKENDS: u32 = 65_536;
/// Ring slots shared by all services, by default (32 MiB).
pub const DEFAULT_RING_SLOTS: u32 = 4 * 1024 * 1024;
/// Recorded flows per address family, by default.
pub const DEFAULT_RECORDS: u32 = 128 * 1024;
/// Half-open records per address family, by default.
pub const DEFAULT_HALF_OPEN_RECORDS: u32 = 64 * 1024;
/// Addresses and subnets of the node per address family.
pub const MAX_LOCAL: u32 = 4096;
/// Interfaces that XDP knows: interface indexes below this one.
pub const MAX_XDP_IFINDEX: u32 = 4096;

/// Nanoseconds in a tick, the unit of time in maps: a power of two, so that a shift converts.
pub const TICK_NS: u64 = 1 << 30;

/// Ticks since boot for a reading of `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub const fn ticks_from_ns(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

/// Ticks for a duration in seconds, rounded up.
#[must_use]
pub const fn ticks_from_seconds(seconds: u32) -> u32 {
    (seconds as u64 * 1_000_000_000).div_ceil(TICK_NS) as u32
}

/// Seconds without a packet after which a half-open record is dead (SYN-ACK retransmissions: 63 s).
pub const HALF_OPEN_SECONDS: u32 = 75;
/// Seconds without a packet after which an established record is dead: TCP keepalive of two hours,
/// the slack of Linux' timer wheel and nine lost probes.
pub const ESTABLISHED_SECONDS: u32 = 8400;
/// Seconds without a packet after which a record is dead when the backend has closed its direction:
/// the client has nothing more to wait for. When the client has, it may wait for its answer as long
/// as on an established connection.
pub const CLOSING_SECONDS: u32 = 120;
/// Seconds without a packet after which a record of replies is dead when both sides have closed: enough
/// for the last FIN and ACK to be sent again. Where room is scarce, flows that have ended, by a RST as
/// well, keep their records no longer than this.
pub const CLOSED_SECONDS: u32 = 15;
/// Seconds without a packet after which a record of UDP is dead: the promised 30 and some slack.
pub const DATAGRAM_SECONDS: u32 = 35;
/// Seconds that a slot is moving before flows of its old owner are recorded.
pub const GRACE_SECONDS: u32 = 60;
/// Seconds that a slot waits for a replacement after its old owner is gone.
pub const HOLD_SECONDS: u32 = 60;

/// Packets in fragments that are followed at a time, per address family.
pub const MAX_FRAGMENTED: u32 = 8192;
/// Seconds after its first fragment in which the others of a packet may come: as long as receivers
/// wait (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_SECONDS: u32 = 30;

/// In `LOCAL_*`: a subnet of containers of this node.
pub const LOCAL_CONTAINERS: u32 = 1;
/// In `LOCAL_*`: an address of the node.
pub const LOCAL_NODE: u32 = 2;
/// In `LOCAL_*`: an address of the node that it calls from and is reached at. Where it is a VIP, too,
/// packets that no frontend takes are the node's.
pub const LOCAL_PRIMARY: u32 = 3;

/// Names of the maps, as they are in the object and under the pin directory.
pub mod map_names {
    /// `Array<u64>`, mapped: a bit for each hash of an address that is a VIP.
    pub const VIP_FILTER_V4: &str = "VIP_FILTER_V4";
    /// `Array<u64>`, mapped: as `VIP_FILTER_V4`.
    pub const VIP_FILTER_V6: &str = "VIP_FILTER_V6";
    /// `Array<u64>` of [`super::FrontendHeader`], mapped; indexed by family.
    pub const FRONTEND_HEADERS: &str = "FRONTEND_HEADERS";
    /// `Array` of buckets of [`super::FRONTEND_WAYS`] entries, mapped.
    pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
    /// `Array` of buckets of [`super::FRONTEND_WAYS`] entries, mapped.
    pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
    /// `Array` of [`super::PORT_LIST_RANGES`] times [`super::PortRange`], mapped.
    pub const PORT_LISTS_V4: &str = "PORT_LISTS_V4";
    /// `Array` of [`super::PORT_LIST_RANGES`] times [`super::PortRange`], mapped.
    pub const PORT_LISTS_V6: &str = "PORT_LISTS_V6";
    /// `Array<u64>` of [`super::RingDescriptor`], mapped; indexed by ring number.
    pub const RINGS: &str = "RINGS";
    /// `Array<u64>` of [`super::Slot`], mapped.
    pub const RING_SLOTS: &str = "RING_SLOTS";
    /// `Array<BackendV4>`, mapped; indexed by backend number.
    pub const BACKENDS_V4: &str = "BACKENDS_V4";
    /// `Array<BackendV6>`, mapped; indexed by backend number.
    pub const BACKENDS_V6: &str = "BACKENDS_V6";
    /// `Array<BackendIdentity>`, mapped; indexed by backend number. For the agent only.
    pub const BACKEND_IDENTITIES: &str = "BACKEND_IDENTITIES";
    /// `Array<ServiceIdentity>`, mapped; indexed by service number. For the agent only.
    pub const SERVICES: &str = "SERVICES";
    /// `Array<Meta>` of one element, mapped.
    pub const META: &str = "META";
    /// `HashMap<FlowKeyV4, FlowRecord>`.
    pub const FLOWS_V4: &str = "FLOWS_V4";
    /// `HashMap<FlowKeyV6, FlowRecord>`.
    pub const FLOWS_V6: &str = "FLOWS_V6";
    /// `LruHashMap<FlowKeyV4, FlowRecord>`.
    pub const HALF_FLOWS_V4: &str = "HALF_FLOWS_V4";
    /// `LruHashMap<FlowKeyV6, FlowRecord>`.
    pub const HALF_FLOWS_V6: &str = "HALF_FLOWS_V6";
    /// `HashMap<ReplyKeyV4, ReplyRecordV4>`.
    pub const REPLIES_V4: &str = "REPLIES_V4";
    /// `HashMap<ReplyKeyV6, ReplyRecordV6>`.
    pub const REPLIES_V6: &str = "REPLIES_V6";
    /// `LruHashMap<ReplyKeyV4, ReplyRecordV4>`.
    pub const HALF_REPLIES_V4: &str = "HALF_REPLIES_V4";
    /// `LruHashMap<ReplyKeyV6, ReplyRecordV6>`.
    pub const HALF_REPLIES_V6: &str = "HALF_REPLIES_V6";
    /// `HashMap<ReplyDefaultKeyV4, ReplyDefaultV4>`.
    pub const REPLY_DEFAULTS_V4: &str = "REPLY_DEFAULTS_V4";
    /// `HashMap<ReplyDefaultKeyV6, ReplyDefaultV6>`.
    pub const REPLY_DEFAULTS_V6: &str = "REPLY_DEFAULTS_V6";
    /// `LpmTrie<NetU32, u32>`: addresses of the node ([`LOCAL_NODE`](super::LOCAL_NODE),
    /// [`LOCAL_PRIMARY`](super::LOCAL_PRIMARY)) and subnets of its containers
    /// ([`LOCAL_CONTAINERS`](super::LOCAL_CONTAINERS)).
    pub const LOCAL_V4: &str = "LOCAL_V4";
    /// `LpmTrie<NetAddr6, u32>`: the same of IPv6.
    pub const LOCAL_V6: &str = "LOCAL_V6";
    /// `LruHashMap<FragmentKeyV4, FragmentRecordV4>`.
    pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
    /// `LruHashMap<FragmentKeyV6, FragmentRecordV6>`.
    pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
    /// `Array<Refusals>`, mapped; indexed by ring number.
    pub const REFUSALS: &str = "REFUSALS";
    /// `PerCpuArray<HalfOpenRate>` of one element.
    pub const HALF_OPEN_RATE: &str = "HALF_OPEN_RATE";
    /// `Array<FlowRoom>`, mapped; indexed by family.
    pub const FLOW_ROOM: &str = "FLOW_ROOM";
    /// `PerCpuArray<FlowInsertions>`; indexed by family.
    pub const FLOW_INSERTIONS: &str = "FLOW_INSERTIONS";
    /// `PerCpuArray<BackendCounters>`; indexed by backend number.
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    /// Ring buffer of [`super::Observation`].
    pub const OBSERVATIONS: &str = "OBSERVATIONS";
    /// `PerCpuArray<u64>`; indexed by [`super::DropReason`].
    pub const DROPS: &str = "DROPS";
    /// `PerCpuArray<u64>`; indexed by [`super::verdict_index`].
    pub const VERDICTS: &str = "VERDICTS";
    /// `Array<u64>` of [`super::XdpInterface`], mapped; indexed by interface index.
    pub const XDP_INTERFACES: &str = "XDP_INTERFACES";
    /// Ring buffer of [`super::TraceEvent`].
    pub const TRACE: &str = "TRACE";
    /// `Array<TraceFilter>`, mapped.
    pub const TRACE_FILTERS: &str = "TRACE_FILTERS";
    /// `PerCpuArray<TraceState>` of one element.
    pub const TRACE_STATE: &str = "TRACE_STATE";
    /// `HashMap<u64, Client>`: by cookie of the network namespace.
    pub const CLIENTS: &str = "CLIENTS";
    /// `HashMap<ClassNetwork, u64>`: the networks that a class of clients is on.
    pub const CLASS_NETWORKS: &str = "CLASS_NETWORKS";
    /// `HashMap<ReachKey, ReachList>`.
    pub const REACH_LISTS: &str = "REACH_LISTS";
    /// `Array<u64>` of [`super::ReachEntry`], mapped.
    pub const REACH_ENTRIES: &str = "REACH_ENTRIES";
    /// `Array<ServiceScope>`, mapped; indexed by service number.
    pub const SERVICE_SCOPES: &str = "SERVICE_SCOPES";
    /// `Array<u64>`, mapped; indexed by backend number: the network of a container, by the hash of
    /// its name.
    pub const BACKEND_NETWORKS: &str = "BACKEND_NETWORKS";
    /// `SkStorage<SocketPeer>`: of sockets that are connected.
    pub const CONNECTED: &str = "CONNECTED";
    /// `LruHashMap<u64, u64>`: by socket cookie, number and generation of the backend that a socket of
    /// UDP is connected to. The kernel lists what is stored in sockets of TCP only.
    pub const CONNECTED_DATAGRAMS: &str = "CONNECTED_DATAGRAMS";
    /// `SkStorage<SocketPeers>`: of sockets that send datagrams to an address each.
    pub const DATAGRAM_PEERS: &str = "DATAGRAM_PEERS";

    /// Every map, in a fixed order.
    pub const ALL: &[&str] = &[
        META,
        SERVICES,
        VIP_FILTER_V4,
        VIP_FILTER_V6,
        FRONTEND_HEADERS,
        FRONTENDS_V4,
        FRONTENDS_V6,
        PORT_LISTS_V4,
        PORT_LISTS_V6,
        RINGS,
        RING_SLOTS,
        BACKENDS_V4,
        BACKENDS_V6,
        BACKEND_IDENTITIES,
        FLOWS_V4,
        FLOWS_V6,
        HALF_FLOWS_V4,
        HALF_FLOWS_V6,
        REPLIES_V4,
        REPLIES_V6,
        HALF_REPLIES_V4,
        HALF_REPLIES_V6,
        REPLY_DEFAULTS_V4,
        REPLY_DEFAULTS_V6,
        LOCAL_V4,
        LOCAL_V6,
        FRAGMENTS_V4,
        FRAGMENTS_V6,
        REFUSALS,
        HALF_OPEN_RATE,
        FLOW_ROOM,
        FLOW_INSERTIONS,
        BACKEND_COUNTERS,
        OBSERVATIONS,
        DROPS,
        VERDICTS,
        XDP_INTERFACES,
        TRACE,
        TRACE_FILTERS,
        TRACE_STATE,
        CLIENTS,
        CLASS_NETWORKS,
        REACH_LISTS,
        REACH_ENTRIES,
        SERVICE_SCOPES,
        BACKEND_NETWORKS,
        CONNECTED,
        CONNECTED_DATAGRAMS,
        DATAGRAM_PEERS,
    ];
}

/// Names of the programs, as they are in the object.
pub mod program_names {
    /// TC ingress of front interfaces.
    pub const TC_FRONT: &str = "lb_tc_front";
    /// TC ingress of host-side veths of backends.
    pub const TC_REPLY: &str = "lb_tc_reply";
    /// XDP on front interfaces.
    pub const XDP_FRONT: &str = "lb_xdp_front";
    /// `connect` with an IPv4 address.
    pub const CONNECT4: &str = "lb_connect4";
    /// `connect` with an IPv6 address.
    pub const CONNECT6: &str = "lb_connect6";
    /// A datagram to an IPv4 address.
    pub const SENDMSG4: &str = "lb_sendmsg4";
    /// A datagram to an IPv6 address.
    pub const SENDMSG6: &str = "lb_sendmsg6";
    /// The sender of a datagram, to a socket of IPv4.
    pub const RECVMSG4: &str = "lb_recvmsg4";
    /// The sender of a datagram, to a socket of IPv6.
    pub const RECVMSG6: &str = "lb_recvmsg6";
    /// The peer of a socket of IPv4.
    pub const GETPEERNAME4: &str = "lb_getpeername4";
    /// The peer of a socket of IPv6.
    pub const GETPEERNAME6: &str = "lb_getpeername6";
    /// The end of a socket.
    pub const SOCK_RELEASE: &str = "lb_sock_release";

    /// Those of socket calls.
    pub const SOCKETS: [&str; 9] = [
        CONNECT4,
        CONNECT6,
        SENDMSG4,
        SENDMSG6,
        RECVMSG4,
        RECVMSG6,
        GETPEERNAME4,
        GETPEERNAME6,
        SOCK_RELEASE,
    ];
}

#[cfg(feature = "user")]
mod pod {
    //! `aya::Pod` for what is a key or value of a hash or per-CPU map. Sound for any type that
    //! zerocopy takes: `repr(C)`, no padding, valid for any bytes.

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            $(
                const _: () = {
                    const fn plain<T: zerocopy::FromBytes + zerocopy::IntoBytes>() {}
                    plain::<$type>();
                };
                // SAFETY: zerocopy's derives above prove that there is no padding and that every
                // bit pattern is valid.
                unsafe impl aya::Pod for $type {}
            )+
        };
    }

    pod!(
        super::BackendCounters,
        super::BackendIdentity,
        super::BackendV4,
        super::BackendV6,
        super::ClassNetwork,
        super::Client,
        super::FlowInsertions,
        super::FlowKeyV4,
        super::FlowKeyV6,
        super::FlowRecord,
        super::FlowRoom,
        super::FragmentKeyV4,
        super::FragmentKeyV6,
        super::FragmentRecordV4,
        super::FragmentRecordV6,
        super::HalfOpenRate,
        super::Limits,
        super::Meta,
        super::NetAddr6,
        super::NetU32,
        super::Observation,
        super::ReachKey,
        super::ReachList,
        super::Refusals,
        super::ReplyDefaultKeyV4,
        super::ReplyDefaultKeyV6,
        super::ReplyDefaultV4,
        super::ReplyDefaultV6,
        super::ReplyKeyV4,
        super::ReplyKeyV6,
        super::ReplyRecordV4,
        super::ReplyRecordV6,
        super::ServiceIdentity,
        super::ServiceScope,
        super::TraceEvent,
        super::TraceFilter,
        super::TraceState,
    );
}
