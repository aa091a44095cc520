//! A node that stops executing a plan when somebody has died or fails. Decides nothing else.

use super::{super::inbox::Inbox, INTERRUPTED};
use crate::{
    plan::{Action, Kernel, KernelError},
    runtime::Node,
};

/// The node, until somebody dies or fails: from then on it does nothing, so that this comes first.
pub(super) struct Interruptible<'a, N> {
    pub(super) node: &'a mut N,
    pub(super) inbox: &'a mut Inbox,
    pub(super) executed: usize,
    /// Actions that it does all the same.
    pub(super) certain: usize,
    pub(super) is_over: bool,
}

impl<N: Node> Kernel for Interruptible<'_, N> {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        self.is_over = self.is_over || (self.executed >= self.certain && self.inbox.has_bad_news());
        if self.is_over {
            let action = "go on".to_owned();
            return Err(KernelError { action, cause: INTERRUPTED.to_owned(), is_absent: false });
        }
        self.executed += 1;
        self.node.execute(action)
    }
}
