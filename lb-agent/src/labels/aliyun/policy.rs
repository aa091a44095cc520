//! The labels beside `aliyun.lb` and `aliyun.routing`: probes, and what the user expects of replicas.

use std::collections::BTreeMap;

use super::LabelError;
use crate::{
    grammar,
    labels::{known, shown},
    model::{Affinity, HttpProbe, Origin, ProbeKind, Setting, Wishes},
};

const PROBE: &str = "aliyun.probe.";
/// Unknown labels that are compared with those that ask for a probe.
const COMPARED_MAX: usize = 100;
/// Port of a probe whose URL has none.
const HTTP_PORT: u16 = 80;

/// What these labels wish, and which of them are refused. `object` names the container.
pub fn wishes(labels: &BTreeMap<String, String>, object: &str) -> (Wishes, Vec<LabelError>) {
    let mut reader = Reader { labels, object, errors: Vec::new() };
    let mut wishes = Wishes { probe: reader.probe(), ..Wishes::default() };
    // Without a probe the others are ignored, as in the original.
    if wishes.probe.is_some() {
        let seconds = |text: &str, least, most_ms: u32| {
            grammar::number(text, least..=most_ms / 1000).map(|seconds| seconds * 1000)
        };
        wishes.probe_timeout_ms = reader.value("aliyun.probe.timeout_seconds", |text| {
            seconds(text, 1, *grammar::PROBE_TIMEOUT_MS.end())
        });
        wishes.probe_initial_delay_ms = reader
            .value("aliyun.probe.initial_delay_seconds", |text| {
                seconds(text, 0, *grammar::PROBE_DELAY_MS.end())
            });
    }
    wishes.scale =
        reader.value("aliyun.scale", |text| grammar::number(text, grammar::SCALE).map(Some));
    wishes.depends = reader.value("aliyun.depends", grammar::depends);
    wishes.rolling_updates = reader.rolling_updates();
    let sticky = reader.value("aliyun.routing.session_sticky", grammar::flag);
    wishes.affinity = sticky.map(|sticky| {
        let by_client = Affinity::Client { prefix_v4: 32, prefix_v6: 64 };
        let affinity = if sticky.value { by_client } else { Affinity::None };
        Setting::new(affinity, sticky.origin)
    });
    (wishes, reader.errors)
}

/// Keys that are none of theirs.
pub fn unknown<'a>(keys: impl Iterator<Item = &'a String>) -> impl Iterator<Item = &'a String> {
    keys.filter(|key| key.starts_with("aliyun.") && !known::is_aliyun(key))
}

/// Those of them that look like one of theirs, or are among those that we read. Others may come from a
/// version that we do not know.
pub fn misspelt<'a>(unknown: impl Iterator<Item = &'a String>) -> impl Iterator<Item = LabelError> {
    unknown.filter_map(|key| {
        let message = match known::nearest_aliyun(key) {
            Some(nearest) => {
                format!("there is no such label; did you mean `{}`?", shown(&nearest))
            }
            None if known::is_read(key) => {
                "there is no such label; docs/labels.md has all that are read".to_owned()
            }
            None => return None,
        };
        Some(LabelError { key: shown(key), message })
    })
}

struct Reader<'a> {
    labels: &'a BTreeMap<String, String>,
    object: &'a str,
    errors: Vec<LabelError>,
}

impl Reader<'_> {
    fn value<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        let value = self.labels.get(key)?.trim();
        match parse(value) {
            Ok(value) => Some(Setting::new(value, Origin::label(self.object, key))),
            Err(what) => {
                self.refuse(key, format!("the value `{}` {what}", shown(value)));
                None
            }
        }
    }

    fn refuse(&mut self, key: &str, message: String) {
        self.errors.push(LabelError { key: key.to_owned(), message });
    }

    fn probe(&mut self) -> Option<Setting<Option<ProbeKind>>> {
        let (url, cmd) = (format!("{PROBE}url"), format!("{PROBE}cmd"));
        if self.labels.contains_key(&url) {
            if self.labels.contains_key(&cmd) {
                let message = format!(
                    "`{url}` stands beside it, and only one of the two can be; \
                                       `{url}` counts, so remove one"
                );
                self.refuse(&cmd, message);
            }
            let probe = self.value(&url, |text| probe_url(text).map(Some));
            return Some(probe.unwrap_or_else(|| Wishes::stand_in(self.object, &url)));
        }
        if !self.labels.contains_key(&cmd) {
            return self.misspelt_probe(&url, &cmd);
        }
        let probe =
            self.value(&cmd, |text| Ok(Some(ProbeKind::Command { argv: grammar::command(text)? })));
        Some(probe.unwrap_or_else(|| Wishes::stand_in(self.object, &cmd)))
    }

    /// What stands in for a probe whose key is not known.
    fn misspelt_probe(&self, url: &str, cmd: &str) -> Option<Setting<Option<ProbeKind>>> {
        let mut compared = unknown(self.labels.keys()).take(COMPARED_MAX);
        let key = compared.find(|key| {
            known::nearest_aliyun(key).is_some_and(|nearest| nearest == url || nearest == cmd)
        })?;
        Some(Wishes::stand_in(self.object, &shown(key)))
    }

    /// Parallelism that is no number is 1, as in the original, and told all the same.
    fn rolling_updates(&mut self) -> Option<Setting<Option<u32>>> {
        let is_rolling = self.value("aliyun.rolling_updates", grammar::flag)?;
        if !is_rolling.value {
            return None;
        }
        let parallelism = self.value("aliyun.rolling_updates.parallelism", |text| {
            grammar::number(text, grammar::ROLLING_UPDATES)
                .map(Some)
                .map_err(|what| format!("{what}; 1 counts"))
        });
        Some(parallelism.unwrap_or_else(|| Setting::new(Some(1), is_rolling.origin)))
    }
}

/// `http://container[:port]/path`, `tcp://container:port`.
fn probe_url(text: &str) -> Result<ProbeKind, String> {
    const EXAMPLES: &str = "write it like http://container:8080/health or tcp://container:6379";
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| format!("has no scheme; {EXAMPLES}"))?;
    let (authority, path) = match rest.find(['/', '?']) {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => {
            let port = grammar::port(port)
                .map_err(|what| format!("has the port `{}`, which {what}", shown(port)))?;
            (host, Some(port))
        }
        None => (authority, None),
    };
    if host != "container" {
        return Err(format!(
            "would probe `{}`; the only host that can be probed is `container`, the container \
             itself; {EXAMPLES}",
            shown(host)
        ));
    }
    match (scheme, port) {
        ("http", port) => {
            let path = match path {
                "" => "/".to_owned(),
                query if query.starts_with('?') => format!("/{query}"),
                path => path.to_owned(),
            };
            let path = grammar::path(&path)
                .map_err(|what| format!("has the path `{}`, which {what}", shown(&path)))?;
            let port = Some(port.unwrap_or(HTTP_PORT));
            Ok(ProbeKind::Http(HttpProbe { port, path, ..HttpProbe::default() }))
        }
        ("tcp", Some(port)) if matches!(path, "" | "/") => Ok(ProbeKind::Tcp { port: Some(port) }),
        ("tcp", Some(_)) => Err(format!("has a path, which TCP has not; {EXAMPLES}")),
        ("tcp", None) => Err(format!("has no port; {EXAMPLES}")),
        _ => Err(format!(
            "has the scheme `{}`, which is neither http nor tcp; {EXAMPLES}",
            shown(scheme)
        )),
    }
}
