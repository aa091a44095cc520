//! What time makes of the states of backends. Pure: time is an argument.
//!
//! - A backend that drains keeps its flows for `drain_seconds`; then it is gone.
//! - One that is unhealthy keeps them for `unhealthy_grace_seconds`; then it is gone until it is
//!   healthy again. In panic it serves, and the time begins anew afterwards.
//! - One that has become healthy gets its weight in steps within `slow_start_seconds`. The steps of
//!   all backends of a service fall on the same moments, so that a ring is published nine times in
//!   that time, however many backends come.
//!
//! All of it is forgotten with the agent: the next one begins to count anew, and gives everybody his
//! full weight who takes new flows already.

mod ramp;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, mem, sync::Arc};

use crate::{
    model::{Backend, BackendState, Policy, QuietServices, ServiceName, Snapshot},
    plan::{HeldStates, KernelState, NameHash, instance_hash},
};
use ramp::Ramp;

/// Since when backends are in their states.
#[derive(Debug, Default)]
pub struct Lifecycle {
    entries: HashMap<NameHash, Entry>,
    /// Services none of whose backends is followed.
    quiet: QuietServices,
    round: u64,
}

#[derive(Debug)]
struct Entry {
    /// What was known without regard to time.
    state: BackendState,
    /// Since when.
    since_ms: u64,
    /// Its weight may not be the full one yet.
    is_rising: bool,
    /// The latest snapshot that had it.
    round: u64,
}

/// A time that runs for a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// It is gone, or will be at this moment, since it drains.
    Drain(u64),
    /// The same, since it is unhealthy.
    Grace(u64),
}

impl Clock {
    /// When its time is over.
    pub fn ends_ms(self) -> u64 {
        match self {
            Self::Drain(ends_ms) | Self::Grace(ends_ms) => ends_ms,
        }
    }
}

impl Lifecycle {
    /// Gives the backends of a snapshot, whose health is known, the states and weights that time makes
    /// of them. Returns when that is to be done again, if nothing else changes.
    pub fn apply(
        &mut self,
        snapshot: &mut Snapshot,
        kernel: &KernelState,
        is_panic: impl Fn(&ServiceName) -> bool,
        now_ms: u64,
    ) -> Option<u64> {
        self.round += 1;
        // Few plans have backends that have just become healthy.
        let held = HeldStates::new(kernel);
        let takes_new = |service: &ServiceName, key: NameHash| {
            held.of(service, &key).is_some_and(|bits| bits & lb_common::abi::TAKES_NEW != 0)
        };
        let mut due_ms: Option<u64> = None;
        let mut quiet = mem::take(&mut self.quiet);
        quiet.look_at_others(&mut snapshot.services, |service| {
            let policy = &service.policy;
            let ramp = Ramp::new(policy.slow_start_seconds.value);
            let is_panic = ramp.is_some() && is_panic(&service.name);
            // Most services are left as they are, and shared.
            let mut changes = Vec::new();
            let mut is_quiet = true;
            for (index, backend) in service.backends.iter().enumerate() {
                if !is_followed(backend.state, ramp) {
                    continue;
                }
                is_quiet = false;
                let key = instance_hash(&service.name, backend);
                let entry =
                    self.enter(key, backend.state, now_ms, || takes_new(&service.name, key));
                let next_ms = match (entry.clock(policy), ramp) {
                    (Some(clock), _) if clock.ends_ms() <= now_ms => {
                        changes.push((index, BackendState::Gone, backend.weight));
                        None
                    }
                    (Some(clock), _) => Some(clock.ends_ms()),
                    (None, Some(ramp)) if entry.is_rising && !is_panic => {
                        let weight = ramp.weight(backend.weight, entry.since_ms, now_ms);
                        changes.push((index, backend.state, weight));
                        ramp.next_step_ms(entry.since_ms, now_ms)
                    }
                    (None, _) => None,
                };
                due_ms = due_ms.into_iter().chain(next_ms).min();
            }
            for (index, state, weight) in changes {
                let backend = &mut Arc::make_mut(service).backends[index];
                (backend.state, backend.weight) = (state, weight);
            }
            is_quiet
        });
        self.quiet = quiet;
        let round = self.round;
        self.entries.retain(|_, entry| entry.round == round);
        due_ms
    }

    /// The entry of a backend that is in this state now.
    fn enter(
        &mut self,
        key: NameHash,
        state: BackendState,
        now_ms: u64,
        takes_new: impl Fn() -> bool,
    ) -> &Entry {
        let round = self.round;
        let entry = self.entries.entry(key).or_insert_with(|| {
            let is_rising = state == BackendState::Healthy && !takes_new();
            Entry { state, since_ms: now_ms, is_rising, round }
        });
        if entry.state != state {
            (entry.state, entry.since_ms, entry.is_rising) = (state, now_ms, true);
        }
        entry.round = round;
        entry
    }

    /// The time that runs for a backend as it was in the latest snapshot.
    pub fn clock(
        &self,
        service: &ServiceName,
        policy: &Policy,
        backend: &Backend,
    ) -> Option<Clock> {
        self.entries.get(&instance_hash(service, backend))?.clock(policy)
    }
}

impl Entry {
    fn clock(&self, policy: &Policy) -> Option<Clock> {
        let after = |seconds: u32| self.since_ms.saturating_add(u64::from(seconds) * 1000);
        match self.state {
            BackendState::Draining => Some(Clock::Drain(after(policy.drain_seconds.value))),
            BackendState::Unhealthy => {
                Some(Clock::Grace(after(policy.unhealthy_grace_seconds.value)))
            }
            BackendState::Starting
            | BackendState::Healthy
            | BackendState::Disabled
            | BackendState::Gone => None,
        }
    }
}

/// Most backends are healthy, at full weight, and cost nothing here.
fn is_followed(state: BackendState, ramp: Option<Ramp>) -> bool {
    match state {
        BackendState::Draining | BackendState::Unhealthy => true,
        // Who starts is followed so that he is known to be new when he is healthy.
        BackendState::Healthy | BackendState::Starting => ramp.is_some(),
        BackendState::Disabled | BackendState::Gone => false,
    }
}
