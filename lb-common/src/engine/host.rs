//! The engine's host side: packets in memory and tables as ordinary maps, for tests, `explain` and
//! the comparison with the kernel.

use std::{cell::RefCell, collections::HashMap, hash::Hash, vec::Vec};

use super::{
    Context, Decision, EditError, Packet, TableFull, Tables, checksum, commit, edit::translate_v4,
};
use crate::{
    abi::{
        BackendV4, DropReason, FlowKeyV4, FlowRecord, Frontend, FrontendKeyV4, FrontendKeyV6,
        FrontendState, NetU32, ReplyKeyV4, ReplyRecordV4, RingDescriptor, Slot, Verdict,
    },
    frontends::FrontendKey,
};

/// A packet in memory, whose checksums are complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPacket(
    /// From the Ethernet header on.
    pub Vec<u8>,
);

impl Packet for HostPacket {
    fn length_bytes(&self) -> usize {
        self.0.len()
    }

    fn window<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.get_mut(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn fix_l4_checksum(
        &mut self,
        offset: usize,
        change: checksum::Change,
    ) -> Result<(), EditError> {
        checksum::rewrite(self.window_mut::<2>(offset).ok_or(EditError)?, change);
        Ok(())
    }
}

/// Tables in memory. Writes go through a `RefCell`, as the kernel's go through map helpers.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// `FRONTENDS_V4`, the entries of VIPs (port 0, `PROTOCOL_ANY`) among them.
    pub frontends_v4: HashMap<FrontendKeyV4, Frontend>,
    /// `PORT_LISTS_V4`: the last port of the range that begins with the key's.
    pub wide_frontends_v4: Vec<(FrontendKeyV4, u16, Frontend)>,
    /// `FRONTENDS_V6`, the entries of VIPs among them.
    pub frontends_v6: HashMap<FrontendKeyV6, Frontend>,
    /// `PORT_LISTS_V6`: the last port of the range that begins with the key's.
    pub wide_frontends_v6: Vec<(FrontendKeyV6, u16, Frontend)>,
    /// `RINGS`.
    pub rings: HashMap<u32, RingDescriptor>,
    /// `RING_SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS_V4`.
    pub backends_v4: HashMap<u32, BackendV4>,
    /// `FLOWS_V4`.
    pub flows_v4: RefCell<HashMap<FlowKeyV4, FlowRecord>>,
    /// `REPLIES_V4`.
    pub replies_v4: RefCell<HashMap<ReplyKeyV4, ReplyRecordV4>>,
    /// Entries that `FLOWS_V4` and `REPLIES_V4` have room for each.
    pub records_max: usize,
}

impl Tables for HostTables {
    fn frontend_v4(&self, key: &FrontendKeyV4) -> Frontend {
        frontend(&self.frontends_v4, &self.wide_frontends_v4, key)
    }

    fn may_be_vip_v4(&self, address: NetU32) -> bool {
        self.frontends_v4.keys().any(|key| key.vip == address)
            || self.wide_frontends_v4.iter().any(|(key, ..)| key.vip == address)
    }

    fn frontend_v6(&self, key: &FrontendKeyV6) -> Frontend {
        frontend(&self.frontends_v6, &self.wide_frontends_v6, key)
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        // An array of the kernel has every element; those never written are zero.
        Some(self.rings.get(&ring).copied().unwrap_or_default())
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(usize::try_from(index).ok()?).copied()
    }

    fn backend_v4(&self, number: u32) -> Option<BackendV4> {
        Some(self.backends_v4.get(&number).copied().unwrap_or_default())
    }

    fn flow_v4(&self, key: &FlowKeyV4) -> Option<FlowRecord> {
        self.flows_v4.borrow().get(key).copied()
    }

    fn reply_v4(&self, key: &ReplyKeyV4) -> Option<ReplyRecordV4> {
        self.replies_v4.borrow().get(key).copied()
    }

    fn put_flow_v4(&self, key: &FlowKeyV4, record: &FlowRecord) -> Result<(), TableFull> {
        put(&mut self.flows_v4.borrow_mut(), self.records_max, *key, *record)
    }

    fn put_reply_v4(&self, key: &ReplyKeyV4, record: &ReplyRecordV4) -> Result<(), TableFull> {
        put(&mut self.replies_v4.borrow_mut(), self.records_max, *key, *record)
    }

    fn remove_flow_v4(&self, key: &FlowKeyV4) {
        self.flows_v4.borrow_mut().remove(key);
    }

    fn remove_reply_v4(&self, key: &ReplyKeyV4) {
        self.replies_v4.borrow_mut().remove(key);
    }
}

/// What [`crate::frontends::lookup`] is to find, put as simply as can be.
pub(crate) fn frontend<const W: usize, K: FrontendKey<W> + Hash>(
    single: &HashMap<K, Frontend>,
    wide: &[(K, u16, Frontend)],
    key: &K,
) -> Frontend {
    let port = key.port().get();
    let of = |found: &Frontend, state| Frontend { state, ..*found };
    if port != 0 {
        if let Some(found) = single.get(key) {
            return of(found, FrontendState::Served);
        }
        let width = |(first, last, _): &(K, u16, Frontend)| {
            (*last - first.port().get(), first.port().get())
        };
        let covering = wide.iter().filter(|(first, last, _)| {
            first.wide() == key.wide() && (first.port().get()..=*last).contains(&port)
        });
        if let Some((_, _, found)) = covering.min_by_key(|range| width(range)) {
            return of(found, FrontendState::Served);
        }
    }
    let vip = single.get(&key.vip());
    vip.map(|found| of(found, FrontendState::Unserved)).unwrap_or_default()
}

fn put<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    entries_max: usize,
    key: K,
    value: V,
) -> Result<(), TableFull> {
    if map.len() >= entries_max && !map.contains_key(&key) {
        return Err(TableFull);
    }
    map.insert(key, value);
    Ok(())
}

/// Decides on a packet and carries the decision out, as a hook does.
pub fn run(
    packet: &mut HostPacket,
    tables: &HostTables,
    context: &Context,
    decide: impl Fn(&HostPacket, &HostTables, &Context) -> Decision,
) -> Decision {
    let decision = decide(packet, tables, context);
    if let Err(reason) = commit(tables, &decision) {
        return Decision::drop(reason, decision.backend);
    }
    if let Some(edit) = &decision.edit
        && decision.verdict != Verdict::Drop
        && translate_v4(packet, edit).is_err()
    {
        return Decision::drop(DropReason::EditFailed, decision.backend);
    }
    decision
}
