//! What the runtime knows, as the API shows it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::ABI_VERSION;

use super::{
    history::reason, ledger::Ledger, node::NodeCounters, orders::Orders, pressure, shares::Shares,
};
use crate::{
    api::events::ConflictView,
    api::types::{
        BackendCountersView, BackendCountsView, BackendView, CallerList, FrontView, NamesView,
        PassiveView, ReconcileView, RefusalView, RefusedBy, ReplicasView, RepliesView, ServiceView,
        ServingState, SocketsView, StatusView, View, VipFrontendView, VipView,
    },
    arbiter,
    config::Balancer,
    health::{HealthView, Sign},
    lifecycle::Lifecycle,
    model::{
        Backend, BackendPath, BackendState, Claim, Policy, Protocol, Refusal, Service, ServiceName,
        Snapshot, WaysIn,
    },
    plan::{self, Action, HashIndex, KernelBackend, KernelState, NameHash, ReplyPort},
};

/// Everything that a view is made of.
pub(super) struct Parts<'a> {
    pub(super) ledger: &'a Ledger,
    /// Whether the snapshot was made from all that there is.
    pub(super) is_complete: bool,
    pub(super) health: &'a HealthView,
    pub(super) balancers: &'a [Balancer],
    pub(super) snapshot: &'a Snapshot,
    pub(super) kernel: &'a KernelState,
    pub(super) shares: &'a Shares,
    pub(super) counters: &'a NodeCounters,
    pub(super) connections: Arc<HashMap<NameHash, u64>>,
    pub(super) fronts: Vec<FrontView>,
    pub(super) sockets: SocketsView,
    pub(super) callers: Arc<CallerList>,
    pub(super) refusals: Vec<RefusalView>,
    pub(super) reconcile: ReconcileView,
    pub(super) steering: &'a Orders,
    pub(super) lifecycle: &'a Lifecycle,
    pub(super) conflicts: Vec<ConflictView>,
    pub(super) now_ms: u64,
}

/// Asked now and then whether there is something that cannot wait for a view to be made.
pub(super) type IsUrgent<'a> = &'a mut dyn FnMut() -> bool;

/// The view of all parts; none if something turned out to be more urgent. The uptime and who asks for
/// names are the server's to say.
pub(super) fn build(parts: &Parts<'_>, is_urgent: IsUrgent<'_>) -> Option<View> {
    let sources = Sources::of_all(parts.ledger);
    let numbers = Numbers::of(parts.kernel);
    let (mut services, mut backends) = (Vec::new(), Vec::new());
    for service in parts.snapshot.services.values() {
        if is_urgent() {
            return None;
        }
        let members = backends.len();
        let sources = sources.of(&service.name);
        let view = |backend| backend_view(service, backend, parts, &numbers, sources);
        backends.extend(service.backends.iter().map(view));
        services.push(service_view(service, &backends[members..], parts, &numbers, sources));
    }
    Some(View {
        vips: vip_views(parts, &services),
        policies: parts.snapshot.services.values().map(|it| policy_of(it)).collect(),
        backends,
        status: StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            uptime_seconds: 0,
            providers: parts.ledger.views(),
            fronts: parts.fronts.clone(),
            sockets: parts.sockets.clone(),
            names: NamesView::default(),
            records: parts.counters.records,
            tables: pressure::tables(parts.kernel, parts.counters),
            drops: parts.counters.drops.clone(),
            verdicts: parts.counters.verdicts.clone(),
            passive: passive(parts.health),
            refusals: parts.refusals.clone(),
            reconcile: parts.reconcile.clone(),
            probes: parts.health.stats().view(),
        },
        conflicts: parts.conflicts.clone(),
        callers: Arc::clone(&parts.callers),
        is_complete: parts.is_complete,
        services,
    })
}

/// Every sign, so that a rate is known from the first one on.
fn passive(health: &HealthView) -> Vec<PassiveView> {
    let counted = health.stats().passive();
    let view = |sign: &Sign| {
        let stats = counted.get(sign).copied().unwrap_or_default();
        PassiveView {
            sign: sign.name().to_owned(),
            observations: stats.observations,
            failures: stats.failures,
            dismissed: stats.dismissed,
        }
    };
    Sign::ALL.iter().map(view).collect()
}

fn policy_of(service: &Service) -> (ServiceName, Arc<Policy>) {
    (service.name.clone(), Arc::clone(&service.policy))
}

fn service_view(
    service: &Service,
    members: &[BackendView],
    parts: &Parts<'_>,
    numbers: &Numbers,
    sources: Option<&SourcesOf<'_>>,
) -> ServiceView {
    let mut backends = BackendCountsView::default();
    let mut counters = BackendCountersView::default();
    let mut connections = None;
    for backend in members {
        backends.add(backend.state);
        counters.merge(backend.counters);
        if let Some(counted) = backend.connections {
            *connections.get_or_insert(0) += counted;
        }
    }
    let is_panic = parts.health.panics().contains_key(&service.name);
    let protocols: BTreeSet<_> =
        service.frontends.iter().map(|frontend| frontend.protocol).collect();
    let number = numbers.services.get(&plan::service_hash(&service.name));
    ServiceView {
        name: service.name.clone(),
        frontends: service.frontends.iter().copied().collect(),
        protocols: protocols.into_iter().collect(),
        ring_size: number.and_then(|number| parts.shares.ring_size(*number)),
        replicas: replicas(service),
        backends,
        state: if is_panic { ServingState::Panic } else { backends.serving() },
        source: sources.map(SourcesOf::providers).unwrap_or_default(),
        counters,
        connections,
    }
}

/// `None`: nobody says how many there are to be. A replica with an address of either family is two
/// backends at one place.
pub(super) fn replicas(service: &Service) -> Option<ReplicasView> {
    let expected = service.policy.scale.value?;
    let at_a_time = service.policy.rolling_updates.value;
    let leaves = |it: &&Backend| matches!(it.state, BackendState::Draining | BackendState::Gone);
    let present = service.backends.iter().filter(|it| !leaves(it));
    let places: BTreeSet<&str> = present.map(|it| &*it.place).collect();
    Some(ReplicasView {
        expected,
        present: u32::try_from(places.len()).unwrap_or(u32::MAX),
        minimum: at_a_time.map(|at_a_time| expected.saturating_sub(at_a_time)),
    })
}

fn backend_view(
    service: &Service,
    backend: &Backend,
    parts: &Parts<'_>,
    numbers: &Numbers,
    sources: Option<&SourcesOf<'_>>,
) -> BackendView {
    let key = plan::instance_hash(&service.name, backend);
    let number = numbers.backends.get(&key).copied();
    let held = number.and_then(|number| parts.kernel.backends.get(&number));
    let share = match (number, held) {
        (Some(number), Some(held)) => parts.shares.percent(held.service, number),
        _ => 0.0,
    };
    let counters = number.and_then(|number| parts.counters.backends.get(&number));
    let found = parts.health.found(key);
    let claim = sources.and_then(|sources| sources.claim(backend));
    let weight = claim.and_then(|claim| claim.wishes.weight.as_ref());
    let (orders, lifecycle) = (parts.steering, parts.lifecycle);
    let connections = match (number, held) {
        (Some(number), Some(held)) if held.records_replies => {
            let recorded = parts.counters.connections.as_ref();
            recorded.map(|recorded| recorded.get(&number).copied().unwrap_or(0))
        }
        _ => parts.connections.get(&key).copied(),
    };
    BackendView {
        number,
        service: service.name.clone(),
        place: backend.place.clone(),
        display_name: backend.display_name.clone(),
        address: backend.address,
        path: backend.path,
        weight: backend.weight,
        weight_origin: weight.map(|weight| weight.origin.clone()).unwrap_or_default(),
        exclusive: claim.and_then(|claim| claim.wishes.exclusive.clone()).unwrap_or_default(),
        yields: arbiter::yields(service, backend),
        state: parts.health.shown_state(&service.name, backend),
        state_reason: reason(
            service,
            backend,
            orders,
            lifecycle,
            found.as_deref(),
            Some(parts.now_ms),
        ),
        steering: parts.steering.of(&service.name, backend).cloned(),
        probe: parts.health.probe_view(key),
        share_percent: (share * 1000.0).round() / 1000.0,
        replies: held.map(|held| replies_view(held, backend, parts.kernel)),
        counters: counters.copied().unwrap_or_default(),
        connections,
        source: claim.map(|claim| claim.source.clone()).unwrap_or_default(),
    }
}

fn replies_view(held: &KernelBackend, backend: &Backend, kernel: &KernelState) -> RepliesView {
    if !held.records_replies {
        return RepliesView::Fixed;
    }
    let default = || {
        let BackendPath::Local { ifindex } = held.path else { return None };
        let ports = [Protocol::Tcp, Protocol::Udp];
        let ports = ports.map(|protocol| ReplyPort { ifindex, address: held.address, protocol });
        ports.iter().find_map(|port| kernel.reply_defaults.get(port))
    };
    let reason = match (backend.replies.ways_in, default()) {
        (WaysIn::OnlyOurs, Some(default)) => format!("{} came first", default.vip),
        (WaysIn::OnlyOurs, None) => "several ports, or datagrams".to_owned(),
        (other, _) => other.to_string(),
    };
    RepliesView::Recorded { reason }
}

fn vip_views(parts: &Parts<'_>, services: &[ServiceView]) -> Vec<VipView> {
    let mut vips: BTreeMap<IpAddr, VipView> = BTreeMap::new();
    for balancer in parts.balancers {
        let view = vips.entry(balancer.vip).or_insert_with(|| idle(balancer.vip));
        view.balancers.push(balancer.name.clone());
    }
    for (name, vip) in &parts.snapshot.names {
        vips.entry(*vip).or_insert_with(|| idle(*vip)).names.push(name.clone());
    }
    for service in services {
        let addresses: BTreeSet<_> = service.frontends.iter().map(|one| one.vip).collect();
        for vip in addresses {
            let view = vips.entry(vip).or_insert_with(|| idle(vip));
            let is_first = view.services.is_empty();
            view.state = if is_first { service.state } else { view.state.max(service.state) };
            view.services.push(service.name.clone());
            view.backends.merge(service.backends);
            let frontends = service.frontends.iter().filter(|frontend| frontend.vip == vip);
            view.frontends.extend(frontends.map(|frontend| VipFrontendView {
                protocol: frontend.protocol,
                ports: frontend.ports,
                service: service.name.clone(),
                state: service.state,
            }));
        }
    }
    let mut views: Vec<_> = vips.into_values().collect();
    for view in &mut views {
        view.balancers.sort();
        view.frontends.sort_by_key(|frontend| (frontend.ports, frontend.protocol));
    }
    views
}

fn idle(vip: IpAddr) -> VipView {
    VipView {
        vip,
        balancers: Vec::new(),
        names: Vec::new(),
        frontends: Vec::new(),
        services: Vec::new(),
        backends: BackendCountsView::default(),
        state: ServingState::Idle,
    }
}

/// Numbers in the kernel by what they stand for.
struct Numbers {
    services: HashIndex<u32>,
    backends: HashIndex<u32>,
}

impl Numbers {
    fn of(kernel: &KernelState) -> Self {
        let services = kernel.services.iter().map(|(number, hash)| (*hash, *number)).collect();
        let mut backends: HashIndex<(u8, u32)> = HashIndex::default();
        for (number, held) in &kernel.backends {
            // Of several numbers of one instance, the one that takes most is the one in use.
            let best = backends.entry(held.instance_hash).or_default();
            *best = (*best).max((held.state, *number));
        }
        let backends = backends.into_iter().map(|(hash, (_, number))| (hash, number)).collect();
        Self { services, backends }
    }
}

/// What asked for services.
struct Sources<'a>(HashMap<&'a ServiceName, SourcesOf<'a>>);

/// What asked for a service and its backends.
#[derive(Default)]
struct SourcesOf<'a> {
    providers: BTreeSet<&'static str>,
    /// By place and instance; of several, the first.
    backends: HashMap<(&'a str, &'a str), &'a Claim>,
}

impl<'a> Sources<'a> {
    fn of_all(ledger: &'a Ledger) -> Self {
        let mut sources = Self(HashMap::new());
        for (provider, claim, backend) in ledger.in_force() {
            let sources = sources.0.entry(&claim.service).or_default();
            sources.providers.insert(provider);
            if let Some(backend) = backend {
                let key = (backend.place.as_str(), backend.instance.as_str());
                sources.backends.entry(key).or_insert(claim);
            }
        }
        sources
    }

    fn of(&self, service: &ServiceName) -> Option<&SourcesOf<'a>> {
        self.0.get(service)
    }
}

impl SourcesOf<'_> {
    fn providers(&self) -> String {
        self.providers.iter().copied().collect::<Vec<_>>().join(",")
    }

    fn claim(&self, backend: &Backend) -> Option<&Claim> {
        self.backends.get(&(backend.place.as_str(), backend.instance.as_str())).copied()
    }
}

/// Something that was not granted, and by whom.
pub(super) fn refused(refused_by: RefusedBy, refusal: &Refusal) -> RefusalView {
    RefusalView {
        refused_by,
        object: refusal.object.clone(),
        key: refusal.key.clone(),
        message: refusal.message.clone(),
    }
}

/// Something that the kernel refused.
pub(super) fn refused_by_kernel(object: String, error: &dyn fmt::Display) -> RefusalView {
    RefusalView { refused_by: RefusedBy::Kernel, object, key: None, message: error.to_string() }
}

/// Names for what the kernel knows by number.
pub(super) struct Names<'a>(pub(super) &'a Snapshot);

impl Names<'_> {
    /// What an action is about, for people.
    pub(super) fn of_action(&self, action: &Action, kernel: &KernelState) -> String {
        match action {
            Action::AttachReply { ifindex } | Action::DetachReply { ifindex } => {
                self.of_interface(*ifindex)
            }
            Action::SetFlags { .. } => "the node's data path".to_owned(),
            Action::WriteService { number, .. } | Action::ClearService { number } => {
                self.of_service(*number, kernel)
            }
            Action::WriteBackend { backend, .. } => self.of_backend(backend, kernel),
            Action::PutReplyDefault { port, .. } | Action::DeleteReplyDefault { port } => {
                format!("replies of {port}")
            }
            Action::PutLocal { prefix, .. } | Action::DeleteLocal { prefix } => {
                format!("local addresses {prefix}")
            }
            Action::SetBackendState { number, .. }
            | Action::SetRecordsReplies { number, .. }
            | Action::ClearBackend { number } => kernel.backends.get(number).map_or_else(
                || format!("backend number {number}"),
                |backend| self.of_backend(backend, kernel),
            ),
            Action::PublishRing { ring, .. } | Action::ClearRing { ring } => {
                format!("ring of {}", self.of_service(plan::service_of(*ring), kernel))
            }
            Action::PutVip { vip } | Action::DeleteVip { vip } => format!("VIP {vip}"),
            Action::PutFrontend { frontend, .. } | Action::DeleteFrontend { frontend } => {
                format!("frontend {frontend}")
            }
        }
    }

    fn of_service(&self, number: u32, kernel: &KernelState) -> String {
        let hash = kernel.services.get(&number);
        let name = hash
            .and_then(|hash| self.0.services.keys().find(|name| plan::service_hash(name) == *hash));
        name.map_or_else(|| format!("service number {number}"), |name| format!("service `{name}`"))
    }

    fn of_backend(&self, backend: &KernelBackend, kernel: &KernelState) -> String {
        let service = self.of_service(backend.service, kernel);
        format!("backend {} of {service}", backend.address)
    }

    fn of_interface(&self, ifindex: u32) -> String {
        let backends = self.0.services.values().flat_map(|service| &service.backends);
        let names: BTreeSet<&str> = backends
            .filter(|backend| backend.path == BackendPath::Local { ifindex })
            .map(|backend| backend.display_name.as_str())
            .collect();
        let names = names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        if names.is_empty() {
            format!("interface {ifindex}")
        } else {
            format!("{} (interface {ifindex})", names.join(", "))
        }
    }
}
