//! Whose questions are passed on: the node's own and its containers'. Whoever else can reach the address
//! that we listen on could use us to ask anybody anything, and in the name of others.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{model::IpPrefix, netlink};

/// How often it is looked whether a stranger has become one of ours: a network may be new.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The node's own addresses and the subnets of its containers.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// Indexes of front interfaces, where clients are.
    fronts: BTreeSet<u32>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked_at: Option<Instant>,
    prefixes: BTreeSet<IpPrefix>,
}

impl Neighbours {
    pub(super) fn new(fronts: &[u32]) -> Self {
        Self { fronts: fronts.iter().copied().collect(), known: Mutex::default() }
    }

    /// Whether it is one of them.
    pub(super) fn have(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return true;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.has(address) {
            return true;
        }
        if known.looked_at.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return false;
        }
        known.looked_at = Some(Instant::now());
        match netlink::local_prefixes(&self.fronts) {
            Ok(prefixes) => known.prefixes = prefixes,
            Err(error) => tracing::warn!("names: this node's addresses cannot be read: {error}"),
        }
        known.has(address)
    }
}

impl Known {
    fn has(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| IpPrefix::of(address, prefix.length()) == *prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_in_a_subnet_of_containers_is_one_of_ours() {
        let prefixes = BTreeSet::from(["172.18.0.0/16", "192.0.2.1/32", "fd00:1::/64"].map(prefix));
        let known = Known { looked_at: Some(Instant::now()), prefixes };
        let neighbours = Neighbours { fronts: BTreeSet::new(), known: Mutex::new(known) };
        for (address, expected) in [
            ("127.0.0.53", true),
            ("::1", true),
            ("172.18.200.7", true),
            ("::ffff:172.18.0.2", true),
            ("192.0.2.1", true),
            ("fd00:1::7", true),
            ("192.0.2.2", false),
            ("172.19.0.2", false),
            ("fd00:2::7", false),
            ("::ac12:2", false),
        ] {
            assert_eq!(neighbours.have(address.parse().expect(address)), expected, "{address}");
        }
    }

    fn prefix(text: &str) -> IpPrefix {
        let (address, length) = text.split_once('/').expect(text);
        IpPrefix::of(address.parse().expect(text), length.parse().expect(text))
    }
}
