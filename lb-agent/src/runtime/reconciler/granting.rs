//! What the providers ask for, on its way to a plan.

use super::{Node, Reconciler};

impl<N: Node> Reconciler<N> {
    /// What the providers ask for, as far as it is granted.
    pub(super) fn arbitrate(&mut self) {
        let touched = self.ledger.take_touched();
        self.granted.update(&touched, &self.mirror, |services| self.ledger.claims_of(services));
        self.snapshot = self.granted.snapshot().clone();
        self.leaving.apply(&touched, &mut self.snapshot, &self.mirror);
    }
}
