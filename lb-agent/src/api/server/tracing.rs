//! `GET /v1/trace`: a stream of packets, for as long as the client listens.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::{Extension, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use hyper::body::Bytes;
use lb_common::{
    abi::{DropReason, FAMILY_V4, FAMILY_V6, NetAddr6, TRACE_ANY_REASON, TraceFilter, Verdict},
    socket::caller_words,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{COUNTERS_TIMEOUT, Patience, Refused, Request, Source, busy};
use crate::{
    api::{
        trace::{
            BackendName, PacketView, Prefix, TRACE_SECONDS, TRACE_SECONDS_MAX, TraceLine,
            TraceQuery,
        },
        types::View,
    },
    runtime::{EVENTS_WAITING, Told, TraceRequest, Wanted},
    sockets::Registry,
};

pub(super) async fn trace(
    State(source): State<Source>,
    Extension(patience): Extension<Patience>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let seconds = query.seconds.unwrap_or(TRACE_SECONDS);
    if seconds == 0 || seconds > TRACE_SECONDS_MAX {
        let message = format!("a trace lasts from 1 to {TRACE_SECONDS_MAX} seconds");
        return Err(Refused(StatusCode::BAD_REQUEST, message));
    }
    let caller = match &query.from {
        Some(from) => Some(cookie_of(&source, from).await?),
        None => None,
    };
    // With fresh numbers of backends.
    let view = Arc::clone(&*source.view.borrow());
    let wanted = wanted(&query, caller, &view)?;
    let (told, received) = mpsc::channel(EVENTS_WAITING);
    let (begun, has_begun) = oneshot::channel();
    let request = TraceRequest { wanted, seconds, told, begun };
    let stopping = || Refused(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping".to_owned());
    source.traces.send(request).await.map_err(|_| stopping())?;
    let result = has_begun.await.map_err(|_| stopping())?;
    result.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error))?;
    patience.wait_for_stream();

    let lines = Lines {
        begin: Some(seconds),
        received,
        left: query.count.unwrap_or(u64::MAX),
        names: BackendNames::new(source.view.clone()),
        callers: source.callers.clone(),
        boot_unix_us: boot_unix_us(),
    };
    let lines = stream::unfold(lines, |mut lines| async {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(lines)).into_response())
}

/// Cookie of the namespace that somebody calls from.
async fn cookie_of(source: &Source, from: &str) -> Result<u64, Refused> {
    let (answer, cookie) = oneshot::channel();
    let ask = async {
        let request = Request::Caller(from.to_owned(), answer);
        source.kernel.send(request).await.map_err(|_| busy())?;
        cookie.await.map_err(|_| busy())
    };
    let cookie = timeout(COUNTERS_TIMEOUT, ask).await.map_err(|_| busy())??;
    let refused = |error| {
        // Where no calls are balanced, nobody is looked for.
        let is_on = source.view.borrow().status.sockets.is_on();
        Refused(if is_on { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT }, error)
    };
    match cookie.map_err(refused)? {
        0 => {
            let message = format!(
                "calls of `{from}` cannot be told from others', since its network namespace is not \
                 known; `lbctl doctor` shows all of whom that is so"
            );
            Err(Refused(StatusCode::CONFLICT, message))
        }
        cookie => Ok(cookie),
    }
}

/// What is sent, line by line.
struct Lines {
    begin: Option<u32>,
    received: mpsc::Receiver<Told>,
    left: u64,
    names: BackendNames,
    callers: Registry,
    boot_unix_us: u64,
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(seconds) = self.begin.take() {
            return Some(line(&TraceLine::Begin { seconds }));
        }
        if self.left == 0 {
            return None;
        }
        Some(line(&match self.received.recv().await? {
            Told::Packet(event) => {
                self.left -= 1;
                let backend = |number| self.names.get(number);
                let caller = |cookie| self.callers.name_of(cookie);
                let packet = PacketView::new(&event, self.boot_unix_us, backend, caller);
                TraceLine::Packet(Box::new(packet))
            }
            Told::Lost(packets) => TraceLine::Lost { packets },
        }))
    }
}

fn line(line: &TraceLine) -> Bytes {
    // Plain data with string keys cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// Names of backends by number, as the latest view has them.
pub(super) struct BackendNames {
    latest: watch::Receiver<Arc<View>>,
    view: Arc<View>,
    by_number: HashMap<u32, usize>,
}

impl BackendNames {
    pub(super) fn new(latest: watch::Receiver<Arc<View>>) -> Self {
        let view = Arc::clone(&*latest.borrow());
        let by_number = Self::index(&view);
        Self { latest, view, by_number }
    }

    fn index(view: &View) -> HashMap<u32, usize> {
        let numbered = view.backends.iter().enumerate();
        numbered.filter_map(|(index, backend)| Some((backend.number?, index))).collect()
    }

    pub(super) fn get(&mut self, number: u32) -> BackendName {
        if !Arc::ptr_eq(&self.view, &*self.latest.borrow()) {
            self.view = Arc::clone(&*self.latest.borrow());
            self.by_number = Self::index(&self.view);
        }
        let backend = self.by_number.get(&number).map(|index| &self.view.backends[*index]);
        BackendName {
            number,
            name: backend.map(|backend| backend.display_name.clone()),
            service: backend.map(|backend| backend.service.0.to_string()),
        }
    }
}

/// What a query is about: the kernel's filter, the backends if there are several, and who calls.
fn wanted(query: &TraceQuery, caller: Option<u64>, view: &View) -> Result<Wanted, Refused> {
    let bad = |message: String| Refused(StatusCode::BAD_REQUEST, message);
    let mut filter = TraceFilter {
        families: 1 << FAMILY_V4 | 1 << FAMILY_V6,
        port: query.port.unwrap_or(0).into(),
        reason: TRACE_ANY_REASON,
        verdicts: u32::MAX,
        ..TraceFilter::default()
    };
    if let Some(prefix) = query.client {
        (filter.client, filter.client_mask) = words(prefix);
        filter.families &= 1 << family(prefix.address);
    }
    if let Some(cookie) = caller {
        if query.client.is_some() {
            let message = "a call has no client's address yet: `from` or `client`, not both";
            return Err(bad(message.to_owned()));
        }
        let is_it = NetAddr6::from_raw([u32::MAX; 4]);
        (filter.client, filter.client_mask) = (caller_words(cookie), is_it);
    }
    if let Some(vip) = query.vip {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        (filter.vip, filter.vip_mask) = words(Prefix { address: vip, bits });
        filter.families &= 1 << family(vip);
    }
    if filter.families == 0 {
        return Err(bad("the client's address and the VIP are of different families".to_owned()));
    }
    if query.dropped {
        filter.verdicts = 1 << Verdict::Drop as u32 | 1 << Verdict::Answer as u32;
    }
    if let Some(name) = &query.reason {
        let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
        let unknown =
            || bad(format!("no drop reason is called `{name}`; `lbctl drop list --all` shows all"));
        filter.reason = *found.ok_or_else(unknown)? as u32;
    }
    let mut backends = BTreeSet::new();
    if let Some(name) = &query.backend {
        backends = numbers(name, view);
        let first = backends.first().copied().ok_or_else(|| {
            let message =
                format!("the data path has no backend `{name}`; `lbctl backend list` shows all");
            Refused(StatusCode::NOT_FOUND, message)
        })?;
        // Several are told apart by the agent.
        filter.backend = if backends.len() == 1 { first } else { 0 };
    }
    // A call has no client's address, and what stands in its place begins like 0.0.0.0 and ::.
    let only_packets = query.client.is_some();
    Ok(Wanted { filter, backends, caller, only_packets })
}

/// Numbers of the backends that are called so, or have this address.
fn numbers(name: &str, view: &View) -> BTreeSet<u32> {
    let is_it = |backend: &&crate::api::types::BackendView| {
        backend.display_name == name
            || backend.address.to_string() == name
            || backend.address.ip().to_string() == name
    };
    view.backends.iter().filter(is_it).filter_map(|backend| backend.number).collect()
}

const fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 }
}

/// Address and mask as an event has them.
fn words(prefix: Prefix) -> (NetAddr6, NetAddr6) {
    let Prefix { address, bits } = prefix;
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0).to_be_bytes();
    (
        NetAddr6::from(std::net::Ipv6Addr::from(bytes)),
        NetAddr6::from(std::net::Ipv6Addr::from(mask)),
    )
}

/// When the node was booted, by both clocks.
#[expect(clippy::disallowed_methods, reason = "people read the time of day")]
fn boot_unix_us() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    micros(unix).saturating_sub(crate::datapath::monotonic_ns() / 1000)
}

#[cfg(test)]
mod tests;
