//! What the daemon tells of what happens, and how it is told again.

use tokio::sync::mpsc;

use super::{
    super::super::{
        engine::{EngineError, Event, Signalled, What},
        signal::Signal,
    },
    Inner, id,
};

/// Events that the daemon remembers, as the real one does.
const REMEMBERED: usize = 256;

impl Inner {
    /// Sends a signal to a container that runs, which does not mind. `docker stop` begins like that.
    pub(crate) fn signal(&mut self, number: u8, signal: &str) {
        self.clock_ms += 1;
        let Some(container) = self.containers.get_mut(&id(number)) else { return };
        let Some(run) = &mut container.run else { return };
        let signal = Signal::parse(signal).expect("a signal");
        run.is_asked_to_end |= signal.asks_to_end(Signal::default());
        let labelled = Some(container.labelled);
        let what = What::Signalled(Signalled { signal, at_ns: self.clock_ms * 1_000_000 });
        self.tell_all(&Event { container: id(number), labelled, what });
    }

    /// The daemon goes away, and with it all streams of events.
    pub(crate) fn break_streams(&mut self) {
        self.listeners.clear();
    }

    /// Breaks all streams. The next ones begin with the first events of all.
    pub(crate) fn tell_past(&mut self, count: usize) {
        self.retold = count;
        self.break_streams();
    }

    /// Whoever asks for events from now on is told again of the past, as by the real daemon.
    pub(crate) fn remember(&mut self) {
        self.retold = usize::MAX;
    }

    /// Another one who is told what happens.
    pub(super) fn listen(&mut self) -> mpsc::UnboundedReceiver<Result<Event, EngineError>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let known = self.past.len().saturating_sub(REMEMBERED);
        for event in self.past.iter().take(self.retold).skip(known) {
            let _gone = sender.send(Ok(event.clone()));
        }
        self.listeners.push(sender);
        receiver
    }

    /// Tells listeners; now and then one misses it.
    pub(super) fn tell(&mut self, number: u8, labelled: Option<bool>) {
        self.tell_all(&Event { container: id(number), labelled, what: What::Changed });
    }

    pub(super) fn tell_all(&mut self, event: &Event) {
        self.past.push(event.clone());
        let lost = self.faults.happens() || self.mute;
        let broken = self.faults.happens();
        self.listeners.retain(|listener| lost || listener.send(Ok(event.clone())).is_ok());
        if broken {
            for listener in self.listeners.drain(..) {
                let error = EngineError("expected value at line 1 column 1".to_owned());
                let _gone = listener.send(Err(error));
            }
        }
    }
}
