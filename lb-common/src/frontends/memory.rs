//! The maps of one family as ordinary memory, for tests and for computing what the kernel would.

use std::{sync::atomic::AtomicU64, vec::Vec};

use super::{Bucket, FrontendMaps, PortList};
use crate::abi::{FRONTEND_BUCKETS, PORT_LISTS, VIP_FILTER_WORDS};

/// Maps in memory.
#[derive(Debug)]
pub struct HostMaps<const W: usize> {
    filter: Vec<AtomicU64>,
    header: AtomicU64,
    buckets: Vec<Bucket<W>>,
    port_lists: Vec<PortList>,
}

impl<const W: usize> HostMaps<W> {
    /// Empty maps of the size that the kernel's have.
    #[must_use]
    pub fn new() -> Self {
        Self::with_buckets(FRONTEND_BUCKETS)
    }

    /// Empty maps with so many buckets in a half, a power of two.
    #[must_use]
    pub fn with_buckets(buckets: u32) -> Self {
        assert!(buckets.is_power_of_two() && buckets <= FRONTEND_BUCKETS);
        let zeros = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            filter: zeros(VIP_FILTER_WORDS),
            header: AtomicU64::new(0),
            buckets: (0..2 * buckets)
                .map(|_| core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))))
                .collect(),
            port_lists: (0..PORT_LISTS)
                .map(|_| core::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
        }
    }
}

impl<const W: usize> Default for HostMaps<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const W: usize> FrontendMaps<W> for HostMaps<W> {
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        self.filter.get(index as usize)
    }

    fn header(&self) -> Option<&AtomicU64> {
        Some(&self.header)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<W>> {
        self.buckets.get(index as usize)
    }

    fn port_list(&self, index: u32) -> Option<&PortList> {
        self.port_lists.get(index as usize)
    }

    fn buckets(&self) -> u32 {
        u32::try_from(self.buckets.len() / 2).unwrap_or(FRONTEND_BUCKETS)
    }
}
