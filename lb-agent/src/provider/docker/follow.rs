//! Runs the provider: asks, listens, waits, and lets [`State`] decide.
//!
//! Everything that is seen comes through one queue and is taken from it in batches, so that a burst
//! of events makes one set of claims. Looks, listings and waits are tasks of their own: a daemon
//! that hangs delays what it was asked for, and nothing else.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    ClaimsOf, container_of,
    engine::{Engine, EngineError, Event, Summary},
    host::{Host, Process as _},
    look::{Look, look},
    state::{Effect, State},
};
use crate::provider::ProviderEvent;

/// Things seen and not taken in yet; who sees more waits.
const QUEUE_LENGTH: usize = 1024;
/// Most things taken in before claims are made of them.
const BATCH_LENGTH: usize = 256;
/// Looks under way at once: enough to keep the daemon busy, few enough to leave it free for others.
const LOOKS_MAX: usize = 8;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between listings that look at everything.
    resync: Duration,
    /// From an event to the listing that follows, and so between listings.
    debounce: Duration,
    /// For one look or listing as a whole, should the time limits below it fail.
    limit: Duration,
    /// First and longest wait after a failure.
    retry: (Duration, Duration),
}

impl Pace {
    pub(super) fn new(resync: Duration) -> Self {
        Self {
            resync: resync.max(Duration::from_secs(1)),
            debounce: Duration::from_millis(150),
            limit: Duration::from_secs(30),
            retry: (Duration::from_millis(200), Duration::from_secs(5)),
        }
    }

    /// Waits that grow without end and differ between nodes.
    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.retry.0)
            .with_max_delay(self.retry.1)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

/// Everything that can be seen.
enum Input<P> {
    Connected,
    Disconnected(String),
    Happened(Event),
    Listed(Result<Vec<Summary>, EngineError>),
    Looked(String, Box<Look<P>>),
    Ended { id: String, instance: String },
}

/// Follows `engine` until nobody listens to `events` any more.
pub(super) async fn follow<E: Engine, H: Host>(
    engine: E,
    host: H,
    pace: Pace,
    source: String,
    claims_of: ClaimsOf,
    events: mpsc::Sender<ProviderEvent>,
) {
    let (inputs, mut seen) = mpsc::channel(QUEUE_LENGTH);
    let (engine, host) = (Arc::new(engine), Arc::new(host));
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(Arc::clone(&engine), pace, inputs.clone()));
    let mut follower = Follower {
        state: State::new(source, Arc::clone(&claims_of)),
        reader: claims_of,
        schedule: Schedule::new(pace),
        looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        engine,
        host,
        pace,
        inputs,
        tasks,
    };
    follower.take_over();
    let mut batch = Vec::with_capacity(BATCH_LENGTH);
    loop {
        tokio::select! {
            biased;
            () = events.closed() => return,
            _ = seen.recv_many(&mut batch, BATCH_LENGTH) => {
                for input in batch.drain(..) {
                    follower.take_in(input);
                }
            }
            () = follower.schedule.due() => follower.list(),
        }
        if follower.act(&events).await.is_err() {
            return;
        }
    }
}

/// When to list.
struct Schedule {
    pace: Pace,
    /// When the next listing is wanted.
    wanted: Instant,
    /// When one is wanted that looks at everything.
    full_wanted: Instant,
    /// The listing under way; there is never more than one.
    under_way: Option<UnderWay>,
    backoff: ExponentialBackoff,
}

struct UnderWay {
    started: Instant,
    everything: bool,
}

impl Schedule {
    fn new(pace: Pace) -> Self {
        let now = Instant::now();
        let backoff = pace.backoff();
        Self { pace, wanted: now, full_wanted: now, under_way: None, backoff }
    }

    /// Resolves when it is time to list.
    async fn due(&self) {
        match self.under_way {
            Some(_) => std::future::pending().await,
            None => sleep_until(self.wanted).await,
        }
    }

    fn start(&mut self) {
        let started = Instant::now();
        self.under_way = Some(UnderWay { started, everything: started >= self.full_wanted });
        // Whatever is wanted from now on is not answered by this listing.
        self.wanted = started + self.pace.limit + self.pace.resync;
    }

    /// The listing under way has ended. Whether it was to look at everything.
    fn end(&mut self, worked: bool) -> bool {
        let now = Instant::now();
        let Some(UnderWay { started, everything }) = self.under_way.take() else { return false };
        if worked {
            if everything {
                self.full_wanted = now + self.pace.resync;
            }
            self.wanted = self.wanted.min(self.full_wanted);
        }
        // Who asks too much of a slow daemon makes it slower: let it rest as long as it worked.
        self.wanted = self.wanted.max(now + (now - started));
        everything
    }

    /// List when things have calmed down.
    fn soon(&mut self) {
        self.wanted = self.wanted.min(Instant::now() + self.pace.debounce);
    }

    /// List again, later with every time.
    fn again(&mut self) {
        let wait = self.backoff.next().unwrap_or(self.pace.retry.1);
        self.wanted = self.wanted.min(Instant::now() + wait);
    }

    /// Everything works: the next failure is the first again.
    fn is_well(&mut self) {
        self.backoff = self.pace.backoff();
    }
}

struct Follower<E: Engine, H: Host> {
    state: State<H::Process>,
    reader: ClaimsOf,
    schedule: Schedule,
    looks: Arc<Semaphore>,
    engine: Arc<E>,
    host: Arc<H>,
    pace: Pace,
    inputs: mpsc::Sender<Input<H::Process>>,
    tasks: JoinSet<()>,
}

impl<E: Engine, H: Host> Follower<E, H> {
    fn take_in(&mut self, input: Input<H::Process>) {
        match input {
            Input::Connected => self.state.connected(),
            Input::Disconnected(reason) => self.state.disconnected(reason),
            Input::Happened(event) => self.state.happened(&event),
            Input::Looked(id, look) => self.state.looked(&id, *look),
            Input::Ended { id, instance } => self.state.ended(&id, &instance),
            Input::Listed(Ok(summaries)) => {
                let everything = self.schedule.end(true);
                self.state.listed(summaries, everything);
            }
            Input::Listed(Err(error)) => {
                self.schedule.end(false);
                self.state.listing_failed(error.to_string());
            }
        }
    }

    /// Goes on where a predecessor ended: who dies while Docker is away is told of all the same.
    fn take_over(&mut self) {
        self.state.remember(self.host.former_names());
        self.state.take_over_asked(self.host.asked_to_end());
        for (instance, process) in self.host.followed() {
            self.state.inherit(instance.clone());
            self.watch(container_of(&instance).to_owned(), instance, process);
        }
    }

    fn watch(&mut self, id: String, instance: String, process: Arc<H::Process>) {
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            process.ended().await;
            // The queue outlives its tasks.
            let _ended = inputs.send(Input::Ended { id, instance }).await;
        });
    }

    /// Does what the state wants done. An error: nobody listens any more.
    async fn act(
        &mut self,
        events: &mpsc::Sender<ProviderEvent>,
    ) -> Result<(), mpsc::error::SendError<ProviderEvent>> {
        while self.tasks.try_join_next().is_some() {}
        let mut failed = false;
        for effect in self.state.take_effects() {
            match effect {
                Effect::Send(event) => {
                    let ended = match &event {
                        ProviderEvent::Gone { instance, .. } => Some(instance.clone()),
                        _ => None,
                    };
                    events.send(event).await?;
                    // Not before: who is stopped in between leaves it to his successor.
                    if let Some(ended) = ended {
                        self.host.ends(&ended);
                    }
                }
                Effect::Look(id) => self.look(id),
                Effect::Expect(network) => self.expect(network, events.clone()),
                Effect::Watch { id, instance, process } => {
                    self.host.begins(&instance, &process);
                    self.watch(id, instance, process);
                }
                Effect::Keep(former_names) => self.host.keep(former_names).await,
                Effect::KeepAsked(asked) => self.host.keep_asked(asked),
                Effect::ListSoon => self.schedule.soon(),
                Effect::ListAgain => failed = true,
            }
        }
        if failed {
            self.schedule.again();
        } else if self.state.is_well() {
            self.schedule.is_well();
        }
        Ok(())
    }

    fn list(&mut self) {
        self.schedule.start();
        self.state.listing_started();
        let (engine, inputs, limit) =
            (Arc::clone(&self.engine), self.inputs.clone(), self.pace.limit);
        self.tasks.spawn(async move {
            let listed = timeout(limit, engine.list()).await.unwrap_or_else(|_elapsed| {
                Err(EngineError(format!("no listing within {} s", limit.as_secs())))
            });
            let _queued = inputs.send(Input::Listed(listed)).await;
        });
    }

    /// While Docker starts a container it answers no questions about it. But its veth is there.
    fn expect(&mut self, network: String, events: mpsc::Sender<ProviderEvent>) {
        let (engine, host) = (Arc::clone(&self.engine), Arc::clone(&self.host));
        // Where there is more to do it is not about milliseconds.
        let Ok(turn) = Arc::clone(&self.looks).try_acquire_owned() else { return };
        let limit = self.pace.limit;
        self.tasks.spawn(async move {
            let find = async {
                let bridge = engine.bridge_of(&network).await.ok()??;
                host.newest_port(&bridge).await
            };
            if let Ok(Some(ifindex)) = timeout(limit, find).await {
                // Others are more urgent.
                drop(events.try_send(ProviderEvent::Expected { ifindex }));
            }
            drop(turn);
        });
    }

    fn look(&mut self, id: String) {
        let (engine, host) = (Arc::clone(&self.engine), Arc::clone(&self.host));
        let (inputs, looks, limit) =
            (self.inputs.clone(), Arc::clone(&self.looks), self.pace.limit);
        let reader = Arc::clone(&self.reader);
        self.tasks.spawn(async move {
            let turn = looks.acquire().await;
            let looked = timeout(limit, look(&*engine, &*host, &*reader, &id)).await;
            drop(turn);
            let looked = looked.unwrap_or_else(|_elapsed| {
                Look::Failed(format!("no answer within {} s", limit.as_secs()))
            });
            let _queued = inputs.send(Input::Looked(id, Box::new(looked))).await;
        });
    }
}

/// Keeps listening to events, for ever.
async fn listen<E: Engine, P>(engine: Arc<E>, pace: Pace, inputs: mpsc::Sender<Input<P>>) {
    let mut backoff = pace.backoff();
    loop {
        let reason = match timeout(pace.limit, engine.follow()).await {
            Err(_elapsed) => format!("no answer within {} s", pace.limit.as_secs()),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(stream)) => {
                if inputs.send(Input::Connected).await.is_err() {
                    return;
                }
                let connected_at = Instant::now();
                let mut stream = std::pin::pin!(stream);
                let reason = loop {
                    match stream.next().await {
                        Some(Ok(event)) => {
                            if inputs.send(Input::Happened(event)).await.is_err() {
                                return;
                            }
                        }
                        Some(Err(error)) => break format!("the stream of events broke: {error}"),
                        None => break "the stream of events ended".to_owned(),
                    }
                };
                // A stream that held is a success; one that ends at once is a failure like others.
                if connected_at.elapsed() > pace.retry.1 {
                    backoff = pace.backoff();
                }
                reason
            }
        };
        if inputs.send(Input::Disconnected(reason)).await.is_err() {
            return;
        }
        sleep(backoff.next().unwrap_or(pace.retry.1)).await;
    }
}
