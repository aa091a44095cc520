//! The agent: numbers, publications, scans.

use std::collections::{BTreeMap, HashSet, VecDeque};

use lb_common::{
    abi::{
        BACKEND_NONE, Limits, PROTOCOL_UDP, RingDescriptor, Slot, TAKES_OLD, TAKES_OLD_DATAGRAMS,
        ticks_from_seconds,
    },
    engine::host::HostTables,
    rules::{Rule, is_broken},
    slots::{Finding, Moment, SlotTimes, Sweep, advance, sweep},
};

use crate::{
    cluster::{Cluster, SECOND},
    net::{Net, Records, backend},
};

pub(crate) const RINGS: [u32; 2] = [0, 1];
pub(crate) const SLOTS: u32 = 3;
const EXTENTS: u32 = 4;
const NUMBERS: u32 = 12;
pub(crate) const HASH_SEED: u64 = 7;
/// How long a CPU may go on with the ring before.
pub(crate) const LAG_MAX: u64 = 1000;

/// The ring of a protocol.
pub(crate) fn ring_of(protocol: u32) -> u32 {
    let is_udp = protocol == u32::from(PROTOCOL_UDP) && !is_broken(Rule::RingPerProtocol);
    RINGS[usize::from(is_udp)]
}

/// What is written first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    StatesFirst,
    RingsFirst,
}

/// The second half of a publication.
#[derive(Clone, Debug, Default)]
struct Pending {
    states: Vec<(u32, u8)>,
    rings: Vec<(u32, Vec<Slot>)>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) order: Order,
    hold_ticks: u32,
    /// The ring before the last publication, and until when it may be read.
    pub(crate) previous: BTreeMap<u32, (RingDescriptor, u64)>,
    /// (number, when it may be used again); generations by number.
    free: VecDeque<(u32, u64)>,
    generations: BTreeMap<u32, u32>,
    pub(crate) instance_of: BTreeMap<(u32, u32), usize>,
    /// State by instance, as the agent sees it: what is gone for it owns nothing any more, even if
    /// the kernel has not been told.
    pub(crate) decided: BTreeMap<usize, u8>,
    extent: BTreeMap<u32, u32>,
    epoch: u32,
    pending: Option<Pending>,
    published_at: u64,
    scan: Option<Scan>,
    findings: BTreeMap<(u32, u32), Finding>,
}

#[derive(Clone, Debug, Default)]
struct Scan {
    begun_tick: u32,
    others: HashSet<(u32, u32)>,
    /// The ring whose frontend is not there while the scan goes on.
    absent: Option<u32>,
    /// Hashes of flows whose established records are to be deleted: read, and not looked at since.
    doomed: HashSet<u32>,
}

pub(crate) fn tick(now: u64) -> u32 {
    // Some days after boot.
    lb_common::abi::ticks_from_ns((now + 300_000_000) * 1_000_000)
}

impl Agent {
    pub(crate) fn new(order: Order, hold_seconds: u32) -> Self {
        Self {
            order,
            hold_ticks: ticks_from_seconds(hold_seconds),
            previous: BTreeMap::new(),
            free: (1..=NUMBERS).map(|number| (number, 0)).collect(),
            generations: BTreeMap::new(),
            instance_of: BTreeMap::new(),
            decided: BTreeMap::new(),
            extent: BTreeMap::new(),
            epoch: 0,
            pending: None,
            published_at: 0,
            scan: None,
            findings: BTreeMap::new(),
        }
    }

    /// Looks at the cluster and writes the first half of what follows. Returns whether there is a
    /// second half.
    pub(crate) fn plan<A: Net>(
        &mut self,
        now: u64,
        cluster: &mut Cluster,
        tables: &mut HostTables<A>,
    ) -> bool {
        if self.pending.is_some()
            || (self.published_at != 0 && now < self.published_at + 2 * LAG_MAX)
        {
            return self.pending.is_some();
        }
        self.take_numbers(now, cluster, tables);
        let mut pending = Pending::default();
        for (index, instance) in cluster.instances.iter().enumerate() {
            let Some((number, generation)) = instance.number else { continue };
            let known = backend(tables, number);
            let state = instance.state(now);
            self.decided.insert(index, state);
            if known.generation == generation && known.state != state {
                pending.states.push((number, state));
            }
        }
        for ring in RINGS {
            let before = slots(tables, tables.rings.get(&ring).copied().unwrap_or_default());
            let after = self.next_slots(now, ring, &before, cluster, tables);
            if after != before {
                pending.rings.push((ring, after));
            }
        }
        match self.order {
            Order::StatesFirst => store_states(&std::mem::take(&mut pending.states), tables),
            Order::RingsFirst => {
                let rings = std::mem::take(&mut pending.rings);
                self.store_rings(now, &rings, tables);
            }
        }
        let is_half_done = !pending.rings.is_empty() || !pending.states.is_empty();
        self.pending = is_half_done.then_some(pending);
        is_half_done
    }

    /// Writes the second half.
    pub(crate) fn finish<A: Net>(&mut self, now: u64, tables: &mut HostTables<A>) {
        let Some(pending) = self.pending.take() else { return };
        store_states(&pending.states, tables);
        self.store_rings(now, &pending.rings, tables);
    }

    fn next_slots<A: Net>(
        &self,
        now: u64,
        ring: u32,
        before: &[Slot],
        cluster: &Cluster,
        tables: &HostTables<A>,
    ) -> Vec<Slot> {
        let is_udp = ring == RINGS[1];
        let times = if is_udp {
            SlotTimes::datagrams(&tables.limits)
        } else {
            SlotTimes::tcp(&tables.limits, self.hold_ticks)
        };
        let refused_tick =
            tables.refusals.borrow().get(&ring).map_or(0, |refusals| refusals.refused_tick);
        let moment = Moment { now_tick: tick(now), refused_tick, times };
        let keeps = if is_udp { TAKES_OLD_DATAGRAMS } else { TAKES_OLD };
        let is_gone = |number: u32| {
            let generation = backend(tables, number).generation;
            let instance = self.instance_of[&(number, generation)];
            cluster.instances[instance].state(now) & keeps == 0
        };
        (0..SLOTS)
            .map(|index| {
                let wanted = cluster.wanted(u64::from(index), now);
                let wanted = wanted.and_then(|instance| cluster.instances[instance].number);
                let wanted = wanted.map_or(BACKEND_NONE, |(number, _)| number);
                match before.get(index as usize) {
                    None => Slot::plain(wanted),
                    Some(slot) => {
                        let finding = self.findings.get(&(ring, index)).copied();
                        advance(*slot, wanted, &moment, is_gone, finding)
                    }
                }
            })
            .collect()
    }

    fn take_numbers<A: Net>(
        &mut self,
        now: u64,
        cluster: &mut Cluster,
        tables: &mut HostTables<A>,
    ) {
        self.release_numbers(now, cluster, tables);
        for (index, instance) in cluster.instances.iter_mut().enumerate() {
            if instance.number.is_some() || instance.state(now) == 0 {
                continue;
            }
            let Some((number, _)) = self.free.pop_front_if(|(_, from)| *from <= now) else {
                return;
            };
            let generation = self.generations.entry(number).or_insert(0);
            *generation += 1;
            instance.number = Some((number, *generation));
            self.instance_of.insert((number, *generation), index);
            let record = A::record(instance.state(now), *generation, number);
            tables.backends.insert(number, record);
        }
    }

    /// Numbers that nothing refers to any more, except records: those have a generation.
    fn release_numbers<A: Net>(&mut self, now: u64, cluster: &Cluster, tables: &HostTables<A>) {
        let published = RINGS.map(|ring| tables.rings.get(&ring).copied().unwrap_or_default());
        let previous = self.previous.values().map(|(descriptor, _)| *descriptor);
        let in_use: HashSet<u32> = published
            .into_iter()
            .chain(previous)
            .flat_map(|descriptor| slots(tables, descriptor))
            .flat_map(|slot| [slot.cur(), slot.old()])
            .collect();
        for instance in &cluster.instances {
            let Some((number, generation)) = instance.number else { continue };
            let is_last = self.generations[&number] == generation;
            if is_last
                && backend(tables, number).state == 0
                && !in_use.contains(&number)
                && !self.free.iter().any(|(free, _)| *free == number)
            {
                self.free.push_back((number, now + 5 * SECOND));
            }
        }
    }

    fn store_rings<A: Net>(
        &mut self,
        now: u64,
        rings: &[(u32, Vec<Slot>)],
        tables: &mut HostTables<A>,
    ) {
        for (ring, slots) in rings {
            let extent = self.extent.entry(*ring).or_insert(0);
            *extent = (*extent + 1) % EXTENTS;
            let start = (*ring * EXTENTS + *extent) * SLOTS;
            let end = start as usize + slots.len();
            if tables.slots.len() < end {
                tables.slots.resize(end, Slot::default());
            }
            tables.slots[start as usize..end].copy_from_slice(slots);
            self.epoch += 1;
            let descriptor = RingDescriptor::new(start, SLOTS, self.epoch);
            let before = tables.rings.insert(*ring, descriptor).unwrap_or(descriptor);
            self.previous.insert(*ring, (before, now + LAG_MAX));
            self.published_at = now;
        }
    }

    /// The first half of a scan: half-open records.
    pub(crate) fn begin_scan<A: Net>(&mut self, now: u64, tables: &HostTables<A>) {
        // Now and then somebody takes a frontend away and puts it back.
        let absent = RINGS.into_iter().find(|ring| now % 10 == u64::from(*ring));
        let mut scan = Scan { begun_tick: tick(now), absent, ..Scan::default() };
        sweep_table(now, tables, &mut tables.half_flows.borrow_mut(), &mut scan);
        let mut read = scan.clone();
        let mut flows = tables.flows.borrow().clone();
        let before: HashSet<u32> = flows.iter().map(|(key, _)| hash_of::<A>(key)).collect();
        sweep_table(now, tables, &mut flows, &mut read);
        let kept = flows.iter().map(|(key, _)| hash_of::<A>(key)).collect();
        scan.doomed = before.difference(&kept).copied().collect();
        self.scan = Some(scan);
    }

    /// The second half: established records.
    pub(crate) fn finish_scan<A: Net>(&mut self, now: u64, tables: &mut HostTables<A>) {
        let Some(mut scan) = self.scan.take() else { return };
        sweep_table(now, tables, &mut tables.flows.borrow_mut(), &mut scan);
        let (records_max, counted) = {
            let flows = tables.flows.borrow();
            (u32::try_from(flows.entries_max).expect("few"), flows.len() as u64)
        };
        let inserted = tables.flow_insertions.get().since(tables.flow_room.epoch);
        tables.flow_room =
            tables.flow_room.after_pass(records_max, counted, u64::from(inserted), 1);
        for ring in RINGS {
            for index in 0..SLOTS {
                let has_other = scan.others.contains(&(ring, index));
                let finding = Finding { begun_tick: scan.begun_tick, has_other };
                self.findings.insert((ring, index), finding);
            }
        }
    }
}

fn sweep_table<A: Net>(
    now: u64,
    tables: &HostTables<A>,
    records: &mut Records<A>,
    scan: &mut Scan,
) {
    let entries: Vec<_> = records.iter().map(|(key, record)| (*key, *record)).collect();
    for (key, record) in entries {
        let ring = ring_of(A::tuple(&key).protocol);
        let descriptor = tables.rings[&ring];
        let index = descriptor.slot_index(hash_of::<A>(&key));
        let slot = tables.slots[index as usize];
        let is_absent = scan.absent == Some(ring);
        let slot = (!is_absent).then_some(slot);
        let backend = backend(tables, record.backend);
        let is_doomed =
            scan.doomed.contains(&hash_of::<A>(&key)) && is_broken(Rule::RewrittenRecordsStay);
        match sweep(&record, &backend, slot, &tables.limits, tick(now)) {
            _ if is_doomed => records.remove(&key),
            Sweep::Delete => records.remove(&key),
            Sweep::Keep if is_absent => {
                scan.others.extend((0..SLOTS).map(|index| (ring, index)));
            }
            Sweep::Keep => {
                scan.others.insert((ring, index - descriptor.start()));
            }
            Sweep::Ignore => {}
        }
    }
}

fn store_states<A: Net>(states: &[(u32, u8)], tables: &mut HostTables<A>) {
    for (number, state) in states {
        if let Some(record) = tables.backends.get_mut(number) {
            A::set_state(record, *state);
        }
    }
}

/// Which slot a flow falls on.
pub(crate) fn hash_of<A: Net>(flow: &A::FlowKey) -> u32 {
    A::flow_hash(HASH_SEED, &A::tuple(flow))
}

pub(crate) fn slots<A: Net>(tables: &HostTables<A>, descriptor: RingDescriptor) -> Vec<Slot> {
    let start = descriptor.start() as usize;
    tables.slots[start..start + descriptor.size() as usize].to_vec()
}

/// Limits as on a node with one CPU, with another allowance for half-open records.
pub(crate) fn limits(half_open_per_tick: u32) -> Limits {
    Limits { half_open_per_tick, ..Limits::with_cpus(1) }
}
