//! Socket tables in memory, for tests and `explain`.

use std::{collections::HashMap, net::IpAddr};

use super::SocketTables;
use crate::{
    abi::{Client, FlowRecord, Frontend, Limits, Refusals, RingDescriptor, ServiceScope, Slot},
    engine::{Backend, Family, Tables, host::HostTables},
};

/// The tables of packets, and those of sockets.
#[derive(Clone, Debug)]
pub struct HostSocketTables<A: Family> {
    /// The tables of packets.
    pub packets: HostTables<A>,
    /// `CLIENTS`.
    pub clients: HashMap<u64, Client>,
    /// `SERVICE_SCOPES`.
    pub scopes: HashMap<u32, ServiceScope>,
    /// `BACKEND_NETWORKS`.
    pub networks: HashMap<u32, u64>,
}

impl<A: Family> Default for HostSocketTables<A> {
    fn default() -> Self {
        let packets = HostTables::default();
        let (clients, scopes, networks) = <_>::default();
        Self { packets, clients, scopes, networks }
    }
}

impl<A: Family + Into<IpAddr>> SocketTables<A> for HostSocketTables<A> {
    fn client(&self, cookie: u64) -> Option<&Client> {
        self.clients.get(&cookie)
    }

    fn scope(&self, service: u32) -> Option<&ServiceScope> {
        self.scopes.get(&service)
    }

    fn network(&self, backend: u32) -> u64 {
        self.networks.get(&backend).copied().unwrap_or(0)
    }
}

impl<A: Family + Into<IpAddr>> Tables<A> for HostSocketTables<A> {
    fn limits(&self) -> Limits {
        self.packets.limits
    }

    fn frontend(&self, key: &A::FrontendKey) -> Frontend {
        self.packets.frontend(key)
    }

    fn may_be_vip(&self, address: A) -> bool {
        self.packets.may_be_vip(address)
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        self.packets.ring(ring)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.packets.slot(index)
    }

    fn backend(&self, number: u32) -> Option<Backend<A>> {
        self.packets.backend(number)
    }

    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.packets.flow(key)
    }

    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.packets.half_flow(key)
    }

    fn flow_room(&self) -> u32 {
        self.packets.flow_room()
    }

    fn refusals(&self, ring: u32) -> Refusals {
        self.packets.refusals(ring)
    }

    fn half_open_count(&self, tick: u32) -> u32 {
        self.packets.half_open_count(tick)
    }

    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault> {
        self.packets.reply_default(key)
    }

    fn is_local(&self, address: A) -> bool {
        self.packets.is_local(address)
    }

    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.packets.reply(key)
    }

    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.packets.half_reply(key)
    }

    fn fragment(&self, key: &A::FragmentKey) -> Option<A::FragmentRecord> {
        self.packets.fragment(key)
    }
}
