//! What is known of the containers, and what follows from each thing that is seen. No I/O, no time.
//!
//! The rules:
//! - A container that has claims keeps them until the kernel says that its process is over, or a
//!   look at it that succeeded found other ones. Docker's word alone removes nothing.
//! - What a container claims is told when every container that the first listing named has been
//!   looked at, so that a start of the agent never seems to remove what it has not seen yet. A
//!   container that cannot be looked at holds that up for a few attempts only; as long as one is
//!   not known, or Docker has listed nothing at all, the claims say that they are partial.
//! - What was not found out is tried again, and said.

mod container;
mod endings;
mod places;
mod runs;
mod signals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ClaimsOf, PROVIDER,
    endings::AskedToEnd,
    engine::{Event, Summary, What},
    host::Process,
    instance,
    look::{Condition, Look},
    places::FormerNames,
    report::{Trouble, claims_of_refused},
};
use crate::{labels, model::Claims, provider::ProviderEvent};
use endings::Endings;
use places::Places;
use runs::gone;
use signals::{Heard, Signals};

/// Most containers that are looked at; of more, the oldest.
pub(super) const CONTAINERS_MAX: usize = 4096;
/// Failed looks at one container after which the others no longer wait for it.
const PATIENCE_LOOKS: u32 = 3;
/// Listings that must agree before a node counts as empty at the start.
const EMPTY_LISTINGS: u32 = 2;

/// What is to be done.
pub(super) enum Effect<P> {
    /// Tell the runtime.
    Send(ProviderEvent),
    /// Look at the container with this id.
    Look(String),
    /// Tell the runtime that a container is about to start, which was connected to this network just
    /// now.
    Expect(String),
    /// Say when the process of this run of a container is over.
    Watch {
        /// The container's id.
        id: String,
        /// The run.
        instance: String,
        /// Its main process.
        process: Arc<P>,
    },
    /// Keep these names of renamed containers and no others.
    Keep(FormerNames),
    /// Keep that these runs were asked to end, and no others.
    KeepAsked(AskedToEnd),
    /// List soon: something has changed.
    ListSoon,
    /// List again, later with every time: something did not work.
    ListAgain,
}

/// What is known of one container.
struct Container<P> {
    name: String,
    summary: Option<Summary>,
    run: Option<Run<P>>,
    look: LookState,
    failure: Option<Failure>,
    /// Number of the listing that was the latest when the container became known.
    known_since: u64,
    /// The latest listing did not have it, though its process lives.
    unlisted: bool,
    /// Signals that were sent to it.
    signals: Signals,
}

/// A run of a container, from one start to its end.
struct Run<P> {
    instance: String,
    process: Arc<P>,
    claims: Claims,
    /// `None`: it cannot be served.
    condition: Option<Condition>,
}

/// How much is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No listing has been taken in.
    Unlisted,
    /// Not every container of the first listing has been looked at.
    Listed,
    /// Claims are told.
    Settled,
}

/// How much of what runs has been seen at least once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Coverage {
    /// No listing has named any container.
    Nothing,
    /// One has, whether or not it is one of ours: Docker has loaded them.
    Listed,
    /// All that listings named were known at one moment.
    Complete,
}

/// At most one look at a container is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LookState {
    Idle,
    UnderWay {
        /// Something happened meanwhile: look again.
        again: bool,
    },
}

/// Looks that found nothing out.
struct Failure {
    attempts: u32,
    text: String,
}

/// What is known of all containers.
pub(super) struct State<P> {
    source: String,
    claims_of: ClaimsOf,
    containers: BTreeMap<String, Container<P>>,
    heard: Heard,
    /// Number of the connection that tells what happens.
    connection: u64,
    places: Places,
    endings: Endings,
    /// Containers that concern us and do not run, as far as they were heard of: the next news of them is
    /// that they are connected to a network.
    made: BTreeSet<String>,
    /// Runs that a predecessor followed, and of which nothing is known yet.
    inherited: BTreeSet<String>,
    effects: Vec<Effect<P>>,
    /// Number of the listing that was started last.
    listing: u64,
    empty_listings: u32,
    coverage: Coverage,
    phase: Phase,
    changed: bool,
    told_partial: bool,
    disconnected: Option<String>,
    listing_failure: Option<String>,
    too_many: usize,
    /// Whether any status has been told, and the trouble in it.
    told_status: bool,
    told_trouble: Option<String>,
}

impl<P: Process> State<P> {
    /// Knows nothing yet. `source` names the daemon in messages.
    pub(super) fn new(source: String, claims_of: ClaimsOf) -> Self {
        Self {
            source,
            claims_of,
            containers: BTreeMap::new(),
            heard: Heard::default(),
            connection: 0,
            places: Places::default(),
            endings: Endings::default(),
            made: BTreeSet::new(),
            inherited: BTreeSet::new(),
            effects: Vec::new(),
            listing: 0,
            empty_listings: 0,
            coverage: Coverage::Nothing,
            phase: Phase::Unlisted,
            changed: true,
            told_partial: false,
            disconnected: None,
            listing_failure: None,
            too_many: 0,
            told_status: false,
            told_trouble: None,
        }
    }

    /// A predecessor followed this run of a container, and its claims are in force.
    pub(super) fn inherit(&mut self, instance: String) {
        self.inherited.insert(instance);
    }

    /// Docker answers and tells what happens.
    pub(super) fn connected(&mut self) {
        if self.disconnected.take().is_some() {
            tracing::info!(source = self.source, "connected to Docker again");
        }
        self.past_begins();
        self.effects.push(Effect::ListSoon);
    }

    /// Docker does not answer, or no longer tells what happens.
    pub(super) fn disconnected(&mut self, reason: String) {
        self.disconnected = Some(reason);
    }

    /// Something happened to a container: look at it, and at all of them afterwards.
    pub(super) fn happened(&mut self, event: &Event) {
        let known = self.containers.contains_key(&event.container);
        let is_ours = self.claims_of.looks_at_all() || event.labelled.unwrap_or(known);
        if let What::Connected(network) = &event.what
            && (is_ours || self.made.contains(&event.container))
        {
            self.effects.push(Effect::Expect(network.clone()));
        }
        if !is_ours {
            return;
        }
        if matches!(event.what, What::Made | What::Died) {
            self.may_start(&event.container);
        }
        if event.what == What::Made {
            return;
        }
        if !known && self.containers.len() < CONTAINERS_MAX {
            let name = event.container.get(..12).unwrap_or(&event.container).to_owned();
            self.containers.insert(event.container.clone(), Container::new(name, self.listing));
        }
        match &event.what {
            What::Signalled(signalled) => {
                self.signalled(&event.container, *signalled);
                // What is known stays as it is; of what is not, the look has to find it out.
                if known {
                    return;
                }
            }
            What::Died => self.died(&event.container),
            What::Made | What::Connected(_) | What::Changed => {}
        }
        self.want_look(&event.container);
        self.effects.push(Effect::ListSoon);
    }

    fn may_start(&mut self, id: &str) {
        // Who is forgotten starts a little later.
        if self.made.len() >= CONTAINERS_MAX {
            self.made.clear();
        }
        self.made.insert(id.to_owned());
    }

    /// A listing is about to be asked for.
    pub(super) fn listing_started(&mut self) {
        self.listing += 1;
    }

    /// The listing that was started last did not work.
    pub(super) fn listing_failed(&mut self, reason: String) {
        self.listing_failure = Some(reason);
        self.effects.push(Effect::ListAgain);
    }

    /// Takes in the listing that was started last. `everything`: look at all of them, not only at
    /// those that changed.
    pub(super) fn listed(&mut self, summaries: Vec<Summary>, everything: bool) {
        self.listing_failure = None;
        if !summaries.is_empty() {
            self.coverage = self.coverage.max(Coverage::Listed);
        }
        let ours = self.choose(summaries);
        if ours.is_empty() && self.phase != Phase::Settled {
            self.empty_listings += 1;
            if self.empty_listings < EMPTY_LISTINGS {
                self.effects.push(Effect::ListAgain);
                return;
            }
        }
        if self.phase == Phase::Unlisted {
            self.phase = Phase::Listed;
        }
        let ids: BTreeSet<String> = ours.iter().map(|summary| summary.id.clone()).collect();
        for summary in ours {
            self.take_in(summary, everything);
        }
        self.take_in_absence(&ids);
        self.settle();
    }

    /// A look at a container has come to an end.
    pub(super) fn looked(&mut self, id: &str, look: Look<P>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let again = container.look == LookState::UnderWay { again: true };
        container.look = LookState::Idle;
        if again {
            self.want_look(id);
        }
        match look {
            Look::Running(mut facts, condition, process) if process.is_alive() => {
                let instance = instance(id, facts.started_at_ms);
                facts.former_name = self.former_name(id, &instance, &facts.name);
                let mut claims = self.claims_of.claims(&facts);
                let backends = claims.claims.iter_mut().filter_map(|it| it.backend.as_mut());
                backends.for_each(|backend| backend.reported = condition.health);
                let run = Run { instance, process, claims, condition: Some(condition) };
                self.runs(id, facts.name, run);
            }
            Look::Refused(refused, process) if process.is_alive() => {
                let claims = claims_of_refused(&refused);
                let instance = instance(id, refused.started_at_ms);
                self.former_name(id, &instance, &refused.name);
                let run = Run { instance, process, claims, condition: None };
                self.runs(id, refused.name, run);
            }
            Look::Running(..) | Look::Refused(..) | Look::Absent => self.is_absent(id),
            Look::Failed(text) => self.failed(id, text),
        }
        self.settle();
    }

    /// The process of this run of a container is over.
    pub(super) fn ended(&mut self, id: &str, ended: &str) {
        if self.containers.get(id).is_some_and(|container| container.is_run(ended)) {
            self.remove_run(id);
            self.effects.push(Effect::ListSoon);
        } else if self.inherited.remove(ended) {
            self.endings.set(ended, None);
            self.effects.push(gone(ended));
            self.effects.push(Effect::ListSoon);
        }
    }

    /// What is to be done, in this order. Claims come last, and only when they are new.
    pub(super) fn take_effects(&mut self) -> Vec<Effect<P>> {
        let mut effects = std::mem::take(&mut self.effects);
        effects.extend(self.places.take_changed().map(Effect::Keep));
        effects.extend(self.endings.take_changed().map(Effect::KeepAsked));
        let settled = self.phase == Phase::Settled;
        let is_partial = self.is_partial();
        if settled && (self.changed || is_partial != self.told_partial) {
            self.changed = false;
            self.told_partial = is_partial;
            let mut all = Claims { is_partial, ..Claims::default() };
            for run in self.containers.values().filter_map(|container| container.run.as_ref()) {
                all.claims.extend_from_slice(&run.claims.claims);
                all.refusals.extend_from_slice(&run.claims.refusals);
            }
            effects.push(Effect::Send(ProviderEvent::Claims { provider: PROVIDER, claims: all }));
        }
        let trouble = self.trouble();
        // That all is well is news, too, once it is known.
        if trouble != self.told_trouble || (settled && !self.told_status) {
            self.told_status = true;
            self.told_trouble.clone_from(&trouble);
            effects.push(Effect::Send(ProviderEvent::Status { provider: PROVIDER, trouble }));
        }
        effects
    }

    /// Whether everything that was tried last worked.
    pub(super) fn is_well(&self) -> bool {
        self.phase == Phase::Settled
            && self.listing_failure.is_none()
            && self.containers.values().all(|container| container.failure.is_none())
    }

    /// The labelled ones, as many as are allowed: those that run, then the oldest.
    fn choose(&mut self, summaries: Vec<Summary>) -> Vec<Summary> {
        let mut ours: Vec<Summary> = summaries
            .into_iter()
            .filter(|summary| {
                self.claims_of.looks_at_all() || labels::may_want_balancing(&summary.labels)
            })
            .collect();
        ours.sort_by_cached_key(|summary| {
            let runs = self.containers.get(&summary.id).is_some_and(|known| known.run.is_some());
            (!runs, summary.created_at_seconds, summary.id.clone())
        });
        ours.dedup_by(|this, other| this.id == other.id);
        self.too_many = ours.len().saturating_sub(CONTAINERS_MAX);
        ours.truncate(CONTAINERS_MAX);
        ours
    }

    fn take_in(&mut self, summary: Summary, everything: bool) {
        let id = summary.id.clone();
        let listing = self.listing;
        let container = self
            .containers
            .entry(id.clone())
            .or_insert_with(|| Container::new(summary.name.clone(), listing));
        // They are as long as a user wants, and never change.
        let summary = Summary { labels: BTreeMap::new(), ..summary };
        let changed = container.summary.as_ref() != Some(&summary);
        container.unlisted = false;
        container.summary = Some(summary);
        if everything || changed || container.run.is_none() || container.failure.is_some() {
            self.want_look(&id);
        }
    }

    /// What to do about containers that the listing does not have: believe the kernel.
    fn take_in_absence(&mut self, listed: &BTreeSet<String>) {
        let mut over = Vec::new();
        for (id, container) in &mut self.containers {
            // A container that became known after the listing was asked for need not be in it.
            if listed.contains(id) || container.known_since >= self.listing {
                continue;
            }
            match &container.run {
                Some(run) if run.process.is_alive() => container.unlisted = true,
                None if container.look != LookState::Idle => {}
                _ => over.push(id.clone()),
            }
        }
        for id in over {
            self.remove_run(&id);
        }
    }

    fn want_look(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match &mut container.look {
            LookState::UnderWay { again } => *again = true,
            LookState::Idle => {
                container.look = LookState::UnderWay { again: false };
                self.effects.push(Effect::Look(id.to_owned()));
            }
        }
    }

    fn settle(&mut self) {
        let is_waited_for = |container: &Container<P>| {
            let attempts = container.failure.as_ref().map_or(0, |failure| failure.attempts);
            let looking = container.look != LookState::Idle || attempts > 0;
            container.run.is_none() && looking && attempts < PATIENCE_LOOKS
        };
        if self.phase == Phase::Listed && !self.containers.values().any(is_waited_for) {
            self.phase = Phase::Settled;
        }
        // From then on a container that nothing is known of yet is a new one.
        let is_pending = |container: &Container<P>| {
            container.run.is_none()
                && (container.look != LookState::Idle || container.failure.is_some())
        };
        if self.coverage == Coverage::Listed && !self.containers.values().any(is_pending) {
            self.coverage = Coverage::Complete;
            self.forget_places();
            self.forget_endings();
        }
    }

    /// Whether containers may live that are not claimed for want of knowledge. Empty listings are
    /// no knowledge: a daemon that has not loaded its containers gives them, too.
    fn is_partial(&self) -> bool {
        let is_unknown = self.containers.values().any(Container::is_unknown);
        self.coverage != Coverage::Complete || self.too_many > 0 || is_unknown
    }

    fn trouble(&self) -> Option<String> {
        let names = |filter: &dyn Fn(&Container<P>) -> bool| {
            let chosen = self.containers.values().filter(|known| filter(known));
            chosen.map(|known| known.name.clone()).collect()
        };
        let failure = self.containers.values().find_map(Container::lasting_failure);
        Trouble {
            unanswered: self.disconnected.clone().or_else(|| self.listing_failure.clone()),
            running: self.containers.values().filter(|known| known.run.is_some()).count(),
            unlisted: names(&|known| known.unlisted),
            failing: names(&|known| known.lasting_failure().is_some()),
            failure: failure.map(|failure| failure.text.clone()),
            unknown: self.containers.values().filter(|known| known.is_unknown()).count(),
            left_out: self.too_many,
        }
        .describe(&self.source)
    }
}
