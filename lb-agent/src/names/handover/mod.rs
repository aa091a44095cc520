//! Sockets that outlive the agent: the service manager keeps them while nobody runs, so that questions
//! wait in them and the next agent answers.
//!
//! Owns every socket that listens, whoever reads from it. What this process was given ([`given`]) is used
//! where it is just what would be opened ([`fit`]), whether the manager kept it for us ([`store`]) or
//! opened it itself; the rest is closed. So a part of the responder that is begun anew finds its sockets
//! as the next agent does: they could not be opened a second time while the manager has them.

pub(super) mod fit;
pub(super) mod given;
pub(super) mod store;

use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{fit::Facts, given::Given, store::Store};
use super::{
    KNOWN_WAIT,
    listen::{self, Place},
};

/// The sockets, and who keeps them beside us.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Longest wait until all names are known, where questions may wait from before.
    pub(super) known_wait: Duration,
    store: Store,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Where the next agent is to listen.
    wanted: Vec<Place>,
    sockets: BTreeMap<Place, Held>,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    is_given: bool,
    /// Given by the store, and not by somebody who goes on having it, as a socket unit does.
    is_from_store: bool,
    /// Whether somebody has it who hands it to the next agent.
    is_kept: bool,
}

impl Shelf {
    /// With what was given of what is wanted.
    pub(super) fn new(store: Store, given: Vec<Given>, wanted: Vec<Place>) -> Self {
        let facts: Vec<_> = given.iter().map(|it| Facts::of(&it.socket)).collect();
        let chosen = fit::choose(&facts, &wanted);
        let mut given: Vec<_> = given.into_iter().map(Some).collect();
        let (mut sockets, mut used) = (BTreeMap::new(), Vec::new());
        for (place, index) in wanted.iter().zip(chosen) {
            if let Some(Given { name, socket }) = index.and_then(|index| given[index].take()) {
                let is_from_store = name == name_of(place);
                let held = Held { socket, is_given: true, is_from_store, is_kept: true };
                sockets.insert(*place, held);
                used.push(name);
            }
        }
        for Given { name, socket } in given.into_iter().flatten() {
            // First, so that the port is free when nobody keeps it any more.
            drop(socket);
            tracing::info!(
                "names: `{name}`, which was handed over, is nothing that `listen` in [names] of the \
                 config asks for, and is closed here; a socket unit listens on until it is changed, too"
            );
            // By a name all of that name go.
            if !name.is_empty() && !used.contains(&name) {
                store.forget(&name);
            }
        }
        let inner = Mutex::new(Inner { wanted, sockets });
        Self { known_wait: KNOWN_WAIT, store, inner }
    }

    /// Whether questions may wait there from before.
    pub(super) fn is_given(&self, places: [Place; 2]) -> bool {
        let inner = self.inner();
        places.iter().any(|place| inner.sockets.get(place).is_some_and(|held| held.is_given))
    }

    /// The sockets of an address, for datagrams and for connections; opened the first time.
    pub(super) fn open(&self, places: [Place; 2]) -> io::Result<(UdpSocket, TcpListener)> {
        let mut inner = self.inner();
        let missing = places.into_iter().filter(|place| !inner.sockets.contains_key(place));
        let opened = missing.map(|place| Ok((place, listen::bound(place)?)));
        let opened = opened.collect::<io::Result<Vec<_>>>();
        let opened = opened.inspect_err(|_| self.let_go(&mut inner, places))?;
        let held = |socket| Held { socket, is_given: false, is_from_store: false, is_kept: false };
        inner.sockets.extend(opened.into_iter().map(|(place, socket)| (place, held(socket))));
        self.settle(&mut inner);
        let [datagrams, connections] = places.map(|place| inner.sockets[&place].socket.try_clone());
        let sockets = (UdpSocket::from(datagrams?), TcpListener::from(connections?));
        // Managers mostly hand over sockets that wait.
        sockets.0.set_nonblocking(true)?;
        sockets.1.set_nonblocking(true)?;
        Ok(sockets)
    }

    /// From now on the next agent is to listen there. What this one listens on stays open until it ends.
    pub(super) fn want(&self, wanted: Vec<Place>) {
        let mut inner = self.inner();
        inner.wanted = wanted;
        self.settle(&mut inner);
    }

    /// All or none: nobody is to wait at one that nothing reads from. What a socket unit has stays: it
    /// could not be opened anew, as what the manager was not told to forget could not.
    fn let_go(&self, inner: &mut Inner, places: [Place; 2]) {
        inner.sockets.retain(|place, held| {
            let is_concerned = places.contains(place) && held.is_from_store;
            !(is_concerned && self.store.forget(&name_of(place)))
        });
    }

    /// Has kept what is wanted, and nothing else. Of what the manager could not be told the next time
    /// tells.
    fn settle(&self, inner: &mut Inner) {
        for (place, held) in &mut inner.sockets {
            let is_wanted = inner.wanted.contains(place);
            let is_told = match (held.is_kept, is_wanted) {
                (false, true) => self.store.keep(&name_of(place), held.socket.as_fd()),
                (true, false) => self.store.forget(&name_of(place)),
                (true, true) | (false, false) => true,
            };
            if is_told {
                held.is_kept = is_wanted;
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the manager is to call it: without colons, by which names are told apart.
pub(super) fn name_of(place: &Place) -> String {
    format!("names-{place}").replace("://", "-").replace(':', "_")
}
