//! The tables of socket calls, which follow from what was planned.

use super::{Node, Reconciler};
use crate::sockets::{self, Clients};

impl<N: Node> Reconciler<N> {
    /// Takes over who calls from this node.
    pub(super) fn set_clients(&mut self, clients: Clients) {
        self.is_dirty |= self.clients.as_ref() != Some(&clients);
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
