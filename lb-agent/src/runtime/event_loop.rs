//! When the reconciler works: on events, on time, and on questions of the API.

use std::{sync::Arc, thread, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Event, Node, Reconciler, inbox::Inbox, reconciler::steer::Taken};
use crate::api::{
    server::{Request, SteerCall},
    steer::{SteerAnswer, SteerError},
    types::View,
};

/// Orders taken and not carried out; others wait.
const TAKEN_MAX: usize = 32;
/// Time for the kernel to do what was ordered before the answer says that it does not yet.
const DONE_WITHIN: Duration = Duration::from_secs(2);

/// The loop's ends of its channels.
#[derive(Debug)]
pub struct RuntimeChannels {
    /// What providers and signals tell.
    pub events: mpsc::Receiver<Event>,
    /// What the API asks of the kernel.
    pub requests: mpsc::Receiver<Request>,
    /// Orders of operators.
    pub orders: mpsc::Receiver<SteerCall>,
    /// The latest view.
    pub view: watch::Sender<Arc<View>>,
}

/// Time without a further change after which the view of those who do not ask for a fresh one is made
/// anew. It is of all backends, and nobody should wait for the kernel meanwhile: changes come together.
const PUBLISH_DELAY: Duration = Duration::from_millis(250);
/// The same, when there is no such time.
const PUBLISH_DELAY_MAX: Duration = Duration::from_secs(1);

/// Views in a row that are given up for what the kernel should hear of before one is made all the same.
const GIVEN_UP_MAX: u32 = 16;

/// The loop.
#[derive(Debug)]
pub struct Runtime<N> {
    reconciler: Reconciler<N>,
    inbox: Inbox,
    requests: mpsc::Receiver<Request>,
    orders: mpsc::Receiver<SteerCall>,
    view: watch::Sender<Arc<View>>,
    taken: Vec<Pending>,
    /// Who waits for a view with the counters of a later moment than their question's: all get the same.
    askers: Vec<oneshot::Sender<Arc<View>>>,
    /// Views in a row that were begun and given up, and when that was first.
    given_up: u32,
    given_up_since: Option<Instant>,
    /// When the view is to be made anew, and when that is at the latest.
    publish_at: Option<(Instant, Instant)>,
}

/// An order that is to be answered.
#[derive(Debug)]
struct Pending {
    taken: Taken,
    answer: oneshot::Sender<Result<SteerAnswer, SteerError>>,
    until: Instant,
}

impl<N: Node> Runtime<N> {
    /// A loop that has not begun.
    pub fn new(reconciler: Reconciler<N>, channels: RuntimeChannels) -> Self {
        let RuntimeChannels { events, requests, orders, view } = channels;
        Self {
            reconciler,
            inbox: Inbox::new(events),
            requests,
            orders,
            view,
            taken: Vec::new(),
            askers: Vec::new(),
            given_up: 0,
            given_up_since: None,
            publish_at: None,
        }
    }

    /// Runs until `stop`, or until nobody can send events any more. Leaves the kernel as it is.
    ///
    /// Blocks its thread while it works on the kernel: run it on one of its own, see [`spawn`].
    pub async fn run(mut self, stop: CancellationToken) {
        if let Some(view) = self.reconciler.view(Instant::now(), &mut || false) {
            self.view.send_replace(Arc::new(view));
        }
        loop {
            let now = Instant::now();
            let wake = self.wake(now);
            let takes_orders = self.taken.len() < TAKEN_MAX && self.reconciler.takes_orders(now);
            tokio::select! {
                () = stop.cancelled() => return self.reconciler.end(),
                event = self.inbox.next() => match event {
                    Some(event) => self.reconciler.take(event),
                    None => return,
                },
                Some(request) = self.requests.recv() => self.answer(request),
                Some(call) = self.orders.recv(), if takes_orders => self.take_order(call),
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            // Everything that is there already belongs to the same plan.
            while let Some(event) = self.inbox.try_next() {
                self.reconciler.take(event);
            }
            if self.reconciler.step(&mut self.inbox, now) {
                self.put_publication_off(now);
            }
            while let Ok(request) = self.requests.try_recv() {
                self.answer(request);
            }
            self.show(now);
            self.answer_orders(Instant::now());
        }
    }

    fn wake(&self, now: Instant) -> Instant {
        if self.reconciler.is_dirty(now) {
            return now;
        }
        let orders_from = Some(self.reconciler.orders_wait_until()).filter(|from| *from > now);
        let publish_at = self.publish_at.map(|(at, _)| at);
        let others = publish_at.into_iter().chain(orders_from);
        others.fold(self.reconciler.deadline(), Instant::min)
    }

    fn take_order(&mut self, call: SteerCall) {
        let SteerCall { request, by, taken, answer } = call;
        // Who has given up meanwhile was told that nothing was done.
        if taken.send(()).is_err() {
            return;
        }
        let now = Instant::now();
        match self.reconciler.steer(&request, &by, now) {
            Ok(taken) => self.taken.push(Pending { taken, answer, until: now + DONE_WITHIN }),
            // The client may have gone away meanwhile; here and below.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Answers when what was ordered is done, or is not for the time being.
    fn answer_orders(&mut self, now: Instant) {
        let is_at_rest = self.reconciler.is_at_rest(now);
        let over = self.taken.extract_if(.., |one| is_at_rest || one.until <= now);
        for Pending { taken, answer, .. } in over {
            answer.send(Ok(self.reconciler.outcome(taken))).ok();
        }
    }

    fn put_publication_off(&mut self, now: Instant) {
        let latest = self.publish_at.map_or(now + PUBLISH_DELAY_MAX, |(_, latest)| latest);
        self.publish_at = Some((latest.min(now + PUBLISH_DELAY), latest));
    }

    /// Makes the view for those who have asked, and when one is due. Whoever comes, dies or fails meanwhile
    /// goes first: a view of all backends may take tens of milliseconds.
    fn show(&mut self, now: Instant) {
        // While there is more to do nobody waits for a view, but not for ever.
        let is_busy = self.reconciler.is_dirty(now);
        let is_due = |(at, latest)| latest <= now || (at <= now && !is_busy);
        if self.askers.is_empty() && !self.publish_at.is_some_and(is_due) {
            return;
        }
        let is_late = |since: Instant| since + PUBLISH_DELAY_MAX <= now;
        let gives_up = self.given_up < GIVEN_UP_MAX && !self.given_up_since.is_some_and(is_late);
        let inbox = &mut self.inbox;
        let mut is_urgent = || gives_up && inbox.has_news();
        let view = if self.askers.is_empty() {
            self.reconciler.view(now, &mut is_urgent)
        } else {
            self.reconciler.fresh_view(now, &mut is_urgent)
        };
        let Some(view) = view.map(Arc::new) else {
            self.given_up += 1;
            self.given_up_since.get_or_insert(now);
            return;
        };
        (self.given_up, self.given_up_since, self.publish_at) = (0, None, None);
        self.view.send_replace(Arc::clone(&view));
        for asker in self.askers.drain(..) {
            asker.send(Arc::clone(&view)).ok();
        }
    }

    /// Whoever asked may have gone away meanwhile.
    fn answer(&mut self, request: Request) {
        match request {
            Request::View(asker) => self.askers.push(asker),
            Request::Explain(query, answer) => {
                let result = self.reconciler.node_mut().explain(&query);
                answer.send(result.map_err(|error| error.to_string())).ok();
            }
            Request::ExplainCall(query, answer) => {
                answer.send(self.reconciler.explain_call(&query)).ok();
            }
            Request::Caller(from, answer) => {
                answer.send(self.reconciler.caller(&from)).ok();
            }
            Request::Trace(filters, answer) => {
                let result = self.reconciler.node_mut().set_trace_filters(&filters);
                answer.send(result.map_err(|error| error.to_string())).ok();
            }
        }
    }
}

/// Runs the loop on a thread of its own. The receiver resolves when it has ended; with an error
/// when it ended by a panic.
pub fn spawn<N: Node + 'static>(
    runtime: Runtime<N>,
    stop: CancellationToken,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (ended, receiver) = oneshot::channel();
    let handle = Handle::current();
    thread::Builder::new().name("kernel".to_owned()).spawn(move || {
        handle.block_on(runtime.run(stop));
        // Nobody may be waiting for it.
        ended.send(()).ok();
    })?;
    Ok(receiver)
}
