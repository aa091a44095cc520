//! What the runtime knows, as the API shows it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::abi::ABI_VERSION;

use super::{ledger::Ledger, node::NodeCounters, pressure, shares::Shares};
use crate::{
    api::types::{
        BackendCountsView, BackendView, FrontView, ReconcileView, RefusalView, ServiceView,
        ServingState, StatusView, View, VipFrontendView, VipView,
    },
    config::Balancer,
    model::{Backend, BackendPath, Service, ServiceName, Snapshot},
    plan::{self, Action, KernelBackend, KernelState, NameHash},
};

/// Everything that a view is made of.
pub(super) struct Parts<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) balancers: &'a [Balancer],
    pub(super) snapshot: &'a Snapshot,
    pub(super) kernel: &'a KernelState,
    pub(super) shares: &'a Shares,
    pub(super) counters: &'a NodeCounters,
    pub(super) fronts: Vec<FrontView>,
    pub(super) refusals: Vec<RefusalView>,
    pub(super) reconcile: ReconcileView,
}

/// The view of all parts. The uptime is the server's to say.
pub(super) fn build(parts: &Parts<'_>) -> View {
    let sources = Sources::of(parts.ledger);
    let numbers = Numbers::of(parts.kernel);
    let services: Vec<ServiceView> = parts
        .snapshot
        .services
        .values()
        .map(|service| service_view(service, parts, &numbers, &sources))
        .collect();
    let backends = parts.snapshot.services.values().flat_map(|service| {
        let view = |backend| backend_view(service, backend, parts, &numbers, &sources);
        service.backends.iter().map(view).collect::<Vec<_>>()
    });
    View {
        vips: vip_views(parts.balancers, &services),
        backends: backends.collect(),
        status: StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            uptime_seconds: 0,
            providers: parts.ledger.views(),
            fronts: parts.fronts.clone(),
            records: parts.counters.records,
            tables: pressure::tables(parts.kernel, parts.counters),
            drops: parts.counters.drops.clone(),
            verdicts: parts.counters.verdicts.clone(),
            refusals: parts.refusals.clone(),
            reconcile: parts.reconcile.clone(),
        },
        services,
    }
}

fn service_view(
    service: &Service,
    parts: &Parts<'_>,
    numbers: &Numbers,
    sources: &Sources,
) -> ServiceView {
    let mut backends = BackendCountsView::default();
    for backend in &service.backends {
        backends.add(backend.state);
    }
    let protocols: BTreeSet<_> =
        service.frontends.iter().map(|frontend| frontend.protocol).collect();
    let number = numbers.services.get(&plan::service_hash(&service.name));
    ServiceView {
        name: service.name.clone(),
        frontends: service.frontends.iter().copied().collect(),
        protocols: protocols.into_iter().collect(),
        ring_size: number.and_then(|number| parts.shares.ring_size(*number)),
        backends,
        state: backends.serving(),
        source: sources.of_service(&service.name),
    }
}

fn backend_view(
    service: &Service,
    backend: &Backend,
    parts: &Parts<'_>,
    numbers: &Numbers,
    sources: &Sources,
) -> BackendView {
    let number = numbers.backends.get(&plan::instance_hash(&service.name, backend)).copied();
    let held = number.and_then(|number| parts.kernel.backends.get(&number));
    let share = match (number, held) {
        (Some(number), Some(held)) => parts.shares.percent(held.service, number),
        _ => 0.0,
    };
    let counters = number.and_then(|number| parts.counters.backends.get(&number));
    BackendView {
        number,
        service: service.name.clone(),
        place: backend.place.clone(),
        display_name: backend.display_name.clone(),
        address: backend.address,
        path: backend.path,
        weight: backend.weight,
        state: backend.state,
        share_percent: (share * 1000.0).round() / 1000.0,
        counters: counters.copied().unwrap_or_default(),
        source: sources.of_backend(&service.name, backend),
    }
}

fn vip_views(balancers: &[Balancer], services: &[ServiceView]) -> Vec<VipView> {
    let mut vips: BTreeMap<IpAddr, VipView> = BTreeMap::new();
    for balancer in balancers {
        let view = vips.entry(balancer.vip).or_insert_with(|| idle(balancer.vip));
        view.balancers.push(balancer.name.clone());
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
        frontends: Vec::new(),
        services: Vec::new(),
        backends: BackendCountsView::default(),
        state: ServingState::Idle,
    }
}

/// Numbers in the kernel by what they stand for.
struct Numbers {
    services: HashMap<NameHash, u32>,
    backends: HashMap<NameHash, u32>,
}

impl Numbers {
    fn of(kernel: &KernelState) -> Self {
        let services = kernel.services.iter().map(|(number, hash)| (*hash, *number)).collect();
        let mut backends: HashMap<NameHash, (u8, u32)> = HashMap::new();
        for (number, held) in &kernel.backends {
            // Of several numbers of one instance, the one that takes most is the one in use.
            let best = backends.entry(held.instance_hash).or_default();
            *best = (*best).max((held.state, *number));
        }
        let backends = backends.into_iter().map(|(hash, (_, number))| (hash, number)).collect();
        Self { services, backends }
    }
}

/// What asked for services and backends.
struct Sources {
    services: HashMap<ServiceName, BTreeSet<&'static str>>,
    backends: HashMap<(ServiceName, String, String), String>,
}

impl Sources {
    fn of(ledger: &Ledger) -> Self {
        let mut sources = Self { services: HashMap::new(), backends: HashMap::new() };
        for (provider, claim) in ledger.claims() {
            sources.services.entry(claim.service.clone()).or_default().insert(provider);
            if let Some(backend) = claim.backend {
                let key = (claim.service, backend.place, backend.instance);
                sources.backends.entry(key).or_insert(claim.source);
            }
        }
        sources
    }

    fn of_service(&self, name: &ServiceName) -> String {
        let providers = self.services.get(name).into_iter().flatten().copied();
        providers.collect::<Vec<_>>().join(",")
    }

    fn of_backend(&self, service: &ServiceName, backend: &Backend) -> String {
        let key = (service.clone(), backend.place.clone(), backend.instance.clone());
        self.backends.get(&key).cloned().unwrap_or_default()
    }
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
            Action::SetBackendState { number, .. } | Action::ClearBackend { number } => {
                kernel.backends.get(number).map_or_else(
                    || format!("backend number {number}"),
                    |backend| self.of_backend(backend, kernel),
                )
            }
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
