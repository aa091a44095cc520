//! Events in the order in which they came, with one exception: whether there are some that cannot wait
//! may be looked at ahead.

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
    /// So many may lead to a plan.
    news: usize,
}

impl Inbox {
    pub(super) fn new(channel: mpsc::Receiver<Event>) -> Self {
        Self { channel, stash: VecDeque::new(), bad: 0, news: 0 }
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
        self.news -= usize::from(is_news(&event));
        Some(event)
    }

    /// Whether somebody died, or turned out to fail, while something else was being done. The events
    /// stay, and are bad news until they are taken.
    pub(super) fn has_bad_news(&mut self) -> bool {
        self.look_ahead(|this| this.bad > 0)
    }

    /// Whether something came that the kernel should hear of, while nothing was done but told.
    pub(super) fn has_news(&mut self) -> bool {
        self.look_ahead(|this| this.news > 0)
    }

    fn look_ahead(&mut self, is_found: impl Fn(&Self) -> bool) -> bool {
        while !is_found(self) && self.stash.len() < STASH_MAX {
            let Ok(event) = self.channel.try_recv() else { break };
            self.bad += usize::from(is_bad(&event));
            self.news += usize::from(is_news(&event));
            self.stash.push_back(event);
        }
        is_found(self)
    }
}

fn is_bad(event: &Event) -> bool {
    match event {
        Event::Provider(event) => matches!(event, ProviderEvent::Gone { .. }),
        Event::Health(changes) => changes.iter().any(|change| change.has_fallen),
        Event::Clients(_) | Event::Restarting(_) | Event::Balancers(_) | Event::Told(_) => false,
    }
}

fn is_news(event: &Event) -> bool {
    match event {
        Event::Provider(event) => match event {
            ProviderEvent::Claims { .. }
            | ProviderEvent::Gone { .. }
            | ProviderEvent::Expected { .. } => true,
            ProviderEvent::Status { .. } => false,
        },
        Event::Health(_) => true,
        Event::Clients(_) | Event::Restarting(_) | Event::Balancers(_) | Event::Told(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Claims;

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
        let claims =
            || Event::from(ProviderEvent::Claims { provider: "docker", claims: Claims::default() });
        assert!(!inbox.has_bad_news() && !inbox.has_news());
        sender.send(status()).await.expect("room");
        assert!(!inbox.has_news());
        sender.send(claims()).await.expect("room");
        assert!(inbox.has_news() && !inbox.has_bad_news());
        for event in [gone("a"), gone("b"), status()] {
            sender.send(event).await.expect("room");
        }
        assert!(inbox.has_bad_news() && inbox.has_news());
        assert!(inbox.has_bad_news(), "until it is taken");
        drop(sender);
        let mut events = Vec::new();
        while let Some(event) = inbox.next().await {
            events.push(event);
            if events.len() == 3 {
                assert!(inbox.has_bad_news(), "another one follows");
            }
        }
        assert!(!inbox.has_bad_news() && !inbox.has_news());
        assert_eq!(events, [status(), claims(), gone("a"), gone("b"), status()]);
    }
}
