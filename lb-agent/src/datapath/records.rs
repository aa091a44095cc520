//! The tables of recorded flows and replies, and the sweep that removes what is dead.
//!
//! The programs insert and refresh records, and never look for old ones. A call of the sweep looks
//! at a bounded number of entries and the next goes on from there.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use lb_common::abi::{
    CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLOSING_SECONDS, ESTABLISHED_SECONDS, FlowKeyV4, FlowKeyV6,
    FlowRecord, HALF_OPEN_SECONDS, ReplyKeyV4, ReplyKeyV6, ReplyRecordV4, ReplyRecordV6, TAKES_OLD,
    map_names, ticks_from_seconds,
};
use lb_common::engine::is_fresh;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    sys,
    tables::{Tables, is_absent, take},
};

/// Entries of one table that one call looks at: some milliseconds of work.
const ENTRIES_PER_CALL: u64 = 16_384;
/// Entries that one bpf(2) call returns.
const BATCH: usize = 2_048;

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Records of flows that were looked at.
    pub flows_seen: u64,
    /// Records of flows that were dead and are deleted.
    pub flows_deleted: u64,
    /// Records of replies that were looked at.
    pub replies_seen: u64,
    /// Records of replies that were dead and are deleted.
    pub replies_deleted: u64,
}

/// A hash map that is read in batches over several calls.
#[derive(Debug)]
pub(super) struct RecordTable<K, V> {
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
    /// Where the next batch begins; `None`: at the beginning.
    cursor: Option<u32>,
    /// Entries left in the table by the present pass.
    counting: u64,
    /// Entries that the last whole pass left in the table.
    counted: u64,
    keys: Vec<K>,
    values: Vec<V>,
}

/// The four tables.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) flows_v4: RecordTable<FlowKeyV4, FlowRecord>,
    pub(super) flows_v6: RecordTable<FlowKeyV6, FlowRecord>,
    pub(super) replies_v4: RecordTable<ReplyKeyV4, ReplyRecordV4>,
    pub(super) replies_v6: RecordTable<ReplyKeyV6, ReplyRecordV6>,
}

/// What the sweep needs to know of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct BackendView {
    generation: u32,
    state: u8,
}

impl Records {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            flows_v4: RecordTable::take(ebpf, map_names::FLOWS_V4)?,
            flows_v6: RecordTable::take(ebpf, map_names::FLOWS_V6)?,
            replies_v4: RecordTable::take(ebpf, map_names::REPLIES_V4)?,
            replies_v6: RecordTable::take(ebpf, map_names::REPLIES_V6)?,
        })
    }
}

impl Tables {
    /// Deletes records of which nothing was heard for too long, or whose backend is gone. Half-open
    /// ones are turned over by the data path itself.
    pub(super) fn sweep(&mut self, now_tick: u32) -> anyhow::Result<SweepReport> {
        let Self { records, backends_v4, backends_v6, meta, .. } = self;
        let Records { flows_v4, flows_v6, replies_v4, replies_v6 } = records;
        let flows = [
            flows_v4.sweep(|_, flow| {
                let backend = backends_v4.load(flow.backend).unwrap_or_default();
                let (generation, state) = (backend.generation, backend.state);
                is_dead(flow, now_tick, BackendView { generation, state })
            })?,
            flows_v6.sweep(|_, flow| {
                let backend = backends_v6.load(flow.backend).unwrap_or_default();
                let (generation, state) = (backend.generation, backend.state);
                is_dead(flow, now_tick, BackendView { generation, state })
            })?,
        ];
        let limits = meta.load(0).unwrap_or_default().limits;
        let replies = [
            replies_v4.sweep(|_, reply| {
                !is_fresh(u32::from(reply.class), reply.last_seen_tick, &limits, now_tick)
            })?,
            replies_v6.sweep(|_, reply| {
                !is_fresh(u32::from(reply.class), reply.last_seen_tick, &limits, now_tick)
            })?,
        ];
        let sum = |passes: [Pass; 2]| {
            (passes[0].seen + passes[1].seen, passes[0].deleted + passes[1].deleted)
        };
        let (flows_seen, flows_deleted) = sum(flows);
        let (replies_seen, replies_deleted) = sum(replies);
        Ok(SweepReport { flows_seen, flows_deleted, replies_seen, replies_deleted })
    }
}

#[derive(Clone, Copy, Default)]
struct Pass {
    seen: u64,
    deleted: u64,
}

impl<K, V> RecordTable<K, V>
where
    K: Pod + FromBytes + IntoBytes + Immutable,
    V: Pod + FromBytes + IntoBytes + Immutable,
{
    fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Self> {
        let map = take(ebpf, name)?;
        let Map::HashMap(data) = &map else {
            anyhow::bail!("map `{name}` of the embedded BPF object is no hash map");
        };
        Ok(Self {
            fd: data.fd().as_fd().try_clone_to_owned()?,
            map: HashMap::try_from(map)?,
            cursor: None,
            counting: 0,
            counted: 0,
            keys: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Entries that the last whole pass left in the table.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    /// Looks at the next entries and deletes those that `is_dead` says are, asked a second time of
    /// what is in the table at that moment.
    fn sweep(&mut self, is_dead: impl Fn(&K, &V) -> bool) -> anyhow::Result<Pass> {
        let mut pass = Pass::default();
        while pass.seen < ENTRIES_PER_CALL {
            let (count, is_last) = self.next_batch()?;
            for index in 0..count {
                let (key, value) = (self.keys[index], self.values[index]);
                let deletes = is_dead(&key, &value)
                    && self.get(&key)?.is_some_and(|value| is_dead(&key, &value));
                if deletes {
                    self.remove(&key)?;
                    pass.deleted += 1;
                } else {
                    self.counting += 1;
                }
            }
            pass.seen += count as u64;
            if is_last {
                self.counted = std::mem::take(&mut self.counting);
                break;
            }
        }
        Ok(pass)
    }

    /// Fills the buffers; says with how many entries and whether these were the last of the table.
    fn next_batch(&mut self) -> anyhow::Result<(usize, bool)> {
        let Self { fd, cursor, keys, values, .. } = self;
        let mut room = keys.len().max(BATCH);
        let batch = loop {
            keys.resize_with(room, K::new_zeroed);
            values.resize_with(room, V::new_zeroed);
            match sys::lookup_batch(fd.as_fd(), *cursor, keys, values) {
                // Many keys in one bucket; there are never more than the table has room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                result => break result?,
            }
        };
        *cursor = batch.next;
        Ok((batch.count, batch.next.is_none()))
    }

    fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        match self.map.remove(key) {
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a record counts no more, as the engine has it: too old for its class, or its backend
/// keeps no flows or is another one by now.
fn is_dead(flow: &FlowRecord, now_tick: u32, backend: BackendView) -> bool {
    if flow.generation != backend.generation || backend.state & TAKES_OLD == 0 {
        return true;
    }
    let seconds = match flow.class {
        CLASS_HALF_OPEN => HALF_OPEN_SECONDS,
        CLASS_ESTABLISHED => ESTABLISHED_SECONDS,
        _ => CLOSING_SECONDS,
    };
    // Another CPU may have seen a packet in the tick after `now_tick`.
    let age = now_tick.wrapping_sub(flow.last_seen_tick).cast_signed().max(0).cast_unsigned();
    age > ticks_from_seconds(seconds)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{CLASS_CLOSING, TAKES_NEW};

    use super::*;

    #[test]
    fn records_die_by_age_and_with_their_backend() {
        const NOW: u32 = 100_000;
        let check = |class, age_seconds: i64, backend: BackendView, expected: bool| {
            let age_ticks = (age_seconds * 1_000_000_000) >> 30;
            let last_seen_tick = u32::try_from(i64::from(NOW) - age_ticks).unwrap();
            let flow = FlowRecord { backend: 1, generation: 7, last_seen_tick, class };
            let dead = is_dead(&flow, NOW, backend);
            assert_eq!(dead, expected, "class {class}, {age_seconds} s, {backend:?}");
        };
        let healthy = BackendView { generation: 7, state: TAKES_NEW | TAKES_OLD };
        check(CLASS_HALF_OPEN, 70, healthy, false);
        check(CLASS_HALF_OPEN, 80, healthy, true);
        check(CLASS_CLOSING, 115, healthy, false);
        check(CLASS_CLOSING, 125, healthy, true);
        check(CLASS_ESTABLISHED, 8390, healthy, false);
        check(CLASS_ESTABLISHED, 8410, healthy, true);
        check(CLASS_ESTABLISHED, -2, healthy, false);

        let draining = BackendView { state: TAKES_OLD, ..healthy };
        check(CLASS_ESTABLISHED, 10, draining, false);
        let gone = BackendView { state: 0, ..healthy };
        check(CLASS_ESTABLISHED, 10, gone, true);
        let another = BackendView { generation: 8, ..healthy };
        check(CLASS_ESTABLISHED, 10, another, true);
    }
}
