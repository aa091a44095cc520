//! Ends sockets that are connected to a backend that is gone, so that their applications connect
//! again at once and not when a timer of theirs ends.
//!
//! Runs on a thread of its own: it enters namespaces, and lists sockets there, which may be many.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use aya::maps::{HashMap, MapData};
use lb_common::abi::{SocketPeer, connected_to};
use zerocopy::FromBytes as _;

use super::Registry;
use crate::netlink::{self, Process};

/// When it is looked again: a call that was under way when its backend went may have remembered it
/// after the first look.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// A backend that is gone, by number and generation.
pub type Gone = (u32, u32);

/// Ends sockets.
#[derive(Debug)]
pub struct Reaper {
    connected: OwnedFd,
    datagrams: HashMap<MapData, u64, u64>,
    gone: Receiver<Gone>,
}

impl Reaper {
    /// One that hears of what is gone. `connected` is the map of what sockets remember, `datagrams` that
    /// of the sockets of UDP.
    #[must_use]
    pub fn new(
        connected: OwnedFd,
        datagrams: HashMap<MapData, u64, u64>,
        gone: Receiver<Gone>,
    ) -> Self {
        Self { connected, datagrams, gone }
    }

    /// Works until nobody can tell it of anything any more. The calling thread must be in the node's
    /// network namespace.
    pub fn run(self, registry: &Registry) {
        let mut again = BTreeSet::new();
        loop {
            let first = if again.is_empty() {
                self.gone.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.gone.recv_timeout(SECOND_LOOK)
            };
            let mut gone: BTreeSet<Gone> = match first {
                Ok(gone) => BTreeSet::from([gone]),
                Err(RecvTimeoutError::Timeout) => BTreeSet::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            gone.extend(self.gone.try_iter());
            let mut all = std::mem::take(&mut again);
            all.extend(&gone);
            self.end(&all, registry);
            again = gone;
        }
    }

    fn is_connected_to(&self, cookie: u64, gone: &BTreeSet<Gone>) -> bool {
        let Ok(held) = self.datagrams.get(&cookie, 0) else { return false };
        gone.iter().any(|(backend, generation)| held == connected_to(*backend, *generation))
    }

    fn end(&self, gone: &BTreeSet<Gone>, registry: &Registry) {
        for known in registry.all() {
            let Ok(process) = known.pid.map(Process::open).transpose() else {
                // Its sockets have ended with it.
                continue;
            };
            let result =
                netlink::end_sockets(
                    process.as_ref(),
                    self.connected.as_fd(),
                    &|found| match found.stored {
                        Some(value) => is_of(value, gone),
                        None => self.is_connected_to(found.cookie, gone),
                    },
                );
            match result {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!("ended {count} sockets of {} whose backend is gone", known.name);
                }
                Err(_) if process.is_some_and(|process| !process.is_alive()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => tracing::warn!(
                    "this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY): clients of a backend \
                     that is gone wait for their own timers"
                ),
                Err(error) => {
                    tracing::warn!("cannot end sockets of {}: {error}", known.name);
                }
            }
        }
    }
}

/// Whether a socket has been led to one of these.
fn is_of(value: &[u8], gone: &BTreeSet<Gone>) -> bool {
    SocketPeer::read_from_bytes(value)
        .is_ok_and(|peer| peer.is_whole() && gone.contains(&(peer.backend, peer.generation)))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn only_whole_peers_of_what_is_gone_are_ended() {
        let gone = BTreeSet::from([(7, 2)]);
        let peer = |backend, generation| {
            SocketPeer { backend, generation, ..SocketPeer::default() }.sealed()
        };
        let check = |peer: SocketPeer, expected| {
            assert_eq!(is_of(peer.as_bytes(), &gone), expected, "{peer:?}");
        };
        check(peer(7, 2), true);
        check(peer(7, 3), false);
        check(peer(8, 2), false);
        check(SocketPeer { seal: 1, ..peer(7, 2) }, false);
        check(SocketPeer::default(), false);
        assert!(!is_of(&peer(7, 2).as_bytes()[1..], &gone));
    }
}
