//! Docker's API over its Unix socket, reduced to what [`Engine`] asks for.
//!
//! Everything that comes back is checked here; what is missing or malformed in one container fails
//! that container, not the listing. Every answer has a time limit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bollard::{
    API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker,
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerSummary, EventMessage, EventMessageTypeEnum,
        HealthStatusEnum, Network, PortMap,
    },
    query_parameters::EventsOptionsBuilder,
};
use futures_util::{Stream, StreamExt as _};
use hyper::{
    Uri,
    http::uri::{InvalidUri, PathAndQuery},
};
use tokio::time::Instant;

use super::{
    clients::Listed,
    engine::{BridgeNetwork, Engine, EngineError, Event, Inspected, Signalled, Summary, What},
    signal::Signal,
    timestamp,
};
use crate::{
    grammar,
    labels::{self, ContainerPort},
    model::{Protocol, ReportedHealth},
};

/// Longest wait for one answer. A busy daemon takes a second; one that hangs takes for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How far back events are asked for, so that none falls between the question and the answer, and
/// that a container that was told to end while nobody listened is known to be about to. The daemon
/// remembers 256 events at most.
const EVENTS_SINCE: Duration = Duration::from_mins(10);
/// How long a listing of networks is good for. A bridge that is not in it is asked for at once.
const NETWORKS_KEPT: Duration = Duration::from_secs(1);
/// Option of a bridge network that names its bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// Option that says whether what leaves a bridge network gets an address of the node; it does by
/// default.
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// Option that says whether the containers of a bridge network reach one another; they do by default.
const TALKS: &str = "com.docker.network.bridge.enable_icc";
/// Options that say how a bridge network is reached from outside: `nat`, the default, or otherwise.
const GATEWAY_MODE_V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const GATEWAY_MODE_V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
/// What can change a container's claims. Above all not `exec_*`: health checks are a flood of them.
const ACTIONS: [&str; 13] = [
    CREATE,
    "start",
    "restart",
    DIE,
    "rename",
    "update",
    "destroy",
    CONNECT,
    "disconnect",
    "pause",
    "unpause",
    KILL,
    HEALTH_STATUS,
];
const CREATE: &str = "create";
const CONNECT: &str = "connect";
/// The main process has ended.
const DIE: &str = "die";
/// The state comes behind a colon, and is looked at anew all the same.
const HEALTH_STATUS: &str = "health_status";
/// A signal was sent, whichever: the first thing that is told of a `docker stop`.
const KILL: &str = "kill";

/// The daemon behind one Unix socket.
pub(super) struct Api {
    socket_path: String,
    /// What was agreed with the daemon when it was last connected to.
    version: Mutex<Option<ClientVersion>>,
    networks: tokio::sync::Mutex<Networks>,
}

/// What is known of the daemon's bridge networks, for a moment: many containers are looked at in a
/// row.
struct Networks {
    listed_at: Instant,
    /// By the name of their bridge.
    by_bridge: BTreeMap<String, BridgeNetwork>,
    /// Names of all, whatever they are.
    names: BTreeSet<String>,
}

impl Api {
    pub(super) fn new(socket_path: String) -> Self {
        let listed_at = Instant::now();
        let (by_bridge, names) = <_>::default();
        let networks = tokio::sync::Mutex::new(Networks { listed_at, by_bridge, names });
        Self { socket_path, version: Mutex::new(None), networks }
    }

    /// A client that speaks the daemon's default version, which every daemon accepts. It opens a
    /// connection per request, so there is nothing to keep, and nothing that a restart of the
    /// daemon could break.
    fn unversioned_client(&self) -> Result<Docker, EngineError> {
        // Ours is the limit for the whole answer; the client's own is only for its beginning.
        let seconds = ANSWER_WITHIN.as_secs() + 1;
        Docker::connect_with_unix(&self.socket_path, seconds, API_DEFAULT_VERSION)
            .map_err(|error| EngineError(describe(&error)))
    }

    /// A client that speaks the version that was agreed on: no newer than the daemon's, and no
    /// newer than the one that our types were made for.
    fn client(&self) -> Result<Docker, EngineError> {
        let version = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let client = self.unversioned_client()?;
        Ok(match version {
            None => client,
            // bollard negotiates a version and leaves it out of its requests all the same.
            Some(version) => client.with_request_modifier(move |mut request: BollardRequest| {
                if let Ok(uri) = with_version(request.uri(), &version) {
                    *request.uri_mut() = uri;
                }
                request
            }),
        })
    }

    /// Asks the daemon for its version: it answers, and it is clear how to speak to it.
    async fn negotiate(&self) -> Result<(), EngineError> {
        let negotiated = within(self.unversioned_client()?.negotiate_version()).await?;
        let version = negotiated.client_version();
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        Ok(())
    }
}

impl Api {
    /// Path of the daemon's socket.
    pub(super) fn socket_path(&self) -> &str {
        &self.socket_path
    }

    /// Agrees on a version, unless that is done.
    pub(super) async fn prepare(&self) -> Result<(), EngineError> {
        let is_agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_agreed { Ok(()) } else { self.negotiate().await }
    }

    /// Of these networks, those whose containers do not reach one another.
    pub(super) async fn isolated(
        &self,
        names: &BTreeSet<&str>,
    ) -> Result<BTreeSet<String>, EngineError> {
        let mut networks = self.networks.lock().await;
        self.look_at_networks(&mut networks, |known| {
            names.iter().all(|name| known.names.contains(*name))
        })
        .await?;
        let isolated = networks.by_bridge.values().filter(|network| network.is_isolated);
        let isolated = isolated.filter(|network| names.contains(network.name.as_str()));
        Ok(isolated.map(|network| network.name.clone()).collect())
    }

    /// Lists the networks, unless that was done a moment ago and they are known.
    async fn look_at_networks(
        &self,
        networks: &mut Networks,
        are_known: impl FnOnce(&Networks) -> bool,
    ) -> Result<(), EngineError> {
        if !are_known(networks) || networks.listed_at.elapsed() > NETWORKS_KEPT {
            let listed_at = Instant::now();
            let listed = within(self.client()?.list_networks(None)).await?;
            let names = listed.iter().filter_map(|network| network.name.clone()).collect();
            let by_bridge = listed.into_iter().filter_map(bridge_of).collect();
            *networks = Networks { listed_at, by_bridge, names };
        }
        Ok(())
    }

    /// Lists the containers that run, with their addresses.
    pub(super) async fn clients(&self) -> Result<Vec<Listed>, EngineError> {
        let listed = within(self.client()?.list_containers(None)).await?;
        Ok(listed.into_iter().filter_map(client_of).collect())
    }
}

/// A moment ago, as Docker counts seconds. A clock that jumps does no harm: past events are asked for
/// only because the stream begins a little after the question.
#[expect(clippy::disallowed_methods, reason = "Docker's API knows the wall clock only")]
fn events_since() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(EVENTS_SINCE).as_secs()
}

/// `/containers/json` -> `/v1.41/containers/json`.
fn with_version(uri: &Uri, version: &ClientVersion) -> Result<Uri, Box<dyn std::error::Error>> {
    let mut parts = uri.clone().into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    let path: Result<PathAndQuery, InvalidUri> = format!("/v{version}{path}").parse();
    parts.path_and_query = Some(path?);
    Ok(Uri::from_parts(parts)?)
}

impl Engine for Api {
    async fn follow(
        &self,
    ) -> Result<impl Stream<Item = Result<Event, EngineError>> + Send, EngineError> {
        self.negotiate().await?;
        let client = self.client()?;
        let since = events_since();
        let filters =
            HashMap::from([("type", vec!["container", "network"]), ("event", ACTIONS.to_vec())]);
        let options =
            EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let events = client.events(Some(options)).filter_map(async |message| match message {
            Ok(message) => event_of(message).map(Ok),
            Err(error) => Some(Err(EngineError(describe(&error)))),
        });
        Ok(Box::pin(events))
    }

    async fn list(&self) -> Result<Vec<Summary>, EngineError> {
        let client = self.client()?;
        let listed = within(client.list_containers(None)).await?;
        Ok(listed.into_iter().filter_map(summary_of).collect())
    }

    async fn inspect(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        let client = self.client()?;
        match within_raw(client.inspect_container(id, None)).await? {
            Ok(response) => inspected_of(response),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(EngineError(describe(&error))),
        }
    }

    async fn service_labels(&self, id: &str) -> Result<BTreeMap<String, String>, EngineError> {
        // The id comes from a label, and goes into a path.
        if id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(BTreeMap::new());
        }
        let client = self.client()?;
        let service = match within_raw(client.inspect_service(id, None)).await? {
            Ok(service) => service,
            // Not a manager; or the service is gone, and its tasks will be.
            Err(Error::DockerResponseServerError { status_code: 503 | 404, .. }) => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(EngineError(describe(&error))),
        };
        let labels = service.spec.and_then(|spec| spec.labels);
        Ok(labels.unwrap_or_default().into_iter().collect())
    }

    async fn bridge_of(&self, network: &str) -> Result<Option<String>, EngineError> {
        let mut networks = self.networks.lock().await;
        self.look_at_networks(&mut networks, |known| known.names.contains(network)).await?;
        let mut bridges = networks.by_bridge.iter();
        Ok(bridges.find(|(_, known)| known.name == network).map(|(bridge, _)| bridge.clone()))
    }

    async fn bridge_network(&self, bridge: &str) -> Result<Option<BridgeNetwork>, EngineError> {
        let mut networks = self.networks.lock().await;
        let is_known = |known: &Networks| known.by_bridge.contains_key(bridge);
        self.look_at_networks(&mut networks, is_known).await?;
        // A bridge that Docker does not know is somebody else's.
        Ok(networks.by_bridge.get(bridge).cloned())
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
    within_raw(answer).await?.map_err(|error| EngineError(describe(&error)))
}

async fn within_raw<T>(answer: impl Future<Output = T>) -> Result<T, EngineError> {
    tokio::time::timeout(ANSWER_WITHIN, answer)
        .await
        .map_err(|_elapsed| EngineError(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
}

/// For people: of a request that failed, only what made it fail.
pub(super) fn describe(error: &Error) -> String {
    let Error::HyperLegacyError { err } = error else { return error.to_string() };
    let mut cause: &dyn std::error::Error = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `None`: an event that does not concern a container. The daemon filters, but an old one may not.
fn event_of(message: EventMessage) -> Option<Event> {
    let actor = message.actor?;
    let attributes: BTreeMap<_, _> = actor.attributes.unwrap_or_default().into_iter().collect();
    let action = message.action?;
    let action = action.split_once(':').map_or(action.as_str(), |(action, _)| action);
    if !ACTIONS.contains(&action) {
        return None;
    }
    let is_container = message.typ == Some(EventMessageTypeEnum::CONTAINER);
    let what = match action {
        // What cannot be read is no news.
        KILL => What::Signalled(signalled(&attributes, message.time_nano)?),
        DIE => What::Died,
        CREATE if is_container => What::Made,
        // A network was made, which concerns nobody.
        CREATE => return None,
        CONNECT => What::Connected(attributes.get("name").cloned().unwrap_or_default()),
        _ => What::Changed,
    };
    let (container, labelled) = match message.typ? {
        // Events of a container carry its labels beside their own attributes.
        EventMessageTypeEnum::CONTAINER => {
            (actor.id?, Some(labels::may_want_balancing(&attributes)))
        }
        EventMessageTypeEnum::NETWORK => (attributes.get("container")?.clone(), None),
        _ => return None,
    };
    is_id(&container).then_some(Event { container, labelled, what })
}

fn signalled(attributes: &BTreeMap<String, String>, time_ns: Option<i64>) -> Option<Signalled> {
    let signal = Signal::parse(attributes.get("signal")?)?;
    Some(Signalled { signal, at_ns: u64::try_from(time_ns?).ok()? })
}

fn summary_of(listed: ContainerSummary) -> Option<Summary> {
    let id = listed.id.filter(|id| is_id(id))?;
    let endpoints = listed.network_settings.and_then(|settings| settings.networks);
    let endpoints: BTreeMap<String, String> = endpoints
        .unwrap_or_default()
        .into_iter()
        .map(|(network, endpoint)| (network, endpoint.endpoint_id.unwrap_or_default()))
        .collect();
    Some(Summary {
        name: name_of(&listed.names.unwrap_or_default(), &id),
        labels: listed.labels.unwrap_or_default().into_iter().collect(),
        created_at_seconds: listed.created.unwrap_or_default(),
        endpoints,
        id,
    })
}

fn client_of(listed: ContainerSummary) -> Option<Listed> {
    let id = listed.id.filter(|id| is_id(id))?;
    let endpoints = listed.network_settings.and_then(|settings| settings.networks);
    let networks = endpoints.unwrap_or_default().into_iter().map(|(network, endpoint)| {
        let texts = [endpoint.ip_address, endpoint.global_ipv6_address];
        let addresses = texts.into_iter().flatten().filter_map(|text| text.parse().ok());
        (network, addresses.collect())
    });
    let name = name_of(&listed.names.unwrap_or_default(), &id);
    Some(Listed { name, networks: networks.collect(), id })
}

/// A network and the name of its bridge.
fn bridge_of(network: Network) -> Option<(String, BridgeNetwork)> {
    if network.driver.as_deref() != Some("bridge") {
        return None;
    }
    let options = network.options.unwrap_or_default();
    let option = |key: &str| options.get(key).map(String::as_str).filter(|it| !it.is_empty());
    let bridge = match option(BRIDGE_NAME) {
        Some(name) => name.to_owned(),
        None => format!("br-{}", network.id?.get(..12)?),
    };
    let is_masqueraded = option(MASQUERADE).is_none_or(is_true);
    let network = BridgeNetwork {
        name: network.name.unwrap_or_default(),
        is_internal: network.internal.unwrap_or_default(),
        is_isolated: option(TALKS).is_some_and(|value| !is_true(value)),
        is_hidden_v4: is_masqueraded && option(GATEWAY_MODE_V4).is_none_or(|mode| mode == "nat"),
        // What is the default differs from version to version, and IPv6 is mostly not translated.
        is_hidden_v6: is_masqueraded && option(GATEWAY_MODE_V6) == Some("nat"),
    };
    Some((bridge, network))
}

/// As Go's `strconv.ParseBool` has it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Ports that Docker leads to from addresses of the node: those that have a binding. Those without one are
/// merely exposed.
fn published(ports: PortMap) -> impl Iterator<Item = String> {
    let is_bound = |bindings: &Option<Vec<_>>| bindings.as_ref().is_some_and(|it| !it.is_empty());
    ports.into_iter().filter(move |(_, bindings)| is_bound(bindings)).map(|(port, _)| port)
}

fn inspected_of(response: ContainerInspectResponse) -> Result<Option<Inspected>, EngineError> {
    let state = response.state.unwrap_or_default();
    // While Docker waits to restart a container it is "running" without a process.
    let pid = state.pid.unwrap_or_default();
    if !state.running.unwrap_or_default() || pid == 0 {
        return Ok(None);
    }
    let pid = u32::try_from(pid)
        .map_err(|_out_of_range| EngineError(format!("`State.Pid` {pid} is no process number")))?;
    let mut config = response.config.unwrap_or_default();
    // What was asked for, and what Docker has made of it: ports of `--publish-all` are only there.
    let asked = response.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
    let made = response.network_settings.and_then(|network| network.ports).unwrap_or_default();
    let published = published(asked).chain(published(made));
    let ports = ports_of(config.exposed_ports.take(), published);
    let health = state.health.and_then(|health| health.status);
    let id = response.id.unwrap_or_default();
    Ok(Some(Inspected {
        name: name_of(&response.name.into_iter().collect::<Vec<_>>(), &id),
        image: config.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        environment: service_variables(&config.env.unwrap_or_default()),
        ports,
        pid,
        created_at_ms: milliseconds("Created", response.created)?,
        started_at_ms: milliseconds("State.StartedAt", state.started_at)?,
        health: health.and_then(reported_health),
        is_paused: state.paused.unwrap_or_default(),
        stop_signal: config.stop_signal.as_deref().and_then(Signal::parse).unwrap_or_default(),
    }))
}

/// `None`: the container has no HEALTHCHECK.
fn reported_health(status: HealthStatusEnum) -> Option<ReportedHealth> {
    match status {
        HealthStatusEnum::STARTING => Some(ReportedHealth::Starting),
        HealthStatusEnum::HEALTHY => Some(ReportedHealth::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(ReportedHealth::Unhealthy),
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
    }
}

/// Variables that may concern us: the others may be secrets, and are forgotten at once.
fn service_variables(environment: &[String]) -> BTreeMap<String, String> {
    let ours = environment.iter().filter(|one| one.starts_with(labels::registrator::PREFIX));
    let pairs = ours.filter_map(|one| one.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// `80/tcp` of the image and of what is published. What is no such thing is none of ours.
fn ports_of(
    exposed: Option<Vec<String>>,
    published: impl Iterator<Item = String>,
) -> BTreeSet<ContainerPort> {
    let port = |text: &str, is_published| {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        Some(ContainerPort { port: grammar::port(port).ok()?, protocol, is_published })
    };
    let published: BTreeSet<_> = published.filter_map(|text| port(&text, true)).collect();
    let exposed = exposed.unwrap_or_default();
    let exposed = exposed.iter().filter_map(|text| port(text, false));
    let is_published =
        |port: &ContainerPort| published.contains(&ContainerPort { is_published: true, ..*port });
    let exposed: BTreeSet<_> = exposed.filter(|port| !is_published(port)).collect();
    &published | &exposed
}

fn milliseconds(key: &str, text: Option<String>) -> Result<u64, EngineError> {
    let text = text.unwrap_or_default();
    timestamp::parse_ms(&text)
        .ok_or_else(|| EngineError(format!("`{key}` is no timestamp: `{}`", labels::shown(&text))))
}

/// The name without its slash. Names with more slashes are those of links to it; without a name the
/// short id has to do.
fn name_of(names: &[String], id: &str) -> String {
    names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .find(|name| !name.is_empty() && !name.contains('/'))
        .unwrap_or(id.get(..12).unwrap_or(id))
        .to_owned()
}

/// Ids go into paths, so they must be what Docker makes them.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
