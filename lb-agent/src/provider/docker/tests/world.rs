//! A node with a Docker daemon, made up: containers that come and go, and a daemon that lies.
//!
//! The kernel's side ([`World`] as a [`Host`]) always tells the truth, as the real one does. The
//! daemon's answers are made at the beginning or at the end of a wait, fail, are empty, lack
//! containers or never come, all from one seed.

mod events;
mod faults;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use self::faults::Faults;
pub(crate) use self::process::FakeProcess;
use super::super::{
    endings::AskedToEnd,
    engine::{BridgeNetwork, Engine, EngineError, Event, Inspected, Summary, What},
    host::{Host, Process as _},
    places::FormerNames,
};
use crate::{
    model::BackendState,
    netlink::{BootTicks, ContainerNetwork, ContainerWay, NetworkError, NetworkRefusal},
};

/// The node and its daemon.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<Inner>>);

#[derive(Default)]
pub(crate) struct Inner {
    containers: BTreeMap<String, Container>,
    listeners: Vec<mpsc::UnboundedSender<Result<Event, EngineError>>>,
    /// Instances that have lived and ended.
    pub(crate) ended: BTreeSet<String>,
    pub(crate) faults: Faults,
    /// The daemon does not answer at all.
    pub(crate) down: bool,
    /// Inspections of these fail, each time.
    pub(crate) broken: BTreeSet<String>,
    /// Listings give exactly nothing.
    pub(crate) lists_nothing: bool,
    /// Runs that a provider follows.
    followed: BTreeMap<String, Arc<FakeProcess>>,
    /// What a provider has kept.
    pub(crate) former_names: FormerNames,
    pub(crate) asked_to_end: AskedToEnd,
    /// Nobody is told of anything.
    pub(crate) mute: bool,
    /// Questions that were asked.
    pub(crate) listings: usize,
    pub(crate) inspections: usize,
    clock_ms: u64,
    /// Whatever happened, told or not.
    past: Vec<Event>,
    /// How many of the first events of all a new connection tells again.
    retold: usize,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Container {
    name: String,
    labelled: bool,
    address: Ipv4Addr,
    refused: Option<NetworkRefusal>,
    internal: bool,
    /// The next question for its network finds it without one, as Docker is changing it.
    is_unsettled: bool,
    is_paused: bool,
    readdressed_at: Option<Instant>,
    run: Option<Run>,
}

#[derive(Clone)]
struct Run {
    pid: u32,
    started_at_ms: u64,
    alive: Arc<watch::Sender<bool>>,
    is_asked_to_end: bool,
}

/// A container's id, as Docker has them.
pub(crate) fn id(number: u8) -> String {
    format!("{number:064x}")
}

impl World {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics while it holds the world")
    }

    /// Listings and inspections that were asked for.
    pub(crate) fn questions(&self) -> (usize, usize) {
        let world = self.lock();
        (world.listings, world.inspections)
    }

    async fn delay(&self) {
        let wait_ms = {
            let mut world = self.lock();
            if world.faults.percent == 0 { 2 } else { world.faults.next() % 20 }
        };
        sleep(Duration::from_millis(wait_ms)).await;
    }

    /// Fails, or hangs, as faults will.
    async fn misbehave(&self) -> Result<(), EngineError> {
        let (fails, hangs) = {
            let mut world = self.lock();
            (world.down || world.faults.happens(), world.faults.happens())
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if fails { Err(EngineError("connection refused".to_owned())) } else { Ok(()) }
    }
}

impl Inner {
    /// Makes and starts a container.
    pub(crate) fn start(&mut self, number: u8, labelled: bool) {
        if self.containers.get(&id(number)).is_some_and(|container| container.run.is_some()) {
            return;
        }
        self.clock_ms += 1;
        // The smallest free number, so that stale ones soon point to other processes.
        let taken: BTreeSet<u32> = self.runs().map(|(_, run)| run.pid).collect();
        let pid = (1..u32::MAX).find(|pid| !taken.contains(pid)).expect("few containers");
        let run = Run {
            pid,
            started_at_ms: self.clock_ms,
            alive: Arc::new(watch::channel(true).0),
            is_asked_to_end: false,
        };
        let is_new = !self.containers.contains_key(&id(number));
        let container = self.containers.entry(id(number)).or_insert_with(|| Container {
            name: format!("c{number}"),
            labelled,
            address: Ipv4Addr::UNSPECIFIED,
            refused: None,
            internal: false,
            is_unsettled: false,
            is_paused: false,
            readdressed_at: None,
            run: None,
        });
        container.address = Ipv4Addr::new(172, 17, number, (self.clock_ms % 250) as u8);
        container.run = Some(run);
        container.is_paused = false;
        let labelled = Some(container.labelled);
        if is_new {
            self.tell_all(&Event { container: id(number), labelled, what: What::Made });
        }
        let what = What::Connected("bridge".to_owned());
        self.tell_all(&Event { container: id(number), labelled: None, what });
        self.tell(number, labelled);
    }

    /// Kills the main process of a container. The daemon tells it.
    pub(crate) fn kill(&mut self, number: u8) {
        let Some(container) = self.containers.get_mut(&id(number)) else { return };
        let Some(run) = container.run.take() else { return };
        run.alive.send_replace(false);
        let labelled = container.labelled;
        self.ended.insert(format!("{}@{}", id(number), run.started_at_ms));
        let labelled = Some(labelled);
        self.tell_all(&Event { container: id(number), labelled, what: What::Died });
    }

    /// Sets the daemon's clock.
    pub(crate) fn set_clock(&mut self, clock_ms: u64) {
        self.clock_ms = clock_ms;
    }

    /// Freezes a container, or thaws it.
    pub(crate) fn pause(&mut self, number: u8, is_paused: bool) {
        if let Some(container) = self.containers.get_mut(&id(number)) {
            container.is_paused = is_paused;
            let labelled = container.labelled;
            self.tell(number, Some(labelled));
        }
    }

    /// Connects a container to another network.
    pub(crate) fn readdress(&mut self, number: u8) {
        self.clock_ms += 1;
        let last = (self.clock_ms % 250) as u8;
        if let Some(container) = self.containers.get_mut(&id(number)) {
            container.address = Ipv4Addr::new(172, 18, number, last);
            // A refusal counts when it is found twice in 100 ms: not so often.
            let recently = container.readdressed_at.replace(Instant::now());
            container.is_unsettled =
                recently.is_none_or(|at| at.elapsed() > Duration::from_secs(1));
            self.tell(number, None);
        }
    }

    /// Takes a container's networks away.
    pub(crate) fn refuse(&mut self, number: u8, reason: NetworkRefusal) {
        if let Some(container) = self.containers.get_mut(&id(number)) {
            container.refused = Some(reason);
            self.tell(number, None);
        }
    }

    /// Moves a container to an `internal` network, as old daemons make them: with default route.
    pub(crate) fn make_internal(&mut self, number: u8) {
        if let Some(container) = self.containers.get_mut(&id(number)) {
            container.internal = true;
            self.tell(number, None);
        }
    }

    pub(crate) fn rename(&mut self, number: u8) {
        self.clock_ms += 1;
        let name = format!("c{number}-{}", self.clock_ms);
        self.rename_to(number, &name);
    }

    pub(crate) fn rename_to(&mut self, number: u8, name: &str) {
        let name = name.to_owned();
        if let Some(container) = self.containers.get_mut(&id(number)) {
            container.name = name;
            let labelled = container.labelled;
            self.tell(number, Some(labelled));
        }
    }

    fn runs(&self) -> impl Iterator<Item = (&String, &Run)> {
        self.containers.iter().filter_map(|(id, container)| Some((id, container.run.as_ref()?)))
    }

    /// What the provider should say: instance, address and name of all that live and can be served.
    pub(crate) fn truth(&self) -> Vec<String> {
        let served = self.served().map(|(id, Container { address, name, .. }, run)| {
            format!("{id}@{} {address} {name}", run.started_at_ms)
        });
        served.collect()
    }

    /// The state in which each of them should be, by its name.
    pub(crate) fn states(&self) -> BTreeMap<String, BackendState> {
        let states = self.served().map(|(_, container, run)| {
            let state = match (run.is_asked_to_end, container.is_paused) {
                (true, _) => BackendState::Draining,
                (false, true) => BackendState::Unhealthy,
                (false, false) => BackendState::Healthy,
            };
            (container.name.clone(), state)
        });
        states.collect()
    }

    fn served(&self) -> impl Iterator<Item = (&String, &Container, &Run)> {
        self.containers.iter().filter_map(|(id, container)| {
            let run = container.run.as_ref()?;
            let serves = container.labelled && container.refused.is_none() && !container.internal;
            serves.then_some((id, container, run))
        })
    }

    /// Whether an instance lives.
    pub(crate) fn lives(&self, instance: &str) -> bool {
        self.runs().any(|(id, run)| format!("{id}@{}", run.started_at_ms) == instance)
    }

    fn summaries(&mut self) -> Vec<Summary> {
        let summaries = self.containers.iter().filter(|(_, container)| container.run.is_some());
        let mut summaries: Vec<Summary> = summaries
            .map(|(id, container)| Summary {
                id: id.clone(),
                name: container.name.clone(),
                labels: labels(container.labelled),
                created_at_seconds: 1,
                endpoints: BTreeMap::from([("bridge".to_owned(), container.address.to_string())]),
            })
            .collect();
        if self.lists_nothing {
            summaries.clear();
        }
        if self.faults.happens() {
            let kept = self.faults.next() as usize % (summaries.len() + 1);
            summaries.truncate(kept);
        }
        summaries
    }

    fn inspected(&mut self, id: &str) -> Result<Option<Inspected>, EngineError> {
        if self.broken.contains(id) {
            return Err(EngineError("`State.StartedAt` is no timestamp: `soon`".to_owned()));
        }
        if self.faults.happens() {
            return Ok(None);
        }
        let Some(container) = self.containers.get(id) else { return Ok(None) };
        let Some(run) = &container.run else { return Ok(None) };
        Ok(Some(Inspected {
            name: container.name.clone(),
            image: "redis".to_owned(),
            labels: labels(container.labelled),
            pid: run.pid,
            created_at_ms: 1,
            started_at_ms: run.started_at_ms,
            is_paused: container.is_paused,
            ..Inspected::default()
        }))
    }
}

fn labels(labelled: bool) -> BTreeMap<String, String> {
    let key = if labelled { "aliyun.lb.port_6379" } else { "com.example.other" };
    BTreeMap::from([(key.to_owned(), "tcp://slb:6379".to_owned())])
}

impl Engine for World {
    async fn follow(
        &self,
    ) -> Result<impl Stream<Item = Result<Event, EngineError>> + Send, EngineError> {
        self.delay().await;
        self.misbehave().await?;
        let receiver = self.lock().listen();
        Ok(Box::pin(stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|event| (event, receiver))
        })))
    }

    async fn list(&self) -> Result<Vec<Summary>, EngineError> {
        self.lock().listings += 1;
        self.misbehave().await?;
        let early = self.lock().summaries();
        // Listings take longer than looks.
        for _ in 0..5 {
            self.delay().await;
        }
        let mut world = self.lock();
        Ok(if world.faults.happens() { world.summaries() } else { early })
    }

    async fn inspect(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        self.lock().inspections += 1;
        self.misbehave().await?;
        let early = self.lock().inspected(id);
        self.delay().await;
        let mut world = self.lock();
        if world.faults.happens() { world.inspected(id) } else { early }
    }

    async fn service_labels(&self, _id: &str) -> Result<BTreeMap<String, String>, EngineError> {
        self.misbehave().await?;
        Ok(BTreeMap::new())
    }

    async fn bridge_of(&self, network: &str) -> Result<Option<String>, EngineError> {
        self.misbehave().await?;
        Ok((network == "bridge").then(|| "docker0".to_owned()))
    }

    async fn bridge_network(&self, bridge: &str) -> Result<Option<BridgeNetwork>, EngineError> {
        self.misbehave().await?;
        let is_internal = bridge == "br-inside";
        let name = bridge.trim_start_matches("br-").to_owned();
        Ok(Some(BridgeNetwork {
            name,
            is_internal,
            is_hidden_v4: true,
            ..BridgeNetwork::default()
        }))
    }
}

impl Host for World {
    type Process = FakeProcess;

    fn now(&self) -> io::Result<BootTicks> {
        Ok(BootTicks(self.lock().clock_ms + 1))
    }

    fn open(&self, pid: u32) -> io::Result<FakeProcess> {
        let world = self.lock();
        let found = world.runs().find(|(_, run)| run.pid == pid);
        let (id, run) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(FakeProcess {
            container: id.clone(),
            started_at: BootTicks(run.started_at_ms),
            alive: run.alive.subscribe(),
        })
    }

    async fn network(&self, process: &Arc<FakeProcess>) -> Result<ContainerNetwork, NetworkError> {
        let found = self.read_network(process);
        // What was read gets older before it is used.
        self.delay().await;
        found
    }

    async fn newest_port(&self, bridge: &str) -> Option<u32> {
        self.delay().await;
        (bridge == "docker0").then_some(62)
    }

    fn begins(&self, instance: &str, process: &Arc<FakeProcess>) {
        self.lock().followed.insert(instance.to_owned(), Arc::clone(process));
    }

    fn ends(&self, instance: &str) {
        self.lock().followed.remove(instance);
    }

    fn followed(&self) -> Vec<(String, Arc<FakeProcess>)> {
        self.lock().followed.clone().into_iter().collect()
    }

    fn former_names(&self) -> FormerNames {
        self.lock().former_names.clone()
    }

    async fn keep(&self, former_names: FormerNames) {
        self.lock().former_names = former_names;
    }

    fn asked_to_end(&self) -> AskedToEnd {
        self.lock().asked_to_end.clone()
    }

    fn keep_asked(&self, asked: AskedToEnd) {
        self.lock().asked_to_end = asked;
    }
}

impl World {
    fn read_network(&self, process: &FakeProcess) -> Result<ContainerNetwork, NetworkError> {
        let mut world = self.lock();
        let fails = world.faults.happens();
        let container = world.containers.get_mut(&process.container).filter(|_| process.is_alive());
        let Some(container) = container else { return Err(NetworkError::Gone { pid: 1 }) };
        if fails {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Err(NetworkError::Failed { pid: 1, action: "list its routes", source });
        }
        if let Some(reason) = &container.refused {
            return Err(reason.clone().into());
        }
        if std::mem::take(&mut container.is_unsettled) {
            return Err(NetworkRefusal::NoDefaultRoute.into());
        }
        let first = ContainerWay {
            address: container.address.into(),
            interface: "eth0".to_owned(),
            ifindex: 62,
            host_interface: "veth5cf98f6".to_owned(),
            bridge: Some(if container.internal { "br-inside" } else { "docker0" }.to_owned()),
        };
        Ok(ContainerNetwork { first, second: None })
    }
}
