//! The tables of socket calls, which follow from what was planned.

use super::{Node, Reconciler};
use crate::{
    api::types::SocketsView,
    sockets::{self, Clients},
};

/// Who calls from this node.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// `None`: not known yet.
    known: Option<Clients>,
    /// The tables do not say so yet.
    pub(super) is_changed: bool,
}

impl<N: Node> Reconciler<N> {
    /// How socket calls are balanced, and for whom.
    pub(super) fn sockets_view(&mut self) -> SocketsView {
        let mut view = self.node.sockets();
        let containers = self.callers.known.iter().flat_map(|clients| clients.containers.values());
        view.clients = containers.map(|container| container.name.clone()).collect();
        view.clients.sort();
        view
    }

    /// Takes over who calls from this node.
    pub(super) fn set_clients(&mut self, clients: Clients) {
        self.callers.is_changed |= self.callers.known.as_ref() != Some(&clients);
        self.callers.known = Some(clients);
    }

    /// Who sees what, by the numbers that the plan has given. Of a service whose numbers are new the
    /// sockets are left alone until here.
    pub(super) fn set_socket_tables(&mut self) {
        self.callers.is_changed = false;
        let wanted = sockets::wanted(&self.snapshot, &self.mirror, self.callers.known.as_ref());
        if let Err(error) = self.node.set_socket_tables(&wanted) {
            tracing::warn!("the tables of socket calls: {error}");
        }
    }
}
