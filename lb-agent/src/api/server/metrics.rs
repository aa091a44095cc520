//! `/metrics` for Prometheus, on an address of its own and nowhere by default.

use std::{
    fs, io,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    Extension, Router,
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
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    Refused, Source, accept_failed, busy,
    crowd::{Crowd, Served},
    serve,
};
use crate::api::metrics::{self, Process, Told};

/// Connections at once: Prometheus needs one. Who comes to more takes the place of another.
const CONNECTIONS_MAX: usize = 32;
/// Texts that are made at once.
const TEXTS_MAX: usize = 8;
/// Parts of a text that wait for a client to read.
const PARTS_WAITING_MAX: usize = 2;
/// Longest time in which a client reads nothing. When all places are taken by such, whoever comes next
/// still has his text within the ten seconds that Prometheus waits.
const STALLED_MAX: Duration = Duration::from_secs(1);
/// Longest time for a text while others wait for their turn: many that read slowly would keep them from
/// theirs.
const CROWDED_MAX: Duration = Duration::from_secs(2);

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
            .with_state((source, Turns::default()));
        Ok(Self { listener, router })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.serve_all()).await;
    }

    async fn serve_all(&self) {
        let mut crowd = Crowd::new(CONNECTIONS_MAX);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => self.take(stream, &mut crowd).await,
                Err(error) => accept_failed("a connection for metrics", &error).await,
            }
        }
    }

    async fn take(&self, stream: TcpStream, crowd: &mut Crowd) {
        let served = Served::default();
        let router = self.router.clone().layer(Extension(served.clone()));
        crowd.seat(served, serve(stream, router)).await;
    }
}

/// Who may make a text.
#[derive(Clone, Debug)]
struct Turns {
    free: Arc<Semaphore>,
    /// Those that wait for one.
    waiting: Served,
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(TEXTS_MAX)), waiting: Served::default() }
    }
}

impl Turns {
    async fn take(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let _waiting = self.waiting.begin();
        Arc::clone(&self.free).acquire_owned().await.map_err(|_| busy())
    }

    fn are_awaited(&self) -> bool {
        !self.waiting.is_idle()
    }
}

async fn metrics(
    State((source, turns)): State<(Source, Turns)>,
    Extension(served): Extension<Served>,
) -> Result<Response, Refused> {
    let serving = served.begin();
    // Kept to the end of the text, which may come after that of the connection.
    let turn = turns.take().await?;
    let view = source.fresh_view().await?;
    let uptime_seconds = source.started.elapsed().as_secs();
    let (sender, mut parts) = mpsc::channel(PARTS_WAITING_MAX);
    // Until it is known to be whole, also if what makes it breaks.
    let is_cut = Arc::new(AtomicBool::new(true));
    let cuts = Arc::clone(&is_cut);
    // Not where events are handled; a client that reads slowly, or not at all, holds up nobody else.
    spawn_blocking(move || {
        let told = Told { view: &view, uptime_seconds, process: process() };
        let handle = Handle::current();
        let begun = Instant::now();
        let mut is_whole = true;
        metrics::render(&told, &mut |part| {
            let is_crowded = turns.are_awaited();
            let left =
                if is_crowded { CROWDED_MAX.saturating_sub(begun.elapsed()) } else { STALLED_MAX };
            match handle.block_on(sender.send_timeout(part, left.min(STALLED_MAX))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_gone_away_or_asleep) => {
                    is_whole = false;
                    ControlFlow::Break(())
                }
            }
        });
        cuts.store(!is_whole, Ordering::Release);
        drop(turn);
    });
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    let body = poll_fn(move |context| {
        // Until its last part is sent.
        let _serving = &serving;
        parts.poll_recv(context).map(|part| match part {
            // A text that is cut must not look like a whole one.
            None if is_cut.swap(false, Ordering::Acquire) => {
                Some(Err(io::Error::from(io::ErrorKind::TimedOut)))
            }
            part => part.map(Ok),
        })
    });
    Ok((content_type, Body::from_stream(body)).into_response())
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
