//! The tables of the data path as the engine reads them, for `explain`. Changes nothing.
//!
//! Arrays are read by the mappings that there are; hash maps are opened by their pins, once for each
//! question, so that whoever sweeps or fills them need not lend them.

use std::{cell::RefCell, os::fd::AsFd as _, path::Path};

use anyhow::Context as _;
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie},
};
use lb_common::{
    abi::{
        BackendV4, BackendV6, ClassNetwork, Client, FlowInsertions, FlowRecord, Frontend,
        FrontendKeyV4, FrontendKeyV6, HalfOpenRate, Limits, MAX_BACKENDS, NetAddr6, NetU32,
        ReachEntry, ReachKey, ReachList, Refusals, RingDescriptor, SCOPE_NETWORKS, ServiceScope,
        Slot, map_names,
    },
    engine::{Backend, Family},
};

use super::{
    mapped::MappedArray,
    tables::{Tables, is_absent},
};
use crate::sockets::SocketTables;

/// A family and where its tables are.
pub(super) trait LiveFamily:
    Family<FlowKey: Pod, ReplyKey: Pod, ReplyRecord: Pod, ReplyDefaultKey: Pod, ReplyDefault: Pod> + Pod
{
    /// `FLOWS_*`, `HALF_FLOWS_*`, `REPLIES_*`, `HALF_REPLIES_*`, `REPLY_DEFAULTS_*`, `LOCAL_*`.
    const MAPS: [&'static str; 6];
    /// Bits of an address.
    const BITS: u32;

    fn lookup(tables: &Tables, key: &Self::FrontendKey) -> Frontend;
    fn record(tables: &Tables, number: u32) -> Option<Self::BackendRecord>;
}

impl LiveFamily for NetU32 {
    const MAPS: [&'static str; 6] = [
        map_names::FLOWS_V4,
        map_names::HALF_FLOWS_V4,
        map_names::REPLIES_V4,
        map_names::HALF_REPLIES_V4,
        map_names::REPLY_DEFAULTS_V4,
        map_names::LOCAL_V4,
    ];
    const BITS: u32 = 32;

    fn lookup(tables: &Tables, key: &FrontendKeyV4) -> Frontend {
        tables.frontends.lookup_v4(*key)
    }

    fn record(tables: &Tables, number: u32) -> Option<BackendV4> {
        tables.backends_v4.load(number)
    }
}

impl LiveFamily for NetAddr6 {
    const MAPS: [&'static str; 6] = [
        map_names::FLOWS_V6,
        map_names::HALF_FLOWS_V6,
        map_names::REPLIES_V6,
        map_names::HALF_REPLIES_V6,
        map_names::REPLY_DEFAULTS_V6,
        map_names::LOCAL_V6,
    ];
    const BITS: u32 = 128;

    fn lookup(tables: &Tables, key: &FrontendKeyV6) -> Frontend {
        tables.frontends.lookup_v6(key)
    }

    fn record(tables: &Tables, number: u32) -> Option<BackendV6> {
        tables.backends_v6.load(number)
    }
}

/// The tables of a family.
pub(super) struct LiveTables<'a, A: LiveFamily> {
    tables: &'a Tables,
    sockets: &'a SocketTables,
    flows: HashMap<MapData, A::FlowKey, FlowRecord>,
    half_flows: HashMap<MapData, A::FlowKey, FlowRecord>,
    replies: HashMap<MapData, A::ReplyKey, A::ReplyRecord>,
    half_replies: HashMap<MapData, A::ReplyKey, A::ReplyRecord>,
    reply_defaults: HashMap<MapData, A::ReplyDefaultKey, A::ReplyDefault>,
    local: LpmTrie<MapData, A, u32>,
    reach_lists: HashMap<MapData, ReachKey, ReachList>,
    reach_entries: MappedArray<u64>,
    half_open_rate: PerCpuArray<MapData, HalfOpenRate>,
    flow_insertions: PerCpuArray<MapData, FlowInsertions>,
    /// The first thing that could not be read.
    trouble: RefCell<Option<MapError>>,
}

impl<'a, A: LiveFamily> LiveTables<'a, A> {
    /// Opens the tables that are pinned there.
    pub(super) fn open(
        tables: &'a Tables,
        sockets: &'a SocketTables,
        maps: &Path,
    ) -> anyhow::Result<Self> {
        let [flows, half_flows, replies, half_replies, reply_defaults, local] = A::MAPS;
        Ok(Self {
            tables,
            sockets,
            flows: HashMap::try_from(Map::HashMap(open(maps, flows)?))?,
            half_flows: HashMap::try_from(Map::LruHashMap(open(maps, half_flows)?))?,
            replies: HashMap::try_from(Map::HashMap(open(maps, replies)?))?,
            half_replies: HashMap::try_from(Map::LruHashMap(open(maps, half_replies)?))?,
            reply_defaults: HashMap::try_from(Map::HashMap(open(maps, reply_defaults)?))?,
            local: LpmTrie::try_from(Map::LpmTrie(open(maps, local)?))?,
            reach_lists: HashMap::try_from(Map::HashMap(open(maps, map_names::REACH_LISTS)?))?,
            reach_entries: mapped_at(maps, map_names::REACH_ENTRIES)?,
            half_open_rate: PerCpuArray::try_from(Map::PerCpuArray(open(
                maps,
                map_names::HALF_OPEN_RATE,
            )?))?,
            flow_insertions: PerCpuArray::try_from(Map::PerCpuArray(open(
                maps,
                map_names::FLOW_INSERTIONS,
            )?))?,
            trouble: RefCell::default(),
        })
    }

    /// The backend with this address and port, or with any port; rather one that is alive.
    pub(super) fn backend_at(&self, address: A, port: u16) -> Option<Backend<A>> {
        let all = (1..=MAX_BACKENDS).filter_map(|number| A::record(self.tables, number));
        let here = all.map(|record| A::backend(&record)).filter(|backend| {
            backend.address.is_same(address) && [0, port].contains(&backend.port.get())
        });
        here.max_by_key(|backend| (backend.state != 0, backend.port.get() == port))
    }

    /// An error if something that was asked for could not be read.
    pub(super) fn check(self) -> anyhow::Result<()> {
        match self.trouble.into_inner() {
            Some(error) => Err(error).context("the tables cannot be read"),
            None => Ok(()),
        }
    }

    fn found<V>(&self, result: Result<V, MapError>) -> Option<V> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !is_absent(&error) {
                    self.trouble.borrow_mut().get_or_insert(error);
                }
                None
            }
        }
    }
}

pub(super) fn open(maps: &Path, name: &str) -> anyhow::Result<MapData> {
    MapData::from_pin(maps.join(name)).with_context(|| format!("map `{name}` cannot be opened"))
}

fn mapped_at(maps: &Path, name: &str) -> anyhow::Result<MappedArray<u64>> {
    let map = open(maps, name)?;
    MappedArray::new(map.fd().as_fd(), map.info()?.max_entries())
        .with_context(|| format!("map `{name}` cannot be mapped"))
}

impl<A: LiveFamily> lb_common::engine::Tables<A> for LiveTables<'_, A> {
    fn limits(&self) -> Limits {
        self.tables.meta().limits
    }

    fn frontend(&self, key: &A::FrontendKey) -> Frontend {
        A::lookup(self.tables, key)
    }

    fn may_be_vip(&self, _address: A) -> bool {
        // Only ever asked to save time.
        true
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        self.tables.rings.load(ring).map(RingDescriptor::from_raw)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.tables.ring_slots.load(index).map(Slot::from_raw)
    }

    fn backend(&self, number: u32) -> Option<Backend<A>> {
        A::record(self.tables, number).map(|record| A::backend(&record))
    }

    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.found(self.flows.get(key, 0))
    }

    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        self.found(self.half_flows.get(key, 0))
    }

    fn refusals(&self, ring: u32) -> Refusals {
        self.tables.refusals.load(ring).unwrap_or_default()
    }

    /// Of the busiest CPU: nobody knows which one the packet would meet.
    fn half_open_count(&self, tick: u32) -> u32 {
        let rates = self.found(self.half_open_rate.get(&0, 0));
        let counts = rates.iter().flat_map(|rates| rates.iter());
        counts.filter(|rate| rate.tick == tick).map(|rate| rate.count).max().unwrap_or(0)
    }

    /// Of the CPU with the least, as above.
    fn flow_room(&self) -> u32 {
        let room = self.tables.records.room(A::NUMBER);
        let inserted = self.found(self.flow_insertions.get(&A::NUMBER, 0));
        let left = inserted.iter().flat_map(|counts| counts.iter()).map(|count| room.left(*count));
        left.min().unwrap_or(room.per_cpu)
    }

    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault> {
        self.found(self.reply_defaults.get(key, 0))
    }

    fn local(&self, address: A) -> u32 {
        self.found(self.local.get(&lpm_trie::Key::new(A::BITS, address), 0)).unwrap_or(0)
    }

    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.found(self.replies.get(key, 0))
    }

    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        self.found(self.half_replies.get(key, 0))
    }

    /// Fragments are not explained.
    fn fragment(&self, _key: &A::FragmentKey) -> Option<A::FragmentRecord> {
        None
    }
}

impl<A: LiveFamily> lb_common::socket::Membership for LiveTables<'_, A> {
    fn is_on(&self, class: u64, network: u64) -> bool {
        self.sockets.class_networks.contains(&ClassNetwork { class, network })
    }
}

impl<A: LiveFamily> lb_common::socket::SocketTables<A> for LiveTables<'_, A> {
    fn client(&self, cookie: u64) -> Option<&Client> {
        self.sockets.clients.get(&cookie)
    }

    fn scope(&self, service: u32) -> Option<&ServiceScope> {
        Some(scope_of(self.sockets, service))
    }

    fn network(&self, backend: u32) -> u64 {
        self.sockets.networks.get(&backend).copied().unwrap_or(0)
    }

    fn reach_list(&self, key: &ReachKey) -> Option<ReachList> {
        self.found(self.reach_lists.get(key, 0))
    }

    fn reach_entry(&self, index: u32) -> ReachEntry {
        ReachEntry::from_raw(self.reach_entries.load(index).unwrap_or_default())
    }
}

/// Every service has a scope in the table; in that of which none was written nobody is let.
fn scope_of(sockets: &SocketTables, service: u32) -> &ServiceScope {
    static NONE: ServiceScope =
        ServiceScope { flags: 0, reserved: 0, networks: [[0; SCOPE_NETWORKS]; 2] };
    sockets.scopes.get(&service).unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_scope_is_one_that_nobody_is_let_to() {
        let written = ServiceScope { flags: 1, ..ServiceScope::default() };
        let sockets = SocketTables { scopes: [(4, written)].into(), ..SocketTables::default() };
        assert_eq!(*scope_of(&sockets, 4), written);
        assert_eq!(*scope_of(&sockets, 5), ServiceScope::default());
    }
}
