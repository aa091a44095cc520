//! How reconciling goes: how much is done, how long it takes, and how far it is behind the events.

use std::time::Duration;

use tokio::time::Instant;

use crate::{api::types::ReconcileView, health::stats::Histogram};

/// Counts rounds and measures them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    rounds: u64,
    actions: u64,
    failures: u64,
    latest: Duration,
    durations: Histogram,
    lags: Histogram,
    /// When the first event came that is not settled yet.
    waiting_since: Option<Instant>,
}

impl Progress {
    /// Something has to be done because of an event.
    pub(super) fn told(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Actions were executed, others failed.
    pub(super) fn executed(&mut self, done: usize, failed: usize) {
        self.actions += done as u64;
        self.failures += failed as u64;
    }

    /// A round is over, that began at `began`. `is_settled`: nothing is left to do, or nothing that
    /// can be done now.
    pub(super) fn ended(&mut self, began: Instant, duration: Duration, is_settled: bool) {
        self.rounds += 1;
        self.latest = duration;
        self.durations.observe(duration);
        if is_settled && let Some(since) = self.waiting_since.take() {
            self.lags.observe(began.saturating_duration_since(since) + duration);
        }
    }

    /// For the API. `failing` is what the kernel refuses at this moment.
    pub(super) fn view(&self, failing: usize, retry_in: Option<Duration>) -> ReconcileView {
        ReconcileView {
            rounds: self.rounds,
            actions: self.actions,
            failed_actions: failing as u64,
            failures: self.failures,
            latest_duration_us: u64::try_from(self.latest.as_micros()).unwrap_or(u64::MAX),
            retry_in_seconds: retry_in.map(|time| time.as_secs()),
            durations: self.durations.view(),
            lags: self.lags.view(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_first_event_until_all_is_done() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut progress = Progress::default();
        progress.told(start);
        progress.told(start + ms(3));
        progress.ended(start + ms(10), ms(5), false);
        progress.ended(start + ms(20), ms(2), true);
        // By itself, because it was time: nobody waits for it.
        progress.ended(start + ms(900), ms(1), true);
        progress.executed(7, 1);
        let view = progress.view(1, Some(ms(2500)));
        assert_eq!((view.rounds, view.actions, view.failures, view.failed_actions), (3, 7, 1, 1));
        assert_eq!((view.durations.count, view.latest_duration_us), (3, 1000));
        assert_eq!((view.lags.count, view.retry_in_seconds), (1, Some(2)));
        assert!((view.lags.sum_seconds - 0.022).abs() < 1e-9, "{:?}", view.lags);
    }
}
