//! The frontends of every ring, now and after a plan, and which of them is its first: the one whose flows
//! need no record.

use std::{net::SocketAddr, ops::Range};

use super::{
    draft::Draft,
    hash::NumberIndex,
    policy::{FrontendEntry, FrontendPair},
    ring_of,
};
use crate::model::FrontendAddress;

/// A frontend that leads to a ring, now or after this plan.
#[derive(Clone, Copy, Debug)]
struct Front {
    ring: u32,
    frontend: FrontendAddress,
    is_wanted: bool,
    /// Its flows are not recorded now.
    is_trusted: bool,
}

/// All of them, by their rings.
#[derive(Debug)]
pub(super) struct AllFronts {
    all: Vec<Front>,
    rings: NumberIndex<OfRing>,
}

#[derive(Debug)]
struct OfRing {
    range: Range<usize>,
    first: Option<FrontendAddress>,
}

/// The frontends of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fronts<'a> {
    all: &'a [Front],
    /// The one whose flows need not be recorded.
    pub(super) first: Option<FrontendAddress>,
}

impl AllFronts {
    /// Those of the kernel and those of the plan.
    pub(super) fn new(draft: &Draft<'_>) -> Self {
        let fronts_of = |pair: &FrontendPair| {
            let ring = |entry: FrontendEntry| ring_of(entry.service, &pair.frontend);
            let (held, wanted) = (pair.held.map(ring), pair.wanted.map(ring));
            let front = |ring| Front {
                ring,
                frontend: pair.frontend,
                is_wanted: wanted == Some(ring),
                is_trusted: held == Some(ring) && !pair.is_recorded,
            };
            let other = wanted.filter(|_| held != wanted);
            [held.map(front), other.map(front)].into_iter().flatten()
        };
        let mut all: Vec<Front> = draft.frontend_pairs.iter().flat_map(fronts_of).collect();
        all.sort_unstable_by_key(|front| (front.ring, front.frontend));
        let mut begin = 0;
        let rings = all.chunk_by(|left, right| left.ring == right.ring).map(|them| {
            let range = begin..begin + them.len();
            begin = range.end;
            let ring = them[0].ring;
            let first = first_of(them, !draft.unasked.contains(&ring));
            (ring, OfRing { range, first })
        });
        let rings = rings.collect();
        Self { all, rings }
    }

    /// Those of a ring, if it has any.
    pub(super) fn of(&self, ring: u32) -> Option<Fronts<'_>> {
        let OfRing { range, first } = self.rings.get(&ring)?;
        Some(Fronts { all: self.all.get(range.clone())?, first: *first })
    }
}

impl Fronts<'_> {
    /// Flows of a frontend that is not the first are not recorded yet.
    pub(super) fn is_unsettled(&self) -> bool {
        self.all.iter().any(|front| front.is_trusted && Some(front.frontend) != self.first)
    }

    /// Whether one of them is served there.
    pub(super) fn has(&self, vip: SocketAddr) -> bool {
        self.all.iter().any(|front| address_of(&front.frontend) == vip)
    }

    /// Whether one of them is served elsewhere.
    pub(super) fn has_other_than(&self, vip: SocketAddr) -> bool {
        self.all.iter().any(|front| address_of(&front.frontend) != vip)
    }
}

/// Chooses the first frontend. Nobody takes the place of one that the kernel still has.
fn first_of(fronts: &[Front], may_have_defaults: bool) -> Option<FrontendAddress> {
    let may =
        |front: &&Front| may_have_defaults && front.is_wanted && has_one_port(&front.frontend);
    let held = fronts.iter().filter(may).find(|front| front.is_trusted);
    let is_new = || !fronts.iter().any(|front| front.is_trusted);
    let new = || fronts.iter().find(may).filter(|_| is_new());
    held.or_else(new).map(|front| front.frontend)
}

/// A frontend of several ports leads the same flow of a client there in several ways.
fn has_one_port(frontend: &FrontendAddress) -> bool {
    !frontend.ports.is_wide()
}

/// Where clients connect.
pub(super) fn address_of(frontend: &FrontendAddress) -> SocketAddr {
    SocketAddr::new(frontend.vip, frontend.ports.first())
}
