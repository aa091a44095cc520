//! An array map as memory: the agent's stores are seen by the programs at once, without a call.
//!
//! Every access is an atomic load or store of one aligned word or byte, so no reader sees half of
//! one. A value of several words is not written at once: callers choose which word goes last.
//!
//! The kernel counts every page of a mapping of a map as resident, touched or not. So an array is
//! mapped in chunks, when they are needed first, and a large part that was is given back.

use std::{
    io,
    marker::PhantomData,
    mem::{self, size_of},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering},
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The longest value of a mapped array, in words.
const WORDS_MAX: usize = 16;
/// A chunk is a multiple of this, which is a multiple of any kernel's page.
const CHUNK_STEP: usize = 64 * 1024;
/// What stays mapped of an array that is [trimmed](MappedArray::trim).
const KEPT_BYTES: usize = 512 * 1024;

/// Types that are nothing but atomic words.
///
/// # Safety
///
/// Any bytes are a value, and all access is atomic by the word.
pub(super) unsafe trait AtomicWords {}
// SAFETY: one atomic word.
unsafe impl AtomicWords for AtomicU64 {}
// SAFETY: so many of them, without padding.
unsafe impl<T: AtomicWords, const N: usize> AtomicWords for [T; N] {}

/// A shared mapping of a `BPF_F_MMAPABLE` array of `T`, as far as it was used.
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    map: OwnedFd,
    entries: u32,
    /// Where each chunk is mapped; null: it is not.
    chunks: Box<[AtomicPtr<AtomicU64>]>,
    value: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> MappedArray<T> {
    /// The kernel rounds the stride of an array up to 8 bytes; ours are multiples already.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() / 8 <= WORDS_MAX);
        size_of::<T>() / 8
    };

    /// Values of a chunk. None of them is in two.
    const CHUNK_VALUES: usize = {
        assert!(Self::CHUNK_BYTES.is_multiple_of(size_of::<T>()));
        Self::CHUNK_BYTES / size_of::<T>()
    };

    /// Maps an array of `entries` values.
    pub(super) fn new(map: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        let map = map.try_clone_to_owned()?;
        let chunks = (entries as usize).div_ceil(Self::CHUNK_VALUES);
        let chunks = (0..chunks).map(|_| AtomicPtr::default()).collect();
        let array = Self { map, entries, chunks, value: PhantomData };
        // What cannot be mapped is told now, and not when it is needed.
        if entries > 0 {
            array.map_chunk(0)?;
        }
        Ok(array)
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

    /// A value as the words that it is; `None` beyond the end.
    pub(super) fn shared<S: AtomicWords>(&self, index: u32) -> Option<&S> {
        const { assert!(size_of::<S>() == size_of::<T>()) };
        let word: *const AtomicU64 = self.word(index, 0)?;
        // SAFETY: `word` has found the first of the value's words; they are all in the mapping.
        Some(unsafe { &*word.cast::<S>() })
    }

    /// Writes one byte of a value, and nothing beside it.
    pub(super) fn store_byte(&self, index: u32, offset: usize, value: u8) -> Option<()> {
        let word: *const AtomicU64 = self.word(index, offset / 8)?;
        // SAFETY: within the word that `word` has found; a byte has no alignment.
        let byte = unsafe { &*word.cast::<AtomicU8>().add(offset % 8) };
        byte.store(value, Ordering::Release);
        Some(())
    }

    /// Gives back what is mapped, if that is much. It is mapped again when it is needed.
    pub(super) fn trim(&mut self) {
        let is_mapped = |chunk: &&AtomicPtr<AtomicU64>| !chunk.load(Ordering::Relaxed).is_null();
        let mapped = self.chunks.iter().filter(is_mapped).count();
        if mapped * Self::CHUNK_BYTES > KEPT_BYTES {
            self.unmap();
        }
    }

    fn word(&self, index: u32, number: usize) -> Option<&AtomicU64> {
        if index >= self.entries || number >= Self::WORDS {
            return None;
        }
        let (chunk, within) =
            (index as usize / Self::CHUNK_VALUES, index as usize % Self::CHUNK_VALUES);
        let base = self.chunk(chunk)?;
        // SAFETY: within the chunk by the tests above, and aligned: a mapping begins at a page. It
        // stays as long as it is borrowed: who unmaps needs the array for itself.
        Some(unsafe { base.add(within * Self::WORDS + number).as_ref() })
    }

    fn chunk(&self, number: usize) -> Option<NonNull<AtomicU64>> {
        let known = self.chunks.get(number)?.load(Ordering::Acquire);
        if let Some(base) = NonNull::new(known) {
            return Some(base);
        }
        let mapped = self.map_chunk(number);
        mapped.map_err(|error| tracing::error!("a part of a map cannot be mapped: {error}")).ok()
    }

    fn map_chunk(&self, number: usize) -> io::Result<NonNull<AtomicU64>> {
        let (start, length) = self.extent(number);
        let offset = libc::off_t::try_from(start).map_err(io::Error::other)?;
        // SAFETY: a new mapping, placed by the kernel, of a descriptor that is open.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.map.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast::<AtomicU64>())
            .ok_or_else(|| io::Error::other("the kernel mapped an array at address 0"))?;
        let (null, order) = (ptr::null_mut(), Ordering::AcqRel);
        match self.chunks[number].compare_exchange(null, base.as_ptr(), order, Ordering::Acquire) {
            Ok(_) => Ok(base),
            Err(other) => {
                // Somebody else was faster.
                unmap(base, length);
                NonNull::new(other).ok_or_else(|| io::Error::other("a chunk without address"))
            }
        }
    }
}

impl<T> MappedArray<T> {
    /// The least common multiple of a value, which is an odd number of words times a power of two, and
    /// [`CHUNK_STEP`].
    const CHUNK_BYTES: usize = {
        let words = size_of::<T>() / 8;
        (words >> words.trailing_zeros()) * CHUNK_STEP
    };

    /// Where a chunk begins in the map, and its length, in bytes.
    fn extent(&self, number: usize) -> (usize, usize) {
        let (start, end) = (number * Self::CHUNK_BYTES, self.entries as usize * size_of::<T>());
        (start, Self::CHUNK_BYTES.min(end - start))
    }

    fn unmap(&mut self) {
        for number in 0..self.chunks.len() {
            let base = mem::replace(self.chunks[number].get_mut(), ptr::null_mut());
            if let Some(base) = NonNull::new(base) {
                unmap(base, self.extent(number).1);
            }
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// Takes away a mapping that nothing refers to.
fn unmap(base: NonNull<AtomicU64>, length: usize) {
    // SAFETY: the mapping that `map_chunk` made, and nothing refers to it any more.
    let result = unsafe { libc::munmap(base.as_ptr().cast(), length) };
    debug_assert_eq!(result, 0, "munmap fails only for addresses that are no mapping");
}
