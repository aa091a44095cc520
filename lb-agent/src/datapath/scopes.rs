//! The tables of socket calls: who calls, who may see a service, and on which network a backend is.

use std::{collections::BTreeMap, mem::offset_of};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use lb_common::abi::{Client, MAX_BACKENDS, MAX_SERVICES, ServiceScope, map_names};

use super::{
    mapped::MappedArray,
    tables::{Refusal, is_absent, map_refusal, mapped, take},
};
use crate::sockets::SocketTables;

const FLAGS_WORD: usize = offset_of!(ServiceScope, flags) / 8;

/// The maps, and what they hold.
pub(super) struct Scopes {
    clients: HashMap<MapData, u64, Client>,
    services: MappedArray<ServiceScope>,
    networks: MappedArray<u64>,
    held: SocketTables,
}

impl Scopes {
    /// Takes the maps out of the loaded object, and reads them.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut scopes = Self {
            clients: HashMap::try_from(take(ebpf, map_names::CLIENTS)?)?,
            services: mapped(ebpf, map_names::SERVICE_SCOPES)?,
            networks: mapped(ebpf, map_names::BACKEND_NETWORKS)?,
            held: SocketTables::default(),
        };
        scopes.held = scopes.read()?;
        scopes.services.trim();
        scopes.networks.trim();
        Ok(scopes)
    }

    /// What the kernel holds.
    pub(super) fn read(&self) -> anyhow::Result<SocketTables> {
        let mut held = SocketTables::default();
        for entry in &self.clients {
            let (cookie, client) = entry.context("`CLIENTS` cannot be read")?;
            held.clients.insert(cookie, client);
        }
        let scopes = (0..MAX_SERVICES).filter_map(|it| Some((it, self.services.load(it)?)));
        held.scopes = scopes.filter(|(_, it)| *it != ServiceScope::default()).collect();
        let networks = (0..=MAX_BACKENDS).filter_map(|it| Some((it, self.networks.load(it)?)));
        held.networks = networks.filter(|(_, it)| *it != 0).collect();
        Ok(held)
    }

    /// What was found and written.
    pub(super) fn held(&self) -> &SocketTables {
        &self.held
    }

    /// Makes the tables what is wanted, as far as possible; the first refusal is told.
    pub(super) fn set(&mut self, wanted: &SocketTables) -> Result<(), Refusal> {
        let mut result = Ok(());
        let mut note = |done: Result<(), Refusal>| {
            let is_done = done.is_ok();
            if result.is_ok() {
                result = done;
            }
            is_done
        };
        // A network that is not known keeps nobody away, so it is known before somebody is let in.
        for (number, network) in changes(&self.held.networks, &wanted.networks, !wanted.is_partial)
        {
            let network = network.unwrap_or(0);
            if note(self.networks.store(number, &network, 0).ok_or_else(too_short)) {
                keep(&mut self.held.networks, number, (network != 0).then_some(network));
            }
        }
        for (cookie, client) in changes(&self.held.clients, &wanted.clients, !wanted.is_partial) {
            let done = match client {
                Some(client) => self.clients.insert(cookie, client, 0).map_err(map_refusal),
                None => match self.clients.remove(&cookie) {
                    Err(error) if !is_absent(&error) => Err(map_refusal(error)),
                    _ => Ok(()),
                },
            };
            if note(done.map_err(|cause| format!("client {cookie}: {cause}"))) {
                keep(&mut self.held.clients, cookie, client);
            }
        }
        for (number, scope) in changes(&self.held.scopes, &wanted.scopes, true) {
            let new = scope.unwrap_or_default();
            // Nobody sees it while its networks change: the flags go first and come last.
            let stored = self
                .services
                .store(number, &ServiceScope::default(), FLAGS_WORD + 1)
                .and_then(|()| self.services.store(number, &new, FLAGS_WORD));
            if note(stored.ok_or_else(too_short)) {
                keep(&mut self.held.scopes, number, scope);
            }
        }
        result
    }
}

fn too_short() -> Refusal {
    "a table of sockets is too short".to_owned()
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
}
