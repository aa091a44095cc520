//! A table of records that is read in batches over several calls, while the data path goes on in it.
//!
//! Owns what may be deleted from such a table without losing what the data path has written meanwhile;
//! which records are dead its callers judge.

use std::{
    io,
    ops::AddAssign,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use lb_common::slots::Sweep;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    sys::{self, Batch},
    tables::{is_absent, take},
};

/// Entries of one table that one call looks at: some milliseconds of work.
const ENTRIES_PER_CALL: u64 = 16_384;
/// Entries that one bpf(2) call returns.
const BATCH: usize = 2_048;

/// A hash map in which others write.
pub(super) trait Store<K, V> {
    /// Reads entries from `cursor` on; `ENOSPC`: one bucket holds more than there is room for.
    fn batch(&mut self, cursor: Option<u32>, keys: &mut [K], values: &mut [V])
    -> io::Result<Batch>;
    /// What is there now.
    fn get(&mut self, key: &K) -> anyhow::Result<Option<V>>;
    /// Removes an entry and says what it was at that moment.
    fn take(&mut self, key: &K) -> anyhow::Result<Option<V>>;
    /// Inserts an entry, unless the key has one or there is no room.
    fn put_back(&mut self, key: &K, value: &V) -> anyhow::Result<()>;
}

/// What a sweep tells of a record that stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// It keeps its slot from becoming plain.
    Found,
    /// It was dead, and written anew in the moment in which it was deleted: it is there again, but a
    /// packet may have missed it.
    Rewritten,
}

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pass {
    pub(super) seen: u64,
    pub(super) deleted: u64,
    /// The last entry of the table was reached.
    pub(super) is_whole: bool,
}

impl AddAssign for Pass {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.deleted += other.deleted;
    }
}

/// A hash map that is read in batches over several calls.
#[derive(Debug)]
pub(super) struct RecordTable<K, V, S = KernelStore<K, V>> {
    store: S,
    entries_max: u32,
    /// Where the next batch begins; `None`: at the beginning.
    cursor: Option<u32>,
    /// Entries left in the table by the present pass.
    counting: u64,
    /// Entries that the last whole pass left in the table.
    counted: u64,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> RecordTable<K, V>
where
    K: Pod + FromBytes + IntoBytes + Immutable,
    V: Pod + FromBytes + IntoBytes + Immutable,
{
    pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Self> {
        let (store, entries_max) = KernelStore::take(ebpf, name)?;
        Ok(Self::new(store, entries_max))
    }
}

impl<K, V, S: Store<K, V>> RecordTable<K, V, S>
where
    K: Copy + FromBytes,
    V: Copy + FromBytes,
{
    fn new(store: S, entries_max: u32) -> Self {
        Self {
            store,
            entries_max,
            cursor: None,
            counting: 0,
            counted: 0,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Entries that the last whole pass left in the table.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    /// Entries that the table has room for.
    pub(super) fn entries_max(&self) -> u32 {
        self.entries_max
    }

    /// Whether more than half of the room was taken after the last whole pass.
    pub(super) fn is_crowded(&self) -> bool {
        self.counted > u64::from(self.entries_max / 2)
    }

    /// The next call begins with the first entry.
    pub(super) fn rewind(&mut self) {
        (self.cursor, self.counting) = (None, 0);
    }

    /// Looks at the next entries and deletes those that `judge` wants deleted, at a time that is read
    /// before each batch: what the data path writes meanwhile is newer than that, never older than it
    /// looks. `note` hears of those that are kept.
    pub(super) fn sweep(
        &mut self,
        clock: impl Fn() -> u32,
        judge: impl Fn(&K, &V, u32) -> Sweep,
        mut note: impl FnMut(Kept, &K, &V),
    ) -> anyhow::Result<Pass> {
        let mut pass = Pass::default();
        while pass.seen < ENTRIES_PER_CALL {
            let now_tick = clock();
            let (count, is_last) = self.next_batch()?;
            for index in 0..count {
                let (key, value) = (self.keys[index], self.values[index]);
                let verdict = match judge(&key, &value, now_tick) {
                    Sweep::Delete => self.delete(&key, now_tick, &judge, &mut note)?,
                    verdict => Some((verdict, value)),
                };
                match verdict {
                    Some((Sweep::Delete, _)) => pass.deleted += 1,
                    Some((verdict, value)) => {
                        if verdict == Sweep::Keep {
                            note(Kept::Found, &key, &value);
                        }
                        self.counting += 1;
                    }
                    None => {}
                }
            }
            pass.seen += count as u64;
            if is_last {
                self.counted = std::mem::take(&mut self.counting);
                pass.is_whole = true;
                break;
            }
        }
        Ok(pass)
    }

    /// Deletes an entry that was to be deleted, if it still is. What is to become of it, or `None`: it
    /// was gone.
    fn delete(
        &mut self,
        key: &K,
        now_tick: u32,
        judge: &impl Fn(&K, &V, u32) -> Sweep,
        note: &mut impl FnMut(Kept, &K, &V),
    ) -> anyhow::Result<Option<(Sweep, V)>> {
        // Looks first, since what is taken away and put back is missed meanwhile.
        let Some(value) = self.store.get(key)? else { return Ok(None) };
        let verdict = judge(key, &value, now_tick);
        if verdict != Sweep::Delete {
            return Ok(Some((verdict, value)));
        }
        let Some(value) = self.store.take(key)? else { return Ok(None) };
        let verdict = judge(key, &value, now_tick);
        if verdict != Sweep::Delete {
            // The data path was quicker.
            self.store.put_back(key, &value)?;
            note(Kept::Rewritten, key, &value);
        }
        Ok(Some((verdict, value)))
    }

    /// Fills the buffers; says with how many entries and whether these were the last of the table.
    fn next_batch(&mut self) -> anyhow::Result<(usize, bool)> {
        let Self { store, cursor, keys, values, .. } = self;
        let mut room = keys.len().max(BATCH);
        let batch = loop {
            keys.resize_with(room, K::new_zeroed);
            values.resize_with(room, V::new_zeroed);
            match store.batch(*cursor, keys, values) {
                // Many keys in one bucket; there are never more than the table has room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                result => break result?,
            }
        };
        *cursor = batch.next;
        Ok((batch.count, batch.next.is_none()))
    }
}

/// The kernel's map.
#[derive(Debug)]
pub(super) struct KernelStore<K, V> {
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
}

impl<K, V> KernelStore<K, V>
where
    K: Pod + FromBytes + IntoBytes + Immutable,
    V: Pod + FromBytes + IntoBytes + Immutable,
{
    fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<(Self, u32)> {
        let map = take(ebpf, name)?;
        let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else {
            anyhow::bail!("map `{name}` of the embedded BPF object is no hash map");
        };
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        let entries_max = data.info()?.max_entries();
        Ok((Self { map: HashMap::try_from(map)?, fd }, entries_max))
    }
}

impl<K, V> Store<K, V> for KernelStore<K, V>
where
    K: Pod + FromBytes + IntoBytes + Immutable,
    V: Pod + FromBytes + IntoBytes + Immutable,
{
    fn batch(
        &mut self,
        cursor: Option<u32>,
        keys: &mut [K],
        values: &mut [V],
    ) -> io::Result<Batch> {
        sys::lookup_batch(self.fd.as_fd(), cursor, keys, values)
    }

    fn get(&mut self, key: &K) -> anyhow::Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, key: &K) -> anyhow::Result<Option<V>> {
        match sys::lookup_and_delete(self.fd.as_fd(), key) {
            // Before Linux 5.14 hash maps have no such call. What the data path writes between
            // these two is lost there: the flow is then its slot's default's.
            Err(error) if is_unsupported(&error) => {
                let value = self.get(key)?;
                match self.map.remove(key) {
                    Err(error) if !is_absent(&error) => Err(error.into()),
                    _ => Ok(value),
                }
            }
            result => Ok(result?),
        }
    }

    fn put_back(&mut self, key: &K, value: &V) -> anyhow::Result<()> {
        match self.map.insert(key, value, sys::FLAG_NO_EXIST) {
            // The data path has written another, or was quicker to use the room.
            Err(MapError::SyscallError(error))
                if matches!(
                    error.io_error.raw_os_error(),
                    Some(libc::EEXIST | libc::E2BIG | libc::ENOMEM | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            result => Ok(result?),
        }
    }
}

/// Whether the kernel does not have the call for this type of map.
fn is_unsupported(error: &io::Error) -> bool {
    /// `ENOTSUPP`, which is no error of user space and has no name there.
    const NOT_SUPPORTED: i32 = 524;
    error.raw_os_error() == Some(NOT_SUPPORTED)
}

#[cfg(test)]
#[path = "record_table_tests.rs"]
mod tests;
