//! What the responder is doing, for people: where it listens, and who asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::api::types::{NameServerView, NamesView};

/// Askers that are remembered, in each of two generations; anybody can ask, so it is bounded.
const ASKERS_MAX: usize = 512;

/// Shared between the responder and who shows it.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Each with what is wrong with it.
    servers: BTreeMap<SocketAddr, Option<String>>,
    /// What is wrong with the names that all of them answer.
    names: Option<String>,
    /// Who has asked since the generation before was complete.
    askers: BTreeSet<IpAddr>,
    /// The generation before.
    earlier: BTreeSet<IpAddr>,
}

impl Activity {
    /// Notes whether an address is listened on.
    pub(super) fn note_server(&self, address: SocketAddr, trouble: Option<String>) {
        self.inner().servers.insert(address, trouble);
    }

    /// Notes whether the names are up to date.
    pub(super) fn note_names(&self, trouble: Option<String>) {
        self.inner().names = trouble;
    }

    /// Notes that somebody has asked.
    pub(super) fn note_asker(&self, asker: IpAddr) {
        let mut inner = self.inner();
        inner.askers.insert(asker.to_canonical());
        if inner.askers.len() >= ASKERS_MAX {
            inner.earlier = std::mem::take(&mut inner.askers);
        }
    }

    /// For people.
    #[must_use]
    pub fn view(&self) -> NamesView {
        let inner = self.inner();
        let servers = inner.servers.iter();
        NamesView {
            servers: servers
                .map(|(address, trouble)| NameServerView {
                    address: *address,
                    trouble: trouble.clone().or_else(|| inner.names.clone()),
                })
                .collect(),
            askers: inner.askers.union(&inner.earlier).copied().collect(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn askers_are_bounded_and_the_oldest_go() {
        let activity = Activity::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let count = u32::try_from(ASKERS_MAX).expect("a small number");
        for number in 0..2 * count - 1 {
            activity.note_asker(address(number));
        }
        assert_eq!(activity.view().askers.len(), 2 * ASKERS_MAX - 1);
        // It asks again, so it is not among those who go.
        activity.note_asker(address(0));
        activity.note_asker(address(2 * count));
        let askers = activity.view().askers;
        assert!(askers.contains(&address(0)) && askers.contains(&address(2 * count)));
        assert!(!askers.contains(&address(1)) && askers.len() <= 2 * ASKERS_MAX);
    }
}
