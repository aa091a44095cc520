//! Whom a client sees and reaches, and where it is led when no slot that was tried takes its call.

use super::SocketTables;
use crate::{
    abi::{
        BACKEND_NONE, CLASS_ALL, CLIENT_NODE, Client, RINGS_PER_SERVICE, ReachKey, ReachList,
        RingDescriptor, SCOPE_NETWORKS, SCOPE_SECOND_HALF, ServiceScope, Slot, TAKES_NEW,
        VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS, VISIBLE_TO_NODE,
    },
    engine::Family,
};

/// Slots that are looked at for a backend that takes the call. The first nearly always does; the others
/// are for the moments before slots follow a death. Whoever finds none in them goes through the list of
/// all members, see [`fallback`].
pub const ATTEMPTS: u32 = 8;

/// Half the golden ratio of a word: steps of it spread evenly over the ring.
const STEP: u32 = 0x9e37_79b9;

/// Members that are looked at, of those that are preferred and of the others each: as long as there are
/// no more, one that takes the call is found whenever there is one.
pub const SCAN: u32 = 64;

/// Which classes of clients are on which networks.
pub trait Membership {
    /// Looks up `CLASS_NETWORKS`.
    fn is_on(&self, class: u64, network: u64) -> bool;
}

/// Whether a service is there for a client. A namespace that nobody told us of is a container's of
/// which no network is known.
#[inline(always)]
#[must_use]
pub fn sees(networks: &impl Membership, scope: &ServiceScope, client: Option<&Client>) -> bool {
    let Some(client) = client else { return scope.flags & VISIBLE_TO_CONTAINERS != 0 };
    if client.kind == CLIENT_NODE {
        return scope.flags & VISIBLE_TO_NODE != 0;
    }
    scope.flags & VISIBLE_TO_CONTAINERS != 0
        || (scope.flags & VISIBLE_TO_NETWORKS != 0 && shares_network(networks, scope, client))
}

#[inline(always)]
fn shares_network(networks: &impl Membership, scope: &ServiceScope, client: &Client) -> bool {
    let half = &scope.networks[usize::from(scope.flags & SCOPE_SECOND_HALF != 0)];
    let mut index = 0;
    while index < SCOPE_NETWORKS {
        if half[index] != 0 && networks.is_on(client.class, half[index]) {
            return true;
        }
        index += 1;
    }
    false
}

/// The class of whoever calls. Docker keeps its networks apart by dropping what goes from one to the
/// other; the node itself is on all of them.
#[inline(always)]
#[must_use]
pub const fn class_of(client: Option<&Client>, routes_across: u32) -> u64 {
    match client {
        Some(client) if client.kind != CLIENT_NODE && routes_across == 0 => client.class,
        _ => CLASS_ALL,
    }
}

/// The backend does not take the call.
pub const TAKES_NOT: u32 = 0;
/// It does.
pub const TAKES_IT: u32 = 1;
/// It would, and is not reached.
pub const OTHER_NETWORK: u32 = 2;

/// For [`judge`]: of whatever generation.
pub const ANY_GENERATION: u64 = 1 << 32;

/// What becomes of a call of a class of clients that falls on a backend of this generation.
#[inline(always)]
#[must_use]
pub fn judge<A: Family>(
    tables: &impl SocketTables<A>,
    number: u32,
    generation: u64,
    class: u64,
) -> u32 {
    if number == BACKEND_NONE {
        return TAKES_NOT;
    }
    let Some(backend) = tables.backend(number) else { return TAKES_NOT };
    let is_it = generation == ANY_GENERATION || generation == u64::from(backend.generation);
    if !is_it || backend.state & TAKES_NEW == 0 {
        return TAKES_NOT;
    }
    if reaches(tables, class, number) { TAKES_IT } else { OTHER_NETWORK }
}

/// Whether a class of clients is on the network of a backend.
#[inline(always)]
#[must_use]
pub fn reaches<A: Family>(tables: &impl SocketTables<A>, class: u64, number: u32) -> bool {
    is_reached(tables, class, tables.network(number))
}

/// Whether a class of clients is on a network; 0 is reached by the routing table, from everywhere.
#[inline(always)]
#[must_use]
pub fn is_reached(networks: &impl Membership, class: u64, network: u64) -> bool {
    network == 0 || class == CLASS_ALL || networks.is_on(class, network)
}

/// The same for an entry of a list. Returns what [`pick`] does.
#[inline(always)]
#[must_use]
pub fn judge_entry<A: Family>(
    tables: &impl SocketTables<A>,
    index: u32,
    service: u32,
    class: u64,
) -> u64 {
    let (number, generation) = tables.reach_entry(index).backend(service, A::NUMBER);
    match tables.judge(number, u64::from(generation), class) {
        TAKES_IT => u64::from(number),
        OTHER_NETWORK => SEES_OTHER,
        _ => 0,
    }
}

/// The list of a class.
#[inline(always)]
fn list_of<A: Family>(
    tables: &impl SocketTables<A>,
    service: u32,
    family: u32,
    class: u64,
) -> Option<ReachList> {
    tables.reach_list(&ReachKey { class, service, family })
}

/// What a class reaches of a service; where nothing of its own is said, what all do.
#[inline(always)]
fn list_for<A: Family>(
    tables: &impl SocketTables<A>,
    service: u32,
    family: u32,
    class: u64,
) -> ReachList {
    if class != CLASS_ALL
        && let Some(list) = list_of(tables, service, family, class)
    {
        return list;
    }
    list_of(tables, service, family, CLASS_ALL).unwrap_or_default()
}

/// A number below `count`, as evenly as the hash is.
#[inline(always)]
const fn scaled(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

/// [`pick`]: none, since what takes calls is not reached.
pub const SEES_OTHER: u64 = 1 << 32;
/// [`pick`]: the ring is not in the tables.
pub const NO_RING: u64 = 1 << 63;

/// Looks for a backend that takes a call which falls on a hash. Returns its number, or else 0,
/// [`SEES_OTHER`] or [`NO_RING`].
#[inline(always)]
#[must_use]
pub fn pick<A: Family>(
    tables: &impl SocketTables<A>,
    ring_number: u32,
    has_slots: u32,
    class: u64,
    hash: u32,
) -> u64 {
    let Some(ring) = tables.ring(ring_number) else { return NO_RING };
    let service = ring_number / RINGS_PER_SERVICE;
    let own = if has_slots != 0 {
        list_for(tables, service, A::NUMBER, class)
    } else {
        ReachList::default()
    };
    let mut sees_other = 0;
    if own.slots != 0 {
        let mut at = hash;
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            let index = own.start.wrapping_add(scaled(at, own.slots));
            let judged = tables.judge_entry(index, service, class);
            if judged as u32 != BACKEND_NONE {
                return judged;
            }
            at = at.wrapping_add(STEP);
            attempt += 1;
        }
        // Those that are preferred, and the others that are reached, before what is next for everybody.
        let judged = tables.fallback(service, class, hash);
        if judged as u32 != BACKEND_NONE {
            return judged;
        }
        sees_other = judged;
    }
    // The list may be older than those that serve; the ring never is for long.
    let mut at = hash;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let number = owner_of(tables, ring, at);
        match tables.judge(number, ANY_GENERATION, class) {
            TAKES_IT => return u64::from(number),
            OTHER_NETWORK => sees_other |= SEES_OTHER,
            _ => {}
        }
        at = at.wrapping_add(STEP);
        attempt += 1;
    }
    if own.slots != 0 {
        return sees_other;
    }
    sees_other | tables.fallback(service, class, hash)
}

/// Whose the slot of a ring is that a hash falls on.
#[inline(always)]
fn owner_of<A: Family>(tables: &impl SocketTables<A>, ring: RingDescriptor, hash: u32) -> u32 {
    if ring.size() == 0 {
        return BACKEND_NONE;
    }
    let slot = tables.slot(ring.slot_index(hash)).unwrap_or(Slot::plain(BACKEND_NONE));
    // Else the compiler takes a register that holds something else for the number of none, and the
    // verifier refuses to reckon with that.
    Slot::from_raw(core::hint::black_box(slot.raw())).cur()
}

/// Goes through the members of a service for one that takes the call and is reached, those that are
/// preferred first: the members that the class has of its own, and then, as those may be older, all.
/// Returns what [`pick`] does.
#[inline(always)]
#[must_use]
pub fn fallback<A: Family>(
    tables: &impl SocketTables<A>,
    service: u32,
    class: u64,
    hash: u32,
) -> u64 {
    let mut sees_other = 0;
    if class != CLASS_ALL
        && let Some(list) = list_of(tables, service, A::NUMBER, class)
    {
        let judged = members(tables, &list, service, class, hash);
        if judged as u32 != BACKEND_NONE {
            return judged;
        }
        sees_other = judged;
    }
    let list = list_of(tables, service, A::NUMBER, CLASS_ALL).unwrap_or_default();
    sees_other | members(tables, &list, service, class, hash)
}

/// The same for one list.
#[inline(always)]
fn members<A: Family>(
    tables: &impl SocketTables<A>,
    list: &ReachList,
    service: u32,
    class: u64,
    hash: u32,
) -> u64 {
    let near_at = list.start.wrapping_add(list.slots);
    let near = tables.scan(near_at, list.near, service, class, hash);
    if near as u32 != BACKEND_NONE {
        return near;
    }
    near | tables.scan(near_at.wrapping_add(list.near), list.far, service, class, hash)
}

/// Goes through a part of a list, from a place that the hash says. Returns what [`pick`] does.
#[inline(always)]
#[must_use]
pub fn scan<A: Family>(
    tables: &impl SocketTables<A>,
    start: u32,
    count: u32,
    service: u32,
    class: u64,
    hash: u32,
) -> u64 {
    let first = scaled(hash, count);
    let mut sees_other = 0;
    let mut attempt = 0;
    // Nothing but the number of the attempt goes from one to the next: for the kernel's verifier all ways
    // through the loop meet here.
    while attempt < SCAN && attempt < count {
        let at = u64::from(first) + u64::from(attempt);
        // Behind the end it goes on at the beginning, without another way through the loop.
        let is_before = at.wrapping_sub(u64::from(count)) >> 63;
        let at = (at - u64::from(count) * (1 - is_before)) as u32;
        let judged = tables.judge_entry(start.wrapping_add(at), service, class);
        if judged as u32 != BACKEND_NONE {
            return judged;
        }
        sees_other |= judged;
        attempt += 1;
    }
    sees_other
}
