//! `/metrics` for Prometheus, on an address of its own and nowhere by default.

use std::{convert::Infallible, fs, io, net::SocketAddr, ops::ControlFlow, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream::poll_fn;
use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    sys::time::TimeValLike as _,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{Accept, Refused, Source, busy, serve_all};
use crate::api::metrics::{self, Process, Told};

/// Connections served at once: Prometheus needs one.
const CONNECTIONS_MAX: usize = 8;
/// Parts of a text that wait for a client to read.
const PARTS_WAITING_MAX: usize = 2;

/// A server of metrics, listening; nobody is served before [`MetricsServer::run`].
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    router: Router,
}

impl MetricsServer {
    /// Listens at an address.
    pub async fn bind(address: SocketAddr, source: Source) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot serve metrics at {address}; correct `metrics.listen`")
        })?;
        let router = Router::new()
            .route("/metrics", get(metrics))
            .fallback(async || {
                Refused(StatusCode::NOT_FOUND, "the metrics are at /metrics".to_owned())
            })
            .with_state((source, Arc::new(Semaphore::new(CONNECTIONS_MAX))));
        Ok(Self { listener, router })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        serve_all(&self, stop).await;
    }
}

impl Accept for MetricsServer {
    const WHAT: &'static str = "a connection for metrics";
    const CONNECTIONS_MAX: usize = CONNECTIONS_MAX;
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Router)> {
        Ok((self.listener.accept().await?.0, self.router.clone()))
    }
}

async fn metrics(
    State((source, turns)): State<(Source, Arc<Semaphore>)>,
) -> Result<Response, Refused> {
    // Kept to the end of the text, which may come after that of the connection.
    let turn = turns.acquire_owned().await.map_err(|_| busy())?;
    let view = source.fresh_view().await?;
    let uptime_seconds = source.started.elapsed().as_secs();
    let (sender, mut parts) = mpsc::channel(PARTS_WAITING_MAX);
    // Not where events are handled; a client that reads slowly, or not at all, holds up nobody else.
    spawn_blocking(move || {
        let told = Told { view: &view, uptime_seconds, process: process() };
        metrics::render(&told, &mut |part| match sender.blocking_send(Ok::<_, Infallible>(part)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_gone_away) => ControlFlow::Break(()),
        });
        drop(turn);
    });
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    let body = Body::from_stream(poll_fn(move |context| parts.poll_recv(context)));
    Ok((content_type, body).into_response())
}

/// The agent as the kernel sees it.
fn process() -> Process {
    let cpu_us = getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kb = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    // One of them is the directory that is being read.
    let open =
        fs::read_dir("/proc/self/fd").map(|entries| (entries.count() as u64).saturating_sub(1));
    Process {
        cpu_seconds: cpu_us.ok().map(|us| us as f64 / 1e6),
        resident_bytes: resident_kb.map(|kb| kb * 1024),
        open_descriptors: open.ok(),
        max_descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
    }
}
