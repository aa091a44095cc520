//! One container -> what it asks for: which services it belongs to, its place in them, and its wishes.
//!
//! A replica's identity is its name in the orchestrator (Compose project, service and number; Swarm
//! service and slot; else the container's name, the first if it was renamed), never the container's id
//! or address: so a replacement inherits its ring slots.

mod refusals;
mod wishes;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    aliyun::{self, BalancerIndex, LabelError},
    lb::{self, LbLabels},
    registrator,
    replica::{Replica, image_base_name},
    shown,
    text::name_part,
};
use crate::{
    config::LabelsConfig,
    model::{
        Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, PooledName, Protocol,
        ReplyFacts, ServiceName, WaysIn, Wishes,
    },
};
use refusals::{REFUSALS_MAX, Refusals};
use wishes::ServiceAt;

/// Frontends of one container; Docker itself sets no limit to labels.
const FRONTENDS_MAX: usize = 256;
/// Frontends that are looked at, granted or not: each costs time, and a label has room for many.
const ASKS_MAX: usize = 1024;

/// Ways in which a container asks that are told when it cannot be served at all.
const ASKED_BY_MAX: usize = 16;

/// Weight of a container that wishes none.
const WEIGHT: u16 = 100;

/// What is known of one running container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerFacts {
    /// Its id.
    pub id: String,
    /// Its name, with or without the slash that Docker puts before it.
    pub name: String,
    /// The name that it was known by before it was renamed, if its place is still that name's.
    pub former_name: Option<String>,
    /// The image that it was made from, as the user wrote it.
    pub image: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Labels of its Swarm service, where they are known. Its own go before them.
    pub service_labels: BTreeMap<String, String>,
    /// Variables of its environment that begin with [`registrator::PREFIX`].
    pub environment: BTreeMap<String, String>,
    /// Ports that it or its image names.
    pub ports: BTreeSet<ContainerPort>,
    /// When it was made, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was started last, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// Its address, on the network with its default route: IPv4 where it has that.
    pub address: IpAddr,
    /// Index of the host-side end of that network's veth pair.
    pub ifindex: u32,
    /// Who can use that address.
    pub ways_in: WaysIn,
    /// That network, as it counts for who reaches it, if Docker knows it.
    pub network: Option<Arc<str>>,
    /// The same of the other family, where it has both.
    pub second: Option<LocalAddress>,
}

/// An address of a container, and the node's end of the way to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the host-side end of the veth pair.
    pub ifindex: u32,
    /// Who can use it.
    pub ways_in: WaysIn,
    /// The network that it is of, as it counts for who reaches it, if Docker knows it.
    pub network: Option<Arc<str>>,
}

impl ContainerFacts {
    /// Its labels, and below them those of its Swarm service.
    fn all_labels(&self) -> Cow<'_, BTreeMap<String, String>> {
        if self.service_labels.is_empty() {
            return Cow::Borrowed(&self.labels);
        }
        let mut all = self.service_labels.clone();
        all.extend(self.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        Cow::Owned(all)
    }

    /// Its address of the VIP's family; an error says that it has none.
    fn address_for(&self, vip: IpAddr) -> Result<LocalAddress, String> {
        let Self { address, ifindex, ways_in, ref network, ref second, .. } = *self;
        let first = LocalAddress { address, ifindex, ways_in, network: network.clone() };
        let mut addresses = std::iter::once(first).chain(second.clone());
        addresses.find(|it| it.address.is_ipv4() == vip.is_ipv4()).ok_or_else(|| {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(
                "the balancer's VIP {vip} is {family}, and the container has no {family} address on \
                 a network with a default route; connect it to a network with {family}, or name a \
                 balancer whose VIP is of the container's family"
            )
        })
    }
}

/// A port of a container.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ContainerPort {
    /// Number.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Docker publishes it on the node.
    pub is_published: bool,
}

/// Label that Swarm puts on the containers of a service: the service's id.
pub const SWARM_SERVICE_ID: &str = "com.docker.swarm.service.id";

/// Whether a container with these labels, or its service, may ask for anything, so that it must be
/// looked at.
pub fn may_want_balancing(labels: &BTreeMap<String, String>) -> bool {
    wants_balancing(labels) || labels.contains_key(SWARM_SERVICE_ID)
}

/// Whether these labels ask for anything.
fn wants_balancing(labels: &BTreeMap<String, String>) -> bool {
    // Only the keys between the prefixes are looked at: labels may be many.
    let begins = |prefix: &str| {
        labels.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix))
    };
    begins("aliyun.") || begins(lb::PREFIX)
}

/// Whether a label asks for a frontend; the others only say how.
pub fn asks_for_frontend(key: &str) -> bool {
    key.starts_with(aliyun::PREFIX)
        || key.starts_with(aliyun::routing::PREFIX)
        || lb::asks_for_frontend(key)
}

/// Reads containers with what the configuration says about labels.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reader {
    balancers: BalancerIndex,
    vips: Vec<IpNet>,
    routing_pool: Option<IpNet>,
    registrations: BTreeMap<String, Vec<FrontendAddress>>,
    defaults: Arc<Wishes>,
}

/// One wish to be reached somewhere.
struct Ask {
    container_port: u16,
    frontend: FrontendAddress,
    pooled: Option<PooledName>,
    /// Name of the service, where it is not the replica's own.
    service: Option<String>,
    /// ``label `lb.frontend` ``.
    source: String,
}

impl Reader {
    /// A reader for this configuration.
    pub fn new(config: &LabelsConfig) -> Self {
        let mut registrations: BTreeMap<String, Vec<FrontendAddress>> = BTreeMap::new();
        for one in &config.registrations {
            registrations.entry(one.name.clone()).or_default().push(one.frontend);
        }
        Self {
            balancers: BalancerIndex::new(&config.balancers),
            vips: config.vips.clone(),
            routing_pool: config.routing_pool,
            registrations,
            defaults: Arc::clone(&config.defaults),
        }
    }

    /// Whether containers without labels may be asked for by name, so that all are looked at.
    pub fn looks_at_all(&self) -> bool {
        !self.registrations.is_empty()
    }

    /// Whether anything may follow from this container.
    pub fn concerns(&self, facts: &ContainerFacts) -> bool {
        wants_balancing(&facts.labels)
            || wants_balancing(&facts.service_labels)
            || (self.looks_at_all() && self.is_registered(facts))
    }

    /// The labels and variables by which a container asks for a frontend, as many as are told; `None`: it
    /// does so by its image. Also of one whose address is not known.
    pub fn asked_by(&self, facts: &ContainerFacts) -> Vec<Option<String>> {
        let labels = facts.all_labels();
        let asking = labels.keys().filter(|key| asks_for_frontend(key));
        let asking = asking.map(|key| Some(shown(key)));
        let metadata = registrator::Metadata::read(&facts.environment, &labels);
        let registered = self.registered(facts, &metadata).map(|(key, _)| key);
        let keys: BTreeSet<_> = asking.chain(registered).take(ASKED_BY_MAX).collect();
        keys.into_iter().collect()
    }

    /// What a container asks for, and which of its labels are refused.
    pub fn claims(&self, facts: &ContainerFacts) -> Claims {
        let name = facts.name.trim_start_matches('/');
        let object = format!("container `{}`", shown(name));
        let labels = &*facts.all_labels();
        let mut refusals = Refusals::new(&object);
        let (own, errors, left_out) = LbLabels::read(labels.iter(), REFUSALS_MAX);
        refusals.extend(errors);
        refusals.leave_out(left_out);
        let mut unknown = aliyun::policy::unknown(labels.keys());
        refusals.extend(aliyun::policy::misspelt(unknown.by_ref().take(REFUSALS_MAX)));
        if unknown.next().is_some() {
            refusals.container(format!(
                "has more than {REFUSALS_MAX} unknown labels that begin with `aliyun.`; the rest is \
                 not compared with the known ones"
            ));
        }
        let asks = self.asks(facts, labels, &own, &mut refusals);
        if asks.is_empty() {
            return Claims { refusals: refusals.told(), ..Claims::default() };
        }
        let Some(replica) = Replica::of(facts) else {
            let message = "a one-off container of `docker compose run` gets no traffic; start the \
                           service by `docker compose up`";
            refusals.extend(
                asks.into_iter().map(|(key, _)| LabelError { key, message: message.to_owned() }),
            );
            return Claims { refusals: refusals.told(), ..Claims::default() };
        };
        let schemas = wishes::read(own, labels, &facts.environment, &object, &mut refusals);
        if asks.iter().any(|(_, ask)| ask.service.is_some()) {
            refusals.extend(schemas.registrator.misspelt(REFUSALS_MAX));
        }
        let is_tcp = |ask: &&Ask| ask.frontend.protocol == Protocol::Tcp;
        let tcp = asks.iter().map(|(_, ask)| ask).filter(is_tcp);
        let tcp: BTreeSet<u16> = tcp.map(|ask| ask.container_port).collect();
        let mut by_service: BTreeMap<ServiceAt, Arc<Wishes>> = BTreeMap::new();
        let mut claims = Vec::new();
        for (key, ask) in asks {
            let address = match facts.address_for(ask.frontend.vip) {
                Ok(address) => address,
                Err(message) => {
                    refusals.extend([LabelError { key, message }]);
                    continue;
                }
            };
            let service = ServiceAt {
                port: ask.container_port,
                has_tcp: tcp.contains(&ask.container_port),
                container_has_tcp: !tcp.is_empty(),
                is_registered: ask.service.is_some(),
            };
            let wishes = by_service
                .entry(service)
                .or_insert_with(|| Arc::new(self.wishes(&schemas, service, &mut refusals)));
            claims.push(claim(facts, name, &replica, ask, address, wishes, &object));
        }
        Claims { claims, refusals: refusals.told(), ..Claims::default() }
    }

    /// Everything that is asked for, by the key that asks.
    fn asks(
        &self,
        facts: &ContainerFacts,
        labels: &BTreeMap<String, String>,
        own: &LbLabels<'_>,
        refusals: &mut Refusals<'_>,
    ) -> Vec<(String, Ask)> {
        let lb = own
            .frontends(&self.balancers, |vip| self.is_allowed(vip))
            .map(|label| label.map(Self::ask_of_frontend));
        let ports = aliyun::parse(labels).map(|label| self.ask_of_listener(&label?));
        let names =
            aliyun::routing::parse(labels, self.routing_pool).map(|label| label.map(ask_of_name));
        let metadata = registrator::Metadata::read(&facts.environment, labels);
        let registered = self.registered(facts, &metadata).map(|(key, ask)| {
            let name = || format!("{}{}_NAME", registrator::PREFIX, ask.container_port);
            Ok((key.unwrap_or_else(name), ask))
        });
        let mut asks = Vec::new();
        for (count, ask) in lb.chain(ports).chain(names).chain(registered).enumerate() {
            if asks.len() == FRONTENDS_MAX || count == ASKS_MAX {
                refusals.container(format!(
                    "its labels ask for more than {FRONTENDS_MAX} frontends, or for more than \
                     {ASKS_MAX} with those that are refused; the rest is left out"
                ));
                break;
            }
            match ask {
                Err(error) => refusals.extend([error]),
                Ok(ask) => asks.push(ask),
            }
        }
        asks
    }

    fn ask_of_frontend(label: lb::FrontendLabel) -> (String, Ask) {
        let ask = Ask {
            container_port: label.container_port,
            frontend: label.frontend,
            pooled: None,
            service: None,
            source: format!("label `{}`", shown(&label.key)),
        };
        (label.key, ask)
    }

    fn ask_of_listener(&self, label: &aliyun::PortLabel) -> Result<(String, Ask), LabelError> {
        let key = format!("{}{}", aliyun::PREFIX, label.container_port);
        let frontend = self
            .balancers
            .resolve(label)
            .map_err(|message| LabelError { key: key.clone(), message })?;
        let ask = Ask {
            container_port: label.container_port,
            frontend,
            pooled: None,
            service: None,
            source: format!("label `{key}`"),
        };
        Ok((key, ask))
    }

    fn is_registered(&self, facts: &ContainerFacts) -> bool {
        let labels = facts.all_labels();
        let metadata = registrator::Metadata::read(&facts.environment, &labels);
        self.registered(facts, &metadata).next().is_some()
    }

    /// What the names of Registrator ask for.
    fn registered<'a>(
        &'a self,
        facts: &'a ContainerFacts,
        metadata: &'a registrator::Metadata<'a>,
    ) -> impl Iterator<Item = (Option<String>, Ask)> + 'a {
        let image = image_base_name(&facts.image);
        let ports = (!self.registrations.is_empty()).then(|| metadata.ports(&facts.ports, image));
        ports.into_iter().flatten().flat_map(|port| {
            let frontends = self.registrations.get(&port.name).into_iter().flatten();
            let suits = move |it: &&FrontendAddress| {
                port.protocol.is_none_or(|protocol| protocol == it.protocol)
            };
            frontends.filter(suits).map(move |frontend| {
                let ask = Ask {
                    container_port: port.port,
                    frontend: *frontend,
                    pooled: None,
                    service: Some(format!("registrator/{}", name_part(&port.name))),
                    source: port.source.clone(),
                };
                (port.key.clone(), ask)
            })
        })
    }

    /// Whoever may start a container may write any label, but not take any address.
    fn is_allowed(&self, vip: IpAddr) -> bool {
        self.balancers.has_vip(vip) || self.vips.iter().any(|net| net.contains(&vip))
    }
}

fn ask_of_name(label: aliyun::routing::RoutingLabel) -> (String, Ask) {
    let frontend = FrontendAddress {
        // The arbiter knows which addresses of the pool are free.
        vip: label.name.pool.network(),
        protocol: Protocol::Tcp,
        ports: aliyun::routing::FRONT_PORT,
    };
    let ask = Ask {
        container_port: label.container_port,
        frontend,
        pooled: Some(label.name),
        service: None,
        source: format!("label `{}`", shown(&label.key)),
    };
    (label.key, ask)
}

fn claim(
    facts: &ContainerFacts,
    name: &str,
    replica: &Replica,
    ask: Ask,
    address: LocalAddress,
    wishes: &Arc<Wishes>,
    object: &str,
) -> Claim {
    let port = ask.container_port;
    let share = wishes.share.as_ref().and_then(|share| share.value.clone());
    let mut backend = backend(facts, name, replica, address, port);
    backend.weight = wishes.weight.as_ref().map_or(WEIGHT, |weight| weight.value);
    // Where services meet, places that were different must stay so.
    let service = match (&share, ask.service) {
        (Some(share), _) => {
            backend.place = replica.identity(port);
            match &ask.pooled {
                Some(pooled) => ServiceName::shared(share, &pooled.name),
                None => ServiceName::shared(share, &ask.frontend),
            }
        }
        (None, Some(service)) => {
            backend.place = replica.identity(port);
            ServiceName(service.into())
        }
        (None, None) => replica.service_name(port, &ask.frontend, ask.pooled.as_ref()),
    };
    Claim {
        service,
        frontend: ask.frontend,
        backend: Some(backend),
        pooled: ask.pooled,
        wishes: Arc::clone(wishes),
        since_ms: facts.created_at_ms,
        source: format!("{object}, {}", ask.source),
    }
}

fn backend(
    facts: &ContainerFacts,
    name: &str,
    replica: &Replica,
    address: LocalAddress,
    port: u16,
) -> Backend {
    // A service may have frontends of both protocols, and a backend is told to be one thing for both:
    // a port that is published for one of them is not ours alone.
    let is_published = facts.ports.iter().any(|it| it.port == port && it.is_published);
    Backend {
        place: replica.place.clone(),
        // A container that was stopped and started again is another instance: its flows are gone.
        instance: format!("{}@{}", facts.id, facts.started_at_ms),
        display_name: name_part(name),
        address: SocketAddr::new(address.address, port),
        weight: WEIGHT,
        path: BackendPath::Local { ifindex: address.ifindex },
        state: BackendState::Healthy,
        started_at_ms: facts.started_at_ms,
        reported: None,
        asked_to_end: None,
        network: address.network,
        replies: ReplyFacts {
            ways_in: if is_published { WaysIn::Published } else { address.ways_in },
            only_answers: false,
        },
    }
}

#[cfg(test)]
mod tests;
