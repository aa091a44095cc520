//! What the file says of everything but services, key by key, so that a change of it can be told.
//!
//! A value is as it is written, but for spaces and comments; what it means is none of this module's
//! business. Services are left out: what becomes of them is told by itself.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write as _,
};

use toml::de::{DeTable, DeValue};

/// The key of services.
const SERVICES: &str = "service";

/// Settings by key, as in `docker.resync_seconds`, with what is written of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Written(BTreeMap<String, String>);

/// A setting that is written in another way than before; `None`: not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenChange<'a> {
    /// Its key.
    pub key: &'a str,
    /// What was written.
    pub from: Option<&'a str>,
    /// What is written now.
    pub to: Option<&'a str>,
}

impl Written {
    /// Of a file, whatever it says.
    pub(super) fn of(file: &DeTable<'_>) -> Self {
        let mut written = Self::default();
        for (key, value) in file {
            if key.get_ref() != SERVICES {
                written.add(key.get_ref(), value.get_ref());
            }
        }
        written
    }

    /// What a newer file changes, by key.
    #[must_use]
    pub fn changes<'a>(&'a self, newer: &'a Self) -> Vec<WrittenChange<'a>> {
        let added = newer.0.keys().filter(|key| !self.0.contains_key(*key));
        let mut changes: Vec<_> = self
            .0
            .keys()
            .chain(added)
            .map(|key| {
                let [from, to] = [self, newer].map(|one| one.0.get(key).map(String::as_str));
                WrittenChange { key, from, to }
            })
            .filter(|change| change.from != change.to)
            .collect();
        changes.sort_by_key(|change| change.key);
        changes
    }

    fn add(&mut self, key: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => {
                for (inner, value) in table {
                    self.add(&format!("{key}.{}", inner.get_ref()), value.get_ref());
                }
            }
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for item in items {
                    let name = item.get_ref().get("name").and_then(|name| name.get_ref().as_str());
                    self.add_one(&format!("{key}.{}", name.unwrap_or("?")), item.get_ref());
                }
            }
            value => self.add_one(key, value),
        }
    }

    /// Several may have one name.
    fn add_one(&mut self, key: &str, value: &DeValue<'_>) {
        let mut text = String::new();
        show(value, &mut text);
        match self.0.entry(key.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(text);
            }
            Entry::Occupied(mut entry) => entry.get_mut().extend([", ", &text]),
        }
    }
}

/// As one would write it in one line. Writing to a string cannot fail.
fn show(value: &DeValue<'_>, text: &mut String) {
    match value {
        DeValue::String(string) => write!(text, "{string:?}").unwrap_or_default(),
        DeValue::Integer(number) => write!(text, "{number}").unwrap_or_default(),
        DeValue::Float(number) => write!(text, "{number}").unwrap_or_default(),
        DeValue::Boolean(is_true) => write!(text, "{is_true}").unwrap_or_default(),
        DeValue::Datetime(time) => write!(text, "{time}").unwrap_or_default(),
        DeValue::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                show(item.get_ref(), text);
            }
            text.push(']');
        }
        DeValue::Table(table) => {
            text.push_str("{ ");
            for (index, (key, value)) in table.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                write!(text, "{} = ", key.get_ref()).unwrap_or_default();
                show(value.get_ref(), text);
            }
            text.push_str(" }");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    /// What is told of two files, in one line: `key: from -> to`.
    #[track_caller]
    fn check(name: &str, old: &str, new: &str, expected: &[&str]) {
        let [old, new] = [old, new].map(|text| {
            let config = Config::parse(text, "lb.toml");
            config.unwrap_or_else(|error| panic!("{name}: {error}")).written
        });
        let lines = |changes: Vec<super::WrittenChange<'_>>, turned: bool| -> Vec<String> {
            let line = |super::WrittenChange { key, from, to }: super::WrittenChange<'_>| {
                let [from, to] = if turned { [to, from] } else { [from, to] };
                format!("{key}: {} -> {}", from.unwrap_or("-"), to.unwrap_or("-"))
            };
            changes.into_iter().map(line).collect()
        };
        assert_eq!(lines(old.changes(&new), false), expected, "{name}");
        assert_eq!(lines(new.changes(&old), true), expected, "{name}, the other way");
    }

    #[test]
    fn values_of_all_kinds_are_compared_by_key() {
        let times = |seconds| format!("[times]\nhold_seconds = {seconds}");
        check("a number", &times(60), &times(30), &["times.hold_seconds: 60 -> 30"]);
        check("a new key", "", &times(30), &["times.hold_seconds: - -> 30"]);
        check("a word", "", "[xdp]\nmode = 'off'", &[r#"xdp.mode: - -> "off""#]);
        check("yes or no", "", "[cgroup]\nenabled = false", &["cgroup.enabled: - -> false"]);
        let front = |names| format!("front = [{names}]");
        check(
            "a list",
            &front("'eth0'"),
            &front("'eth0', 'eth1'"),
            &[r#"front: ["eth0"] -> ["eth0", "eth1"]"#],
        );
        check(
            "several, in the order of their keys",
            "pin_path = '/sys/fs/bpf/a'\n[defaults]\ndrain_seconds = 5",
            "[defaults]\ndrain_seconds = 6\n[defaults.probe]\nkind = 'tcp'\nrise = 3",
            &[
                "defaults.drain_seconds: 5 -> 6",
                r#"defaults.probe.kind: - -> "tcp""#,
                "defaults.probe.rise: - -> 3",
                r#"pin_path: "/sys/fs/bpf/a" -> -"#,
            ],
        );
    }

    #[test]
    fn what_has_a_name_is_compared_by_it() {
        let balancer =
            |name: &str, vip: &str| format!("[[balancer]]\nname = '{name}'\nvip = '{vip}'\n");
        let [one, two] = [balancer("a", "192.0.2.10"), balancer("b", "192.0.2.11")];
        let moved = balancer("a", "192.0.2.12");
        check(
            "another address, and one that is new",
            &one,
            &format!("{two}{moved}"),
            &[
                r#"balancer.a: { name = "a", vip = "192.0.2.10" } -> { name = "a", vip = "192.0.2.12" }"#,
                r#"balancer.b: - -> { name = "b", vip = "192.0.2.11" }"#,
            ],
        );
        check("in another order", &format!("{one}{two}"), &format!("{two}{one}"), &[]);
    }

    #[test]
    fn how_it_is_written_does_not_matter_and_services_tell_by_themselves() {
        check("nothing", "", "", &[]);
        check("a comment", "# a", "", &[]);
        check(
            "in another form",
            "front = [\n  'eth0', # the first\n]\n[docker]\nenabled = true",
            "docker = { enabled = true }\nfront = [\"eth0\"]",
            &[],
        );
        let service = "[[service]]\nname = 'web'\nfrontends = ['tcp://192.0.2.10:80']";
        check("a service", "", service, &[]);
    }
}
