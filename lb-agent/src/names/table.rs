//! Which names there are, and what a question about one is answered. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{api::types::View, model::Protocol};

/// Services by the names that clients use for them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    entries: BTreeMap<String, Entry>,
}

/// What is behind a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(Protocol, u16)>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// `A`.
    V4,
    /// `AAAA`.
    V6,
    /// `SRV`.
    Ports,
    /// Anything else.
    Other,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The name is not ours.
    Unknown,
    /// It is, and these are its addresses of the family, perhaps none.
    Addresses(Vec<IpAddr>),
    /// The ports at the name, which is the target of each.
    Ports {
        /// The name without its service labels.
        target: String,
        /// Ports.
        ports: Vec<u16>,
        /// Addresses of the target.
        addresses: Vec<IpAddr>,
    },
}

impl Names {
    /// The names of a view; with those that Compose gives where that is wanted.
    #[must_use]
    pub fn of(view: &View, has_compose_names: bool) -> Self {
        let mut names = Self::default();
        for vip in &view.vips {
            let ports = vip.frontends.iter().filter(|frontend| !frontend.ports.is_wide());
            let ports: Vec<_> = ports.map(|it| (it.protocol, it.ports.first())).collect();
            for name in &vip.names {
                names.add(name, vip.vip, ports.iter().copied());
            }
        }
        if has_compose_names {
            names.add_compose(view);
        }
        names
    }

    /// `SERVICE.PROJECT`, and `SERVICE` where only one project has one of that name.
    fn add_compose(&mut self, view: &View) {
        let mut projects: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut found = Vec::new();
        for service in &view.services {
            // `compose/PROJECT/SERVICE:PORT`
            let Some(rest) = service.name.0.strip_prefix("compose/") else { continue };
            let Some((project, rest)) = rest.split_once('/') else { continue };
            let Some((name, _)) = rest.rsplit_once(':') else { continue };
            projects.entry(name).or_default().insert(project);
            found.push((project, name, &service.frontends));
        }
        for (project, name, frontends) in found {
            for frontend in frontends {
                let ports = frontend.ports;
                let port = (!ports.is_wide()).then(|| (frontend.protocol, ports.first()));
                self.add(&format!("{name}.{project}"), frontend.vip, port);
                if projects.get(name).is_some_and(|projects| projects.len() == 1) {
                    self.add(name, frontend.vip, port);
                }
            }
        }
    }

    fn add(
        &mut self,
        name: &str,
        address: IpAddr,
        ports: impl IntoIterator<Item = (Protocol, u16)>,
    ) {
        let entry = self.entries.entry(name.to_lowercase()).or_default();
        entry.addresses.insert(address);
        entry.ports.extend(ports);
    }

    /// What a question is answered. `name` may be in any case, with or without a dot at its end.
    #[must_use]
    pub fn answer(&self, name: &str, question: Question) -> Answer {
        let name = name.trim_end_matches('.').to_lowercase();
        let (wanted, target) = match service_labels(&name) {
            Some(found) => found,
            None => (Wanted::default(), name.as_str()),
        };
        let has_labels = wanted != Wanted::default();
        let Some(entry) = self.entries.get(target) else { return Answer::Unknown };
        let of_family = |is_v4: bool| -> Vec<IpAddr> {
            entry.addresses.iter().copied().filter(|it| it.is_ipv4() == is_v4).collect()
        };
        match question {
            Question::V4 if !has_labels => Answer::Addresses(of_family(true)),
            Question::V6 if !has_labels => Answer::Addresses(of_family(false)),
            Question::Ports => {
                let fits = |(protocol, port): &&(Protocol, u16)| {
                    wanted.protocol.is_none_or(|wanted| wanted == *protocol)
                        && wanted.port.is_none_or(|wanted| wanted == *port)
                };
                let ports: BTreeSet<u16> = entry.ports.iter().filter(fits).map(|it| it.1).collect();
                Answer::Ports {
                    target: target.to_owned(),
                    ports: ports.into_iter().collect(),
                    addresses: entry.addresses.iter().copied().collect(),
                }
            }
            _ => Answer::Addresses(Vec::new()),
        }
    }
}

/// What labels before a name ask for: `_tcp`, `_80._tcp`, `_http._tcp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wanted {
    protocol: Option<Protocol>,
    port: Option<u16>,
}

fn service_labels(name: &str) -> Option<(Wanted, &str)> {
    let (first, rest) = name.split_once('.')?;
    let first = first.strip_prefix('_')?;
    if let Some(protocol) = protocol(first) {
        return Some((Wanted { protocol: Some(protocol), port: None }, rest));
    }
    let (second, rest) = rest.split_once('.')?;
    let protocol = protocol(second.strip_prefix('_')?)?;
    let port = match first {
        "http" => 80,
        "https" => 443,
        "domain" | "dns" => 53,
        "redis" => 6379,
        number => number.parse().ok()?,
    };
    Some((Wanted { protocol: Some(protocol), port: Some(port) }, rest))
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}
