//! The agent as a process: what it starts, what it reacts to, how it stops.
//!
//! Nothing is cleaned up at the end: what is in the kernel stays there, so that the traffic goes on.

mod changes;
mod following;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::following::Follower;
use super::{
    Event, Reconciler, Runtime, RuntimeChannels, Settings, TraceRequest, Tracers, health, routes,
    spawn,
    status::{status_line, trouble},
    watch::FileWatch,
};
use crate::{
    api::{
        server::{MetricsServer, Request, Server, Source},
        types::View,
    },
    config::{self, Config, LabelsConfig},
    datapath::{self, Datapath},
    journal::{Draft, Journal},
    names,
    netlink::{self, Cookies},
    plan,
    provider::{ProviderEvent, docker, file},
    sockets::{Clients, Registry},
    steering::Store,
};

/// Events that wait before providers have to.
const EVENTS_MAX: usize = 1024;
/// Questions of API clients that wait.
const REQUESTS_MAX: usize = 32;
/// Time for the kernel thread to finish what it is doing when the agent stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop. `config_path` is watched, and read again after SIGHUP.
pub fn run(config: Config, config_path: Option<PathBuf>) -> anyhow::Result<()> {
    let given = names::Given::take_all();
    let cookies = Cookies::of_this_kernel();
    let options = datapath_options(&config, cookies)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(async {
        let mut node = Datapath::open(&options)?;
        if let Some(log) = node.take_log() {
            tokio::spawn(log.follow());
        }
        Box::pin(Daemon::start(node, config, config_path, cookies, given)).await?.run().await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What a configuration amounts to, for `lb-agent check`.
pub fn describe(config: &Config) -> String {
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    let front = if config.front.is_empty() {
        "those of the IPv4 default route".to_owned()
    } else {
        config.front.join(", ")
    };
    format!(
        "{}: in order\nfront interfaces: {front}\nbalancers: {}\nservices: {} with {backends} \
         backends\ndocker: {}",
        config.file_name,
        config.labels.balancers.len(),
        config.services.len(),
        if config.docker.enabled { config.docker.endpoint.as_str() } else { "off" },
    )
}

/// Removes everything that the agent made. Returns what was, or would be, removed.
pub fn uninstall(config: &Config, is_dry_run: bool) -> anyhow::Result<String> {
    let report = datapath::uninstall(&uninstall_options(config), is_dry_run)?;
    Ok(report.to_string())
}

/// A running agent.
#[derive(Debug)]
struct Daemon {
    config: Config,
    config_path: Option<PathBuf>,
    /// Indexes of the front interfaces, as they were at the start.
    fronts: Vec<u32>,
    events: mpsc::Sender<Event>,
    view: watch::Receiver<Arc<View>>,
    docker: Option<Follower>,
    /// The containers that the Docker provider follows.
    runs: docker::Runs,
    /// Resolves when the prober has ended.
    health: JoinHandle<()>,
    /// What the Docker provider reads labels with.
    docker_labels: LabelsConfig,
    server: JoinHandle<()>,
    names: names::Running,
    kernel_thread: oneshot::Receiver<()>,
    stop: CancellationToken,
}

impl Daemon {
    async fn start(
        mut node: Datapath,
        config: Config,
        config_path: Option<PathBuf>,
        cookies: Cookies,
        given: Vec<names::Given>,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let stop = CancellationToken::new();
        let (events, events_receiver) = mpsc::channel(EVENTS_MAX);
        let (kernel, requests) = mpsc::channel(REQUESTS_MAX);
        let (traces, trace_requests) = mpsc::channel(REQUESTS_MAX);
        let (orders, orders_receiver) = mpsc::channel(REQUESTS_MAX);
        let (journal, names) = (Arc::new(Journal::default()), Arc::default());
        let registry = Registry::default();
        let (view_sender, view) = watch::channel(Arc::default());
        // Before anything is changed: two agents must not share a socket.
        let source = Source {
            view: view.clone(),
            kernel: kernel.clone(),
            traces,
            callers: registry.clone(),
            orders,
            journal: Arc::clone(&journal),
            names: Arc::clone(&names),
            started,
        };
        let (server, metrics) = bind(&config, source).await?;
        follow_traces(&mut node, kernel, trace_requests, &stop);
        let registry = start_reaper(&mut node, registry)?;
        let seen = node.take_observations();
        let (fronts, front_names) = fronts_of(&node);
        let reconciler = Reconciler::adopt(node, settings(&config, journal), started)
            .context("cannot read what the kernel holds")?;
        let runs = docker::Runs::default();
        tokio::spawn(reconciler.connections().clone().run(Arc::new(runs.clone())));
        let health =
            health::start(reconciler.health(), &config.docker, runs.clone(), seen, &events)?;
        let channels = RuntimeChannels {
            events: events_receiver,
            requests,
            orders: orders_receiver,
            view: view_sender,
        };
        let kernel_thread = spawn(Runtime::new(reconciler, channels), stop.clone())
            .context("cannot start the kernel thread")?;
        let server = tokio::spawn(server.run(stop.clone()));
        if let Some(metrics) = metrics {
            tokio::spawn(metrics.run(stop.clone()));
        }
        let names = names::start(&config, &front_names, given, &view, &names, &stop)?;
        follow_callers(&config, registry, cookies, &events, &stop)?;
        let mut daemon = Self {
            config,
            config_path,
            fronts,
            events,
            view,
            docker: None,
            runs,
            health,
            docker_labels: LabelsConfig::default(),
            server,
            names,
            kernel_thread,
            stop,
        };
        daemon.follow_sources().await.map(|()| daemon)
    }

    /// Reacts to signals until one says stop, or a part of the agent fails.
    async fn run(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut file = FileWatch::new(self.watched_path().to_owned()).follow();
        notify(&[NotifyState::Ready]);
        tracing::info!("lb-agent {} is running", env!("CARGO_PKG_VERSION"));
        let result = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => self.reload().await,
                Some(()) = file.recv() => {
                    tracing::info!("`{}` has changed", self.watched_path().display());
                    self.reload().await;
                }
                Ok(()) = self.view.changed() => self.tell_status(),
                _ = &mut self.kernel_thread => {
                    break Err(anyhow::anyhow!("the kernel thread ended by itself; see above"));
                }
                () = ended(&mut self.docker) => {
                    break Err(anyhow::anyhow!("the Docker provider ended by itself; see above"));
                }
                _ = &mut self.health => {
                    break Err(anyhow::anyhow!("the prober ended by itself; see above"));
                }
                () = self.names.ended() => {
                    break Err(anyhow::anyhow!("the responder of names ended by itself; see above"));
                }
                _ = &mut self.server => {
                    break Err(anyhow::anyhow!("the API server ended by itself; see above"));
                }
            }
        };
        self.halt(result.is_ok()).await;
        result
    }

    /// Stops what is running. The kernel keeps what it has.
    async fn halt(mut self, is_orderly: bool) {
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping; the traffic goes on");
        if let Some(docker) = self.docker.take() {
            docker.abort();
        }
        self.health.abort();
        self.stop.cancel();
        if is_orderly {
            let parts = async { (self.kernel_thread.await, self.server.await) };
            if timeout(STOP_TIMEOUT, parts).await.is_err() {
                tracing::warn!("still busy after {STOP_TIMEOUT:?}; stopping all the same");
            }
        }
    }

    /// Tells the runtime what the configuration asks for, and follows Docker with its balancers.
    async fn follow_sources(&mut self) -> anyhow::Result<()> {
        let mut claims = file::claims(&self.config);
        claims.refusals.extend(routes::unreachable_backends(&self.config, &self.fronts).await);
        self.tell(Event::Balancers(self.config.labels.balancers.clone())).await?;
        self.follow_docker().await?;
        self.tell(ProviderEvent::Claims { provider: file::NAME, claims }.into()).await
    }

    /// The same after a reload; what was changed is told before what follows from it.
    async fn follow_changed(&mut self, news: Option<Draft>) -> anyhow::Result<()> {
        if let Some(draft) = news {
            self.tell(Event::Told(draft)).await?;
        }
        self.follow_sources().await
    }

    async fn tell(&self, event: Event) -> anyhow::Result<()> {
        if self.events.send(event).await.is_err() {
            bail!("the kernel thread ended by itself; see above");
        }
        Ok(())
    }

    fn watched_path(&self) -> &Path {
        self.config_path.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH))
    }

    /// Reads the configuration again. A file with an error changes nothing, and neither does one
    /// that is gone.
    async fn reload(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!("no monotonic time: {error}"),
        }
        let is_default = self.config.file_name == Config::default().file_name;
        let loaded = match &self.config_path {
            None if is_default => Config::load_or_default(None),
            _ => Config::reload(self.watched_path()),
        };
        let trouble = loaded.as_ref().err().map(trouble);
        match loaded {
            Err(error) => tracing::error!("nothing is changed by the reload:\n{error}"),
            Ok(config) => {
                let late = needs_restart(&self.config, &config);
                if !late.is_empty() {
                    tracing::warn!("changed, and used after a restart only: {}", late.join(", "));
                }
                let news = changes::event(&self.config.written, &config.written, &late);
                self.names.reload(&config);
                self.config.labels = config.labels;
                self.config.services = config.services;
                self.config.file_name = config.file_name;
                self.config.written = config.written;
                match self.follow_changed(news).await {
                    Ok(()) => tracing::info!("`{}` is in force", self.config.file_name),
                    Err(error) => tracing::error!("cannot follow the sources: {error:#}"),
                }
            }
        }
        let status = ProviderEvent::Status { provider: file::NAME, trouble };
        if let Err(error) = self.tell(status.into()).await {
            tracing::error!("{error:#}");
        }
        notify(&[NotifyState::Ready]);
    }

    fn tell_status(&mut self) {
        let text = status_line(&self.view.borrow_and_update());
        notify(&[NotifyState::Status(&text)]);
    }
}

/// Where the API is served, and metrics, if they are.
async fn bind(config: &Config, source: Source) -> anyhow::Result<(Server, Option<MetricsServer>)> {
    let (socket, group) = (&config.api.socket, &config.api.group);
    let server = Server::bind(socket, Some(group), source.clone()).await?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(MetricsServer::bind(address, source).await?),
        None => None,
    };
    Ok((server, metrics))
}

/// Indexes and names of the front interfaces.
fn fronts_of(node: &Datapath) -> (Vec<u32>, Vec<String>) {
    let fronts = node.fronts().iter();
    let indexes = fronts.clone().filter_map(|front| front.ifindex).collect();
    (indexes, fronts.map(|front| front.name.clone()).collect())
}

/// Tells of packets whoever asks for them.
fn follow_traces(
    node: &mut Datapath,
    kernel: mpsc::Sender<Request>,
    requests: mpsc::Receiver<TraceRequest>,
    stop: &CancellationToken,
) {
    if let Some(events) = node.take_trace() {
        let all = Tracers::new(events, kernel, datapath::now_tick);
        tokio::spawn(all.run(requests, stop.clone()));
    }
}

/// Resolves when the provider has ended; never without one.
async fn ended(docker: &mut Option<Follower>) {
    match docker {
        Some(docker) => docker.ended().await,
        None => std::future::pending().await,
    }
}

/// Starts to end sockets whose backends are gone. `None`: socket calls are nobody's business.
fn start_reaper(node: &mut Datapath, registry: Registry) -> anyhow::Result<Option<Registry>> {
    let Some(reaper) = node.take_reaper()? else { return Ok(None) };
    let known = registry.clone();
    std::thread::Builder::new()
        .name("lb-reaper".to_owned())
        .spawn(move || reaper.run(&known))
        .context("cannot start the thread that ends sockets")?;
    Ok(Some(registry))
}

/// Follows the containers of this node as those who call; without Docker, the node is all there is.
fn follow_callers(
    config: &Config,
    registry: Option<Registry>,
    cookies: Cookies,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(registry) = registry else { return Ok(()) };
    let (docker, events) = (&config.docker, events.clone());
    let (sender, mut receiver) = mpsc::channel(1);
    if docker.enabled {
        let resync = Duration::from_secs(docker.resync_seconds.into());
        let settings = docker::Settings::new(&docker.endpoint, resync)?;
        let follow = docker::clients::run(settings, cookies, sender);
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
    } else {
        let node = docker::clients::node_cookie(cookies);
        tokio::spawn(async move { sender.send(Clients { node, ..Clients::default() }).await });
    }
    tokio::spawn(async move {
        while let Some(clients) = receiver.recv().await {
            registry.set(&clients);
            if events.send(Event::Clients(clients)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// What the reconciler needs to know.
fn settings(config: &Config, journal: Arc<Journal>) -> Settings {
    let mut providers = vec![file::NAME];
    if config.docker.enabled {
        providers.push(docker::PROVIDER);
    }
    Settings {
        providers,
        balancers: config.labels.balancers.clone(),
        store: Some(Store::at(&config.state_path)),
        journal,
        planner: plan::Settings {
            ring_slots: config.tables.ring_slots,
            times: config.times.slots(),
            ..plan::Settings::default()
        },
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot tell systemd: {error}");
    }
}

/// Keys whose change takes effect with a restart only.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("front", old.front != new.front),
        ("pin_path", old.pin_path != new.pin_path),
        ("state_path", old.state_path != new.state_path),
        ("hash_seed", old.hash_seed != new.hash_seed),
        ("xdp", old.xdp != new.xdp),
        ("tc", old.tc != new.tc),
        ("cgroup", old.cgroup != new.cgroup),
        ("names", old.names != new.names),
        ("api", old.api != new.api),
        ("docker", old.docker != new.docker),
        ("metrics", old.metrics != new.metrics),
        ("tables", old.tables != new.tables),
        ("times", old.times != new.times),
    ];
    changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key).collect()
}

/// What the data path needs to know, with the front interfaces resolved.
fn datapath_options(config: &Config, cookies: Cookies) -> anyhow::Result<datapath::Options> {
    let names = if config.front.is_empty() {
        netlink::default_route_interfaces().context("cannot read the routing table")?
    } else {
        config.front.clone()
    };
    if names.is_empty() {
        bail!(
            "the node has no IPv4 default route to find the front interface by; name it with the \
             key `front` in {}",
            config.file_name
        );
    }
    let fronts = names.into_iter().map(|name| {
        let xdp = config.xdp.interfaces.get(&name).copied().unwrap_or(config.xdp.mode);
        datapath::FrontInterface { name, xdp }
    });
    let cgroup = config.cgroup.enabled.then(|| datapath::CgroupOptions {
        path: config.cgroup.path.clone(),
        routes_across: config.cgroup.routes_across,
        refuses_unseen: config.cgroup.refuses_unseen,
        cookie_question: cookies.question(),
    });
    Ok(datapath::Options { fronts: fronts.collect(), cgroup, ..uninstall_options(config) })
}

/// The options without the front interfaces: what uninstall needs.
fn uninstall_options(config: &Config) -> datapath::Options {
    datapath::Options {
        pin_path: config.pin_path.clone(),
        state_path: config.state_path.clone(),
        fronts: Vec::new(),
        tc_mode: config.tc.mode,
        cgroup: None,
        ring_slots: config.tables.ring_slots,
        records: config.tables.records,
        times: config.times.records(),
        hash_seed: config.hash_seed,
        as_on_kernel: None,
    }
}

#[cfg(test)]
mod tests;
