//! A runtime on a fake node, in virtual time.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lb_common::abi::{RINGS_PER_SERVICE, TraceFilter, ticks_from_ns};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::super::{
    Event, Node, NodeCounters, NodeError, Reconciler, Runtime, RuntimeChannels, Settings, Swept,
};
use crate::{
    api::{
        explain::{CallExplanation, CallQuery, ExplainQuery, Explanation},
        server::{Request, SteerCall},
        steer::{Order, SteerAnswer, SteerError, SteerRequest},
        types::{BackendCountersView, FrontView, SocketsView, View},
    },
    health::Targets,
    journal::Journal,
    model::{
        Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, LocalPrefixes, Ports,
        Protocol, ServiceName, Setting, Wishes,
    },
    plan::{self, Action, Kernel, KernelError, KernelState, Scan},
    provider::ProviderEvent,
    sockets::SocketTables,
    steering::Store,
};

/// Says of each action whether the node refuses it.
type Refuse = Box<dyn FnMut(&Action) -> bool + Send>;

thread_local! {
    /// The clock of the data path goes on when an agent ends.
    static BOOTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The fake node, seen from the test.
#[derive(Default)]
pub(super) struct NodeState {
    pub(super) kernel: KernelState,
    /// Actions that were executed, in order.
    pub(super) log: Vec<Action>,
    /// Called before each action.
    pub(super) refuse: Option<Refuse>,
    pub(super) is_unreadable: bool,
    /// The tables are not looked through after each action, which takes long where there are many.
    pub(super) is_trusted: bool,
    pub(super) sweeps: usize,
    pub(super) looks: usize,
    /// Slots of rings that have a record of another backend than their `cur`.
    pub(super) others: BTreeSet<(u32, u32)>,
    pub(super) refused_ticks: BTreeMap<u32, u32>,
    /// What it heard of veths, and what was done with them.
    pub(super) heard: Vec<String>,
    /// Called when a view is made.
    pub(super) on_view: Option<Box<dyn FnMut() + Send>>,
    /// What was set last, and how often something was.
    pub(super) socket_tables: SocketTables,
    pub(super) socket_tables_set: usize,
    /// Socket calls are nobody's business.
    pub(super) has_no_calls: bool,
    /// The same from the next look on.
    pub(super) finds_no_calls: Option<bool>,
}

#[derive(Clone)]
struct FakeNode(Arc<Mutex<NodeState>>);

impl FakeNode {
    fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeNode {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        let mut node = self.lock();
        if node.refuse.as_mut().is_some_and(|refuse| refuse(action)) {
            return Err(KernelError {
                action: "try".to_owned(),
                cause: "the fake refuses".to_owned(),
                is_absent: false,
            });
        }
        if let Action::AttachReply { ifindex } = action {
            node.heard.push(format!("attaches {ifindex}"));
        }
        if let Action::PutFrontend { service, .. } = action {
            // Who sees it is known before anybody is led there.
            let is_known = node.socket_tables.scopes.contains_key(service);
            assert!(is_known || node.has_no_calls, "{action:?}");
        }
        node.log.push(action.clone());
        node.kernel.execute(action)?;
        if !node.is_trusted {
            check_consistent(&node.kernel, action);
        }
        Ok(())
    }
}

/// What must hold between any two actions, or packets would be lost.
fn check_consistent(kernel: &KernelState, action: &Action) {
    for (ring, content) in &kernel.rings {
        let numbers: BTreeSet<u32> = content.slots.iter().map(|slot| slot.cur()).collect();
        for number in numbers.into_iter().filter(|number| *number != 0) {
            let backend = kernel.backends.get(&number);
            let backend =
                backend.unwrap_or_else(|| panic!("ring {ring} without {number}: {action:?}"));
            assert_eq!(backend.service, ring / RINGS_PER_SERVICE, "{action:?}");
            if let BackendPath::Local { ifindex } = backend.path
                && backend.state != 0
            {
                assert!(kernel.reply_interfaces.contains(&ifindex), "{number}: {action:?}");
            }
        }
    }
    for (frontend, service) in &kernel.frontends {
        assert!(kernel.services.contains_key(service), "{frontend}: {action:?}");
    }
}

impl Node for FakeNode {
    fn routes_across(&self) -> bool {
        false
    }

    fn set_socket_tables(&mut self, tables: &SocketTables) -> Result<(), NodeError> {
        let mut node = self.lock();
        node.socket_tables = tables.clone();
        node.socket_tables_set += 1;
        Ok(())
    }

    fn read_state(&mut self) -> Result<KernelState, NodeError> {
        let node = self.lock();
        if node.is_unreadable {
            return Err(NodeError("the fake cannot be read".to_owned()));
        }
        Ok(node.kernel.clone())
    }

    fn sweep_records(&mut self, is_urgent: &mut dyn FnMut() -> bool) -> Result<Swept, NodeError> {
        let now_tick = self.now_tick();
        let mut node = self.lock();
        node.sweeps += 1;
        let mut scan = Scan::begin(now_tick);
        for (ring, slot) in &node.others {
            scan.note_other(*ring, *slot);
        }
        let is_interrupted = is_urgent();
        Ok(Swept { scan: Some(scan).filter(|_| !is_interrupted), is_interrupted })
    }

    fn now_tick(&self) -> u32 {
        let booted = BOOTED.get().expect("a bed was made");
        // Some days after boot.
        ticks_from_ns(u64::try_from(booted.elapsed().as_nanos()).unwrap_or(u64::MAX)) + 300_000
    }

    fn refused_tick(&self, ring: u32) -> u32 {
        self.lock().refused_ticks.get(&ring).copied().unwrap_or(0)
    }

    fn local(&self) -> Result<LocalPrefixes, NodeError> {
        Ok(LocalPrefixes::new())
    }

    fn front_ifindex(&self) -> u32 {
        0
    }

    fn expect_replies(&mut self, interfaces: &BTreeSet<u32>, _kept_for: Duration) {
        self.lock().heard.push(format!("expects {interfaces:?}"));
    }

    fn expect_no_more(&mut self) {
        let mut node = self.lock();
        if node.heard.last().is_some_and(|it| it != "expects no more") {
            node.heard.push("expects no more".to_owned());
        }
    }

    fn look_at_hooks(&mut self) {
        let mut node = self.lock();
        node.looks += 1;
        node.has_no_calls = node.finds_no_calls.take().unwrap_or(node.has_no_calls);
    }

    fn counters(&mut self, backends: &[u32]) -> Result<NodeCounters, NodeError> {
        let backends =
            backends.iter().map(|number| (*number, BackendCountersView::default())).collect();
        Ok(NodeCounters { backends, ..NodeCounters::default() })
    }

    fn fronts(&mut self) -> Vec<FrontView> {
        if let Some(on_view) = &mut self.lock().on_view {
            on_view();
        }
        Vec::new()
    }

    fn sockets(&mut self) -> SocketsView {
        let cgroup = (!self.lock().has_no_calls).then(|| "/sys/fs/cgroup".to_owned());
        SocketsView { cgroup, ..SocketsView::default() }
    }

    fn explain_call(
        &mut self,
        _query: &CallQuery,
        _caller: &crate::explain::Caller,
    ) -> Result<CallExplanation, NodeError> {
        Err(NodeError("not this node".to_owned()))
    }

    fn explain(&mut self, _query: &ExplainQuery) -> Result<Explanation, NodeError> {
        Err(NodeError("the fake decides on no packets".to_owned()))
    }

    fn set_trace_filters(&mut self, _filters: &[Option<TraceFilter>]) -> Result<(), NodeError> {
        Ok(())
    }
}

/// Whether an order was taken, and what came of it.
type Given = (oneshot::Receiver<()>, oneshot::Receiver<Result<SteerAnswer, SteerError>>);

/// A runtime on a fake node.
pub(super) struct Bed {
    node: FakeNode,
    pub(super) events: mpsc::Sender<Event>,
    /// What health would have to probe.
    pub(super) targets: watch::Receiver<Targets>,
    requests: mpsc::Sender<Request>,
    orders: mpsc::Sender<SteerCall>,
    /// What is published for those who do not ask.
    pub(super) published: watch::Receiver<Arc<View>>,
    pub(super) journal: Arc<Journal>,
    pub(super) stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bed {
    /// With both providers, on a node that holds `kernel`.
    pub(super) fn new(kernel: KernelState) -> Self {
        Self::with_store(kernel, None)
    }

    /// The same, with orders of operators kept.
    pub(super) fn with_store(kernel: KernelState, store: Option<Store>) -> Self {
        BOOTED.set(BOOTED.get().or_else(|| Some(Instant::now())));
        let node = FakeNode(Arc::new(Mutex::new(NodeState { kernel, ..NodeState::default() })));
        let journal = Arc::new(Journal::default());
        let settings = Settings {
            providers: vec!["docker", "file"],
            balancers: Vec::new(),
            store,
            journal: Arc::clone(&journal),
            planner: plan::Settings::default(),
        };
        let reconciler =
            Reconciler::adopt(node.clone(), settings, Instant::now()).expect("readable");
        let targets = reconciler.health().targets();
        let (events, receiver) = mpsc::channel(1024);
        let (requests, requests_receiver) = mpsc::channel(1);
        let (orders, orders_receiver) = mpsc::channel(1);
        let (view, published) = watch::channel(Arc::default());
        let channels = RuntimeChannels {
            events: receiver,
            requests: requests_receiver,
            orders: orders_receiver,
            view,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Runtime::new(reconciler, channels).run(stop.clone()));
        Self { node, events, targets, requests, orders, published, journal, stop, task }
    }

    pub(super) fn node(&self) -> MutexGuard<'_, NodeState> {
        self.node.lock()
    }

    /// Refuses what `refuse` says from now on.
    pub(super) fn refuse(&self, refuse: impl FnMut(&Action) -> bool + Send + 'static) {
        self.node().refuse = Some(Box::new(refuse));
    }

    pub(super) async fn claims(&self, provider: &'static str, claims: &[Claim]) {
        let claims = Claims { claims: claims.to_vec(), ..Claims::default() };
        self.send(ProviderEvent::Claims { provider, claims }).await;
    }

    /// Claims of a provider that knows that it does not know everything.
    pub(super) async fn partial(&self, provider: &'static str, claims: &[Claim]) {
        let claims = Claims { claims: claims.to_vec(), is_partial: true, ..Claims::default() };
        self.send(ProviderEvent::Claims { provider, claims }).await;
    }

    pub(super) async fn gone(&self, instance: &str) {
        let instance = instance.to_owned();
        self.send(ProviderEvent::Gone { provider: "docker", instance }).await;
    }

    pub(super) async fn send(&self, event: ProviderEvent) {
        self.events.send(event.into()).await.expect("the runtime runs");
    }

    /// Lets virtual time pass.
    pub(super) async fn wait(&self, time: Duration) {
        sleep(time).await;
        assert!(!self.task.is_finished(), "the runtime runs");
    }

    /// Lets everything happen that needs no waiting.
    pub(super) async fn settle(&self) {
        self.wait(Duration::from_millis(1)).await;
    }

    /// Actions since the last call.
    pub(super) fn take_log(&self) -> Vec<Action> {
        std::mem::take(&mut self.node().log)
    }

    pub(super) async fn view(&self) -> Arc<View> {
        let (answer, view) = oneshot::channel();
        self.requests.send(Request::View(answer)).await.expect("the runtime runs");
        view.await.expect("an answer")
    }

    /// Cookie of somebody's namespace, or why it is not told.
    pub(super) async fn caller(&self, from: &str) -> Result<u64, String> {
        let (answer, cookie) = oneshot::channel();
        let request = Request::Caller(from.to_owned(), answer);
        self.requests.send(request).await.expect("the runtime runs");
        cookie.await.expect("an answer")
    }

    /// Gives an order; returns what was done, or that nobody was meant.
    pub(super) async fn steer(
        &self,
        backend: &str,
        order: Order,
    ) -> Result<SteerAnswer, SteerError> {
        let (taken, result) = self.give(backend, order).await;
        taken.await.expect("it is taken");
        result.await.expect("an answer")
    }

    /// Gives an order, for the test to wait for what becomes of it.
    pub(super) async fn give(&self, backend: &str, order: Order) -> Given {
        let request = SteerRequest { backend: backend.to_owned(), service: None, order };
        let (taken, is_taken) = oneshot::channel();
        let (answer, result) = oneshot::channel();
        let call = SteerCall { request, by: "root".to_owned(), taken, answer };
        self.orders.send(call).await.expect("the runtime runs");
        (is_taken, result)
    }

    /// Ends the runtime as SIGKILL would, and returns what the kernel holds.
    pub(super) async fn kill(self) -> KernelState {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "killed, not panicked");
        self.node.lock().kernel.clone()
    }

    /// Ends the runtime as SIGTERM would.
    pub(super) async fn stop(self) -> KernelState {
        self.stop.cancel();
        self.task.await.expect("it ends without panic");
        self.node.lock().kernel.clone()
    }

    /// Addresses that take new flows of a frontend.
    pub(super) fn served(&self, port: u16) -> BTreeSet<SocketAddr> {
        served(&self.node().kernel, port)
    }
}

/// Addresses that take new flows of a frontend: in its ring, and with their state saying so.
pub(super) fn served(kernel: &KernelState, port: u16) -> BTreeSet<SocketAddr> {
    let Some(service) = kernel.frontends.get(&frontend(port)) else { return BTreeSet::new() };
    let first = service * RINGS_PER_SERVICE;
    let rings = kernel.rings.range(first..first + RINGS_PER_SERVICE);
    let numbers: BTreeSet<u32> =
        rings.flat_map(|(_, ring)| &ring.slots).map(|slot| slot.cur()).collect();
    let backends = numbers.iter().filter_map(|number| kernel.backends.get(number));
    backends.filter(|backend| backend.state & 1 != 0).map(|backend| backend.address).collect()
}

pub(super) fn frontend(port: u16) -> FrontendAddress {
    FrontendAddress {
        vip: [192, 0, 2, 10].into(),
        protocol: Protocol::Tcp,
        ports: Ports::one(port).expect("a port"),
    }
}

/// The claim of a container `id` for the service at `port`, behind interface `id`.
pub(super) fn container(port: u16, id: u8) -> Claim {
    let ring_size = Some(Setting { value: Some(1021), ..Setting::default() });
    Claim {
        service: ServiceName(format!("compose/shop/s{port}:80").into()),
        frontend: frontend(port),
        backend: Some(Backend {
            place: id.to_string(),
            instance: format!("c{id}"),
            display_name: format!("shop-s{port}-{id}"),
            address: address(id),
            weight: 100,
            path: BackendPath::Local { ifindex: id.into() },
            state: BackendState::Healthy,
            started_at_ms: 1,
            reported: None,
            asked_to_end: None,
            network: None,
            replies: crate::model::ReplyFacts::default(),
        }),
        pooled: None,
        wishes: Arc::new(Wishes { ring_size, ..Wishes::default() }),
        since_ms: 1,
        source: format!("container `shop-s{port}-{id}`"),
    }
}

/// The claim of the file for the service at `port`, with a backend `id`.
pub(super) fn entry(port: u16, id: u8) -> Claim {
    let container = container(port, id);
    let backend = container.backend.map(|backend| Backend {
        instance: String::new(),
        path: BackendPath::Routed,
        place: backend.address.to_string(),
        display_name: backend.address.to_string(),
        started_at_ms: 0,
        ..backend
    });
    let service = ServiceName(format!("file/s{port}").into());
    Claim { service, backend, since_ms: 0, ..container }
}

pub(super) fn address(id: u8) -> SocketAddr {
    ([10, 0, 0, id], 80).into()
}

pub(super) fn addresses(ids: &[u8]) -> BTreeSet<SocketAddr> {
    ids.iter().copied().map(address).collect()
}
