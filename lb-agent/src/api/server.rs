//! The API's server: shows the runtime's view, and takes orders for it. Bounded in connections, time
//! and size.
//!
//! Access is decided by the socket file alone (see `socket`). Counters are read when somebody asks.

mod advice;
mod callers;
mod crowd;
mod explain;
mod metrics;
mod tracing;

use std::{
    io,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{
        DefaultBodyLimit, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use lb_common::abi::TraceFilter;
use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    events::{CONFLICTS_PATH, ConflictList, EVENTS_PATH, EventList, WAIT_SECONDS_MAX},
    explain::{CallExplanation, CallQuery, ExplainQuery, Explanation},
    socket::ApiSocket,
    steer::{self, SteerAnswer, SteerError, SteerRequest},
    trace::TRACE_SECONDS_MAX,
    types::{BackendList, DropList, ErrorBody, ServiceList, View, VipList, paths},
};

pub use self::metrics::MetricsServer;
pub use super::socket::SocketError;
use crate::{journal::Journal, names::Activity, runtime::TraceRequest, sockets::Registry};

/// Connections served at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 32;
/// Request line and headers together.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Time for a client to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one connection, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);
/// Time for one that traces.
const STREAM_TIMEOUT: Duration = Duration::from_secs(TRACE_SECONDS_MAX as u64);
/// Time for the runtime to read its counters; without them the answer is an error, not a zero.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the runtime to take an order: after its start it waits for providers to speak.
const ORDER_TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Time for it to carry one out. Together they are less than clients wait.
const ORDER_DONE_WITHIN: Duration = Duration::from_secs(4);

/// What the server asks of whoever owns the kernel.
#[derive(Debug)]
pub enum Request {
    /// A view with the counters of this moment.
    View(oneshot::Sender<Arc<View>>),
    /// What would be decided on a packet.
    Explain(ExplainQuery, oneshot::Sender<Result<Explanation, String>>),
    /// What would be decided on a socket call.
    ExplainCall(CallQuery, oneshot::Sender<Result<CallExplanation, String>>),
    /// Cookie of the network namespace that a container or `node` calls from; 0: it could not be told.
    Caller(String, oneshot::Sender<Result<u64, String>>),
    /// Which packets the programs tell of.
    Trace(Vec<Option<TraceFilter>>, oneshot::Sender<Result<(), String>>),
}

/// Whether the time of a connection is that of a stream.
#[derive(Clone, Debug, Default)]
struct Patience(Arc<AtomicBool>);

impl Patience {
    fn wait_for_stream(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An order of an operator on its way to the runtime.
#[derive(Debug)]
pub struct SteerCall {
    /// The order.
    pub request: SteerRequest,
    /// Name of the user at the other end of the socket.
    pub by: String,
    /// Where the runtime says that it takes the order. Who has given up by then has given no order.
    pub taken: oneshot::Sender<()>,
    /// Where the runtime answers when it is done; an error says that the order is for nobody.
    pub answer: oneshot::Sender<Result<SteerAnswer, SteerError>>,
}

/// The user at the other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<u32>);

/// What the server shows.
#[derive(Clone, Debug)]
pub struct Source {
    /// The latest view; its counters are as old as the latest change.
    pub view: watch::Receiver<Arc<View>>,
    /// Where to ask what only the kernel knows.
    pub kernel: mpsc::Sender<Request>,
    /// Where to ask for a trace.
    pub traces: mpsc::Sender<TraceRequest>,
    /// Who calls from this node.
    pub callers: Registry,
    /// Where orders go.
    pub orders: mpsc::Sender<SteerCall>,
    /// What has happened.
    pub journal: Arc<Journal>,
    /// Who asks for names.
    pub names: Arc<Activity>,
    /// When the agent started.
    pub started: Instant,
}

/// The API's socket, listening; nobody is served before [`Server::run`].
#[derive(Debug)]
pub struct Server {
    socket: ApiSocket,
    router: Router,
}

impl Server {
    /// Makes the socket, for root and `group`.
    pub async fn bind(
        path: &Path,
        group: Option<&str>,
        source: Source,
    ) -> Result<Self, SocketError> {
        Ok(Self { socket: ApiSocket::bind(path, group).await?, router: router(source) })
    }

    /// Serves until `stop`, then removes the socket.
    pub async fn run(self, stop: CancellationToken) {
        self.serve_all(stop).await;
    }

    async fn accept(&self) -> io::Result<(UnixStream, Router)> {
        let (stream, _) = self.socket.listener.accept().await?;
        let peer = Peer(stream.peer_cred().ok().map(|credentials| credentials.uid()));
        Ok((stream, self.router.clone().layer(Extension(peer))))
    }

    async fn serve_all(&self, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let next = async {
                let permit =
                    Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
                io::Result::Ok((self.accept().await?, permit))
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = next => accepted,
            };
            let ((stream, router), permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    accept_failed("an API connection", &error).await;
                    continue;
                }
            };
            let connection = serve(stream, router);
            let stop = stop.clone();
            tokio::spawn(async move {
                stop.run_until_cancelled(connection).await;
                drop(permit);
            });
        }
    }
}

async fn accept_failed(what: &str, error: &io::Error) {
    ::tracing::warn!("cannot accept {what}: {error}");
    // Out of descriptors, most likely: give them time to come back.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn serve<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let patience = Patience::default();
    let router = router.layer(Extension(patience.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let mut result = timeout(CONNECTION_TIMEOUT, &mut connection).await;
    if result.is_err() && patience.0.load(Ordering::Relaxed) {
        result = timeout(STREAM_TIMEOUT, &mut connection).await;
    }
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => ::tracing::debug!("API connection: {error}"),
        Err(_) => ::tracing::debug!("API connection closed for its time"),
    }
}

fn router(source: Source) -> Router {
    Router::new()
        .route(paths::VIPS, get(vips))
        .route(paths::SERVICES, get(services))
        .route(paths::SERVICE, get(service))
        .route(paths::BACKENDS, get(backends))
        .route(paths::STATUS, get(callers::status))
        .route(paths::CALLERS, get(callers::callers))
        .route(paths::PROGRAMS, get(callers::programs))
        .route(paths::DROPS, get(drops))
        .route(paths::TRACE, get(tracing::trace))
        .route(paths::EXPLAIN, get(explain::packet))
        .route(paths::EXPLAIN_CALL, get(explain::call))
        .route(CONFLICTS_PATH, get(conflicts))
        .route(EVENTS_PATH, get(events))
        .route(steer::PATH, post(order).layer(DefaultBodyLimit::max(steer::BODY_BYTES_MAX)))
        .fallback(async || Refused(StatusCode::NOT_FOUND, "there is nothing here".to_owned()))
        .method_not_allowed_fallback(async || {
            Refused(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here".to_owned())
        })
        .with_state(source)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendsQuery {
    service: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceQuery {
    name: String,
}

async fn vips(State(source): State<Source>) -> Result<Response, Refused> {
    source.shown(|view| Ok(VipList { vips: view.vips.clone() })).await
}

async fn services(State(source): State<Source>) -> Result<Response, Refused> {
    source.shown(|view| Ok(ServiceList { services: view.services.clone() })).await
}

async fn service(
    State(source): State<Source>,
    query: Result<Query<ServiceQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let name = query.name;
    source.shown(move |view| view.detail(&name).ok_or_else(|| no_service(&name))).await
}

fn no_service(name: &str) -> Refused {
    Refused(
        StatusCode::NOT_FOUND,
        format!("there is no service `{name}`; `lbctl service list` shows all"),
    )
}

async fn backends(
    State(source): State<Source>,
    query: Result<Query<BackendsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let pick = move |view: &View| {
        let Some(name) = query.service else {
            return Ok(BackendList { backends: view.backends.clone() });
        };
        if !view.services.iter().any(|service| *service.name.0 == *name) {
            return Err(no_service(&name));
        }
        let backends = view.backends.iter().filter(|backend| *backend.service.0 == *name);
        Ok(BackendList { backends: backends.cloned().collect() })
    };
    source.shown(pick).await
}

async fn drops(State(source): State<Source>) -> Result<Json<DropList>, Refused> {
    Ok(Json(DropList::new(&source.fresh_view().await?.status.drops)))
}

async fn conflicts(State(source): State<Source>) -> Result<Json<ConflictList>, Refused> {
    Ok(Json(ConflictList { conflicts: source.fresh_view().await?.conflicts.clone() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_seconds: u64,
}

async fn events(
    State(source): State<Source>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<EventList>, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = Duration::from_secs(query.wait_seconds.min(WAIT_SECONDS_MAX));
    Ok(Json(EventList { events: source.journal.wait_after(query.after, limit).await }))
}

async fn order(
    State(source): State<Source>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<SteerRequest>, JsonRejection>,
) -> Result<Json<SteerAnswer>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let (taken, mut is_taken) = oneshot::channel();
    let (answer, done) = oneshot::channel();
    let call = SteerCall { request, by: peer.name(), taken, answer };
    let give = async {
        source.orders.send(call).await.map_err(|_| busy())?;
        (&mut is_taken).await.map_err(|_| busy())
    };
    match timeout(ORDER_TAKEN_WITHIN, give).await {
        Ok(given) => given?,
        // What is not taken by now never will be.
        Err(_elapsed) => {
            is_taken.close();
            is_taken.try_recv().map_err(|_| busy())?;
        }
    }
    let Ok(Ok(result)) = timeout(ORDER_DONE_WITHIN, done).await else {
        let message = "the order was taken, and the kernel does not do it yet; `lbctl backend list` \
                       shows what is in force";
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, message.to_owned()));
    };
    result.map(Json).map_err(|error| {
        let status = match error {
            SteerError::Nobody(_) => StatusCode::NOT_FOUND,
            SteerError::Ambiguous(_) => StatusCode::CONFLICT,
            SteerError::NotKnown(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused(status, error.to_string())
    })
}

fn busy() -> Refused {
    Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "the agent is busy with the kernel or stopping, and nothing was done; try again".to_owned(),
    )
}

impl Peer {
    /// Name of the user; without one, the number.
    fn name(self) -> String {
        let Some(uid) = self.0 else { return "nobody known".to_owned() };
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        user.map_or_else(|| format!("user {uid}"), |user| user.name)
    }
}

impl Source {
    async fn fresh_view(&self) -> Result<Arc<View>, Refused> {
        let (answer, view) = oneshot::channel();
        let ask = async {
            self.kernel.send(Request::View(answer)).await.map_err(|_| busy())?;
            view.await.map_err(|_| busy())
        };
        timeout(COUNTERS_TIMEOUT, ask).await.map_err(|_| busy())?
    }

    /// A part of the view with the counters of this moment. It may be large, so it is not made where
    /// events are handled.
    async fn shown<T: Serialize>(
        &self,
        pick: impl FnOnce(&View) -> Result<T, Refused> + Send + 'static,
    ) -> Result<Response, Refused> {
        let view = self.fresh_view().await?;
        let make = move || pick(&view).map(|part| Json(part).into_response());
        spawn_blocking(make).await.map_err(|_| busy())?
    }
}

/// A request that is not served, as JSON like everything else.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

#[cfg(test)]
mod tests;
