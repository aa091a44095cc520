//! Whose sockets may have to be ended: the namespaces of this node's clients, by a process in each.

use std::sync::{Arc, Mutex, PoisonError};

use super::Clients;

/// A namespace with clients in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// A process in it; `None`: the node's own.
    pub pid: Option<u32>,
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
    /// Takes over what was seen last; of containers that share a namespace, one stands for all.
    pub fn set(&self, clients: &Clients) {
        let mut cookies = std::collections::BTreeSet::from([clients.node]);
        let mut all = vec![Known { pid: None, name: "the node".to_owned() }];
        for container in clients.containers.values() {
            if container.cookie == 0 || cookies.insert(container.cookie) {
                let (pid, name) = (Some(container.pid), container.name.clone());
                all.push(Known { pid, name });
            }
        }
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
