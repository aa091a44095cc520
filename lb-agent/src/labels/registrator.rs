//! `SERVICE_*` of environment and labels, as Registrator reads them: which names a container's
//! ports have, and how they are checked.
//!
//! Names become services where the configuration gives them frontends. The checks are probes of
//! ours: they run against the container or in it, never on the node.

use std::collections::{BTreeMap, BTreeSet};

use super::{aliyun::LabelError, container::ContainerPort, known, shown};
use crate::{
    grammar,
    model::{HttpProbe, InitialState, Origin, ProbeKind, Protocol, Setting, Wishes},
};

/// What the variables and labels begin with.
pub const PREFIX: &str = "SERVICE_";

/// Time between checks when nobody says otherwise, as in the original.
pub(super) const INTERVAL_MS: u32 = 10_000;
/// Longest name of a service.
const NAME_CHARS_MAX: usize = 128;
/// Unknown names that are compared with those of checks.
const COMPARED_MAX: usize = 100;
/// Kinds of checks in the order in which the original looks for them.
const CHECKS: [&str; 7] = [
    "CHECK_HTTP",
    "CHECK_HTTPS",
    "CHECK_CMD",
    "CHECK_SCRIPT",
    "CHECK_TTL",
    "CHECK_TCP",
    "CHECK_GRPC",
];

/// The variables and labels of one container, sorted out.
#[derive(Debug, Default)]
pub struct Metadata<'a> {
    /// By port, `None` for all of them, and key without prefix. Labels replace variables.
    values: BTreeMap<(Option<u16>, &'a str), Value<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Value<'a> {
    key: &'a str,
    text: &'a str,
    is_label: bool,
}

/// A port of a container, and the name of the service that it is part of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPort {
    /// Name of the service.
    pub name: String,
    /// Port on which the container listens.
    pub port: u16,
    /// `None` when only a variable names the port.
    pub protocol: Option<Protocol>,
    /// The variable or label that names it, safe to show; `None`: its image does.
    pub key: Option<String>,
    /// The same, for people.
    pub source: String,
}

impl<'a> Metadata<'a> {
    /// Sorts them out.
    pub fn read(
        environment: &'a BTreeMap<String, String>,
        labels: &'a BTreeMap<String, String>,
    ) -> Self {
        let mut values = BTreeMap::new();
        for (all, is_label) in [(environment, false), (labels, true)] {
            for (key, text) in all {
                let Some(rest) = key.strip_prefix(PREFIX) else { continue };
                let place = match rest.split_once('_') {
                    Some((port, name)) => match grammar::port(port) {
                        Ok(port) => (Some(port), name),
                        Err(_) => (None, rest),
                    },
                    None => (None, rest),
                };
                values.insert(place, Value { key, text: text.trim(), is_label });
            }
        }
        Self { values }
    }

    fn find(&self, port: u16, name: &'static str) -> Option<&Value<'a>> {
        let given = |value: &&Value<'a>| !value.text.is_empty();
        let at = |port: Option<u16>| self.values.get(&(port, name)).filter(given);
        at(Some(port)).or_else(|| at(None))
    }

    /// The container's ports with the names of their services. `image` names what has no name.
    pub fn ports(
        &self,
        ports: &BTreeSet<ContainerPort>,
        image: Option<&str>,
    ) -> impl Iterator<Item = NamedPort> {
        let published = ports.iter().filter(|port| port.is_published).count();
        let registered = ports.iter().filter(|port| port.is_published || published == 0);
        let mut all: BTreeSet<(u16, Option<Protocol>)> =
            registered.map(|port| (port.port, Some(port.protocol))).collect();
        let is_group = all.len() > 1;
        let numbers: BTreeSet<u16> = all.iter().map(|(port, _)| *port).collect();
        let named = self.values.keys().filter(|(_, name)| *name == "NAME");
        let others = named.filter_map(|(port, _)| port.filter(|port| !numbers.contains(port)));
        all.extend(others.map(|port| (port, None)));
        let ports = all.into_iter().filter(|(port, _)| self.find(*port, "IGNORE").is_none());
        ports.filter_map(move |(port, protocol)| {
            let (name, value) = self.name(port, is_group, image)?;
            let is_name = name.chars().count() <= NAME_CHARS_MAX;
            let key = value.map(|value| shown(value.key));
            let source = match (value, &key) {
                (Some(Value { is_label: true, .. }), Some(key)) => format!("label `{key}`"),
                (Some(_), Some(key)) => format!("variable `{key}`"),
                _ => "its image".to_owned(),
            };
            is_name.then_some(NamedPort { name, port, protocol, key, source })
        })
    }

    /// The name of a port, and what says so; an image if nothing does.
    fn name(
        &self,
        port: u16,
        is_group: bool,
        image: Option<&str>,
    ) -> Option<(String, Option<&Value<'a>>)> {
        let given = |port| self.values.get(&(port, "NAME")).filter(|it| !it.text.is_empty());
        if let Some(value) = given(Some(port)) {
            return Some((value.text.to_owned(), Some(value)));
        }
        let generic = given(None);
        let name = generic.map(|value| value.text).or(image)?;
        Some((if is_group { format!("{name}-{port}") } else { name.to_owned() }, generic))
    }

    /// What is wished for the service at a port. `object` names the container.
    pub fn wishes(&self, port: u16, object: &str) -> (Wishes, Vec<LabelError>) {
        let mut reader = Reader { metadata: self, port, object, errors: Vec::new() };
        let mut wishes = Wishes::default();
        if let Some(probe) = reader.probe() {
            wishes.probe_interval_ms = reader.value("CHECK_INTERVAL", grammar::probe_interval_ms);
            wishes.probe_timeout_ms = reader.value("CHECK_TIMEOUT", grammar::probe_timeout_ms);
            wishes.probe_initial = reader.value("CHECK_INITIAL_STATUS", initial_status);
            wishes.unhealthy_grace_seconds =
                reader.value("CHECK_DEREGISTER_AFTER", grammar::duration_seconds);
            wishes.probe = Some(probe);
        }
        (wishes, reader.errors)
    }

    /// Attributes may have any name; only what looks like a check is worth a word. Of so many.
    pub fn misspelt(&self, compared_max: usize) -> impl Iterator<Item = LabelError> {
        self.misspelt_checks(compared_max).map(|(_, name, value, nearest)| {
            let prefix = shown(&value.key[..value.key.len() - name.len()]);
            let message = format!("there is no such check; did you mean `{prefix}{nearest}`?");
            LabelError { key: shown(value.key), message }
        })
    }

    /// Port, name and value of what looks like a check, of so many, and the check that it looks like.
    fn misspelt_checks(
        &self,
        compared_max: usize,
    ) -> impl Iterator<Item = (Option<u16>, &str, &Value<'a>, &'static str)> {
        let known = || known::REGISTRATOR.iter().map(|known| known.pattern);
        let is_known = move |name: &str| known().any(|known| known == name);
        let unknown = self.values.iter().filter(move |((_, name), _)| !is_known(name));
        unknown.take(compared_max).filter_map(move |((port, name), value)| {
            let checks = known().filter(|name| name.starts_with("CHECK_"));
            Some((*port, *name, value, known::nearest(name, checks)?))
        })
    }

    /// What was probably to be a check of this port.
    fn misspelt_check(&self, port: u16) -> Option<&Value<'a>> {
        let checks = self.misspelt_checks(COMPARED_MAX).filter(|(of, _, value, nearest)| {
            of.is_none_or(|of| of == port) && CHECKS.contains(nearest) && !value.text.is_empty()
        });
        checks.map(|(_, _, value, _)| value).next()
    }
}

struct Reader<'a> {
    metadata: &'a Metadata<'a>,
    port: u16,
    object: &'a str,
    errors: Vec<LabelError>,
}

impl Reader<'_> {
    fn origin(&self, value: &Value<'_>) -> Origin {
        if value.is_label {
            Origin::label(self.object, value.key)
        } else {
            Origin::environment(self.object, value.key)
        }
    }

    fn refuse(&mut self, key: &str, message: String) {
        self.errors.push(LabelError { key: shown(key), message });
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        let value = *self.metadata.find(self.port, name)?;
        match parse(value.text) {
            Ok(parsed) => Some(Setting::new(parsed, self.origin(&value))),
            Err(what) => {
                self.refuse(value.key, format!("the value `{}` {what}", shown(value.text)));
                None
            }
        }
    }

    /// The first kind of check that is there.
    fn probe(&mut self) -> Option<Setting<Option<ProbeKind>>> {
        let mut checks = CHECKS.iter();
        let check = checks.find_map(|name| Some((*name, *self.metadata.find(self.port, name)?)));
        let Some((name, value)) = check else {
            let misspelt = self.metadata.misspelt_check(self.port)?;
            return Some(Wishes::stand_in(self.object, &shown(misspelt.key)));
        };
        let port = self.port;
        let kind = match name {
            "CHECK_HTTP" => self.request(name, "CHECK_HTTP_METHOD").map(ProbeKind::Http),
            "CHECK_HTTPS" => self.request(name, "CHECK_HTTPS_METHOD").map(ProbeKind::Https),
            "CHECK_TCP" => Some(ProbeKind::Tcp { port: None }),
            "CHECK_CMD" | "CHECK_SCRIPT" => {
                let argv = self.value(name, |text| grammar::command(&substituted(text, port)));
                argv.map(|argv| ProbeKind::Command { argv: argv.value })
            }
            _ => {
                let message = "checks of this kind are not supported; use CHECK_HTTP, CHECK_HTTPS, \
                               CHECK_TCP or CHECK_CMD";
                self.refuse(value.key, message.to_owned());
                None
            }
        };
        Some(match kind {
            Some(kind) => Setting::new(Some(kind), self.origin(&value)),
            None => Wishes::stand_in(self.object, value.key),
        })
    }

    fn request(&mut self, name: &'static str, method: &'static str) -> Option<HttpProbe> {
        let path = self.value(name, |text| {
            let slash = if text.starts_with('/') { "" } else { "/" };
            grammar::path(&format!("{slash}{text}"))
        })?;
        let default = HttpProbe::default();
        let method = match self.metadata.find(self.port, method) {
            Some(_) => self.value(method, grammar::token)?.value,
            None => default.method.clone(),
        };
        Some(HttpProbe { path: path.value, method, ..default })
    }
}

/// Consul's words for the state before the first check.
fn initial_status(text: &str) -> Result<InitialState, String> {
    match text {
        "passing" => Ok(InitialState::Healthy),
        "critical" | "warning" => Ok(InitialState::Starting),
        _ => Err("is none of passing, warning, critical".to_owned()),
    }
}

/// The command runs in the container, where the service is reached at its loopback.
fn substituted(text: &str, port: u16) -> String {
    let port = port.to_string();
    let places = [("${SERVICE_IP}", "127.0.0.1"), ("$SERVICE_IP", "127.0.0.1")];
    let ports = [("${SERVICE_PORT}", port.as_str()), ("$SERVICE_PORT", port.as_str())];
    places.iter().chain(&ports).fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests;
