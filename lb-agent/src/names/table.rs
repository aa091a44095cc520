//! Which names there are, and what a question about one is answered. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{api::types::View, model::Protocol};

/// Records in an answer: of a name with more, these are enough.
const RECORDS_MAX: usize = 256;

/// The zone of names that get an address from the pool.
pub(super) const POOL_ZONE: &str = "local";

/// Services by the names that clients use for them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    entries: BTreeMap<String, Entry>,
    /// Whether there are no others; false: one that is not here may be that of a living service.
    is_complete: bool,
    has_compose: bool,
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
    /// `ANY`: whatever we like (RFC 8482), which is the addresses.
    Any,
    /// Anything else.
    Other,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The name is not ours.
    Unknown,
    /// It is, and there is nothing of what is asked for.
    Nothing {
        /// The name without its service labels.
        target: String,
        /// Whether there is anything else under the name.
        exists: bool,
    },
    /// Its addresses of the family.
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

/// Whose a name is that is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Who is asked instead of us is to be trusted so far.
    Others(Trust),
    /// It is the zone that our names are in.
    Zone,
    /// Ours, if it were there.
    Nobodys,
    /// Ours, if it is there, which cannot be said yet.
    NotYetKnown,
}

/// What an answer of others is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// All that it says: the name cannot be ours.
    Full,
    /// That there is nothing, for a moment: a service may come that has the name.
    Briefly,
    /// For a moment, and not that there is no such name: a service may have it already.
    Hardly,
}

impl Names {
    /// The names of a view; with those that Compose gives where that is wanted.
    #[must_use]
    pub fn of(view: &View, has_compose_names: bool) -> Self {
        let is_complete = view.is_complete;
        let mut names =
            Self { entries: BTreeMap::new(), is_complete, has_compose: has_compose_names };
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

    /// Whether there are no others.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
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
            // Labels say anything: names of others, or of other services, are not for them to give.
            if name.contains('.')
                || project.contains('.')
                || project.eq_ignore_ascii_case(POOL_ZONE)
            {
                continue;
            }
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
        let (wanted, target) = parts(&name);
        let Some(entry) = self.entries.get(target) else { return Answer::Unknown };
        let ports = entry.ports.iter().filter(|port| wanted.fits(**port)).map(|it| it.1);
        let ports: BTreeSet<u16> = ports.take(RECORDS_MAX).collect();
        // A name with service labels has nothing but ports.
        let is_plain = wanted == Wanted::default();
        let addresses = |fits: fn(&IpAddr) -> bool| -> Vec<IpAddr> {
            let all = entry.addresses.iter().copied().filter(fits);
            all.take(if is_plain { RECORDS_MAX } else { 0 }).collect()
        };
        let addresses = match question {
            Question::V4 => addresses(IpAddr::is_ipv4),
            Question::V6 => addresses(IpAddr::is_ipv6),
            Question::Any => addresses(|_| true),
            Question::Ports if !ports.is_empty() => {
                return Answer::Ports {
                    target: target.to_owned(),
                    ports: ports.into_iter().collect(),
                    addresses: entry.addresses.iter().copied().take(RECORDS_MAX).collect(),
                };
            }
            Question::Ports | Question::Other => Vec::new(),
        };
        if addresses.is_empty() {
            let exists = is_plain || !ports.is_empty();
            return Answer::Nothing { target: target.to_owned(), exists };
        }
        Answer::Addresses(addresses)
    }

    /// Whose a name is that is [`Answer::Unknown`]. `has_pool`: names of `.local` are given addresses.
    #[must_use]
    pub fn whose(&self, name: &str, question: Question, has_pool: bool) -> Whose {
        let name = name.trim_end_matches('.').to_lowercase();
        let (_, target) = parts(&name);
        let labels = if target.is_empty() { 0 } else { target.split('.').count() };
        let is_in_zone = target.rsplit('.').next() == Some(POOL_ZONE);
        match labels {
            1 if has_pool && is_in_zone => Whose::Zone,
            _ if has_pool && is_in_zone && self.is_complete => Whose::Nobodys,
            _ if has_pool && is_in_zone => Whose::NotYetKnown,
            1 | 2 if self.has_compose && self.is_complete => Whose::Others(Trust::Briefly),
            // Nobody else has addresses there, but keys for all that is below. Of two labels many of the
            // world's names are, which are not to fail for as long as Docker does.
            1 if self.has_compose && question != Question::Other => Whose::NotYetKnown,
            1 | 2 if self.has_compose => Whose::Others(Trust::Hardly),
            _ => Whose::Others(Trust::Full),
        }
    }
}

/// What a name without a dot at its end asks for, and of which name.
fn parts(name: &str) -> (Wanted, &str) {
    service_labels(name).unwrap_or((Wanted::default(), name))
}

/// What labels before a name ask for: `_tcp`, `_80._tcp`, `_http._tcp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wanted {
    protocol: Option<Protocol>,
    port: Option<u16>,
}

impl Wanted {
    fn fits(self, (protocol, port): (Protocol, u16)) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.port.is_none_or(|wanted| wanted == port)
    }
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
