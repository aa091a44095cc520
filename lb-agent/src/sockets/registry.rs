//! The namespaces of this node's clients: by a process in each, for who ends sockets, and by name, for who
//! tells of calls.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Clients, ContainerClient};

/// Namespaces whose names are kept when nobody is known there any more: what they have done is told of
/// later. The kernel gives no cookie twice.
const GONE_MAX: usize = 1024;

/// A namespace with clients in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its cookie; 0: it could not be told.
    pub cookie: u64,
    /// Processes in it, any of which may have ended; none: the node's own.
    pub pids: Vec<u32>,
    /// For people.
    pub name: String,
}

/// The namespaces, shared between who finds containers, who ends sockets and who tells of calls.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Vec<Known>,
    is_complete: bool,
    /// Who calls, by cookie.
    names: BTreeMap<u64, String>,
    /// The same of those who are not known any more, each once, the latest at the end.
    gone: VecDeque<(u64, String)>,
}

impl State {
    /// Keeps the names of those who have gone.
    fn rename(&mut self, names: BTreeMap<u64, String>) {
        let Self { names: known, gone, .. } = self;
        let before = mem::replace(known, names);
        // Who is there again, and may go again, must not take the room of others.
        gone.retain(|(cookie, _)| !known.contains_key(cookie));
        gone.extend(before.into_iter().filter(|(cookie, _)| !known.contains_key(cookie)));
        let too_many = gone.len().saturating_sub(GONE_MAX);
        gone.drain(..too_many);
    }
}

impl Registry {
    /// Takes over what was seen last; containers that share a namespace are one.
    pub fn set(&self, clients: &Clients) {
        let node = Known { cookie: clients.node, pids: Vec::new(), name: "the node".to_owned() };
        let mut all = vec![node];
        let mut shared: BTreeMap<u64, Known> = BTreeMap::new();
        for container in clients.containers.values() {
            let ContainerClient { cookie, name, .. } = container;
            let known = || Known { cookie: *cookie, pids: Vec::new(), name: name.clone() };
            if container.cookie == 0 {
                all.push(Known { pids: vec![container.pid], ..known() });
            } else if container.cookie != clients.node {
                shared.entry(container.cookie).or_insert_with(known).pids.push(container.pid);
            }
        }
        all.extend(shared.into_values());
        let names = clients.names();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was whole once loses only what cannot be looked at.
        state.is_complete |= !clients.is_partial;
        state.known = all;
        state.rename(names);
    }

    /// Who calls from the namespace with this cookie, or did; `None`: nobody known.
    #[must_use]
    pub fn name_of(&self, cookie: u64) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || state.gone.iter().find(|(it, _)| *it == cookie).map(|(_, name)| name);
        state.names.get(&cookie).or_else(gone).cloned()
    }

    /// The one with this cookie.
    #[must_use]
    pub fn by_cookie(&self, cookie: u64) -> Option<Known> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.iter().find(|known| known.cookie == cookie).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known.clone()
    }

    /// Whether all have been seen since the start.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(registry: &Registry, cookie: u64, name: &str) {
        let client = ContainerClient { name: name.to_owned(), cookie, ..Default::default() };
        let containers = [(cookie.to_string(), client)].into();
        registry.set(&Clients { node: 1, containers, ..Clients::default() });
    }

    #[test]
    fn who_has_called_is_named_when_he_is_gone() {
        let registry = Registry::default();
        let check = |cookie: u64, expected: Option<&str>| {
            assert_eq!(registry.name_of(cookie).as_deref(), expected, "{cookie}");
        };
        check(1, None);
        set(&registry, 100, "web-1");
        check(1, Some("node"));
        check(100, Some("web-1"));
        check(101, None);
        set(&registry, 101, "web-2");
        check(100, Some("web-1"));
        check(101, Some("web-2"));
        // It was only not seen for a while, and is called otherwise by now.
        set(&registry, 100, "web-3");
        check(100, Some("web-3"));
        // Of all who are gone those who went last are named.
        let last = 1000 + GONE_MAX as u64;
        for cookie in 1000..=last {
            set(&registry, cookie, "short");
        }
        for (cookie, name) in [(1, "node"), (1000, "short"), (last, "short")] {
            check(cookie, Some(name));
        }
        check(100, None);
    }

    #[test]
    fn who_comes_and_goes_takes_one_place() {
        let registry = Registry::default();
        set(&registry, 100, "web-1");
        for round in 0..GONE_MAX as u64 {
            set(&registry, 101 + round % 2, "restless");
        }
        assert_eq!(registry.name_of(100).as_deref(), Some("web-1"));
        set(&registry, 103, "last");
        let state = registry.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<u64> = state.gone.iter().map(|(cookie, _)| *cookie).collect();
        assert_eq!(gone, [100, 101, 102]);
    }
}
