//! What becomes of a socket call of one of this node's own clients: a container's, or the node's.
//!
//! The address in the call is translated once, and the kernel does the rest: a connection costs
//! nothing more, and the backend sees the client's own address. Rings, slots and states of backends
//! are those of the packets' [`engine`](crate::engine), and so are verdicts and reasons. As there,
//! deciding changes nothing, time does not pass and no helper is called; what the socket is to
//! remember is in the [`Decision`].

#[cfg(any(feature = "std", test))]
pub mod host;
mod peers;
#[cfg(test)]
mod tests;
mod trace;

pub use self::{
    peers::{find, place_for, translate_back},
    trace::describe,
};
use crate::{
    abi::{
        BACKEND_NONE, CLIENT_NETWORKS, CLIENT_NODE, Client, DropReason, FRONTEND_DROPS, Frontend,
        NetAddr6, NetU16, PREFERS_NODE, SCOPE_FRONT, SCOPE_NETWORKS, ServiceScope, SocketPeer,
        TAKES_NEW, TAKES_OLD_DATAGRAMS, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS,
        VISIBLE_TO_NODE, Verdict, affinity_prefix_bits,
    },
    engine::{Backend, Family, Tables},
};

/// Slots of the ring that are looked at for a backend that takes the call. The first nearly always
/// does; the others are for the moments before a ring follows a death, for services with backends on
/// several networks, and for the wish to stay on the node.
pub const ATTEMPTS: u32 = 8;

/// Half the golden ratio of a word: steps of it spread evenly over the ring.
const STEP: u32 = 0x9e37_79b9;

/// `ECONNREFUSED`: nobody is there.
pub const REFUSED: i32 = 111;
/// `ETIMEDOUT`: what a client would hear in the end of a service that drops.
pub const TIMED_OUT: i32 = 110;
/// `EHOSTUNREACH`: there is somebody, elsewhere.
pub const UNREACHABLE: i32 = 113;

/// What the maps say beside the tables of packets.
pub trait SocketTables<A: Family>: Tables<A> {
    /// Looks up `CLIENTS`; `None`: a namespace that nobody told us of.
    fn client(&self, cookie: u64) -> Option<&Client>;
    /// Looks up `SERVICE_SCOPES`.
    fn scope(&self, service: u32) -> Option<&ServiceScope>;
    /// Looks up `BACKEND_NETWORKS`; 0: reached by the routing table, or not known.
    fn network(&self, backend: u32) -> u64;
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
    let frontend = tables.frontend(&key);
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
    if scope.flags & (VISIBLE_TO_NODE | VISIBLE_TO_CONTAINERS | VISIBLE_TO_NETWORKS) == 0 {
        return Decision::PASS;
    }
    let client = tables.client(call.client);
    if !sees(scope, client) {
        return refused(&frontend, DropReason::NotVisible, UNREACHABLE);
    }
    if let Some(decision) = kept(tables, &frontend, known) {
        return decision;
    }
    choose(tables, call, &frontend, scope, client)
}

/// The backend that the socket has sent to before, as long as that takes datagrams.
#[inline(always)]
fn kept<A: Family, T: SocketTables<A>>(
    tables: &T,
    frontend: &Frontend,
    known: Option<&SocketPeer>,
) -> Option<Decision<A>> {
    let known = known?;
    let backend = tables.backend(known.backend)?;
    if known.service != frontend.service
        || known.generation != backend.generation
        || backend.state & TAKES_OLD_DATAGRAMS == 0
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
    client: Option<&Client>,
) -> Decision<A> {
    let Some(ring) = tables.ring(frontend.ring) else {
        return refused(frontend, DropReason::TablesInconsistent, UNREACHABLE);
    };
    // Who calls is the namespace: a socket has no address yet.
    let mut hash = match affinity_prefix_bits(frontend.flags) {
        Some(_) => client_hash(call.hash_seed, call.client),
        None => call.hash,
    };
    let mut elsewhere = BACKEND_NONE;
    let mut sees_other = 0_u32;
    let mut attempt = 0;
    while attempt < ATTEMPTS && ring.size() != 0 {
        let Some(slot) = tables.slot(ring.slot_index(hash)) else { break };
        let Some(backend) = tables.backend(slot.cur()) else { break };
        if slot.cur() != BACKEND_NONE && backend.state & TAKES_NEW != 0 {
            if !reaches(tables.network(slot.cur()), client, call.routes_across) {
                sees_other = 1;
            } else if scope.flags & PREFERS_NODE == 0 || backend.is_local() {
                return translated_for(call, slot.cur(), &backend, frontend.service);
            } else if elsewhere == BACKEND_NONE {
                elsewhere = slot.cur();
            }
        }
        hash = hash.wrapping_add(STEP);
        attempt += 1;
        // For the kernel's verifier all ways through the loop meet here: of these it would follow each
        // value to the end.
        elsewhere = core::hint::black_box(elsewhere);
        sees_other = core::hint::black_box(sees_other);
    }
    if elsewhere != BACKEND_NONE
        && let Some(backend) = tables.backend(elsewhere)
    {
        return translated_for(call, elsewhere, &backend, frontend.service);
    }
    if sees_other != 0 {
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

/// Whether a service is there for a client. A namespace that nobody told us of is a container's of
/// which no network is known.
#[inline(always)]
#[must_use]
pub fn sees(scope: &ServiceScope, client: Option<&Client>) -> bool {
    let Some(client) = client else { return scope.flags & VISIBLE_TO_CONTAINERS != 0 };
    if client.kind == CLIENT_NODE {
        return scope.flags & VISIBLE_TO_NODE != 0;
    }
    scope.flags & VISIBLE_TO_CONTAINERS != 0
        || (scope.flags & VISIBLE_TO_NETWORKS != 0 && shares_network(scope, client))
}

#[inline(always)]
fn shares_network(scope: &ServiceScope, client: &Client) -> bool {
    let mut index = 0;
    while index < SCOPE_NETWORKS {
        let network = scope.networks[index];
        if network != 0 && is_on(client, network) {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether what a client sends arrives. Docker keeps its networks apart by dropping what goes from
/// one to the other; the node itself is on all of them.
#[inline(always)]
#[must_use]
pub fn reaches(network: u64, client: Option<&Client>, routes_across: u32) -> bool {
    let Some(client) = client else { return true };
    network == 0 || client.kind == CLIENT_NODE || routes_across != 0 || is_on(client, network)
}

#[inline(always)]
fn is_on(client: &Client, network: u64) -> bool {
    let mut index = 0;
    while index < CLIENT_NETWORKS {
        if client.networks[index] == network {
            return true;
        }
        index += 1;
    }
    false
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
