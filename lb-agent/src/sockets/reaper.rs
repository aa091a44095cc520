//! Ends sockets that are connected to a backend that is gone, so that their applications connect
//! again at once and not when a timer of theirs ends.
//!
//! Runs on a thread of its own: it enters namespaces, and lists sockets there, which may be many.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use lb_common::abi::{SocketPeer, connected_backend};
use zerocopy::FromBytes as _;

use super::Registry;
use crate::netlink::{self, Process};

/// When it is looked again, after a backend went: a call that was under way then may have remembered it
/// after the first look, and a caller may have become known since.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)];
/// How often it is seen whether all callers are known.
const WAIT: Duration = Duration::from_millis(100);

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
            let first = match self.due.wait(Instant::now()) {
                None => self.gone.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => self.gone.recv_timeout(wait),
            };
            let mut gone: BTreeSet<Gone> = match first {
                Ok(gone) => BTreeSet::from([gone]),
                Err(RecvTimeoutError::Timeout) => BTreeSet::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            gone.extend(self.gone.try_iter());
            let all = self.due.take(gone, registry.is_complete(), Instant::now());
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
            if known.pids.is_empty() {
                self.end_in(None, &known.name, gone);
            }
            // Whoever else shares the namespace keeps it when one has ended; when all have, its sockets
            // have ended with them.
            let mut processes = known.pids.iter().filter_map(|pid| Process::open(*pid).ok());
            let _entered = processes.any(|process| self.end_in(Some(&process), &known.name, gone));
        }
    }

    /// Ends those of one namespace; `None`: the node's. False: the process has ended.
    fn end_in(&self, process: Option<&Process>, name: &str, gone: &BTreeSet<Gone>) -> bool {
        let result =
            netlink::end_sockets(process, self.connected.as_fd(), &|found| match found.stored {
                Some(value) => is_of(value, gone),
                None => self.is_connected_to(found.cookie, gone),
            });
        match result {
            Ok(0) => {}
            Ok(count) => tracing::info!("ended {count} sockets of {name} whose backend is gone"),
            Err(_) if process.is_some_and(|process| !process.is_alive()) => return false,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => tracing::warn!(
                "this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY): clients of a backend that \
                 is gone wait for their own timers"
            ),
            Err(error) => tracing::warn!("cannot end sockets of {name}: {error}"),
        }
        true
    }
}

/// What is to be looked for, and when.
#[derive(Debug, Default)]
struct Due {
    /// Once more, see [`LOOKS`].
    again: BTreeSet<(Instant, Gone)>,
    /// When all containers have been seen for the first time: what went while no agent ran has clients
    /// of which nobody knows yet.
    unseen: BTreeSet<Gone>,
}

impl Due {
    /// When there may be something to look for, unless something goes before; `None`: then only.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let next = self.again.first().map(|(at, _)| at.saturating_duration_since(now));
        let unseen = (!self.unseen.is_empty()).then_some(WAIT);
        next.into_iter().chain(unseen).min()
    }

    /// What is to be looked for now, when these have gone.
    fn take(
        &mut self,
        mut gone: BTreeSet<Gone>,
        all_are_seen: bool,
        now: Instant,
    ) -> BTreeSet<Gone> {
        if all_are_seen {
            gone.append(&mut self.unseen);
        } else {
            self.unseen.extend(&gone);
        }
        let later = self.again.split_off(&(now, (u32::MAX, u32::MAX)));
        let due = std::mem::replace(&mut self.again, later);
        for one in &gone {
            self.again.extend(LOOKS.map(|after| (now + after, *one)));
        }
        gone.extend(due.into_iter().map(|(_, one)| one));
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

    fn set(numbers: &[u32]) -> BTreeSet<Gone> {
        numbers.iter().map(|number| (*number, 1)).collect()
    }

    #[test]
    fn what_went_while_no_agent_ran_is_looked_for_when_all_are_seen() {
        let mut due = Due { unseen: set(&[1]), ..Due::default() };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // Nobody is known yet, or not everybody.
        assert_eq!(due.take(set(&[2]), false, at(0)), set(&[2]));
        assert_eq!(due.take(set(&[]), false, at(50)), set(&[]));
        assert_eq!(due.wait(at(50)), Some(Duration::from_millis(50)));
        assert_eq!(due.take(set(&[]), false, at(100)), set(&[2]));
        assert_eq!(due.wait(at(100)), Some(WAIT), "until all are seen");
        assert_eq!(due.take(set(&[3]), true, at(200)), set(&[1, 2, 3]));
        assert_eq!(due.take(set(&[]), true, at(300)), set(&[1, 2, 3]), "and once more");
        assert_eq!(due.take(set(&[]), true, at(1_000)), set(&[2]), "since its first look");
        assert_eq!(due.take(set(&[]), true, at(1_200)), set(&[1, 2, 3]));
        assert_eq!(due.wait(at(1_200)), Some(Duration::from_millis(8_800)));
        assert_eq!(due.take(set(&[]), true, at(10_200)), set(&[1, 2, 3]));
        assert_eq!(due.wait(at(10_200)), None);
    }

    /// One death after the other brings no look forward.
    #[test]
    fn in_a_storm_each_is_looked_for_again_at_its_own_time() {
        let (mut due, start) = (Due::default(), Instant::now());
        let mut looks: Vec<(u64, u32)> = Vec::new();
        for ms in 0..300 {
            let now = start + Duration::from_millis(ms);
            let gone =
                if ms < 50 { set(&[u32::try_from(ms).expect("a small number")]) } else { set(&[]) };
            looks.extend(due.take(gone, true, now).into_iter().map(|(number, _)| (ms, number)));
        }
        for number in 0..50 {
            let of: Vec<u64> =
                looks.iter().filter(|(_, it)| *it == number).map(|(ms, _)| *ms).collect();
            assert_eq!(of, [number.into(), u64::from(number) + 100]);
        }
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
