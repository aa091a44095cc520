//! The frontend tables as [`lb_common::frontends`] reads them.

use core::sync::atomic::AtomicU64;

use aya_ebpf::btf_maps::Array;
use lb_common::{
    abi::{FAMILY_V4, FAMILY_V6, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6},
    frontends::{Bucket, FrontendMaps, PortList},
};

use crate::maps::{
    FRONTEND_HEADERS, FRONTENDS_V4, FRONTENDS_V6, MAPPED, PORT_LISTS_V4, PORT_LISTS_V6,
    VIP_FILTER_V4, VIP_FILTER_V6,
};

/// The frontend tables of IPv4.
pub struct FrontendsV4;
/// The frontend tables of IPv6.
pub struct FrontendsV6;

/// A value that the agent changes while we look at it: words, each loaded at once.
#[inline(always)]
fn shared<Raw, Shared, const N: usize>(
    map: &'static Array<Raw, N, MAPPED>,
    index: u32,
) -> Option<&'static Shared> {
    const { assert!(size_of::<Raw>() == size_of::<Shared>()) };
    // SAFETY: elements of an array stay where they are, and `Shared` is the same words as atomics.
    map.get_ptr(index).map(|element| unsafe { &*element.cast::<Shared>() })
}

/// A load of a whole word, which no other takes the place of. LLVM has no atomic one for BPF before
/// version 4 of the instruction set; an aligned plain one is the same instruction.
#[inline(always)]
fn load(word: &AtomicU64) -> u64 {
    // SAFETY: a reference is valid and aligned; other CPUs change the word by whole stores.
    unsafe { word.as_ptr().read_volatile() }
}

impl FrontendMaps<FRONTEND_WORDS_V4> for FrontendsV4 {
    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        shared(&VIP_FILTER_V4, index)
    }

    #[inline(always)]
    fn header(&self) -> Option<&AtomicU64> {
        shared(&FRONTEND_HEADERS, FAMILY_V4)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<FRONTEND_WORDS_V4>> {
        shared(&FRONTENDS_V4, index)
    }

    #[inline(always)]
    fn port_list(&self, index: u32) -> Option<&PortList> {
        shared(&PORT_LISTS_V4, index)
    }

    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        load(word)
    }
}

impl FrontendMaps<FRONTEND_WORDS_V6> for FrontendsV6 {
    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        shared(&VIP_FILTER_V6, index)
    }

    #[inline(always)]
    fn header(&self) -> Option<&AtomicU64> {
        shared(&FRONTEND_HEADERS, FAMILY_V6)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<FRONTEND_WORDS_V6>> {
        shared(&FRONTENDS_V6, index)
    }

    #[inline(always)]
    fn port_list(&self, index: u32) -> Option<&PortList> {
        shared(&PORT_LISTS_V6, index)
    }

    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        load(word)
    }
}
