//! Looks into what the data path has seen: connects to the backend, now. Decides nothing: that is
//! [`super::passive`]'s.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

use super::{
    book::Job,
    outcome::{Failure, FailureKind, Outcome},
    passive::{Findings, Observation, Ruling, Sign, judge},
    run::{Check, probe},
};
use crate::model::{Probe, ProbeKind, ProbePlace};

/// Time for a backend on this node to answer: its kernel is this one, and mostly does so before the call
/// to connect returns.
const LOCAL_WINDOW: Duration = Duration::from_millis(30);
/// Time for a backend on another machine to answer, wherever that is.
const ROUTED_WINDOW: Duration = Duration::from_millis(300);
/// Attempts to connect to a backend that is silent, spread over the window: one packet may be lost.
const ATTEMPTS: u32 = 3;
/// Whoever is later than this has been busy.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// Who can say whether a backend talks to its clients.
pub trait Witness: Send + Sync + 'static {
    /// Packets of a backend to its clients, since it has this number.
    fn packets_from(&self, backend: u32) -> Option<u64>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn packets_from(&self, _backend: u32) -> Option<u64> {
        None
    }
}

/// Looks into a case until it can be decided.
pub(super) async fn inquire<C: Check>(
    check: Arc<C>,
    witness: Arc<dyn Witness>,
    observation: Observation,
    job: Job,
) -> (Observation, Ruling) {
    let began = Instant::now();
    let window = if job.target.is_routed { ROUTED_WINDOW } else { LOCAL_WINDOW };
    let before = witness.packets_from(observation.backend);
    let attempts = if observation.sign == Sign::Silent { ATTEMPTS } else { 1 };
    let attempt = |number: u32| attempt(Arc::clone(&check), &job, number, window);
    let mut waiting: FuturesUnordered<_> = (0..attempts).map(attempt).collect();
    let mut outcomes = Vec::new();
    while let Some(outcome) = waiting.next().await {
        let is_open = matches!(
            &outcome,
            Outcome::Failed(Failure { kind: FailureKind::Late | FailureKind::Unreachable, .. })
        );
        outcomes.push(outcome);
        if !is_open {
            break;
        }
    }
    let ruling = judge(&Findings {
        sign: observation.sign,
        outcomes,
        packets: [before, witness.packets_from(observation.backend)],
        is_timely: began.elapsed() <= window + LATENESS_MAX,
    });
    (observation, ruling)
}

/// Connects once, in what its number leaves of the window.
async fn attempt<C: Check>(check: Arc<C>, job: &Job, number: u32, window: Duration) -> Outcome {
    let wait = window / ATTEMPTS * number;
    let timeout_ms = u32::try_from(window.saturating_sub(wait).as_millis()).unwrap_or(u32::MAX);
    let probe_once = Probe {
        kind: ProbeKind::Tcp { port: None },
        interval_ms: 1000,
        timeout_ms,
        initial_delay_ms: 0,
        rise: 1,
        fall: 1,
        place: ProbePlace::Node,
    };
    let job = Job { probe: Arc::new(probe_once), ..job.clone() };
    sleep(wait).await;
    probe(check, job).await.outcome
}
