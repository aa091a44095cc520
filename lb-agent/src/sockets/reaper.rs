//! Ends sockets that are connected to a backend that is gone, so that their applications connect
//! again at once and not when a timer of theirs ends; and those of a caller that was led to a backend
//! that it does not reach, before it was known on which networks it is.
//!
//! Runs on a thread of its own: it enters namespaces, and lists sockets there, which may be many.

use std::{
    collections::BTreeSet,
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::{
    abi::{BackendV4, BackendV6, ClassNetwork, Client, SocketPeer, connected_backend},
    socket::{Membership, class_of, is_reached},
};
use zerocopy::FromBytes as _;

use super::{Known, Registry};
use crate::netlink::{self, DiagPart, Found, Process};

/// When it is looked again, after a backend went: a call that was under way then may have remembered it
/// after the first look, and a caller may have become known since. After a caller became known the first
/// of them is enough.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)];
/// How often it is seen whether all callers are known.
const WAIT: Duration = Duration::from_millis(100);

/// A backend, by number and generation.
pub type BackendId = (u32, u32);

/// What became of a backend, or of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It takes nothing any more.
    Gone(BackendId),
    /// It takes something, whatever was before.
    Back(BackendId),
    /// From now on the tables tell of who calls from the namespace with this cookie.
    Caller(u64),
}

/// The maps that tell whose sockets are to be ended.
#[expect(missing_debug_implementations, reason = "aya's arrays have none")]
pub struct Maps {
    /// `CONNECTED`: what sockets remember.
    pub connected: OwnedFd,
    /// `CONNECTED_DATAGRAMS`: the same of sockets of UDP.
    pub datagrams: HashMap<MapData, u64, u64>,
    /// `BACKENDS_V4`.
    pub backends_v4: Array<MapData, BackendV4>,
    /// `BACKENDS_V6`.
    pub backends_v6: Array<MapData, BackendV6>,
    /// `CLIENTS`.
    pub clients: HashMap<MapData, u64, Client>,
    /// `CLASS_NETWORKS`.
    pub class_networks: HashMap<MapData, ClassNetwork, u64>,
    /// `BACKEND_NETWORKS`.
    pub networks: Array<MapData, u64>,
    /// The host leads from network to network, or may do so: everybody reaches everything.
    pub routes_across: bool,
}

/// Ends sockets.
#[expect(missing_debug_implementations, reason = "its maps have none")]
pub struct Reaper {
    maps: Maps,
    news: Receiver<News>,
    due: Due,
}

impl Reaper {
    /// One that hears what becomes of backends, and knows what was gone before.
    #[must_use]
    pub fn new(maps: Maps, news: Receiver<News>, before: BTreeSet<BackendId>) -> Self {
        let due = Due { unseen: before, ..Due::default() };
        Self { maps, news, due }
    }

    /// Works until nobody can tell it of anything any more. The calling thread must be in the node's
    /// network namespace.
    pub fn run(mut self, registry: &Registry) {
        loop {
            let first = match self.due.wait(Instant::now()) {
                None => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => self.news.recv_timeout(wait),
            };
            let first = match first {
                Ok(news) => Some(news),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let news = first.into_iter().chain(self.news.try_iter());
            let gone = self.due.take(news, registry.is_complete(), Instant::now());
            if !gone.is_empty() {
                registry.all().iter().for_each(|known| self.end(known, &Reason::Gone(&gone)));
            }
            // One after the other: what dies meanwhile goes before the next of them.
            if let Some(cookie) = self.due.take_caller(Instant::now())
                && let Some(known) = registry.by_cookie(cookie)
            {
                self.end(&known, &Reason::Unreached(cookie));
            }
        }
    }

    fn end(&self, known: &Known, reason: &Reason<'_>) {
        if known.pids.is_empty() {
            self.end_in(None, &known.name, reason);
        }
        // Whoever else shares the namespace keeps it when one has ended; when all have, its sockets
        // have ended with them.
        let mut processes = known.pids.iter().filter_map(|pid| Process::open(*pid).ok());
        let _entered = processes.any(|process| self.end_in(Some(&process), &known.name, reason));
    }

    /// Ends those of one namespace; `None`: the node's. False: the process has ended.
    fn end_in(&self, process: Option<&Process>, name: &str, reason: &Reason<'_>) -> bool {
        let over = |found: Found<'_>| {
            let backend = match found.stored {
                Some(value) => peer_of(value),
                None => self.maps.datagrams.get(&found.cookie, 0).ok().map(connected_backend),
            };
            // Whoever has had an answer reaches it after all.
            let may_wait = found.is_connecting || found.stored.is_none();
            backend.filter(|backend| match reason {
                Reason::Gone(gone) => gone.contains(backend),
                Reason::Unreached(cookie) => may_wait && self.maps.misleads(*cookie, *backend),
            })
        };
        // It may have come back by now, and the socket be connected since.
        let is_still = |backend: &BackendId| match reason {
            Reason::Gone(_) => !self.maps.serves(*backend),
            Reason::Unreached(cookie) => self.maps.misleads(*cookie, *backend),
        };
        let connected = self.maps.connected.as_fd();
        let cookie = match reason {
            Reason::Gone(_) => None,
            Reason::Unreached(cookie) => Some(*cookie),
        };
        let result = netlink::end_sockets(process, cookie, connected, &over, &is_still);
        match result {
            Ok(0) => {}
            Ok(count) => tracing::info!("ended {count} sockets of {name} whose backend {reason}"),
            Err(_) if process.is_some_and(|process| !process.is_alive()) => return false,
            // Another of those that share the namespace may still be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            // As was told at the start.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                tracing::debug!("this kernel ends no sockets");
            }
            Err(error) => tracing::warn!("cannot end sockets of {name}: {error}"),
        }
        true
    }
}

impl Maps {
    /// Whether a backend takes something. What cannot be read is as the agent has said.
    fn serves(&self, (number, generation): BackendId) -> bool {
        let v4 = self.backends_v4.get(&number, 0).map(|it| (it.state, it.generation));
        let v6 = self.backends_v6.get(&number, 0).map(|it| (it.state, it.generation));
        [v4, v6].into_iter().flatten().any(|(state, of)| state != 0 && of == generation)
    }

    /// Whether somebody who calls from this namespace does not reach a backend that takes something.
    fn misleads(&self, cookie: u64, backend: BackendId) -> bool {
        let Ok(client) = self.clients.get(&cookie, 0) else { return false };
        let class = class_of(Some(&client), self.routes_across.into());
        let Ok(network) = self.networks.get(&backend.0, 0) else { return false };
        !is_reached(self, class, network) && self.serves(backend)
    }
}

impl Membership for Maps {
    fn is_on(&self, class: u64, network: u64) -> bool {
        // What cannot be looked up is no reason to end anything.
        let found = self.class_networks.get(&ClassNetwork { class, network }, 0);
        !matches!(found, Err(MapError::KeyNotFound))
    }
}

/// Why sockets are ended.
enum Reason<'a> {
    /// These backends are gone.
    Gone(&'a BTreeSet<BackendId>),
    /// Whoever calls from the namespace with this cookie does not reach their backends.
    Unreached(u64),
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gone(_) => "is gone",
            Self::Unreached(_) => {
                "is on another network: they were led there before theirs were known"
            }
        })
    }
}

/// What is to be looked for, and when.
#[derive(Debug, Default)]
struct Due {
    /// Once more, see [`LOOKS`].
    again: BTreeSet<(Instant, BackendId)>,
    /// When all containers have been seen for the first time: what went while no agent ran has clients
    /// of which nobody knows yet.
    unseen: BTreeSet<BackendId>,
    /// Cookies of callers whose sockets are to be looked at, and when.
    callers: BTreeSet<(Instant, u64)>,
}

impl Due {
    /// When there may be something to look for, unless something goes before; `None`: then only.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let next = self.again.first().map(|(at, _)| at.saturating_duration_since(now));
        let unseen = (!self.unseen.is_empty()).then_some(WAIT);
        let caller = self.callers.first().map(|(at, _)| at.saturating_duration_since(now));
        next.into_iter().chain(unseen).chain(caller).min()
    }

    /// What is to be looked for now, after this news.
    fn take(
        &mut self,
        news: impl IntoIterator<Item = News>,
        all_are_seen: bool,
        now: Instant,
    ) -> BTreeSet<BackendId> {
        let mut gone = BTreeSet::new();
        for one in news {
            match one {
                News::Gone(backend) => {
                    gone.insert(backend);
                }
                // Who is connected from now on is served.
                News::Back(backend) => {
                    gone.remove(&backend);
                    self.unseen.remove(&backend);
                    self.again.retain(|(_, it)| *it != backend);
                }
                News::Caller(cookie) => {
                    self.callers.retain(|(_, it)| *it != cookie);
                    self.callers.extend([(now, cookie), (now + LOOKS[0], cookie)]);
                }
            }
        }
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

    /// Whose sockets are to be looked at now.
    fn take_caller(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.callers.first().is_some_and(|(at, _)| *at <= now);
        is_due.then(|| self.callers.pop_first()).flatten().map(|(_, cookie)| cookie)
    }
}

/// Why this kernel does not end sockets, or not those of every protocol, and what to do; `None`: it does.
/// Asks it in the calling thread's namespace, and writes what it finds to the log.
pub fn obstacle() -> Option<String> {
    let obstacle = match netlink::missing_diag_parts() {
        Ok(missing) => without(&missing)?,
        Err(error) => format!("it cannot be told whether this kernel ends sockets: {error}"),
    };
    tracing::warn!("sockets whose backend is gone: {obstacle}");
    Some(obstacle)
}

/// What a kernel does not do that lacks these parts.
fn without(missing: &BTreeSet<DiagPart>) -> Option<String> {
    let has = |part| !missing.contains(&part);
    let whose = match (has(DiagPart::Tcp), has(DiagPart::Udp), has(DiagPart::Destroy)) {
        (true, true, true) => return None,
        (false, true, true) => "sockets of TCP",
        (true, false, true) => "sockets of UDP",
        _ => "sockets",
    };
    let lacks = missing.iter().map(|part| match part {
        DiagPart::Tcp => "CONFIG_INET_DIAG (`modprobe tcp_diag`)",
        DiagPart::Udp => "CONFIG_INET_UDP_DIAG (`modprobe udp_diag`)",
        DiagPart::Destroy => "CONFIG_INET_DIAG_DESTROY (another kernel)",
    });
    let lacks = lacks.collect::<Vec<_>>().join(", ");
    Some(format!(
        "this kernel ends no {whose}, for lack of {lacks}: clients of a backend that is gone wait for \
         their own timers; set it right, and restart the agent"
    ))
}

/// To whom a socket of TCP has been led.
fn peer_of(value: &[u8]) -> Option<BackendId> {
    let peer = SocketPeer::read_from_bytes(value).ok()?;
    peer.is_whole().then_some((peer.backend, peer.generation))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    fn set(numbers: &[u32]) -> BTreeSet<BackendId> {
        numbers.iter().map(|number| (*number, 1)).collect()
    }

    fn gone(numbers: &[u32]) -> Vec<News> {
        numbers.iter().map(|number| News::Gone((*number, 1))).collect()
    }

    fn back(number: u32) -> News {
        News::Back((number, 1))
    }

    #[test]
    fn what_went_while_no_agent_ran_is_looked_for_when_all_are_seen() {
        let mut due = Due { unseen: set(&[1]), ..Due::default() };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // Nobody is known yet, or not everybody.
        assert_eq!(due.take(gone(&[2]), false, at(0)), set(&[2]));
        assert_eq!(due.take(gone(&[]), false, at(50)), set(&[]));
        assert_eq!(due.wait(at(50)), Some(Duration::from_millis(50)));
        assert_eq!(due.take(gone(&[]), false, at(100)), set(&[2]));
        assert_eq!(due.wait(at(100)), Some(WAIT), "until all are seen");
        assert_eq!(due.take(gone(&[3]), true, at(200)), set(&[1, 2, 3]));
        assert_eq!(due.take(gone(&[]), true, at(300)), set(&[1, 2, 3]), "and once more");
        assert_eq!(due.take(gone(&[]), true, at(1_000)), set(&[2]), "since its first look");
        assert_eq!(due.take(gone(&[]), true, at(1_200)), set(&[1, 2, 3]));
        assert_eq!(due.wait(at(1_200)), Some(Duration::from_millis(8_800)));
        assert_eq!(due.take(gone(&[]), true, at(10_200)), set(&[1, 2, 3]));
        assert_eq!(due.wait(at(10_200)), None);
    }

    /// One death after the other brings no look forward.
    #[test]
    fn in_a_storm_each_is_looked_for_again_at_its_own_time() {
        let (mut due, start) = (Due::default(), Instant::now());
        let mut looks: Vec<(u64, u32)> = Vec::new();
        for ms in 0..300 {
            let now = start + Duration::from_millis(ms);
            let number = u32::try_from(ms).expect("a small number");
            let news = (ms < 50).then_some(News::Gone((number, 1)));
            looks.extend(due.take(news, true, now).into_iter().map(|(number, _)| (ms, number)));
        }
        for number in 0..50 {
            let of: Vec<u64> =
                looks.iter().filter(|(_, it)| *it == number).map(|(ms, _)| *ms).collect();
            assert_eq!(of, [number.into(), u64::from(number) + 100]);
        }
    }

    #[test]
    fn nobody_looks_for_what_has_come_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut due = Due { unseen: set(&[1, 2]), ..Due::default() };
        assert_eq!(due.take([back(1)], false, at(0)), set(&[]), "before all were seen");
        assert_eq!(due.take(gone(&[3, 4]), true, at(10)), set(&[2, 3, 4]));
        assert_eq!(due.take([back(3)], true, at(20)), set(&[]));
        assert_eq!(due.take([], true, at(110)), set(&[2, 4]));
        // One after the other, and in one breath.
        assert_eq!(due.take([News::Gone((5, 1)), back(5)], true, at(120)), set(&[]));
        assert_eq!(due.take([back(4), News::Gone((4, 1))], true, at(130)), set(&[4]));
        assert_eq!(due.take([back(2), back(4)], true, at(140)), set(&[]));
        // One of before is another.
        assert_eq!(due.take([News::Gone((6, 2)), back(6)], true, at(150)), [(6, 2)].into());
        assert_eq!(due.take([News::Back((6, 2))], true, at(160)), set(&[]));
        assert_eq!(due.wait(at(160)), None);
    }

    #[test]
    fn callers_are_looked_at_twice_one_after_the_other() {
        let (mut due, start) = (Due::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(due.take([News::Caller(1), News::Caller(2)], true, at(0)), set(&[]));
        let taken = |due: &mut Due, ms| due.take_caller(at(ms));
        assert_eq!(due.wait(at(0)), Some(Duration::ZERO));
        assert_eq!([0; 3].map(|ms| taken(&mut due, ms)), [Some(1), Some(2), None]);
        assert_eq!(due.wait(at(40)), Some(Duration::from_millis(60)));
        // It is new once more, before it was looked for the second time.
        assert_eq!(due.take([News::Caller(1)], true, at(50)), set(&[]));
        assert_eq!(
            [50, 50, 100, 100].map(|ms| taken(&mut due, ms)),
            [Some(1), None, Some(2), None]
        );
        assert_eq!([149, 150, 150].map(|ms| taken(&mut due, ms)), [None, Some(1), None]);
        assert_eq!(due.wait(at(150)), None);
    }

    #[test]
    fn only_whole_peers_are_known() {
        let peer = SocketPeer { backend: 7, generation: 2, ..SocketPeer::default() }.sealed();
        let check = |peer: SocketPeer, expected| {
            assert_eq!(peer_of(peer.as_bytes()), expected, "{peer:?}");
        };
        check(peer, Some((7, 2)));
        check(SocketPeer { seal: 1, ..peer }, None);
        check(SocketPeer::default(), None);
        assert_eq!(peer_of(&peer.as_bytes()[1..]), None);
    }

    #[test]
    fn what_a_kernel_lacks_is_told_with_what_follows() {
        use DiagPart::{Destroy, Tcp, Udp};
        let check = |missing: &[DiagPart], expected: &str| {
            let told = without(&missing.iter().copied().collect()).unwrap_or_default();
            assert!(told.starts_with(expected) && told.is_empty() == missing.is_empty(), "{told}");
        };
        check(&[], "");
        check(
            &[Udp],
            "this kernel ends no sockets of UDP, for lack of CONFIG_INET_UDP_DIAG \
             (`modprobe udp_diag`): clients of a backend that is gone wait for their own timers",
        );
        check(
            &[Tcp],
            "this kernel ends no sockets of TCP, for lack of CONFIG_INET_DIAG \
             (`modprobe tcp_diag`): ",
        );
        check(
            &[Tcp, Udp],
            "this kernel ends no sockets, for lack of CONFIG_INET_DIAG (`modprobe tcp_diag`), \
             CONFIG_INET_UDP_DIAG (`modprobe udp_diag`): ",
        );
        let destroy = "this kernel ends no sockets, for lack of CONFIG_INET_DIAG_DESTROY (another";
        check(&[Destroy], destroy);
        check(
            &[Destroy, Udp],
            "this kernel ends no sockets, for lack of CONFIG_INET_UDP_DIAG (`modprobe udp_diag`), \
             CONFIG_INET_DIAG_DESTROY (another kernel): ",
        );
    }
}
