//! Names that have a virtual address of their own: which one it is.
//!
//! The address follows from the name: its hash says where in the pool to begin, and the first free
//! address from there is it. Who has an address keeps it, by what the kernel holds, so that neither a
//! restart nor the end of another name moves anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::{Incumbents, refuse};
use crate::{
    model::{Claim, PooledName, Refusal},
    plan::{NameHash, service_hash},
};

/// Addresses of a pool that are used.
const POOL_SIZE_MAX: u128 = 1 << 24;

/// Gives every pooled claim its address. Claims that find none are refused and removed. Returns the
/// names with their addresses.
pub(super) fn assign(
    claims: &mut Vec<Claim>,
    incumbents: &Incumbents,
    refusals: &mut BTreeSet<Refusal>,
) -> BTreeMap<String, IpAddr> {
    let seekers = Seeker::all(claims);
    if seekers.is_empty() {
        return BTreeMap::new();
    }
    let held = Held::of(&seekers, incumbents);
    let named = claims.iter().filter(|claim| claim.pooled.is_none());
    let mut taken: BTreeSet<IpAddr> = named.map(|claim| claim.frontend.vip).collect();
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
    claims.retain_mut(|claim| {
        let Some(pooled) = &claim.pooled else { return true };
        let Some(address) = addresses.get(pooled) else {
            let message = format!(
                "no address is left for `{}` in `routing_pool` {}; enlarge it, or remove names",
                pooled.name, pooled.pool
            );
            refuse(refusals, &claim.source, message);
            return false;
        };
        claim.frontend.vip = *address;
        true
    });
    addresses.into_iter().map(|(pooled, address)| (pooled.name, address)).collect()
}

/// The addresses that services of names have already.
struct Held(BTreeMap<NameHash, BTreeSet<IpAddr>>);

impl Held {
    fn of(seekers: &[Seeker], incumbents: &Incumbents) -> Self {
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
    fn all(claims: &[Claim]) -> Vec<Self> {
        let mut seekers: BTreeMap<&PooledName, Self> = BTreeMap::new();
        for claim in claims {
            let Some(name) = &claim.pooled else { continue };
            let seeker = seekers.entry(name).or_insert_with(|| Self {
                name: name.clone(),
                since_ms: claim.since_ms,
                services: BTreeSet::new(),
            });
            seeker.since_ms = seeker.since_ms.min(claim.since_ms);
            seeker.services.insert(service_hash(&claim.service));
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
