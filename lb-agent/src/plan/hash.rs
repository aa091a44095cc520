//! Names -> hashes that are the same on every node, in every version, and never zero.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    net::IpAddr,
};

use siphasher::sip128::SipHasher13;

use crate::model::{Backend, BackendPath, ServiceName};

/// A 128-bit hash as it lies in the tables, where zero means that a number is free.
pub type NameHash = [u64; 2];

/// What tells apart hashes of different kinds of names.
#[derive(Clone, Copy)]
enum Kind {
    Service = 1,
    Instance = 2,
    Place = 3,
}

/// Strings are hashed with their lengths, so that no two lists of parts look the same. The parts are
/// gathered first: one long write is several times as fast as a dozen short ones.
struct NameHasher(Vec<u8>);

impl NameHasher {
    fn new(kind: Kind) -> Self {
        Self(Vec::with_capacity(256)).number(kind as u64)
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self = self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn finish(self) -> NameHash {
        // Fixed for ever: pinned tables and other nodes hold hashes by these keys.
        let keys = SipHasher13::new_with_keys(0x6c62_2d61_6765_6e74, 0x6e61_6d65_2068_6173);
        let hash = keys.hash(&self.0);
        if hash.h1 == 0 && hash.h2 == 0 { [1, 0] } else { [hash.h1, hash.h2] }
    }
}

/// A map by hashes, which need no further hashing.
pub type HashIndex<T> = HashMap<NameHash, T, BuildHasherDefault<FirstWord>>;

/// A map by numbers of services, backends or rings.
pub(super) type NumberIndex<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

/// A set of such numbers.
pub(super) type NumberIndexSet = HashSet<u32, BuildHasherDefault<Spread>>;

/// Spreads numbers that mostly follow each other: nobody out there chooses them.
#[derive(Clone, Default, Debug)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        // As far from any pattern as a multiplier can be: 2^64 by the golden ratio.
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Tables look at the lowest bits first, where multiples of a power of two are all alike.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

/// Takes a hash for what it is.
#[derive(Clone, Default, Debug)]
pub struct FirstWord(u64);

impl Hasher for FirstWord {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.rotate_left(32) ^ word;
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Identity of a service number.
pub fn service_hash(name: &ServiceName) -> NameHash {
    NameHasher::new(Kind::Service).text(&name.0).finish()
}

/// Identity of a backend number: the instance, and everything of it that is written only once. Not its
/// place: a container that is renamed is still the one that its connections lead to.
pub fn instance_hash(service: &ServiceName, backend: &Backend) -> NameHash {
    let hasher = NameHasher::new(Kind::Instance)
        .text(&service.0)
        .text(&backend.instance)
        .number(u64::from(backend.address.port()));
    let hasher = match backend.address.ip() {
        IpAddr::V4(address) => hasher.number(4).number(u64::from(u32::from(address))),
        IpAddr::V6(address) => {
            let [high, low] =
                [64, 0].map(|shift| (u128::from(address) >> shift) & u128::from(u64::MAX));
            let word = |part: u128| u64::try_from(part).unwrap_or_default();
            hasher.number(6).number(word(high)).number(word(low))
        }
    };
    match backend.path {
        BackendPath::Local { ifindex } => hasher.number(1).number(u64::from(ifindex)),
        BackendPath::Routed => hasher.number(2),
    }
    .finish()
}

/// A place's permutation of the ring: a replacement at the same place inherits it.
pub fn place_hash(service: &ServiceName, place: &str) -> NameHash {
    NameHasher::new(Kind::Place).text(&service.0).text(place).finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use insta::assert_snapshot;

    use super::{instance_hash, place_hash, service_hash};
    use crate::model::{Backend, BackendPath, BackendState, ServiceName};

    fn backend() -> Backend {
        Backend {
            place: "1".to_owned(),
            instance: "abc@1".to_owned(),
            display_name: "web-1".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            weight: 100,
            path: BackendPath::Local { ifindex: 7 },
            state: BackendState::Healthy,
            started_at_ms: 1,
            reported: None,
            asked_to_end: None,
            network: None,
            replies: crate::model::ReplyFacts::default(),
        }
    }

    #[test]
    fn hashes_never_change() {
        let service = ServiceName("compose/shop/web:80".to_owned());
        let hashes = [
            service_hash(&service),
            instance_hash(&service, &backend()),
            place_hash(&service, "1"),
        ];
        assert_snapshot!(hashes.map(|[a, b]| format!("{a:016x}{b:016x}")).join(" "), @"d9fd873d97a824feaaac531785c0059f dacd02a92b4d8b8a8a4a432b1d199765 7c0e5d0945364969eabe267120be518f");
    }

    #[test]
    fn what_is_written_once_is_part_of_the_identity() {
        let service = ServiceName("web".to_owned());
        let change = |change: fn(&mut Backend)| {
            let mut changed = backend();
            change(&mut changed);
            instance_hash(&service, &changed)
        };
        let same = [
            change(|_| {}),
            change(|it| it.weight = 0),
            change(|it| it.state = BackendState::Draining),
            change(|it| it.display_name.clear()),
            change(|it| it.started_at_ms = 9),
            change(|it| it.place = "2".to_owned()),
        ];
        assert_eq!(same.iter().collect::<BTreeSet<_>>().len(), 1);
        let different = [
            same[0],
            instance_hash(&ServiceName("web2".to_owned()), &backend()),
            change(|it| it.instance.push('1')),
            change(|it| it.address.set_port(81)),
            change(|it| it.address.set_ip([10, 0, 0, 2].into())),
            change(|it| it.address = "[::a00:1]:80".parse().unwrap()),
            change(|it| it.address = "[::1:0:0:a00:1]:80".parse().unwrap()),
            change(|it| it.path = BackendPath::Local { ifindex: 8 }),
            change(|it| it.path = BackendPath::Routed),
        ];
        assert_eq!(different.iter().collect::<BTreeSet<_>>().len(), different.len());
    }
}
