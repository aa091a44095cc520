//! Who takes how much of what is bounded: so much for all, and a share of it for one asker.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Places, and who has them.
#[derive(Clone, Debug)]
pub(super) struct Room {
    all_max: usize,
    own_max: usize,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of the places, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    asker: IpAddr,
}

impl Room {
    /// So many places, and so many of them for one asker.
    pub(super) fn new(all_max: usize, own_max: usize) -> Self {
        Self { all_max, own_max, held: Arc::default() }
    }

    /// `None`: there is none for this asker.
    pub(super) fn take(&self, asker: IpAddr) -> Option<Place> {
        let asker = whose(asker);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = held.values().sum();
        let own = held.get(&asker).copied().unwrap_or(0);
        if all >= self.all_max || own >= self.own_max {
            return None;
        }
        held.insert(asker, own + 1);
        Some(Place { room: self.clone(), asker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.room.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.asker);
            }
        }
    }
}

/// Of IPv6, whoever has an address mostly has all of its /64.
fn whose(asker: IpAddr) -> IpAddr {
    match asker.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}
