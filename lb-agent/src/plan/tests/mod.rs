//! The planner against a kernel that is plain data, with and without faults.

mod faults;
mod scale;
mod scenarios;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{Kernel as _, KernelState, Outcome, Planner, Settings, reconcile};
use crate::model::{
    Backend, BackendPath, BackendState, FrontendAddress, Policy, Protocol, Service, ServiceName,
    Setting, Snapshot,
};

fn frontend(port: u16) -> FrontendAddress {
    FrontendAddress { vip: Ipv4Addr::new(192, 0, 2, 10).into(), protocol: Protocol::Tcp, port }
}

/// A healthy container; its address and its veth follow from `host`.
fn backend(place: &str, instance: u64, host: u8) -> Backend {
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
    }
}

fn service(name: &str, ports: &[u16], mut backends: Vec<Backend>) -> Service {
    backends
        .sort_by(|left, right| (&left.place, &left.instance).cmp(&(&right.place, &right.instance)));
    Service {
        name: ServiceName(name.to_owned()),
        frontends: ports.iter().map(|port| frontend(*port)).collect::<BTreeSet<_>>(),
        backends,
        policy: sized(1021),
    }
}

/// The default policy with a ring of this size.
fn sized(ring_size: u32) -> Arc<Policy> {
    let ring_size = Setting { value: Some(ring_size), ..Setting::default() };
    Arc::new(Policy { ring_size, ..Policy::default() })
}

fn snapshot(services: Vec<Service>) -> Snapshot {
    let services = services.into_iter().map(|it| (it.name.clone(), it)).collect();
    Snapshot { services, ..Snapshot::default() }
}

/// A node: planner, kernel and clock.
struct Node {
    planner: Planner,
    settings: Settings,
    kernel: KernelState,
    now_ms: u64,
}

impl Node {
    fn new(ring_slots: u32) -> Self {
        let settings = Settings { ring_slots, quarantine_ms: 2000 };
        let planner = Planner::new(settings);
        Self { planner, settings, kernel: KernelState::default(), now_ms: 10_000 }
    }

    /// The agent is started anew: all that remains is the kernel's state.
    fn restart(&mut self) {
        self.planner = Planner::new(self.settings);
    }

    /// One plan, shown, and executed.
    fn step(&mut self, snapshot: &Snapshot) -> String {
        let plan = self.planner.plan(&self.kernel, snapshot, self.now_ms);
        let shown = plan.to_string();
        for action in &plan.actions {
            self.kernel.execute(action).unwrap();
        }
        shown
    }

    /// Plans until nothing is left to do.
    fn settle(&mut self, snapshot: &Snapshot) -> Outcome {
        let mut kernel = self.kernel.clone();
        let Self { planner, kernel: mirror, now_ms, .. } = self;
        let outcome = reconcile(planner, &mut kernel, mirror, snapshot, &mut || *now_ms);
        assert_eq!(kernel, self.kernel);
        assert!(outcome.is_settled, "{outcome:?}");
        outcome
    }

    /// Settles now, and again each time it says that it is due, at most until `until_ms`.
    fn rest(&mut self, snapshot: &Snapshot, until_ms: u64) {
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
