//! Starts the prober and joins it to the runtime.

use std::{sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::mpsc, task::JoinHandle};

use super::Event;
use crate::{
    config::DockerConfig,
    health::{
        self, HealthChannels, HealthView,
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
/// Descriptors that are left to everything but probes.
const DESCRIPTORS_RESERVED: u64 = 512;

/// Probes what `view` says, and tells the runtime by `events`. The task ends when the runtime does.
pub(super) fn start(
    view: &HealthView,
    docker: &DockerConfig,
    runs: docker::Runs,
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
    let (observer, observations) = mpsc::channel(OBSERVATIONS_MAX);
    let (changes, mut found) = mpsc::channel(CHANGES_MAX);
    let stats = Arc::clone(view.stats());
    let channels = HealthChannels { targets: view.targets(), observations, changes, stats };
    // Nodes that start together should not probe a shared backend together.
    let seed = u64::from(std::process::id());
    let settings = health::Settings { seed, in_flight_max: in_flight_max() };
    let events = events.clone();
    Ok(tokio::spawn(async move {
        // Kept until the data path reports what it sees.
        let _observer = observer;
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
