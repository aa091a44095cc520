//! Backends as they really are, and what happens to them.

use lb_common::{
    abi::{TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS},
    rules::{Rule, is_broken},
};

use crate::random::Random;

pub(crate) const IDENTITIES: usize = 4;
pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;

/// A container, from its start to its death.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Place in the ring; `None`: a backend of another service.
    pub(crate) identity: Option<usize>,
    pub(crate) is_dead: bool,
    pub(crate) unhealthy_until: u64,
    pub(crate) drained_at: Option<u64>,
    /// Backend number and generation, once the agent has seen it.
    pub(crate) number: Option<(u32, u32)>,
}

impl Instance {
    fn new(identity: Option<usize>) -> Self {
        Self { identity, is_dead: false, unhealthy_until: 0, drained_at: None, number: None }
    }

    /// The state byte that the agent gives it.
    pub(crate) fn state(&self, now: u64) -> u8 {
        let is_healthy = self.unhealthy_until <= now;
        if self.is_dead || self.drained_at.is_some_and(|at| at <= now) {
            0
        } else if !is_healthy {
            if is_broken(Rule::UnhealthyIsNotDead) { 0 } else { TAKES_OLD }
        } else if self.drained_at.is_some() {
            TAKES_OLD | TAKES_OLD_DATAGRAMS
        } else {
            TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS
        }
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The container dies; its replacement starts so much later.
    Die {
        identity: usize,
        gap: u64,
    },
    /// A replacement starts, and the container drains.
    Replace {
        identity: usize,
        drain: u64,
    },
    Drain {
        identity: usize,
        drain: u64,
    },
    Undrain {
        identity: usize,
    },
    Reweight {
        identity: usize,
        weight: u64,
    },
    Flap {
        identity: usize,
        length: u64,
    },
    /// The agent does nothing for so long.
    Pause {
        length: u64,
    },
    /// A backend of another service comes, and the one before it goes.
    Neighbour,
}

/// A random history of so many hours, with a change in so many milliseconds.
pub(crate) fn history(seed: u64, hours: u64, pace: Option<u64>) -> Vec<(u64, Change)> {
    let mut random = Random::new(seed, 1);
    let mut changes = Vec::new();
    let mut now = 0;
    let usual = [20 * MINUTE, 8 * MINUTE, 90 * SECOND][(random.next() % 3) as usize];
    let pace = pace.unwrap_or(usual);
    while now < hours * HOUR {
        now += random.skewed(200, pace * 2);
        let in_burst = if random.percent(20) { random.between(2, 5) } else { 1 };
        for _ in 0..in_burst {
            changes.push((now, change(&mut random)));
            if random.percent(50) {
                now += random.skewed(50, 20 * SECOND);
            }
        }
    }
    changes
}

fn change(random: &mut Random) -> Change {
    let identity = random.between(0, IDENTITIES as u64) as usize;
    match random.between(0, 100) {
        0..15 => Change::Die { identity, gap: random.skewed(500, 120 * SECOND) },
        15..27 => Change::Replace { identity, drain: random.skewed(SECOND, 2 * HOUR) },
        27..42 => Change::Drain { identity, drain: random.skewed(SECOND, 4 * HOUR) },
        42..55 => Change::Undrain { identity },
        55..70 => Change::Reweight { identity, weight: random.between(0, 4) },
        70..88 => Change::Flap { identity, length: random.skewed(2 * SECOND, 400 * SECOND) },
        88..96 => Change::Pause { length: random.skewed(5 * SECOND, 300 * SECOND) },
        _ => Change::Neighbour,
    }
}

/// All backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) instances: Vec<Instance>,
    /// The instance at each place, and its weight.
    pub(crate) places: Vec<(Option<usize>, u64)>,
    neighbour: Option<usize>,
    seed: u64,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        let mut cluster = Self { seed, ..Self::default() };
        for identity in 0..IDENTITIES {
            cluster.places.push((None, 1));
            cluster.start(identity);
        }
        cluster
    }

    pub(crate) fn start(&mut self, identity: usize) {
        self.places[identity].0 = Some(self.instances.len());
        self.instances.push(Instance::new(Some(identity)));
    }

    /// Carries out a change; returns when a replacement starts.
    pub(crate) fn apply(&mut self, now: u64, change: Change) -> Option<(u64, usize)> {
        let at = |cluster: &Self, identity: usize| cluster.places[identity].0;
        match change {
            Change::Die { identity, gap } => {
                let instance = at(self, identity)?;
                self.instances[instance].is_dead = true;
                self.places[identity].0 = None;
                return Some((now + gap, identity));
            }
            Change::Replace { identity, drain } => {
                let instance = at(self, identity)?;
                self.instances[instance].drained_at.get_or_insert(now + drain);
                self.start(identity);
            }
            Change::Drain { identity, drain } => {
                let instance = at(self, identity)?;
                self.instances[instance].drained_at.get_or_insert(now + drain);
            }
            Change::Undrain { identity } => {
                let instance = at(self, identity)?;
                let drained_at = self.instances[instance].drained_at;
                if drained_at.is_some_and(|at| at <= now) {
                    // Too late: it is gone, and another takes its place.
                    self.instances[instance].is_dead = true;
                    self.start(identity);
                } else {
                    self.instances[instance].drained_at = None;
                }
            }
            Change::Reweight { identity, weight } => self.places[identity].1 = weight,
            Change::Flap { identity, length } => {
                let instance = at(self, identity)?;
                self.instances[instance].unhealthy_until = now + length;
            }
            Change::Neighbour => {
                if let Some(neighbour) = self.neighbour {
                    self.instances[neighbour].is_dead = true;
                }
                self.neighbour = Some(self.instances.len());
                self.instances.push(Instance::new(None));
            }
            Change::Pause { .. } => {}
        }
        None
    }

    /// The instance that a slot should have.
    pub(crate) fn wanted(&self, slot: u64, now: u64) -> Option<usize> {
        let candidates = self.places.iter().enumerate().filter_map(|(identity, place)| {
            let (instance, weight) = (place.0?, place.1);
            let is_new = self.instances[instance].state(now) & TAKES_NEW != 0;
            let score = Random::new(self.seed, (slot << 8) + identity as u64 + 99).next() >> 8;
            (is_new && weight > 0 && self.instances[instance].number.is_some())
                .then_some((score * weight, instance))
        });
        candidates.max().map(|(_, instance)| instance)
    }
}
