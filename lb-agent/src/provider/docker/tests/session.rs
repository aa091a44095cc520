//! A provider at work, and the checks that hold whatever it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::{
    super::{
        ClaimsOf, ReadContainers,
        follow::{Pace, follow},
    },
    world::World,
};
use crate::{
    labels::ContainerFacts,
    model::{
        Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, Ports, Protocol,
        Refusal, ServiceName,
    },
    provider::ProviderEvent,
};

/// Time between full listings.
pub(crate) const RESYNC: Duration = Duration::from_secs(30);

/// A provider at work in a world, and what it has said so far.
pub(crate) struct Session {
    world: World,
    events: mpsc::Receiver<ProviderEvent>,
    provider: JoinHandle<()>,
    /// The claims in force, `instance address name`; `None`: none were sent yet.
    pub(crate) claims: Option<Vec<String>>,
    /// State of each backend in them, by its name.
    pub(crate) states: BTreeMap<String, BackendState>,
    /// Place of each, by its name.
    pub(crate) places: BTreeMap<String, String>,
    /// Networks that they are on.
    pub(crate) networks: BTreeSet<Option<Arc<str>>>,
    pub(crate) refusals: Vec<Refusal>,
    /// The claims in force say that they are not all.
    pub(crate) is_partial: bool,
    pub(crate) gone: BTreeSet<String>,
    /// Veths behind which containers were said to start.
    pub(crate) expected: Vec<u32>,
    pub(crate) trouble: Option<String>,
    /// All troubles that were ever told.
    pub(crate) troubles: Vec<String>,
    pub(crate) messages: usize,
}

impl Session {
    pub(crate) fn start(world: &World) -> Self {
        let (sender, events) = mpsc::channel(16);
        let pace = Pace::new(RESYNC);
        let source = "unix:///docker.sock".to_owned();
        let provider = follow(world.clone(), world.clone(), pace, source, claims_of(), sender);
        Self {
            world: world.clone(),
            events,
            provider: tokio::spawn(provider),
            claims: None,
            states: BTreeMap::new(),
            places: BTreeMap::new(),
            networks: BTreeSet::new(),
            refusals: Vec::new(),
            is_partial: false,
            gone: BTreeSet::new(),
            expected: Vec::new(),
            trouble: None,
            troubles: Vec::new(),
            messages: 0,
        }
    }

    /// Lets time pass and takes in what the provider says, checking what must always hold.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let events = &mut self.events;
        let mut received = Vec::new();
        let _time_is_over = timeout(time, async {
            while let Some(event) = events.recv().await {
                received.push(event);
            }
        })
        .await;
        for event in received {
            self.receive(event);
        }
    }

    fn receive(&mut self, event: ProviderEvent) {
        self.messages += 1;
        match event {
            ProviderEvent::Claims { claims, .. } => {
                let new: Vec<String> = claims.claims.iter().map(shown).collect();
                let instances: BTreeSet<&str> = new.iter().map(|claim| instance(claim)).collect();
                for before in self.claims.iter().flatten().map(|claim| instance(claim)) {
                    let is_withdrawn = !instances.contains(before) && !self.gone.contains(before);
                    let world = self.world.lock();
                    let refused = !world.truth().iter().any(|claim| instance(claim) == before);
                    assert!(
                        !is_withdrawn || !world.lives(before) || refused,
                        "`{before}` lives and was withdrawn"
                    );
                    assert!(
                        !is_withdrawn || world.lives(before),
                        "`{before}` is dead and was not called so"
                    );
                }
                for after in &instances {
                    assert!(!self.gone.contains(*after), "`{after}` came back from the dead");
                }
                let backends = claims.claims.iter().filter_map(|claim| claim.backend.as_ref());
                let name = |it: &Backend| it.display_name.clone();
                self.states = backends.clone().map(|it| (name(it), it.state)).collect();
                self.networks = backends.clone().map(|it| it.network.clone()).collect();
                self.places = backends.map(|it| (name(it), it.place.clone())).collect();
                self.claims = Some(new);
                self.refusals = claims.refusals;
                self.is_partial = claims.is_partial;
            }
            ProviderEvent::Expected { ifindex } => self.expected.push(ifindex),
            ProviderEvent::Gone { instance, .. } => {
                assert!(
                    !self.world.lock().lives(&instance),
                    "`{instance}` lives and is called dead"
                );
                self.gone.insert(instance);
            }
            ProviderEvent::Status { trouble, .. } => {
                self.troubles.extend(trouble.clone());
                self.trouble = trouble;
            }
        }
    }

    /// What is served: the claims without what has been called dead since.
    pub(crate) fn served(&self) -> Vec<String> {
        let claims = self.claims.iter().flatten();
        claims.filter(|claim| !self.gone.contains(instance(claim))).cloned().collect()
    }

    #[track_caller]
    pub(crate) fn check_truth(&self) {
        assert!(self.claims.is_some(), "no claims yet: {:?}", self.trouble);
        assert_eq!(self.served(), self.world.lock().truth());
    }

    /// As far as the provider was told of all signals.
    #[track_caller]
    pub(crate) fn check_states(&self) {
        let served = self.served();
        let is_served = |name: &str| served.iter().any(|it| it.rsplit(' ').next() == Some(name));
        let states: BTreeMap<String, BackendState> =
            self.states.clone().into_iter().filter(|(name, _)| is_served(name)).collect();
        assert_eq!(states, self.world.lock().states());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.provider.abort();
    }
}

fn shown(claim: &Claim) -> String {
    let Some(backend) = &claim.backend else { return claim.source.clone() };
    format!("{} {} {}", backend.instance, backend.address.ip(), backend.display_name)
}

pub(crate) fn instance(claim: &str) -> &str {
    claim.split(' ').next().unwrap_or(claim)
}

pub(crate) fn claims_of() -> ClaimsOf {
    Arc::new(OneClaim)
}

/// Every container asks for the same frontend.
struct OneClaim;

impl ReadContainers for OneClaim {
    fn looks_at_all(&self) -> bool {
        false
    }

    fn concerns(&self, _facts: &ContainerFacts) -> bool {
        true
    }

    fn asked_by(&self, facts: &ContainerFacts) -> Vec<Option<String>> {
        let ours = facts.labels.keys().filter(|key| crate::labels::asks_for_frontend(key));
        ours.cloned().map(Some).collect()
    }

    fn claims(&self, facts: &ContainerFacts) -> Claims {
        let backend = Backend {
            place: facts.former_name.as_ref().unwrap_or(&facts.name).clone(),
            instance: super::super::instance(&facts.id, facts.started_at_ms),
            display_name: facts.name.clone(),
            address: (facts.address, 6379).into(),
            weight: 100,
            path: BackendPath::Local { ifindex: facts.ifindex },
            state: BackendState::Healthy,
            started_at_ms: facts.started_at_ms,
            reported: None,
            asked_to_end: None,
            network: facts.network.clone(),
            replies: crate::model::ReplyFacts::default(),
        };
        let frontend = FrontendAddress {
            vip: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            ports: Ports::one(6379).expect("a port"),
        };
        let claim = Claim {
            service: ServiceName("docker/redis:6379".into()),
            frontend,
            backend: Some(backend),
            pooled: None,
            wishes: Arc::default(),
            since_ms: facts.created_at_ms,
            source: facts.name.clone(),
        };
        Claims { claims: vec![claim], ..Claims::default() }
    }
}
