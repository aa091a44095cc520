//! Who traces, and who gets which event.
//!
//! The programs tell of packets only while somebody traces. One task owns the buffer that they write
//! to; whoever traces has a filter in the kernel and a channel here. Who goes away, or has traced for
//! as long as was asked for, is taken out; with the last one all is switched off.

use std::{collections::BTreeSet, time::Duration};

use lb_common::{
    abi::{TRACE_FILTERS, TraceEvent, TraceFilter, ticks_from_ns, ticks_from_seconds},
    engine::trace::matches,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::api::{server::Request, trace::calls_from};

/// Time between two looks at the buffer: it holds what the programs tell meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// Events that one look takes: more than the buffer holds.
const EVENTS_PER_LOOK: usize = 4096;
/// Events that wait for one client.
pub const EVENTS_WAITING: usize = 1024;
/// Time for a client to read on, so that it hears what it has missed although its trace has ended.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Where events come from: the data path, or a test.
pub trait TraceSource: Send {
    /// The oldest event that was not taken yet.
    fn next_event(&mut self) -> Option<TraceEvent>;

    /// Events that could not be told, since ever.
    fn lost(&self) -> u64;
}

/// Somebody wants to trace.
#[derive(Debug)]
pub struct TraceRequest {
    /// Of what.
    pub wanted: Wanted,
    /// For how long.
    pub seconds: u32,
    /// Where to tell; closed by whoever has enough.
    pub told: mpsc::Sender<Told>,
    /// Told that all is in place, or why not.
    pub begun: oneshot::Sender<Result<(), String>>,
}

/// What to tell of: what all of this is true of.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which packets; the time is filled in here.
    pub filter: TraceFilter,
    /// Which backends; none: any.
    pub backends: BTreeSet<u32>,
    /// Only socket calls, from the network namespace with this cookie.
    pub caller: Option<u64>,
    /// No socket calls: a cookie may look like a client's address.
    pub only_packets: bool,
}

impl Wanted {
    fn has(&self, event: &TraceEvent) -> bool {
        let caller = calls_from(event);
        matches(&self.filter, event, ticks_from_ns(event.time_ns))
            && (self.backends.is_empty() || self.backends.contains(&event.backend))
            && (self.caller.is_none() || self.caller == caller)
            && !(self.only_packets && caller.is_some())
    }
}

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A packet.
    Packet(TraceEvent),
    /// So many packets could not be told of.
    Lost(u64),
}

struct Tracer {
    wanted: Wanted,
    until: Instant,
    told: mpsc::Sender<Told>,
    /// Events that found no room in the channel, and are yet to be told as lost.
    lost: u64,
}

/// All who trace.
pub struct Tracers<S> {
    source: S,
    kernel: mpsc::Sender<Request>,
    now_tick: fn() -> u32,
    active: [Option<Tracer>; TRACE_FILTERS as usize],
    lost_before: u64,
}

impl<S: TraceSource> Tracers<S> {
    /// Nobody yet. Filters are put in force by whoever owns the kernel.
    pub fn new(source: S, kernel: mpsc::Sender<Request>, now_tick: fn() -> u32) -> Self {
        Self { source, kernel, now_tick, active: Default::default(), lost_before: 0 }
    }

    /// Runs until `stop`, or until nobody can ask any more.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<TraceRequest>,
        stop: CancellationToken,
    ) {
        loop {
            let is_on = self.is_on();
            tokio::select! {
                () = stop.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.begin(request).await,
                    None => return,
                },
                () = sleep(LOOK), if is_on => self.look().await,
            }
        }
    }

    fn is_on(&self) -> bool {
        self.active.iter().any(Option::is_some)
    }

    async fn begin(&mut self, request: TraceRequest) {
        let result = match self.try_begin(request.wanted, request.seconds, request.told) {
            Ok(place) => match self.put_in_force().await {
                Ok(()) => Ok(()),
                Err(error) => {
                    self.active[place] = None;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        // Who asked may have gone; the next look finds out.
        request.begun.send(result).ok();
    }

    fn try_begin(
        &mut self,
        mut wanted: Wanted,
        seconds: u32,
        told: mpsc::Sender<Told>,
    ) -> Result<usize, String> {
        if !self.is_on() {
            // What was told when nobody listened any more.
            while self.source.next_event().is_some() {}
            self.lost_before = self.source.lost();
        }
        let Some(place) = self.active.iter().position(Option::is_none) else {
            return Err(format!("{TRACE_FILTERS} others trace already; wait until one has ended"));
        };
        let until_tick = (self.now_tick)().saturating_add(ticks_from_seconds(seconds)).max(1);
        wanted.filter.until_tick = until_tick;
        self.active[place] = Some(Tracer {
            wanted,
            until: Instant::now() + Duration::from_secs(seconds.into()),
            told,
            lost: 0,
        });
        Ok(place)
    }

    async fn put_in_force(&self) -> Result<(), String> {
        let filters = self.active.iter().map(|tracer| tracer.as_ref().map(|it| it.wanted.filter));
        let filters = filters.collect();
        let (answer, done) = oneshot::channel();
        let busy = || "the agent is stopping".to_owned();
        self.kernel.send(Request::Trace(filters, answer)).await.map_err(|_| busy())?;
        done.await.map_err(|_| busy())?
    }

    async fn look(&mut self) {
        for _ in 0..EVENTS_PER_LOOK {
            let Some(event) = self.source.next_event() else { break };
            for tracer in self.active.iter_mut().flatten() {
                tracer.tell(&event);
            }
        }
        let lost = self.source.lost();
        let lost_now = lost.wrapping_sub(self.lost_before);
        self.lost_before = lost;
        let now = Instant::now();
        let mut has_ended = false;
        for place in &mut self.active {
            let Some(tracer) = place else { continue };
            tracer.lost += lost_now;
            tracer.tell_lost();
            if tracer.until <= now || tracer.told.is_closed() {
                if let Some(tracer) = place.take() {
                    tracer.end();
                }
                has_ended = true;
            }
        }
        if has_ended && let Err(error) = self.put_in_force().await {
            // The filters end by themselves, by their time.
            tracing::warn!("cannot end a trace: {error}");
        }
    }
}

impl Tracer {
    fn tell(&mut self, event: &TraceEvent) {
        if self.wanted.has(event) && self.told.try_send(Told::Packet(*event)).is_err() {
            self.lost += 1;
        }
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 && self.told.try_send(Told::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
    }

    /// Whoever reads slowly is told what he has missed also when his time is over.
    fn end(self) {
        let Self { told, lost, .. } = self;
        if lost > 0 {
            tokio::spawn(async move { told.send_timeout(Told::Lost(lost), LAST_WORD).await });
        }
    }
}

#[cfg(test)]
mod tests;
