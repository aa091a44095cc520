//! What of the granted claims the tables have room for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Joined, Limits, Refusals, refuse};
use crate::model::{Backend, FrontendAddress, Protocol, ServiceName, Snapshot};

/// As many services, frontends and backends as there is room for, the oldest first, so that a new
/// one never displaces what already works. True: some find none that had room if they were alone.
pub(super) fn fit(
    services: BTreeMap<ServiceName, Joined>,
    limits: Limits,
    refusals: &mut Refusals,
) -> (Snapshot, bool) {
    let mut by_age: Vec<Joined> = services.into_values().collect();
    by_age.sort_by(|left, right| {
        (left.since_ms, &left.service.name).cmp(&(right.since_ms, &right.service.name))
    });
    let mut snapshot = Snapshot::default();
    let mut room = Room::new(limits);
    for joined in by_age {
        let Joined { mut service, backends, .. } = joined;
        let object = object(&service.name);
        if snapshot.services.len() == limits.services {
            let message = format!(
                "the node has room for {} services, and older ones have it all; remove one",
                limits.services
            );
            room.is_short = true;
            refuse(refusals, &service.name, &object, message);
            continue;
        }
        let wanted = service.frontends.len();
        service.frontends.retain(|frontend| room.take_frontend(frontend));
        if service.frontends.len() < wanted {
            let message = format!(
                "{} of {wanted} frontends find no room among the {} that the node can have, or \
                 the {} ranges of one VIP and protocol; remove others",
                wanted - service.frontends.len(),
                limits.frontends,
                limits.ranges_per_list
            );
            room.is_short = true;
            refuse(refusals, &service.name, &object, message);
        }
        if service.frontends.is_empty() {
            continue;
        }
        service.backends = room.take_backends(backends, &service.name, refusals);
        snapshot.services.insert(service.name.clone(), Arc::new(service));
    }
    (snapshot, room.is_short)
}

fn object(service: &ServiceName) -> String {
    format!("service `{service}`")
}

/// What of the limits is used.
struct Room {
    limits: Limits,
    backends: usize,
    /// Entries per address family: frontends of one port, and one for each VIP and for each list.
    frontends: [usize; 2],
    /// Lists of ranges per address family.
    port_lists: [usize; 2],
    /// Ranges by list.
    ranges: BTreeMap<(IpAddr, Protocol), usize>,
    vips: BTreeSet<IpAddr>,
    /// Something found no room.
    is_short: bool,
}

impl Room {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            backends: 0,
            frontends: [0; 2],
            port_lists: [0; 2],
            ranges: BTreeMap::new(),
            vips: BTreeSet::new(),
            is_short: false,
        }
    }

    fn take_frontend(&mut self, frontend: &FrontendAddress) -> bool {
        let family = usize::from(frontend.vip.is_ipv6());
        let list = (frontend.vip, frontend.protocol);
        let ranges = self.ranges.get(&list).copied().unwrap_or(0);
        let is_wide = frontend.ports.is_wide();
        let is_new_list = is_wide && ranges == 0;
        let own = usize::from(!is_wide || is_new_list);
        let needed = own + usize::from(!self.vips.contains(&frontend.vip));
        let has_room = self.frontends[family] + needed <= self.limits.frontends
            && !(is_wide && ranges >= self.limits.ranges_per_list)
            && !(is_new_list && self.port_lists[family] >= self.limits.port_lists);
        if has_room {
            self.frontends[family] += needed;
            self.port_lists[family] += usize::from(is_new_list);
            if is_wide {
                self.ranges.insert(list, ranges + 1);
            }
            self.vips.insert(frontend.vip);
        }
        has_room
    }

    fn take_backends(
        &mut self,
        backends: BTreeMap<(String, String, bool), (Backend, String)>,
        service: &ServiceName,
        refusals: &mut Refusals,
    ) -> Vec<Backend> {
        let mut backends: Vec<Backend> =
            backends.into_values().map(|(backend, _)| backend).collect();
        let wanted = backends.len();
        let own = self.limits.backends_per_service;
        let total = self.limits.backends - self.backends;
        let granted = wanted.min(own).min(total);
        if granted < wanted {
            let message = format!(
                "{} of {wanted} backends find no room: a service can have {own} and the node {}; \
                 the newest are left out",
                wanted - granted,
                self.limits.backends
            );
            self.is_short |= granted < own;
            refuse(refusals, service, &object(service), message);
            backends.sort_by(|left, right| age(left).cmp(&age(right)));
            backends.truncate(granted);
            backends.sort_by(|left, right| place(left).cmp(&place(right)));
        }
        self.backends += granted;
        backends
    }
}

fn age(backend: &Backend) -> impl Ord + '_ {
    (backend.started_at_ms, &backend.place, &backend.instance)
}

fn place(backend: &Backend) -> impl Ord + '_ {
    (&backend.place, &backend.instance)
}
