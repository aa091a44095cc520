//! What a plan may not do while a provider has not spoken.
//!
//! After a start the kernel may hold services of a provider whose source is still away. Until every
//! enabled provider has spoken once, nothing is removed: what is known is served and updated, what
//! is not known stays as it is.

use std::collections::BTreeSet;

use crate::plan::{self, Action, KernelState, NameHash};

/// Takes out of `actions` what would take something away from services other than `known`.
pub(super) fn keep_unknown(
    actions: Vec<Action>,
    kernel: &KernelState,
    known: &BTreeSet<NameHash>,
) -> Vec<Action> {
    let known_numbers: BTreeSet<u32> = kernel
        .services
        .iter()
        .filter(|(_, name_hash)| known.contains(*name_hash))
        .map(|(number, _)| *number)
        .collect();
    actions.into_iter().filter_map(|action| soften(action, kernel, &known_numbers)).collect()
}

/// The action, or as much of it as takes nothing away.
fn soften(action: Action, kernel: &KernelState, known: &BTreeSet<u32>) -> Option<Action> {
    let is_allowed = match &action {
        // A service that is served may lose backends and change its ring: its provider has spoken.
        Action::SetBackendState { number, .. } | Action::ClearBackend { number } => {
            kernel.backends.get(number).is_none_or(|backend| known.contains(&backend.service))
        }
        Action::ClearRing { ring } => known.contains(&plan::service_of(*ring)),
        Action::DeleteFrontend { frontend } => {
            kernel.frontends.get(frontend).is_none_or(|service| known.contains(service))
        }
        // These may be shared by services, or belong to one that nobody has claimed yet.
        Action::ClearService { .. } | Action::DetachReply { .. } | Action::DeleteVip { .. } => {
            false
        }
        Action::SetFlags { flags } => {
            let flags = flags | kernel.flags;
            return (flags != kernel.flags).then_some(Action::SetFlags { flags });
        }
        Action::AttachReply { .. }
        | Action::WriteService { .. }
        | Action::WriteBackend { .. }
        | Action::PublishRing { .. }
        | Action::PutVip { .. }
        | Action::PutFrontend { .. } => true,
    };
    is_allowed.then_some(action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FrontendAddress, Protocol};

    const KNOWN: NameHash = [1, 0];

    fn frontend(port: u16) -> FrontendAddress {
        FrontendAddress { vip: [192, 0, 2, 1].into(), protocol: Protocol::Tcp, port }
    }

    /// Service 1 is known, service 2 is not; each has a frontend at its number.
    fn kernel() -> KernelState {
        KernelState {
            services: [(1, KNOWN), (2, [2, 0])].into(),
            frontends: [(frontend(1), 1), (frontend(2), 2)].into(),
            flags: 0b10,
            ..KernelState::default()
        }
    }

    #[track_caller]
    fn check(action: Action, expected: Option<Action>) {
        let kept = keep_unknown(vec![action], &kernel(), &[KNOWN].into());
        assert_eq!(kept, Vec::from_iter(expected));
    }

    #[track_caller]
    fn check_kept(action: &Action) {
        check(action.clone(), Some(action.clone()));
    }

    #[test]
    fn known_services_change_and_unknown_ones_stay() {
        check_kept(&Action::DeleteFrontend { frontend: frontend(1) });
        check(Action::DeleteFrontend { frontend: frontend(2) }, None);
        check_kept(&Action::ClearRing { ring: 4 });
        check(Action::ClearRing { ring: 8 }, None);
        check_kept(&Action::PutFrontend { frontend: frontend(3), service: 1 });
        check_kept(&Action::AttachReply { ifindex: 9 });
    }

    #[test]
    fn what_may_be_shared_stays() {
        check(Action::DetachReply { ifindex: 9 }, None);
        check(Action::DeleteVip { vip: [192, 0, 2, 1].into() }, None);
        check(Action::ClearService { number: 1 }, None);
    }

    #[test]
    fn flags_are_only_added() {
        check(Action::SetFlags { flags: 0 }, None);
        check(Action::SetFlags { flags: 0b01 }, Some(Action::SetFlags { flags: 0b11 }));
    }
}
