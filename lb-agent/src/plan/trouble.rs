//! What the kernel refused lately, so that it is left out for a while instead of holding up all else.

use std::collections::HashMap;

use super::{Action, KernelError, ReplyPort, hash::NameHash};

const RETRY_MS_MIN: u64 = 1000;
const RETRY_MS_MAX: u64 = 30_000;
/// A trouble that nobody has tried again for so long is about something that no longer exists.
const FORGET_MS: u64 = 60_000;

/// Something that the plan can do without.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Subject {
    /// The reply program on a host-side veth.
    Reply(u32),
    /// A backend, by its instance hash.
    Backend(NameHash),
    /// The default of a port's replies.
    ReplyDefault(ReplyPort),
    /// Addresses of the node and its containers.
    Local,
}

#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) cause: String,
    retry_ms: u64,
    pause_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Troubles(HashMap<Subject, Trouble>);

impl Troubles {
    pub(super) fn forget_old(&mut self, now_ms: u64) {
        self.0.retain(|_, trouble| trouble.retry_ms.saturating_add(FORGET_MS) > now_ms);
    }

    /// Remembers a failure if the plan can do without the action.
    pub(super) fn note(&mut self, action: &Action, error: &KernelError, now_ms: u64) {
        let subject = match action {
            Action::AttachReply { ifindex } => Subject::Reply(*ifindex),
            Action::WriteBackend { backend, .. } => Subject::Backend(backend.instance_hash),
            Action::PutReplyDefault { port, .. } => Subject::ReplyDefault(*port),
            Action::PutLocal { .. } => Subject::Local,
            _ => return,
        };
        let pause_ms = self
            .0
            .get(&subject)
            .map_or(RETRY_MS_MIN, |trouble| trouble.pause_ms.saturating_mul(2).min(RETRY_MS_MAX));
        let trouble = Trouble { cause: error.to_string(), retry_ms: now_ms + pause_ms, pause_ms };
        self.0.insert(subject, trouble);
    }

    /// The trouble because of which the subject is to be left out now.
    pub(super) fn current(&self, subject: Subject, now_ms: u64) -> Option<&Trouble> {
        self.0.get(&subject).filter(|trouble| trouble.retry_ms > now_ms)
    }

    /// When the next one is tried again.
    pub(super) fn next_retry_ms(&self, now_ms: u64) -> Option<u64> {
        self.0.values().map(|trouble| trouble.retry_ms).filter(|retry_ms| *retry_ms > now_ms).min()
    }
}
