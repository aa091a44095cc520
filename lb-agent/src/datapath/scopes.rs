//! The tables of socket calls: who calls, who may see a service, and on which network a backend is.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::{self, offset_of},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use lb_common::abi::{
    ClassNetwork, Client, MAX_BACKENDS, MAX_SERVICES, SCOPE_HAS_SLOTS, SCOPE_NETWORKS,
    SCOPE_SECOND_HALF, ServiceScope, map_names,
};

use super::{
    mapped::MappedArray,
    reach::ReachTables,
    tables::{Refusal, is_absent, map_refusal, mapped, take},
};
use crate::sockets::SocketTables;

const FLAGS_WORD: usize = offset_of!(ServiceScope, flags) / 8;

/// The maps, and what they hold.
pub(super) struct Scopes {
    clients: HashMap<MapData, u64, Client>,
    class_networks: HashMap<MapData, ClassNetwork, u64>,
    reach: ReachTables,
    services: MappedArray<ServiceScope>,
    networks: MappedArray<u64>,
    held: SocketTables,
    /// Cookies of clients that have come since somebody last asked.
    newcomers: BTreeSet<u64>,
}

impl Scopes {
    /// Takes the maps out of the loaded object, and reads them.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut scopes = Self {
            clients: HashMap::try_from(take(ebpf, map_names::CLIENTS)?)?,
            class_networks: HashMap::try_from(take(ebpf, map_names::CLASS_NETWORKS)?)?,
            reach: ReachTables::take(ebpf)?,
            services: mapped(ebpf, map_names::SERVICE_SCOPES)?,
            networks: mapped(ebpf, map_names::BACKEND_NETWORKS)?,
            held: SocketTables::default(),
            newcomers: BTreeSet::new(),
        };
        scopes.held = scopes.read()?;
        Ok(scopes)
    }

    /// Looks at what the kernel holds: what somebody else has written or deleted there is set right by
    /// the next [`Self::set`].
    pub(super) fn refresh(&mut self) -> anyhow::Result<()> {
        let found = self.read()?;
        if found != self.held {
            tracing::warn!(
                tables = differences(&found, &self.held).join(", "),
                "somebody has changed the tables of socket calls",
            );
        }
        // Also where it is the same: its lists are those that were just read, and held once.
        self.held = found;
        Ok(())
    }

    /// What the kernel holds.
    fn read(&mut self) -> anyhow::Result<SocketTables> {
        let mut held = SocketTables { reach: self.reach.read()?, ..SocketTables::default() };
        for key in self.class_networks.keys() {
            held.class_networks.insert(key.context("`CLASS_NETWORKS` cannot be read")?);
        }
        for entry in &self.clients {
            let (cookie, client) = entry.context("`CLIENTS` cannot be read")?;
            held.clients.insert(cookie, client);
        }
        let scopes = (0..MAX_SERVICES).filter_map(|it| Some((it, self.services.load(it)?)));
        let scopes = scopes.filter(|(_, it)| it.flags != 0);
        held.scopes = scopes.map(|(number, it)| (number, in_force(&it))).collect();
        let networks = (0..=MAX_BACKENDS).filter_map(|it| Some((it, self.networks.load(it)?)));
        held.networks = networks.filter(|(_, it)| *it != 0).collect();
        self.services.trim();
        self.networks.trim();
        Ok(held)
    }

    /// What was found and written.
    pub(super) fn held(&self) -> &SocketTables {
        &self.held
    }

    /// Clients that the tables have begun to tell of since this was last asked. While only some containers
    /// are known, a namespace that they share may have more networks than the tables say.
    pub(super) fn take_newcomers(&mut self) -> BTreeSet<u64> {
        mem::take(&mut self.newcomers)
    }

    /// Makes the tables what is wanted, as far as possible; the first refusal is told.
    ///
    /// Who is let in comes last, when all is known by which it is led, and what nobody is led by any
    /// more goes behind that.
    pub(super) fn set(&mut self, wanted: &SocketTables) -> Result<(), Refusal> {
        let mut result = Ok(());
        let mut note = |done: Result<(), Refusal>| {
            let is_done = done.is_ok();
            if result.is_ok() {
                result = done;
            }
            is_done
        };
        let is_whole = !wanted.is_partial && !wanted.kept.is_all;
        for (number, network) in networks(&self.held.networks, wanted) {
            if note(self.networks.store(number, &network, 0).ok_or_else(too_short)) {
                keep(&mut self.held.networks, number, (network != 0).then_some(network));
            }
        }
        let new: Vec<_> =
            wanted.class_networks.difference(&self.held.class_networks).copied().collect();
        for key in new {
            let done = self.class_networks.insert(key, 1, 0).map_err(map_refusal);
            if note(done.map_err(|cause| format!("networks of clients: {cause}"))) {
                self.held.class_networks.insert(key);
            }
        }
        let (kept, is_partial) = (&wanted.kept, wanted.is_partial);
        self.reach.set(&mut self.held.reach, &wanted.reach, kept, is_partial, &mut note);
        for (cookie, client) in changes(&self.held.clients, &wanted.clients, is_whole) {
            let done = match client {
                Some(client) => self.clients.insert(cookie, client, 0).map_err(map_refusal),
                None => absent_is_removed(self.clients.remove(&cookie)),
            };
            if note(done.map_err(|cause| format!("client {cookie}: {cause}"))) {
                if client.is_none() {
                    self.newcomers.remove(&cookie);
                } else if !self.held.clients.contains_key(&cookie) {
                    self.newcomers.insert(cookie);
                }
                keep(&mut self.held.clients, cookie, client);
            }
        }
        for (number, scope) in changes(&self.held.scopes, &wanted.scopes, !wanted.kept.is_all) {
            if scope.is_none() && wanted.kept.services.contains(&number) {
                continue;
            }
            // Lists that are held ahead of a plan are looked at as before.
            let held = self.held.scopes.get(&number).filter(|_| wanted.kept.is_all);
            let slots = held.map_or(0, |held| held.flags & SCOPE_HAS_SLOTS);
            let scope = scope.map(|it| ServiceScope { flags: it.flags | slots, ..it });
            if note(self.store_scope(number, scope.unwrap_or_default()).ok_or_else(too_short)) {
                keep(&mut self.held.scopes, number, scope);
            }
        }
        if is_whole {
            self.forget_classes(&wanted.class_networks, &mut note);
        }
        result
    }

    fn forget_classes(
        &mut self,
        wanted: &BTreeSet<ClassNetwork>,
        note: &mut dyn FnMut(Result<(), Refusal>) -> bool,
    ) {
        let over: Vec<_> = self.held.class_networks.difference(wanted).copied().collect();
        for key in over {
            if note(absent_is_removed(self.class_networks.remove(&key))) {
                self.held.class_networks.remove(&key);
            }
        }
    }

    /// Other networks go where none is looked for; then one store makes them count.
    fn store_scope(&self, number: u32, scope: ServiceScope) -> Option<()> {
        let held = self.services.load(number)?;
        let half = held.flags & SCOPE_SECOND_HALF;
        let is_same = in_force(&held).networks == scope.networks;
        let half = if is_same { half } else { half ^ SCOPE_SECOND_HALF };
        let mut new = ServiceScope { flags: scope.flags | half, ..held };
        if !is_same {
            new.networks[usize::from(half != 0)] = scope.networks[0];
        }
        if scope.flags == 0 {
            // Free: nobody is led there.
            new = ServiceScope::default();
        }
        self.services.store(number, &new, FLAGS_WORD)
    }
}

/// Names of the tables in which two differ.
fn differences(one: &SocketTables, other: &SocketTables) -> Vec<&'static str> {
    let tables = [
        (map_names::CLIENTS, one.clients == other.clients),
        (map_names::CLASS_NETWORKS, one.class_networks == other.class_networks),
        (map_names::REACH_LISTS, one.reach == other.reach),
        (map_names::SERVICE_SCOPES, one.scopes == other.scopes),
        (map_names::BACKEND_NETWORKS, one.networks == other.networks),
    ];
    tables.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

/// What counts of a scope, as if it were in the first half.
fn in_force(scope: &ServiceScope) -> ServiceScope {
    let half = usize::from(scope.flags & SCOPE_SECOND_HALF != 0);
    ServiceScope {
        flags: scope.flags & !SCOPE_SECOND_HALF,
        reserved: 0,
        networks: [scope.networks[half], [0; SCOPE_NETWORKS]],
    }
}

fn absent_is_removed(result: Result<(), MapError>) -> Result<(), Refusal> {
    match result {
        Err(error) if !is_absent(&error) => Err(map_refusal(error)),
        _ => Ok(()),
    }
}

fn too_short() -> Refusal {
    "a table of sockets is too short".to_owned()
}

/// Networks of backends that are to be written; 0 for what is no longer wanted, and for what is held as
/// that already nothing.
fn networks(held: &BTreeMap<u32, u64>, wanted: &SocketTables) -> Vec<(u32, u64)> {
    let changes = changes(held, &wanted.networks, !wanted.kept.is_all);
    let counts = |(number, network): &(u32, Option<u64>)| match network {
        None => !wanted.kept.backends.contains(number),
        Some(network) => *network != 0 || held.contains_key(number),
    };
    changes.into_iter().filter(counts).map(|(it, network)| (it, network.unwrap_or(0))).collect()
}

fn keep<K: Ord, V>(held: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => held.insert(key, value),
        None => held.remove(&key),
    };
}

/// What is to be written: `None` for what is no longer wanted.
fn changes<K: Ord + Copy, V: PartialEq + Copy>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    is_whole: bool,
) -> Vec<(K, Option<V>)> {
    let is_gone = |key: &&K| is_whole && !wanted.contains_key(key);
    let gone = held.keys().filter(is_gone).map(|key| (*key, None));
    let new = wanted.iter().filter(|(key, value)| held.get(key) != Some(value));
    gone.chain(new.map(|(key, value)| (*key, Some(*value)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_what_is_over_goes_first() {
        let held = BTreeMap::from([(1, 10), (2, 20), (3, 30)]);
        let wanted = BTreeMap::from([(2, 20), (3, 31), (4, 40)]);
        assert_eq!(changes(&held, &wanted, true), [(1, None), (3, Some(31)), (4, Some(40))]);
        assert_eq!(changes(&held, &wanted, false), [(3, Some(31)), (4, Some(40))]);
        assert_eq!(changes(&wanted, &wanted, true), []);
    }

    #[test]
    fn networks_of_what_nobody_claims_and_is_served_stay() {
        let held = BTreeMap::from([(1, 10), (2, 20), (3, 30), (4, 40)]);
        let mut wanted = SocketTables {
            networks: BTreeMap::from([(2, 20), (3, 0), (5, 0), (6, 60)]),
            // Who calls is another matter.
            is_partial: true,
            ..SocketTables::default()
        };
        wanted.kept.backends = [4].into();
        assert_eq!(networks(&held, &wanted), [(1, 0), (3, 0), (6, 60)]);
        wanted.kept.is_all = true;
        assert_eq!(networks(&held, &wanted), [(3, 0), (6, 60)]);
    }
}
