//! The Docker provider as a part of the daemon: started, and started anew when it has to know
//! something else.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Daemon, EVENTS_MAX, Event};
use crate::{
    labels,
    provider::{ProviderEvent, docker},
};

/// A provider that is at work.
#[derive(Debug)]
pub(super) struct Follower {
    provider: JoinHandle<()>,
    /// Hands on what it tells, to the end.
    forward: JoinHandle<()>,
}

impl Follower {
    fn start(
        settings: docker::Settings,
        runs: docker::Runs,
        reader: labels::Reader,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let provider = docker::run(settings, runs, Arc::new(reader), sender);
        let forward = tokio::spawn(forward(receiver, events));
        Self { provider: tokio::spawn(provider), forward }
    }

    /// Ends it, and sees to it that everything is told that it told.
    async fn stop(self) {
        self.provider.abort();
        drop(self.provider.await);
        drop(self.forward.await);
    }

    pub(super) fn abort(&self) {
        self.provider.abort();
    }

    /// Resolves when it has ended by itself.
    pub(super) async fn ended(&mut self) {
        // A panic has been printed by its hook.
        drop((&mut self.provider).await);
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> tokio::task::Id {
        self.provider.id()
    }
}

impl Daemon {
    /// Starts the Docker provider. One that is there already is started anew only when it has to
    /// know something else: with it goes what it knows, but for whose death is still to be told,
    /// and who was asked to end.
    pub(super) async fn follow_docker(&mut self) -> anyhow::Result<()> {
        let docker = &self.config.docker;
        if !docker.enabled {
            return Ok(());
        }
        let labels = self.config.labels.clone();
        if self.docker.is_some() && self.docker_labels == labels {
            return Ok(());
        }
        let resync = Duration::from_secs(docker.resync_seconds.into());
        let settings = docker::Settings::new(&docker.endpoint, resync)?;
        let settings = settings
            .with_places(docker::Places::at(&self.config.state_path))
            .with_endings(docker::Endings::at(&self.config.state_path));
        if let Some(previous) = self.docker.take() {
            // Nothing that it has told may come after this.
            previous.stop().await;
            self.tell(Event::Restarting(docker::PROVIDER)).await?;
        }
        let reader = labels::Reader::new(&labels);
        let events = self.events.clone();
        self.docker = Some(Follower::start(settings, self.runs.clone(), reader, events));
        self.docker_labels = labels;
        Ok(())
    }
}

async fn forward(mut from: mpsc::Receiver<ProviderEvent>, to: mpsc::Sender<Event>) {
    while let Some(event) = from.recv().await {
        if to.send(event.into()).await.is_err() {
            return;
        }
    }
}
