//! What the providers ask for, on its way to a plan.

use super::{Node, Reconciler};
use crate::model::ServiceName;

impl<N: Node> Reconciler<N> {
    /// What the providers ask for, as far as it is granted.
    pub(super) fn arbitrate(&mut self) {
        let touched = self.ledger.take_touched();
        let ledger = &self.ledger;
        self.granted.update(&touched, &self.mirror, |services| {
            let is_asked = |name: &ServiceName| services.is_none_or(|them| them.contains(name));
            ledger.claims_of(is_asked).collect()
        });
        self.snapshot = self.granted.snapshot().clone();
        self.leaving.apply(&touched, &mut self.snapshot, &self.mirror);
    }
}
