//! All targets: what is probed when, and what the results make of them. Pure; time is an argument.
//!
//! Results that belong to a previous instance, to previous settings, or to a probe that was begun
//! before the data path reported a failure, say nothing and are dropped.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, LazyLock},
};

use super::{
    outcome::Outcome,
    schedule::{Pace, Schedule, TargetNumber},
    target::{Change, Standing, Target, TargetKey},
    tracker::{Health, Rules, Tracker},
    turns::{Party, Turns},
    view::TargetGroup,
};
use crate::model::{Probe, ProbeKind, ProbePlace, ReportedHealth};

/// How a backend without a probe of its own comes back after the data path has reported a failure.
static RECOVERY: LazyLock<Arc<Probe>> = LazyLock::new(|| {
    Arc::new(Probe {
        kind: ProbeKind::Tcp { port: None },
        interval_ms: 1000,
        timeout_ms: 1000,
        initial_delay_ms: 0,
        rise: 2,
        fall: 1,
        place: ProbePlace::Node,
    })
});

/// Time after which a backend without a probe of its own is tried again although no connection to it is
/// answered, since whoever keeps this node out may let clients in. Doubles each time, so often.
const COOL_OFF_MS: u64 = 30_000;
const COOL_OFF_DOUBLINGS_MAX: u32 = 3;

/// All targets.
#[derive(Debug)]
pub struct Book {
    pace: Pace,
    schedule: Schedule,
    turns: Turns,
    targets: HashMap<TargetKey, Entry>,
    /// As they were told.
    groups: Vec<TargetGroup>,
    keys: HashMap<TargetNumber, TargetKey>,
    next_number: TargetNumber,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    number: TargetNumber,
    /// Results of probes that were begun in another epoch do not count.
    epoch: u32,
    tracker: Tracker,
    is_refusing: bool,
    /// Taken out by what the data path saw: a probe has to bring it back.
    is_suspected: bool,
    /// Since then its own probe has failed, too.
    is_confirmed: bool,
    /// When it is tried again although [`RECOVERY`] gets no answer, and how often that was done.
    cool_off_ends_ms: u64,
    cool_offs: u32,
    announced: Standing,
}

/// A probe to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// To say later whose result it is.
    pub ticket: Ticket,
    /// What is probed.
    pub target: Arc<Target>,
    /// How.
    pub probe: Arc<Probe>,
    /// How much later than due it is begun.
    pub late_ms: u64,
}

/// Whose result it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    number: TargetNumber,
    epoch: u32,
    party: Option<Party>,
}

impl Book {
    /// Knows no targets yet. `seed` decides the moments of probes.
    pub fn new(seed: u64, in_flight_max: usize) -> Self {
        Self {
            pace: Pace::new(seed),
            schedule: Schedule::new(in_flight_max),
            turns: Turns::default(),
            targets: HashMap::new(),
            groups: Vec::new(),
            keys: HashMap::new(),
            next_number: 0,
        }
    }

    /// Replaces all targets. Who is the same as before keeps its health; groups that were told before are
    /// not looked at.
    pub fn set_targets(&mut self, groups: &[TargetGroup], now_ms: u64) -> Vec<Change> {
        let ids = |groups: &[TargetGroup]| -> HashSet<*const Vec<Arc<Target>>> {
            groups.iter().map(Arc::as_ptr).collect()
        };
        // Those of before are held until the end, so that no other is where one of them was.
        let before = mem::replace(&mut self.groups, groups.to_vec());
        let (known, wanted) = (ids(&before), ids(groups));
        let new: Vec<&Arc<Target>> = groups
            .iter()
            .filter(|group| !known.contains(&Arc::as_ptr(group)))
            .flat_map(|group| group.iter())
            .collect();
        let there: HashSet<TargetKey> = new.iter().map(|target| target.key).collect();
        for group in before.iter().filter(|group| !wanted.contains(&Arc::as_ptr(group))) {
            for target in group.iter().filter(|target| !there.contains(&target.key)) {
                self.remove(target.key);
            }
        }
        new.into_iter().filter_map(|target| self.set_target(target, now_ms)).collect()
    }

    fn set_target(&mut self, target: &Arc<Target>, now_ms: u64) -> Option<Change> {
        let known = self.targets.get(&target.key);
        match known.filter(|entry| entry.target.generation == target.generation) {
            Some(entry) if Arc::ptr_eq(&entry.target, target) || entry.target == *target => None,
            Some(_) => self.update(target, now_ms),
            None => {
                self.remove(target.key);
                self.add(target, now_ms)
            }
        }
    }

    fn add(&mut self, target: &Arc<Target>, now_ms: u64) -> Option<Change> {
        let number = self.next_number;
        self.next_number += 1;
        let entry = Entry {
            target: Arc::clone(target),
            number,
            epoch: 0,
            tracker: Tracker::new(target.assumed),
            is_refusing: false,
            is_suspected: false,
            is_confirmed: false,
            cool_off_ends_ms: 0,
            cool_offs: 0,
            announced: Standing::assumed(target.assumed),
        };
        if let Some(probe) = entry.probe() {
            let due_ms = match target.assumed {
                Health::Starting => now_ms + u64::from(probe.initial_delay_ms),
                _ => self.pace.first(number, u64::from(probe.interval_ms), now_ms),
            };
            self.schedule.set(number, due_ms);
        }
        self.keys.insert(number, target.key);
        let entry = self.targets.entry(target.key).insert_entry(entry).into_mut();
        entry.follow_report(now_ms)
    }

    /// The same backend with another probe, or another report.
    fn update(&mut self, target: &Arc<Target>, now_ms: u64) -> Option<Change> {
        let entry = self.targets.get_mut(&target.key)?;
        let is_same_probe = entry.target.probe == target.probe;
        entry.target = Arc::clone(target);
        if is_same_probe {
            return entry.follow_report(now_ms);
        }
        entry.epoch = entry.epoch.wrapping_add(1);
        entry.tracker.restart();
        entry.is_refusing = false;
        if target.probe.is_none() && !entry.is_suspected {
            entry.tracker.set(Health::Healthy, now_ms);
        }
        match entry.probe() {
            Some(_) => self.schedule.set(entry.number, now_ms),
            None => self.schedule.cancel(entry.number),
        }
        if target.is_reported() {
            entry.follow_report(now_ms)
        } else {
            entry.announce("its probe is another one")
        }
    }

    fn remove(&mut self, key: TargetKey) {
        if let Some(entry) = self.targets.remove(&key) {
            self.keys.remove(&entry.number);
            self.schedule.cancel(entry.number);
        }
    }

    /// Whether this is a target.
    pub fn contains(&self, key: TargetKey) -> bool {
        self.targets.contains_key(&key)
    }

    /// When [`Self::next_job`] has something, as far as time decides.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.schedule.next_due_ms()
    }

    /// Probes under way.
    pub fn in_flight(&self) -> usize {
        self.schedule.in_flight()
    }

    /// A probe that is due. It has to be [`Self::finished`], whatever comes of it.
    pub fn next_job(&mut self, now_ms: u64) -> Option<Job> {
        while let Some((number, due_ms)) = self.schedule.take(now_ms) {
            let entry = self.keys.get(&number).and_then(|key| self.targets.get(key));
            if let Some(entry) = entry
                && let Some(probe) = entry.probe()
                && let party = Party::of(&entry.target.instance)
                && party.is_none_or(|party| self.turns.begin(party, number, due_ms))
            {
                return Some(Job {
                    ticket: Ticket { number, epoch: entry.epoch, party },
                    target: Arc::clone(&entry.target),
                    probe: Arc::clone(probe),
                    late_ms: now_ms.saturating_sub(due_ms),
                });
            }
            self.schedule.ended();
        }
        None
    }

    /// Takes in what came of a probe.
    pub fn finished(&mut self, ticket: Ticket, outcome: &Outcome, now_ms: u64) -> Option<Change> {
        self.schedule.ended();
        if let Some(party) = ticket.party {
            let waiting = self.turns.end(party).into_iter();
            for (number, due_ms) in waiting.filter(|(number, _)| self.keys.contains_key(number)) {
                self.schedule.set(number, due_ms);
            }
        }
        let key = self.keys.get(&ticket.number)?;
        let entry = self.targets.get_mut(key).filter(|entry| entry.epoch == ticket.epoch)?;
        let probe = Arc::clone(entry.probe()?);
        let rules = Rules { rise: probe.rise, fall: probe.fall };
        match outcome {
            Outcome::Inconclusive(_) => {}
            Outcome::Passed(_) => {
                entry.is_refusing = false;
                entry.tracker.take(true, rules, now_ms);
                if entry.tracker.health() == Health::Healthy {
                    entry.is_suspected = false;
                    entry.cool_offs = 0;
                }
            }
            Outcome::Failed(_) => {
                entry.is_refusing = outcome.is_refused() && is_of_traffic(&probe, &entry.target);
                entry.tracker.take(false, rules, now_ms);
                entry.is_confirmed |= entry.has_own_probe();
            }
        }
        let is_tried = entry.try_again(now_ms);
        let interval_ms = u64::from(probe.interval_ms);
        if entry.probe().is_none() {
            // It has come back, and has no probe of its own.
        } else if entry.tracker.is_in_doubt() || entry.is_suspected {
            self.schedule.set(entry.number, self.pace.in_doubt(entry.number, interval_ms, now_ms));
        } else {
            self.schedule.set(entry.number, self.pace.settled(entry.number, interval_ms, now_ms));
        }
        let report = entry.follow_report(now_ms);
        let cause =
            if is_tried { "nobody answers this node; clients may try" } else { outcome.text() };
        report.or_else(|| entry.announce(cause))
    }

    /// What a case about a backend needs, if what the data path sees of it counts: it is watched, it is
    /// not known to fail, and its traffic goes to one port.
    pub fn inquiry(&self, key: TargetKey) -> Option<Job> {
        let entry = self.targets.get(&key)?;
        let Entry { target, number, epoch, .. } = entry;
        let is_open = target.is_watched
            && target.address.port() != 0
            && entry.tracker.health() == Health::Healthy;
        is_open.then(|| Job {
            ticket: Ticket { number: *number, epoch: *epoch, party: None },
            target: Arc::clone(target),
            probe: Arc::clone(&RECOVERY),
            late_ms: 0,
        })
    }

    /// A backend and all others that are the same address, in other services: what is true of one is
    /// true of all. Those that are not watched are left out.
    pub fn alike(&self, target: &Target) -> Vec<TargetKey> {
        let is_alike = |entry: &&Entry| {
            entry.target.is_watched
                && entry.target.address == target.address
                && entry.target.instance == target.instance
        };
        self.targets.values().filter(is_alike).map(|entry| entry.target.key).collect()
    }

    /// The data path has seen a backend fail beyond doubt: out at once, and back by its probe. One that
    /// is out already, or not yet in, is left alone.
    pub fn report_failure(
        &mut self,
        key: TargetKey,
        is_refusing: bool,
        text: &str,
        now_ms: u64,
    ) -> Option<Change> {
        let entry = self.targets.get_mut(&key)?;
        if entry.tracker.health() != Health::Healthy {
            return None;
        }
        entry.epoch = entry.epoch.wrapping_add(1);
        entry.is_refusing = is_refusing;
        entry.is_suspected = true;
        entry.is_confirmed = false;
        let doublings = entry.cool_offs.min(COOL_OFF_DOUBLINGS_MAX);
        entry.cool_off_ends_ms = now_ms + (COOL_OFF_MS << doublings);
        entry.tracker.set(Health::Unhealthy, now_ms);
        self.schedule.set(entry.number, now_ms);
        entry.announce(text)
    }
}

impl Entry {
    /// How it is probed now.
    fn probe(&self) -> Option<&Arc<Probe>> {
        match &self.target.probe {
            Some(probe) if self.has_own_probe() => Some(probe),
            _ => self.is_suspected.then(|| &*RECOVERY),
        }
    }

    /// Whether it is probed by this node at all times.
    fn has_own_probe(&self) -> bool {
        self.target.probe.as_ref().is_some_and(|probe| probe.kind != ProbeKind::Docker)
    }

    /// Lets clients try who is out for long and has nothing but [`RECOVERY`], unless that is refused.
    fn try_again(&mut self, now_ms: u64) -> bool {
        let is_due = self.is_suspected
            && !self.has_own_probe()
            && !self.is_refusing
            && self.cool_off_ends_ms <= now_ms;
        if is_due {
            self.is_suspected = false;
            self.cool_offs += 1;
            self.tracker.set(Health::Healthy, now_ms);
        }
        is_due
    }

    /// Takes over what the provider says, where that counts.
    fn follow_report(&mut self, now_ms: u64) -> Option<Change> {
        if !self.target.is_reported() || self.is_suspected {
            return None;
        }
        // Docker may say so as well of one that runs on, when its daemon was started anew and has not
        // checked it yet (`initHealthMonitor` in moby's `daemon/health.go`).
        let is_judged = self.tracker.health() != Health::Starting;
        if is_judged && self.target.reported == Some(ReportedHealth::Starting) {
            return None;
        }
        let (health, text) = match self.target.reported {
            Some(ReportedHealth::Starting) => (Health::Starting, "Docker says: starting"),
            Some(ReportedHealth::Healthy) => (Health::Healthy, "Docker says: healthy"),
            Some(ReportedHealth::Unhealthy) => (Health::Unhealthy, "Docker says: unhealthy"),
            None => (
                Health::Healthy,
                "is to be probed by its HEALTHCHECK and has none, so it counts as healthy; give \
                 its image one, or choose another probe",
            ),
        };
        self.tracker.set(health, now_ms);
        self.announce(text)
    }

    fn announce(&mut self, cause: &str) -> Option<Change> {
        let health = self.tracker.health();
        let standing = Standing {
            health,
            was_healthy: self.tracker.was_healthy(),
            is_refusing: self.is_refusing && health == Health::Unhealthy,
            is_observed: self.is_suspected && !self.is_confirmed && health == Health::Unhealthy,
        };
        if standing == self.announced {
            return None;
        }
        let has_fallen = self.announced.health == Health::Healthy && health == Health::Unhealthy;
        self.announced = standing;
        let Target { key, generation, .. } = *self.target;
        Some(Change { key, generation, standing, has_fallen, cause: cause.to_owned() })
    }
}

/// Whether the probe goes where traffic goes.
fn is_of_traffic(probe: &Probe, target: &Target) -> bool {
    let port = match &probe.kind {
        ProbeKind::Tcp { port } => *port,
        ProbeKind::Http(http) | ProbeKind::Https(http) => http.port,
        ProbeKind::Command { .. } | ProbeKind::Docker => return false,
    };
    port.is_none_or(|port| port == target.address.port())
}

#[cfg(test)]
mod tests;
