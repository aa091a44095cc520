//! An array map as memory: the agent's stores are seen by the programs at once, without a call.
//!
//! Every access is an atomic load or store of one aligned word or byte, so no reader sees half of
//! one. A value of several words is not written at once: callers choose which word goes last.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The longest value of a mapped array, in words.
const WORDS_MAX: usize = 6;

/// A shared mapping of a `BPF_F_MMAPABLE` array of `T`.
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    base: NonNull<AtomicU64>,
    entries: u32,
    length: usize,
    value: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed by atomics.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: FromBytes + IntoBytes + Immutable> MappedArray<T> {
    /// The kernel rounds the stride of an array up to 8 bytes; ours are multiples already.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() / 8 <= WORDS_MAX);
        size_of::<T>() / 8
    };

    /// Maps an array of `entries` values.
    pub(super) fn new(map: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        let length = entries as usize * Self::WORDS * 8;
        // SAFETY: a new mapping, placed by the kernel, of a descriptor that is open.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast())
            .ok_or_else(|| io::Error::other("the kernel mapped an array at address 0"))?;
        Ok(Self { base, entries, length, value: PhantomData })
    }

    /// Number of values.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Reads a value; `None` beyond the end.
    pub(super) fn load(&self, index: u32) -> Option<T> {
        let mut words = [0_u64; WORDS_MAX];
        for (number, word) in words.iter_mut().enumerate().take(Self::WORDS) {
            *word = self.word(index, number)?.load(Ordering::Acquire);
        }
        T::read_from_prefix(words.as_bytes()).ok().map(|(value, _)| value)
    }

    /// Writes a value, word `last` of it after all others. `None` beyond the end.
    pub(super) fn store(&self, index: u32, value: &T, last: usize) -> Option<()> {
        let mut words = [0_u64; WORDS_MAX];
        words.as_mut_bytes()[..size_of::<T>()].copy_from_slice(value.as_bytes());
        let order = (0..Self::WORDS).filter(|&number| number != last).chain([last]);
        for number in order {
            self.word(index, number)?.store(words[number], Ordering::Release);
        }
        Some(())
    }

    /// Writes one byte of a value, and nothing beside it.
    pub(super) fn store_byte(&self, index: u32, offset: usize, value: u8) -> Option<()> {
        let word: *const AtomicU64 = self.word(index, offset / 8)?;
        // SAFETY: within the word that `word` has found; a byte has no alignment.
        let byte = unsafe { &*word.cast::<AtomicU8>().add(offset % 8) };
        byte.store(value, Ordering::Release);
        Some(())
    }

    fn word(&self, index: u32, number: usize) -> Option<&AtomicU64> {
        if index >= self.entries || number >= Self::WORDS {
            return None;
        }
        // SAFETY: within the mapping by the test above, and aligned: a mapping begins at a page.
        Some(unsafe { self.base.add(index as usize * Self::WORDS + number).as_ref() })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, and nothing refers to it any more.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert_eq!(result, 0, "munmap fails only for addresses that are no mapping");
    }
}
