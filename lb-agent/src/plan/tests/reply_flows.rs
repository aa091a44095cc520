//! Flows as their replies see them: by which frontend they came, and whether they were recorded.
//!
//! The worst case of everything: where a flow may begin, one does; it has a packet as long as it can,
//! and afterwards is silent but alive for the whole settle time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::abi::{META_REPLY_DEFAULTS, TAKES_NEW, TAKES_OLD};

use crate::{
    model::{Backend, BackendPath, FrontendAddress, Protocol, WaysIn},
    plan::{Action, KernelBackend, KernelState, ReplyPort, ring_of},
};

/// When the latest flow of a frontend to a port had its latest packet.
type Latest = BTreeMap<(ReplyPort, SocketAddr), u64>;

/// The flows of a node.
#[derive(Default)]
pub(super) struct ReplyFlows {
    recorded: Latest,
    unrecorded: Latest,
}

/// A frontend and a backend that it leads to.
struct Way<'a> {
    port: ReplyPort,
    vip: SocketAddr,
    backend: &'a KernelBackend,
    takes_new: bool,
    is_recorded: bool,
}

fn ways(state: &KernelState) -> Vec<Way<'_>> {
    let mut ways = Vec::new();
    for (frontend, service) in &state.frontends {
        let Some(ring) = state.rings.get(&ring_of(*service, frontend)) else { continue };
        for (number, backend) in &state.backends {
            let BackendPath::Local { ifindex } = backend.path else { continue };
            let takes_new = ring.slots.iter().any(|slot| slot.cur() == *number);
            if !takes_new && !ring.slots.iter().any(|slot| slot.old() == *number) {
                continue;
            }
            let FrontendAddress { vip, protocol, ports } = *frontend;
            ways.push(Way {
                port: ReplyPort { ifindex, address: backend.address, protocol },
                vip: SocketAddr::new(vip, ports.first()),
                backend,
                takes_new,
                is_recorded: backend.records_replies || state.recorded_frontends.contains(frontend),
            });
        }
    }
    ways
}

impl ReplyFlows {
    /// Packets go on until now, by the tables as they are.
    pub(super) fn pass(&mut self, state: &KernelState, now_ms: u64) {
        for way in ways(state) {
            let flow = (way.port, way.vip);
            if way.backend.state & TAKES_OLD != 0 {
                for flows in [&mut self.recorded, &mut self.unrecorded] {
                    flows.entry(flow).and_modify(|latest_ms| *latest_ms = now_ms);
                }
            }
            if way.backend.state & TAKES_NEW != 0 && way.takes_new {
                let default = state.reply_defaults.get(&way.port);
                assert!(
                    way.is_recorded || default.is_none_or(|it| !it.has_other_ways),
                    "{}: a flow that is not recorded is taken for one without us:\n{state}",
                    way.port
                );
                let flows = if way.is_recorded { &mut self.recorded } else { &mut self.unrecorded };
                flows.insert(flow, now_ms);
            }
        }
    }

    /// The replies of every living flow find their way.
    pub(super) fn check(&mut self, state: &KernelState, now_ms: u64, settle_ms: u64, by: &Action) {
        for flows in [&mut self.recorded, &mut self.unrecorded] {
            flows.retain(|_, latest_ms| *latest_ms + settle_ms > now_ms);
        }
        for (port, vip) in self.unrecorded.keys() {
            let default = state.reply_defaults.get(port);
            let is_right = default.is_some_and(|default| default.vip == *vip);
            assert!(is_right, "{by}: {port}: {vip} is not recorded:\n{state}");
            assert!(state.reply_interfaces.contains(&port.ifindex), "{by}: {port} to {vip}");
            assert_ne!(state.flags & META_REPLY_DEFAULTS, 0, "{by}");
        }
        for (port, vip) in self.recorded.keys() {
            let default = state.reply_defaults.get(port);
            let is_right = default.is_none_or(|it| it.is_ambiguous || it.vip == *vip);
            assert!(is_right, "{by}: {port}: nobody looks for the records of {vip}:\n{state}");
        }
    }
}

/// Only we lead to it, so it has a default, which is of one of the frontends that lead there.
pub(super) fn assert_replies(state: &KernelState, held: &KernelBackend, backend: &Backend) {
    let BackendPath::Local { ifindex } = held.path else {
        return assert!(held.records_replies, "{state}");
    };
    let port = ReplyPort { ifindex, address: held.address, protocol: Protocol::Tcp };
    let is_led = state
        .frontends
        .iter()
        .any(|(frontend, service)| frontend.protocol == Protocol::Tcp && *service == held.service);
    let is_ours = backend.replies.ways_in == WaysIn::OnlyOurs && held.state != 0 && is_led;
    let leads = |(frontend, service): (&FrontendAddress, &u32)| {
        let is_there = |it: &KernelBackend| {
            (it.service, it.path, it.address) == (*service, held.path, held.address)
        };
        let leads = frontend.protocol == Protocol::Tcp
            && state.backends.values().any(|it| is_there(it) && it.state != 0);
        leads.then(|| SocketAddr::new(frontend.vip, frontend.ports.first()))
    };
    let vips: BTreeSet<SocketAddr> = state.frontends.iter().filter_map(leads).collect();
    let default = state.reply_defaults.get(&port);
    if is_ours && !vips.is_empty() {
        assert!(default.is_some_and(|it| vips.contains(&it.vip)), "{port}: {state}");
    }
    if !is_ours {
        assert!(held.records_replies, "{state}");
    } else if let [vip] = Vec::from_iter(&vips)[..] {
        assert!(!held.records_replies, "{port}: {state}");
        assert_eq!(default.map(|it| it.vip), Some(*vip), "{port}: {state}");
    }
    if vips.is_empty() {
        assert_eq!(default, None, "{port}: {state}");
    }
}
