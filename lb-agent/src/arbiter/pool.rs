//! Names that have a virtual address of their own: which one it is.
//!
//! The address follows from the name: its hash says where in the pool to begin, and the first free
//! address from there is it. Who has an address keeps it, by what the kernel holds, so that neither a
//! restart nor the end of another name moves anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::{Holders, Refusals, refuse};
use crate::{
    model::{Claim, FrontendAddress, PooledName, ServiceName},
    plan::{NameHash, service_hash},
};

/// Addresses of a pool that are used.
const POOL_SIZE_MAX: u128 = 1 << 24;

/// The oldest claim of each name that a service has.
type Wanted = BTreeMap<PooledName, u64>;

/// The names of all claims with their addresses, and everything that these follow from.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    wanted: BTreeMap<ServiceName, Wanted>,
    pools: BTreeSet<IpNet>,
    /// Who has which frontends at addresses of the pools.
    held: Vec<(FrontendAddress, NameHash)>,
    /// Addresses of the pools that are asked for without a name, and by whom.
    taken: BTreeSet<IpAddr>,
    takers: BTreeSet<ServiceName>,
    addresses: BTreeMap<PooledName, IpAddr>,
}

impl Names {
    /// Those of all claims.
    pub(super) fn of(claims: &[Claim], incumbents: &impl Holders) -> Self {
        let wanted = wanted(claims);
        if wanted.is_empty() {
            return Self::default();
        }
        let pools = wanted.values().flat_map(Wanted::keys).map(|name| name.pool).collect();
        let mut names = Self { wanted, pools, ..Self::default() };
        for claim in claims {
            if names.is_taker(claim) {
                names.taken.insert(claim.frontend.vip);
                names.takers.insert(claim.service.clone());
            }
        }
        names.held = names.held_of(incumbents).collect();
        names.addresses = names.assign();
        names
    }

    /// Brings them up to date, now that these are the claims of the touched services, and tells whether
    /// some address is another one. `None`: also those of other services may be, and nothing that is
    /// remembered counts any more.
    pub(super) fn replace(
        &mut self,
        touched: &BTreeSet<ServiceName>,
        claims: &[Claim],
        incumbents: &impl Holders,
    ) -> Option<bool> {
        let mut now = wanted(claims);
        let has_other_pool =
            now.values().flat_map(Wanted::keys).any(|name| !self.pools.contains(&name.pool));
        if has_other_pool
            || touched.iter().any(|service| self.takers.contains(service))
            || claims.iter().any(|claim| self.is_taker(claim))
        {
            return None;
        }
        let mut is_same = self.held.iter().copied().eq(self.held_of(incumbents));
        if !is_same {
            self.held = self.held_of(incumbents).collect();
        }
        for service in touched {
            let now = now.remove(service);
            is_same &= self.wanted.get(service) == now.as_ref();
            match now {
                Some(now) => drop(self.wanted.insert(service.clone(), now)),
                None => drop(self.wanted.remove(service)),
            }
        }
        if is_same {
            return Some(false);
        }
        let before = mem::take(&mut self.addresses);
        self.addresses = self.assign();
        let mut others = self.wanted.iter().filter(|(service, _)| !touched.contains(*service));
        let are_kept = others.all(|(_, names)| {
            names.keys().all(|name| before.get(name) == self.addresses.get(name))
        });
        are_kept.then(|| self.addresses != before)
    }

    /// Gives every pooled claim its address. Claims that find none are refused and removed.
    pub(super) fn give(&self, claims: &mut Vec<Claim>, refusals: &mut Refusals) {
        claims.retain_mut(|claim| {
            let Some(pooled) = &claim.pooled else { return true };
            let Some(address) = self.addresses.get(pooled) else {
                let message = format!(
                    "no address is left for `{}` in `routing_pool` {}; enlarge it, or remove names",
                    pooled.name, pooled.pool
                );
                refuse(refusals, &claim.service, &claim.source, message);
                return false;
            };
            claim.frontend.vip = *address;
            true
        });
    }

    /// The names with their addresses.
    pub(super) fn by_name(&self) -> BTreeMap<String, IpAddr> {
        let addresses = self.addresses.iter();
        addresses.map(|(pooled, address)| (pooled.name.clone(), *address)).collect()
    }

    /// Whether a claim asks for an address of a pool without a name.
    fn is_taker(&self, claim: &Claim) -> bool {
        let vip = claim.frontend.vip;
        claim.pooled.is_none() && self.pools.iter().any(|pool| pool.contains(&vip))
    }

    fn held_of(
        &self,
        incumbents: &impl Holders,
    ) -> impl Iterator<Item = (FrontendAddress, NameHash)> {
        self.pools.iter().flat_map(|pool| incumbents.within(*pool))
    }

    /// The address of each name that finds one.
    fn assign(&self) -> BTreeMap<PooledName, IpAddr> {
        let seekers = Seeker::all(&self.wanted);
        let held = Held::of(&seekers, &self.held);
        let mut taken = self.taken.clone();
        let mut addresses: BTreeMap<PooledName, IpAddr> = BTreeMap::new();
        let mut homeless = Vec::new();
        for seeker in seekers {
            match seeker.held(&held, &taken) {
                Some(address) => {
                    taken.insert(address);
                    addresses.insert(seeker.name, address);
                }
                None => homeless.push(seeker),
            }
        }
        // What is full stays so, and need not be searched for everybody.
        let mut full: BTreeSet<IpNet> = BTreeSet::new();
        for seeker in homeless {
            if full.contains(&seeker.name.pool) {
                continue;
            }
            if let Some(address) = seeker.first_free(&taken) {
                taken.insert(address);
                addresses.insert(seeker.name, address);
            } else {
                full.insert(seeker.name.pool);
            }
        }
        addresses
    }
}

/// The names that claims want, by service.
fn wanted(claims: &[Claim]) -> BTreeMap<ServiceName, Wanted> {
    let mut wanted: BTreeMap<ServiceName, Wanted> = BTreeMap::new();
    for claim in claims {
        let Some(name) = &claim.pooled else { continue };
        let names = wanted.entry(claim.service.clone()).or_default();
        let since_ms = names.entry(name.clone()).or_insert(claim.since_ms);
        *since_ms = claim.since_ms.min(*since_ms);
    }
    wanted
}

/// The addresses that services of names have already.
struct Held(BTreeMap<NameHash, BTreeSet<IpAddr>>);

impl Held {
    fn of(seekers: &[Seeker], incumbents: &[(FrontendAddress, NameHash)]) -> Self {
        let services = seekers.iter().flat_map(|seeker| &seeker.services);
        let mut held: BTreeMap<NameHash, BTreeSet<IpAddr>> =
            services.map(|service| (*service, BTreeSet::new())).collect();
        for (frontend, service) in incumbents {
            if let Some(addresses) = held.get_mut(service) {
                addresses.insert(frontend.vip);
            }
        }
        Self(held)
    }
}

/// A name that needs an address.
struct Seeker {
    name: PooledName,
    since_ms: u64,
    services: BTreeSet<NameHash>,
}

impl Seeker {
    /// All of them, the oldest first.
    fn all(wanted: &BTreeMap<ServiceName, Wanted>) -> Vec<Self> {
        let mut seekers: BTreeMap<&PooledName, Self> = BTreeMap::new();
        for (service, names) in wanted {
            let service = service_hash(service);
            for (name, since_ms) in names {
                let seeker = seekers.entry(name).or_insert_with(|| Self {
                    name: name.clone(),
                    since_ms: *since_ms,
                    services: BTreeSet::new(),
                });
                seeker.since_ms = seeker.since_ms.min(*since_ms);
                seeker.services.insert(service);
            }
        }
        let mut seekers: Vec<_> = seekers.into_values().collect();
        seekers
            .sort_by(|left, right| (left.since_ms, &left.name).cmp(&(right.since_ms, &right.name)));
        seekers
    }

    /// The address that a service of this name has already: of several the nearest to where the
    /// search begins, since that is where this name would have found it.
    fn held(&self, held: &Held, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let (first, size) = range(&self.name.pool);
        let start = self.start(size);
        let held = self.services.iter().filter_map(|service| held.0.get(service)).flatten();
        let held =
            held.filter(|address| self.name.pool.contains(*address) && !taken.contains(*address));
        let offset = |address| number(address).checked_sub(first).filter(|offset| *offset < size);
        held.filter_map(|address| Some((offset(*address)?, *address)))
            .min_by_key(|(offset, _)| (offset + size - start) % size)
            .map(|(_, address)| address)
    }

    fn first_free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let (first, size) = range(&self.name.pool);
        let start = self.start(size);
        // One more look than there are taken addresses finds a free one, if there is any.
        let looks = size.min(taken.len() as u128 + 1);
        let is_v4 = self.name.pool.addr().is_ipv4();
        (0..looks)
            .map(|look| address(first + (start + look) % size, is_v4))
            .find(|address| !taken.contains(address))
    }

    fn start(&self, size: u128) -> u128 {
        let mut hasher = SipHasher13::new();
        hasher.write(self.name.name.as_bytes());
        u128::from(hasher.finish()) % size
    }
}

/// The first address that may be given, and how many there are: all but the network's own and the
/// last one, which is for broadcasts.
fn range(pool: &IpNet) -> (u128, u128) {
    let (first, last) = (number(pool.network()) + 1, number(pool.broadcast()));
    (first, last.saturating_sub(first).clamp(1, POOL_SIZE_MAX))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if is_v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}
