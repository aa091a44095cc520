//! A small DNS responder: the names of services, with their virtual addresses.
//!
//! Owns the sockets that it answers on, and a thread, so that questions take no time from what follows
//! Docker and the health of backends. It knows what the view knows, in a table that is made when the
//! view changes. It answers for names of services and for nothing else: whatever else is asked is
//! refused, so that whoever asks goes on to its next server, unless the configuration names servers to
//! ask instead. Nobody else is believed about names that are ours if there are such: a resolver that was
//! told "there is no such name" remembers that for as long as somebody who does not know us said.
//!
//! Messages and questions to other servers are hickory's (`hickory-proto`, `hickory-resolver`). The loops
//! are our own and not `hickory-server`'s, which begins a task for each question whoever asks, and however
//! many: this one stands between containers that trust each other little, beside what must not wait.
//!
//! Everything that askers can make it hold is bounded: connections by [`connections`], questions that
//! wait for other servers by [`forward`], questions of ours by being answered one after the other.
//!
//! What listens outlives the agent ([`handover`]): who asks while there is none is answered by the next.

mod activity;
mod connections;
mod datagrams;
mod forward;
mod handover;
mod listen;
mod neighbours;
mod responder;
mod room;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    activity::Activity,
    handover::given::Given,
    table::{Answer, Names, Question, Trust, Whose},
};
use self::{
    connections::{CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX},
    datagrams::Datagrams,
    forward::Forwarder,
    handover::{Shelf, store::Store},
    listen::Place,
    neighbours::Neighbours,
    responder::Responder,
    room::Room,
};
use crate::{
    api::types::View,
    config::{Config, NamesConfig},
};

/// Wait after an address could not be listened on: that of a bridge comes with Docker.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait, where questions may have waited for us, until all names are known: most resolvers wait
/// for 5 s in all, of which a restart has taken one or two.
const KNOWN_WAIT: Duration = Duration::from_secs(2);

/// A responder that is at work, if there is to be one.
#[derive(Debug, Default)]
pub struct Running {
    has_pool: Arc<AtomicBool>,
    thread: Option<oneshot::Receiver<()>>,
    shelf: Option<Arc<Shelf>>,
}

impl Running {
    /// Resolves when it has ended, which it does not by itself; never if there is none.
    pub async fn ended(&mut self) {
        match &mut self.thread {
            // A panic has been printed by its hook.
            Some(thread) => drop(thread.await),
            None => std::future::pending().await,
        }
    }

    /// The configuration was read again. Where to listen counts after a restart, for which sockets are
    /// kept; what else of it changes, too.
    pub fn reload(&self, config: &Config) {
        self.has_pool.store(config.labels.routing_pool.is_some(), Ordering::Relaxed);
        if let Some(shelf) = &self.shelf {
            shelf.want(wanted(&config.names));
        }
    }
}

/// Answers on every address of the configuration until `stop`, on a thread of its own, by what was given
/// to this process where that fits. Whoever comes by one of the front interfaces is asked for nobody
/// else's names. The error: there is no thread to be had.
pub fn start(
    config: &Config,
    fronts: &[String],
    given: Vec<Given>,
    view: &watch::Receiver<Arc<View>>,
    activity: &Arc<Activity>,
    stop: &CancellationToken,
) -> io::Result<Running> {
    let shelf = Shelf::new(Store::of_environment(), given, wanted(&config.names));
    start_with(config, fronts, shelf, view, activity, stop)
}

fn start_with(
    config: &Config,
    fronts: &[String],
    shelf: Shelf,
    view: &watch::Receiver<Arc<View>>,
    activity: &Arc<Activity>,
    stop: &CancellationToken,
) -> io::Result<Running> {
    let mut running = Running::default();
    running.reload(config);
    let (config, shelf) = (config.names.clone(), Arc::new(shelf));
    running.shelf = Some(Arc::clone(&shelf));
    if config.listen.is_empty() {
        return Ok(running);
    }
    let failed = |error| io::Error::other(format!("no thread that answers for names: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let first = Names::of(&view.borrow(), config.compose);
    let (sender, names) = watch::channel(Arc::new(first));
    let neighbours = Neighbours::new(fronts);
    let forward = (!config.forward.is_empty()).then(|| Forwarder::new(&config.forward, neighbours));
    let responder = Responder {
        names,
        activity: Arc::clone(activity),
        ttl_seconds: config.ttl_seconds,
        has_pool: Arc::clone(&running.has_pool),
        forward: forward.map(Arc::new),
    };
    let (view, stop) = (view.clone(), stop.clone());
    let (alive, ended) = oneshot::channel();
    running.thread = Some(ended);
    let thread = std::thread::Builder::new().name("lb-names".to_owned()).spawn(move || {
        // Dropped at its end, whatever the reason.
        let _alive: oneshot::Sender<()> = alive;
        runtime.block_on(stop.run_until_cancelled(run(config, shelf, responder, view, sender)));
    });
    thread.map(|_thread| running).map_err(failed)
}

async fn run(
    config: NamesConfig,
    shelf: Arc<Shelf>,
    responder: Responder,
    view: watch::Receiver<Arc<View>>,
    names: watch::Sender<Arc<Names>>,
) {
    let room = Room::new(CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX);
    let activity = Arc::clone(&responder.activity);
    for places in listen::places(&config.listen) {
        let (responder, room, activity) = (responder.clone(), room.clone(), Arc::clone(&activity));
        let shelf = Arc::clone(&shelf);
        tokio::spawn(again_and_again(
            move || serve(places, Arc::clone(&shelf), responder.clone(), room.clone()),
            move |trouble| activity.note_server(places[0].address, Some(trouble)),
        ));
    }
    again_and_again(
        || follow(view.clone(), config.compose, &names, &activity),
        |trouble| activity.note_names(Some(trouble)),
    )
    .await;
    // Nothing changes any more; what is known is answered until somebody says stop.
    std::future::pending::<()>().await;
}

/// Begins anew what panics, after a while, and notes that it did. What was begun tells when it is well.
async fn again_and_again<F: Future<Output = ()>>(begin: impl Fn() -> F, note: impl Fn(String)) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        // The panic has been printed by its hook.
        let trouble = format!("it ended by itself, see the log, and is begun anew after {RETRY:?}");
        tracing::error!("names: {trouble}");
        note(trouble);
        sleep(RETRY).await;
    }
}

/// Makes the table when the view has changed. Few changes of the view are changes of names.
async fn follow(
    mut view: watch::Receiver<Arc<View>>,
    has_compose_names: bool,
    names: &watch::Sender<Arc<Names>>,
    activity: &Activity,
) {
    while view.changed().await.is_ok() {
        let latest = Arc::clone(&view.borrow_and_update());
        let made = Names::of(&latest, has_compose_names);
        names.send_if_modified(|known| {
            let has_changed = **known != made;
            if has_changed {
                *known = Arc::new(made);
            }
            has_changed
        });
        activity.note_names(None);
    }
}

async fn serve(places: [Place; 2], shelf: Arc<Shelf>, responder: Responder, room: Room) {
    let (activity, address) = (Arc::clone(&responder.activity), places[0].address);
    let mut has_warned = false;
    activity.note_server(address, Some("not yet".to_owned()));
    let (datagrams, listener) = loop {
        match open(places, &shelf) {
            Ok(sockets) => break sockets,
            Err(error) => {
                activity.note_server(address, Some(error.to_string()));
                if !has_warned {
                    has_warned = true;
                    tracing::warn!(
                        "names: cannot listen on {address}: {error}; it is tried again every \
                         {RETRY:?}; the key is `listen` in [names] of the config"
                    );
                }
            }
        }
        sleep(RETRY).await;
    };
    if shelf.is_given(places) {
        // Who has asked before there was anybody to answer waits already, and is better told an address
        // a moment later than to ask somebody else.
        let mut names = responder.names.clone();
        drop(timeout(shelf.known_wait, names.wait_for(|names| names.is_complete())).await);
    }
    activity.note_server(address, None);
    tracing::info!("names of services are answered on {address}");
    tokio::join!(datagrams.serve(responder.clone()), connections::serve(listener, room, responder));
}

fn open(places: [Place; 2], shelf: &Shelf) -> io::Result<(Datagrams, TcpListener)> {
    let (datagrams, connections) = shelf.open(places)?;
    let datagrams = Datagrams::new(UdpSocket::from_std(datagrams)?)?;
    Ok((datagrams, TcpListener::from_std(connections)?))
}

/// Where a configuration has us listen.
fn wanted(config: &NamesConfig) -> Vec<Place> {
    listen::places(&config.listen).into_iter().flatten().collect()
}
