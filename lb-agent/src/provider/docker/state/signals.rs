//! The signals that were sent to one container, and to which of its runs. No clock: events come in
//! the order in which things happened, and a run that has ended is told of like a signal.
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

impl<P: Process> State<P> {
    /// A signal was sent to a container. The past is told again with every connection.
    pub(super) fn signalled(&mut self, id: &str, signalled: Signalled) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if self.heard.is_news(id, signalled) {
            container.signals.sent(signalled, container.living().map(|run| run.instance.clone()));
            self.changed |= container.settle_states();
        }
    }

    /// A run of a container has ended. The kernel says so of the one that is known, and sooner; what
    /// is told of earlier ones may come late.
    pub(super) fn died(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.signals.run_ended();
        if container.living().is_some() {
            self.changed |= container.settle_states();
        }
    }
}

/// What was sent to a container: each signal once, the latest last, so there are no more than 64.
#[derive(Debug, Default)]
pub(super) struct Signals {
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    signal: Signal,
    name: u64,
    /// The run that lived then. `None`: it is not known yet.
    instance: Option<String>,
}

impl Signals {
    /// A signal was sent, to this run if it is known.
    pub(super) fn sent(&mut self, signalled: Signalled, instance: Option<String>) {
        self.sent.retain(|sent| sent.signal != signalled.signal);
        let Signalled { signal, at_ns: name } = signalled;
        self.sent.push(Sent { signal, name, instance });
    }

    /// The run that lived has ended: whatever was sent so far was sent to it or to earlier ones.
    pub(super) fn run_ended(&mut self) {
        self.sent.clear();
    }

    /// A run became known: what was sent to nobody known was sent to it.
    pub(super) fn run_began(&mut self, instance: &str) {
        for sent in &mut self.sent {
            sent.instance.get_or_insert_with(|| instance.to_owned());
        }
    }

    /// The latest signal that asked this run to end, by its name.
    pub(super) fn latest_asking(&self, instance: &str, stop_signal: Signal) -> Option<u64> {
        let asks = |sent: &&Sent| {
            sent.instance.as_deref() == Some(instance) && sent.signal.asks_to_end(stop_signal)
        };
        self.sent.iter().rev().find(asks).map(|sent| sent.name)
    }
}

/// Signals to any container that were heard of.
#[derive(Debug, Default)]
pub(super) struct Heard(VecDeque<(String, Signal, u64)>);

impl Heard {
    /// Remembers a signal. False: it was heard of before.
    pub(super) fn is_news(&mut self, container: &str, signalled: Signalled) -> bool {
        let Signalled { signal, at_ns } = signalled;
        let is_same = |(known, sent, at): &(String, Signal, u64)| {
            known == container && (*sent, *at) == (signal, at_ns)
        };
        if self.0.iter().any(is_same) {
            return false;
        }
        if self.0.len() == HEARD_MAX {
            self.0.pop_front();
        }
        self.0.push_back((container.to_owned(), signal, at_ns));
        true
    }
}
