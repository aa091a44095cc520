//! Who wants which frontends: whether services have anything to do with each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    arbiter::{Holders, Limits, incumbents::first_at},
    model::{Claim, FrontendAddress, Protocol, ServiceName},
    plan::NameHash,
};

/// The frontends of one place may have ports in common.
type Place = (IpAddr, Protocol);

/// The frontends of all claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    by_service: BTreeMap<ServiceName, Vec<FrontendAddress>>,
    by_frontend: BTreeMap<FrontendAddress, Vec<ServiceName>>,
    /// Places with frontends of several ports, and how many they are.
    wide: BTreeMap<Place, usize>,
    /// Frontends that several services may have to do with, and who had them when this was seen.
    contested: BTreeMap<FrontendAddress, Option<NameHash>>,
}

impl Wants {
    /// Those of all claims.
    pub(super) fn of(claims: &[Claim], incumbents: &impl Holders) -> Self {
        let mut wants = Self::default();
        wants.add(claims);
        let narrow = wants.by_frontend.iter().filter(|(_, services)| services.len() > 1);
        let mut contested: BTreeSet<FrontendAddress> = narrow.map(|(one, _)| *one).collect();
        for place in wants.wide.keys().filter(|place| !wants.has_one_service(**place)) {
            contested.extend(wants.at(*place).map(|(frontend, _)| *frontend));
        }
        let seen = contested.into_iter().map(|it| (it, incumbents.holder(&it)));
        wants.contested = seen.collect();
        wants
    }

    /// Whether those have the contested frontends that had them.
    pub(super) fn is_settled(&self, incumbents: &impl Holders) -> bool {
        self.contested.iter().all(|(frontend, holder)| incumbents.holder(frontend) == *holder)
    }

    /// Brings them up to date, now that these are the claims of the touched services. False: one of
    /// them has to do with another service, or had.
    pub(super) fn replace(&mut self, touched: &BTreeSet<ServiceName>, claims: &[Claim]) -> bool {
        for service in touched {
            for frontend in self.by_service.remove(service).unwrap_or_default() {
                if self.contested.contains_key(&frontend) {
                    return false;
                }
                self.remove(frontend, service);
            }
        }
        self.add(claims);
        let frontends = touched.iter().filter_map(|service| self.by_service.get(service)).flatten();
        frontends.into_iter().all(|frontend| {
            let place = (frontend.vip, frontend.protocol);
            let services = self.by_frontend.get(frontend);
            services.is_none_or(|services| services.len() == 1)
                && (!self.wide.contains_key(&place) || self.has_one_service(place))
        })
    }

    /// Whether there is room for all ranges of ports, counted generously.
    pub(super) fn is_within(&self, limits: Limits) -> bool {
        self.wide.len() <= limits.port_lists
            && self.wide.values().all(|ranges| *ranges <= limits.ranges_per_list)
    }

    fn add(&mut self, claims: &[Claim]) {
        let mut last = None;
        for Claim { service, frontend, .. } in claims {
            // Most claims are of a backend more.
            if last.replace((service, frontend)) == Some((service, frontend)) {
                continue;
            }
            let services = self.by_frontend.entry(*frontend).or_default();
            if services.is_empty() && frontend.ports.is_wide() {
                *self.wide.entry((frontend.vip, frontend.protocol)).or_default() += 1;
            }
            if !services.contains(service) {
                services.push(service.clone());
                self.by_service.entry(service.clone()).or_default().push(*frontend);
            }
        }
    }

    fn remove(&mut self, frontend: FrontendAddress, service: &ServiceName) {
        let Some(services) = self.by_frontend.get_mut(&frontend) else { return };
        services.retain(|it| it != service);
        if !services.is_empty() {
            return;
        }
        self.by_frontend.remove(&frontend);
        let place = (frontend.vip, frontend.protocol);
        if frontend.ports.is_wide()
            && let Some(count) = self.wide.get_mut(&place)
        {
            *count -= 1;
            if *count == 0 {
                self.wide.remove(&place);
            }
        }
    }

    fn at(&self, place: Place) -> impl Iterator<Item = (&FrontendAddress, &Vec<ServiceName>)> {
        let (vip, protocol) = place;
        let at_or_behind = self.by_frontend.range(first_at(vip, protocol)..);
        at_or_behind.take_while(move |(it, _)| (it.vip, it.protocol) == place)
    }

    fn has_one_service(&self, place: Place) -> bool {
        let mut services = self.at(place).flat_map(|(_, services)| services);
        let first = services.next();
        services.all(|service| Some(service) == first)
    }
}
