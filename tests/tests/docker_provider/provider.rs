//! The provider at work, and what it has told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use lb_agent::{
    config::{Balancer, LabelsConfig},
    labels::Reader,
    model::{Backend, Refusal},
    provider::{ProviderEvent, docker},
};
use lb_tests::docker::DockerNode;
use tokio::sync::mpsc;

use super::{BALANCER, RESYNC, SOON};

/// The provider at work in a node's network namespace, as the agent would be.
pub(crate) struct Provider {
    pub(crate) events: mpsc::Receiver<ProviderEvent>,
    pub(crate) thread: Option<JoinHandle<()>>,
    pub(crate) claims: Option<BTreeMap<String, Backend>>,
    pub(crate) refusals: Vec<Refusal>,
    /// Instances that are dead, and when that was known.
    pub(crate) gone: BTreeMap<String, SystemTime>,
    /// Instances that were ever left out of the claims without being dead.
    pub(crate) withdrawn: BTreeSet<String>,
    pub(crate) trouble: Option<String>,
}

impl Provider {
    pub(crate) fn start(node: &DockerNode) -> Result<Self> {
        let endpoint = format!("unix://{}", node.docker().socket().display());
        let settings = docker::Settings::new(&endpoint, RESYNC)?;
        let vip = [192, 0, 2, 10].into();
        let balancer = Balancer { name: BALANCER.to_owned(), id: None, vip };
        let labels = LabelsConfig { balancers: vec![balancer], ..LabelsConfig::default() };
        let claims_of: docker::ClaimsOf = Arc::new(Reader::new(&labels));
        let (sender, events) = mpsc::channel(16);
        let namespace = node.namespace().borrowed();
        let thread = thread::spawn(move || {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(docker::run(
                    settings,
                    docker::Runs::default(),
                    claims_of,
                    sender,
                ));
            };
            namespace.enter(run).expect("the namespace of the node");
        });
        Ok(Self {
            events,
            thread: Some(thread),
            claims: None,
            refusals: Vec::new(),
            gone: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            trouble: None,
        })
    }

    pub(crate) fn receive(&mut self, event: ProviderEvent) {
        match event {
            ProviderEvent::Expected { .. } => {}
            ProviderEvent::Gone { instance, .. } => {
                self.gone.insert(instance, SystemTime::now());
            }
            ProviderEvent::Status { trouble, .. } => {
                println!("status: {}", trouble.as_deref().unwrap_or("all is well"));
                self.trouble = trouble;
            }
            ProviderEvent::Claims { claims, .. } => {
                self.refusals = claims.refusals;
                let backends = claims.claims.into_iter().filter_map(|claim| claim.backend);
                let claims: BTreeMap<_, _> =
                    backends.map(|backend| (backend.display_name.clone(), backend)).collect();
                let instances: BTreeSet<_> =
                    claims.values().map(|backend| &backend.instance).collect();
                for before in self.claims.iter().flat_map(BTreeMap::values) {
                    let instance = &before.instance;
                    if !instances.contains(instance) && !self.gone.contains_key(instance) {
                        self.withdrawn.insert(instance.clone());
                    }
                }
                self.claims = Some(claims);
            }
        }
    }

    /// Takes in events until the condition holds.
    pub(crate) fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !condition(self) {
            match self.events.try_recv() {
                Ok(event) => self.receive(event),
                Err(mpsc::error::TryRecvError::Empty) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(error) => bail!(
                    "{what}: not seen ({error}); serves {:?}, refuses {:?}, trouble {:?}",
                    self.names(),
                    self.refusals,
                    self.trouble
                ),
            }
        }
        Ok(())
    }

    /// Takes in events for a while.
    pub(crate) fn pass(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            match self.events.try_recv() {
                Ok(event) => self.receive(event),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Names of the containers that are served.
    pub(crate) fn names(&self) -> Vec<&str> {
        let all = self.claims.iter().flat_map(BTreeMap::values);
        let served = all.filter(|backend| !self.gone.contains_key(&backend.instance));
        served.map(|backend| backend.display_name.as_str()).collect()
    }

    pub(crate) fn backend(&self, name: &str) -> Result<&Backend> {
        let claims = self.claims.as_ref().context("no claims")?;
        claims.get(name).with_context(|| format!("no container `{name}` in {:?}", self.names()))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.events.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
