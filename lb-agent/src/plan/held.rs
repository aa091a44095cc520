//! The backends that the kernel holds, by service: a plan asks for each of them, and a table of all by
//! their hashes takes longer to make, and to look into, than all else that is asked.

use lb_common::abi::MAX_SERVICES;

use super::{KernelBackend, KernelState, NameHash, hash::HashIndex};

/// Backends of a service that are looked through one by one.
const FEW: usize = 32;

/// A backend and its number.
pub(crate) type Held<'a> = (u32, &'a KernelBackend);

/// They, sorted by service and number.
pub(crate) struct HeldBackends<'a> {
    all: Vec<Held<'a>>,
    /// Where each service's end; they begin where those of the one before it do.
    ends: Vec<usize>,
    /// Of services that have more than a few.
    many: HashIndex<Held<'a>>,
}

impl<'a> HeldBackends<'a> {
    /// Those of these tables.
    pub(crate) fn new(kernel: &'a KernelState) -> Self {
        // Whoever wrote other numbers than there are, no service is looked for there.
        let is_numbered = |held: &&KernelBackend| held.service < MAX_SERVICES;
        let mut ends = vec![0; MAX_SERVICES as usize];
        for held in kernel.backends.values().filter(is_numbered) {
            ends[held.service as usize] += 1;
        }
        let mut count = 0;
        for end in &mut ends {
            (*end, count) = (count, count + *end);
        }
        let mut all: Vec<Option<Held<'a>>> = vec![None; count];
        for (number, held) in kernel.backends.iter().filter(|(_, held)| is_numbered(held)) {
            let end = &mut ends[held.service as usize];
            all[*end] = Some((*number, held));
            *end += 1;
        }
        let mut backends =
            Self { all: all.into_iter().flatten().collect(), ends, many: HashIndex::default() };
        for service in 0..MAX_SERVICES {
            let of_it = backends.of(service);
            if of_it.len() > FEW {
                // Of doubles the smallest number.
                let by_hash = of_it.iter().rev().map(|held| (held.1.instance_hash, *held));
                let by_hash: Vec<_> = by_hash.collect();
                backends.many.extend(by_hash);
            }
        }
        backends
    }

    /// Those of a service, in the order of their numbers.
    fn of(&self, service: u32) -> &[Held<'a>] {
        let service = service as usize;
        let begin = service.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before));
        let range = begin.zip(self.ends.get(service)).map(|(begin, end)| *begin..*end);
        range.and_then(|range| self.all.get(range)).unwrap_or_default()
    }

    /// The one of a service with this hash; of doubles, the one with the smallest number.
    pub(crate) fn find(&self, service: u32, hash: &NameHash) -> Option<Held<'a>> {
        let of_it = self.of(service);
        if of_it.len() <= FEW {
            return of_it.iter().find(|(_, held)| held.instance_hash == *hash).copied();
        }
        self.many.get(hash).filter(|(_, held)| held.service == service).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackendPath;

    #[test]
    fn each_is_found_at_its_service_and_nowhere_else() {
        let mut kernel = KernelState::default();
        let mut add = |number: u32, service: u32, hash: u64| {
            let held = KernelBackend {
                instance_hash: [hash, 1],
                service,
                generation: 1,
                address: ([10, 0, 0, 1], 80).into(),
                path: BackendPath::Routed,
                state: 7,
                records_replies: true,
            };
            kernel.backends.insert(number, held);
        };
        // Numbers of services are mixed, and some have many.
        for number in 1..=300 {
            let service = match number % 3 {
                0 => 0,
                1 => number % 50,
                _ => MAX_SERVICES - 1,
            };
            add(number, service, u64::from(number));
        }
        // Doubles, in a service of few and in one of many; and a service that cannot be.
        add(1000, 7, 7);
        add(1001, 0, 3);
        add(1002, MAX_SERVICES, 5);
        let held = HeldBackends::new(&kernel);
        for (number, backend) in &kernel.backends {
            let found = held.find(backend.service, &backend.instance_hash).map(|it| it.0);
            let expected = match number {
                1000 => Some(7),
                1001 => Some(3),
                1002 => None,
                _ => Some(*number),
            };
            assert_eq!(found, expected, "{number}");
            let elsewhere = (backend.service + 1) % MAX_SERVICES;
            assert_eq!(held.find(elsewhere, &backend.instance_hash).map(|it| it.0), None);
        }
        assert!(held.find(u32::MAX, &[1, 1]).is_none());
        assert!(HeldBackends::new(&KernelState::default()).find(0, &[1, 1]).is_none());
    }
}
