//! All containers of the node as clients: whether they have labels or not, each may call a service.
//!
//! Told whole each time something changes; a storm of changes costs one listing after the other, and not
//! one for each. Several are looked at at once, and what is known is told without those whose look takes
//! long: they are told when they are known, and a look that has failed is repeated apart from the others,
//! later each time. One that cannot be looked at stays what it was; of one that was never seen it is
//! waited for a while, and then the others count as all.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Settings,
    api::Api,
    engine::{Engine as _, EngineError, What},
    state::CONTAINERS_MAX,
};
use crate::{
    netlink::{Cookies, Process},
    sockets::{Clients, ContainerClient},
};

/// Wait after a failure: the first, and the longest of one container.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// How long a container that cannot be looked at, and never was, keeps what an agent before this one
/// wrote from being forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long what is known waits for looks under way, so that a burst is told once.
const TOLD_WITHIN: Duration = Duration::from_millis(100);

/// Looks at once: enough to keep the daemon busy, few enough to leave it free for others.
const LOOKS_MAX: usize = 8;
/// Of those that have failed before.
const REPEATED_MAX: usize = 2;
/// When a look no longer keeps the next from its turn. It ends by the time limit of answers, so those that
/// hang are limited as well.
const TURN: Duration = Duration::from_secs(1);

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
    /// By which programs know its namespace; or why that is not known yet: without it they do not know its
    /// networks, and the rest goes on.
    cookie: Result<u64, String>,
    /// Something has happened to it since.
    is_old: bool,
}

/// What Docker lists.
#[derive(Default)]
struct Listing {
    /// By container id.
    containers: BTreeMap<String, Listed>,
    isolated: BTreeSet<String>,
}

/// A container whose last look failed.
struct Failing {
    since: Instant,
    wait: Duration,
    /// When it is looked at again.
    again_at: Instant,
    /// It keeps nothing any more of what was written before.
    is_given_up: bool,
}

/// A container and what came of a look at it; nothing where it has ended.
type Looked = (String, Result<Option<Seen>, EngineError>);

/// Follows Docker for ever, through restarts and absences of the daemon. Ends when nobody listens.
pub async fn run(settings: Settings, cookies: Cookies, clients: mpsc::Sender<Clients>) {
    let mut watcher = Watcher::new(&settings, cookies, clients);
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

struct Watcher {
    api: Arc<Api>,
    cookies: Cookies,
    node: u64,
    listing: Listing,
    /// By container id, as all that follows.
    seen: BTreeMap<String, Seen>,
    /// Those that cannot be looked at, as was said.
    failing: BTreeMap<String, Failing>,
    /// Those that are looked at, and whether something has happened to them meanwhile.
    under_way: BTreeMap<String, bool>,
    looks: JoinSet<Looked>,
    turns: Arc<Semaphore>,
    repeated_turns: Arc<Semaphore>,
    told: Option<Clients>,
    /// Since when there is something that may not be told yet.
    untold_since: Option<Instant>,
    clients: mpsc::Sender<Clients>,
}

impl Watcher {
    fn new(settings: &Settings, cookies: Cookies, clients: mpsc::Sender<Clients>) -> Self {
        Self {
            api: Arc::new(Api::new(settings.socket_path.clone())),
            cookies,
            node: node_cookie(cookies),
            listing: Listing::default(),
            seen: BTreeMap::new(),
            failing: BTreeMap::new(),
            under_way: BTreeMap::new(),
            looks: JoinSet::new(),
            turns: Arc::new(Semaphore::new(LOOKS_MAX)),
            repeated_turns: Arc::new(Semaphore::new(REPEATED_MAX)),
            told: None,
            untold_since: None,
            clients,
        }
    }

    /// Follows one connection until it ends.
    async fn follow(&mut self, resync: Duration) -> Result<(), EngineError> {
        // Another one, since the stream borrows its own.
        let events = Api::new(self.api.socket_path().to_owned());
        let mut stream = std::pin::pin!(events.follow().await?);
        // The daemon may be another, or have come to itself.
        let now = Instant::now();
        self.failing.values_mut().for_each(|failing| failing.again_at = now);
        // One at a time, and none is left behind.
        let mut listings = JoinSet::new();
        let mut list_at = now;
        loop {
            let may_list = listings.is_empty();
            if may_list && list_at <= Instant::now() {
                listings.spawn(list(Arc::clone(&self.api)));
                list_at = Instant::now() + resync;
                continue;
            }
            let wake_at = self.wakes_at().into_iter().chain(may_list.then_some(list_at)).min();
            tokio::select! {
                () = self.clients.closed() => return Ok(()),
                event = stream.next() => match event {
                    // A signal changes nothing here; what else there is comes with the same listing.
                    Some(Ok(event)) if matches!(event.what, What::Signalled(_)) => {}
                    Some(Ok(event)) => {
                        self.happened(&event.container);
                        list_at = Instant::now();
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                Some(listed) = listings.join_next() => {
                    self.listed(listed.map_err(|error| EngineError(error.to_string()))??);
                }
                Some(looked) = self.looks.join_next() => match looked {
                    Ok((id, result)) => self.looked(id, result),
                    // Whose look it was is not known: all are looked at again.
                    Err(error) => {
                        self.under_way.clear();
                        self.looks = JoinSet::new();
                        return Err(EngineError(error.to_string()));
                    }
                },
                () = until(wake_at) => {}
            }
            self.look_again();
            if self.is_to_be_told() {
                self.tell_all().await;
            }
        }
    }

    /// When there is something to do even if nothing happens.
    fn wakes_at(&self) -> Option<Instant> {
        let told_at = self.untold_since.map(|since| since + TOLD_WITHIN);
        let failing = self.failing.iter().filter(|(id, _)| !self.under_way.contains_key(*id));
        let again_at = failing.map(|(_, failing)| failing.again_at);
        // Then the others count as all.
        let waited_for = self.failing.values().filter(|failing| !failing.is_given_up);
        let given_up_at = waited_for.map(|failing| failing.since + PATIENCE);
        again_at.chain(given_up_at).chain(told_at).min()
    }

    /// Something has happened to a container.
    fn happened(&mut self, id: &str) {
        // The process of a container that is started again is another.
        if let Some(seen) = self.seen.get_mut(id) {
            seen.is_old = true;
        }
        if let Some(has_changed) = self.under_way.get_mut(id) {
            *has_changed = true;
        }
        if let Some(failing) = self.failing.get_mut(id) {
            failing.again_at = Instant::now();
        }
    }

    fn listed(&mut self, listing: Listing) {
        self.listing = listing;
        if self.node == 0 {
            // It was said why. Programs that are asked may be attached by now.
            self.node = self.cookies.of(None).unwrap_or_default();
        }
        let listed = &self.listing.containers;
        self.failing.retain(|id, _| listed.contains_key(id));
        self.seen.retain(|id, seen| listed.contains_key(id) && seen.process.is_alive());
        let wanted = listed.keys().filter(|id| {
            self.seen.get(*id).is_none_or(|seen| seen.is_old) && !self.failing.contains_key(*id)
        });
        for id in wanted.cloned().collect::<Vec<_>>() {
            self.look(id);
        }
        self.untold_since.get_or_insert_with(Instant::now);
    }

    /// Looks at those again whose last look failed, when it is time, and gives up to wait for some.
    fn look_again(&mut self) {
        let now = Instant::now();
        let due = self.failing.iter().filter(|(_, failing)| failing.again_at <= now);
        for id in due.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.look(id);
        }
        for failing in self.failing.values_mut().filter(|failing| !failing.is_given_up) {
            if failing.since + PATIENCE <= now {
                failing.is_given_up = true;
                self.untold_since.get_or_insert(now);
            }
        }
    }

    fn look(&mut self, id: String) {
        if self.under_way.contains_key(&id) {
            return;
        }
        self.under_way.insert(id.clone(), false);
        let (api, cookies) = (Arc::clone(&self.api), self.cookies);
        let is_repeated = self.failing.contains_key(&id);
        let turns = if is_repeated { &self.repeated_turns } else { &self.turns };
        let turns = Arc::clone(turns);
        self.looks.spawn(async move {
            let looked = in_turn(&turns, is_repeated, examine(&api, cookies, &id)).await;
            (id, looked)
        });
    }

    fn looked(&mut self, id: String, result: Result<Option<Seen>, EngineError>) {
        let has_changed = self.under_way.remove(&id).unwrap_or_default();
        if !self.listing.containers.contains_key(&id) {
            return;
        }
        let trouble = match result {
            Ok(seen) => {
                self.seen.remove(&id);
                let trouble = seen.as_ref().and_then(|seen| seen.cookie.as_ref().err().cloned());
                self.seen.extend(seen.map(|seen| (id.clone(), seen)));
                trouble.map(|error| format!("its namespace cannot be told: {error}"))
            }
            // The others are known all the same.
            Err(error) => Some(format!("cannot be looked at as a caller: {error}")),
        };
        match trouble {
            Some(trouble) => self.failed(&id, &trouble, has_changed),
            None => drop(self.failing.remove(&id)),
        }
        self.untold_since.get_or_insert_with(Instant::now);
        if has_changed && !self.failing.contains_key(&id) {
            self.look(id);
        }
    }

    /// It is looked at again, later each time.
    fn failed(&mut self, id: &str, trouble: &str, has_changed: bool) {
        let now = Instant::now();
        let name = self.listing.containers.get(id).map_or(id, |listed| &listed.name);
        let failing = self.failing.entry(id.to_owned()).or_insert_with(|| {
            tracing::warn!("{name}: {trouble}");
            Failing { since: now, wait: RETRY / 2, again_at: now, is_given_up: false }
        });
        failing.wait = (failing.wait * 2).min(RETRY_MAX);
        failing.again_at = if has_changed { now } else { now + failing.wait };
    }

    /// Whether all is known that is soon to be known, or has waited long enough.
    fn is_to_be_told(&self) -> bool {
        let Some(since) = self.untold_since else { return false };
        let is_first = |id: &String| !self.failing.contains_key(id);
        since.elapsed() >= TOLD_WITHIN || !self.under_way.keys().any(is_first)
    }

    async fn tell_all(&mut self) {
        self.untold_since = None;
        let Listing { containers, isolated } = &self.listing;
        let mut clients =
            Clients { node: self.node, isolated: isolated.clone(), ..Clients::default() };
        for (id, Listed { name, networks, .. }) in containers {
            let Some(Seen { process, cookie, .. }) = self.seen.get(id) else {
                clients.is_partial |= match self.failing.get(id) {
                    Some(failing) => !failing.is_given_up,
                    None => self.under_way.contains_key(id),
                };
                continue;
            };
            let client = ContainerClient {
                name: name.clone(),
                pid: process.pid(),
                cookie: *cookie.as_ref().unwrap_or(&0),
                networks: networks.clone(),
            };
            clients.containers.insert(id.clone(), client);
        }
        self.tell(clients).await;
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

/// All containers, and which of their networks keep them apart.
async fn list(api: Arc<Api>) -> Result<Listing, EngineError> {
    api.prepare().await?;
    let listed = api.clients().await?;
    let names = listed.iter().flat_map(|it| it.networks.keys()).map(String::as_str).collect();
    let isolated = api.isolated(&names).await?;
    let containers = listed.into_iter().take(CONTAINERS_MAX).map(|it| (it.id.clone(), it));
    Ok(Listing { containers: containers.collect(), isolated })
}

/// `None`: it has ended.
async fn examine(api: &Api, cookies: Cookies, id: &str) -> Result<Option<Seen>, EngineError> {
    let Some(inspected) = api.inspect(id).await? else { return Ok(None) };
    let Ok(process) = Process::open(inspected.pid) else { return Ok(None) };
    let process = Arc::new(process);
    let inside = Arc::clone(&process);
    let asked = tokio::task::spawn_blocking(move || cookies.of(Some(&inside))).await;
    match asked {
        Ok(Ok(cookie)) => Ok(Some(Seen { process, cookie: Ok(cookie), is_old: false })),
        Ok(Err(_)) if !process.is_alive() => Ok(None),
        Ok(Err(error)) => Ok(Some(Seen { process, cookie: Err(error.to_string()), is_old: false })),
        Err(error) => Err(EngineError(error.to_string())),
    }
}

/// For ever, if there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A look in its turn. The first at a container makes way for others when it takes long.
async fn in_turn<T>(turns: &Semaphore, is_repeated: bool, look: impl Future<Output = T>) -> T {
    let turn = turns.acquire().await;
    let mut look = std::pin::pin!(look);
    if !is_repeated {
        if let Ok(looked) = timeout(TURN, &mut look).await {
            return looked;
        }
        drop(turn);
    }
    look.await
}
