//! A plan while it is made: actions by phase, and what this pass has decided so far.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::abi::{MAX_BACKENDS, MAX_SERVICES, TAKES_NEW};

use super::{
    Action, KernelState, Plan,
    extents::FreeExtents,
    hash::{HashIndex, NameHash, NumberIndexSet},
    numbers::NumberSet,
    policy::FrontendPair,
    replies::Led,
    service_of,
    sight::Sight,
    slots::Watch,
};
use crate::model::Refusal;

/// When an action has its turn; actions of one phase keep the order in which they were found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    Restrict,
    RecordReplies,
    PutLocal,
    DeleteFrontends,
    DeleteVips,
    RaiseFlags,
    AttachReplies,
    ReplyDefaults,
    WriteServices,
    WriteBackends,
    TrustReplyDefaults,
    Admit,
    PublishRings,
    /// Who merely takes no new flows any more goes on doing so until its rings lead none there: the data
    /// path would refuse them.
    RefuseNew,
    PutVips,
    PutFrontends,
    ClearRings,
    ClearBackends,
    DetachReplies,
    ClearServices,
    LowerFlags,
    DeleteLocal,
}

pub(super) struct Draft<'a> {
    pub(super) kernel: &'a KernelState,
    pub(super) sight: &'a Sight,
    pub(super) now_ms: u64,
    actions: Vec<(Phase, Action)>,
    refusals: BTreeSet<Refusal>,
    /// How often something was refused.
    refused: usize,
    /// Kernel services by their hashes; of doubles, the smallest number.
    pub(super) services_by_hash: HashIndex<u32>,
    /// Service numbers that anything in the kernel has, or that this plan takes.
    pub(super) services_taken: Vec<bool>,
    /// Service numbers of services that are to be there.
    pub(super) services_wanted: Vec<bool>,
    /// Backend numbers that are to be there, old and new.
    pub(super) backends_wanted: NumberSet,
    /// State bits by number that backends of wanted services will have.
    states: Vec<u8>,
    /// When the next timer of a slot is due.
    pub(super) slots_due_ms: Option<u64>,
    /// No backend number is free.
    pub(super) is_out_of_backends: bool,
    /// Some ring waits for a resting extent.
    pub(super) waits_for_extents: bool,
    /// Backend numbers that rings refer to in whose place this plan publishes others.
    pub(super) replaced: Vec<u32>,
    /// Backends that rings go on leading to which should not: they cannot be replaced now.
    still_led: HashSet<u32>,
    /// Veths of wanted backends that have the reply program, or get it by this plan.
    pub(super) replies_wanted: HashSet<u32>,
    pub(super) rings_wanted: NumberIndexSet,
    /// Frontends that are there, and that are to be, in their order.
    pub(super) frontend_pairs: Vec<FrontendPair>,
    pub(super) is_routed_wanted: bool,
    /// Rings of datagrams not all of which are answers.
    pub(super) unasked: NumberIndexSet,
    /// Backends that clients are led to, beside those of settled services.
    pub(super) led: Vec<Led>,
    /// Veths of ports whose replies have a default after this plan.
    pub(super) reply_default_links: HashSet<u32>,
    /// Where rings can be written; looked up when the first one is.
    pub(super) free_extents: Option<FreeExtents>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(kernel: &'a KernelState, sight: &'a Sight) -> Self {
        let rev = |it: &'a BTreeMap<u32, NameHash>| it.iter().rev().map(|(it, hash)| (*hash, *it));
        let mut services_taken = vec![false; MAX_SERVICES as usize];
        let in_use = kernel.services.keys().copied();
        let in_use = in_use.chain(kernel.rings.keys().map(|ring| service_of(*ring)));
        let in_use = in_use.chain(kernel.frontends.values().copied());
        for number in in_use.chain(kernel.backends.services()) {
            if let Some(taken) = services_taken.get_mut(number as usize) {
                *taken = true;
            }
        }
        Self {
            kernel,
            sight,
            now_ms: sight.now_ms,
            actions: Vec::new(),
            refusals: BTreeSet::new(),
            refused: 0,
            services_by_hash: rev(&kernel.services).collect(),
            services_taken,
            services_wanted: vec![false; MAX_SERVICES as usize],
            backends_wanted: NumberSet::new(),
            states: vec![0; MAX_BACKENDS as usize + 1],
            slots_due_ms: None,
            is_out_of_backends: false,
            waits_for_extents: false,
            replaced: Vec::new(),
            still_led: HashSet::new(),
            replies_wanted: HashSet::new(),
            rings_wanted: NumberIndexSet::default(),
            frontend_pairs: Vec::new(),
            is_routed_wanted: false,
            unasked: NumberIndexSet::default(),
            led: Vec::new(),
            reply_default_links: HashSet::new(),
            free_extents: None,
        }
    }

    pub(super) fn push(&mut self, action: Action) {
        let phase = self.phase(&action);
        self.actions.push((phase, action));
    }

    fn phase(&self, action: &Action) -> Phase {
        match action {
            Action::SetBackendState { number, state } => {
                let held = self.kernel.backends.get(number).map_or(0, |backend| backend.state);
                match (held & !*state, *state & !held) {
                    // Who fails loses its datagrams with that, and goes at once: see `state_bits`.
                    (TAKES_NEW, 0) => Phase::RefuseNew,
                    (_, 0) => Phase::Restrict,
                    _ => Phase::Admit,
                }
            }
            Action::SetFlags { flags } if *flags & !self.kernel.flags == 0 => Phase::LowerFlags,
            Action::SetFlags { .. } => Phase::RaiseFlags,
            Action::DeleteFrontend { .. } => Phase::DeleteFrontends,
            Action::DeleteVip { .. } => Phase::DeleteVips,
            Action::AttachReply { .. } => Phase::AttachReplies,
            Action::WriteService { .. } => Phase::WriteServices,
            Action::WriteBackend { .. } => Phase::WriteBackends,
            Action::PublishRing { .. } => Phase::PublishRings,
            Action::PutVip { .. } => Phase::PutVips,
            Action::PutFrontend { .. } => Phase::PutFrontends,
            Action::ClearRing { .. } => Phase::ClearRings,
            Action::ClearBackend { .. } => Phase::ClearBackends,
            Action::SetRecordsReplies { records_replies: true, .. } => Phase::RecordReplies,
            Action::SetRecordsReplies { .. } => Phase::TrustReplyDefaults,
            // What is over goes before others lead there, whose records it would hide.
            Action::PutReplyDefault { .. } | Action::DeleteReplyDefault { .. } => {
                Phase::ReplyDefaults
            }
            Action::PutLocal { .. } => Phase::PutLocal,
            Action::DeleteLocal { .. } => Phase::DeleteLocal,
            Action::DetachReply { .. } => Phase::DetachReplies,
            Action::ClearService { .. } => Phase::ClearServices,
        }
    }

    /// Says of backends that this plan writes whether their flows are recorded; each is, unless said
    /// otherwise.
    pub(super) fn set_records_replies(&mut self, is_recorded: &HashMap<u32, bool>) {
        for (_, action) in &mut self.actions {
            if let Action::WriteBackend { number, backend } = action
                && let Some(is_recorded) = is_recorded.get(number)
            {
                backend.records_replies = *is_recorded;
            }
        }
    }

    pub(super) fn refuse(&mut self, object: String, message: String) {
        self.refused += 1;
        self.refusals.insert(Refusal { object, key: None, message });
    }

    /// Another one than before: something was planned or refused since.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.actions.len(), self.refused)
    }

    pub(super) fn is_service_wanted(&self, number: u32) -> bool {
        self.services_wanted.get(number as usize).copied().unwrap_or(false)
    }

    /// Says which state a backend will have.
    pub(super) fn set_state(&mut self, number: u32, state: u8) {
        if let Some(planned) = self.states.get_mut(number as usize) {
            *planned = state;
        }
    }

    /// Whether a backend will have none of these state bits.
    pub(super) fn is_gone(&self, number: u32, bits: u8) -> bool {
        self.states.get(number as usize).is_none_or(|state| state & bits == 0)
    }

    /// Sees to it that the slots of a ring are looked at again in time.
    pub(super) fn watch(&mut self, watch: &Watch) {
        // Late already: the ring waits for something else that has a time of its own.
        let Some(ticks) = watch.ticks_left(self.sight).filter(|ticks| *ticks > 0) else { return };
        let due_ms = self.sight.ms_after(ticks);
        self.slots_due_ms = Some(self.slots_due_ms.map_or(due_ms, |other| other.min(due_ms)));
    }

    /// Says that a ring stays as it is, although others should own its slots.
    pub(super) fn keep_ring(&mut self, ring: u32) {
        let held = self.kernel.rings.get(&ring);
        self.still_led.extend(held.iter().flat_map(|ring| &ring.slots).map(|slot| slot.cur()));
    }

    pub(super) fn finish(mut self, due_ms: Option<u64>) -> Plan {
        let still_led = &self.still_led;
        self.actions.retain(|(phase, action)| match action {
            Action::SetBackendState { number, .. } => {
                *phase != Phase::RefuseNew || !still_led.contains(number)
            }
            _ => true,
        });
        self.actions.sort_by_key(|(phase, _)| *phase);
        Plan {
            actions: self.actions.into_iter().map(|(_, action)| action).collect(),
            refusals: self.refusals.into_iter().collect(),
            due_ms,
        }
    }
}
