//! What differs between the two address families in the tables: the types of keys and values.
//!
//! The engine is written once, over [`Family`]; the types of the maps stay concrete.

use core::{fmt::Debug, hash::Hash};
#[cfg(any(feature = "std", test))]
use std::collections::HashMap;

use super::{
    Backend, FragmentWay, Packet, Tuple, Way, hash,
    wire::{
        Address, Embedded, Headers, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, embedded_v4, embedded_v6,
        parse_v4, parse_v6,
    },
    words::{v4_at, v6_at},
};
#[cfg(any(feature = "std", test))]
use crate::abi::Frontend;
use crate::abi::{
    BackendV4, BackendV6, FAMILY_V4, FAMILY_V6, FlowKeyV4, FlowKeyV6, FragmentKeyV4, FragmentKeyV6,
    FragmentRecordV4, FragmentRecordV6, FrontendKeyV4, FrontendKeyV6, NetAddr6, NetU16, NetU32,
    ReplyDefaultKeyV4, ReplyDefaultKeyV6, ReplyDefaultV4, ReplyDefaultV6, ReplyKeyV4, ReplyKeyV6,
    ReplyRecordV4, ReplyRecordV6,
};

/// An address family: its addresses, and the types of its tables.
pub trait Family: Address + Eq + Hash + 'static {
    /// `FAMILY_*`, the family's part of a ring number.
    const NUMBER: u32;

    /// Key of `FRONTENDS_*`.
    type FrontendKey: Copy + Eq + Hash + Debug + 'static;
    /// Key of `FLOWS_*` and `HALF_FLOWS_*`.
    type FlowKey: Copy + Eq + Hash + Debug + Default + 'static;
    /// Key of `REPLIES_*` and `HALF_REPLIES_*`.
    type ReplyKey: Copy + Eq + Hash + Debug + Default + 'static;
    /// Value of `REPLIES_*` and `HALF_REPLIES_*`.
    type ReplyRecord: Copy + Eq + Debug + Default + 'static;
    /// Key of `REPLY_DEFAULTS_*`.
    type ReplyDefaultKey: Copy + Eq + Hash + Debug + 'static;
    /// Value of `REPLY_DEFAULTS_*`.
    type ReplyDefault: Copy + Eq + Debug + Default + 'static;
    /// Key of `FRAGMENTS_*`.
    type FragmentKey: Copy + Eq + Hash + Debug + Default + 'static;
    /// Value of `FRAGMENTS_*`.
    type FragmentRecord: Copy + Eq + Debug + Default + 'static;
    /// Value of `BACKENDS_*`.
    type BackendRecord: Copy + Eq + Debug + Default + 'static;

    /// The destination of a packet whose IP header begins there, whatever else it is.
    fn destination<P: Packet>(packet: &P, l3_offset: usize) -> Option<Self>;
    /// Parses a packet whose IP header begins there.
    fn parse<P: Packet>(packet: &P, l3_offset: usize) -> Headers<Self>;
    /// Parses the packet that an ICMP error quotes.
    fn embedded<P: Packet>(packet: &P, error: &Headers<Self>) -> Embedded<Self>;
    /// The frontend of an address and port.
    fn frontend_key(vip: Self, port: NetU16, protocol: u8, scope: u8) -> Self::FrontendKey;
    /// What [`crate::frontends::lookup`] is to find, from plain maps.
    #[cfg(any(feature = "std", test))]
    fn find_frontend(
        single: &HashMap<Self::FrontendKey, Frontend>,
        wide: &[(Self::FrontendKey, u16, Frontend)],
        key: &Self::FrontendKey,
    ) -> Frontend;
    /// A flow as its client sends it.
    fn flow_key(flow: &Tuple<Self>) -> Self::FlowKey;
    /// The two ends of a flow as its client sends it.
    fn tuple(flow: &Self::FlowKey) -> Tuple<Self>;
    /// A flow as its backend answers it, through an interface.
    fn reply_key(reply: &Tuple<Self>, ifindex: u32) -> Self::ReplyKey;
    /// A backend's port as the source of replies.
    fn reply_default_key(reply: &Tuple<Self>, ifindex: u32) -> Self::ReplyDefaultKey;
    /// The backend's port of a recorded flow.
    fn default_key_of(reply: &Self::ReplyKey) -> Self::ReplyDefaultKey;
    /// What a recorded reply is translated to, for the table.
    fn reply_record(way: &Way<Self>) -> Self::ReplyRecord;
    /// What a recorded reply is translated to.
    fn way(record: &Self::ReplyRecord) -> Way<Self>;
    /// What a reply without record is translated to.
    fn default_way(default: &Self::ReplyDefault) -> Way<Self>;
    /// Notes in a default that there are records of foreign flows.
    #[cfg(any(feature = "std", test))]
    fn mark_foreign(default: &mut Self::ReplyDefault);
    /// A packet that travels in fragments, from any of them; `ifindex` is the veth of the container that
    /// sends it, else 0.
    fn fragment_key(headers: &Headers<Self>, ifindex: u32) -> Self::FragmentKey;
    /// What was decided on a first fragment, for the table.
    fn fragment_record(way: &FragmentWay<Self>) -> Self::FragmentRecord;
    /// What was decided on a first fragment.
    fn fragment_way(record: &Self::FragmentRecord) -> FragmentWay<Self>;
    /// A backend.
    fn backend(record: &Self::BackendRecord) -> Backend<Self>;
    /// Which slot a flow falls on, see [`super::flow_hash`].
    fn flow_hash(hash_seed: u64, flow: &Tuple<Self>) -> u32;
    /// Which slot a client's flows fall on, whatever their ports; of the address counts the prefix of
    /// so many bits.
    fn client_hash(hash_seed: u64, client: Self, prefix_bits: u32) -> u32;
}

macro_rules! keys_and_values {
    (
        $number:ident, $frontend:ident, $flow:ident, $reply:ident, $record:ident,
        $default_key:ident, $default:ident, $backend:ident, $fragment_key:ident,
        $fragment:ident
    ) => {
        const NUMBER: u32 = $number;

        type FrontendKey = $frontend;
        type FlowKey = $flow;
        type ReplyKey = $reply;
        type ReplyRecord = $record;
        type ReplyDefaultKey = $default_key;
        type ReplyDefault = $default;
        type BackendRecord = $backend;
        type FragmentKey = $fragment_key;
        type FragmentRecord = $fragment;

        #[cfg(any(feature = "std", test))]
        fn find_frontend(
            single: &HashMap<$frontend, Frontend>,
            wide: &[($frontend, u16, Frontend)],
            key: &$frontend,
        ) -> Frontend {
            super::host::frontend(single, wide, key)
        }

        #[inline(always)]
        fn flow_key(flow: &Tuple<Self>) -> $flow {
            $flow {
                client: flow.client,
                vip: flow.server,
                client_port: flow.client_port,
                vip_port: flow.server_port,
                protocol: flow.protocol,
            }
        }

        #[inline(always)]
        fn tuple(flow: &$flow) -> Tuple<Self> {
            let client = (flow.client, flow.client_port);
            Tuple::new(client, (flow.vip, flow.vip_port), flow.protocol)
        }

        #[inline(always)]
        fn reply_key(reply: &Tuple<Self>, ifindex: u32) -> $reply {
            $reply {
                ifindex,
                backend: reply.server,
                client: reply.client,
                backend_port: reply.server_port,
                client_port: reply.client_port,
                protocol: reply.protocol,
                reserved: 0,
            }
        }

        #[inline(always)]
        fn default_key_of(reply: &$reply) -> $default_key {
            let client = (reply.client, reply.client_port);
            let answer = Tuple::new(client, (reply.backend, reply.backend_port), reply.protocol);
            Self::reply_default_key(&answer, reply.ifindex)
        }

        #[inline(always)]
        fn way(record: &$record) -> Way<Self> {
            Way {
                vip: record.vip,
                vip_port: record.vip_port,
                class: record.class,
                backend: record.backend,
                generation: record.generation,
                ifindex: record.ifindex,
                last_seen_tick: record.last_seen_tick,
                client_end: record.client_end,
                backend_end: record.backend_end,
            }
        }

        #[inline(always)]
        fn default_way(default: &$default) -> Way<Self> {
            Way {
                vip: default.vip,
                vip_port: default.vip_port,
                class: default.flags,
                backend: default.backend,
                generation: 0,
                ifindex: default.ifindex,
                last_seen_tick: 0,
                client_end: 0,
                backend_end: 0,
            }
        }

        #[cfg(any(feature = "std", test))]
        fn mark_foreign(default: &mut $default) {
            default.flags |= crate::abi::REPLY_DEFAULT_FOREIGN;
        }

        #[inline(always)]
        fn fragment_key(headers: &Headers<Self>, ifindex: u32) -> $fragment_key {
            $fragment_key {
                source: headers.source,
                destination: headers.destination,
                id: headers.fragment_id,
                protocol: headers.fragment_protocol(),
                ifindex,
                reserved: 0,
            }
        }

        #[inline(always)]
        fn fragment_way(record: &$fragment) -> FragmentWay<Self> {
            FragmentWay {
                address: record.address,
                backend: record.backend,
                generation: record.generation,
                ifindex: record.ifindex,
                seen_tick: record.seen_tick,
                verdict: record.verdict,
            }
        }

        #[inline(always)]
        fn backend(record: &$backend) -> Backend<Self> {
            Backend {
                address: record.address,
                port: record.port,
                state: record.state,
                path: record.path,
                ifindex: record.ifindex,
                generation: record.generation,
            }
        }
    };
}

impl Family for NetU32 {
    keys_and_values!(
        FAMILY_V4,
        FrontendKeyV4,
        FlowKeyV4,
        ReplyKeyV4,
        ReplyRecordV4,
        ReplyDefaultKeyV4,
        ReplyDefaultV4,
        BackendV4,
        FragmentKeyV4,
        FragmentRecordV4
    );

    #[inline(always)]
    fn destination<P: Packet>(packet: &P, l3_offset: usize) -> Option<Self> {
        Some(v4_at(packet.window::<IPV4_HEADER_BYTES>(l3_offset)?, 16))
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, l3_offset: usize) -> Headers<Self> {
        parse_v4(packet, l3_offset)
    }

    #[inline(always)]
    fn embedded<P: Packet>(packet: &P, error: &Headers<Self>) -> Embedded<Self> {
        embedded_v4(packet, error)
    }

    #[inline(always)]
    fn frontend_key(vip: Self, port: NetU16, protocol: u8, scope: u8) -> FrontendKeyV4 {
        FrontendKeyV4 { vip, port, protocol, scope }
    }

    #[inline(always)]
    fn reply_default_key(reply: &Tuple<Self>, ifindex: u32) -> ReplyDefaultKeyV4 {
        ReplyDefaultKeyV4 {
            ifindex,
            backend: reply.server,
            backend_port: reply.server_port,
            pad: 0,
            protocol: reply.protocol,
        }
    }

    #[inline(always)]
    fn reply_record(way: &Way<Self>) -> ReplyRecordV4 {
        ReplyRecordV4 {
            vip: way.vip,
            vip_port: way.vip_port,
            class: way.class,
            backend: way.backend,
            generation: way.generation,
            ifindex: way.ifindex,
            last_seen_tick: way.last_seen_tick,
            client_end: way.client_end,
            backend_end: way.backend_end,
            reserved: 0,
        }
    }

    #[inline(always)]
    fn fragment_record(way: &FragmentWay<Self>) -> FragmentRecordV4 {
        FragmentRecordV4 {
            address: way.address,
            backend: way.backend,
            generation: way.generation,
            ifindex: way.ifindex,
            seen_tick: way.seen_tick,
            verdict: way.verdict,
        }
    }

    #[inline(always)]
    fn flow_hash(hash_seed: u64, flow: &Tuple<Self>) -> u32 {
        hash::of_flow_v4(hash_seed, flow)
    }

    #[inline(always)]
    fn client_hash(hash_seed: u64, client: Self, prefix_bits: u32) -> u32 {
        hash::of_client_v4(hash_seed, client, prefix_bits)
    }
}

impl Family for NetAddr6 {
    keys_and_values!(
        FAMILY_V6,
        FrontendKeyV6,
        FlowKeyV6,
        ReplyKeyV6,
        ReplyRecordV6,
        ReplyDefaultKeyV6,
        ReplyDefaultV6,
        BackendV6,
        FragmentKeyV6,
        FragmentRecordV6
    );

    #[inline(always)]
    fn destination<P: Packet>(packet: &P, l3_offset: usize) -> Option<Self> {
        Some(v6_at(packet.window::<IPV6_HEADER_BYTES>(l3_offset)?, 24))
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, l3_offset: usize) -> Headers<Self> {
        parse_v6(packet, l3_offset)
    }

    #[inline(always)]
    fn embedded<P: Packet>(packet: &P, error: &Headers<Self>) -> Embedded<Self> {
        embedded_v6(packet, error)
    }

    #[inline(always)]
    fn frontend_key(vip: Self, port: NetU16, protocol: u8, scope: u8) -> FrontendKeyV6 {
        FrontendKeyV6 { vip, port, protocol, scope }
    }

    #[inline(always)]
    fn reply_default_key(reply: &Tuple<Self>, ifindex: u32) -> ReplyDefaultKeyV6 {
        ReplyDefaultKeyV6 {
            ifindex,
            backend: reply.server,
            backend_port: reply.server_port,
            pad: 0,
            protocol: reply.protocol,
            reserved: 0,
        }
    }

    #[inline(always)]
    fn reply_record(way: &Way<Self>) -> ReplyRecordV6 {
        ReplyRecordV6 {
            vip: way.vip,
            vip_port: way.vip_port,
            class: way.class,
            backend: way.backend,
            generation: way.generation,
            ifindex: way.ifindex,
            last_seen_tick: way.last_seen_tick,
            client_end: way.client_end,
            backend_end: way.backend_end,
        }
    }

    #[inline(always)]
    fn fragment_record(way: &FragmentWay<Self>) -> FragmentRecordV6 {
        FragmentRecordV6 {
            address: way.address,
            backend: way.backend,
            generation: way.generation,
            ifindex: way.ifindex,
            seen_tick: way.seen_tick,
            verdict: way.verdict,
            reserved: 0,
        }
    }

    #[inline(always)]
    fn flow_hash(hash_seed: u64, flow: &Tuple<Self>) -> u32 {
        hash::of_flow_v6(hash_seed, flow)
    }

    #[inline(always)]
    fn client_hash(hash_seed: u64, client: Self, prefix_bits: u32) -> u32 {
        hash::of_client_v6(hash_seed, client, prefix_bits)
    }
}
