//! Events in the order in which they came, with one exception: deaths and failures may be looked for
//! ahead.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::Event;
use crate::provider::ProviderEvent;

/// Events taken from the channel while looking for those. Beyond that the channel fills up and the
/// providers wait.
const STASH_MAX: usize = 1024;

/// The receiving end of the runtime's channel.
#[derive(Debug)]
pub(super) struct Inbox {
    channel: mpsc::Receiver<Event>,
    stash: VecDeque<Event>,
    /// Of those in the stash, so many are deaths and failures.
    bad: usize,
}

impl Inbox {
    pub(super) fn new(channel: mpsc::Receiver<Event>) -> Self {
        Self { channel, stash: VecDeque::new(), bad: 0 }
    }

    /// The next event; `None` when nobody can send any more.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match self.pop_stashed() {
            Some(event) => Some(event),
            None => self.channel.recv().await,
        }
    }

    /// The next event if there is one already.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        self.pop_stashed().or_else(|| self.channel.try_recv().ok())
    }

    fn pop_stashed(&mut self) -> Option<Event> {
        let event = self.stash.pop_front()?;
        self.bad -= usize::from(is_bad(&event));
        Some(event)
    }

    /// Whether somebody died, or turned out to fail, while something else was being done. The events
    /// stay, and are bad news until they are taken.
    pub(super) fn has_bad_news(&mut self) -> bool {
        while self.bad == 0 && self.stash.len() < STASH_MAX {
            let Ok(event) = self.channel.try_recv() else { break };
            self.bad += usize::from(is_bad(&event));
            self.stash.push_back(event);
        }
        self.bad > 0
    }
}

fn is_bad(event: &Event) -> bool {
    match event {
        Event::Provider(event) => matches!(event, ProviderEvent::Gone { .. }),
        Event::Health(changes) => changes.iter().any(|change| change.has_fallen),
        Event::Clients(_) | Event::Restarting(_) | Event::Balancers(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(instance: &str) -> Event {
        ProviderEvent::Gone { provider: "docker", instance: instance.to_owned() }.into()
    }

    fn status() -> Event {
        ProviderEvent::Status { provider: "docker", trouble: None }.into()
    }

    #[tokio::test]
    async fn looking_ahead_keeps_the_order() {
        let (sender, receiver) = mpsc::channel(16);
        let mut inbox = Inbox::new(receiver);
        assert!(!inbox.has_bad_news());
        for event in [status(), gone("a"), gone("b"), status()] {
            sender.send(event).await.expect("room");
        }
        assert!(inbox.has_bad_news());
        assert!(inbox.has_bad_news(), "until it is taken");
        drop(sender);
        let mut events = Vec::new();
        while let Some(event) = inbox.next().await {
            events.push(event);
            if events.len() == 2 {
                assert!(inbox.has_bad_news(), "another one follows");
            }
        }
        assert!(!inbox.has_bad_news());
        assert_eq!(events, [status(), gone("a"), gone("b"), status()]);
    }
}
