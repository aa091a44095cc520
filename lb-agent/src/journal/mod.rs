//! What has happened: the last events, for whoever asks and whoever follows.
//!
//! [`Chronicle`] finds out what has changed by comparing two moments; [`Journal`] numbers it and keeps
//! the latest. Neither decides anything.

mod chronicle;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

pub use chronicle::{BackendSeen, Chronicle, Draft, Seen};

use crate::api::events::EventView;

/// Events that are kept; the oldest go first.
pub const EVENTS_MAX: usize = 1000;

/// The latest events. Written by one, read by many.
#[derive(Debug)]
pub struct Journal {
    events: Mutex<VecDeque<EventView>>,
    /// Number of the latest event.
    latest: watch::Sender<u64>,
}

/// When something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// For people: milliseconds since the epoch, by a clock that may jump.
    pub at_ms: u64,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { events: Mutex::default(), latest: watch::Sender::new(0) }
    }
}

impl Journal {
    /// Writes events down, in this order.
    pub fn write(&self, drafts: Vec<Draft>, moment: Moment) {
        let Moment { at_ms, uptime_ms } = moment;
        let mut number = *self.latest.borrow();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        for Draft { object, backend, what, why } in drafts {
            number += 1;
            if events.len() == EVENTS_MAX {
                events.pop_front();
            }
            events.push_back(EventView { number, at_ms, uptime_ms, object, backend, what, why });
        }
        drop(events);
        self.latest.send_if_modified(|latest| std::mem::replace(latest, number) != number);
    }

    /// Events that are kept and newer than this one, oldest first.
    pub fn after(&self, number: u64) -> Vec<EventView> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.number > number).cloned().collect()
    }

    /// The same, after waiting up to `limit` for the first of them. A number from the life of another
    /// agent is newer than everything: then all are new.
    pub async fn wait_after(&self, number: u64, limit: Duration) -> Vec<EventView> {
        let mut latest = self.latest.subscribe();
        if *latest.borrow() < number {
            return self.after(0);
        }
        // Too late: there is nothing new.
        timeout(limit, latest.wait_for(|latest| *latest > number)).await.ok();
        self.after(number)
    }
}
