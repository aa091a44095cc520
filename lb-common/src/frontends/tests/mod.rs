//! The table against a `BTreeMap`, with a reader between any two stores and a writer between any two
//! loads.

mod readers;

use core::net::{Ipv4Addr, Ipv6Addr};
use std::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::{MAX_FRONTENDS, MAX_PORT_LISTS, SCOPE_FRONT};

const QUARANTINE_MS: u64 = 1000;
const V4: usize = FRONTEND_WORDS_V4;
const V6: usize = FRONTEND_WORDS_V6;

fn v4(vip: u32, protocol: u8, port: u16) -> FrontendKeyV4 {
    let vip = Ipv4Addr::from(0xc000_0200 + vip).into();
    FrontendKeyV4 { vip, port: NetU16::new(port), protocol, scope: SCOPE_FRONT }
}

fn v6(vip: u32, protocol: u8, port: u16) -> FrontendKeyV6 {
    let vip = Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(vip)).into();
    FrontendKeyV6 { vip, port: NetU16::new(port), protocol, scope: SCOPE_FRONT }
}

/// What the tables should hold, put as simply as can be.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model<K: Ord> {
    vips: BTreeMap<K, u32>,
    frontends: BTreeMap<(K, u16), (u32, u32)>,
}

impl<K: Ord + Copy> Model<K> {
    fn answer<const W: usize>(&self, key: &K) -> Frontend
    where
        K: FrontendKey<W>,
    {
        self.answer_of(key, |_, _| true)
    }

    /// What a reader answers that found no frontend of the port alone.
    fn answer_of_ranges<const W: usize>(&self, key: &K) -> Frontend
    where
        K: FrontendKey<W>,
    {
        self.answer_of(key, |first, last| first < last)
    }

    fn answer_of<const W: usize>(&self, key: &K, counts: impl Fn(u16, u16) -> bool) -> Frontend
    where
        K: FrontendKey<W>,
    {
        let port = key.port().get();
        let covering = self.frontends.iter().filter(|((first, last), _)| {
            first.wide() == key.wide()
                && (first.port().get()..=*last).contains(&port)
                && counts(first.port().get(), *last)
        });
        let narrowest = covering
            .min_by_key(|((first, last), _)| (last - first.port().get(), first.port().get()));
        if let Some((_, (service, flags))) = narrowest {
            return served::<W, K>(*service, key.protocol(), *flags);
        }
        self.vips.get(&key.vip()).map_or_else(Frontend::default, |flags| Frontend {
            state: FrontendState::Unserved,
            flags: *flags,
            ..Frontend::default()
        })
    }
}

#[derive(Clone, Debug)]
enum Change<K> {
    PutVip(K, u32),
    RemoveVip(K),
    Put(K, u16, u32, u32),
    Remove(K, u16),
    /// Milliseconds go by.
    Pause(u64),
    /// The agent is killed and starts again.
    Restart,
}

struct Bed<const W: usize, K: FrontendKey<W> + core::hash::Hash> {
    editor: Editor<W, K>,
    model: Model<K>,
    now_ms: u64,
}

impl<const W: usize, K: FrontendKey<W> + core::hash::Hash> Bed<W, K> {
    fn new(maps: &impl FrontendMaps<W>) -> Self {
        let editor = Editor::adopt(maps, QUARANTINE_MS, 0).unwrap();
        let model = Model { vips: BTreeMap::new(), frontends: BTreeMap::new() };
        Self { editor, model, now_ms: 0 }
    }

    /// The model after a change.
    fn after(&self, change: &Change<K>) -> Model<K> {
        let mut model = self.model.clone();
        match change {
            Change::PutVip(key, flags) => {
                model.vips.insert(key.vip(), *flags);
            }
            Change::RemoveVip(key) => {
                model.vips.remove(&key.vip());
            }
            Change::Put(key, last, service, flags) => {
                model.frontends.insert((*key, *last), (*service, *flags));
            }
            Change::Remove(key, last) => {
                model.frontends.remove(&(*key, *last));
            }
            Change::Pause(_) | Change::Restart => {}
        }
        model
    }

    fn make(&mut self, maps: &impl FrontendMaps<W>, change: &Change<K>) -> Result<(), EditError> {
        let now_ms = self.now_ms;
        let result = match change {
            Change::PutVip(key, flags) => self.editor.put_vip(maps, key, *flags, now_ms),
            Change::RemoveVip(key) => self.editor.remove_vip(maps, key, now_ms),
            Change::Put(key, last, service, flags) => {
                self.editor.put_frontend(maps, key, *last, *service, *flags, now_ms)
            }
            Change::Remove(key, last) => self.editor.remove_frontend(maps, key, *last, now_ms),
            Change::Pause(ms) => {
                self.now_ms += ms;
                Ok(())
            }
            Change::Restart => {
                self.editor = Editor::adopt(maps, QUARANTINE_MS, now_ms).unwrap();
                Ok(())
            }
        };
        if result.is_ok() {
            self.model = self.after(change);
        }
        result
    }

    /// The table holds what the model holds, and counts it right.
    fn check_contents(&self, maps: &impl FrontendMaps<W>) {
        let mut held = Model { vips: BTreeMap::new(), frontends: BTreeMap::new() };
        for entry in self.editor.read(maps).unwrap() {
            match entry {
                Entry::Vip { key, flags } => assert_eq!(held.vips.insert(key, flags), None),
                Entry::Frontend { key, first, last, service, flags } => {
                    assert_eq!(first, key.port().get());
                    assert_eq!(held.frontends.insert((key, last), (service, flags)), None);
                }
            }
        }
        assert_eq!(held, self.model);
        let wide = self.model.frontends.keys().filter(|(key, last)| *last != key.port().get());
        let lists: std::collections::BTreeSet<K> =
            wide.clone().map(|(key, _)| key.wide()).collect();
        let single = self.model.frontends.len() - wide.count();
        let counts = self.editor.counts();
        assert_eq!(counts.port_lists as usize, lists.len());
        assert_eq!(counts.entries as usize, self.model.vips.len() + single + lists.len());
    }
}

/// Every destination that a test asks for.
fn destinations<K>(key: fn(u32, u8, u16) -> K) -> Vec<K> {
    let mut keys = Vec::new();
    for vip in 0..4 {
        keys.push(key(vip, PROTOCOL_ANY, 0));
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP, 132] {
            keys.extend((0..8).map(|port| key(vip, protocol, port)));
        }
    }
    keys
}

fn change<K: core::fmt::Debug + Clone + 'static>(
    key: fn(u32, u8, u16) -> K,
) -> impl Strategy<Value = Change<K>> {
    let protocol = prop::sample::select(std::vec![PROTOCOL_TCP, PROTOCOL_UDP]);
    let ports = prop_oneof![
        3 => (1_u16..7).prop_map(|port| port..=port),
        2 => (1_u16..7, 0_u16..6).prop_map(|(first, more)| first..=first + more),
        1 => Just(1..=u16::MAX),
    ];
    let frontend = (0_u32..3, protocol, ports)
        .prop_map(move |(vip, protocol, ports)| (key(vip, protocol, *ports.start()), *ports.end()));
    let number = 0_u32..4096;
    let vip = move || (0_u32..3).prop_map(move |vip| key(vip, PROTOCOL_ANY, 0));
    prop_oneof![
        4 => (vip(), 0_u32..4).prop_map(|(key, flags)| Change::PutVip(key, flags)),
        2 => vip().prop_map(Change::RemoveVip),
        9 => (frontend.clone(), number, 0_u32..4)
            .prop_map(|((key, last), service, flags)| Change::Put(key, last, service, flags)),
        6 => frontend.prop_map(|(key, last)| Change::Remove(key, last)),
        2 => (0_u64..1200).prop_map(Change::Pause),
        1 => Just(Change::Restart),
    ]
}

#[test]
fn whole_table_is_used() {
    let maps = HostMaps::<V4>::new();
    let mut bed = Bed::new(&maps);
    // 64 VIPs with 255 ports each: sequential, as configurations are.
    let mut entries = 0;
    for vip in 0..64 {
        bed.make(&maps, &Change::PutVip(v4(vip, PROTOCOL_ANY, 0), 0)).unwrap();
        entries += 1;
        for port in 1..=255 {
            let key = v4(vip, PROTOCOL_TCP, port);
            bed.editor.put_frontend(&maps, &key, port, u32::from(port), 0, 0).unwrap();
            entries += 1;
        }
    }
    assert_eq!((entries, bed.editor.counts().entries), (MAX_FRONTENDS, MAX_FRONTENDS));
    let more = v4(64, PROTOCOL_TCP, 1);
    assert_eq!(bed.editor.put_frontend(&maps, &more, 1, 1, 0, 0), Err(EditError::Full));
    assert_eq!(lookup(&maps, &more), Frontend::default());
    for vip in 0..64 {
        for port in 1..=255 {
            let answer = lookup(&maps, &v4(vip, PROTOCOL_TCP, port));
            assert_eq!((answer.is_served(), answer.service), (true, u32::from(port)));
        }
        assert_eq!(lookup(&maps, &v4(vip, PROTOCOL_TCP, 256)).state, FrontendState::Unserved);
    }
    // Those of the second bucket are few: most packets look at one line.
    let overflowed = (0..2 * FRONTEND_BUCKETS).filter(|bucket| {
        let word = &maps.bucket(*bucket).unwrap()[0][V4 - 1];
        FrontendValue::from_raw(maps.load(word)).is_overflowed()
    });
    assert!(overflowed.count() < 100, "of {FRONTEND_BUCKETS} buckets");
    let again = Editor::<V4, FrontendKeyV4>::adopt(&maps, QUARANTINE_MS, 0).unwrap();
    assert_eq!(again.counts().entries, MAX_FRONTENDS);
}

#[test]
fn seeds_differ_in_what_they_put_together() {
    // Regular keys, in a table five times as full as the real one can be.
    let maps = HostMaps::<V6>::with_buckets(64);
    let mut bed = Bed::new(&maps);
    for index in 0..150 {
        bed.make(&maps, &Change::Pause(QUARANTINE_MS)).unwrap();
        let key = v6(index / 16 * 65_536, PROTOCOL_UDP, (index as u16 % 16) * 4096 + 4095);
        let last = key.port().get();
        bed.make(&maps, &Change::Put(key, last, index, 1)).unwrap();
    }
    bed.check_contents(&maps);
    assert_ne!(entry::header(&maps).unwrap(), FrontendHeader::default());
}

#[test]
fn most_specific_frontend_wins() {
    let maps = HostMaps::<V4>::new();
    let mut bed = Bed::new(&maps);
    let key = |port| v4(1, PROTOCOL_TCP, port);
    let mut put = |first, last, service| {
        bed.make(&maps, &Change::Put(key(first), last, service, service % 2)).unwrap();
    };
    put(1, u16::MAX, 1);
    put(8000, 8999, 2);
    put(8500, 8600, 3);
    put(8550, 8650, 4);
    put(8080, 8080, 5);
    let check = |port, service: u32| {
        let answer = lookup(&maps, &key(port));
        assert_eq!((answer.is_served(), answer.service), (true, service), "port {port}");
        assert_eq!(answer.flags, service % 2, "port {port}");
        assert_eq!(answer.ring, ring_number(service, FAMILY_V4, PROTOCOL_TCP));
    };
    check(1, 1);
    check(7999, 1);
    check(8000, 2);
    check(8080, 5);
    check(8500, 3);
    // Both are 101 ports wide: the one that begins first.
    check(8560, 3);
    check(8601, 4);
    check(8999, 2);
    check(9000, 1);
    check(u16::MAX, 1);
    assert!(!lookup(&maps, &key(0)).is_served(), "port 0 is in no range");
    assert!(!lookup(&maps, &v4(1, PROTOCOL_UDP, 80)).is_served(), "another protocol");
    assert!(!lookup(&maps, &v4(2, PROTOCOL_TCP, 80)).is_vip(), "another address");
}

#[test]
fn limits_are_said() {
    let maps = HostMaps::<V4>::new();
    let mut bed = Bed::new(&maps);
    let mut put = |key: FrontendKeyV4, last, service| {
        bed.editor.put_frontend(&maps, &key, last, service, 0, 0)
    };
    for first in 1..=16 {
        put(v4(1, PROTOCOL_TCP, first), 100, 1).unwrap();
    }
    assert_eq!(put(v4(1, PROTOCOL_TCP, 17), 100, 1), Err(EditError::RangesFull));
    assert_eq!(put(v4(1, PROTOCOL_TCP, 16), 100, 2), Ok(()), "one that is there");
    assert_eq!(put(v4(1, PROTOCOL_TCP, 0), 100, 1), Err(EditError::Invalid));
    assert_eq!(put(v4(1, PROTOCOL_TCP, 5), 4, 1), Err(EditError::Invalid));
    assert_eq!(put(v4(1, PROTOCOL_TCP, 5), 5, 65_536), Err(EditError::Invalid));
    for vip in 2..=MAX_PORT_LISTS {
        put(v4(vip, PROTOCOL_TCP, 1), 2, 1).unwrap();
    }
    let one_too_many = put(v4(MAX_PORT_LISTS + 1, PROTOCOL_TCP, 1), 2, 1);
    assert_eq!(one_too_many, Err(EditError::PortListsFull));
    assert_eq!(bed.editor.counts().port_lists, MAX_PORT_LISTS);
}

#[test]
fn what_a_reader_may_see_is_not_reused() {
    // One bucket: four entries.
    let maps = HostMaps::<V4>::with_buckets(1);
    let mut bed = Bed::new(&maps);
    let key = |port| v4(1, PROTOCOL_TCP, port);
    let put = |port| Change::Put(key(port), port, 1, 0);
    for port in 1..=4 {
        bed.make(&maps, &put(port)).unwrap();
    }
    bed.make(&maps, &Change::Remove(key(1), 1)).unwrap();
    let bucket: Vec<u64> =
        maps.bucket(0).unwrap().iter().flatten().map(|word| maps.load(word)).collect();
    // The same key can have its place again, another one goes to the other half.
    bed.make(&maps, &put(1)).unwrap();
    bed.make(&maps, &Change::Remove(key(1), 1)).unwrap();
    assert_eq!(entry::header(&maps).unwrap().half(), 0);
    bed.make(&maps, &put(5)).unwrap();
    assert_eq!(entry::header(&maps).unwrap().half(), 1);
    let after: Vec<u64> =
        maps.bucket(0).unwrap().iter().flatten().map(|word| maps.load(word)).collect();
    assert_eq!(bucket, after, "readers of the other half find what was there");
    // Neither half has room now, also for an agent that has just started.
    bed.make(&maps, &Change::Remove(key(2), 2)).unwrap();
    assert_eq!(bed.make(&maps, &put(6)), Err(EditError::Busy));
    bed.make(&maps, &Change::Restart).unwrap();
    assert_eq!(bed.make(&maps, &put(6)), Err(EditError::Busy));
    bed.make(&maps, &Change::Pause(QUARANTINE_MS)).unwrap();
    bed.make(&maps, &put(6)).unwrap();
    bed.check_contents(&maps);
}
