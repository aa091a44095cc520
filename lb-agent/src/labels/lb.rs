//! Our own labels: `lb.NAME` for all services of a container, `lb.$PORT.NAME` for the one at a
//! container port, which goes before the former.
//!
//! One name is one setting and one grammar; the same values stand in the file. Owns how labels
//! become wishes and frontends, not what is done with them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    aliyun::{BalancerIndex, LabelError},
    known, shown,
};
use crate::{
    config::parse_frontend,
    grammar::{self, ProbeParts, ProbeWord},
    model::{FrontendAddress, Origin, ProbeKind, Setting, Wishes},
};

/// What these labels begin with.
pub const PREFIX: &str = "lb.";

/// Frontends in one label.
const FRONTENDS_MAX: usize = 64;
const DAY_SECONDS: u32 = 24 * 3600;

/// The labels of one container, sorted out.
#[derive(Debug, Default)]
pub struct LbLabels<'a> {
    /// Key and value by container port, `None` for all, and name.
    labels: BTreeMap<(Option<u16>, &'static str), (&'a str, &'a str)>,
    /// Keys by container port that are not known, and were probably to ask for a probe.
    misspelt_probes: BTreeMap<Option<u16>, &'a str>,
}

/// One wanted frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrontendLabel {
    /// The label.
    pub key: String,
    /// Port on which the container listens.
    pub container_port: u16,
    /// Where clients connect.
    pub frontend: FrontendAddress,
}

/// Whether a key asks for a frontend.
pub fn asks_for_frontend(key: &str) -> bool {
    key.strip_prefix(PREFIX).is_some_and(|rest| {
        let (port, name) = rest.split_once('.').unwrap_or(("", rest));
        name == "frontend" && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl<'a> LbLabels<'a> {
    /// Sorts the labels out. At most `errors_max` keys that are not known are told; how many more
    /// there are is counted.
    pub fn read(
        labels: impl Iterator<Item = (&'a String, &'a String)>,
        errors_max: usize,
    ) -> (Self, Vec<LabelError>, usize) {
        let mut read = Self::default();
        let mut errors = Vec::new();
        let mut left_out = 0;
        for (key, value) in labels.filter(|(key, _)| key.starts_with(PREFIX)) {
            match parse_key(key) {
                Ok(place) => {
                    read.labels.insert(place, (key, value.trim()));
                }
                Err(_) if errors.len() == errors_max => left_out += 1,
                Err(wrong) => {
                    if wrong.is_of_probe(key) {
                        let port = split_port(key).0.and_then(|port| grammar::port(port).ok());
                        read.misspelt_probes.entry(port).or_insert(key);
                    }
                    errors.push(LabelError { key: shown(key), message: wrong.describe(key) });
                }
            }
        }
        (read, errors, left_out)
    }

    /// Where the container wants to be reached. `is_allowed` says which addresses labels may name.
    pub fn frontends(
        &self,
        balancers: &BalancerIndex,
        is_allowed: impl Fn(IpAddr) -> bool,
    ) -> impl Iterator<Item = Result<FrontendLabel, LabelError>> {
        let labels = self.labels.iter().filter(|((_, name), _)| *name == "frontend");
        let urls = labels.flat_map(|((port, _), (key, value))| {
            let urls = value.split(',').map(str::trim);
            urls.take(FRONTENDS_MAX + 1).enumerate().map(move |url| (*port, *key, url))
        });
        urls.map(move |(port, key, (index, url))| {
            let frontend = if index < FRONTENDS_MAX {
                self.frontend(port, url, balancers, &is_allowed)
            } else {
                Err(format!("has more than {FRONTENDS_MAX} frontends; the rest is left out"))
            };
            match frontend {
                Ok((container_port, frontend)) => {
                    Ok(FrontendLabel { key: key.to_owned(), container_port, frontend })
                }
                Err(message) => Err(LabelError { key: shown(key), message }),
            }
        })
    }

    fn frontend(
        &self,
        port: Option<u16>,
        url: &str,
        balancers: &BalancerIndex,
        is_allowed: &impl Fn(IpAddr) -> bool,
    ) -> Result<(u16, FrontendAddress), String> {
        let (scheme, host, rest) = split_url(url)?;
        let named = balancers.vip(host);
        let address = match named {
            Some(vip) if vip.is_ipv6() => format!("{scheme}://[{vip}]{rest}"),
            Some(vip) => format!("{scheme}://{vip}{rest}"),
            None => url.to_owned(),
        };
        if named.is_none() && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
            return Err(balancers.unknown(host));
        }
        let frontend = parse_frontend(&address).map_err(|message| shown_message(&message))?;
        if named.is_none() && !is_allowed(frontend.vip) {
            return Err(format!(
                "the address {} is none that labels may name; name a [[balancer]] of the config, or \
                 add the address to `label_vips` there",
                frontend.vip
            ));
        }
        let container_port = match (port, self.labels.get(&(None, "port"))) {
            (Some(port), _) => port,
            (None, Some((key, value))) => grammar::port(value)
                .map_err(|what| format!("the value `{}` of `{key}` {what}", shown(value)))?,
            (None, None) if frontend.ports.is_wide() => {
                let ports = frontend.ports;
                return Err(format!(
                    "the ports {ports} lead to one port of the container: say which by the label `lb.port`"
                ));
            }
            (None, None) => frontend.ports.first(),
        };
        Ok((container_port, frontend))
    }

    /// What is wished for the service at a container port. `object` names the container.
    pub fn wishes(&self, port: u16, object: &str) -> (Wishes, Vec<LabelError>) {
        let mut reader = Reader { labels: self, port, object, errors: Vec::new() };
        let seconds = |text: &str| in_range(grammar::duration_seconds(text)?, DAY_SECONDS);
        let count = |text: &str| grammar::number(text, 1..=1000);
        let wishes = Wishes {
            affinity: reader.value("affinity", grammar::affinity),
            unreachable: reader.value("unreachable", grammar::unreachable),
            drain_seconds: reader.value("drain", seconds),
            unhealthy_grace_seconds: reader.value("unhealthy_grace", seconds),
            panic_percent: reader.value("panic", grammar::percent),
            passive: reader.value("passive", grammar::flag),
            slow_start_seconds: reader.value("slow_start", seconds),
            datagrams: reader.value("datagrams", grammar::datagrams),
            visible: reader.value("visible", grammar::visibility),
            prefer: reader.value("prefer", grammar::preference),
            ring_size: reader.value("ring_size", |text| grammar::ring_size(text).map(Some)),
            share: reader.value("share", |text| grammar::share(text).map(Some)),
            exclusive: reader.value("exclusive", grammar::flag),
            weight: reader.value("weight", grammar::weight),
            probe: reader.probe(),
            probe_interval_ms: reader.value("probe.interval", grammar::probe_interval_ms),
            probe_timeout_ms: reader.value("probe.timeout", grammar::probe_timeout_ms),
            probe_initial_delay_ms: reader.value("probe.delay", grammar::probe_delay_ms),
            probe_rise: reader.value("probe.rise", count),
            probe_fall: reader.value("probe.fall", count),
            probe_place: reader.value("probe.place", grammar::place),
            probe_initial: reader.value("probe.initial", grammar::initial_state),
            scale: reader.value("scale", |text| grammar::number(text, grammar::SCALE).map(Some)),
            rolling_updates: reader.value("rolling_updates", |text| {
                grammar::number(text, grammar::ROLLING_UPDATES).map(Some)
            }),
            depends: None,
        };
        (wishes, reader.errors)
    }
}

/// Reads the labels for one port.
struct Reader<'a> {
    labels: &'a LbLabels<'a>,
    port: u16,
    object: &'a str,
    errors: Vec<LabelError>,
}

impl<'a> Reader<'a> {
    fn find(&self, name: &'static str) -> Option<(&'a str, &'a str)> {
        let labels = &self.labels.labels;
        labels.get(&(Some(self.port), name)).or_else(|| labels.get(&(None, name))).copied()
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        let (key, value) = self.find(name)?;
        match parse(value) {
            Ok(value) => Some(Setting::new(value, Origin::label(self.object, key))),
            Err(what) => {
                let message = format!("the value `{}` {what}", shown(value));
                self.errors.push(LabelError { key: shown(key), message });
                None
            }
        }
    }

    fn part<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        Some(self.value(name, parse)?.value)
    }

    /// What stands in for a probe whose key is not known.
    fn misspelt_probe(&self) -> Option<Setting<Option<ProbeKind>>> {
        let keys = &self.labels.misspelt_probes;
        let key = keys.get(&Some(self.port)).or_else(|| keys.get(&None))?;
        Some(Wishes::stand_in(self.object, &shown(key)))
    }

    fn probe(&mut self) -> Option<Setting<Option<ProbeKind>>> {
        let known_errors = self.errors.len();
        let parts = ProbeParts {
            port: self.part("probe.port", grammar::port),
            path: self.part("probe.path", grammar::path),
            method: self.part("probe.method", grammar::token),
            host: self.part("probe.host", grammar::token),
            status: self.part("probe.status", grammar::statuses),
            body: self.part("probe.body", grammar::body),
            server_name: self.part("probe.server_name", grammar::token),
            verify: self.part("probe.verify", grammar::flag),
            command: self.part("probe.command", grammar::command),
        };
        let Some((key, _)) = self.find("probe") else {
            if parts == ProbeParts::default() && self.errors.len() == known_errors {
                return self.misspelt_probe();
            }
            let key = format!("{PREFIX}probe");
            self.errors.push(LabelError {
                key: key.clone(),
                message: "is missing, and other labels say how to probe; add it with one of tcp, \
                          http, https, command, docker"
                    .to_owned(),
            });
            return Some(Wishes::stand_in(self.object, &key));
        };
        let instead = Wishes::stand_in(self.object, key);
        let Some(word) = self.value("probe", ProbeWord::parse) else { return Some(instead) };
        if word.value == ProbeWord::None {
            // Whatever the others say: nobody is to look.
            if let Err((part, message)) = parts.assemble(word.value) {
                let message = format!("`{PREFIX}probe.{part}` {message}");
                self.errors.push(LabelError { key: shown(key), message });
            }
            return Some(Setting::new(None, word.origin));
        }
        if self.errors.len() > known_errors {
            // A probe other than the one that was meant may find sick what is well.
            return Some(instead);
        }
        match parts.assemble(word.value) {
            Ok(kind) => Some(Setting::new(kind, word.origin)),
            Err((part, message)) => {
                let message = format!("`{PREFIX}probe.{part}` {message}");
                self.errors.push(LabelError { key: shown(key), message });
                Some(instead)
            }
        }
    }
}

/// What is wrong with a key. Saying so costs more than finding it out.
enum WrongKey {
    /// Its port is none.
    Port,
    /// It says twice which port is meant.
    PortTwice,
    /// Nothing has this name.
    Name,
}

/// What beside `probe` itself says that there is to be one: the others are about any probe.
fn asks_for_probe(name: &str) -> bool {
    const ABOUT_ANY: [&str; 7] =
        ["interval", "timeout", "delay", "rise", "fall", "place", "initial"];
    match name.split_once('.') {
        Some(("probe", part)) => !ABOUT_ANY.contains(&part),
        _ => name == "probe",
    }
}

impl WrongKey {
    /// Whether the key was probably to ask for a probe.
    fn is_of_probe(&self, key: &str) -> bool {
        let (_, name) = split_port(key);
        let meant = || known::nearest(name, known::LB.into_iter()).unwrap_or(name);
        matches!(self, Self::Name) && asks_for_probe(meant())
    }

    fn describe(self, key: &str) -> String {
        let (port, name) = split_port(key);
        match self {
            Self::Port => {
                let port = port.unwrap_or_default();
                let what = grammar::port(port).err().unwrap_or_default();
                format!("the key has the container port `{}`, which {what}", shown(port))
            }
            Self::PortTwice => {
                "the key names the container port already; remove the label".to_owned()
            }
            Self::Name => {
                let prefix = &key[..key.len() - name.len()];
                match known::nearest(name, known::LB.into_iter()) {
                    Some(nearest) => format!(
                        "there is no such label; did you mean `{}{nearest}`?",
                        shown(prefix)
                    ),
                    None => "there is no such label; docs/labels.md has all".to_owned(),
                }
            }
        }
    }
}

/// What stands in a key for a port, and the name.
fn split_port(key: &str) -> (Option<&str>, &str) {
    let rest = key.strip_prefix(PREFIX).unwrap_or(key);
    match rest.split_once('.') {
        Some((port, name)) if port.starts_with(|char: char| char.is_ascii_digit()) => {
            (Some(port), name)
        }
        _ => (None, rest),
    }
}

/// Port and name of a key.
fn parse_key(key: &str) -> Result<(Option<u16>, &'static str), WrongKey> {
    let (port, name) = split_port(key);
    let port = port.map(|port| grammar::port(port).map_err(|_| WrongKey::Port)).transpose()?;
    if let Some(known) = known::LB.iter().find(|known| **known == name) {
        if port.is_some() && *known == "port" {
            return Err(WrongKey::PortTwice);
        }
        return Ok((port, known));
    }
    Err(WrongKey::Name)
}

/// Scheme, host and the rest from the colon on.
fn split_url(url: &str) -> Result<(&str, &str, &str), String> {
    let wrong =
        || format!("the value `{}` is no frontend; write it like tcp://192.0.2.10:80", shown(url));
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let colon = rest.rfind(':').ok_or_else(wrong)?;
    let (host, rest) = rest.split_at(colon);
    if host.is_empty() { Err(wrong()) } else { Ok((scheme, host, rest)) }
}

/// Messages of the file's grammar repeat values in full.
fn shown_message(message: &str) -> String {
    message.chars().take(300).collect()
}

fn in_range(seconds: u32, max: u32) -> Result<u32, String> {
    if seconds <= max { Ok(seconds) } else { Err(format!("is more than {max} s")) }
}

#[cfg(test)]
mod tests;
