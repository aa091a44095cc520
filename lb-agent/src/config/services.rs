//! `[[service]]` and its backends: what each of them says, and whether it goes together.

use std::{collections::BTreeMap, net::IpAddr, ops::Range, sync::Arc};

use lb_common::abi;
use toml::Spanned;

use super::{
    LabelsConfig, StaticBackend, StaticService,
    address::{parse_backend, parse_frontend},
    owners::Owners,
    policy::Place,
    raw,
    validate::Checker,
};
use crate::{
    maglev::MEMBERS_MAX,
    model::{FrontendAddress, ProbeKind, Protocol, Wishes, only_port},
};

/// Where it is said what a probe does.
fn kind_span(probe: &Spanned<raw::Probe>) -> Range<usize> {
    probe.get_ref().kind.as_ref().map_or_else(|| probe.span(), Spanned::span)
}

impl Checker<'_> {
    /// The services, in the order of the file.
    pub(super) fn services(
        &mut self,
        services: Vec<raw::Service>,
        labels: &LabelsConfig,
        file_name: &str,
    ) -> Vec<StaticService> {
        let mut lines = BTreeMap::new();
        let mut owners = Owners::beside(&labels.registrations);
        let defaults = labels.defaults.without_container();
        let defaults_without_tcp = defaults.without_tcp();
        let mut vips: Vec<IpAddr> = labels.vips().collect();
        let mut backends: usize = 0;
        let mut checked = Vec::new();
        // Backends are compared with every VIP of the file, also with those of later services.
        let mut addresses = Vec::new();
        for (index, mut service) in services.into_iter().enumerate() {
            let span = service.name.span();
            let line = self.line(&span);
            if let Some(first) = lines.insert(service.name.get_ref().clone(), line) {
                let message = format!(
                    "the service `{}` already stands at line {first}; join the two or rename one",
                    service.name.get_ref().escape_debug()
                );
                self.problem(span.clone(), message);
            }
            backends += service.backend.len();
            self.limits(index, &service, backends);
            let object =
                format!("service `{}` in {file_name}, line {line}", service.name.get_ref());
            let expected = service.take_expected();
            let policy = service.take_policy();
            let probe_at = policy.probe.as_ref().map(kind_span);
            let mut wishes = self.policy(policy, &object, Place::Service);
            self.expected(expected, &object, &mut wishes);
            let share = wishes.share.as_ref().and_then(|share| share.value.as_deref());
            let frontends = self.frontends(&service.frontends, line, share, &mut owners);
            // Where one is not understood, that is told already.
            let are_known = frontends.len() == service.frontends.get_ref().len();
            let is_udp = |it: &FrontendAddress| it.protocol == Protocol::Udp;
            if are_known && !frontends.is_empty() && frontends.iter().all(is_udp) {
                self.connecting(&wishes, probe_at);
                wishes.or(&defaults_without_tcp);
            } else {
                wishes.or(&defaults);
            }
            vips.extend(frontends.iter().map(|frontend| frontend.vip));
            let first = addresses.len();
            let static_backends = self.backends(service.backend, &mut addresses);
            self.families(&frontends, &addresses[first..]);
            self.probed_ports(&frontends, &wishes, &static_backends, &addresses[first..]);
            checked.push(StaticService {
                name: self.name(service.name, "name"),
                frontends,
                wishes: Arc::new(wishes),
                backends: static_backends,
                line,
            });
        }
        vips.sort_unstable();
        for (address, span) in addresses {
            if vips.binary_search(&address).is_ok() {
                let message = format!(
                    "the backend address {address} is a VIP of this file; traffic would run in a \
                     circle, so name the server's own address"
                );
                self.problem(span, message);
            }
        }
        checked
    }

    /// A backend that no frontend leads to would never get anything, and nobody would be told.
    fn families(&mut self, frontends: &[FrontendAddress], backends: &[(IpAddr, Range<usize>)]) {
        for (address, span) in backends {
            let is_served = |it: &FrontendAddress| it.vip.is_ipv4() == address.is_ipv4();
            // Without any frontend that is the message.
            if frontends.is_empty() || frontends.iter().any(is_served) {
                continue;
            }
            let (own, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let message = format!(
                "the backend address {address} is {own}, and all frontends of the service are \
                 {other}, which is not translated; add a frontend with an {own} VIP, or name the \
                 server's {other} address"
            );
            self.problem(span.clone(), message);
        }
    }

    /// Where all traffic is of UDP, a probe that connects to its port would fail for ever.
    fn connecting(&mut self, wishes: &Wishes, probe_at: Option<Range<usize>>) {
        let probe = wishes.probe.as_ref().and_then(|probe| probe.value.as_ref());
        if let (Some(span), true) = (probe_at, probe.is_some_and(ProbeKind::is_of_traffic)) {
            let message = "the probe connects to the port of the traffic, and no frontend of the \
                           service is of TCP, so nobody may be listening there; say at which port \
                           the servers do: `port` in [service.probe]";
            self.problem(span, message.to_owned());
        }
    }

    /// A probe of the backend's port needs one.
    fn probed_ports(
        &mut self,
        frontends: &[FrontendAddress],
        wishes: &Wishes,
        backends: &[StaticBackend],
        addresses: &[(IpAddr, Range<usize>)],
    ) {
        let Some(probe) = &wishes.probe else { return };
        if !probe.value.as_ref().is_some_and(ProbeKind::is_of_traffic) || frontends.is_empty() {
            return;
        }
        for (backend, (address, span)) in backends.iter().zip(addresses) {
            if backend.address.port() != 0 || only_port(frontends, *address).is_some() {
                continue;
            }
            let message = format!(
                "the backend {address} has no port, the frontends lead to several, and the probe \
                 ({}) does not say which of them it is about; give the backend a port, or the \
                 probe: `port` in [service.probe]",
                probe.origin
            );
            self.problem(span.clone(), message);
        }
    }

    fn limits(&mut self, index: usize, service: &raw::Service, backends_so_far: usize) {
        let span = service.name.span();
        let max_services = abi::MAX_SERVICES as usize;
        let max_backends = abi::MAX_BACKENDS as usize;
        let own = service.backend.len();
        if index == max_services {
            self.problem(span.clone(), format!("more than {max_services} services; remove some"));
        }
        if own > MEMBERS_MAX {
            self.problem(
                span.clone(),
                format!("{own} backends; a service can have {MEMBERS_MAX}, so split it"),
            );
        }
        if backends_so_far > max_backends && backends_so_far - own <= max_backends {
            let message = format!("more than {max_backends} backends up to here; remove some");
            self.problem(span, message);
        }
    }

    fn frontends(
        &mut self,
        urls: &Spanned<Vec<Spanned<String>>>,
        line: usize,
        share: Option<&str>,
        owners: &mut Owners<'_>,
    ) -> Vec<FrontendAddress> {
        if urls.get_ref().is_empty() {
            let message =
                "`frontends` is empty; name at least one, like tcp://192.0.2.10:80".to_owned();
            self.problem(urls.span(), message);
        }
        let mut frontends = Vec::new();
        for url in urls.get_ref() {
            let Some(frontend) = self.accept(parse_frontend(url.get_ref()), url.span()) else {
                continue;
            };
            if let Err(message) = owners.claim(frontend, line, share) {
                self.problem(url.span(), message);
            }
            frontends.push(frontend);
        }
        frontends
    }

    fn backends(
        &mut self,
        backends: Vec<raw::Backend>,
        addresses: &mut Vec<(IpAddr, Range<usize>)>,
    ) -> Vec<StaticBackend> {
        let mut lines = BTreeMap::new();
        let mut checked = Vec::new();
        for backend in backends {
            let span = backend.address.span();
            let parsed = parse_backend(backend.address.get_ref());
            let weight = backend.weight.map(|weight| {
                let weight = self.number(Some(weight), "weight", 0..=u32::from(u16::MAX), 0);
                u16::try_from(weight).unwrap_or(u16::MAX)
            });
            let Some(address) = self.accept(parsed, span.clone()) else { continue };
            if let Some(first) = lines.insert(address, self.line(&span)) {
                let message = format!(
                    "{address} is already a backend of this service, at line {first}; remove one"
                );
                self.problem(span.clone(), message);
            }
            addresses.push((address.ip(), span));
            checked.push(StaticBackend { address, weight, exclusive: backend.exclusive });
        }
        checked
    }
}
