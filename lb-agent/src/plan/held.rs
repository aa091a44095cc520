//! The backends that the kernel holds, and what is asked of them at every plan: whose they are, which of
//! them are behind veths, and whether anything about those of a service is another than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use super::{
    KernelBackend,
    hash::{NameHash, NumberIndex},
};
use crate::model::BackendPath;

/// Backends of a service by their hashes. Whatever becomes of one of them, the list is another one: who
/// has kept it sees by [`Arc::ptr_eq`] whether they still are what they were.
pub(crate) type OfService = Arc<[(NameHash, u32)]>;

/// Backends by their numbers.
#[derive(Clone, Debug, Default)]
pub struct HeldBackends {
    all: BTreeMap<u32, KernelBackend>,
    services: NumberIndex<OfService>,
    local: BTreeSet<u32>,
}

impl HeldBackends {
    /// Puts a backend there. Returns who had its number before.
    pub fn insert(&mut self, number: u32, backend: KernelBackend) -> Option<KernelBackend> {
        let before = self.remove(number);
        let entry = (backend.instance_hash, number);
        self.change(backend.service, |them| {
            let position = them.partition_point(|it| *it < entry);
            them.insert(position, entry);
        });
        if is_local(&backend) {
            self.local.insert(number);
        }
        self.all.insert(number, backend);
        before
    }

    /// Takes a backend away.
    pub fn remove(&mut self, number: u32) -> Option<KernelBackend> {
        let before = self.all.remove(&number)?;
        self.local.remove(&number);
        self.change(before.service, |them| them.retain(|(_, it)| *it != number));
        Some(before)
    }

    /// Changes a backend, if it is there.
    pub fn update(&mut self, number: u32, change: impl FnOnce(&mut KernelBackend)) {
        let Some(held) = self.all.get_mut(&number) else { return };
        let mut backend = held.clone();
        change(&mut backend);
        let place = |it: &KernelBackend| (it.service, it.instance_hash, is_local(it));
        if place(held) != place(&backend) {
            self.insert(number, backend);
            return;
        }
        if let Some(them) = self.services.get_mut(&held.service) {
            *them = Arc::from(&them[..]);
        }
        *held = backend;
    }

    /// Those of a service, if it has any.
    pub(crate) fn of_service(&self, service: u32) -> Option<&OfService> {
        self.services.get(&service)
    }

    /// Numbers of the services that have any.
    pub(super) fn services(&self) -> impl Iterator<Item = u32> {
        self.services.keys().copied()
    }

    /// Those behind veths, by their numbers.
    pub(super) fn local(&self) -> impl Iterator<Item = (u32, &KernelBackend)> {
        self.local.iter().filter_map(|number| Some((*number, self.all.get(number)?)))
    }

    /// The one of a service with this hash; of doubles, the one with the smallest number.
    pub(crate) fn find(&self, service: u32, hash: &NameHash) -> Option<(u32, &KernelBackend)> {
        let number = self.numbers(service, hash).next()?;
        Some((number, self.all.get(&number)?))
    }

    /// All of a service with this hash.
    pub(super) fn doubles(
        &self,
        service: u32,
        hash: &NameHash,
    ) -> impl Iterator<Item = &KernelBackend> {
        self.numbers(service, hash).filter_map(|number| self.all.get(&number))
    }

    /// Their numbers.
    pub(super) fn numbers(&self, service: u32, hash: &NameHash) -> impl Iterator<Item = u32> {
        let them = self.services.get(&service).map_or(&[][..], |them| them);
        let first = them.partition_point(|(other, _)| other < hash);
        let hash = *hash;
        them[first..].iter().take_while(move |(other, _)| *other == hash).map(|(_, it)| *it)
    }

    /// Makes the list of a service anew; it stays sorted.
    fn change(&mut self, service: u32, change: impl FnOnce(&mut Vec<(NameHash, u32)>)) {
        let mut them = self.services.remove(&service).map_or_else(Vec::new, |them| them.to_vec());
        change(&mut them);
        if !them.is_empty() {
            self.services.insert(service, them.into());
        }
    }
}

fn is_local(backend: &KernelBackend) -> bool {
    matches!(backend.path, BackendPath::Local { .. })
}

impl Deref for HeldBackends {
    type Target = BTreeMap<u32, KernelBackend>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl PartialEq for HeldBackends {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for HeldBackends {}

impl<'a> IntoIterator for &'a HeldBackends {
    type Item = (&'a u32, &'a KernelBackend);
    type IntoIter = std::collections::btree_map::Iter<'a, u32, KernelBackend>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl FromIterator<(u32, KernelBackend)> for HeldBackends {
    fn from_iter<T: IntoIterator<Item = (u32, KernelBackend)>>(backends: T) -> Self {
        let all: BTreeMap<u32, KernelBackend> = backends.into_iter().collect();
        let mut services: NumberIndex<Vec<(NameHash, u32)>> = NumberIndex::default();
        for (number, backend) in &all {
            services.entry(backend.service).or_default().push((backend.instance_hash, *number));
        }
        let sorted = services.into_iter().map(|(service, mut them)| {
            them.sort_unstable();
            (service, them.into())
        });
        let services = sorted.collect();
        let local = all.iter().filter(|(_, backend)| is_local(backend));
        let local = local.map(|(number, _)| *number).collect();
        Self { all, services, local }
    }
}

impl<const N: usize> From<[(u32, KernelBackend); N]> for HeldBackends {
    fn from(backends: [(u32, KernelBackend); N]) -> Self {
        backends.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, KernelBackend),
        Remove(u32),
        Update(u32, KernelBackend),
    }

    fn any_backend() -> impl Strategy<Value = KernelBackend> {
        (0..4_u32, 0..6_u64, 0..3_u32, 0..8_u8).prop_map(|(service, hash, ifindex, state)| {
            let path = match ifindex {
                0 => BackendPath::Routed,
                ifindex => BackendPath::Local { ifindex },
            };
            KernelBackend {
                instance_hash: [hash, 1],
                service,
                generation: 1,
                address: ([10, 0, 0, 1], 80).into(),
                path,
                state,
                records_replies: true,
            }
        })
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let number = || 1..12_u32;
        prop_oneof![
            3 => (number(), any_backend()).prop_map(|(number, it)| Step::Insert(number, it)),
            1 => number().prop_map(Step::Remove),
            1 => (number(), any_backend()).prop_map(|(number, it)| Step::Update(number, it)),
        ]
    }

    /// What the indexes say must be what one sees who looks through all.
    fn check(held: &HeldBackends) {
        let again: HeldBackends = held.iter().map(|(number, it)| (*number, it.clone())).collect();
        assert_eq!(held.services, again.services);
        assert_eq!(held.local, again.local);
        for service in 0..4 {
            for hash in 0..6 {
                let hash = [hash, 1];
                let found = held.find(service, &hash);
                let is_it = |(_, it): &(&u32, &KernelBackend)| {
                    (it.service, it.instance_hash) == (service, hash)
                };
                let expected = held.iter().find(is_it).map(|(number, it)| (*number, it));
                assert_eq!(found, expected, "{service} {hash:?}");
                let doubles = held.iter().filter(is_it).map(|(_, it)| it);
                assert!(held.doubles(service, &hash).eq(doubles));
            }
        }
    }

    proptest! {
        #[test]
        fn indexes_agree_and_tell_every_change(
            steps in prop::collection::vec(any_step(), 0..40)
        ) {
            let mut held = HeldBackends::default();
            for step in steps {
                let before = held.clone();
                match step {
                    Step::Insert(number, backend) => drop(held.insert(number, backend)),
                    Step::Remove(number) => drop(held.remove(number)),
                    Step::Update(number, to) => held.update(number, |it| *it = to),
                }
                check(&held);
                for service in 0..4 {
                    let of = |it: &HeldBackends| -> Vec<(u32, KernelBackend)> {
                        let its = it.iter().filter(|(_, it)| it.service == service);
                        its.map(|(number, it)| (*number, it.clone())).collect()
                    };
                    if of(&before) != of(&held) {
                        let lists = [before.of_service(service), held.of_service(service)];
                        let is_same = matches!(lists, [Some(a), Some(b)] if Arc::ptr_eq(a, b));
                        prop_assert!(!is_same, "a change of service {service} is not seen");
                    }
                }
            }
        }
    }
}
