//! When to try again what the kernel refused.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(1);

/// Doubling delays between the first failure and the next success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Backoff {
    pending: Option<Pending>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pending {
    at: Instant,
    delay: Duration,
}

impl Backoff {
    /// Something failed at `now`. Failures before the next attempt do not postpone it.
    pub(super) fn failed(&mut self, now: Instant) {
        let delay = match self.pending {
            None => FIRST,
            Some(pending) if now < pending.at => return,
            Some(pending) => (pending.delay * 2).min(LAST),
        };
        self.pending = Some(Pending { at: now + delay, delay });
    }

    /// Everything succeeded.
    pub(super) fn succeeded(&mut self) {
        self.pending = None;
    }

    /// When to try again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.map(|pending| pending.at)
    }

    /// Whether it is time to try again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.due(), None);
        let mut now = start;
        let mut delays = Vec::new();
        for _ in 0..8 {
            backoff.failed(now);
            let at = backoff.due().expect("pending");
            assert!(!backoff.is_due(now) && backoff.is_due(at));
            delays.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeded();
        backoff.failed(now);
        assert_eq!(backoff.due(), Some(now + FIRST));
    }

    #[test]
    fn failures_in_between_do_not_postpone() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(start);
        backoff.failed(start + FIRST / 2);
        assert_eq!(backoff.due(), Some(start + FIRST));
    }
}
