//! Executing a plan: what depends on an action that failed is left out, everything else is done.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{BACKEND_NONE, META_ROUTED_BACKENDS, TAKES_NEW};

use super::{
    Action, Kernel, KernelBackend, KernelError, KernelState, Planner, Sight, ring_of, service_of,
};
use crate::model::{BackendPath, FrontendAddress, Refusal, Snapshot};

/// Plans that [`reconcile`] makes before it gives up for now.
const ROUNDS_MAX: usize = 5;
/// When to try again after failures.
const RETRY_MS: u64 = 1000;

/// How the execution of a plan went.
#[derive(Debug, Default)]
pub struct Applied {
    /// Actions that were executed.
    pub done: usize,
    /// Actions that were left out because another one had failed.
    pub skipped: usize,
    /// Actions that failed.
    pub failures: Vec<(Action, KernelError)>,
}

/// How far the kernel is from the snapshot.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Actions that were executed.
    pub done: usize,
    /// What the kernel refused.
    pub failures: Vec<KernelError>,
    /// What was asked for and has no room or keeps failing.
    pub refusals: Vec<Refusal>,
    /// Whether the kernel holds the snapshot, apart from what is refused.
    pub is_settled: bool,
    /// When to reconcile again although nothing else has changed, in monotonic milliseconds.
    pub due_ms: Option<u64>,
}

/// Plans and executes until nothing is left to do, or only what fails. `mirror` is what the kernel
/// holds; it is kept so.
pub fn reconcile(
    planner: &mut Planner,
    kernel: &mut dyn Kernel,
    mirror: &mut KernelState,
    snapshot: &Snapshot,
    sight: &mut dyn FnMut() -> Sight,
) -> Outcome {
    let mut outcome = Outcome::default();
    for _ in 0..ROUNDS_MAX {
        let plan = planner.plan(mirror, snapshot, &sight());
        (outcome.refusals, outcome.due_ms) = (plan.refusals, plan.due_ms);
        if plan.actions.is_empty() {
            outcome.is_settled = true;
            return outcome;
        }
        let applied = apply(plan.actions, kernel, mirror);
        outcome.done += applied.done;
        let after_ms = sight().now_ms;
        for (action, error) in applied.failures {
            planner.note_failure(&action, &error, after_ms);
            outcome.failures.push(error);
        }
    }
    let retry_ms = sight().now_ms + RETRY_MS;
    outcome.due_ms = Some(outcome.due_ms.map_or(retry_ms, |due_ms| due_ms.min(retry_ms)));
    outcome
}

/// Executes the actions in their order, and keeps `mirror` equal to what the kernel holds.
pub fn apply(actions: Vec<Action>, kernel: &mut dyn Kernel, mirror: &mut KernelState) -> Applied {
    let mut applied = Applied::default();
    let mut missing = Missing::default();
    for action in actions {
        if missing.is_needed_by(&action, mirror) {
            missing.note(&action, mirror);
            applied.skipped += 1;
            continue;
        }
        match kernel.execute(&action) {
            Ok(()) => {
                mirror.absorb(action);
                applied.done += 1;
            }
            Err(error) => {
                missing.note(&action, mirror);
                applied.failures.push((action, error));
            }
        }
    }
    applied
}

/// What the actions that were not executed leave undone.
#[derive(Default)]
struct Missing {
    flags: bool,
    /// Not attached, not written, not published.
    replies: HashSet<u32>,
    services: HashSet<u32>,
    backends: HashSet<u32>,
    rings: HashSet<u32>,
    /// Services some of whose backends do not have the state that their rings are made for.
    states: HashSet<u32>,
    /// Backends that rings go on leading to which should not, although others live.
    still_led: HashSet<u32>,
    /// Ports whose replies do not have the default that is counted on.
    reply_ports: HashSet<(BackendPath, SocketAddr)>,
    /// Services some of whose flows are not recorded, or have no default.
    unrecorded: HashSet<u32>,
    /// Ports of backends whose flows are still not recorded.
    unrecorded_ports: HashSet<(BackendPath, SocketAddr)>,
    /// Not removed, so that what they refer to must stay.
    kept: Kept,
}

/// What something still refers to.
#[derive(Default)]
struct Kept {
    vips: HashSet<IpAddr>,
    services: HashSet<u32>,
    replies: HashSet<u32>,
    is_routed: bool,
}

impl Missing {
    fn is_needed_by(&self, action: &Action, mirror: &KernelState) -> bool {
        match action {
            Action::WriteBackend { backend, .. } => {
                self.services.contains(&backend.service)
                    || self.reply_ports.contains(&(backend.path, backend.address))
                    || match backend.path {
                        BackendPath::Local { ifindex } => {
                            self.replies.contains(&ifindex)
                                || (self.flags && !backend.records_replies)
                        }
                        BackendPath::Routed => self.flags,
                    }
            }
            Action::SetBackendState { number, state } => {
                let held = mirror.backends.get(number);
                held.is_some_and(|it| match (it.state & !state, state & !it.state) {
                    (TAKES_NEW, 0) => self.still_led.contains(number),
                    (_, gained) => gained != 0 && self.unrecorded.contains(&it.service),
                })
            }
            Action::SetRecordsReplies { number, records_replies: false } => {
                let held = mirror.backends.get(number);
                self.flags
                    || held.is_some_and(|it| self.reply_ports.contains(&(it.path, it.address)))
            }
            Action::PublishRing { ring, content } => {
                self.services.contains(&service_of(*ring))
                    || self.states.contains(&service_of(*ring))
                    || self.unrecorded.contains(&service_of(*ring))
                    || (!self.backends.is_empty()
                        && content.slots.iter().any(|slot| self.backends.contains(&slot.cur())))
            }
            Action::PutFrontend { frontend, service, .. } => {
                self.services.contains(service)
                    || self.unrecorded.contains(service)
                    || self.rings.contains(&ring_of(*service, frontend))
            }
            Action::DeleteVip { vip } => self.kept.vips.contains(vip),
            Action::ClearRing { ring } => self.kept.services.contains(&service_of(*ring)),
            Action::ClearService { number } => self.kept.services.contains(number),
            Action::DetachReply { ifindex } => self.kept.replies.contains(ifindex),
            Action::SetFlags { flags } => self.kept.is_routed && flags & META_ROUTED_BACKENDS == 0,
            Action::PutReplyDefault { port, default } => {
                let path = BackendPath::Local { ifindex: port.ifindex };
                default.has_other_ways && self.unrecorded_ports.contains(&(path, port.address))
            }
            Action::AttachReply { .. }
            | Action::WriteService { .. }
            | Action::SetRecordsReplies { .. }
            | Action::DeleteReplyDefault { .. }
            | Action::PutLocal { .. }
            | Action::DeleteLocal { .. }
            | Action::ClearBackend { .. }
            | Action::PutVip { .. }
            | Action::DeleteFrontend { .. } => false,
        }
    }

    fn note(&mut self, action: &Action, mirror: &KernelState) {
        match action {
            Action::SetFlags { flags } => self.flags |= *flags & !mirror.flags != 0,
            Action::AttachReply { ifindex } => {
                self.replies.insert(*ifindex);
            }
            Action::WriteService { number, .. } => {
                self.services.insert(*number);
            }
            Action::WriteBackend { number, .. } => {
                self.backends.insert(*number);
            }
            Action::PublishRing { ring, content } => match mirror.rings.get(ring) {
                // Where a ring is published already, frontends can point to it.
                Some(held) if content.slots.iter().any(|slot| slot.cur() != BACKEND_NONE) => {
                    self.still_led.extend(held.slots.iter().map(|slot| slot.cur()));
                }
                Some(_) => {}
                None => {
                    self.rings.insert(*ring);
                }
            },
            Action::PutFrontend { frontend, .. } | Action::DeleteFrontend { frontend } => {
                self.kept.frontend(frontend, &mirror.frontends);
            }
            Action::ClearRing { ring } => {
                self.kept.services.insert(service_of(*ring));
            }
            Action::ClearBackend { number } => {
                if let Some(backend) = mirror.backends.get(number) {
                    self.kept.services.insert(backend.service);
                    match backend.path {
                        BackendPath::Local { ifindex } => {
                            self.kept.replies.insert(ifindex);
                        }
                        BackendPath::Routed => self.kept.is_routed = true,
                    }
                }
            }
            Action::SetBackendState { number, .. } => {
                self.states.extend(mirror.backends.get(number).map(|backend| backend.service));
            }
            Action::SetRecordsReplies { number, records_replies: true } => {
                if let Some(backend) = mirror.backends.get(number) {
                    self.unrecorded.insert(backend.service);
                    self.unrecorded_ports.insert((backend.path, backend.address));
                }
            }
            Action::PutReplyDefault { port, .. } | Action::DeleteReplyDefault { port } => {
                let path = BackendPath::Local { ifindex: port.ifindex };
                self.reply_ports.insert((path, port.address));
                let backends = mirror.backends.values();
                let there = backends.filter(|it| (it.path, it.address) == (path, port.address));
                self.unrecorded.extend(there.map(|backend| backend.service));
            }
            Action::SetRecordsReplies { .. }
            | Action::PutLocal { .. }
            | Action::DeleteLocal { .. }
            | Action::PutVip { .. }
            | Action::DeleteVip { .. }
            | Action::DetachReply { .. }
            | Action::ClearService { .. } => {}
        }
    }
}

impl Kept {
    fn frontend(&mut self, frontend: &FrontendAddress, frontends: &BTreeMap<FrontendAddress, u32>) {
        if let Some(service) = frontends.get(frontend) {
            self.services.insert(*service);
            self.vips.insert(frontend.vip);
        }
    }
}

impl KernelState {
    /// What the state becomes by an action that was executed.
    pub fn absorb(&mut self, action: Action) {
        match action {
            Action::AttachReply { ifindex } => {
                self.reply_interfaces.insert(ifindex);
            }
            Action::DetachReply { ifindex } => {
                self.reply_interfaces.remove(&ifindex);
            }
            Action::SetFlags { flags } => self.flags = flags,
            Action::WriteService { number, name_hash } => {
                self.services.insert(number, name_hash);
            }
            Action::ClearService { number } => {
                self.services.remove(&number);
            }
            Action::WriteBackend { number, backend } => {
                self.free_generations.remove(&number);
                self.backends.insert(number, backend);
            }
            Action::SetBackendState { number, state } => {
                self.backends.update(number, |backend| backend.state = state);
            }
            Action::ClearBackend { number } => {
                if let Some(backend) = self.backends.remove(number) {
                    self.free_generations.insert(number, backend.generation);
                }
            }
            Action::PublishRing { ring, content } => {
                self.rings.insert(ring, content);
            }
            Action::ClearRing { ring } => {
                self.rings.remove(&ring);
            }
            Action::PutVip { vip } => {
                self.vips.insert(vip);
            }
            Action::DeleteVip { vip } => {
                self.vips.remove(&vip);
            }
            Action::PutFrontend { frontend, service, records_replies, flags } => {
                self.frontends.insert(frontend, service);
                self.frontend_flags.remove(&frontend);
                if flags != 0 {
                    self.frontend_flags.insert(frontend, flags);
                }
                if records_replies {
                    self.recorded_frontends.insert(frontend);
                } else {
                    self.recorded_frontends.remove(&frontend);
                }
            }
            Action::DeleteFrontend { frontend } => {
                self.frontends.remove(&frontend);
                self.recorded_frontends.remove(&frontend);
                self.frontend_flags.remove(&frontend);
            }
            action @ (Action::SetRecordsReplies { .. }
            | Action::PutReplyDefault { .. }
            | Action::DeleteReplyDefault { .. }
            | Action::PutLocal { .. }
            | Action::DeleteLocal { .. }) => self.absorb_replies(&action),
        }
    }

    fn absorb_replies(&mut self, action: &Action) {
        match action {
            Action::SetRecordsReplies { number, records_replies } => {
                let change = |it: &mut KernelBackend| it.records_replies = *records_replies;
                self.backends.update(*number, change);
            }
            Action::PutReplyDefault { port, default } => {
                self.reply_defaults.insert(*port, *default);
            }
            Action::DeleteReplyDefault { port } => {
                self.reply_defaults.remove(port);
            }
            Action::PutLocal { prefix, kind } => {
                self.local.insert(*prefix, *kind);
            }
            Action::DeleteLocal { prefix } => {
                self.local.remove(prefix);
            }
            _ => {}
        }
    }
}

/// The kernel of tests: everything succeeds.
impl Kernel for KernelState {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        self.absorb(action.clone());
        Ok(())
    }
}
