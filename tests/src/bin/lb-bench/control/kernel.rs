//! What the kernel's tables hold, seen from outside the agent.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{MAX_SERVICES, RINGS_PER_SERVICE, RingDescriptor, Slot, map_names};
use lb_tests::process;

/// Time between two looks.
const PAUSE: Duration = Duration::from_micros(250);
/// Slots that are looked at. Of two backends with half of them each, both are among so many.
const SLOTS: u32 = 48;

/// The pinned rings.
pub(super) struct Rings {
    rings: Array<MapData, u64>,
    slots: Array<MapData, u64>,
}

impl Rings {
    pub(super) fn open(pins: &Path) -> Result<Self> {
        let open = |name: &str| -> Result<Array<MapData, u64>> {
            let path = pins.join("maps").join(name);
            let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
            Ok(Array::try_from(Map::Array(data))?)
        };
        Ok(Self { rings: open(map_names::RINGS)?, slots: open(map_names::RING_SLOTS)? })
    }

    /// Numbers of the rings that there are.
    pub(super) fn all(&self) -> Result<BTreeSet<u32>> {
        let mut found = BTreeSet::new();
        for ring in 0..MAX_SERVICES * RINGS_PER_SERVICE {
            if self.rings.get(&ring, 0)? != 0 {
                found.insert(ring);
            }
        }
        Ok(found)
    }

    /// Backends of a ring, as far as its first slots show them.
    fn backends(&self, raw: u64) -> Result<BTreeSet<u32>> {
        let ring = RingDescriptor::from_raw(raw);
        let range = ring.start()..ring.start() + ring.size().min(SLOTS);
        let mut found = BTreeSet::new();
        for index in range {
            found.insert(Slot::from_raw(self.slots.get(&index, 0)?).cur());
        }
        Ok(found)
    }
}

/// Looks at one ring all the time until this is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    changes: Mutex<Vec<(Instant, BTreeSet<u32>)>>,
    is_over: AtomicBool,
}

impl Watch {
    pub(super) fn start(rings: Rings, ring: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || -> Result<()> {
            let mut before = 0;
            while !theirs.is_over.load(Ordering::Relaxed) {
                let raw = rings.rings.get(&ring, 0)?;
                if raw != before {
                    before = raw;
                    let now = Instant::now();
                    let change = (now, rings.backends(raw)?);
                    theirs.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Self { shared, thread: Some(thread) }
    }

    /// Forgets what has changed.
    pub(super) fn clear(&self) {
        self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until the ring has got this many backends; when it did.
    pub(super) fn wait_backends(&self, count: usize) -> Result<Instant> {
        let what = format!("a ring of {count} backends");
        process::wait_for(&what, Duration::from_secs(20), || {
            let changes = self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let found = changes.iter().find(|(_, backends)| backends.len() == count);
            ensure!(found.is_some(), "changes: {changes:?}");
            Ok(found.map(|(at, _)| *at))
        })?
        .context("no change")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("watching the rings: {error:#}"),
            Some(Err(_panic)) => eprintln!("watching the rings: a panic"),
            _ => {}
        }
    }
}
