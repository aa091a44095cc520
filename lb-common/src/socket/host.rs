//! Socket tables in memory, for tests and `explain`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    vec::Vec,
};

use super::{Membership, SocketTables};
use crate::{
    abi::{
        ClassNetwork, Client, FlowRecord, Frontend, Limits, ReachEntry, ReachKey, ReachList,
        Refusals, RingDescriptor, ServiceScope, Slot,
    },
    engine::{Backend, Family, Tables, host::HostTables},
};

/// The tables of packets, and those of sockets.
#[derive(Clone, Debug)]
pub struct HostSocketTables<A: Family> {
    /// The tables of packets.
    pub packets: HostTables<A>,
    /// `CLIENTS`.
    pub clients: HashMap<u64, Client>,
    /// `CLASS_NETWORKS`.
    pub class_networks: HashSet<ClassNetwork>,
    /// `REACH_LISTS`.
    pub reach_lists: HashMap<ReachKey, ReachList>,
    /// `REACH_ENTRIES`.
    pub reach_entries: Vec<ReachEntry>,
    /// `SERVICE_SCOPES`.
    pub scopes: HashMap<u32, ServiceScope>,
    /// `BACKEND_NETWORKS`.
    pub networks: HashMap<u32, u64>,
}

impl<A: Family> Default for HostSocketTables<A> {
    fn default() -> Self {
        let packets = HostTables::default();
        let (clients, class_networks, reach_lists, reach_entries, scopes, networks) =
            <_>::default();
        Self { packets, clients, class_networks, reach_lists, reach_entries, scopes, networks }
    }
}

impl<A: Family> HostSocketTables<A> {
    /// Writes a list: slots, members that are preferred, the others, each by its number.
    pub fn put_reach(&mut self, key: ReachKey, parts: [&[ReachEntry]; 3]) {
        let length = |part: &[ReachEntry]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        let [slots, near, far] = parts.map(length);
        let start = length(&self.reach_entries);
        self.reach_entries.extend(parts.concat());
        self.reach_lists.insert(key, ReachList { start, slots, near, far });
    }
}

impl<A: Family> Membership for HostSocketTables<A> {
    fn is_on(&self, class: u64, network: u64) -> bool {
        self.class_networks.contains(&ClassNetwork { class, network })
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

    fn reach_list(&self, key: &ReachKey) -> Option<ReachList> {
        self.reach_lists.get(key).copied()
    }

    fn reach_entry(&self, index: u32) -> ReachEntry {
        self.reach_entries.get(index as usize).copied().unwrap_or_default()
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

    fn local(&self, address: A) -> u32 {
        self.packets.local(address)
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
