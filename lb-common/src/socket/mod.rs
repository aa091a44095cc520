//! What becomes of a socket call of one of this node's own clients: a container's, or the node's.
//!
//! The address in the call is translated once, and the kernel does the rest: a connection costs
//! nothing more, and the backend sees the client's own address. Rings, slots and states of backends
//! are those of the packets' [`engine`](crate::engine), and so are verdicts and reasons. As there,
//! deciding changes nothing, time does not pass and no helper is called; what the socket is to
//! remember is in the [`Decision`].

mod cookie;
#[cfg(any(feature = "std", test))]
pub mod host;
mod peers;
mod reach;
#[cfg(test)]
mod reach_tests;
#[cfg(test)]
mod tests;
mod trace;

#[cfg(any(feature = "std", test))]
pub use self::cookie::cookie_told;
pub use self::{
    cookie::tell_cookie,
    peers::{find, is_at, is_behind, is_of, place_for, sender, translate_back},
    reach::{
        ANY_GENERATION, ATTEMPTS, Membership, NO_RING, OTHER_NETWORK, SCAN, SEES_OTHER, TAKES_IT,
        TAKES_NOT, class_of, fallback, is_reached, judge, judge_entry, pick, reaches, scan, sees,
    },
    trace::{Told, caller_cookie, caller_words, describe, is_wanted},
};
use crate::{
    abi::{
        BACKEND_NONE, Client, DropReason, FRONTEND_DROPS, Frontend, NetAddr6, NetU16, ReachEntry,
        ReachKey, ReachList, SCOPE_FRONT, SCOPE_HAS_SLOTS, ServiceScope, SocketPeer,
        TAKES_OLD_DATAGRAMS, VISIBLE_TO_NOBODY, Verdict, affinity_prefix_bits,
    },
    engine::{Backend, Family, Tables},
};

/// `ECONNREFUSED`: nobody is there.
pub const REFUSED: i32 = 111;
/// `ETIMEDOUT`: what a client would hear in the end of a service that drops.
pub const TIMED_OUT: i32 = 110;
/// `EHOSTUNREACH`: there is somebody, elsewhere.
pub const UNREACHABLE: i32 = 113;

/// What the maps say beside the tables of packets.
pub trait SocketTables<A: Family>: Tables<A> + Membership {
    /// Looks up a destination, as [`Tables::frontend`] does. Where a program is verified, by a function
    /// that is verified by itself: else all ways through the look-up would be followed to the end of
    /// the call, each anew.
    #[inline(always)]
    fn destination(&self, key: &A::FrontendKey) -> Frontend {
        self.frontend(key)
    }
    /// Looks up `CLIENTS`; `None`: a namespace that nobody told us of.
    fn client(&self, cookie: u64) -> Option<&Client>;
    /// Looks up `SERVICE_SCOPES`.
    fn scope(&self, service: u32) -> Option<&ServiceScope>;
    /// Looks up `BACKEND_NETWORKS`; 0: reached by the routing table, or not known.
    fn network(&self, backend: u32) -> u64;
    /// Looks up `REACH_LISTS`.
    fn reach_list(&self, key: &ReachKey) -> Option<ReachList>;
    /// Looks up `REACH_ENTRIES`.
    fn reach_entry(&self, index: u32) -> ReachEntry;
    /// [`judge`]; where a program is verified, by a function of its own, as above.
    #[inline(always)]
    fn judge(&self, number: u32, generation: u64, class: u64) -> u32
    where
        Self: Sized,
    {
        judge(self, number, generation, class)
    }
    /// [`pick`]; likewise.
    #[inline(always)]
    fn pick(&self, ring: u32, has_slots: u32, class: u64, hash: u32) -> u64
    where
        Self: Sized,
    {
        pick(self, ring, has_slots, class, hash)
    }
    /// [`judge_entry`]; likewise.
    #[inline(always)]
    fn judge_entry(&self, index: u32, service: u32, class: u64) -> u64
    where
        Self: Sized,
    {
        judge_entry(self, index, service, class)
    }
    /// [`scan`]; likewise.
    #[inline(always)]
    fn scan(&self, start: u32, count: u32, service: u32, class: u64, hash: u32) -> u64
    where
        Self: Sized,
    {
        scan(self, start, count, service, class, hash)
    }
    /// [`fallback`]; likewise.
    #[inline(always)]
    fn fallback(&self, service: u32, class: u64, hash: u32) -> u64
    where
        Self: Sized,
    {
        fallback(self, service, class, hash)
    }
}

/// A socket call to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call<A> {
    /// The address.
    pub vip: A,
    /// The port.
    pub port: NetU16,
    /// IP protocol number.
    pub protocol: u32,
    /// Cookie of the caller's network namespace.
    pub client: u64,
    /// Which slot it falls on, unless the service wants affinity: random for a connection, the same
    /// for all datagrams of a socket.
    pub hash: u32,
    /// Seed of the hash, from `META`.
    pub hash_seed: u64,
    /// Not 0: the host leads from network to network.
    pub routes_across: u32,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<A> {
    /// `Pass`: left alone. `Deliver`, `Route`: translated. `Drop`: refused.
    pub verdict: Verdict,
    /// Why it is refused.
    pub reason: DropReason,
    /// Error number for the caller, if it is refused.
    pub errno: i32,
    /// Number of the backend, or [`BACKEND_NONE`].
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Number of the service.
    pub service: u32,
    /// What is used instead of the address.
    pub address: A,
    /// What is used instead of the port.
    pub port: NetU16,
    /// 1: the socket has to remember it, 0: it does already, or nothing is translated.
    pub is_new: u32,
}

impl<A: Family> Decision<A> {
    const PASS: Self = Self {
        verdict: Verdict::Pass,
        reason: DropReason::None,
        errno: 0,
        backend: BACKEND_NONE,
        generation: 0,
        service: 0,
        address: A::UNSPECIFIED,
        port: NetU16::new(0),
        is_new: 0,
    };

    #[inline(always)]
    const fn refused(reason: DropReason, errno: i32) -> Self {
        Self { verdict: Verdict::Drop, reason, errno, ..Self::PASS }
    }

    /// What the socket remembers of it.
    #[inline(always)]
    #[must_use]
    pub fn peer(&self, call: &Call<A>, turn: u32) -> SocketPeer {
        SocketPeer {
            vip: NetAddr6::from_raw(call.vip.words()),
            address: NetAddr6::from_raw(self.address.words()),
            vip_port: call.port,
            port: self.port,
            family: A::NUMBER,
            backend: self.backend,
            generation: self.generation,
            service: self.service,
            turn,
            seal: 0,
        }
        .sealed()
    }
}

/// Decides on a call: `connect`, or a datagram to an address. `known` is what the socket remembers of
/// that address; nothing, for `connect`.
#[inline(always)]
pub fn decide<A: Family, T: SocketTables<A>>(
    tables: &T,
    call: &Call<A>,
    known: Option<&SocketPeer>,
) -> Decision<A> {
    if !tables.may_be_vip(call.vip) {
        return Decision::PASS;
    }
    let key = A::frontend_key(call.vip, call.port, call.protocol as u8, SCOPE_FRONT);
    let frontend = tables.destination(&key);
    if !frontend.is_vip() {
        return Decision::PASS;
    }
    if !frontend.is_served() {
        // An address of the node has sockets of its own.
        if tables.is_local(call.vip) {
            return Decision::PASS;
        }
        return refused(&frontend, DropReason::NoFrontend, REFUSED);
    }
    let Some(scope) = tables.scope(frontend.service) else { return Decision::PASS };
    if scope.flags & VISIBLE_TO_NOBODY != 0 {
        return Decision::PASS;
    }
    let client = tables.client(call.client);
    if !sees(tables, scope, client) {
        return refused(&frontend, DropReason::NotVisible, UNREACHABLE);
    }
    let class = class_of(client, call.routes_across);
    if let Some(decision) = kept(tables, &frontend, class, known) {
        return decision;
    }
    choose(tables, call, &frontend, scope, class)
}

/// The backend that the socket has sent to before, as long as that takes datagrams and is reached: a
/// container may have left the network since.
#[inline(always)]
fn kept<A: Family, T: SocketTables<A>>(
    tables: &T,
    frontend: &Frontend,
    class: u64,
    known: Option<&SocketPeer>,
) -> Option<Decision<A>> {
    let known = known?;
    let backend = tables.backend(known.backend)?;
    if known.service != frontend.service
        || known.generation != backend.generation
        || backend.state & TAKES_OLD_DATAGRAMS == 0
        || !reaches(tables, class, known.backend)
    {
        return None;
    }
    let mut decision = translated(known.backend, &backend, known.port, frontend.service);
    decision.is_new = 0;
    Some(decision)
}

#[inline(always)]
fn choose<A: Family, T: SocketTables<A>>(
    tables: &T,
    call: &Call<A>,
    frontend: &Frontend,
    scope: &ServiceScope,
    class: u64,
) -> Decision<A> {
    // Who calls is the namespace: a socket has no address yet.
    let hash = match affinity_prefix_bits(frontend.flags) {
        Some(_) => client_hash(call.hash_seed, call.client),
        None => call.hash,
    };
    let picked = tables.pick(frontend.ring, scope.flags & SCOPE_HAS_SLOTS, class, hash);
    let number = picked as u32;
    if number != BACKEND_NONE
        && let Some(backend) = tables.backend(number)
    {
        return translated_for(call, number, &backend, frontend.service);
    }
    if picked == NO_RING {
        return refused(frontend, DropReason::TablesInconsistent, UNREACHABLE);
    }
    if picked & SEES_OTHER != 0 {
        return refused(frontend, DropReason::OtherNetwork, UNREACHABLE);
    }
    refused(frontend, DropReason::NoBackend, REFUSED)
}

#[inline(always)]
fn translated_for<A: Family>(
    call: &Call<A>,
    number: u32,
    backend: &Backend<A>,
    service: u32,
) -> Decision<A> {
    let port = if backend.port.raw() == 0 { call.port } else { backend.port };
    translated(number, backend, port, service)
}

#[inline(always)]
fn translated<A: Family>(
    number: u32,
    backend: &Backend<A>,
    port: NetU16,
    service: u32,
) -> Decision<A> {
    Decision {
        verdict: if backend.is_local() { Verdict::Deliver } else { Verdict::Route },
        reason: DropReason::None,
        errno: 0,
        backend: number,
        generation: backend.generation,
        service,
        address: backend.address,
        port,
        is_new: 1,
    }
}

/// A refusal; a service that drops lets its clients hear what they would hear in the end.
#[inline(always)]
fn refused<A: Family>(frontend: &Frontend, reason: DropReason, errno: i32) -> Decision<A> {
    let drops = frontend.flags & FRONTEND_DROPS != 0;
    Decision::refused(reason, if drops { TIMED_OUT } else { errno })
}

/// The hash by which all calls from one namespace go to one backend.
#[inline(always)]
#[must_use]
pub const fn client_hash(hash_seed: u64, cookie: u64) -> u32 {
    mix(hash_seed ^ cookie)
}

/// The hash by which all datagrams of one socket to one address go to one backend.
#[inline(always)]
#[must_use]
pub const fn socket_hash(hash_seed: u64, socket: u64, port: NetU16) -> u32 {
    mix(hash_seed ^ (socket << 16) ^ port.raw() as u64)
}

/// The finalizer of `MurmurHash3`.
#[inline(always)]
const fn mix(word: u64) -> u32 {
    let mut hash = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash >> 32) as u32
}
