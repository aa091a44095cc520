//! The planner against a kernel that is plain data, with and without faults.

mod drains;
mod faults;
mod holds;
mod lives;
mod replies;
mod reply_flows;
mod scale;
mod scenarios;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use lb_common::abi::ticks_from_ns;

use super::{Kernel as _, KernelState, Outcome, Planner, Scan, Settings, Sight, Times, reconcile};
use crate::model::{
    Backend, BackendPath, BackendState, FrontendAddress, LocalPrefixes, Policy, Ports, Protocol,
    Service, ServiceName, Setting, Snapshot,
};

fn frontend(port: u16) -> FrontendAddress {
    FrontendAddress {
        vip: Ipv4Addr::new(192, 0, 2, 10).into(),
        protocol: Protocol::Tcp,
        ports: Ports::one(port).expect("a port"),
    }
}

/// A healthy container; its address and its veth follow from `host`.
pub(super) fn backend(place: &str, instance: u64, host: u8) -> Backend {
    Backend {
        place: place.to_owned(),
        instance: format!("c{instance}"),
        display_name: format!("web-{place}"),
        address: SocketAddr::from(([10, 0, 0, host], 8080)),
        weight: 100,
        path: BackendPath::Local { ifindex: u32::from(host) },
        state: BackendState::Healthy,
        started_at_ms: instance,
        reported: None,
        asked_to_end: None,
        network: None,
        replies: crate::model::ReplyFacts::default(),
    }
}

pub(super) fn service(name: &str, ports: &[u16], mut backends: Vec<Backend>) -> Service {
    backends
        .sort_by(|left, right| (&left.place, &left.instance).cmp(&(&right.place, &right.instance)));
    Service {
        name: ServiceName(name.into()),
        frontends: ports.iter().map(|port| frontend(*port)).collect::<BTreeSet<_>>(),
        backends,
        policy: sized(1021),
        exclusive: BTreeSet::new(),
    }
}

/// The default policy with a ring of this size.
fn sized(ring_size: u32) -> Arc<Policy> {
    let ring_size = Setting { value: Some(ring_size), ..Setting::default() };
    Arc::new(Policy { ring_size, ..Policy::default() })
}

pub(super) fn snapshot(services: Vec<Service>) -> Snapshot {
    let services = services.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect();
    Snapshot { services, ..Snapshot::default() }
}

/// A node: planner, kernel and clock.
pub(super) struct Node {
    pub(super) planner: Planner,
    settings: Settings,
    pub(super) kernel: KernelState,
    pub(super) now_ms: u64,
    refused_ticks: BTreeMap<u32, u32>,
    /// Slots of rings that have a record of another backend than their `cur`.
    others: BTreeSet<(u32, u32)>,
}

/// A clock that ticks with the milliseconds, some days after boot.
fn tick_at(now_ms: u64) -> u32 {
    ticks_from_ns((now_ms + 300_000_000) * 1_000_000)
}

/// Everything is seen at once: no record was ever refused, and a scan has just begun and ended.
fn sight(now_ms: u64) -> Sight {
    let now_tick = tick_at(now_ms);
    let scan = Some(Scan::begin(now_tick));
    Sight { now_ms, now_tick, scan, local: Some(LocalPrefixes::new()), ..Sight::default() }
}

impl Node {
    pub(super) fn new(ring_slots: u32) -> Self {
        let settings = Settings { ring_slots, quarantine_ms: 2000, times: Times::default() };
        let planner = Planner::new(settings);
        Self {
            planner,
            settings,
            kernel: KernelState::default(),
            now_ms: 10_000,
            refused_ticks: BTreeMap::new(),
            others: BTreeSet::new(),
        }
    }

    /// The agent is started anew: all that remains is the kernel's state.
    fn restart(&mut self) {
        self.planner = Planner::new(self.settings);
    }

    fn sight(&self) -> Sight {
        let mut sight = sight(self.now_ms);
        sight.refused_ticks.clone_from(&self.refused_ticks);
        for (ring, slot) in &self.others {
            sight.scan.as_mut().unwrap().note_other(*ring, *slot);
        }
        sight
    }

    /// One plan, shown, and executed.
    pub(super) fn step(&mut self, snapshot: &Snapshot) -> String {
        let plan = self.planner.plan(&self.kernel, snapshot, &self.sight());
        let shown = plan.to_string();
        for action in &plan.actions {
            self.kernel.execute(action).unwrap();
        }
        shown
    }

    /// Plans until nothing is left to do.
    pub(super) fn settle(&mut self, snapshot: &Snapshot) -> Outcome {
        let mut kernel = self.kernel.clone();
        let sight = self.sight();
        let Self { planner, kernel: mirror, .. } = self;
        let outcome = reconcile(planner, &mut kernel, mirror, snapshot, &mut || sight.clone());
        assert_eq!(kernel, self.kernel);
        assert!(outcome.is_settled, "{outcome:?}");
        outcome
    }

    /// Settles now, and again each time it says that it is due, at most until `until_ms`.
    pub(super) fn rest(&mut self, snapshot: &Snapshot, until_ms: u64) {
        while let Some(due_ms) = self.settle(snapshot).due_ms.filter(|due_ms| *due_ms <= until_ms) {
            assert!(due_ms > self.now_ms, "due at {due_ms}, and it is {}", self.now_ms);
            self.now_ms = due_ms;
        }
        self.now_ms = until_ms;
        self.settle(snapshot);
    }

    /// Backend number per slot of the ring of the first service.
    fn owners(&self) -> Vec<u32> {
        self.kernel.rings[&0].slots.iter().map(|slot| slot.cur()).collect()
    }
}
