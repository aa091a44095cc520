//! Whose sockets may have to be ended: the namespaces of this node's clients, by a process in each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Clients;

/// A namespace with clients in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Processes in it, any of which may have ended; none: the node's own.
    pub pids: Vec<u32>,
    /// For people.
    pub name: String,
}

/// The namespaces, shared between who finds containers and who ends sockets.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Vec<Known>,
    is_complete: bool,
}

impl Registry {
    /// Takes over what was seen last; containers that share a namespace are one.
    pub fn set(&self, clients: &Clients) {
        let mut all = vec![Known { pids: Vec::new(), name: "the node".to_owned() }];
        let mut shared: BTreeMap<u64, Known> = BTreeMap::new();
        for container in clients.containers.values() {
            let known = || Known { pids: Vec::new(), name: container.name.clone() };
            if container.cookie == 0 {
                all.push(Known { pids: vec![container.pid], ..known() });
            } else if container.cookie != clients.node {
                shared.entry(container.cookie).or_insert_with(known).pids.push(container.pid);
            }
        }
        all.extend(shared.into_values());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was whole once loses only what cannot be looked at.
        state.is_complete |= !clients.is_partial;
        state.known = all;
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
