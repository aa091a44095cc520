//! What the bed needs to know of a family's tables beside what the engine knows.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    abi::{
        BackendV4, BackendV6, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6, FlowInsertions, FlowRecord,
        HalfOpenRate, NetAddr6, NetU16, NetU32, Refusals, ReplyDefaultV4, ReplyDefaultV6,
        map_names,
    },
    engine::{Family, FragmentWay, Tuple, Way},
    frontends::FrontendKey,
};

use super::{BackendSpec, KnownFlow, KnownReply, ReplyDefaultSpec};

/// A family, with the names of its maps.
pub trait BedFamily:
    Family<
        FrontendKey: Ord,
        FlowKey: aya::Pod,
        ReplyKey: aya::Pod,
        ReplyRecord: aya::Pod,
        ReplyDefaultKey: aya::Pod,
        ReplyDefault: aya::Pod,
        FragmentKey: aya::Pod,
        FragmentRecord: aya::Pod,
        BackendRecord: aya::Pod,
    > + Into<IpAddr>
{
    /// An address as a key of `LOCAL_*`.
    type Octets: aya::Pod;

    /// Established and half-open flows.
    const FLOWS: [&'static str; 2];
    /// Established and half-open replies.
    const REPLIES: [&'static str; 2];
    /// `FRAGMENTS_*`.
    const FRAGMENTS: &'static str;
    /// `BACKENDS_*`.
    const BACKENDS: &'static str;
    /// `REPLY_DEFAULTS_*`.
    const REPLY_DEFAULTS: &'static str;
    /// `LOCAL_*`.
    const LOCAL: &'static str;
    /// `VIP_FILTER_*`, `FRONTENDS_*`, `PORT_LISTS_*`.
    const FRONTENDS: [&'static str; 3];

    /// An address, if it is of this family.
    fn address(address: IpAddr) -> Option<Self>;
    /// An address as it is on the wire.
    fn octets(self) -> Self::Octets;
    /// A backend as the table has it.
    fn backend_record(backend: &BackendSpec) -> Option<Self::BackendRecord>;
    /// A default of replies as the table has it.
    fn default_record(default: &ReplyDefaultSpec) -> Option<Self::ReplyDefault>;

    /// The two ends of a flow.
    fn ends(client: SocketAddr, server: SocketAddr, protocol: u8) -> Option<Tuple<Self>> {
        Some(Tuple {
            client: Self::address(client.ip())?,
            server: Self::address(server.ip())?,
            client_port: NetU16::new(client.port()),
            server_port: NetU16::new(server.port()),
            protocol: u32::from(protocol),
        })
    }

    /// A record of a flow as the table has it.
    fn known_flow(flow: &KnownFlow, now_tick: u32) -> Option<(Self::FlowKey, FlowRecord)> {
        let key = Self::flow_key(&Self::ends(flow.client, flow.vip, flow.protocol)?);
        let record = FlowRecord {
            backend: flow.backend,
            generation: flow.generation,
            // The machine may have been up for less.
            last_seen_tick: now_tick.wrapping_sub(flow.age_ticks),
            class: flow.class,
        };
        Some((key, record))
    }

    /// A record of replies as the table has it.
    fn known_reply(
        reply: &KnownReply,
        now_tick: u32,
    ) -> Option<(Self::ReplyKey, Self::ReplyRecord)> {
        let ends = Self::ends(reply.client, reply.address, reply.protocol)?;
        let record = Self::reply_record(&Way {
            vip: Self::address(reply.vip.ip())?,
            vip_port: NetU16::new(reply.vip.port()),
            class: reply.class as u16,
            backend: reply.backend,
            generation: reply.generation,
            ifindex: reply.front_ifindex,
            last_seen_tick: now_tick.wrapping_sub(reply.age_ticks),
            client_end: reply.client_end,
            backend_end: reply.backend_end,
        });
        Some((Self::reply_key(&ends, reply.ifindex), record))
    }

    /// A default of replies as the table has it.
    fn known_default(
        default: &ReplyDefaultSpec,
    ) -> Option<(Self::ReplyDefaultKey, Self::ReplyDefault)> {
        let ends = Self::ends(default.address, default.address, default.protocol)?;
        let key = Self::reply_default_key(&ends, default.ifindex);
        Some((key, Self::default_record(default)?))
    }
}

macro_rules! bed_family {
    ($family:ty, $ip:ident, $address:ident, $octets:ty, $backend:ident { $($backend_rest:ident)* },
     $default:ident { $($default_rest:ident)* },
     $flows:ident $half_flows:ident $replies:ident $half_replies:ident $fragments:ident
     $backends:ident $defaults:ident $local:ident $filter:ident $frontends:ident $lists:ident) => {
        impl BedFamily for $family {
            const FLOWS: [&'static str; 2] = [map_names::$flows, map_names::$half_flows];
            const REPLIES: [&'static str; 2] = [map_names::$replies, map_names::$half_replies];
            const FRAGMENTS: &'static str = map_names::$fragments;
            const BACKENDS: &'static str = map_names::$backends;
            const REPLY_DEFAULTS: &'static str = map_names::$defaults;
            const LOCAL: &'static str = map_names::$local;
            const FRONTENDS: [&'static str; 3] =
                [map_names::$filter, map_names::$frontends, map_names::$lists];

            type Octets = $octets;

            fn octets(self) -> $octets {
                $address::from(self).octets()
            }

            fn address(address: IpAddr) -> Option<Self> {
                match address {
                    IpAddr::$ip(address) => Some(address.into()),
                    _ => None,
                }
            }

            fn backend_record(backend: &BackendSpec) -> Option<$backend> {
                Some($backend {
                    address: Self::address(backend.address.ip())?,
                    port: NetU16::new(backend.address.port()),
                    state: backend.state,
                    path: backend.path,
                    ifindex: backend.ifindex,
                    generation: backend.generation,
                    $($backend_rest: 0,)*
                })
            }

            fn default_record(default: &ReplyDefaultSpec) -> Option<$default> {
                Some($default {
                    vip: Self::address(default.vip.ip())?,
                    vip_port: NetU16::new(default.vip.port()),
                    flags: default.flags,
                    backend: default.backend,
                    ifindex: default.front_ifindex,
                    $($default_rest: 0,)*
                })
            }
        }
    };
}

bed_family!(
    NetU32, V4, Ipv4Addr, [u8; 4], BackendV4 {}, ReplyDefaultV4 {},
    FLOWS_V4 HALF_FLOWS_V4 REPLIES_V4 HALF_REPLIES_V4 FRAGMENTS_V4
    BACKENDS_V4 REPLY_DEFAULTS_V4 LOCAL_V4 VIP_FILTER_V4 FRONTENDS_V4 PORT_LISTS_V4
);
bed_family!(
    NetAddr6, V6, Ipv6Addr, [u8; 16], BackendV6 { reserved }, ReplyDefaultV6 { reserved },
    FLOWS_V6 HALF_FLOWS_V6 REPLIES_V6 HALF_REPLIES_V6 FRAGMENTS_V6
    BACKENDS_V6 REPLY_DEFAULTS_V6 LOCAL_V6 VIP_FILTER_V6 FRONTENDS_V6 PORT_LISTS_V6
);

/// A family whose frontend keys have `W` words: the frontend tables are written by their own editor.
pub(super) trait FrontendFamily<const W: usize>:
    BedFamily<FrontendKey: FrontendKey<W>>
{
}

impl FrontendFamily<FRONTEND_WORDS_V4> for NetU32 {}
impl FrontendFamily<FRONTEND_WORDS_V6> for NetAddr6 {}

/// The records of a family's tables, with ages in place of times.
#[derive(Clone, PartialEq, Debug)]
pub struct Dump<A: Family> {
    /// Flows; whether they are among the half open.
    pub flows: HashMap<(A::FlowKey, bool), FlowRecord>,
    /// Replies; whether they are among the half open.
    pub replies: HashMap<(A::ReplyKey, bool), A::ReplyRecord>,
    /// Defaults of replies.
    pub defaults: HashMap<A::ReplyDefaultKey, A::ReplyDefault>,
    /// First fragments.
    pub fragments: HashMap<A::FragmentKey, A::FragmentRecord>,
    /// What was noted for the rings of service 0.
    pub refusals: [Refusals; 2],
    /// Half-open records of this tick.
    pub half_open: HalfOpenRate,
    /// Records that were put among the established.
    pub flow_insertions: FlowInsertions,
}

impl<A: Family> Dump<A> {
    /// The same with ages, which are rounded down to a multiple of `step_ticks`.
    #[must_use]
    pub fn aged(mut self, now_tick: u32, step_ticks: u32) -> Self {
        let age = |tick: u32| {
            let age_ticks = now_tick.wrapping_sub(tick);
            age_ticks - age_ticks % step_ticks
        };
        for record in self.flows.values_mut() {
            record.last_seen_tick = age(record.last_seen_tick);
        }
        for record in self.replies.values_mut() {
            let way = A::way(record);
            let last_seen_tick = age(way.last_seen_tick);
            *record = A::reply_record(&Way { last_seen_tick, ..way });
        }
        for record in self.fragments.values_mut() {
            let way = A::fragment_way(record);
            let seen_tick = age(way.seen_tick);
            *record = A::fragment_record(&FragmentWay { seen_tick, ..way });
        }
        self
    }
}
