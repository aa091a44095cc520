//! Brings the kernel to what the providers ask for, and keeps count of what it could not do.
//!
//! Works on a mirror of the kernel's tables: what was read at the start plus every action that
//! succeeded since. The kernel is read again after a failure and from time to time, so that a
//! change behind our back is found and repaired. A plan may be dropped between any two actions,
//! as it is when the agent is killed: the next one starts from what is there.

mod events;
mod granting;
mod interruptible;
mod report;
mod sockets;
pub(super) mod steer;

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::interruptible::Interruptible;
use super::{
    backoff::Backoff,
    connections::Connections,
    history::History,
    inbox::Inbox,
    leaving::Leaving,
    ledger::Ledger,
    local::Local,
    node::{Node, NodeCounters, NodeError, Swept},
    orders::Orders,
    pressure::Alarms,
    progress::Progress,
    protect::{Claimed, Protection},
    shares::Shares,
    view,
};
use crate::{
    api::types::RefusalView,
    arbiter::Granted,
    config::Balancer,
    health::HealthView,
    journal::Journal,
    lifecycle::Lifecycle,
    model::{Refusal, ServiceName, Snapshot},
    plan::{self, Action, KernelError, KernelState, Planner, Scan, Sight},
    steering::Store,
};

/// Time for providers to speak after a start before the others are served without them.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two sweeps of the recorded flows.
const SWEEP: Duration = Duration::from_secs(1);
/// The same, where one was interrupted.
const SWEEP_ON: Duration = Duration::from_millis(100);
/// Time for which a scan of the recorded flows is good enough: slots can wait, and a plan costs.
const SCAN_AGE: Duration = Duration::from_secs(5);
/// Time between two looks at the interfaces.
const LOOK: Duration = Duration::from_secs(10);
/// Time between two full readings of the kernel's tables.
pub(super) const RESYNC: Duration = Duration::from_mins(1);

/// Plans in a row without rest. Two or three are usual; more than this is a defect or a kernel that
/// refuses something else each time.
const ROUNDS_MAX: u32 = 16;

/// Actions of a plan after an interrupted one that are done whoever fails meanwhile, so that a storm of
/// failures cannot stop everything else.
const CERTAIN_ACTIONS: usize = 64;

/// Cause of what is not tried after an interruption.
const INTERRUPTED: &str = "interrupted by a death or a failure";

/// Time for which counters that were read answer further questions: one reading is a call into the
/// kernel per backend.
const COUNTERS_AGE_MAX: Duration = Duration::from_millis(200);

/// What the reconciler starts with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the enabled providers: `docker`, `file`.
    pub providers: Vec<&'static str>,
    /// Balancers of the configuration, for the view.
    pub balancers: Vec<Balancer>,
    /// Where orders of operators are kept; `None`: nowhere.
    pub store: Option<Store>,
    /// Where events are written.
    pub journal: Arc<Journal>,
    /// For the planner.
    pub planner: plan::Settings,
}

/// Brings the kernel to what the providers ask for.
#[derive(Debug)]
pub struct Reconciler<N> {
    node: N,
    planner: Planner,
    ledger: Ledger,
    health: HealthView,
    lifecycle: Lifecycle,
    steering: Orders,
    history: History,
    balancers: Vec<Balancer>,
    callers: sockets::Callers,
    /// What the kernel holds, to our knowledge.
    mirror: KernelState,
    /// What is granted to whom, and the same with all that follows from health, time and orders.
    granted: Granted,
    leaving: Leaving,
    snapshot: Snapshot,
    /// What the planner did not grant.
    refused_plans: Vec<Refusal>,
    shares: Shares,
    local: Local,
    /// The latest scan of the recorded flows that plans go by, and until when.
    scan: Option<Scan>,
    next_scan: Instant,
    counters: NodeCounters,
    connections: Connections,
    alarms: Alarms,
    /// What the kernel refused in the latest round, and the planner cannot do without.
    failures: Vec<RefusalView>,
    backoff: Backoff,
    progress: Progress,
    rounds_in_a_row: u32,
    /// Of the next plan, before bad news interrupt it.
    certain_actions: usize,
    /// Something changed since the latest plan.
    is_dirty: bool,
    is_mirror_stale: bool,
    is_view_stale: bool,
    /// Backends that stay although nobody claims them, see [`protect`].
    kept_backends: usize,
    started: Instant,
    patience_ends: Instant,
    /// When the planner wants to look again: a quarantine ends.
    next_plan: Option<Instant>,
    next_look: Instant,
    next_sweep: Instant,
    next_resync: Instant,
    counters_age_out: Instant,
}

impl<N: Node> Reconciler<N> {
    /// What failures are about that keep everything from being seen.
    const TABLES: &str = "the kernel's tables";

    /// Takes over what the kernel holds. Changes nothing.
    pub fn adopt(mut node: N, settings: Settings, now: Instant) -> Result<Self, NodeError> {
        let mirror = node.read_state()?;
        // Where nothing is, nothing can be lost by not waiting.
        let patience = if mirror.services.is_empty() { Duration::ZERO } else { PATIENCE };
        let mut planner = Planner::new(settings.planner);
        planner.adopt(&mirror, 0);
        tracing::info!(
            "adopted {} services, {} backends, {} frontends from the kernel",
            mirror.services.len(),
            mirror.backends.len(),
            mirror.frontends.len()
        );
        Ok(Self {
            planner,
            ledger: Ledger::new(&settings.providers),
            health: HealthView::default(),
            lifecycle: Lifecycle::default(),
            steering: Orders::load(settings.store),
            history: History::new(settings.journal),
            balancers: settings.balancers,
            callers: sockets::Callers::default(),
            node,
            mirror,
            granted: Granted::default(),
            leaving: Leaving::default(),
            snapshot: Snapshot::default(),
            refused_plans: Vec::new(),
            shares: Shares::default(),
            local: Local::default(),
            scan: None,
            next_scan: now,
            counters: NodeCounters::default(),
            alarms: Alarms::default(),
            failures: Vec::new(),
            rounds_in_a_row: 0,
            backoff: Backoff::default(),
            progress: Progress::default(),
            connections: Connections::default(),
            certain_actions: 1,
            is_dirty: true,
            is_mirror_stale: false,
            is_view_stale: false,
            kept_backends: 0,
            started: now,
            patience_ends: now + patience,
            next_plan: None,
            next_look: now + LOOK,
            next_sweep: now + SWEEP,
            next_resync: now + RESYNC,
            counters_age_out: now,
        })
    }

    /// The node, for what is no part of a plan.
    pub(super) fn node_mut(&mut self) -> &mut N {
        &mut self.node
    }

    /// When [`Self::step`] has something to do although no event came.
    pub(super) fn deadline(&self) -> Instant {
        let timers = [self.next_sweep, self.next_look, self.next_resync];
        let tables_due = self.callers.due(false);
        let others = self.next_plan.into_iter().chain(self.backoff.due()).chain(tables_due);
        timers.into_iter().chain(others).min().unwrap_or(self.next_sweep)
    }

    /// Does what is due at `now`. True: the view may have changed.
    pub(super) fn step(&mut self, inbox: &mut Inbox, now: Instant) -> bool {
        if self.next_sweep <= now {
            let is_interrupted = self.sweep(inbox, now);
            self.next_sweep = now + if is_interrupted { SWEEP_ON } else { SWEEP };
            self.callers.retry(now);
        }
        if self.next_look <= now {
            self.next_look = now + LOOK;
            self.node.look_at_interfaces();
            if !self.is_dirty {
                // No plan will ask.
                self.node.expect_no_more();
            }
            self.watch_tables();
            self.local.set_stale();
            self.is_dirty |= self.local.look(&self.node);
            // Whose veth is gone is not kept any longer.
            let is_keeping = self.kept_backends > 0;
            self.is_mirror_stale |= is_keeping;
            self.is_dirty |= is_keeping;
        }
        if self.next_resync <= now {
            self.next_resync = now + RESYNC;
            self.is_mirror_stale = true;
            self.is_dirty = true;
        }
        if self.backoff.is_due(now) {
            self.is_mirror_stale = true;
            self.is_dirty = true;
        }
        if self.next_plan.is_some_and(|at| at <= now) {
            // Only the plan that follows knows the next one.
            self.next_plan = None;
            self.is_dirty = true;
        }
        let is_view_stale = mem::take(&mut self.is_view_stale);
        let is_dirty = self.is_dirty(now);
        let are_due = |is_busy| self.callers.due(is_busy).is_some_and(|at| at <= now);
        // Whoever comes meanwhile goes first, for a while.
        if are_due(is_dirty) && (are_due(true) || !inbox.has_news()) {
            self.set_socket_tables();
            return true;
        }
        if is_dirty {
            self.reconcile(inbox, now);
            return true;
        }
        is_view_stale
    }

    /// Sweeps the recorded flows, and sees whether slots have waited for what it shows. True: whoever
    /// came goes first, and there is more to sweep.
    fn sweep(&mut self, inbox: &mut Inbox, now: Instant) -> bool {
        let swept = self.node.sweep_records(&mut || inbox.has_news());
        let Swept { scan, is_interrupted } = swept.unwrap_or_else(|error| {
            tracing::warn!("cannot sweep the recorded flows: {error}");
            Swept::default()
        });
        if scan.is_some() && self.next_scan <= now {
            self.next_scan = now + SCAN_AGE;
            self.scan = scan;
        }
        // Lent for the plan, which may be large.
        let sight = self.sight(now);
        self.is_dirty |= self.planner.is_due(&sight);
        self.scan = sight.scan;
        is_interrupted
    }

    /// What a plan is made from, with the scan taken out of `self`.
    fn sight(&mut self, now: Instant) -> Sight {
        let refused = |ring: &u32| (*ring, self.node.refused_tick(*ring));
        let refused_ticks = self.mirror.rings.keys().map(refused).filter(|(_, tick)| *tick != 0);
        // Before the clock: a refusal that is later than now would count as none.
        let refused_ticks = refused_ticks.collect();
        Sight {
            now_ms: self.milliseconds(now),
            now_tick: self.node.now_tick(),
            refused_ticks,
            scan: self.scan.take(),
            local: self.local.prefixes(),
            front_ifindex: self.node.front_ifindex(),
        }
    }

    /// Whether all is done that is known.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        !self.is_dirty(now) && self.callers.are_told()
    }

    /// Whether more is to be done at once.
    pub(super) fn is_dirty(&self, now: Instant) -> bool {
        self.is_dirty && self.may_plan(now)
    }

    fn may_plan(&self, now: Instant) -> bool {
        self.patience_ends <= now || self.ledger.silent().next().is_none()
    }

    /// One plan and its execution. What it leads to is for the next one to see.
    fn reconcile(&mut self, inbox: &mut Inbox, now: Instant) {
        if self.is_mirror_stale && !self.read_mirror(now) {
            return;
        }
        let started = std::time::Instant::now();
        self.arbitrate();
        self.steering.apply(&mut self.snapshot, &self.ledger, &self.leaving);
        self.health.apply(&mut self.snapshot, &self.mirror);
        let is_panic = |name: &ServiceName| self.health.panics().contains_key(name);
        let now_ms = self.milliseconds(now);
        let lifecycle_due_ms =
            self.lifecycle.apply(&mut self.snapshot, &self.mirror, is_panic, now_ms);
        self.local.look(&self.node);
        let sight = self.sight(now);
        let plan = self.planner.plan(&self.mirror, &self.snapshot, &sight);
        self.scan = sight.scan;
        self.refused_plans = plan.refusals;
        let due_ms = plan.due_ms.into_iter().chain(lifecycle_due_ms).min();
        self.next_plan = due_ms.map(|due_ms| self.started + Duration::from_millis(due_ms));

        let actions = self.protected(plan.actions);
        let planned = actions.len();
        self.announce_to_sockets(&actions);
        let certain = self.certain_actions;
        let mut kernel =
            Interruptible { node: &mut self.node, inbox, executed: 0, certain, is_over: false };
        let applied = plan::apply(actions, &mut kernel, &mut self.mirror);
        let is_interrupted = kernel.is_over;
        let refused = applied.failures.iter().filter(|(_, error)| error.cause != INTERRUPTED);
        self.progress.executed(applied.done, refused.count());
        let is_further = self.note_failures(applied.failures, is_interrupted, now_ms);
        if !is_interrupted {
            self.node.expect_no_more();
        }
        self.callers.set_planned(now);
        if is_interrupted {
            self.certain_actions = CERTAIN_ACTIONS;
            self.is_dirty = true;
        } else {
            self.certain_actions = 1;
            self.finish_round(planned, applied.done > 0 || is_further, now);
        }
        self.write_history(now_ms);

        let duration = started.elapsed();
        self.progress.ended(now, duration, !self.is_dirty);
        if planned > 0 {
            tracing::debug!("executed {} of {planned} actions in {duration:?}", applied.done);
        }
    }

    /// Tells the planner what failed, and keeps what it cannot do without. True: the next plan will
    /// be another one.
    fn note_failures(
        &mut self,
        failures: Vec<(Action, KernelError)>,
        is_interrupted: bool,
        now_ms: u64,
    ) -> bool {
        let mut is_further = false;
        // What an interrupted plan did not come to fails as it did before.
        let mut lasting = if is_interrupted { self.failures.clone() } else { Vec::new() };
        let kept = lasting.len();
        for (action, error) in failures {
            if is_interrupted && error.cause == INTERRUPTED {
                self.planner.note_interrupted(&action);
                continue;
            }
            self.planner.note_failure(&action, &error, now_ms);
            if matches!(
                action,
                Action::AttachReply { .. }
                    | Action::WriteBackend { .. }
                    | Action::PutReplyDefault { .. }
                    | Action::PutLocal { .. }
            ) {
                is_further = true;
                tracing::warn!("{error}");
            } else {
                let object = view::Names(&self.snapshot).of_action(&action, &self.mirror);
                let failure = view::refused_by_kernel(object, &error);
                if !lasting[..kept].contains(&failure) {
                    lasting.push(failure);
                }
            }
        }
        self.report(lasting);
        is_further
    }

    /// Decides when to plan again.
    fn finish_round(&mut self, planned: usize, is_further: bool, now: Instant) {
        self.is_dirty = planned > 0 && is_further;
        if self.is_dirty {
            self.rounds_in_a_row += 1;
            if self.rounds_in_a_row >= ROUNDS_MAX {
                tracing::warn!("still {planned} actions to do after {ROUNDS_MAX} plans; waiting");
                self.is_dirty = false;
            }
        }
        if !self.is_dirty {
            self.rounds_in_a_row = 0;
            if planned > 0 {
                self.backoff.failed(now);
            } else {
                self.backoff.succeeded();
            }
        }
    }

    fn read_mirror(&mut self, now: Instant) -> bool {
        // By far the largest part, and no plan is made without the other: there is room for one.
        self.mirror.rings.clear();
        match self.node.read_state() {
            Ok(state) => {
                self.mirror = state;
                self.is_mirror_stale = false;
                true
            }
            Err(error) => {
                let failure = view::refused_by_kernel(Self::TABLES.to_owned(), &error);
                self.report(vec![failure]);
                self.backoff.failed(now);
                self.is_dirty = false;
                false
            }
        }
    }

    /// While a provider is silent or does not know everything, only what takes nothing away from
    /// what may live although nobody claims it.
    fn protected(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let is_silent = self.ledger.silent().next().is_some();
        let mut kept_backends = 0;
        let mut actions = actions;
        if is_silent || self.ledger.is_partial() {
            let claimed = Claimed {
                services: self.snapshot.services.keys().map(plan::service_hash).collect(),
                backends: self
                    .ledger
                    .named()
                    .map(|(name, it)| plan::instance_hash(name, it))
                    .collect(),
                is_silent,
            };
            let protection = Protection::new(&self.mirror, &claimed);
            kept_backends = protection.kept_backends();
            actions = protection.soften(actions);
        }
        if kept_backends != self.kept_backends {
            tracing::info!("{kept_backends} backends that nobody claims stay as they are for now");
            self.kept_backends = kept_backends;
        }
        actions
    }
}
