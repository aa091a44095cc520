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
use lb_common::abi::{SocketPeer, connected_backend};
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
    due: Due,
}

impl Reaper {
    /// One that hears of what is gone, and knows what was gone before. `connected` is the map of what
    /// sockets remember, `datagrams` that of the sockets of UDP.
    #[must_use]
    pub fn new(
        connected: OwnedFd,
        datagrams: HashMap<MapData, u64, u64>,
        gone: Receiver<Gone>,
        before: BTreeSet<Gone>,
    ) -> Self {
        let due = Due { unseen: before, ..Due::default() };
        Self { connected, datagrams, gone, due }
    }

    /// Works until nobody can tell it of anything any more. The calling thread must be in the node's
    /// network namespace.
    pub fn run(mut self, registry: &Registry) {
        loop {
            let first = if self.due.is_empty() {
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
            let all = self.due.take(gone, registry.is_complete());
            if !all.is_empty() {
                self.end(&all, registry);
            }
        }
    }

    fn is_connected_to(&self, cookie: u64, gone: &BTreeSet<Gone>) -> bool {
        let Ok(held) = self.datagrams.get(&cookie, 0) else { return false };
        gone.contains(&connected_backend(held))
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

/// What is to be looked for, and when.
#[derive(Debug, Default)]
struct Due {
    /// Once more, see [`SECOND_LOOK`].
    again: BTreeSet<Gone>,
    /// When all containers have been seen for the first time: what went while no agent ran has clients
    /// of which nobody knows yet.
    unseen: BTreeSet<Gone>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.again.is_empty() && self.unseen.is_empty()
    }

    /// What is to be looked for now, when these have gone.
    fn take(&mut self, mut gone: BTreeSet<Gone>, all_are_seen: bool) -> BTreeSet<Gone> {
        if all_are_seen {
            gone.append(&mut self.unseen);
        } else {
            self.unseen.extend(&gone);
        }
        let again = std::mem::replace(&mut self.again, gone.clone());
        gone.extend(again);
        gone
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
    fn what_went_while_no_agent_ran_is_looked_for_when_all_are_seen() {
        let set = |numbers: &[u32]| numbers.iter().map(|it| (*it, 1)).collect::<BTreeSet<Gone>>();
        let mut due = Due { unseen: set(&[1]), ..Due::default() };
        // Nobody is known yet, or not everybody.
        assert_eq!(due.take(set(&[2]), false), set(&[2]));
        assert_eq!(due.take(set(&[]), false), set(&[2]));
        assert_eq!(due.take(set(&[]), false), set(&[]));
        assert!(!due.is_empty());
        assert_eq!(due.take(set(&[3]), true), set(&[1, 2, 3]));
        assert_eq!(due.take(set(&[]), true), set(&[1, 2, 3]), "and once more");
        assert!(due.is_empty());
        assert_eq!(due.take(set(&[4]), true), set(&[4]));
        assert_eq!(due.take(set(&[5]), true), set(&[4, 5]));
        assert_eq!(due.take(set(&[]), true), set(&[5]));
        assert!(due.is_empty());
    }

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
