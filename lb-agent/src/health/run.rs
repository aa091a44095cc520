//! Waits until probes are due, makes them, and tells what changed. Decides nothing: that is [`Book`]'s.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    book::{Book, Job, Ticket},
    check::{END_WITHIN, patience},
    inquiry::{Witness, inquire},
    outcome::{FailureKind, Outcome},
    passive::{Docket, Observation, Ruling},
    schedule::IN_FLIGHT_MAX,
    stats::Stats,
    target::{Change, TargetKey},
    view::{TargetGroup, Targets},
};
use crate::model::ProbeKind;

/// A timeout that is noticed later than this says nothing about the backend.
const LATENESS_MAX: Duration = Duration::from_millis(250);

/// Makes probes: the one thing to implement for another kind of them.
pub trait Check: Send + Sync + 'static {
    /// Probes once. It is given up when the probe's timeout has passed. A command times itself, since its
    /// turn has to come first and it has to be ended; when that takes too long, it says nothing.
    fn check(&self, job: &Job) -> impl Future<Output = Outcome> + Send;
}

/// How health works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides the moments of probes.
    pub seed: u64,
    /// Probes under way at once.
    pub in_flight_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: 0, in_flight_max: IN_FLIGHT_MAX }
    }
}

/// The ends of health's channels.
pub struct HealthChannels {
    /// What is to be probed, from [`super::HealthView::targets`].
    pub targets: watch::Receiver<Targets>,
    /// What the data path sees.
    pub observations: mpsc::Receiver<Observation>,
    /// Whom to ask about what it sees.
    pub witness: Arc<dyn Witness>,
    /// Where changes go, many at once.
    pub changes: mpsc::Sender<Vec<Change>>,
    /// Figures.
    pub stats: Arc<Stats>,
}

/// Probes until nobody wants changes any more or nobody can name targets.
pub async fn run<C: Check>(check: Arc<C>, settings: Settings, channels: HealthChannels) {
    let HealthChannels { mut targets, mut observations, witness, changes, stats } = channels;
    targets.mark_changed();
    let mut prober = Prober {
        book: Book::new(settings.seed, settings.in_flight_max),
        check,
        stats,
        started: Instant::now(),
        probes: JoinSet::new(),
        docket: Docket::default(),
        witness,
        inquiries: JoinSet::new(),
        changes: Vec::new(),
    };
    loop {
        let due = prober.due();
        tokio::select! {
            () = changes.closed() => return,
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let targets = Targets::clone(&targets.borrow_and_update());
                prober.set_targets(&targets);
            }
            Some(observation) = observations.recv() => prober.observe(observation),
            Some(Ok((observation, ruling))) = prober.inquiries.join_next(),
                if !prober.inquiries.is_empty() => prober.rule(observation, ruling),
            Some(ended) = prober.probes.join_next(), if !prober.probes.is_empty() => {
                prober.ended(ended);
                // Whatever has ended meanwhile belongs to the same batch.
                while let Some(ended) = prober.probes.try_join_next() {
                    prober.ended(ended);
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        prober.begin();
        // Whatever has begun or ended since.
        prober.stats.set_in_flight(prober.book.in_flight());
        let found = std::mem::take(&mut prober.changes);
        if !found.is_empty() && changes.send(found).await.is_err() {
            return;
        }
    }
}

/// What came of a probe.
pub(super) struct Ended {
    ticket: Ticket,
    key: TargetKey,
    pub(super) outcome: Outcome,
    duration: Duration,
}

struct Prober<C> {
    book: Book,
    check: Arc<C>,
    stats: Arc<Stats>,
    started: Instant,
    probes: JoinSet<Ended>,
    docket: Docket,
    witness: Arc<dyn Witness>,
    inquiries: JoinSet<(Observation, Ruling)>,
    changes: Vec<Change>,
}

impl<C: Check> Prober<C> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn due(&self) -> Option<Instant> {
        self.book.next_due_ms().map(|due_ms| self.started + Duration::from_millis(due_ms))
    }

    fn set_targets(&mut self, targets: &Targets) {
        let now_ms = self.now_ms();
        let changes = self.book.set_targets(targets, now_ms);
        // All of a service have the same.
        let is_probed = |group: &&TargetGroup| group.iter().any(|target| target.probe.is_some());
        let probed = targets.iter().filter(is_probed).map(|group| group.len()).sum();
        self.stats.retain(probed, |key| self.book.contains(key));
        for change in changes {
            self.tell(change, now_ms);
        }
    }

    /// Looks into what the data path has seen, if that counts.
    fn observe(&mut self, observation: Observation) {
        self.stats.observed(observation.sign);
        let Some(job) = self.book.inquiry(observation.key) else { return };
        if self.docket.open(observation.key, self.now_ms()) {
            let (check, witness) = (Arc::clone(&self.check), Arc::clone(&self.witness));
            self.inquiries.spawn(inquire(check, witness, observation, job));
        }
    }

    fn rule(&mut self, observation: Observation, ruling: Ruling) {
        let now_ms = self.now_ms();
        let Observation { key, sign, .. } = observation;
        self.docket.close(key, now_ms);
        self.stats.ruled(sign, ruling);
        let Ruling::Failed { is_refusing } = ruling else { return };
        // Whatever has become of it meanwhile.
        let Some(Job { target, .. }) = self.book.inquiry(key) else { return };
        for key in self.book.alike(&target) {
            let change = self.book.report_failure(key, is_refusing, ruling.text(), now_ms);
            if let Some(change) = change {
                self.tell(change, now_ms);
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let now_ms = self.now_ms();
        while let Some(job) = self.book.next_job(now_ms) {
            self.stats.begun(Duration::from_millis(job.late_ms));
            let check = Arc::clone(&self.check);
            self.probes.spawn(probe(check, job));
        }
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let now_ms = self.now_ms();
        let Ended { ticket, key, outcome, duration } = match ended {
            Ok(ended) => ended,
            // Panics are caught where the ticket is known; so it was cancelled with the runtime.
            Err(error) => return tracing::debug!("a probe was cancelled: {error}"),
        };
        self.stats.count(key, &outcome, duration);
        if let Some(change) = self.book.finished(ticket, &outcome, now_ms) {
            self.tell(change, now_ms);
        }
    }

    fn tell(&mut self, change: Change, now_ms: u64) {
        self.stats.changed(change.key, &change.cause, now_ms);
        self.changes.push(change);
    }
}

/// One probe, which takes no longer than it may, and ends whatever happens in it.
pub(super) async fn probe<C: Check>(check: Arc<C>, job: Job) -> Ended {
    let (ticket, key, timeout_ms) = (job.ticket, job.target.key, job.probe.timeout_ms.max(1));
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    let is_command = matches!(job.probe.kind, ProbeKind::Command { .. });
    let timeout = if is_command { patience(timeout) + timeout + END_WITHIN } else { timeout };
    let started = Instant::now();
    // Whatever happens in it, the book has to learn that it has ended.
    let guarded = AssertUnwindSafe(tokio::time::timeout(timeout, check.check(&job))).catch_unwind();
    let outcome = match guarded.await {
        Ok(Ok(outcome)) => outcome,
        // The timer itself was late: it is this node that has no time.
        Ok(Err(_elapsed)) if started.elapsed() > timeout + LATENESS_MAX => {
            Outcome::Inconclusive("the node is too busy to probe in time".to_owned())
        }
        // Whoever runs it would have told that it is late.
        Ok(Err(_elapsed)) if is_command => {
            Outcome::Inconclusive("nobody says what became of the command".to_owned())
        }
        Ok(Err(_elapsed)) => {
            Outcome::failed(FailureKind::Late, format!("no answer within {timeout_ms} ms"))
        }
        Err(_panic) => Outcome::Inconclusive("the probe itself broke; see the log".to_owned()),
    };
    Ended { ticket, key, outcome, duration: started.elapsed() }
}

#[cfg(test)]
mod tests;
