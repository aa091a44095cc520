//! All containers of the node as clients: whether they have labels or not, each may call a service.
//!
//! Told whole each time something changes; a storm of changes costs one listing after the other, and not
//! one for each. One that cannot be looked at stays what it was; of one
//! that was never seen it is waited for a while, and then the others count as all.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    Settings,
    api::Api,
    engine::{Engine as _, EngineError, Event, What},
    state::CONTAINERS_MAX,
};
use crate::{
    netlink::{Cookies, Process},
    sockets::{Clients, ContainerClient},
};

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// How long a container that cannot be looked at, and never was, keeps what an agent before this one
/// wrote from being forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container in a listing, as a client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) name: String,
    /// Its networks and the addresses that it has there.
    pub(super) networks: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// A container that was looked at.
struct Seen {
    process: Arc<Process>,
    cookie: u64,
    /// Something has happened to it since.
    is_old: bool,
}

/// Follows Docker for ever, through restarts and absences of the daemon. Ends when nobody listens.
pub async fn run(settings: Settings, cookies: Cookies, clients: mpsc::Sender<Clients>) {
    let node = node_cookie(cookies);
    let api = Api::new(settings.socket_path.clone());
    let (seen, failing) = (BTreeMap::new(), BTreeMap::new());
    let mut watcher = Watcher { api, cookies, node, seen, failing, told: None, clients };
    while !watcher.clients.is_closed() {
        if let Err(error) = watcher.follow(settings.resync).await {
            tracing::debug!("clients: {error}");
        }
        watcher.tell_at_least_the_node().await;
        sleep(RETRY).await;
    }
}

/// The node's own namespace; 0: not known, and its calls are taken for those of a container.
pub fn node_cookie(cookies: Cookies) -> u64 {
    cookies.of(None).unwrap_or_else(|error| {
        tracing::warn!(
            "cannot tell the node's own sockets from its containers': {error}; services that are \
             visible to `node` only are visible to nobody here"
        );
        0
    })
}

/// What Docker tells, and of whom it told since that was looked at.
struct Heard<S> {
    stream: S,
    changed: BTreeSet<String>,
}

/// How a stream ended.
type Ended = Result<(), EngineError>;

impl<S: Stream<Item = Result<Event, EngineError>> + Unpin> Heard<S> {
    /// Takes what comes until the work is done. `Some`: the stream ended meanwhile.
    async fn during(
        &mut self,
        work: impl Future<Output = Result<(), EngineError>>,
    ) -> Result<Option<Ended>, EngineError> {
        let mut work = std::pin::pin!(work);
        let mut ended = None;
        loop {
            // More waits at the daemon.
            let has_room = ended.is_none() && self.changed.len() < CONTAINERS_MAX;
            tokio::select! {
                done = &mut work => return done.map(|()| ended),
                end = self.first(), if has_room => ended = end,
            }
        }
    }

    /// Waits for something that changes anything. `Some`: the stream ended.
    async fn first(&mut self) -> Option<Ended> {
        loop {
            match self.stream.next().await {
                // A signal changes nothing here; what else there is comes with the same listing.
                Some(Ok(event)) if matches!(event.what, What::Signalled(_)) => {}
                Some(Ok(event)) => {
                    self.changed.insert(event.container);
                    return None;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Ok(())),
            }
        }
    }
}

struct Watcher {
    api: Api,
    cookies: Cookies,
    node: u64,
    /// By container id.
    seen: BTreeMap<String, Seen>,
    /// Ids of those that cannot be looked at, as was said, and since when.
    failing: BTreeMap<String, Instant>,
    told: Option<Clients>,
    clients: mpsc::Sender<Clients>,
}

impl Watcher {
    /// Follows one connection until it ends.
    async fn follow(&mut self, resync: Duration) -> Result<(), EngineError> {
        // Another one, since the stream borrows its own.
        let events = Api::new(self.api.socket_path().to_owned());
        let stream = events.follow().await?;
        let mut heard = Heard { stream: std::pin::pin!(stream), changed: BTreeSet::new() };
        loop {
            // What happens while it is looked waits for one look, however much it is.
            let ended = heard.during(self.look()).await?;
            if let Some(ended) = ended {
                return ended;
            }
            if heard.changed.is_empty() {
                tokio::select! {
                    () = self.clients.closed() => return Ok(()),
                    () = sleep(self.rest(resync)) => {}
                    ended = heard.first() => if let Some(ended) = ended {
                        return ended;
                    },
                }
            }
            for id in std::mem::take(&mut heard.changed) {
                // The process of a container that is started again is another.
                if let Some(seen) = self.seen.get_mut(&id) {
                    seen.is_old = true;
                }
            }
        }
    }

    /// How long nothing is looked at unless something happens.
    fn rest(&self, resync: Duration) -> Duration {
        let is_waited_for = |since: &Instant| since.elapsed() < PATIENCE + RETRY;
        if self.failing.values().any(is_waited_for) { resync.min(RETRY) } else { resync }
    }

    async fn look(&mut self) -> Result<(), EngineError> {
        self.api.prepare().await?;
        let listed = self.api.clients().await?;
        let ids: BTreeSet<&str> = listed.iter().map(|it| it.id.as_str()).collect();
        self.failing.retain(|id, _| ids.contains(id.as_str()));
        self.seen.retain(|id, seen| ids.contains(id.as_str()) && seen.process.is_alive());
        let names = listed.iter().flat_map(|it| it.networks.keys()).map(String::as_str).collect();
        let isolated = self.api.isolated(&names).await?;
        let mut clients = Clients { node: self.node, isolated, ..Clients::default() };
        for Listed { id, name, networks } in listed.into_iter().take(CONTAINERS_MAX) {
            if self.seen.get(&id).is_none_or(|seen| seen.is_old) {
                match self.examine(&id).await {
                    Ok(seen) => {
                        self.failing.remove(&id);
                        self.seen.remove(&id);
                        self.seen.extend(seen.map(|seen| (id.clone(), seen)));
                    }
                    // The others are known all the same.
                    Err(error) => {
                        let since = self.failing.entry(id.clone()).or_insert_with(|| {
                            tracing::warn!("{name}: cannot be looked at as a caller: {error}");
                            Instant::now()
                        });
                        let is_waited_for = since.elapsed() < PATIENCE;
                        clients.is_partial |= is_waited_for && !self.seen.contains_key(&id);
                    }
                }
            }
            let Some(Seen { process, cookie, .. }) = self.seen.get(&id) else { continue };
            let client = ContainerClient { name, pid: process.pid(), cookie: *cookie, networks };
            clients.containers.insert(id, client);
        }
        self.tell(clients).await;
        Ok(())
    }

    /// `None`: it has ended.
    async fn examine(&self, id: &str) -> Result<Option<Seen>, EngineError> {
        let Some(inspected) = self.api.inspect(id).await? else { return Ok(None) };
        let Ok(process) = Process::open(inspected.pid) else { return Ok(None) };
        let process = Arc::new(process);
        let (inside, cookies) = (Arc::clone(&process), self.cookies);
        let asked = tokio::task::spawn_blocking(move || cookies.of(Some(&inside))).await;
        match asked {
            Ok(Ok(cookie)) => Ok(Some(Seen { process, cookie, is_old: false })),
            Ok(Err(_)) if !process.is_alive() => Ok(None),
            // Without cookie its networks are not known to the programs, and the rest goes on.
            Ok(Err(error)) => {
                tracing::warn!("{}: its namespace cannot be told: {error}", inspected.name);
                Ok(Some(Seen { process, cookie: 0, is_old: false }))
            }
            Err(error) => Err(EngineError(error.to_string())),
        }
    }

    /// While Docker does not answer, the node's own processes are known all the same.
    async fn tell_at_least_the_node(&mut self) {
        if self.told.is_none() {
            let clients = Clients { node: self.node, is_partial: true, ..Clients::default() };
            self.tell(clients).await;
        }
    }

    async fn tell(&mut self, clients: Clients) {
        if self.told.as_ref() != Some(&clients) && self.clients.send(clients.clone()).await.is_ok()
        {
            self.told = Some(clients);
        }
    }
}
