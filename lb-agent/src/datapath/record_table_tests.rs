//! Sweeps with a data path that goes on between any two of their calls.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use lb_common::{
    abi::{
        CLASS_ESTABLISHED, FlowKeyV4, FlowRecord, Limits, NetU16, NetU32, SLOT_MOVING, Slot,
        TAKES_NEW, TAKES_OLD,
    },
    engine::{Backend, is_live},
    slots::{Sweep, sweep},
};

use super::{Batch, Kept, RecordTable, Store};

const LIMIT_TICKS: u32 = 100;
const START_TICK: u32 = 100_000;
/// Ages of the records, by port. The third is dead for the sweep's clock, and perhaps not yet for that
/// of a packet under way.
const AGES: [u32; 4] = [5, LIMIT_TICKS, LIMIT_TICKS + 1, LIMIT_TICKS + 50];

fn key(port: u16) -> FlowKeyV4 {
    FlowKeyV4 { client_port: NetU16::new(port), ..FlowKeyV4::default() }
}

fn record(backend: u32, last_seen_tick: u32) -> FlowRecord {
    FlowRecord { backend, generation: 1, last_seen_tick, class: CLASS_ESTABLISHED }
}

fn limits() -> Limits {
    Limits { established_ticks: LIMIT_TICKS, ..Limits::with_cpus(1) }
}

fn backend() -> Backend<NetU32> {
    Backend { state: TAKES_NEW | TAKES_OLD, generation: 1, ..Backend::NONE }
}

/// What the data path does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Packets come of all flows that have a live record.
    Touch,
    /// Each five-tuple opens a new connection, to another backend.
    Open,
    /// The agent is stopped for days, and packets come all the time.
    Stop,
}

const ACTS: [Act; 3] = [Act::Touch, Act::Open, Act::Stop];

struct Fake {
    entries: BTreeMap<u16, FlowRecord>,
    clock: Rc<Cell<u32>>,
    /// What happens before which call.
    acts: Vec<(usize, Act)>,
    calls: usize,
    put_back: usize,
}

impl Fake {
    fn new(acts: &[(usize, Act)]) -> Self {
        let ages = (0..).zip(AGES);
        Self {
            entries: ages.map(|(port, age)| (port, record(1, START_TICK - age))).collect(),
            clock: Rc::new(Cell::new(START_TICK)),
            acts: acts.to_vec(),
            calls: 0,
            put_back: 0,
        }
    }

    fn go_on(&mut self) {
        let acts = self.acts.iter().filter(|(call, _)| *call == self.calls);
        for (_, act) in acts.copied().collect::<Vec<_>>() {
            let now_tick = self.clock.get();
            match act {
                Act::Touch => self.touch(now_tick),
                Act::Open => {
                    for port in 0..AGES.len() as u16 {
                        self.entries.insert(port, record(2, now_tick));
                    }
                }
                Act::Stop => {
                    for tick in now_tick..now_tick + 10 * LIMIT_TICKS {
                        self.touch(tick);
                    }
                    self.clock.set(now_tick + 10 * LIMIT_TICKS);
                }
            }
        }
        self.calls += 1;
    }

    fn touch(&mut self, now_tick: u32) {
        for flow in self.entries.values_mut() {
            if is_live(flow, &backend(), &limits(), now_tick) {
                flow.last_seen_tick = now_tick;
            }
        }
    }

    fn live(&self) -> BTreeSet<u16> {
        let now_tick = self.clock.get();
        let is_it = |flow: &FlowRecord| is_live(flow, &backend(), &limits(), now_tick);
        self.entries.iter().filter(|(_, flow)| is_it(flow)).map(|(port, _)| *port).collect()
    }
}

impl Store<FlowKeyV4, FlowRecord> for Fake {
    fn batch(
        &mut self,
        cursor: Option<u32>,
        keys: &mut [FlowKeyV4],
        values: &mut [FlowRecord],
    ) -> io::Result<Batch> {
        assert_eq!(cursor, None, "all fit in one batch");
        self.go_on();
        for (index, (port, flow)) in self.entries.iter().enumerate() {
            (keys[index], values[index]) = (key(*port), *flow);
        }
        Ok(Batch { count: self.entries.len(), next: None })
    }

    fn get(&mut self, key: &FlowKeyV4) -> anyhow::Result<Option<FlowRecord>> {
        self.go_on();
        Ok(self.entries.get(&key.client_port.get()).copied())
    }

    fn take(&mut self, key: &FlowKeyV4) -> anyhow::Result<Option<FlowRecord>> {
        self.go_on();
        Ok(self.entries.remove(&key.client_port.get()))
    }

    fn put_back(&mut self, key: &FlowKeyV4, flow: &FlowRecord) -> anyhow::Result<()> {
        self.go_on();
        self.put_back += 1;
        self.entries.entry(key.client_port.get()).or_insert(*flow);
        Ok(())
    }
}

/// Sweeps a moving slot while these things happen. Returns the table and how often it was noted that a
/// packet may have missed a record.
fn swept(acts: &[(usize, Act)]) -> (Fake, usize) {
    let fake = Fake::new(acts);
    let clock = Rc::clone(&fake.clock);
    let mut table = RecordTable::new(fake, 8);
    let slot = Slot::new(2, 1, SLOT_MOVING, START_TICK - 10);
    let mut rewritten = 0;
    let judge = |_: &FlowKeyV4, flow: &FlowRecord, now_tick| -> Sweep {
        sweep(flow, &backend(), Some(slot), &limits(), now_tick)
    };
    let note = |kept, _: &FlowKeyV4, _: &FlowRecord| {
        rewritten += usize::from(kept == Kept::Rewritten);
    };
    let pass = table.sweep(|| clock.get(), judge, note).expect("the fake never fails");
    assert!(pass.is_whole);
    assert!(!acts.is_empty() || table.counted() == table.store.entries.len() as u64);
    (table.store, rewritten)
}

/// Checks what is alive after a sweep and these acts against the same acts alone. Returns how often a
/// packet may have missed a record.
fn check(acts: &[(usize, Act)]) -> usize {
    let (fake, rewritten) = swept(acts);
    let mut undisturbed = Fake::new(acts);
    for _ in 0..fake.calls {
        undisturbed.go_on();
    }
    let (is_there, should_be_there) = (fake.live(), undisturbed.live());
    let missing = should_be_there.difference(&is_there).count();
    // An agent that is stopped between taking a record away and putting it back has noted that.
    let may_miss = if acts.iter().any(|(_, act)| *act == Act::Stop) { rewritten } else { 0 };
    assert!(missing <= may_miss, "{acts:?}: {is_there:?} of {should_be_there:?}");
    assert_eq!(fake.put_back, rewritten, "{acts:?}");
    rewritten
}

#[test]
fn nothing_that_lives_is_deleted_whatever_happens_meanwhile() {
    let calls = swept(&[]).0.calls;
    let mut rewritten = 0;
    for (act, first) in ACTS.into_iter().flat_map(|act| (0..calls + 2).map(move |it| (act, it))) {
        assert!(check(&[(first, act)]) == 0 || act == Act::Open);
        for other in ACTS {
            rewritten += (first..calls + 3)
                .map(|second| check(&[(first, act), (second, other)]))
                .sum::<usize>();
        }
    }
    assert!(rewritten > 0, "no record was written between look and deletion");
}

#[test]
fn what_is_dead_goes() {
    let (fake, rewritten) = swept(&[]);
    // The third may still be touched by a packet that read the clock before us.
    assert_eq!(fake.entries.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(rewritten, 0);
}
