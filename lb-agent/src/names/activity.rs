//! What the responder is doing, for people: where it listens, and who asks.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::api::types::{NameServerView, NamesView};

/// Askers that are remembered; anybody can ask, so it is bounded.
const ASKERS_MAX: usize = 1024;

/// Shared between the responder and who shows it.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Each with what is wrong with it.
    servers: BTreeMap<SocketAddr, Option<String>>,
    /// Each with the number of its latest question.
    askers: BTreeMap<IpAddr, u64>,
    questions: u64,
}

impl Activity {
    /// Notes whether an address is listened on.
    pub(super) fn note_server(&self, address: SocketAddr, trouble: Option<String>) {
        self.inner().servers.insert(address, trouble);
    }

    /// Notes that somebody has asked.
    pub(super) fn note_asker(&self, asker: IpAddr) {
        let mut inner = self.inner();
        inner.questions += 1;
        let number = inner.questions;
        inner.askers.insert(asker.to_canonical(), number);
        if inner.askers.len() > ASKERS_MAX {
            let oldest = inner.askers.iter().min_by_key(|(_, number)| **number);
            if let Some(oldest) = oldest.map(|(asker, _)| *asker) {
                inner.askers.remove(&oldest);
            }
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
                    trouble: trouble.clone(),
                })
                .collect(),
            askers: inner.askers.keys().copied().collect(),
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
    fn askers_are_bounded_and_the_oldest_goes() {
        let activity = Activity::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let count = u32::try_from(ASKERS_MAX).expect("a small number");
        for number in 0..count {
            activity.note_asker(address(number));
        }
        // It asks again, so another is the oldest.
        activity.note_asker(address(0));
        activity.note_asker(address(count));
        let askers = activity.view().askers;
        assert_eq!(askers.len(), ASKERS_MAX);
        assert!(askers.contains(&address(0)) && askers.contains(&address(count)));
        assert!(!askers.contains(&address(1)));
    }
}
