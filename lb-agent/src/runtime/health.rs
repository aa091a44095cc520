//! Starts the prober and joins it to the runtime.

use std::{sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::mpsc, task::JoinHandle};

use super::Event;
use crate::{
    config::DockerConfig,
    datapath::{Observations, Observer},
    health::{
        self, HealthChannels, HealthView, NoWitness, Observation, Witness,
        check::{NoContainers, NodeChecks, RunInContainer, Tls},
        schedule::IN_FLIGHT_MAX,
    },
    provider::docker,
};

/// Changes that wait for the runtime, many in each.
const CHANGES_MAX: usize = 64;
/// What the data path sees and health has not taken in yet; more is dropped, for the probes see it
/// too.
const OBSERVATIONS_MAX: usize = 1024;
/// Time between two looks at what the data path sees, so that a flood of it is sampled.
const PAUSE: Duration = Duration::from_millis(5);
/// Descriptors that are left to everything but probes.
const DESCRIPTORS_RESERVED: u64 = 512;

/// Probes what `view` says, and tells the runtime by `events`. The task ends when the runtime does.
pub(super) fn start(
    view: &HealthView,
    docker: &DockerConfig,
    runs: docker::Runs,
    observations: Option<Observations>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<JoinHandle<()>> {
    let commands: Arc<dyn RunInContainer> = if docker.enabled {
        let resync = Duration::from_secs(docker.resync_seconds.into());
        let settings = docker::Settings::new(&docker.endpoint, resync)?;
        Arc::new(docker::Commands::new(&settings))
    } else {
        Arc::new(NoContainers)
    };
    let check = Arc::new(NodeChecks::new(Arc::new(runs), commands, Tls::default()));
    let (observer, receiver) = mpsc::channel(OBSERVATIONS_MAX);
    let witness = match observations {
        Some(observations) => {
            let (source, witness) = observations.follow()?;
            tokio::spawn(observe(source, observer));
            Arc::new(witness) as Arc<dyn Witness>
        }
        None => Arc::new(NoWitness),
    };
    let (changes, mut found) = mpsc::channel(CHANGES_MAX);
    let stats = Arc::clone(view.stats());
    let channels =
        HealthChannels { targets: view.targets(), observations: receiver, witness, changes, stats };
    // Nodes that start together should not probe a shared backend together.
    let seed = u64::from(std::process::id());
    let settings = health::Settings { seed, in_flight_max: in_flight_max() };
    let events = events.clone();
    Ok(tokio::spawn(async move {
        let forward = async {
            while let Some(changes) = found.recv().await {
                if events.send(Event::Health(changes)).await.is_err() {
                    found.close();
                }
            }
        };
        tokio::join!(health::run(check, settings, channels), forward);
    }))
}

/// Hands over what the data path sees, for as long as somebody wants it.
async fn observe(mut source: Observer, observer: mpsc::Sender<Observation>) {
    loop {
        // What finds no room is observed again while it lasts.
        let next = source.next(|observation| {
            observer.try_send(observation).ok();
        });
        tokio::select! {
            () = observer.closed() => return,
            result = next => if let Err(error) = result {
                tracing::error!("failures that the data path sees are no longer noticed: {error:#}");
                return;
            },
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As many probes at once as descriptors allow, after asking for as many as we may have.
fn in_flight_max() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return IN_FLIGHT_MAX / 8 };
    let wanted = hard.min(IN_FLIGHT_MAX as u64 * 2 + DESCRIPTORS_RESERVED).max(soft);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!("cannot raise the limit of open files to {wanted}: {error}");
            soft
        }
    };
    // An HTTPS probe inside a container has two descriptors for a moment.
    let for_probes = limit.saturating_sub(DESCRIPTORS_RESERVED).max(DESCRIPTORS_RESERVED) / 2;
    usize::try_from(for_probes).unwrap_or(usize::MAX).min(IN_FLIGHT_MAX)
}
