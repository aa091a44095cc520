//! The signals that were sent to one container, and to which of its runs. No clock: on one connection
//! events come in the order in which things happened, and a run that has ended is told of like a signal.
//!
//! Every connection begins with the past, which may end anywhere when the connection breaks. So a death
//! is one of whatever the same connection told before it, and of nothing else: what it has not told
//! again by then came later.
//!
//! The daemon's time of a signal is its name and nothing else. It tells a signal from the next one,
//! and is never compared with the start of a run: a clock that is set back would lose a drain, or
//! bring back that of a former run.

use std::collections::VecDeque;

use super::{
    super::{engine::Signalled, host::Process, signal::Signal},
    State,
};

/// Signals that are remembered to have been heard. Of events of the past, which are told again with
/// every connection, the daemon has fewer.
const HEARD_MAX: usize = 1024;
/// The connections of a predecessor.
const BEFORE_ALL: u64 = 0;

impl<P: Process> State<P> {
    /// A connection begins, and with it the past. What was sent to nobody known is told again; where
    /// the daemon has forgotten it, it started anew, and so may the container have.
    pub(super) fn past_begins(&mut self) {
        self.connection += 1;
        for (id, container) in &mut self.containers {
            for signalled in container.signals.take_unassigned() {
                self.heard.forget(id, signalled);
            }
        }
    }

    /// A signal was sent to a container. The past is told again with every connection.
    pub(super) fn signalled(&mut self, id: &str, signalled: Signalled) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if self.heard.is_news(id, signalled) {
            let instance = container.living().map(|run| run.instance.clone());
            container.signals.sent(signalled, instance, self.connection);
            self.changed |= container.settle_states();
            self.keep_asking(id);
        } else {
            container.signals.told_again(signalled, self.connection);
        }
    }

    /// A run of a container has ended. The kernel says so of the one that is known, and sooner; what
    /// is told of earlier ones may come late.
    pub(super) fn died(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.signals.run_ended(self.connection);
        if container.living().is_some() {
            self.changed |= container.settle_states();
            self.keep_asking(id);
        }
    }
}

/// What was sent to a container, the latest last: each signal once as this connection told it, and once
/// as it was known before, so there are no more than 128.
#[derive(Debug, Default)]
pub(super) struct Signals {
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    signalled: Signalled,
    /// The run that lived then. `None`: it is not known yet.
    instance: Option<String>,
    /// The latest connection that told of it.
    connection: u64,
}

impl Signals {
    /// A signal was sent, to this run if it is known.
    fn sent(&mut self, signalled: Signalled, instance: Option<String>, connection: u64) {
        let is_same = |sent: &Sent| sent.signalled.signal == signalled.signal;
        // It may be one to a former run, and its death is still to be told.
        let known =
            self.sent.iter().rev().find(|sent| is_same(sent) && sent.connection < connection);
        let known = known.map(|sent| sent.signalled);
        self.sent.retain(|sent| !is_same(sent) || Some(sent.signalled) == known);
        self.sent.push(Sent { signalled, instance, connection });
    }

    /// This connection, too, told of a signal.
    fn told_again(&mut self, signalled: Signalled, connection: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.signalled == signalled) {
            sent.connection = connection;
        }
    }

    /// A run has ended: whatever this connection told before was sent to it or to earlier ones.
    fn run_ended(&mut self, connection: u64) {
        self.sent.retain(|sent| sent.connection < connection);
    }

    /// Forgets what was sent to nobody known.
    fn take_unassigned(&mut self) -> Vec<Signalled> {
        let unassigned = self.sent.extract_if(.., |sent| sent.instance.is_none());
        unassigned.map(|sent| sent.signalled).collect()
    }

    /// A run became known: what was sent to nobody known was sent to it, after what a predecessor
    /// knew to have asked it to end.
    pub(super) fn run_began(&mut self, instance: &str, asked: Option<Signalled>) {
        for sent in &mut self.sent {
            sent.instance.get_or_insert_with(|| instance.to_owned());
        }
        let is_known = |asked| self.sent.iter().any(|sent| sent.signalled == asked);
        if let Some(signalled) = asked.filter(|asked| !is_known(*asked)) {
            let instance = Some(instance.to_owned());
            self.sent.insert(0, Sent { signalled, instance, connection: BEFORE_ALL });
        }
    }

    /// The latest signal that asked this run to end.
    pub(super) fn latest_asking(&self, instance: &str, stop_signal: Signal) -> Option<Signalled> {
        let asks = |sent: &&Sent| {
            let is_to_it = sent.instance.as_deref() == Some(instance);
            is_to_it && sent.signalled.signal.asks_to_end(stop_signal)
        };
        self.sent.iter().rev().find(asks).map(|sent| sent.signalled)
    }
}

/// Signals to any container that were heard of.
#[derive(Debug, Default)]
pub(super) struct Heard(VecDeque<(String, Signalled)>);

impl Heard {
    /// Remembers a signal. False: it was heard of before.
    pub(super) fn is_news(&mut self, container: &str, signalled: Signalled) -> bool {
        if self.0.iter().any(|(known, sent)| known == container && *sent == signalled) {
            return false;
        }
        if self.0.len() == HEARD_MAX {
            self.0.pop_front();
        }
        self.0.push_back((container.to_owned(), signalled));
        true
    }

    /// The next time it is news again.
    fn forget(&mut self, container: &str, signalled: Signalled) {
        self.0.retain(|(known, sent)| known != container || *sent != signalled);
    }
}
