//! The tables of socket calls, which follow from what was planned.

use std::sync::Arc;

use super::{Node, Reconciler};
use crate::{
    api::types::SocketsView,
    sockets::{self, Clients},
};

impl<N: Node> Reconciler<N> {
    /// How socket calls are balanced, and for whom.
    pub(super) fn sockets_view(&mut self) -> SocketsView {
        let mut view = self.node.sockets();
        let containers = self.clients.iter().flat_map(|clients| clients.containers.values());
        view.clients = containers.map(|container| container.name.clone()).collect();
        view.clients.sort();
        view
    }

    /// Takes over who calls from this node.
    pub(super) fn set_clients(&mut self, clients: Clients) {
        self.is_dirty |= self.clients.as_ref() != Some(&clients);
        self.callers = Arc::new(clients.view());
        self.clients = Some(clients);
    }

    /// Who sees what, by the numbers that the plan has given. Of a service whose numbers are new the
    /// sockets are left alone until here.
    pub(super) fn set_socket_tables(&mut self) {
        let wanted = sockets::wanted(&self.snapshot, &self.mirror, self.clients.as_ref());
        if let Err(error) = self.node.set_socket_tables(&wanted) {
            tracing::warn!("the tables of socket calls: {error}");
        }
    }
}
