//! Whose questions are passed on: the node's own and its containers'. Whoever else can reach the address
//! that we listen on could use us to ask anybody anything, and in the name of others.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{model::IpPrefix, netlink};

/// How often it is looked whether a stranger has become one of ours: a network may be new.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long one of ours is so without another look: its network may be gone, and others have the subnet.
const KNOWN_FOR: Duration = Duration::from_secs(5);

type Look = dyn Fn() -> io::Result<BTreeSet<IpPrefix>> + Send + Sync;

/// The node's own addresses and the subnets of its containers.
pub(super) struct Neighbours {
    look: Box<Look>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked_at: Option<Instant>,
    prefixes: BTreeSet<IpPrefix>,
}

impl Neighbours {
    /// With the names of front interfaces, where clients are.
    pub(super) fn new(fronts: &[String]) -> Self {
        let fronts = fronts.to_vec();
        Self::seen_by(move || netlink::local_networks(&fronts))
    }

    fn seen_by(look: impl Fn() -> io::Result<BTreeSet<IpPrefix>> + Send + Sync + 'static) -> Self {
        Self { look: Box::new(look), known: Mutex::default() }
    }

    /// Whether it is one of them.
    pub(super) fn have(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return true;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let look_after = if known.has(address) { KNOWN_FOR } else { LOOK_AGAIN };
        if known.looked_at.is_none_or(|at| at.elapsed() >= look_after) {
            known.looked_at = Some(Instant::now());
            match (self.look)() {
                Ok(prefixes) => known.prefixes = prefixes,
                Err(error) => tracing::warn!("names: no look at this node's addresses: {error}"),
            }
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
    use std::sync::Arc;

    use super::*;

    #[test]
    fn whoever_is_in_a_subnet_of_containers_is_one_of_ours() {
        let prefixes = ["172.18.0.0/16", "192.0.2.1/32", "fd00:1::/64"].map(prefix);
        let neighbours = Neighbours::seen_by(move || Ok(BTreeSet::from(prefixes)));
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

    #[tokio::test(start_paused = true)]
    async fn networks_that_come_and_go_are_seen_and_none_is_looked_for_all_the_time() {
        let there = Arc::new(Mutex::new((BTreeSet::new(), 0)));
        let seen = Arc::clone(&there);
        let neighbours = Neighbours::seen_by(move || {
            let mut seen = seen.lock().expect("a lock");
            seen.1 += 1;
            Ok(seen.0.clone())
        });
        // How long it is waited first, which network there is then, how many looks there were in all.
        for (what, wait_ms, network, looks, expected) in [
            ("nothing is known", 0, None, 1, false),
            ("it was looked at just now", 999, Some("172.18.0.0/16"), 1, false),
            ("a network is new", 1, Some("172.18.0.0/16"), 2, true),
            ("it is gone, and was there just now", 4999, None, 2, true),
            ("the network is gone", 1, None, 3, false),
            ("it is back too soon", 500, Some("172.18.0.0/16"), 3, false),
            ("and is seen", 500, Some("172.18.0.0/16"), 4, true),
        ] {
            there.lock().expect("a lock").0 = network.map(prefix).into_iter().collect();
            tokio::time::advance(Duration::from_millis(wait_ms)).await;
            for _ in 0..3 {
                assert_eq!(neighbours.have([172, 18, 0, 2].into()), expected, "{what}");
            }
            assert_eq!(there.lock().expect("a lock").1, looks, "{what}");
        }
    }

    fn prefix(text: &str) -> IpPrefix {
        let (address, length) = text.split_once('/').expect(text);
        IpPrefix::of(address.parse().expect(text), length.parse().expect(text))
    }
}
